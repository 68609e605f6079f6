"""Checks for your own layers, losses, metrics and edit functions."""

from kedit.testing._cases import IndexCase, index_cases
from kedit.testing._edit_function import check_edit_function
from kedit.testing._layer import check_layer
from kedit.testing._loss import check_loss
from kedit.testing._metric import check_metric
from kedit.testing._report import Report

__all__ = [
    "check_edit_function",
    "check_layer",
    "check_loss",
    "check_metric",
    "index_cases",
    "IndexCase",
    "Report",
]
