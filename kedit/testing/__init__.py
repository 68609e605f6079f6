"""Checks for your own layers."""

from kedit.testing._layer import check_layer

__all__ = ["check_layer"]
