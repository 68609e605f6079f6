"""Edit data before it reaches a model.

An edit is applied by calling it on an array or a batch: `edit(x)`,
`edit.on("name")(batch)` or `edit((x, y, sample_weight))`. So you can pass it to the
`map` of `tf.data`, Grain and Hugging Face datasets, or use it as a PyTorch transform.
This package covers the cases where calling an edit is not enough.
"""

from kedit.inputs._edited_dataset import EditedDataset
from kedit.inputs._input_editing import InputEditing
from kedit.inputs._random_edit import RandomEdit

__all__ = ["EditedDataset", "InputEditing", "RandomEdit"]
