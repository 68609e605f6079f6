"""The strategies "scatter" and "add": write values at places that each occur once, or add them.

Computed positions may be out of bounds or repeat; then only those that win are written.
"""

import math
from typing import Any

import numpy as np

from kedit._language.compiler import reads_bytecode
from kedit._language.types import Tensor
from kedit._plan.layout import Computed, Layout
from kedit._plan.plan import Plan
from kedit._plan.strategy import partial
from kedit._run import axes, ops
from kedit._run.axes import scatter, scatter_add, sizes
from kedit._run.cast import dtype_of, has_value, neutral
from kedit._run.kept import kept
from kedit._run.values import negative, new_values, operands


def run(plan: Plan, layout: Layout, x: Tensor, leaves: Any) -> Tensor:
    values = new_values(plan, layout, x, leaves)
    first = layout.picks[0]
    if not layout.is_computed:
        return _at_known(plan, layout, x, values)
    if first.is_seen and layout.is_in_order:  # merged axes are kept apart
        places = first.named
        if layout.merged > 1:
            places = np.stack(np.unravel_index(places, x.shape[: layout.merged]), 1)
        return scatter(x, places, values)
    canonical = axes.merge(layout, x)
    return axes.split(layout, _at_computed(first, canonical, values), x)


def _at_known(plan: Plan, layout: Layout, x: Tensor, values: Tensor) -> Tensor:
    """Write at places that are known beforehand."""
    places = None if reads_bytecode() else layout.targets
    if places is not None:  # merged axes are kept apart: merging them may copy
        (targets,) = kept(plan, x, lambda: (axes.known_array(places),), places)
        return _at_targets(layout, x, targets, values)
    canonical = axes.merge(layout, x)
    if layout.few_positions is None:
        targets = axes.known_of(layout.picks[0], "unique")
        return axes.split(layout, scatter(canonical, targets, values), x)
    targets = axes.known([place for position in layout.few_positions for place in position])
    targets = ops.reshape(targets, (-1, len(partial(layout))))
    return axes.split(layout, _at_targets(layout, canonical, targets, values), x)


def _at_targets(layout: Layout, x: Tensor, targets: Tensor, values: Tensor) -> Tensor:
    """Write at places on the first axes, which are those that are not picked whole."""
    picked = [len(pick.unique) for pick in layout.picks if not pick.is_whole]
    rest = sizes(values)[len(picked) :]
    values = ops.broadcast_to(values, (*picked, *rest))
    return scatter(x, targets, ops.reshape(values, (math.prod(picked), *rest)))


def _at_computed(pick: Computed, x: Tensor, values: Tensor) -> Tensor:
    """Write at computed positions on the first axis."""
    if pick.is_seen:
        return scatter(x, pick.named, values)
    if pick.inside is None and not pick.has_duplicates:
        return scatter(x, pick.flat, values)
    row_start = pick.row_start
    if row_start is not None and not pick.may_be_empty:
        # A dropped position writes the first element of its row again.
        places = pick.flat
        if pick.inside is not None:
            places = ops.where(pick.inside, pick.flat, row_start)
            inside = axes.along(pick.inside, 0, len(x.shape))
            values = ops.where(inside, values, ops.take(x, places, axis=0))
        return scatter(x, places, values)
    # One extra place, for what is dropped. Spreading the values over the whole axis is as fast, but
    # torch's compiler sums their gradient element by element.
    places = pick.flat
    if pick.has_duplicates:
        wins = ops.equal(pick.winner(), pick.picks())
        places = ops.where(wins, places, pick.size)
    return scatter(axes.pad(x, 0), places, values)[:-1]


def run_add(plan: Plan, layout: Layout, x: Tensor, leaves: Any) -> Tensor:
    """Add on the first axis; other elements keep their bits.

    A scatter that adds can be trusted with duplicates, and with its gradient.
    """
    values = operands(plan, layout, x, leaves)
    values = axes.to_picks(layout, values)
    if plan.operation.negates:
        values = negative(values)
    return axes.split(layout, _added(layout.picks[0], axes.merge(layout, x), values), x)


def _added(pick: Computed, x: Tensor, values: Tensor) -> Tensor:
    if pick.inside is None:
        return scatter_add(x, pick.flat, values)
    if pick.is_seen:
        kept = np.flatnonzero(pick.inside)
        values = values if values.shape[0] == 1 else ops.take(values, kept, axis=0)
        return scatter_add(x, pick.flat[kept], values)
    known = isinstance(pick.size, int) and pick.size > 0
    if not known or has_value(x):  # one extra place, for what is dropped
        return scatter_add(axes.pad(x, 0), pick.flat, values)[:-1]
    # Where a compiler writes in place, dropped positions add nothing to a place to which something
    # is added anyway. If there is none, the first place is put back: even adding -0.0 changes the
    # bits of some numbers.
    first = ops.argmax(ops.concatenate([ops.cast(pick.inside, "int32"), ops.ones((1,), "int32")]))
    any_inside = first < ops.shape(pick.inside)[0]
    spare = ops.take(axes.pad(pick.flat, 0), first, axis=0)
    inside = axes.along(pick.inside, 0, len(x.shape))
    values = ops.where(inside, values, neutral("add", dtype_of(x)))
    added = scatter_add(x, ops.where(pick.inside, pick.flat, spare), values)
    spare = ops.reshape(spare, (1,))
    row = ops.where(any_inside, ops.take(added, spare, axis=0), ops.take(x, spare, axis=0))
    return scatter(added, spare, row)
