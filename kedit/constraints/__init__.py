"""Edits of weights after every step of an optimizer: constraints for a layer."""

from kedit.constraints._edit_constraint import EditConstraint

__all__ = ["EditConstraint"]
