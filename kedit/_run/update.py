"""The Keras kernel: an edit as calls of `keras.ops`, on tensors of the running backend.

Read the elements, combine them with the values, write them: all on the
canonical form of `kedit._plan.layout`, where each axis is picked from on its own.
Names end in `_u` for what lies along the unique positions of the picks.
"""

import math
from typing import Any

from kedit._language.constants import is_array, is_scalar, shape_of
from kedit._language.dtypes import default_fill, integer_range, kind
from kedit._language.expression import Expression
from kedit._language.items import TracedSlot
from kedit._language.types import Shape, Tensor
from kedit._plan.check import (
    ACCUMULATING,
    Edit,
    call_function,
    check,
    check_computed,
    check_computed_condition,
    is_computed,
    is_one_for_all,
)
from kedit._plan.layout import Layout
from kedit._run import arrays, axes, cast, duplicates, ops, positions


def apply(edit: Edit, x: Tensor, shape: Shape, *, already_checked: bool = False) -> Tensor:
    """Apply an edit to a tensor: a new tensor of the same shape and dtype.

    Args:
        edit: The edit, with tensors of the running backend only.
        x: Tensor of the running backend.
        shape: Shape of `x` as it is known beforehand, with None where it is not.
        already_checked: Whether the edit was checked before, when a graph was built.
    """
    bound = check(edit, shape, cast.dtype_of(x), already_checked=already_checked)
    if is_array(x):
        return arrays.apply_to_built(edit, x, shape)
    layout = bound.layout
    if layout.is_computed:
        layout = positions.resolve(layout, edit, axes.sizes(x), may_read_values=not already_checked)
    if edit.op == "get":
        return _get(edit, layout, x)
    if layout.is_empty or 0 in tuple(x.shape):
        return ops.copy(x)
    if _fits_everywhere(edit, layout):
        return _write_number(edit, layout, x)
    dtype = cast.dtype_of(x)
    wide = cast.wide_dtype(edit, dtype)
    chosen = _chosen(edit, layout, x)
    values = axes.to_picks(layout, _values(edit, layout, x, chosen, wide))
    writes = chosen is None and edit.op in ("set", "apply")
    if writes and not layout.is_whole:
        return axes.write(layout, x, duplicates.winners(layout, values))
    canonical = axes.merge(layout, x)
    if writes:  # not a view of the values
        values = ops.copy(ops.broadcast_to(values, axes.sizes(canonical)))
        return axes.split(layout, values, x)
    is_narrowed = edit.selection.condition is not None or layout.mask is not None
    adds = edit.op in ("add", "subtract") and not is_narrowed and wide == dtype
    if adds and axes.adds_by_scatter(layout):
        return axes.split(layout, _add(edit.op, layout, canonical, values), x)
    chosen = None if chosen is None else axes.to_picks(layout, chosen)
    old_u = axes.read(layout, canonical, unique=True)
    new_u = _combine(edit, layout, ops.cast(old_u, wide), values, chosen)
    new_u = cast.saturated(new_u, dtype)
    if is_narrowed:  # what is not chosen keeps its bits, of which arithmetic may lose some
        new_u = ops.where(_chosen_u(edit, layout, chosen), new_u, old_u)
    return axes.write(layout, x, new_u)


def _fits_everywhere(edit: Edit, layout: Layout) -> bool:
    """Whether the operation is with one number that may meet elements that are not selected."""
    operand, op = edit.operand, edit.op
    if not is_scalar(operand) or edit.selection.condition is not None or edit.casting == "unsafe":
        return False
    if layout.is_whole or layout.is_computed or layout.mask is not None:
        return False
    if layout.few_positions is not None:
        return False
    if op == "set":
        return True
    harmless = op in ("add", "subtract", "min", "max") or _has_gradient_everywhere(edit)
    return harmless and not layout.has_duplicates


