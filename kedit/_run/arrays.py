"""The NumPy kernel: NumPy's own indexing on a copy. It uses no backend tensors."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from kedit._language.constants import Array, as_array, is_array, stand_ins
from kedit._language.dtypes import clipped, default_fill, kind, saturate
from kedit._language.evaluation import Elements, evaluate
from kedit._language.expression import Expression
from kedit._language.items import Block, Each, Positions
from kedit._language.operations import OPERATIONS
from kedit._language.types import Shape
from kedit._plan.check import (
    axis_of_tensor,
    call_function,
    check_computed,
    check_computed_condition,
    spread_over_sample,
)
from kedit._plan.plan import Plan, given, keep, make, signature
from kedit._run import ops
from kedit._run.positions import computed


class _Functions:
    """NumPy's functions, as an expression calls them."""

    power = staticmethod(OPERATIONS["power"].ufunc)

    @staticmethod
    def sigmoid(x: Any) -> Any:
        return 1 / (1 + np.exp(-x))

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def apply(said: Any, x: Any) -> Any:
    """Apply an edit to a NumPy array, and return a new array of the same shape and dtype.

    Args:
        said: See `kedit._run.apply`; without tensors.
        x: Array, list or number.
    """
    x = as_array(x)
    key = (said._spelling, "array", x.shape, x.dtype.name)
    plan = said._plans.get(key)
    if plan is None:
        edit = said._with(stand_ins(signature(said._leaves)))
        plan = make(edit, x.shape, x.dtype.name, spread_masks=False)
        keep(said._plans, key, plan, said._limit)
    return _carry_out(plan, x, said._leaves)


def _carry_out(plan: Plan, x: Any, leaves: Any) -> Any:
    layout = plan.layout
    # What NumPy cannot index is selected by flat positions, with one more element for those that
    # do not exist. In sample coordinates, the batch axis is moved to the end, where the index does
    # not reach it.
    selection = plan.edit.selection
    items = selection.index.items
    own_items = any([isinstance(item, (Block, Each)) for item in items])
    flat = own_items or plan.mode is not None or plan.edit.size is not None
    per_sample = selection.coordinates == "sample" and not flat
    rank = len(layout.result)
    if flat:
        index = (_flat_positions(computed(plan, x.shape, (), np)),)
        result = np.append(x.ravel(), np.ones((), x.dtype))
    else:
        index = _numpy_index(items, per_sample)
        result = np.array(x)
    target = np.moveaxis(result, 0, -1) if per_sample else result

    def read(among: Any = target) -> Any:
        selected = among[index]
        return np.asarray(np.moveaxis(selected, -1, 0) if per_sample else selected)

    def position(axis: int) -> Any:
        axis = axis_of_tensor(axis, selection.coordinates, x.ndim)
        here = np.arange(x.shape[axis]).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        here = np.broadcast_to(here, x.shape)
        if flat:
            return read(np.append(here.ravel(), 0))
        return read(np.moveaxis(here, 0, -1) if per_sample else here)

    if plan.operation.name == "get":
        if flat:
            fill = default_fill(plan.dtype) if plan.fill_value is None else plan.fill_value
            target[-1] = fill
        return np.array(read())
    with np.errstate(all="ignore"):
        values, chosen = _values(plan, read, position, leaves)
        if per_sample:
            values = _batch_last(values, rank)
            chosen = None if chosen is None else _batch_last(chosen, rank)
        ufunc = plan.operation.ufunc
        if plan.operation.combines and layout.has_duplicates:
            _accumulate(ufunc, target, index, values, chosen)
        else:
            _write(ufunc, target, index, values, chosen)
    return result[:-1].reshape(x.shape) if flat else result


