"""Weights of models that exist: elements edited, frozen, pruned."""

from kedit.weights._freezing import freeze_elements, prune
from kedit.weights._weight_editing import WeightEditing

__all__ = ["WeightEditing", "freeze_elements", "prune"]