def _write_number(edit: Edit, layout: Layout, x: Tensor) -> Tensor:
    """The operation on all elements, and a choice: one pass, if a compiler joins them."""
    canonical = axes.merge(layout, x)
    number = cast.constant(edit.operand, cast.dtype_of(x))
    if edit.op != "set":
        number = _pair(edit.op, canonical, number)
    edited = ops.where(axes.places(layout, canonical), number, canonical)
    return axes.split(layout, edited, x)


def _get(edit: Edit, layout: Layout, x: Tensor) -> Tensor:
    """What the index selects, with the fill value for what does not exist."""
    selected = _read(layout, x)
    exists = axes.inside(layout)
    if exists is None:
        return ops.copy(selected)  # reading may give a view of x
    dtype = cast.dtype_of(x)
    fill = default_fill(dtype) if edit.fill_value is None else edit.fill_value
    return ops.where(exists, selected, cast.constant(fill, dtype))


def _read(layout: Layout, x: Tensor) -> Tensor:
    """What the index selects, in NumPy's layout."""
    return axes.from_picks(layout, axes.read(layout, axes.merge(layout, x)))


def _chosen(edit: Edit, layout: Layout, x: Tensor) -> Tensor | None:
    """The selected elements that exist and are chosen by condition and mask; None for all."""
    condition, operand = edit.selection.condition, edit.operand
    # Values that are merely written need not know what is dropped: it is not written.
    chosen = None
    if edit.op != "set" or is_computed(operand):
        chosen = axes.inside(layout)
    if is_computed(condition):
        selected = _read(layout, x)
        if isinstance(condition, Expression):
            met = _evaluate(condition, selected, cast.dtype_of(x))
        else:
            met = condition(ops.copy(selected))  # a function may change what it is given
        check_computed_condition(met, tuple(selected.shape))
        chosen = _and(chosen, met)
    elif condition is not None:
        chosen = _and(chosen, cast.constant(condition, "bool"))
    if layout.mask is None:
        return chosen
    mask = _mask(edit, layout)
    counted = _counted(edit, layout)
    if counted is not None:  # where it is True but there is no value left, nothing is written
        mask = ops.logical_and(mask, _rank_in(mask, counted[1]) < counted[1])
    return _and(chosen, axes.along(mask, layout.mask_dim, len(layout.result)))


def _evaluate(expression: Expression, selected: Tensor, dtype: str) -> Tensor:
    """The value of an expression for each selected element, also of one without `X`."""
    value = expression.evaluate(selected, dtype, ops, cast.constant)
    same = tuple(value.shape) == tuple(selected.shape)
    return value if same else ops.broadcast_to(value, axes.sizes(selected))


def _mask(edit: Edit, layout: Layout) -> Tensor:
    """The mask whose places are all selected, along one axis."""
    mask = positions.source_of(layout.mask, edit.selection.index.tensors(), ops)
    return ops.reshape(cast.constant(mask, "bool"), (-1,))


def _counted(edit: Edit, layout: Layout) -> tuple[int, Any] | None:
    """Axis and number of the values of which there is one for each True of the mask, if any."""
    if not isinstance(layout.mask, TracedSlot) or is_computed(edit.operand):
        return None
    shape = shape_of(edit.operand)
    axis = layout.mask_dim - len(layout.result) + len(shape)
    if axis < 0 or shape[axis] == 1:
        return None
    count = shape[axis]
    return axis, axes.sizes(edit.operand)[axis] if count is None else count


def _and(left: Tensor | None, right: Tensor) -> Tensor:
    return right if left is None else ops.logical_and(left, right)


def _rank_in(mask: Tensor, count: Any) -> Tensor:
    """The number of the value for each True of a mask; 0 if the count turns out to be 1."""
    rank = ops.cumsum(ops.cast(mask, "int32"), axis=0) - 1
    return rank if isinstance(count, int) else rank * ops.cast(ops.not_equal(count, 1), "int32")


