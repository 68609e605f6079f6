"""Activations in a file, written batch by batch and read lazily.

The format is HDF5: Keras brings h5py, a file can grow and be read by rows, and many tools open it.
"""

from collections.abc import Callable, Iterator, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Self

import h5py
import keras

from kedit.errors import OperandError, ShapeError
from kedit.studies._batches import are_batches, as_array, batches_in, widened

_FORMAT, _ROWS = "kedit_activations", "rows"


class Activations(Mapping[str, Any]):
    """Activations that `Capture.to_disk` has written; their values stay in the file until read.

    A mapping from the addresses of sites to `h5py.Dataset`s, of which a slice is a NumPy
    array: `stored["dense"][:100]`. Use it in a `with` statement, or close it.

    Args:
        path: The file.

    Attributes:
        rows: Number of examples that were written.

    Raises:
        kedit.errors.OperandError: If the file was not written by `to_disk`.

    Example:
    >>> import os, tempfile
    >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(3.0, name="h")])
    >>> acts = kedit.interventions.capture(base, "h")
    >>> path = os.path.join(tempfile.mkdtemp(), "acts.h5")
    >>> acts.to_disk(path, np.ones((100, 2)), verbose=0).close()
    >>> with kedit.interventions.Activations(path) as stored:
    ...     stored["h"].shape, stored["h"][98:].tolist()
    ((100, 2), [[3.0, 3.0], [3.0, 3.0]])
    """

    rows: int

    def __init__(self, path: str | PathLike[str]) -> None:
        self._file = _opened(path)
        self.rows = int(self._file.attrs[_ROWS])
        self._found = _datasets(self._file)

    def __reduce__(self) -> Any:
        return (Activations, (str(Path(self._file.filename).absolute()),))

    def __getitem__(self, name: str) -> Any:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        if not self._file:
            return "Activations(<closed file>)"
        shapes = [f"{name!r}: <array of shape {data.shape}>" for name, data in self.items()]
        return f"Activations({{{', '.join(shapes)}}})"

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write(
    predict: Callable[[Any], dict[str, Any]],
    path: str | PathLike[str],
    x: Any,
    batch_size: int,
    verbose: int,
) -> None:
    """Write what `predict` returns for each batch that is not in the file yet."""
    if Path(path).exists():
        _opened(path).close()  # before anything is written to a file of another kind
    with h5py.File(fspath(path), "a") as file:
        done = int(file.attrs.get(_ROWS, 0))
        file.attrs[_FORMAT] = 1
        batches, seen, count = _batches(x, batch_size, done)
        bar = keras.utils.Progbar(count, verbose=verbose, unit_name="batch")
        for inputs in batches:
            rows = len(keras.tree.flatten(inputs)[0])
            skipped, seen = max(0, min(done - seen, rows)), seen + rows
            if skipped < rows:
                rest = keras.tree.map_structure(lambda leaf, n=skipped: leaf[n:], inputs)
                _append(file, predict(rest))
            bar.add(1)
        if not seen:
            raise OperandError(
                "Activations are written of one example at least. Received: no batch. An iterator "
                "that was used up has to be made again."
            )


def _batches(x: Any, batch_size: int, done: int) -> tuple[Iterator[Any], int, int | None]:
    """Return the batches, the row that they start at, and how many there are, if that is known.

    Those of arrays start at row `done`.
    """
    if are_batches(x):
        batches, count = batches_in(x)
        return batches, 0, count
    leaves = keras.tree.flatten(x)
    if not leaves or not all([hasattr(leaf, "shape") for leaf in leaves]):
        raise OperandError(
            "Inputs should be arrays, a dataset, or an iterator over batches. Received: "
            f"{x!r} of type {type(x).__name__}."
        )
    rows = len(leaves[0])
    if any([len(leaf) != rows for leaf in leaves]):
        shapes = [tuple(leaf.shape) for leaf in leaves]
        raise ShapeError(f"Inputs should have one number of examples. Received: shapes {shapes}.")

    def cut(start: int) -> Any:
        part = slice(start, start + batch_size)
        return keras.tree.map_structure(lambda leaf: as_array(leaf[part]), x)

    starts = range(done, rows, batch_size)
    return (cut(start) for start in starts), done, len(starts)


def _append(file: Any, found: dict[str, Any]) -> None:
    """Write a batch of activations behind those that are complete."""
    known, start = _datasets(file), int(file.attrs.get(_ROWS, 0))
    arrays = {name: widened(array) for name, array in found.items()}
    rows = {array.shape[:1] for array in arrays.values()}
    layout = {name: (array.shape[1:], array.dtype.name) for name, array in arrays.items()}
    before = {name: (data.shape[1:], data.dtype.name) for name, data in known.items()}
    if len(rows) != 1 or () in rows or (known and before != layout):
        raise ShapeError(
            "Activations in one file should have the same sites, shapes and dtypes in each batch, "
            f"a row for each example. Received: {layout} after {before or 'none'}. Pad the inputs "
            "to one length, or write to another file."
        )
    (count,) = rows.pop()
    for number, (name, array) in enumerate(arrays.items()):
        if name not in known:
            shape = array.shape[1:]
            known[name] = file.create_dataset(
                f"{number}", (0, *shape), array.dtype, maxshape=(None, *shape), chunks=True
            )
            known[name].attrs["name"] = name
        known[name].resize(start + count, axis=0)
        known[name][start:] = array
    file.flush()
    file.attrs[_ROWS] = start + count
    file.flush()


def _opened(path: str | PathLike[str]) -> Any:
    """The file, to be read, if `to_disk` has written it."""
    if Path(path).exists():
        try:
            file = h5py.File(fspath(path), "r")
        except OSError:
            file = None
        if file is not None and _FORMAT in file.attrs:
            return file
        if file is not None:
            file.close()
    raise OperandError(
        "Activations are in a file that `to_disk` has written. Received: "
        f"{fspath(path)!r}, {'another file' if Path(path).exists() else 'where there is none'}. "
        "Write `capture(model, 'dense').to_disk('new.h5', x)`."
    )


def _datasets(file: Any) -> dict[str, Any]:
    return {data.attrs["name"]: data for _, data in sorted(file.items(), key=lambda e: int(e[0]))}
