"""Edit, freeze and prune the weights of existing models."""

from kedit.weights._assigning import edit_weights
from kedit.weights._freezing import freeze_elements
from kedit.weights._pruning import prune
from kedit.weights._removing import remove_channels
from kedit.weights._weight_editing import WeightEditing

__all__ = ["WeightEditing", "edit_weights", "freeze_elements", "prune", "remove_channels"]
