"""Shared by all strategies that write: which elements are chosen, and their new values.

Old elements are read, combined with the values, and reduced to one value for each position, all in
the canonical form of `kedit._plan.layout`, where each axis is picked from independently. Names that
end in `_u` are for tensors along the unique positions of the picks.
"""

import math
from typing import Any

from kedit._language.constants import FunctionStandIn, StandIn, shape_of
from kedit._language.dtypes import integer_range, kind
from kedit._language.evaluation import Elements, evaluate
from kedit._language.expression import Expression
from kedit._language.items import TracedSlot
from kedit._language.operations import OPERATIONS, Operation
from kedit._language.types import Tensor
from kedit._plan.check import (
    axis_of_tensor,
    call_function,
    check_computed,
    check_computed_condition,
    is_computed,
    spread_over_sample,
)
from kedit._plan.layout import Layout
from kedit._plan.plan import Plan, given
from kedit._run import axes, cast, duplicates, ops, positions


def new_values(plan: Plan, layout: Layout, x: Tensor, leaves: Any) -> Tensor:
    """The values at the unique positions after the edit, one for each position or one for all."""
    chosen, values = chosen_and_values(plan, layout, x, leaves)
    values = axes.to_picks(layout, values)
    if plan.operation.writes and not plan.narrows:
        return duplicates.winners(layout, values)
    chosen = None if chosen is None else axes.to_picks(layout, chosen)
    old_u = axes.read(layout, axes.merge(layout, x), unique=True)
    new_u = _combine(
        plan, layout, ops.cast(old_u, cast.existing(plan.wide, plan.dtype)), values, chosen
    )
    new_u = cast.saturated(new_u, plan.dtype)
    if plan.narrows:  # what is not chosen keeps its bits, which arithmetic may change
        new_u = ops.where(_chosen_u(plan, layout, chosen), new_u, old_u)
    return new_u


def chosen_and_values(
    plan: Plan, layout: Layout, x: Tensor, leaves: Any
) -> tuple[Tensor | None, Tensor]:
    """Which of the selected elements exist and are chosen (None for all), and their operands."""
    chosen = _chosen(plan, layout, x, leaves)
    return chosen, _values(plan, layout, x, leaves, chosen)


def operands(plan: Plan, layout: Layout, x: Tensor, leaves: Any) -> Tensor:
    """The operands of the selected elements; any number for those that do not exist."""
    chosen = _chosen(plan, layout, x, leaves) if plan.computes else None
    return _values(plan, layout, x, leaves, chosen)


def _chosen(plan: Plan, layout: Layout, x: Tensor, leaves: Any) -> Tensor | None:
    condition = given(plan.condition, leaves)
    # Values that are only written need no check for dropped positions: these are not written.
    chosen = None
    if plan.operation.name != "set" or plan.computes:
        chosen = axes.inside(layout)
    if is_computed(condition):
        selected = axes.selected(layout, x)
        if isinstance(condition, Expression):
            of = _Selected(plan, layout, x, leaves, selected, plan.dtype)
            met = of.compute(condition)
        else:
            met = condition(ops.copy(selected))  # a function may change its input
        check_computed_condition(met, tuple(selected.shape))
        chosen = _and(chosen, met)
    elif condition is not None:
        chosen = _and(chosen, cast.constant(condition, "bool"))
    if layout.mask is None:
        return chosen
    mask = _mask(layout, leaves)
    counted = _counted(plan, layout, leaves)
    if counted is not None:  # where it is True but there is no value left, nothing is written
        mask = ops.logical_and(mask, _rank_in(mask, counted[1]) < counted[1])
    return _and(chosen, axes.along(mask, layout.mask_dim, len(layout.result)))


