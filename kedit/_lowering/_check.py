"""Whether an edit fits a tensor: all that can be said before a value is touched."""

from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np

from kedit._casting import check_operation, check_values, kind
from kedit._data import Array, is_tensor, shape_of
from kedit._expression import Expression
from kedit._index import Index
from kedit._layout import Layout
from kedit._selection import Selection
from kedit._types import Casting, Shape
from kedit.errors import DTypeError, OperandError, ShapeError

ACCUMULATING = frozenset({"add", "subtract", "multiply", "divide", "min", "max"})


class Edit(Protocol):
    """What the kernels need to know of an edit; `kedit.Edit` is one."""

    @property
    def selection(self) -> Selection: ...
    @property
    def op(self) -> str: ...
    @property
    def operand(self) -> Any: ...
    @property
    def casting(self) -> Casting: ...


@dataclass(eq=False)
class Bound:
    """An edit's index bound to a tensor.

    Attributes:
        layout: Where the index lands.
        selected: Shape of what is selected, to which values broadcast.
        mask: The mask of an index that is one mask over the whole tensor and is
            lowered as a condition; `layout` is then that of `...`.
    """

    layout: Layout
    selected: Shape
    mask: Any = None


def check(edit: Edit, shape: Shape, dtype: str, *, again: bool = False) -> Bound:
    """Bind an edit to a tensor of the given shape and dtype, or say why it does not fit.

    Args:
        edit: The edit.
        shape: Shape of the tensor, with None where a size is not known.
        dtype: Dtype of the tensor.
        again: Whether this was checked when a graph was built. Then only the
            index is bound anew: on the NumPy backend the tensors of a graph
            cannot be told from constants, for which the rules are stricter.
    """
    selection = edit.selection
    check_operation(edit.op, edit.operand, dtype)
    mask = _whole_mask(edit, len(shape))
    if mask is None:
        _check_no_tensors(selection.index)
        layout = selection.bind(shape)
        bound = Bound(layout, layout.result)
    else:
        if not again:
            _check_mask_shape(selection, shape)
        layout = Selection(selection.coordinates, Index(...)).bind(shape)
        count = None if again or is_tensor(mask) else int(np.count_nonzero(mask.array))
        selected = (count,) if selection.coordinates == "at" else (shape[0], count)
        bound = Bound(layout, selected, mask)
    if again:
        return bound
    _check_operand(edit, bound.selected, dtype)
    _check_condition(selection, bound.selected)
    _check_one_answer_per_place(edit, layout)
    return bound


def is_computed(operand: Any) -> bool:
    """Whether an operand is computed from the selected elements."""
    return isinstance(operand, Expression) or callable(operand)


def _whole_mask(edit: Edit, rank: int) -> Any:
    """The mask that is the whole index, if it is a tensor or all that it meets is for all."""
    mask, operand = edit.selection.index.mask, edit.operand
    per_sample = edit.selection.coordinates == "sample"
    if mask is None or len(mask.shape) != rank - per_sample:
        return None
    if edit.op == "get":
        return mask if is_tensor(mask) else None
    one_for_all = _is_one_for_all(operand) and _is_one_for_all(edit.selection.condition)
    if is_tensor(mask) and not one_for_all:
        raise OperandError(
            "Where the mask is a tensor, values should be one number for all. Received: values "
            f"of shape {shape_of(operand) if not is_computed(operand) else 'unknown'} for "
            f"`{edit.selection!r}`. Give a value for every element of x: "
            "`at.where(mask).set(values)`."
        )
    return mask if one_for_all else None


def _is_one_for_all(value: Any) -> bool:
    """Whether an operand or a condition holds no array with entries for single elements."""
    if isinstance(value, Expression):
        return all([_is_one_for_all(constant) for constant in value.constants()])
    return value is None or callable(value) or all([n == 1 for n in shape_of(value)])


def _check_mask_shape(selection: Selection, shape: Shape) -> None:
    mask = selection.index.mask
    if is_tensor(mask):
        wanted = shape[1:] if selection.coordinates == "sample" else shape
        if not _agree(tuple(mask.shape), wanted):
            raise ShapeError(
                f"A mask should have the shape {wanted}. Received: a mask of shape "
                f"{tuple(mask.shape)}. To broadcast it, write `.where(mask)`."
            )
    else:
        selection.bind(shape)  # raises what NumPy would


def _agree(left: Shape, right: Shape) -> bool:
    return len(left) == len(right) and all(
        a is None or b is None or a == b for a, b in zip(left, right, strict=True)
    )


