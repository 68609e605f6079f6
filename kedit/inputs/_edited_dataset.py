"""A `PyDataset` whose batches are edited."""

from functools import partial
from typing import Any

import keras
import numpy as np

from kedit import _run
from kedit._edit import Edit, EditSequence
from kedit._language.batch import edit_batch
from kedit._language.constants import is_tensor
from kedit._show.code import created
from kedit.errors import CoordinateError, OperandError
from kedit.inputs._checks import check_edit
from kedit.inputs._random_edit import RandomEdit


class EditedDataset(keras.utils.PyDataset):
    """Edits the batches of another `keras.utils.PyDataset`.

    Edits run in NumPy, on copies. The data of the wrapped dataset is left unchanged, and
    worker processes never call the backend, which may hang there.

    Args:
        dataset: The `keras.utils.PyDataset` to take batches from; its `workers`,
            `use_multiprocessing` and `max_queue_size` are kept.
        edit: `kedit.Edit` or `kedit.EditSequence` that counts axes inside one sample,
            like `sample[2]`, or leaves axis 0 alone, like `at[..., 2]`. In
            `(x, y, sample_weight)` it edits `x`, unless `edit.on(...)` chooses another
            part. A `RandomEdit` in `sample[...]` draws again for each row of each
            batch in each epoch.

    Raises:
        kedit.errors.CoordinateError: If the edit names rows of the batch.
        kedit.errors.OperandError: If `edit` is not an edit, or needs the backend in a
            worker: it holds a tensor, it holds a function while
            `use_multiprocessing` is true, or the wrapped dataset returns tensors.

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

    def __init__(self, dataset: Any, edit: Edit | EditSequence | RandomEdit) -> None:
        if not isinstance(dataset, keras.utils.PyDataset):
            raise OperandError(
                "An EditedDataset should be given a `keras.utils.PyDataset`. Received: "
                f"{dataset!r} of type {type(dataset).__name__}. Edit an array by calling the edit "
                "on it: `edit(x)`."
            )
        is_random = isinstance(edit, RandomEdit)
        plain: Any = edit.edit if isinstance(edit, RandomEdit) else edit
        check_edit("A dataset", plain)
        for part in plain.edits:
            if is_random and part.selection.coordinates == "at":
                raise CoordinateError(
                    "A random edit of batches should be counted inside one sample. Received: "
                    f"`{part!r}`. Write `sample[...]` for `at[...]`."
                )
            functions = callable(part.operand) or callable(part.selection.condition)
            if functions and dataset.use_multiprocessing:
                raise OperandError(
                    "A dataset with process workers should be given edits without functions, "
                    "which may call the backend and hang in a forked process. Received: "
                    f"`{part!r}`. Write an expression, as `set(X * 2.0)`, or take threads: "
                    "`use_multiprocessing=False`."
                )
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )
        self.dataset = dataset
        self.edit: Any = edit
        self._epoch = 0

    def __repr__(self) -> str:
        return created(self)

    @property
    def num_batches(self) -> int | None:
        """Number of batches in the wrapped dataset."""
        batches: int | None = self.dataset.num_batches
        return batches

    def __getitem__(self, number: int) -> Any:
        batch = self.dataset[number]
        if isinstance(self.edit, RandomEdit):
            plain = self.edit.edit
            return edit_batch(partial(self._draw, number), batch, plain.path, plain.part)
        for edit in self.edit.edits:
            batch = edit_batch(partial(_edit_array, edit), batch, edit.path, edit.part)
        return batch

    def _draw(self, number: int, x: Any) -> Any:
        """Draw for each row of a batch, with an index made of the batch and row numbers."""
        x = _array(x)
        index = [number * 2**32 + row for row in range(len(x))]
        return self.edit.draw(x.shape, index, self._epoch)(x)

    def on_epoch_begin(self) -> None:
        """Tell the wrapped dataset that an epoch begins."""
        self.dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Tell the wrapped dataset that an epoch has ended."""
        self._epoch += 1  # when an epoch begins, workers are already forked
        self.dataset.on_epoch_end()


def _edit_array(edit: Edit, x: Any) -> Any:
    return _run.apply_to_rows(edit, _array(x))


def _array(x: Any) -> Any:
    """Return data as an array that NumPy can edit without the backend."""
    if is_tensor(x):
        raise OperandError(
            "A dataset should give NumPy arrays, which can be edited in any worker. Received: "
            f"a {type(x).__name__}. Convert it in the dataset: `keras.ops.convert_to_numpy(x)`."
        )
    return np.asarray(x)
