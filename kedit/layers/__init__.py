"""Edits of activations: layers for a model."""

from kedit.layers._conditional_modifier import ConditionalModifier
from kedit.layers._editing import Editing

__all__ = ["ConditionalModifier", "Editing"]