class _Selected(Elements):
    """The selected elements, for which an expression is computed.

    Args:
        plan: The plan of the edit.
        layout: Where its index lands.
        source: The tensor.
        leaves: The tensors and functions of the edit.
        selected: The selected elements.
        dtype: Dtype to compute in.
        chosen: Which elements are chosen: at others, a tensor in an expression is replaced by a
            safe value. Defaults to None: no tensor is replaced.
    """

    library = ops

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        source: Tensor,
        leaves: Any,
        selected: Tensor,
        dtype: str,
        chosen: Any = None,
    ) -> None:
        self.plan, self.layout, self.source, self.leaves = plan, layout, source, leaves
        self.x, self.dtype, self.chosen = selected, dtype, chosen

    def compute(self, expression: Expression) -> Tensor:
        """The value of an expression for each element, even if it has no `X`."""
        value = evaluate(expression, self)
        same = tuple(value.shape) == tuple(self.x.shape)
        return value if same else ops.broadcast_to(value, axes.sizes(self.x))

    def constant(self, value: Any, dtype: str, limit: int | None = None) -> Tensor:
        if self.chosen is not None and isinstance(value, StandIn):
            return _safe_constant(self.leaves[value.number], self.chosen, dtype)
        return cast.limited(given(value, self.leaves), dtype, limit)

    def position(self, axis: int) -> Tensor:
        coordinates = self.plan.edit.selection.coordinates
        axis = axis_of_tensor(axis, coordinates, len(self.layout.shape))
        return axes.positions(self.layout, self.source, axis)

    def per_sample(self, numbers: Any, dtype: str, limit: int | None) -> Tensor:
        found = cast.limited(given(numbers, self.leaves), dtype, limit)
        return ops.reshape(found, spread_over_sample(axes.sizes(found), len(self.layout.result)))

    def call(self, function: Any, x: Tensor, dtype: str) -> Tensor:
        values = call_function(given(function, self.leaves), ops.copy(x), dtype)
        check_computed(values, tuple(x.shape), dtype, self.plan.casting)
        return cast.values(values, dtype, self.plan.casting)

    def where(self, chosen: Tensor) -> "_Selected":
        calls = any([isinstance(leaf, FunctionStandIn) for leaf in self.plan.operand.leaves])
        safe = _safe_element(self.x, chosen) if calls else cast.constant(1, self.dtype)
        given = (self.plan, self.layout, self.source, self.leaves)
        x = ops.where(chosen, self.x, safe)
        return _Selected(*given, x, self.dtype, _and(self.chosen, chosen))


def _mask(layout: Layout, leaves: Any) -> Tensor:
    """The mask whose places are all selected, along one axis."""
    mask = positions.source_of(layout.mask, leaves, ops)
    return ops.reshape(cast.constant(mask, "bool"), (-1,))


def _counted(plan: Plan, layout: Layout, leaves: Any) -> tuple[int, Any] | None:
    """Axis and number of values, if there is one for each True of the mask, or None."""
    if not isinstance(layout.mask, TracedSlot) or plan.computes:
        return None
    operand = given(plan.operand, leaves)
    shape = shape_of(operand)
    axis = layout.mask_dim - len(layout.result) + len(shape)
    if axis < 0 or shape[axis] == 1:
        return None
    count = shape[axis]
    return axis, axes.length(operand, axis) if count is None else count


def _and(left: Tensor | None, right: Tensor) -> Tensor:
    return right if left is None else ops.logical_and(left, right)


def _rank_in(mask: Tensor, count: Any) -> Tensor:
    """The number of the value for each True of a mask; 0 if the count turns out to be 1."""
    rank = ops.cumsum(ops.cast(mask, "int32"), axis=0) - 1
    return rank if isinstance(count, int) else rank * ops.cast(ops.not_equal(count, 1), "int32")


