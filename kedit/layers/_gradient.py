"""Apply an edit in a layer with a gradient other than the exact one."""

from dataclasses import replace
from typing import Any, get_args

import keras

from kedit import _run
from kedit._edit import Edit, choice_of, condition_of
from kedit._language.constants import Placeholder
from kedit._language.dtypes import kind
from kedit._language.evaluation import Elements, evaluate
from kedit._language.expression import Expression
from kedit._language.selection import Selection, placeholders_in
from kedit._language.trainable import Trainable
from kedit._language.types import Gradient, Shape, Tensor
from kedit._plan.check import axis_of_tensor, spread_over_sample
from kedit._run import ops
from kedit.errors import DTypeError, OperandError

GRADIENTS = get_args(Gradient)
_GREATER = ("greater", "greater_equal")
_ORDERED = (*_GREATER, "less", "less_equal")


def apply(edit: Edit, x: Tensor, shape: Shape, gradient: str, temperature: float) -> Tensor:
    """Apply an edit with the chosen gradient. Values match `_run.apply` to the last bit.

    Args:
        edit: The edit, with tensors in place of its `Trainable`s.
        x: Tensor of the running backend.
        shape: Shape that the layer was built with.
        gradient: One of `GRADIENTS`, as `kedit.layers.Editing` defines them.
        temperature: Width of the sigmoid.
    """
    dtype = keras.backend.standardize_dtype(x.dtype)
    if gradient == "exact" or kind(dtype) < 2:  # integers have no gradient
        return _run.apply(edit, x, shape)
    if kind(dtype) == 3:
        raise DTypeError(
            f"A layer with `gradient={gradient!r}` should be given real numbers. Received: dtype "
            f'{dtype!r}. Use `gradient="exact"`.'
        )
    if gradient == "straight_through":
        y = _run.apply(edit, ops.stop_gradient(x), shape)
        finite = ops.where(ops.isfinite(x), x, ops.zeros_like(x))
        return ops.subtract(y, _falling(finite))
    if gradient == "blocked":
        stop = replace(edit, op="apply", operand=ops.stop_gradient, casting="same_kind")
        return _run.apply(edit, _run.apply(stop, x, shape), shape)
    return _with_surrogate(edit, x, shape, dtype, temperature)


def check_can_learn(edit: Edit, gradient: str) -> None:
    """Raise if a `Trainable` can never receive a gradient."""
    condition = condition_of(edit)
    held = _unlearnable(condition) if gradient == "sigmoid" else placeholders_in(condition)
    stuck = [leaf for leaf in held if isinstance(leaf, Trainable) and leaf.trainable]
    if stuck:
        raise OperandError(
            "A Trainable in a condition should have a surrogate gradient, and stand in a "
            "comparison by `>`, `>=`, `<` or `<=`: the exact gradient is 0 wherever it exists, so "
            f"that it would never learn. Received: `{stuck[0]!r}` in `{edit!r}` with "
            f'gradient={gradient!r}. Write `Editing(edit, gradient="sigmoid")`.'
        )


def compares(condition: Any) -> bool:
    """Whether a surrogate can give a condition a gradient."""
    if not isinstance(condition, Expression):
        return False
    return condition.name in _ORDERED or any([compares(arg) for arg in condition.args])


def _unlearnable(condition: Any) -> list[Any]:
    if isinstance(condition, Placeholder):
        return [condition]
    if not isinstance(condition, Expression) or condition.name in _ORDERED:
        return []
    return [stuck for arg in condition.args for stuck in _unlearnable(arg)]


def _falling(x: Tensor) -> Tensor:
    """Return 0.0 with the gradient of `-x`.

    Subtracting it adds the gradient of `x` and changes no value, not even -0.0. `x` must be
    finite, and not a product, which a compiler might fuse with the difference.
    """
    return ops.subtract(ops.stop_gradient(x), x)


