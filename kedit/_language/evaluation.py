"""What an expression is, element by element, computed by NumPy or by `keras.ops`. No Keras."""

import math
from typing import Any

from kedit._language.dtypes import integer_range, kind
from kedit._language.expression import COMPARISONS, JOINING, Expression


class Elements:
    """The elements that an expression is computed for; each kernel has its own.

    Attributes:
        library: `numpy` or `keras.ops`, which share the names of functions.
        x: The elements.
        dtype: Name of their dtype.
    """

    library: Any
    x: Any
    dtype: str

    def constant(self, value: Any, dtype: str, limit: int | None = None) -> Any:
        """A number, array or tensor of an expression in a given dtype.

        Args:
            value: The constant.
            dtype: Name of the dtype.
            limit: See `evaluate`.
        """
        raise NotImplementedError

    def position(self, axis: int) -> Any:
        """Where each element is along an axis, counted as the edit counts."""
        raise NotImplementedError

    def per_sample(self, numbers: Any, dtype: str, limit: int | None) -> Any:
        """Integers for each sample, so that they broadcast to the elements; see `constant`."""
        raise NotImplementedError

    def call(self, function: Any, x: Any, dtype: str) -> Any:
        """What a function returns for elements of a dtype, checked."""
        raise NotImplementedError

    def where(self, chosen: Any) -> "Elements":
        """The same elements, with safe ones, and safe constants, where they are not chosen."""
        raise NotImplementedError


def evaluate(
    expression: Expression, of: Elements, dtype: str | None = None, limit: int | None = None
) -> Any:
    """Evaluate an expression.

    Args:
        expression: The expression.
        of: The elements.
        dtype: Name of the dtype to compute in. Defaults to None: that of the elements.
        limit: Integers beyond it, or beyond its negative, become it. Defaults to None: there
            is none. Where elements are is compared with any integers; half the range of 32
            bits leaves room for a sum.
    """
    name, args, library = expression.name, expression.args, of.library
    given = of.dtype if dtype is None else dtype
    if name == "X":
        return of.x
    if name == "position":
        return of.constant(of.position(args[0]), given)
    if name == "each":
        return of.per_sample(args[0], given, limit)
    if name == "apply":
        return of.call(args[1], evaluate(args[0], of, given, limit), given)
    if name == "choose":
        return _choose(args, of, given)
    dtype = expression.dtype_within(given)
    if expression.compares_in:
        limit = 2**31 - 1
    elif limit is not None:
        limit = 2**30
    if name in COMPARISONS and kind(dtype) == 1 and isinstance(args[1], (int, float)):
        # Compare exactly, even if the number does not fit the dtype.
        left = _value(args[0], of, dtype, limit)
        verdict = _integer_comparison(name, args[1], *integer_range(dtype))
        if isinstance(verdict, bool):
            return (library.equal if verdict else library.not_equal)(left, left)
        return getattr(library, name)(left, of.constant(verdict, dtype))
    values = [_value(arg, of, dtype, limit, "bool" if name in JOINING else dtype) for arg in args]
    if name == "abs" and kind(dtype) == 2:
        # The gradient of abs at 0 differs between backends; the gradient of a constant is 0.
        zero = of.constant(0.0, dtype)
        return library.where(library.equal(values[0], zero), zero, library.abs(values[0]))
    if name == "clip":  # whose gradient at the bounds differs between backends
        raised = library.where(library.less(values[0], values[1]), values[1], values[0])
        return library.where(library.greater(raised, values[2]), values[2], raised)
    return getattr(library, name)(*values)


def _value(
    arg: Any, of: Elements, dtype: str, limit: int | None, constant_dtype: str | None = None
) -> Any:
    if isinstance(arg, Expression):
        return evaluate(arg, of, dtype, limit)
    return of.constant(arg, constant_dtype or dtype, limit)


def _choose(args: tuple[Any, ...], of: Elements, dtype: str) -> Any:
    """One of two values for each element. No NaN comes from the one that is not chosen."""
    condition, *branches = args
    chosen = _value(condition, of, dtype, None, "bool")
    values = []
    for number, branch in enumerate(branches):
        here = of
        if isinstance(branch, Expression) and not branch.is_affine:
            here = of.where(of.library.logical_not(chosen) if number else chosen)
        values.append(_value(branch, here, dtype, None))
    return of.library.where(chosen, *values)


def _integer_comparison(name: str, number: float, low: int, high: int) -> int | bool:
    """The integer to compare with instead of `number`, or the answer if all integers share it."""
    if math.isnan(number):
        return name == "not_equal"
    above, below = number > high, number < low
    if name in ("equal", "not_equal"):
        if above or below or number != math.floor(number):
            return name == "not_equal"
        return int(number)
    upward = name in ("greater", "greater_equal")
    if above or below:
        return upward == below
    return math.floor(number) if name in ("greater", "less_equal") else math.ceil(number)