def _values(plan: Plan, layout: Layout, x: Tensor, leaves: Any, chosen: Tensor | None) -> Tensor:
    """The operand as a tensor to compute with; a function of the elements is called."""
    operand, wide = given(plan.operand, leaves), cast.existing(plan.wide, plan.dtype)
    if not plan.computes:
        values = cast.values(operand, wide, plan.casting)
        counted = _counted(plan, layout, leaves)
        return values if counted is None else _counted_off(layout, leaves, values, *counted)
    selected = axes.selected(layout, x)
    if chosen is not None and not (isinstance(operand, Expression) and operand.is_affine):
        selected = ops.where(chosen, selected, _safe_element(selected, chosen))
    if isinstance(operand, Expression):
        of = _Selected(plan, layout, x, leaves, ops.cast(selected, wide), wide, chosen)
        values = of.compute(operand)
        return cast.saturated(values, plan.dtype) if plan.operation.writes else values
    values = call_function(operand, ops.copy(selected), plan.dtype)
    check_computed(values, tuple(selected.shape), plan.dtype, plan.casting)
    return cast.values(values, plan.dtype, plan.casting)


def _counted_off(layout: Layout, leaves: Any, values: Tensor, axis: int, count: Any) -> Tensor:
    """Move the values for each True of a mask to where it is True."""
    number = ops.clip(_rank_in(_mask(layout, leaves), count), 0, count)
    # One more, for places without a value.
    return ops.take(axes.pad(values, axis), number, axis=axis)


def _safe_element(selected: Tensor, chosen: Tensor) -> Tensor:
    """A chosen element, on which a function may run instead of those not chosen; or 1.

    `where(c, f(x), x)` would send NaN gradients back through `f` at elements
    that are not chosen, and into whatever else `f` depends on.
    """
    chosen = ops.broadcast_to(chosen, axes.sizes(selected))
    one = ops.ones((1,), dtype=cast.dtype_of(selected))
    elements = ops.concatenate([ops.reshape(selected, (-1,)), one])
    candidates = ops.concatenate([ops.reshape(chosen, (-1,)), ops.ones((1,), dtype="bool")])
    element = ops.take(elements, ops.argmax(ops.cast(candidates, "int32")), axis=0)
    return ops.stop_gradient(element)


def _safe_constant(constant: Tensor, chosen: Tensor, dtype: str) -> Tensor:
    """A tensor in an expression, with 1 for elements that are not chosen."""
    if not len(constant.shape):
        return cast.constant(constant, dtype)
    return ops.where(chosen, ops.cast(constant, dtype), cast.constant(1, dtype))


def _combine(
    plan: Plan, layout: Layout, old_u: Tensor, values: Tensor, chosen: Tensor | None
) -> Tensor:
    """The values at the unique positions after the operation."""
    row = plan.operation
    if row.combines and layout.has_duplicates:
        return _accumulate(row, layout, old_u, values, chosen)
    values_u = duplicates.winners(layout, values, computes=not row.combines and not row.writes)
    if chosen is not None and not plan.meets_all:
        chosen_u = duplicates.winners(layout, chosen)
        one = cast.constant(1, cast.dtype_of(old_u))
        old_u = ops.where(chosen_u, old_u, one)
        values_u = ops.where(chosen_u, values_u, one)
    return pair(row, old_u, values_u)


def _chosen_u(plan: Plan, layout: Layout, chosen: Tensor) -> Tensor:
    """For each unique position, whether any of the picks that name it is chosen."""
    if layout.has_duplicates and not plan.is_one_for_all:
        return duplicates.any_of(layout, chosen)
    return duplicates.winners(layout, chosen)


def negative(values: Tensor) -> Tensor:
    """What to add instead of subtracting `values`, also for unsigned integers."""
    dtype = cast.dtype_of(values)
    if kind(dtype) > 1:
        return ops.negative(values)
    return ops.subtract(cast.constant(0, dtype), values)


def pair(row: Operation, old: Tensor, values: Tensor) -> Tensor:
    """Combine old elements and values by an operation, one value for each element."""
    if row.combines in ("min", "max"):
        return _extreme(row.combines, old, values)
    return getattr(ops, row.function)(old, values) if row.function else values


