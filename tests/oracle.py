"""What every operation gives and what its gradient is, element by element, in NumPy.

Each function walks over the positions that NumPy itself selects, in C order,
and applies the definition. It knows nothing of how kedit works.
"""

import numpy as np


def positions(shape, index, *, per_sample=False):
    """Flat position of every selected element, in the layout of the result."""
    whole = np.arange(int(np.prod(shape))).reshape(shape)
    if per_sample:
        return np.stack([sample[index] for sample in whole])
    return whole[index]


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


def update(op, x, places, values):
    """The edited copy of `x`; `apply` cubes."""
    y = x.ravel().copy()
    values = np.broadcast_to(values, places.shape)
    with np.errstate(all="ignore"):
        for place, value in zip(places.ravel(), values.ravel(), strict=True):
            if place < 0:
                continue
            old = x.ravel()[place] if op in ("power", "apply") else y[place]
            y[place] = _ONE[op](old, value)
    return y.reshape(x.shape)


def cube(x):
    return x * x * x


_ONE = {
    "set": lambda old, value: value,
    "add": lambda old, value: old + value,
    "subtract": lambda old, value: old - value,
    "multiply": lambda old, value: old * value,
    "divide": lambda old, value: old / value,
    "power": lambda old, value: old**value,
    "min": np.minimum,
    "max": np.maximum,
    "apply": lambda old, value: cube(old),
}
UPDATES = tuple(_ONE)


def update_vjp(op, x, places, values, upstream):
    """Gradients of `sum(upstream * update(...))` for `x` and `values`, in closed form."""
    dx, dv = each_vjp(op, x, places, values, upstream)
    return dx, summed(dv, values.shape)


def each_vjp(op, x, places, values, upstream):
    """As `update_vjp`, where every pick has a value of its own."""
    flat, g = x.ravel().astype("float64"), upstream.ravel()
    spread = np.broadcast_to(values, places.shape).ravel().astype("float64")
    dx, dv = g.copy(), np.zeros(spread.size)
    picks = {}  # element -> the picks that name it, in order
    for pick, place in enumerate(places.ravel()):
        if place < 0:
            continue
        picks.setdefault(place, []).append(pick)
    for place, named in picks.items():
        dx[place], shares = _one_vjp(op, flat[place], spread[named])
        dx[place] *= g[place]
        dv[named] = np.array(shares) * g[place]
    return dx.reshape(x.shape), dv.reshape(places.shape)


def summed(gradient, shape):
    """The gradient of what was broadcast from a shape: summed over the axes that this added."""
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    axes = tuple(a for a, size in enumerate(shape) if size == 1 != gradient.shape[a])
    return gradient.sum(axis=axes, keepdims=True)


def _one_vjp(op, x, values):
    """Derivatives for one element and the values that were given to it."""
    others = [np.prod(np.delete(values, n)) for n in range(len(values))]
    only_last = np.eye(len(values))[-1]
    last = values[-1]
    if op == "set":
        return 0.0, only_last
    if op in ("add", "subtract"):
        return 1.0, np.full(len(values), 1.0 if op == "add" else -1.0)
    if op == "multiply":
        return np.prod(values), x * np.array(others)
    if op == "divide":
        return 1 / np.prod(values), -x / (np.prod(values) * values)
    if op == "power":
        return last * x ** (last - 1), only_last * x**last * np.log(x)
    if op == "apply":
        return 3 * x * x, np.zeros(len(values))
    best = min(x, *values) if op == "min" else max(x, *values)
    tied = np.array([x == best, *(values == best)], "float64")
    tied /= tied.sum()
    return tied[0], tied[1:]