def _values(edit: Edit, layout: Layout, x: Tensor, chosen: Tensor | None, wide: str) -> Tensor:
    """The operand as a tensor to compute with in the dtype `wide`; computed if it is a function."""
    dtype, operand = cast.dtype_of(x), edit.operand
    if not is_computed(operand):
        values = cast.values(operand, wide, edit.casting)
        counted = _counted(edit, layout)
        return values if counted is None else _counted_off(edit, layout, values, *counted)
    selected = _read(layout, x)
    if chosen is not None:
        selected = ops.where(chosen, selected, _safe_element(selected, chosen))
    if isinstance(operand, Expression):
        if chosen is not None:
            operand = operand.map(lambda constant: _safe_constant(constant, chosen, wide))
        values = _evaluate(operand, ops.cast(selected, wide), wide)
        return cast.saturated(values, dtype) if edit.op in ("set", "apply") else values
    values = call_function(operand, ops.copy(selected), dtype)
    check_computed(values, tuple(selected.shape), dtype, edit.casting)
    return cast.values(values, dtype, edit.casting)


def _counted_off(edit: Edit, layout: Layout, values: Tensor, axis: int, count: Any) -> Tensor:
    """Values for each True of a mask, moved to where it is True."""
    number = ops.clip(_rank_in(_mask(edit, layout), count), 0, count)
    # One more, for places of which there is no value.
    return ops.take(axes.pad(values, axis), number, axis=axis)


