"""Picks that name one element more than once: each one counts once, with its gradient.

Values for one element are combined in pairs, level by level, so that `n` values
take `log2(n)` steps with the gradients of `+` and `*`. If positions are known or
seen, one value is left for each unique position. If they are hidden, each pick gets
the combined value of its position.
"""

from typing import Any

from kedit._language.compiler import reads_bytecode
from kedit._language.types import Tensor
from kedit._plan.layout import Computed, Layout, Pick, Picked, merging_of
from kedit._run import ops
from kedit._run.axes import along, known, known_of, length, pad, sizes
from kedit._run.cast import dtype_of, neutral
from kedit.errors import ShapeError


def winners(layout: Layout, values: Tensor, *, computes: bool = False) -> Tensor:
    """For each unique position, the value that was given last.

    The winners of computed positions are found when they are written; only an
    operation that computes with values must not meet those that lose.
    """
    for axis, pick in enumerate(layout.picks):
        given = values.shape[axis]
        if given == 1 or (pick.is_ordered and given == pick.count):
            continue
        values = _last_of(pick, values, axis)
        if computes and pick.is_computed and not pick.is_seen and pick.has_duplicates:
            values = pick.winners(values, axis)
    return values


def _last_of(pick: Picked, values: Tensor, axis: int) -> Tensor:
    """For each unique position that is known or seen, the value that was given last."""
    values = _one_each(pick, values, axis)
    if isinstance(pick, Computed):
        return pick.winners(values, axis) if pick.is_seen else values
    if pick.is_ordered:
        return values
    return ops.take(values, known_of(pick, "last"), axis=axis)


def _one_each(pick: Picked, values: Tensor, axis: int) -> Tensor:
    """The values, one for each pick; raise if there are too many or too few."""
    given, count = values.shape[axis], pick.count
    if count is None and isinstance(pick, Computed):
        count = length(pick.flat, 0)
    if count is None or (isinstance(given, int) and isinstance(count, int) and given == count):
        return values  # a slice of unknown length is checked later
    if isinstance(given, int) and isinstance(count, int):
        raise ShapeError(
            f"Values should broadcast to the selection. Received: {given} values for {count} "
            "positions."
        )
    return _to_length(values, axis, count)  # which raises if it cannot


def to_all(layout: Layout, values_u: Tensor) -> Tensor:
    """Values along the unique positions, repeated for every pick."""
    for axis, pick in enumerate(layout.picks):
        if pick.is_ordered or values_u.shape[axis] == 1:
            continue
        if pick.is_computed:
            values_u = pick.to_all(values_u, axis)
        else:
            values_u = ops.take(values_u, known_of(pick, "inverse"), axis=axis)
    return values_u


def repeat(layout: Layout, values: Tensor) -> Tensor:
    """Values that broadcast along picks with duplicates, written out for each of them."""
    for axis, pick in enumerate(layout.picks):
        if pick.has_duplicates and values.shape[axis] == 1:
            count = length(pick.flat, 0) if pick.is_computed else pick.count
            values = _to_length(values, axis, count)
    return values


def _to_length(values: Tensor, axis: int, count: Any) -> Tensor:
    """Values, broadcast along one axis."""
    rank = len(values.shape)
    return ops.broadcast_to(
        values, [count if a == axis else length(values, a) for a in range(rank)]
    )


def reduced(layout: Layout, values: Tensor, op: str) -> Tensor:
    """Combine the values given to each unique position.

    Args:
        layout: The layout.
        values: The values.
        op: "add" or "multiply", or, for numbers that are not NaN, "min" or "max".
    """
    values = repeat(layout, values)
    for axis, pick in enumerate(layout.picks):
        if pick.has_duplicates and pick.is_computed:
            values = pick.reduce(values, axis, op)
        elif pick.has_duplicates:
            values = _reduce_axis(pick, values, axis, op)
        elif values.shape[axis] != 1:  # an index array next to a block that repeats
            values = _last_of(pick, values, axis)
    return values


def any_of(layout: Layout, chosen: Tensor) -> Tensor:
    """For each unique position, whether any of its picks is chosen; booleans."""
    numbers = ops.cast(chosen, "uint8")
    for axis, pick in enumerate(layout.picks):
        if numbers.shape[axis] == 1:
            continue
        if not pick.has_duplicates:
            numbers = _last_of(pick, numbers, axis)
        elif pick.is_computed:
            numbers = pick.reduce(_one_each(pick, numbers, axis), axis, "max")
        else:
            numbers = _reduce_axis(pick, numbers, axis, "max")
    return ops.cast(numbers, "bool")


def _pair(op: str, left: Tensor, right: Tensor) -> Tensor:
    if op in ("min", "max"):
        return ops.extreme(op, left, right)
    return (ops.add if op == "add" else ops.multiply)(left, right)


def _reduce_axis(pick: Pick, values: Tensor, axis: int, op: str) -> Tensor:
    """Combine the values of each position that is known beforehand."""
    if not reads_bytecode():
        return merged(values, axis, op, *pick.merging)
    pairs, orders = merging_of(pick.positions)
    return merged(values, axis, op, pairs, [known(order) for order in orders])


def merged(values: Tensor, axis: int, op: str, pairs: Any, orders: Any) -> Tensor:
    """Combine values step by step; see `merging`."""
    for count, order in zip(pairs, orders[:-1], strict=True):
        values = ops.take(values, order, axis=axis)
        left, right, alone = ops.split(values, [count, 2 * count], axis=axis)
        values = ops.concatenate([_pair(op, left, right), alone], axis=axis)
    return ops.take(values, orders[-1], axis=axis)


def scan(values: Tensor, follows: Tensor, depth: int) -> Tensor:
    """Multiply each value with all values before it in its run, along axis 0.

    Neighbours are multiplied, then these pairs in the same way, and the first of each pair takes in
    what ended before it. This takes fewer than two steps per value, with the gradients of `*`.

    Args:
        values: Tensor of shape `(n, ...)`.
        follows: Whether each value is in the run of the one before it, of shape `(n,)`.
        depth: No run is longer than `2**depth`.
    """
    one = neutral("multiply", dtype_of(values))

    def joined(left: Tensor, right: Tensor, follows: Tensor) -> Tensor:
        follows = along(follows, 0, len(right.shape))
        return ops.multiply(ops.where(follows, left, one), right)

    def behind(values: Tensor) -> Tensor:  # what is before the first is never joined
        return ops.concatenate([values[:1], values[:-1]], axis=0)

    if depth == 0:  # a run spans at most two neighbours
        return joined(behind(values), values, follows)
    count, *rest = sizes(values)
    odd = count % 2
    if not isinstance(odd, int) or odd:
        values, follows = pad(values, 0, after=odd), pad(follows, 0, after=odd)
    pairs = ops.reshape(values, ((count + odd) // 2, 2, *rest))
    follow = ops.reshape(follows, (-1, 2))
    ended = scan(
        joined(pairs[:, 0], pairs[:, 1], follow[:, 1]),
        ops.logical_and(follow[:, 0], follow[:, 1]),
        depth - 1,
    )
    first = joined(behind(ended), pairs[:, 0], follow[:, 0])
    return ops.reshape(ops.stack([first, ended], axis=1), (count + odd, *rest))[:count]
