"""Picks that name one element more than once: each one counts once, with its gradient.

Values for one element are combined in pairs, level by level, so that `n` values
take `log2(n)` steps with the gradients of `+` and `*`. If duplicates are known
beforehand, one value is left for each unique position. If positions are computed,
each pick gets the combined value of its position.
"""

from kedit._language.operations import OPERATIONS
from kedit._language.types import Tensor
from kedit._plan.layout import Computed, Layout, Pick, Picked, merging
from kedit._run import ops
from kedit._run.axes import along, known, known_of, pad, sizes
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
        if computes and pick.is_computed and pick.has_duplicates:
            values = pick.winners(values, axis)
    return values


def _last_of(pick: Picked, values: Tensor, axis: int) -> Tensor:
    """For each unique position that is known beforehand, the value that was given last."""
    values = _one_each(pick, values, axis)
    if isinstance(pick, Computed) or pick.is_ordered:
        return values
    return ops.take(values, known_of(pick, "last"), axis=axis)


def _one_each(pick: Picked, values: Tensor, axis: int) -> Tensor:
    """The values, one for each pick; raise if there are too many or too few."""
    count = sizes(pick.flat)[0] if isinstance(pick, Computed) else pick.count
    given = sizes(values)[axis]
    if count is None or (isinstance(given, int) and isinstance(count, int) and given == count):
        return values  # a slice of unknown length is checked later
    if isinstance(given, int) and isinstance(count, int):
        raise ShapeError(
            f"Values should broadcast to the selection. Received: {given} values for {count} "
            "positions."
        )
    shape = list(sizes(values))
    shape[axis] = count
    return ops.broadcast_to(values, shape)  # which raises if it cannot


def to_all(layout: Layout, values_u: Tensor) -> Tensor:
    """Values along the unique positions, repeated for every pick."""
    for axis, pick in enumerate(layout.picks):
        if not (pick.is_ordered or pick.is_computed) and values_u.shape[axis] != 1:
            values_u = ops.take(values_u, known_of(pick, "inverse"), axis=axis)
    return values_u


def repeat(layout: Layout, values: Tensor) -> Tensor:
    """Values that broadcast along picks with duplicates, written out for each of them."""
    for axis, pick in enumerate(layout.picks):
        if pick.has_duplicates and values.shape[axis] == 1:
            shape = list(sizes(values))
            shape[axis] = sizes(pick.flat)[0] if pick.is_computed else pick.count
            values = ops.broadcast_to(values, shape)
    return values


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


def best(op: str, left: Tensor, right: Tensor) -> Tensor:
    """Smaller or larger of two numbers that are not NaN; unlike Keras's, also for 64 bits."""
    return ops.where((ops.greater if op == "max" else ops.less)(left, right), left, right)


def _pair(op: str, left: Tensor, right: Tensor) -> Tensor:
    if op in ("min", "max"):
        return best(op, left, right)
    return (ops.add if op == "add" else ops.multiply)(left, right)


def _alone(op: str, values: Tensor) -> Tensor | None:
    """What leaves a value unchanged, or None if the value itself does."""
    return None if OPERATIONS[op].neutral is None else neutral(op, dtype_of(values))


def _reduce_axis(pick: Pick, values: Tensor, axis: int, op: str) -> Tensor:
    """Combine neighbours within each position's run of values until one is left."""
    runs, levels = merging(pick.positions)
    values = ops.take(values, known(runs), axis=axis)
    alone = _alone(op, values)
    for left, right, paired in levels:
        left_values = ops.take(values, known(left), axis=axis)
        right_values = ops.take(values, known(right), axis=axis)
        if not all(paired):
            here = along(ops.cast(known(paired), "bool"), axis, len(values.shape))
            right_values = ops.where(here, right_values, left_values if alone is None else alone)
        values = _pair(op, left_values, right_values)
    return values


def scan(values: Tensor, follows: Tensor, op: str, depth: int) -> Tensor:
    """Combine each value with all values before it in its run, along axis 0.

    Neighbours are combined, then these pairs in the same way, and the first of each pair takes in
    what ended before it. This takes fewer than two steps per value, with the gradients of `op`.

    Args:
        values: Tensor of shape `(n, ...)`.
        follows: Whether each value is in the run of the one before it, of shape `(n,)`.
        op: How to combine two values; see `reduced`.
        depth: No run is longer than `2**depth`.
    """

    alone = _alone(op, values)

    def joined(left: Tensor, right: Tensor, follows: Tensor) -> Tensor:
        follows = along(follows, 0, len(right.shape))
        return _pair(op, ops.where(follows, left, right if alone is None else alone), right)

    def behind(values: Tensor) -> Tensor:  # what is before the first is never joined
        return ops.concatenate([values[:1], values[:-1]], axis=0)

    if depth == 0:  # a run spans at most two neighbours
        return joined(behind(values), values, follows)
    count, *rest = ops.shape(values)
    odd = count % 2
    if not isinstance(odd, int) or odd:
        values, follows = pad(values, 0, after=odd), pad(follows, 0, after=odd)
    pairs = ops.reshape(values, ((count + odd) // 2, 2, *rest))
    follow = ops.reshape(follows, (-1, 2))
    ended = scan(
        joined(pairs[:, 0], pairs[:, 1], follow[:, 1]),
        ops.logical_and(follow[:, 0], follow[:, 1]),
        op,
        depth - 1,
    )
    first = joined(behind(ended), pairs[:, 0], follow[:, 0])
    return ops.reshape(ops.stack([first, ended], axis=1), (count + odd, *rest))[:count]
