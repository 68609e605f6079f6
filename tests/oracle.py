"""What every operation gives and what its gradient is, element by element, in NumPy.

Updates are those of `kedit.testing`. What it does not check, `get` and positions out of bounds, is
defined here.
"""

import numpy as np

from kedit.testing._oracle import UPDATES, cube, each_vjp, positions, summed, update, update_vjp

__all__ = [
    "UPDATES",
    "cube",
    "each_vjp",
    "get",
    "get_vjp",
    "positions",
    "positions_in_bounds",
    "summed",
    "update",
    "update_vjp",
]


def positions_in_bounds(shape, index, mode="drop", *, per_sample=False):
    """As `positions`, where an index may be out of bounds: -1 for what is dropped.

    Looks up the index in an array that is one longer on every axis, where -1 stands.
    """
    whole = np.pad(np.arange(np.prod(shape, dtype=int)).reshape(shape), (0, 1), constant_values=-1)
    items = list(index) if isinstance(index, tuple) else [index]
    rank, inner = len(shape) - per_sample, shape[per_sample:]
    used = sum(_axes(item) for item in items)
    if used > rank:
        raise IndexError("too many indices")
    if not any(item is ... for item in items):
        items.append(...)
    moved, axis = [], 0
    for item in items:
        if item is ...:
            missing = rank - used
            moved += [slice(0, inner[a]) for a in range(axis, axis + missing)] or [...]
            axis += missing
            continue
        moved.append(_in_bounds(item, inner[axis : axis + _axes(item)], mode))
        axis += _axes(item)
    if per_sample:
        return np.stack([whole[(n, *moved)] for n in range(shape[0])])
    return whole[tuple(moved)]


def _axes(item):
    if item is None or item is ...:
        return 0
    return np.ndim(item) if not isinstance(item, slice) and np.asarray(item).dtype == bool else 1


def _in_bounds(item, sizes, mode):
    if item is None:
        return item
    if isinstance(item, slice):
        start, stop, step = item.indices(sizes[0])
        return slice(start, None if stop < 0 else stop, step)
    item = np.asarray(item)
    fits = all(given in (0, size) for given, size in zip(item.shape, sizes, strict=False))
    if item.dtype == bool and 0 in item.shape and fits:
        item = np.zeros(sizes, bool)  # for which NumPy takes a mask without elements
    if item.dtype == bool:
        return np.pad(item, (0, 1)) if item.ndim else item
    size, item = sizes[0], item.astype(object if item.dtype == "uint64" else "int64")
    if mode == "wrap" and size:
        return (item % size).astype("int64")
    item = np.where(item < 0, item + size, item)
    if mode == "clip" and size:
        return np.clip(item, 0, size - 1)
    return np.where((item < 0) | (item >= size), size, item).astype("int64")


def get(x, places, fill=np.nan):
    return np.append(x.ravel(), np.array(fill, x.dtype))[places]  # -1 is the fill value


def get_vjp(x, places, upstream):
    dx = np.zeros(x.size + 1)
    np.add.at(dx, places.ravel(), upstream.ravel())
    return dx[:-1].reshape(x.shape)
