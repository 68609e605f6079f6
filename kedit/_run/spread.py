"""The strategy "spread": spread the new values over whole axes, then choose by a mask."""

from typing import Any

from kedit._language.types import Tensor
from kedit._plan.layout import Computed, Layout, Pick, Picked
from kedit._plan.plan import Plan
from kedit._run import axes, ops
from kedit._run.values import new_values
from kedit.errors import ShapeError


def run(plan: Plan, layout: Layout, x: Tensor, leaves: Any) -> Tensor:
    values = new_values(plan, layout, x, leaves)
    for axis, pick in enumerate(layout.picks):
        if pick.is_whole:
            continue
        size = None if pick.is_computed else axes.merged_length(layout, x, axis)  # it knows its own
        if not pick.is_computed:
            _check_length(pick, size, values.shape[axis])
        if values.shape[axis] != 1:
            values = _spread(values, pick, size, axis)
    return axes.choose(layout, values, x)


def _check_length(pick: Pick, size: Any, given: Any) -> None:
    """Raise if values do not fit a slice whose length is known only now."""
    if isinstance(pick.positions, slice) and isinstance(size, int) and isinstance(given, int):
        length = len(range(*pick.positions.indices(size)))
        if given not in (1, length):
            raise ShapeError(
                f"Values should broadcast to the selection. Received: {given} values for a slice "
                f"that has {length} elements on an axis of size {size}."
            )


def _spread(values: Tensor, pick: Picked, size: Any, axis: int) -> Tensor:
    """Move values to their positions on the whole axis; what is between does not matter."""
    placed: Any = None if isinstance(pick, Computed) else pick.positions
    if isinstance(placed, range) and placed.step == 1:
        return axes.pad(values, axis, placed.start, (pick.size or 0) - placed.stop)
    if isinstance(pick, Computed) and pick.rows is not None:
        return values  # one for each row: they broadcast
    number = axes.pick_at(pick, size)
    if pick.count is None:  # there may turn out to be one value for all, or none to take
        number = number * ops.cast(ops.not_equal(axes.length(values, axis), 1), "int32")
        values = axes.pad(values, axis)
    return ops.take(values, ops.maximum(number, 0), axis=axis)
