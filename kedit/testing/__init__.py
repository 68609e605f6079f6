"""Checks for layers of your own."""

from kedit.testing._layer import check_layer

__all__ = ["check_layer"]
