"""Whether an edit fits a tensor: all checks that need no values."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kedit._language.constants import is_scalar, is_tensor, shape_of
from kedit._language.dtypes import check_operation, check_values, dtype_name, kind, promoted
from kedit._language.expression import Expression
from kedit._language.items import Traced, TracedSlot, is_mask
from kedit._language.operations import OPERATIONS
from kedit._language.selection import Selection
from kedit._language.types import Casting, Coordinates, Mode, Shape
from kedit._plan.bind import BindOptions, bind
from kedit._plan.layout import Layout
from kedit.errors import DTypeError, OperandError, PositionError, ShapeError


class Edit(Protocol):
    """What the kernels need to know about an edit; `kedit.Edit` implements it."""

    @property
    def selection(self) -> Selection: ...
    @property
    def op(self) -> str: ...
    @property
    def operand(self) -> Any: ...
    @property
    def casting(self) -> Casting: ...
    @property
    def mode(self) -> Mode | None: ...
    @property
    def fill_value(self) -> Any: ...
    @property
    def size(self) -> int | None: ...
    @property
    def unique_indices(self) -> bool: ...
    @property
    def indices_are_sorted(self) -> bool: ...


@dataclass(eq=False)
class Bound:
    """An edit's index bound to a tensor.

    Attributes:
        layout: Where the index lands.
        selected: Shape of the selection, to which values broadcast.
        counted: For a mask that is a tensor, the axis of `selected` that runs along
            its True elements, whose number is unknown.
    """

    layout: Layout
    selected: Shape
    counted: int | None = None


def check(
    edit: Edit,
    shape: Shape,
    dtype: str,
    *,
    already_checked: bool = False,
    spread_masks: bool = True,
) -> Bound:
    """Bind an edit to a tensor of the given shape and dtype, or raise if it does not fit.

    Args:
        edit: The edit.
        shape: Shape of the tensor, with None for an unknown size.
        dtype: Dtype of the tensor.
        already_checked: Whether the edit was checked when a graph was built. Then
            only the index is bound again: on the NumPy backend, the tensors of a
            graph look like constants, for which the rules are stricter.
        spread_masks: Whether a mask, with one value for all, may select all of its
            places, so that a `where` chooses among them.
    """
    selection = edit.selection
    check_operation(edit.op, edit.operand, dtype)
    if not already_checked:
        _check_options(edit)
    layout = bind(selection, shape, _bind_options(edit, spread_masks))
    if edit.mode == "raise" and any([p.is_computed and p.size is None for p in layout.picks]):
        raise OperandError(
            '`mode="raise"` should be given axes of known size. Received: '
            f"`{selection!r}` for a tensor of shape {tuple(shape)}. Give the input its shape, or "
            'use `mode="drop"`, `"clip"` or `"wrap"`.'
        )
    if already_checked:
        return Bound(layout, layout.result)
    bound = _bound(layout)
    _check_operand(edit, bound, dtype)
    _check_condition(selection, bound, dtype)
    _check_one_answer_per_place(edit, layout)
    return bound


def _bound(layout: Layout) -> Bound:
    """What values have to fit: for a mask, only the places where it is True."""
    if layout.mask is None:
        return Bound(layout, layout.result)
    is_open = isinstance(layout.mask, TracedSlot)
    count = None if is_open else int(np.count_nonzero(layout.mask.array))
    dim = layout.mask_dim
    selected = (*layout.result[:dim], count, *layout.result[dim + 1 :])
    return Bound(layout, selected, dim if is_open else None)


def _bind_options(edit: Edit, spread_masks: bool) -> BindOptions:
    """How to bind the index."""
    mask, unique = edit.selection.index.mask, edit.unique_indices
    if edit.op == "get" or mask is None:
        return BindOptions(edit.mode, unique, "positions" if edit.size is None else edit.size)
    one_for_all = is_one_for_all(edit.operand) and is_one_for_all(edit.selection.condition)
    spread = spread_masks and (isinstance(mask, Traced) or one_for_all)
    return BindOptions(edit.mode, unique, "places" if spread else "positions")


def _check_options(edit: Edit) -> None:
    """Raise for options that computed positions do not support, or that have no effect."""
    index = edit.selection.index
    masks = [item for item in index.items if is_mask(item)]
    if edit.mode == "raise" and index.tensors():
        raise OperandError(
            '`mode="raise"` should be given positions whose values are there to look at. Received: '
            f"`{edit.selection!r}` inside a compiled function or a model, where an error cannot be "
            'raised. Use `mode="drop"`, `"clip"` or `"wrap"`, or check before: '
            "`keras.ops.convert_to_numpy(index)`."
        )
    if edit.op == "get" and edit.size is None and any([isinstance(m, Traced) for m in masks]):
        raise OperandError(
            "`get` with a mask whose values are not there to look at has no shape that is known "
            f"beforehand. Received: `{edit.selection!r}` inside a compiled function or a model. "
            "Keep the shape, `keras.ops.where(mask, x, 0.0)`, or say how many there are to be, "
            "`.get(size=10, fill_value=0.0)`."
        )
    if edit.size is not None and not masks:
        raise OperandError(
            "`size` says how many elements of a mask to get. Received: "
            f"size={edit.size} for `{edit.selection!r}`. Drop `size`, or index by a mask."
        )


def is_computed(operand: Any) -> bool:
    """Whether an operand is computed from the selected elements."""
    return isinstance(operand, Expression) or callable(operand)


def is_one_for_all(value: Any) -> bool:
    """Whether an operand or a condition holds no array with entries for single elements."""
    if isinstance(value, Expression):
        return all([is_one_for_all(constant) for constant in value.constants()])
    return value is None or callable(value) or all([n == 1 for n in shape_of(value)])


def _agree(left: Shape, right: Shape) -> bool:
    return len(left) == len(right) and all(
        a is None or b is None or a == b for a, b in zip(left, right, strict=True)
    )


def _check_operand(edit: Edit, bound: Bound, dtype: str) -> None:
    operand = edit.operand
    if edit.op == "get":
        if edit.fill_value is not None:
            check_values(edit.fill_value, type(edit.fill_value).__name__, dtype, None)
        return
    if isinstance(operand, Expression):
        if operand.is_condition and kind(dtype) > 0:
            raise DTypeError(
                f"Values for a tensor of dtype {dtype!r} should be numbers. Received: the "
                f"condition `{operand!r}`. Write `.where(condition).set(...)`."
            )
        for constant in operand.constants():
            _check_broadcast(constant, bound, edit.selection, "A constant of an expression")
        _check_places(operand, bound, edit.selection)
        operand.check(promoted(edit, dtype))
    elif is_scalar(operand):
        check_values(operand, type(operand).__name__, dtype, edit.casting)
    elif not callable(operand):
        _check_broadcast(operand, bound, edit.selection, "Values", counted=bound.counted)
        check_values(operand, dtype_name(operand), dtype, edit.casting)


def _check_condition(selection: Selection, bound: Bound, dtype: str) -> None:
    condition = selection.condition
    if isinstance(condition, Expression):
        for constant in condition.constants():
            _check_broadcast(constant, bound, selection, "A constant of a condition")
        _check_places(condition, bound, selection)
        condition.check(dtype)
    elif condition is not None and not callable(condition):
        if dtype_name(condition) != "bool":
            raise DTypeError(
                "A condition should be boolean: an expression over `X`, a mask or a function "
                f"that gives one. Received: an array of dtype {dtype_name(condition)!r}. Write "
                "`.where(mask != 0)`."
            )
        _check_broadcast(condition, bound, selection, "A mask")


def _check_places(expression: Expression, bound: Bound, selection: Selection) -> None:
    """Raise for a `position` of an axis that there is not, and an `each` that does not fit."""
    if not expression.is_placed:
        return
    rank = len(bound.layout.shape)
    for part in expression.parts("position"):
        axis_of_tensor(part.args[0], selection.coordinates, rank)
    for part in expression.parts("each"):
        if selection.coordinates != "sample":
            raise OperandError(
                "`each` gives numbers for each sample, so that the edit should be counted inside "
                f"one. Received: `{part!r}` in `{selection!r}`. Write `sample[...]`."
            )
        shape, selected = shape_of(part.args[0]), bound.selected
        spread = spread_over_sample(shape, len(selected))
        fits = 0 < len(shape) <= len(selected)
        is_open = is_tensor(part.args[0])  # whose sizes may turn out to fit
        if not fits or not all(
            [
                n == 1 or (n == size and n is not None) or (is_open and None in (n, size))
                for n, size in zip(spread, selected, strict=True)
            ]
        ):
            raise ShapeError(
                "`each` in an expression should have the batch as its first axis, and its others "
                f"should broadcast to the selection, {tuple(selected)}. Received: shape {shape} in "
                f"`{selection!r}`. Where the batch may have any size, give a tensor, such as an "
                "input of the model."
            )


def _check_broadcast(
    values: Any, bound: Bound, selection: Selection, what: str, counted: int | None = None
) -> None:
    """Check that `values` broadcast to the selection and have no more axes than it.

    A constant must certainly fit: along an axis of unknown size, such as the batch
    in a layer, it must have size 1. A tensor is checked later. Along a mask that is
    a tensor, values may have any length: one for each True.
    """
    shape, selected = shape_of(values), bound.selected
    fits = len(shape) <= len(selected)
    for dim, (size, wanted) in enumerate(zip(reversed(shape), reversed(selected), strict=False)):
        unsure = is_tensor(values) and None in (size, wanted)
        if len(selected) - 1 - dim == bound.counted:  # values are for each True here
            unsure = counted is not None
        fits = fits and (size in (1, wanted) or unsure)
    if not fits:
        raise ShapeError(
            f"{what} should broadcast to the shape of the selection, {tuple(selected)}, where an "
            f"axis of unknown size, as None, takes one value for all. Received: shape {shape} for "
            f"`{selection!r}`. Reshape them, as in `numpy.reshape(values, shape)`."
        )


def _check_one_answer_per_place(edit: Edit, layout: Layout) -> None:
    """Raise if a condition may differ between two picks of one element, of which one must win."""
    varies = not is_one_for_all(edit.selection.condition)
    if layout.has_duplicates and varies and not OPERATIONS[edit.op].combines:
        raise OperandError(
            f"`{edit.op}` where an index names an element twice should be given a condition that "
            "is the same for both. Received: a condition that differs along the index, in "
            f"`{edit.selection!r}`. Name every element once, edit twice, `first | second`, or, of "
            "positions that are tensors, promise that they differ: `unique_indices=True`."
        )


def call_function(function: Any, selected: Any, dtype: str) -> Any:
    """Call a function on the selected elements."""
    try:
        return function(selected)
    except TypeError as error:
        if kind(dtype) > 1:
            raise
        # `integers * 0.5` raises on some backends and gives floats on others.
        raise DTypeError(
            f"A function of the selected elements should take what it is given, {dtype!r}. "
            f"Received: a TypeError, {error} Cast inside of it, as in "
            "`lambda x: keras.ops.cast(x, 'float32') * 0.5`."
        ) from error


def axis_of_tensor(axis: int, coordinates: Coordinates, rank: int) -> int:
    """The axis of the tensor that `position(axis)` means."""
    first = 1 if coordinates == "sample" else 0
    number = axis + (rank if axis < 0 else first)
    if first <= number < rank:
        return number
    raise PositionError(
        f"`position` should name an axis from {first - rank} to {rank - first - 1}, as the edit "
        f"counts them in a tensor of rank {rank}. Received: position({axis})."
    )


def spread_over_sample(shape: Shape, rank: int) -> Shape:
    """Shape of numbers for each sample, so that they broadcast to a selection of `rank`."""
    return (shape[0], *[1] * (rank - len(shape)), *shape[1:])


def check_computed(values: Any, shape: Shape, dtype: str, casting: Casting) -> None:
    """Check that a function returned one value for each selected element, of their kind."""
    check_values(None, dtype_name(values), dtype, casting)
    if not _agree(shape_of(values), shape):
        raise ShapeError(
            f"A function of the selected elements should keep their shape, {shape}. Received: "
            f"shape {shape_of(values)}. It is called with all selected elements at once and should "
            "work element by element."
        )


def check_computed_condition(chosen: Any, shape: Shape) -> None:
    """Check that a condition returned one boolean for each selected element."""
    if dtype_name(chosen) != "bool":
        raise DTypeError(
            "A condition should give booleans. Received: dtype "
            f"{dtype_name(chosen)!r}. Compare, as in `at.where(X > 0)`."
        )
    given = shape_of(chosen)
    if len(given) > len(shape) or not all(
        [
            n in (None, 1, size) or size is None
            for n, size in zip(given[::-1], shape[::-1], strict=False)
        ]
    ):
        raise ShapeError(
            "A condition should broadcast to the shape of the selected elements, "
            f"{shape}. Received: shape {given}."
        )