def apply_to_built(edit: Any, x: Any, shape: Shape) -> Any:
    """Apply an edit to a tensor of Keras's NumPy backend, whose functions narrow 64 bits.

    Args:
        edit: The edit, already checked, with arrays in place of its tensors.
        x: The array.
        shape: Its shape as known beforehand. On an axis of unknown size, positions that do not
            exist are dropped, as under a compiler.
    """
    edit = edit.with_index(edit.selection.index.known(np.asarray))
    return apply(replace(edit, mode="drop") if None in shape and edit.mode is None else edit, x)


def _flat_positions(layout: Any) -> Any:
    """Positions of the selected elements in the raveled array, or its size if they do not exist."""
    sizes = [layout.shape[axis] for axis in layout.order]
    strides = [math.prod(layout.shape[axis + 1 :]) for axis in layout.order]
    merges = len(layout.picks) != len(layout.shape)
    flat, exists, axis = np.zeros((), "int64"), np.ones((), bool), 0
    for number, pick in enumerate(layout.picks):
        width = layout.merged if number == layout.start and merges else 1
        positions = pick.flat if pick.is_computed else np.array(pick.positions, "int64")
        inside = np.ones((), bool)
        if pick.is_computed and pick.inside is not None:
            inside, positions = pick.inside, np.where(pick.inside, positions, 0)
        places = np.zeros(positions.shape, "int64")
        for here in reversed(range(axis, axis + width)):  # unravel what was merged
            places += positions % max(sizes[here], 1) * strides[here]
            positions = positions // max(sizes[here], 1)
        axis += width
        flat = flat[..., None] + places
        exists = exists[..., None] & inside
    flat = np.where(exists, flat, math.prod(layout.shape))
    shape = [size for pick in layout.picks for size in _dims_of(layout, pick)]
    flat = flat.reshape((*shape, *[1] * (len(layout.result) - len(shape))))
    return flat.transpose(np.argsort(layout.dims).astype(int))


def _dims_of(layout: Any, pick: Any) -> list[int]:
    return list(pick.dim_sizes) if pick.is_computed else [layout.result[dim] for dim in pick.dims]


def _numpy_index(items: tuple[Any, ...], per_sample: bool) -> tuple[Any, ...]:
    index = tuple([_numpy_item(item) for item in items])
    return (*index, slice(None)) if per_sample and any(i is ... for i in index) else index


def _numpy_item(item: Any) -> Any:
    if isinstance(item, Positions):
        return np.array(item.numbers, "int64").reshape(item.shape)
    return item.array if isinstance(item, Array) else item


def _batch_last(values: Any, rank: int) -> Any:
    """Move the batch axis of values in sample coordinates, if they have one, to the end."""
    return np.moveaxis(values, 0, -1) if values.ndim == rank else values[..., None]


class _Selected(Elements):
    """The selected elements, for which an expression is computed; see `kedit._run.values`."""

    library = _Functions()

    def __init__(self, plan: Plan, leaves: Any, position: Any, selected: Any, dtype: str) -> None:
        self.plan, self.leaves, self.find = plan, leaves, position
        self.x, self.dtype = selected, dtype

    def compute(self, expression: Expression) -> Any:
        """The value of an expression for each element, even if it has no `X`."""
        return np.broadcast_to(evaluate(expression, self), self.x.shape)

    def constant(self, value: Any, dtype: str, limit: int | None = None) -> Any:
        is_limited = limit is not None and isinstance(value, Array) and kind(dtype) == 1
        return _constant(clipped(value, limit or 0) if is_limited else value, dtype)

    def position(self, axis: int) -> Any:
        return self.find(axis)

    def per_sample(self, numbers: Any, dtype: str, limit: int | None) -> Any:
        found = self.constant(numbers, dtype, limit)
        return found.reshape(spread_over_sample(found.shape, self.x.ndim))

    def call(self, function: Any, x: Any, dtype: str) -> Any:
        values = _array(call_function(given(function, self.leaves), x.copy(), dtype))
        check_computed(values, x.shape, dtype, self.plan.casting)
        return _constant(values, dtype, self.plan.casting)

    def where(self, chosen: Any) -> "_Selected":
        x = np.where(chosen, self.x, _safe_element(self.x, chosen))
        return _Selected(self.plan, self.leaves, self.find, x, self.dtype)