def _safe_element(selected: Tensor, chosen: Tensor) -> Tensor:
    """A chosen element, on which a function may run in place of those not chosen; or 1.

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
        return constant
    return ops.where(chosen, ops.cast(constant, dtype), cast.constant(1, dtype))


def _combine(
    edit: Edit, layout: Layout, old_u: Tensor, values: Tensor, chosen: Tensor | None
) -> Tensor:
    """What stands at the unique positions after the operation."""
    if edit.op in ACCUMULATING and layout.has_duplicates:
        return _accumulate(edit.op, layout, old_u, values, chosen)
    values_u = duplicates.winners(layout, values, computes=edit.op == "power")
    if chosen is not None and not _has_gradient_everywhere(edit):
        chosen_u = duplicates.winners(layout, chosen)
        one = cast.constant(1, cast.dtype_of(old_u))
        old_u = ops.where(chosen_u, old_u, one)
        values_u = ops.where(chosen_u, values_u, one)
    return _pair(edit.op, old_u, values_u)


def _chosen_u(edit: Edit, layout: Layout, chosen: Tensor) -> Tensor:
    """For each unique position, whether any of the picks that name it is chosen."""
    if layout.has_duplicates and not is_one_for_all(edit.selection.condition):
        return duplicates.any_of(layout, chosen)
    return duplicates.winners(layout, chosen)


def _has_gradient_everywhere(edit: Edit) -> bool:
    """Whether the operation has a finite gradient at elements that are not chosen, too.

    If not, it must not meet them: 0 * inf and 0 * nan are nan, and reach the
    operand's gradient although the element was not chosen.
    """
    if edit.op == "multiply":
        return is_scalar(edit.operand) and math.isfinite(abs(edit.operand))
    return edit.op not in ("divide", "power")


def _add(op: str, layout: Layout, x: Tensor, values: Tensor) -> Tensor:
    """Add values to the places that are given to them, or subtract them."""
    return layout.picks[0].add(x, values if op == "add" else _negative(values))


def _negative(values: Tensor) -> Tensor:
    """What to add in order to subtract, also of unsigned integers."""
    dtype = cast.dtype_of(values)
    if kind(dtype) > 1:
        return ops.negative(values)
    return ops.subtract(cast.constant(0, dtype), values)


def _pair(op: str, old: Tensor, values: Tensor) -> Tensor:
    if op in ("set", "apply"):
        return values
    if op in ("min", "max"):
        return _extreme(op, old, values)
    return getattr(ops, op)(old, values)


def _extreme(op: str, left: Tensor, right: Tensor) -> Tensor:
    """Least or greatest of two, or NaN from either, with the gradient halved where they tie."""
    dtype = cast.dtype_of(left)
    if kind(dtype) == 0:
        return (ops.logical_or if op == "max" else ops.logical_and)(left, right)
    if kind(dtype) == 1:
        return duplicates.best(op, left, right)
    beats = ops.greater if op == "max" else ops.less
    half = cast.constant(0.5, dtype)
    tie = ops.add(ops.multiply(half, left), ops.multiply(half, right))  # NaN if one is
    # Half of the least numbers is rounded away; what is lost is put back, by a subtraction, since
    # -0.0 - 0.0 is -0.0.
    lost = ops.stop_gradient(ops.subtract(tie, left))
    tie = ops.subtract(tie, ops.where(ops.isfinite(lost), lost, cast.constant(0, dtype)))
    return ops.where(beats(left, right), left, ops.where(beats(right, left), right, tie))


def _accumulate(
    op: str, layout: Layout, old_u: Tensor, values: Tensor, chosen: Tensor | None
) -> Tensor:
    """Combine each element with every value that was given to it."""
    dtype = cast.dtype_of(old_u)
    if op in ("min", "max"):
        return _accumulate_extreme(op, layout, old_u, values, chosen)
    # In (-0.0 - a) - b and -0.0 - (a + b) the sign of zero differs; not so if -a and -b are added.
    op, values = ("add", _negative(values)) if op == "subtract" else (op, values)
    how = "add" if op == "add" else "multiply"
    if chosen is not None:
        values = ops.where(chosen, values, cast.neutral(how, dtype))
    return _pair(op, old_u, duplicates.reduced(layout, values, how))


def _accumulate_extreme(
    op: str, layout: Layout, old_u: Tensor, values: Tensor, chosen: Tensor | None
) -> Tensor:
    """Least or greatest of an element and its values; all that tie share the gradient evenly."""
    dtype = cast.dtype_of(old_u)
    values = duplicates.repeat(layout, values)
    if kind(dtype) == 0:
        old_u, values = [ops.cast(x, "uint8") for x in (old_u, values)]
        return ops.cast(_accumulate_extreme(op, layout, old_u, values, chosen), dtype)
    counts = chosen
    if kind(dtype) > 1:
        counts = _and(chosen, ops.logical_not(ops.isnan(values)))
    low, high = integer_range(dtype) if kind(dtype) < 2 else (-math.inf, math.inf)
    worst = cast.constant(low if op == "max" else high, dtype)
    numbers = ops.stop_gradient(values)
    numbers = numbers if counts is None else ops.where(counts, numbers, worst)
    best_u = duplicates.reduced(layout, numbers, op)
    best_u = duplicates.best(op, ops.stop_gradient(old_u), best_u)
    if kind(dtype) < 2:
        return best_u
    ties = ops.equal(numbers, duplicates.to_all(layout, best_u))
    found = _found(values, ties if chosen is None else ops.logical_and(ties, chosen))
    if chosen is not None:
        found = ops.where(chosen, found, cast.constant(0, dtype))
    found = duplicates.reduced(layout, found, "add")
    found_u = ops.add(found, _found(old_u, ops.equal(old_u, best_u)))
    count_u = ops.stop_gradient(found_u)
    some = ops.greater(count_u, 0)
    # It is 0.0, and taken away: -0.0 - 0.0 is -0.0.
    share_u = ops.divide(
        ops.subtract(count_u, found_u), ops.where(some, count_u, cast.constant(1, dtype))
    )
    # None is found where there is NaN, or where all are infinite and the backend has taken the
    # least finite number for the best.
    return ops.where(some, ops.subtract(best_u, share_u), ops.add(count_u, worst))


def _found(values: Tensor, ties: Tensor) -> Tensor:
    """1 for each value that ties, with its gradient if it is finite; NaN for NaN, else 0."""
    dtype = cast.dtype_of(values)
    finite = ops.where(ops.isinf(values), cast.constant(0, dtype), values)
    nothing = ops.subtract(finite, ops.stop_gradient(finite))
    one = ops.add(nothing, cast.constant(1, dtype))
    return ops.where(ties, one, ops.stop_gradient(nothing))
