"""Edits of data on its way to a model.

An edit is applied by calling it on an array, or on a batch: `edit(x)`,
`edit.on("name")(batch)`, `edit((x, y, sample_weight))`. So it is what the `map` of
`tf.data`, of Grain and of Hugging Face's datasets takes, and a transform of
PyTorch's. Here is what carries edits where calling is not enough.
"""

from kedit.inputs._edited_dataset import EditedDataset
from kedit.inputs._input_editing import InputEditing
from kedit.inputs._random_edit import RandomEdit

__all__ = ["EditedDataset", "InputEditing", "RandomEdit"]