def _check_no_tensors(index: Index) -> None:
    if any(is_tensor(item) for item in index.items):
        raise OperandError(
            "A mask that is a tensor should stand alone in the brackets and have the shape of "
            f"the whole tensor. Received: {index}. Write a condition: `at.where(mask)`, where "
            "the mask may broadcast."
        )


def _check_operand(edit: Edit, selected: Shape, dtype: str) -> None:
    operand = edit.operand
    if edit.op == "get":
        if selected.count(None) and is_tensor(edit.selection.index.mask):
            raise OperandError(
                "`get` with a mask that is a tensor has no shape that is known beforehand. "
                f"Received: {edit.selection!r}. Keep the shape instead: "
                "`keras.ops.where(mask, x, 0.0)`, or give the mask as a NumPy array."
            )
        return
    if isinstance(operand, Expression):
        if operand.is_condition and kind(dtype) > 0:
            raise DTypeError(
                f"Values for a tensor of dtype {dtype!r} should be numbers. Received: the "
                f"condition `{operand!r}`. Write `.where(condition).set(...)`."
            )
        for constant in operand.constants():
            _check_broadcast(constant, selected, edit.selection, "A constant of an expression")
    elif not callable(operand):
        _check_broadcast(operand, selected, edit.selection, "Values")
        check_values(operand, _dtype(operand), dtype, edit.casting)


def _check_condition(selection: Selection, selected: Shape) -> None:
    condition = selection.condition
    if isinstance(condition, Expression):
        for constant in condition.constants():
            _check_broadcast(constant, selected, selection, "A constant of a condition")
    elif condition is not None and not callable(condition):
        if _dtype(condition) != "bool":
            raise DTypeError(
                "A condition should be boolean: an expression over `X`, a mask or a function "
                f"that gives one. Received: an array of dtype {_dtype(condition)!r}. Write "
                "`.where(mask != 0)`."
            )
        _check_broadcast(condition, selected, selection, "A mask")


def _check_broadcast(values: Any, selected: Shape, selection: Selection, what: str) -> None:
    """Check that `values` broadcast to the selection, with no axis to spare.

    A constant has to fit for certain: where a size is not known, as that of the
    batch in a layer, it has one entry for all. Of a tensor that shows later.
    """
    shape = shape_of(values)
    unsure = (None,) if is_tensor(values) else ()
    fits = len(shape) <= len(selected) and all(
        [
            size in (1, wanted, *unsure) or (wanted in unsure)
            for size, wanted in zip(reversed(shape), reversed(selected), strict=False)
        ]
    )
    if not fits:
        raise ShapeError(
            f"{what} should broadcast to the shape of the selection, {tuple(selected)}, where an "
            f"axis of unknown size, as None, takes one value for all. Received: shape {shape} for "
            f"`{selection!r}`. Reshape them, as in `numpy.reshape(values, shape)`."
        )


def _check_one_answer_per_place(edit: Edit, layout: Layout) -> None:
    """Refuse a condition that may differ between two picks of one element, where one must win."""
    condition = edit.selection.condition
    if isinstance(condition, Expression):
        varies = any([shape_of(constant) for constant in condition.constants()])
    else:
        varies = condition is not None and not callable(condition)
    if layout.has_duplicates and varies and edit.op not in ACCUMULATING:
        raise OperandError(
            f"`{edit.op}` where an index names an element twice should be given a condition that "
            "is the same for both. Received: a condition that differs along the index, in "
            f"`{edit.selection!r}`. Name every element once, or edit twice: `first | second`."
        )


def check_computed(values: Any, shape: Shape, dtype: str, casting: Casting) -> None:
    """Check what a function of the selected elements gave: one value for each, of their kind."""
    check_values(None, _dtype(values), dtype, casting)
    if not _agree(shape_of(values), shape):
        raise ShapeError(
            f"A function of the selected elements should keep their shape, {shape}. Received: "
            f"shape {shape_of(values)}. It is called with all selected elements at once and should "
            "work element by element."
        )


def check_computed_condition(chosen: Any, shape: Shape) -> None:
    """Check what a condition gave: a boolean for each selected element."""
    if _dtype(chosen) != "bool":
        raise DTypeError(
            "A condition should give booleans. Received: dtype "
            f"{_dtype(chosen)!r}. Compare, as in `at.where(X > 0)`."
        )
    if not _agree(shape_of(chosen), shape):
        raise ShapeError(
            f"A condition should keep the shape of the selected elements, {shape}. Received: "
            f"shape {shape_of(chosen)}."
        )


def _dtype(values: Any) -> str:
    if isinstance(values, Array):
        return values.dtype
    if hasattr(values, "dtype"):
        return str(keras.backend.standardize_dtype(values.dtype))
    return type(values).__name__
