"""Layers that edit activations."""

from kedit.layers._conditional_modifier import ConditionalModifier
from kedit.layers._editing import Editing
from kedit.layers._index_guide import IndexGuide

__all__ = ["ConditionalModifier", "Editing", "IndexGuide"]
