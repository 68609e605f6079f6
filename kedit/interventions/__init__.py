"""Edits inside a model that exists."""

from kedit.interventions._freezing import freeze_elements, prune
from kedit.interventions._weight_editing import WeightEditing

__all__ = ["WeightEditing", "freeze_elements", "prune"]
