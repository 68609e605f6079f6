"""A `PyDataset` whose batches are edited."""

from functools import partial
from typing import Any

import keras
import numpy as np

from kedit import _lowering
from kedit._batch import edit_batch
from kedit._edit import Edit, EditSequence
from kedit.errors import OperandError


def _edit_rows_alike(edit: Edit, x: Any) -> Any:
    """Apply an edit to a batch, if it means the same for every row."""
    x = np.asarray(x)
    edit.selection.check_rows(x.ndim)
    _lowering.check(edit, (None, *x.shape[1:]), x.dtype.name)
    return _lowering.apply(edit, x)


class EditedDataset(keras.utils.PyDataset):
    """The batches of another `keras.utils.PyDataset`, edited.

    Edits run in NumPy, on copies, and so in process workers, too: what the
    other dataset holds is left unchanged.

    Args:
        dataset: The `keras.utils.PyDataset` to take batches from; its `workers`,
            `use_multiprocessing` and `max_queue_size` are kept.
        edit: `kedit.Edit` or `kedit.EditSequence`, counted inside one sample, as
            `sample[2]`, or leaving axis 0 alone, as `at[..., 2]`. In
            `(x, y, sample_weight)` it edits `x`, or what `edit.on(...)` says.

    Raises:
        kedit.errors.CoordinateError: If the edit names rows of the batch.
        kedit.errors.OperandError: If it is no edit, or holds a tensor, which
            cannot go into a worker.

    Gradient:
        None: the data are NumPy arrays.

    Example:
    >>> class Ones(keras.utils.PyDataset):
    ...     def __len__(self):
    ...         return 1
    ...
    ...     def __getitem__(self, number):
    ...         return np.ones((2, 3)), np.zeros(2)
    >>> x, y = kedit.inputs.EditedDataset(Ones(), kedit.sample[0].set(5.0))[0]
    >>> x.tolist()
    [[5.0, 1.0, 1.0], [5.0, 1.0, 1.0]]
    """

    def __init__(self, dataset: Any, edit: Edit | EditSequence) -> None:
        if not isinstance(dataset, keras.utils.PyDataset):
            raise OperandError(
                "An EditedDataset should be given a `keras.utils.PyDataset`. Received: "
                f"{dataset!r} of type {type(dataset).__name__}. Edit an array by calling the edit "
                "on it: `edit(x)`."
            )
        if not isinstance(edit, (Edit, EditSequence)):
            raise OperandError(
                "A dataset should be given an edit. Received: "
                f"{edit!r} of type {type(edit).__name__}. Write `sample[2].set(0.0)`."
            )
        for part in edit.edits:
            part.selection.check_rows()
            if part.op == "get" or part.tensors():
                raise OperandError(
                    "A dataset should be given edits of NumPy arrays by NumPy arrays. Received: "
                    f"`{part!r}`. Write values as `keras.ops.convert_to_numpy(values)`."
                )
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )
        self.dataset = dataset
        self.edit = edit

    @property
    def num_batches(self) -> int | None:
        """Number of batches of the other dataset."""
        batches: int | None = self.dataset.num_batches
        return batches

    def __getitem__(self, number: int) -> Any:
        batch = self.dataset[number]
        for edit in self.edit.edits:
            batch = edit_batch(partial(_edit_rows_alike, edit), batch, edit.path, edit.part)
        return batch

    def on_epoch_begin(self) -> None:
        """Tell the other dataset that an epoch begins."""
        self.dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Tell the other dataset that an epoch is over."""
        self.dataset.on_epoch_end()
