"""Predictions of a model for edited copies of its inputs, in batches of one size."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from kedit import _run
from kedit._at import Place
from kedit._edit import Edit
from kedit._language.batch import edit_batch, leaf_at
from kedit._language.expression import Expression
from kedit.errors import OperandError, ShapeError
from kedit.studies._batches import are_batches, as_array, batches_in, joined, predicted

_MOST_ROWS, _MOST_NUMBERS = 4096, 2**22


def check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise OperandError(
            f"A study should be given a `keras.Model`. Received: {model!r} of type "
            f"{type(model).__name__}."
        )


def edit_of(selection: Any, values: Any, path: str | None) -> Edit:
    """Return the edit that writes values at the selection given to a study."""
    edit = selection.set(values) if isinstance(selection, Place) else None
    if not isinstance(edit, Edit) or edit.placeholders():
        raise OperandError(
            "A study should be given what to edit, without an operation or data. Received: "
            f"{selection!r} of type {type(selection).__name__}. Write `sample[3]` or "
            "`sample[...].where(X > 0.0)`."
        )
    edit.check_rows()
    return edit.on(path)


def arrays(x: Any) -> Any:
    """Return the inputs of a model as NumPy arrays of one length, in lists and dicts.

    Those that come in batches are collected.
    """
    if are_batches(x):
        batches, _ = batches_in(x)
        parts = list(batches)
        _check_one_shape(parts)
        x = joined(parts) if parts else np.zeros((0,))
    x = keras.tree.map_structure(as_array, list(x) if isinstance(x, tuple) else x)
    lengths = {len(leaf) if leaf.ndim else None for leaf in keras.tree.flatten(x)}
    if len(lengths) != 1 or not lengths.pop():
        raise OperandError(
            "A study should be given inputs with a batch axis of one length, not empty: arrays, "
            "a dataset, or an iterator over batches that is not used up. Received: "
            f"arrays of shapes {[leaf.shape for leaf in keras.tree.flatten(x)]}."
        )
    return x


def _check_one_shape(batches: list[Any]) -> None:
    """Raise if batches have samples of different shapes, which cannot be collected."""
    shapes = [[leaf.shape[1:] for leaf in keras.tree.flatten(batch)] for batch in batches]
    other = [shape for shape in shapes if shape != shapes[0]]
    if other:
        raise ShapeError(
            "Batches should have samples of one shape to be studied together. Received: samples of "
            f"shapes {shapes[0]} and {other[0]}. Pad the inputs to one length."
        )


def length(x: Any) -> int:
    return len(keras.tree.flatten(x)[0])


def change_leaf(change: Callable[[Any], Any], x: Any, path: str | None) -> Any:
    """Return the inputs with `change` applied to the one at `path`."""
    # In a tuple, so that a list of inputs is not mistaken for anything else.
    (changed,) = edit_batch(change, (x,), path, "x")
    return changed


def leaf_of(x: Any, path: str | None) -> Any:
    """Return the input at `path`."""
    return leaf_at((x,), path, "x")


def selected(selection: Any, x: Any) -> Any:
    """Return which elements of a batch are selected, as booleans that broadcast to it."""
    condition = selection.selection.condition
    depends = isinstance(condition, Expression) or callable(condition)
    x = x if depends else x[:1]
    zero, one = [_run.apply_to_rows(edit_of(selection, n, None), x) for n in (0, 1)]
    return zero != one


def predict_edited(
    model: Any, x: Any, edits: Sequence[Edit | None], batch_size: int | None, verbose: int
) -> Any:
    """Return predictions for the inputs after each edit, or none, `(len(edits), len(x), ...)`.

    Every batch has the same number of rows, so that a model is compiled once. The last
    batch is padded, and the padding is left out of the result.
    """
    rows = len(edits) * length(x)
    if batch_size is None:
        numbers = sum([leaf[0].size for leaf in keras.tree.flatten(x)])
        batch_size = min(_MOST_ROWS, max(1, _MOST_NUMBERS // max(1, numbers)))
    size = min(batch_size, rows)
    bar = keras.utils.Progbar(-(-rows // size), verbose=verbose, unit_name="batch")
    outputs = []
    for batch in _batches(x, edits, size):
        outputs.append(predicted(model, batch))
        bar.add(1)

    def join(*parts: Any) -> Any:
        all_rows = np.concatenate(parts)[:rows]
        return all_rows.reshape(len(edits), length(x), *all_rows.shape[1:])

    return keras.tree.map_structure(join, *outputs)


def _batches(x: Any, edits: Sequence[Edit | None], size: int) -> Iterator[Any]:
    """Yield the rows of all edited copies in order, in batches of `size` rows."""
    pieces, missing, count = [], size, length(x)
    for edit in edits:
        start = 0
        while start < count:
            stop = min(count, start + missing)
            piece = keras.tree.map_structure(lambda leaf, at=slice(start, stop): leaf[at], x)
            if edit is not None:
                piece = change_leaf(partial(_run.apply_to_rows, edit), piece, edit.path)
            pieces.append(piece)
            missing, start = missing - (stop - start), stop
            if not missing:
                yield joined(pieces)
                pieces, missing = [], size
    if pieces:
        last = keras.tree.map_structure(lambda leaf: leaf[-1:].repeat(missing, axis=0), pieces[-1])
        yield joined([*pieces, last])
