"""A `PyDataset` whose batches are edited."""

from typing import Any

import keras

from kedit._edit import Edit, EditSequence
from kedit.errors import OperandError


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
        return self.edit(self.dataset[number])

    def on_epoch_begin(self) -> None:
        """Tell the other dataset that an epoch begins."""
        self.dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Tell the other dataset that an epoch is over."""
        self.dataset.on_epoch_end()
