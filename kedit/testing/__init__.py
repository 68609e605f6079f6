"""Checks for your own layers and edit functions."""

from kedit.testing._cases import IndexCase, index_cases
from kedit.testing._edit_function import check_edit_function
from kedit.testing._layer import check_layer
from kedit.testing._report import Report

__all__ = ["check_edit_function", "check_layer", "index_cases", "IndexCase", "Report"]
