"""Layers that edit activations."""

from kedit.layers._conditional_modifier import ConditionalModifier
from kedit.layers._editing import Editing
from kedit.layers._index_guide import IndexGuide
from kedit.layers._random_editing import RandomEditing

__all__ = ["ConditionalModifier", "Editing", "IndexGuide", "RandomEditing"]
