"""What every update gives and what its gradient is, element by element, in NumPy.

Each function walks over the positions that NumPy itself selects, in C order,
and applies the definition. It knows nothing of how kedit works.
"""

from collections.abc import Callable
from typing import Any

import numpy as np


def positions(shape: Any, index: Any, *, per_sample: bool = False) -> Any:
    """Flat position of every selected element, in the layout of the result."""
    whole = np.arange(int(np.prod(shape))).reshape(shape)
    if per_sample:
        return np.stack([sample[index] for sample in whole])
    return whole[index]


def cube(x: Any) -> Any:
    return x * x * x


_ONE: dict[str, Callable[[Any, Any], Any]] = {
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


def update(op: str, x: Any, places: Any, values: Any) -> Any:
    """The edited copy of `x`; `apply` cubes. A place that is negative is dropped."""
    y = x.ravel().copy()
    values = np.broadcast_to(values, places.shape)
    with np.errstate(all="ignore"):
        for place, value in zip(places.ravel(), values.ravel(), strict=True):
            if place < 0:
                continue
            old = x.ravel()[place] if op in ("power", "apply") else y[place]
            y[place] = _ONE[op](old, value)
    return y.reshape(x.shape)


def update_vjp(op: str, x: Any, places: Any, values: Any, upstream: Any) -> tuple[Any, Any]:
    """Gradients of `sum(upstream * update(...))` for `x` and `values`, in closed form."""
    dx, dv = each_vjp(op, x, places, values, upstream)
    return dx, summed(dv, values.shape)


def each_vjp(op: str, x: Any, places: Any, values: Any, upstream: Any) -> tuple[Any, Any]:
    """As `update_vjp`, where every pick has a value of its own."""
    flat, g = x.ravel().astype("float64"), upstream.ravel()
    spread = np.broadcast_to(values, places.shape).ravel().astype("float64")
    dx, dv = g.copy(), np.zeros(spread.size)
    picks: dict[int, list[int]] = {}  # element -> the picks that name it, in order
    for pick, place in enumerate(places.ravel()):
        if place < 0:
            continue
        picks.setdefault(place, []).append(pick)
    for place, named in picks.items():
        dx[place], shares = _one_vjp(op, flat[place], spread[named])
        dx[place] *= g[place]
        dv[named] = np.array(shares) * g[place]
    return dx.reshape(x.shape), dv.reshape(places.shape)


def summed(gradient: Any, shape: Any) -> Any:
    """The gradient of what was broadcast from a shape: summed over the axes that this added."""
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    axes = tuple(a for a, size in enumerate(shape) if size == 1 != gradient.shape[a])
    return gradient.sum(axis=axes, keepdims=True)


def _one_vjp(op: str, x: Any, values: Any) -> tuple[Any, Any]:
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
