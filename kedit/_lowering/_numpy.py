"""The NumPy kernel: NumPy's own indexing on a copy. No backend tensor is made or met."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kedit._casting import default_fill, saturate
from kedit._data import Array, is_array
from kedit._expression import Expression
from kedit._items import Block, Each, Positions
from kedit._layout import Layout
from kedit._lowering._check import (
    ACCUMULATING,
    Edit,
    check,
    check_computed,
    check_computed_condition,
    is_computed,
)
from kedit._lowering._places import resolve

_UFUNCS: dict[str, np.ufunc] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "power": np.power,
    "min": np.minimum,
    "max": np.maximum,
}


def apply(edit: Edit, x: Any) -> Any:
    """Apply an edit to a NumPy array: a new array of the same shape and dtype."""
    x = np.asarray(x)
    layout = check(edit, x.shape, x.dtype.name, spread_masks=False).layout
    # What NumPy has no index for is selected by flat positions, with one more element for those
    # that do not exist. In sample coordinates the batch axis stands last, where the index does
    # not reach it.
    items = edit.selection.index.items
    own_items = any([isinstance(item, (Block, Each)) for item in items])
    flat = own_items or edit.mode is not None or edit.size is not None
    per_sample = edit.selection.coordinates == "sample" and not flat
    rank = len(layout.result)
    if flat:
        index = (_flat_positions(resolve(layout, edit, x.shape, np)),)
        result = np.append(x.ravel(), np.ones((), x.dtype))
    else:
        index = _numpy_index(edit, per_sample)
        result = np.array(x)
    target = np.moveaxis(result, 0, -1) if per_sample else result

    def read() -> Any:
        selected = target[index]
        return np.asarray(np.moveaxis(selected, -1, 0) if per_sample else selected)

    if edit.op == "get":
        if flat:
            fill = default_fill(x.dtype.name) if edit.fill_value is None else edit.fill_value
            target[-1] = fill
        return np.array(read())
    with np.errstate(all="ignore"):
        values, chosen = _values(edit, read, x.dtype)
        if per_sample:
            values = _batch_last(values, rank)
            chosen = None if chosen is None else _batch_last(chosen, rank)
        _write(edit.op, target, index, values, chosen, layout)
    return result[:-1].reshape(x.shape) if flat else result


def _flat_positions(layout: Any) -> Any:
    """Positions in the raveled array of all that is selected; its size for what is not there."""
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


def _numpy_index(edit: Edit, per_sample: bool) -> tuple[Any, ...]:
    items = tuple([_numpy_item(item) for item in edit.selection.index.items])
    return (*items, slice(None)) if per_sample and any(i is ... for i in items) else items


def _numpy_item(item: Any) -> Any:
    if isinstance(item, Positions):
        return np.array(item.numbers, "int64").reshape(item.shape)
    return item.array if isinstance(item, Array) else item


def _batch_last(values: Any, rank: int) -> Any:
    """Move the batch axis of values in sample coordinates, if they have one, to the end."""
    return np.moveaxis(values, 0, -1) if values.ndim == rank else values[..., None]


def _values(edit: Edit, read: Callable[[], Any], dtype: Any) -> tuple[Any, Any]:
    """The operand in the dtype of the tensor, and the condition, if there is one."""
    condition, operand = edit.selection.condition, edit.operand
    chosen = None
    if condition is not None:
        chosen = _condition(condition, read, dtype.name)
    if not is_computed(operand):
        return _constant(operand, dtype.name, edit.casting), chosen
    selected = read()
    if chosen is not None:
        selected = np.where(chosen, selected, _safe_element(selected, chosen))
    if isinstance(operand, Expression):
        values = operand.evaluate(selected, dtype.name, np, _constant)
        values = np.broadcast_to(values, selected.shape)
    else:
        values = _array(operand(selected.copy()))
        check_computed(values, selected.shape, dtype.name, edit.casting)
    return _constant(values, dtype.name, edit.casting), chosen


def _condition(condition: Any, read: Callable[[], Any], dtype: str) -> Any:
    if not is_computed(condition):
        return condition.array if isinstance(condition, Array) else np.asarray(condition)
    selected = read()
    if isinstance(condition, Expression):
        chosen = condition.evaluate(selected, dtype, np, _constant)
    else:
        chosen = _array(condition(selected.copy()))  # a function may change what it is given
    check_computed_condition(chosen, selected.shape)
    return chosen


def _safe_element(selected: Any, chosen: Any) -> Any:
    """A chosen element, on which a function may run in place of those not chosen; or 1."""
    among = selected[np.broadcast_to(chosen, selected.shape)]
    return among[0] if among.size else np.ones((), selected.dtype)


def _constant(value: Any, dtype: str, casting: str = "same_kind") -> Any:
    if casting == "unsafe":
        value = saturate(value, dtype)
    return np.asarray(value.array if isinstance(value, Array) else value).astype(dtype)


def _array(values: Any) -> Any:
    return values if is_array(values) else keras.ops.convert_to_numpy(values)


def _write(
    op: str, target: Any, index: tuple[Any, ...], values: Any, chosen: Any, layout: Layout
) -> None:
    """Write into `target`, which is ours."""
    if op in ACCUMULATING and layout.has_duplicates:
        selected = target[index]
        if chosen is not None:
            values = np.where(chosen, values, _neutral(op, selected, values))
        # NumPy 2.4 reads past the end of values that it would have to broadcast.
        _UFUNCS[op].at(target, index, np.broadcast_to(values, selected.shape))
        return
    if op in _UFUNCS or chosen is not None:
        old = np.asarray(target[index])
        if op in _UFUNCS:
            values = _UFUNCS[op](old, values, out=old if chosen is None else None)
            if np.may_share_memory(values, target):  # of slices `old` is a view
                return
        if chosen is not None:
            values = np.where(chosen, values, old)
    target[index] = values


def _neutral(op: str, old: Any, values: Any) -> Any:
    """What leaves an element as it is: itself in an extreme, else 0 or 1."""
    if op in ("min", "max"):
        return old
    return np.asarray(1 if op in ("multiply", "divide") else 0).astype(values.dtype)
