"""Constraints that edit the weights of a layer after every step of the optimizer."""

from kedit.constraints._edit_constraint import EditConstraint

__all__ = ["EditConstraint"]