def _with_surrogate(edit: Edit, x: Tensor, shape: Shape, dtype: str, temperature: float) -> Tensor:
    """Apply the edit, and add the gradient of `m * change`, where `m` is the soft condition."""
    y = _run.apply(edit, x, shape)
    selection, condition, choice = edit.selection, condition_of(edit), choice_of(edit)
    if not compares(condition):
        return y
    everywhere = replace(edit, selection=Selection(selection.coordinates, selection.index))
    if choice is not None:
        everywhere = replace(everywhere, operand=choice.args[1])
    if _run.check(everywhere, _run.known_shape(x, shape), dtype).layout.has_duplicates:
        raise OperandError(
            "An edit with a surrogate gradient should name every element once. Received: "
            f"`{selection!r}`. Drop the repeated positions, or promise that there are none: "
            "`unique_indices=True`."
        )
    read = replace(everywhere, op="get", operand=None, casting="same_kind")
    old = _run.apply(read, x, shape)
    new = _run.apply(read, _run.apply(everywhere, ops.stop_gradient(x), shape), shape)
    other = old
    if choice is not None:
        otherwise = replace(everywhere, operand=choice.args[2])
        other = _run.apply(read, _run.apply(otherwise, ops.stop_gradient(x), shape), shape)
    change = ops.stop_gradient(ops.subtract(new, other))
    change = ops.where(ops.isfinite(change), change, ops.zeros_like(change))
    of = _Elements(old, dtype, x, lambda numbers: _run.apply(read, numbers, shape), selection)
    _, slope = _surrogate(condition, of, temperature)
    # 0.0 for either sign of the change, so that subtracting it also leaves -0.0 unchanged.
    falling = ops.where(change >= 0, _falling(slope), _falling(ops.negative(slope)))
    nothing = ops.multiply(ops.abs(change), falling)
    write = replace(read, op="apply", operand=lambda written: ops.subtract(written, nothing))
    return _run.apply(write, y, shape)


class _Elements(Elements):
    """The elements that an edit selects, read from its tensor.

    Args:
        x: The elements.
        dtype: Name of their dtype.
        source: The tensor.
        read: Reads the same elements from another tensor of its shape.
        selection: The selection.
    """

    library = ops

    def __init__(
        self, x: Tensor, dtype: str, source: Tensor, read: Any, selection: Selection
    ) -> None:
        self.x, self.dtype, self.source = x, dtype, source
        self.read, self.selection = read, selection

    def constant(self, value: Any, dtype: str, limit: int | None = None) -> Tensor:
        return _run.limited(value, dtype, limit)

    def position(self, axis: int) -> Tensor:
        shape = ops.shape(self.source)
        axis = axis_of_tensor(axis, self.selection.coordinates, len(shape))
        places = [-1 if other == axis else 1 for other in range(len(shape))]
        here = ops.reshape(ops.arange(shape[axis], dtype="int32"), places)
        return self.read(ops.broadcast_to(here, shape))

    def per_sample(self, numbers: Any, dtype: str, limit: int | None) -> Tensor:
        found = self.constant(numbers, dtype, limit)
        return ops.reshape(found, spread_over_sample(ops.shape(found), len(self.x.shape)))

    def call(self, function: Any, x: Tensor, dtype: str) -> Tensor:
        return ops.cast(function(ops.copy(x)), dtype)

    def instead(self, x: Tensor) -> "_Elements":
        """The same places, with other elements."""
        return _Elements(x, self.dtype, self.source, self.read, self.selection)


def _surrogate(condition: Any, of: _Elements, temperature: float) -> tuple[Tensor, Tensor]:
    """Return a condition as 0 and 1, and 0 with the gradient of its surrogate.

    Conditions combine as numbers: `a & b` is `a * b`, and `a | b` is `a + b - a * b`.
    """
    dtype = of.dtype
    one, zero = _run.constant(1, dtype), _run.constant(0, dtype)

    def both(part: Any) -> tuple[Tensor, Tensor]:
        if not isinstance(part, Expression):
            return _run.constant(part, dtype), zero
        if part.name == "logical_not":
            value, slope = both(part.args[0])
            return one - value, ops.negative(slope)
        if part.name in ("logical_and", "logical_or"):
            (left, left_slope), (right, right_slope) = both(part.args[0]), both(part.args[1])
            if part.name == "logical_and":
                return left * right, right * left_slope + left * right_slope
            joined = left + right - left * right
            return joined, (one - right) * left_slope + (one - left) * right_slope
        hard = evaluate(part, of)
        value = ops.cast(hard, dtype)
        return value, _slope(part) if part.name in _ORDERED else zero

    def _slope(part: Expression) -> Tensor:
        wide = part.dtype_within(dtype)
        wide = dtype if kind(wide) < 2 else wide

        def distance(elements: _Elements) -> Tensor:
            left, right = [
                evaluate(arg, elements, wide)
                if isinstance(arg, Expression)
                else _run.constant(arg, wide)
                for arg in part.args
            ]
            above = left - right if part.name in _GREATER else right - left
            return above * _run.constant(1 / temperature, wide)

        # Run again on safe elements: no NaN may come back from the others.
        finite = ops.isfinite(ops.stop_gradient(distance(of)))
        safe = of
        if part.has_x:
            finite = ops.logical_and(finite, ops.isfinite(of.x))
            safe = of.instead(ops.where(finite, of.x, ops.ones_like(of.x)))
        found = distance(safe)
        soft = ops.sigmoid(ops.where(finite, found, ops.zeros_like(found)))
        soft = ops.where(finite, soft, ops.zeros_like(soft))  # not a product: see `_falling`
        return ops.cast(ops.negative(_falling(soft)), dtype)

    return both(condition)
