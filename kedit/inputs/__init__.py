"""Edits of data on its way to a model.

An edit is applied by calling it on an array, or on a batch: `edit(x)`,
`edit.on("name")(batch)`, `edit((x, y, sample_weight))`. Here is what carries
edits along with a source of data.
"""

from kedit.inputs._edited_dataset import EditedDataset

__all__ = ["EditedDataset"]
