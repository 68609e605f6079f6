"""Picks that name one element more than once: every one counts, once, with its gradient.

The duplicates are known before the tensor is: their places are worked out in
NumPy, and the values combined in pairs, level by level, so that `n` values for
one element take `log2(n)` steps whose gradients are those of `+` and `*`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from kedit._layout import Layout, Pick
from kedit._lowering._axes import along
from kedit._lowering._cast import constant, dtype_of
from kedit._types import Tensor


def winners(layout: Layout, values: Tensor) -> Tensor:
    """For each unique position the value that was given last."""
    for axis, pick in enumerate(layout.picks):
        if pick.has_duplicates and values.shape[axis] != 1:
            values = ops.take(values, pick.last, axis=axis)
    return values


def to_all(layout: Layout, values_u: Tensor) -> Tensor:
    """Values along the unique positions, repeated for every pick."""
    for axis, pick in enumerate(layout.picks):
        if pick.has_duplicates and values_u.shape[axis] != 1:
            values_u = ops.take(values_u, pick.inverse, axis=axis)
    return values_u


def repeat(layout: Layout, values: Tensor) -> Tensor:
    """Values that broadcast along picks with duplicates, written out for each of them."""
    for axis, pick in enumerate(layout.picks):
        if pick.has_duplicates and values.shape[axis] == 1:
            values = ops.repeat(values, len(pick.inverse), axis=axis)
    return values


def total(layout: Layout, values: Tensor) -> Tensor:
    """Sum of the values given to each unique position."""
    # -0.0 and not 0.0: it leaves every number as it is, -0.0 too.
    return _reduce(layout, values, ops.add, -0.0)


def product(layout: Layout, values: Tensor) -> Tensor:
    """Product of the values given to each unique position."""
    return _reduce(layout, values, ops.multiply, 1)


def extreme(layout: Layout, values: Tensor, pair: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Least or greatest of the values given to each unique position, by `pair`."""
    return _reduce(layout, values, pair, None)


def _reduce(
    layout: Layout, values: Tensor, pair: Callable[[Tensor, Tensor], Tensor], neutral: Any
) -> Tensor:
    values = repeat(layout, values)
    for axis, pick in enumerate(layout.picks):
        if pick.has_duplicates:
            values = _reduce_axis(pick, values, axis, pair, neutral)
    return values


def _reduce_axis(
    pick: Pick,
    values: Tensor,
    axis: int,
    pair: Callable[[Tensor, Tensor], Tensor],
    neutral: Any,
) -> Tensor:
    """Combine neighbours within each position's run of values until one is left."""
    counts = np.bincount(pick.inverse)
    values = ops.take(values, np.argsort(pick.inverse, kind="stable"), axis=axis)
    while counts.max() > 1:
        starts = np.cumsum(counts) - counts
        halves = (counts + 1) // 2
        run = np.repeat(np.arange(len(counts)), halves)
        within = np.arange(halves.sum()) - np.repeat(np.cumsum(halves) - halves, halves)
        left_at = starts[run] + 2 * within
        paired = 2 * within + 1 < counts[run]
        left = ops.take(values, left_at, axis=axis)
        right = ops.take(values, left_at + paired, axis=axis)
        alone = left if neutral is None else constant(neutral, dtype_of(values))
        right = ops.where(along(paired, axis, len(values.shape)), right, alone)
        values, counts = pair(left, right), halves
    return values