def _values(
    plan: Plan, read: Callable[[], Any], position: Callable[[int], Any], leaves: Any
) -> tuple[Any, Any]:
    """The operand in the dtype to compute with, and the condition, if there is one."""
    condition, operand = given(plan.condition, leaves), given(plan.operand, leaves)
    chosen = None
    if isinstance(condition, Expression):
        chosen = _Selected(plan, leaves, position, read(), plan.dtype).compute(condition)
    elif condition is not None:
        chosen = _condition(condition, read)
    if not plan.computes:
        return _constant(operand, plan.wide, plan.casting), chosen
    selected = read()
    if chosen is not None:
        selected = np.where(chosen, selected, _safe_element(selected, chosen))
    if isinstance(operand, Expression):
        of = _Selected(plan, leaves, position, selected.astype(plan.wide), plan.wide)
        values = of.compute(operand)
    else:
        values = _array(call_function(operand, selected.copy(), plan.dtype))
        check_computed(values, selected.shape, plan.dtype, plan.casting)
    dtype = plan.dtype if plan.operation.writes else plan.wide
    return _constant(values, dtype, plan.casting), chosen


def _condition(condition: Any, read: Callable[[], Any]) -> Any:
    """What a mask, or a function of the elements, chooses."""
    if not callable(condition):
        return condition.array if isinstance(condition, Array) else np.asarray(condition)
    selected = read()
    chosen = _array(condition(selected.copy()))  # a function may change its input
    check_computed_condition(chosen, selected.shape)
    return chosen


def _safe_element(selected: Any, chosen: Any) -> Any:
    """A chosen element, on which a function may run instead of those not chosen; or 1."""
    among = selected[np.broadcast_to(chosen, selected.shape)]
    return among[0] if among.size else np.ones((), selected.dtype)


def _constant(value: Any, dtype: str, casting: str = "same_kind") -> Any:
    if casting == "unsafe":
        value = saturate(value, dtype)
    return np.asarray(value.array if isinstance(value, Array) else value).astype(dtype)


def _array(values: Any) -> Any:
    return values if is_array(values) else ops.convert_to_numpy(values)


def _accumulate(ufunc: Any, target: Any, index: tuple[Any, ...], values: Any, chosen: Any) -> None:
    """Combine elements of `target`, our own copy, with all values that are given to them."""
    shape = target[index].shape
    # NumPy 2.4 reads past the end of values that it has to broadcast.
    values = np.broadcast_to(values, shape)
    if chosen is not None:
        chosen = np.broadcast_to(chosen, shape)
        index, values = _places_of(chosen, target.shape, index), values[chosen]
    wide = target if values.dtype == target.dtype else target.astype(values.dtype)
    ufunc.at(wide, index, values)
    if wide is not target:
        target[index] = _constant(wide[index], target.dtype.name, "unsafe")


def _places_of(chosen: Any, shape: Any, index: tuple[Any, ...]) -> tuple[Any, ...]:
    """Positions of the chosen elements in an array, along each axis."""
    axes = np.ogrid[tuple([slice(size) for size in shape])]
    return tuple([np.broadcast_to(axis, shape)[index][chosen] for axis in axes])


def _write(ufunc: Any, target: Any, index: tuple[Any, ...], values: Any, chosen: Any) -> None:
    """Write into `target`, our own copy."""
    if ufunc or chosen is not None:
        old = np.asarray(target[index])
        is_wide = values.dtype != old.dtype
        if ufunc:
            out = None if is_wide or chosen is not None else old
            values = ufunc(old.astype(values.dtype) if is_wide else old, values, out=out)
            if np.may_share_memory(values, target):  # for slices, `old` is a view
                return
        if is_wide:
            values = _constant(values, old.dtype.name, "unsafe")
        if chosen is not None:
            values = np.where(chosen, values, old)
    target[index] = values