def _extreme(op: str, left: Tensor, right: Tensor) -> Tensor:
    """Minimum or maximum of two, or NaN if either is, with the gradient halved at ties."""
    dtype = cast.dtype_of(left)
    if kind(dtype) == 0:
        return (ops.logical_or if op == "max" else ops.logical_and)(left, right)
    if kind(dtype) == 1:
        return ops.extreme(op, left, right)
    beats = ops.greater if op == "max" else ops.less
    half = cast.constant(0.5, dtype)
    tie = ops.add(ops.multiply(half, left), ops.multiply(half, right))  # NaN if one is
    # Halving rounds the smallest numbers. Put back what is lost, by a subtraction, since
    # -0.0 - 0.0 is -0.0.
    lost = ops.stop_gradient(ops.subtract(tie, left))
    tie = ops.subtract(tie, ops.where(ops.isfinite(lost), lost, cast.constant(0, dtype)))
    return ops.where(beats(left, right), left, ops.where(beats(right, left), right, tie))


def _accumulate(
    row: Operation, layout: Layout, old_u: Tensor, values: Tensor, chosen: Tensor | None
) -> Tensor:
    """Combine each element with all values that were given to it."""
    dtype = cast.dtype_of(old_u)
    how = row.combines
    if how in ("min", "max"):
        return _accumulate_extreme(how, layout, old_u, values, chosen)
    if row.negates:
        # (-0.0 - a) - b and -0.0 - (a + b) differ in the sign of zero, unless -a and -b are added.
        row, values = OPERATIONS[how], negative(values)
    if chosen is not None:
        values = ops.where(chosen, values, cast.neutral(how, dtype))
    return pair(row, old_u, duplicates.reduced(layout, values, how))


def _accumulate_extreme(
    op: str, layout: Layout, old_u: Tensor, values: Tensor, chosen: Tensor | None
) -> Tensor:
    """Minimum or maximum of an element and its values; ties share the gradient equally."""
    dtype = cast.dtype_of(old_u)
    values = duplicates.repeat(layout, values)
    if kind(dtype) == 0:
        old_u, values = [ops.cast(x, "uint8") for x in (old_u, values)]
        return ops.cast(_accumulate_extreme(op, layout, old_u, values, chosen), dtype)
    low, high = integer_range(dtype) if kind(dtype) < 2 else (-math.inf, math.inf)
    worst = cast.constant(low if op == "max" else high, dtype)
    numbers = ops.stop_gradient(values)
    numbers = numbers if chosen is None else ops.where(chosen, numbers, worst)
    best_u = duplicates.reduced(layout, numbers, op)
    best_u = ops.extreme(op, ops.stop_gradient(old_u), best_u)
    if kind(dtype) < 2:
        return best_u
    found = _found(values, ops.equal(numbers, duplicates.to_all(layout, best_u)))
    if chosen is not None:
        found = ops.where(chosen, found, cast.constant(0, dtype))
    found = duplicates.reduced(layout, found, "add")
    found_u = ops.add(found, _found(old_u, ops.equal(old_u, best_u)))
    count_u = ops.stop_gradient(found_u)
    some = ops.greater(count_u, 0)
    # The share is 0.0, and is subtracted: -0.0 - 0.0 is -0.0.
    share_u = ops.divide(
        ops.subtract(count_u, found_u), ops.where(some, count_u, cast.constant(1, dtype))
    )
    # Nothing is found if all are infinite and the backend took the smallest finite number for the
    # best. If there is NaN, the best may be any number, but the count is NaN. Not as one choice: an
    # infinity that is computed and not chosen becomes NaN where a converter multiplies by 0 and 1.
    best_u = ops.where(some, ops.subtract(best_u, share_u), worst)
    return ops.where(ops.isnan(count_u), count_u, best_u)


def _found(values: Tensor, ties: Tensor) -> Tensor:
    """1 for each value that ties, with its gradient if it is finite; NaN for NaN, else 0."""
    dtype = cast.dtype_of(values)
    finite = ops.finite(values)
    nothing = ops.subtract(finite, ops.stop_gradient(finite))
    one = ops.multiply(ops.add(nothing, cast.constant(1, dtype)), ops.cast(ties, dtype))
    return ops.add(one, ops.stop_gradient(nothing))  # since XLA takes 0 * NaN for 0 here
