"""`X` and expressions built from it: conditions and operands that are data. No Keras.

An expression is a tree of named functions, which `kedit._language.evaluation` computes.
"""

import math
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from kedit._language.constants import (
    Array,
    Frozen,
    Placeholder,
    Slot,
    freeze,
    from_json,
    is_replaced,
    is_tensor,
    to_code,
    to_json,
    to_key,
)
from kedit._language.decoding import NESTING, TERMS, check_fields, refused
from kedit._language.dtypes import check_operation, check_values, dtype_name, kind
from kedit._language.items import Each, Positions, Traced
from kedit._language.operations import OPERATIONS
from kedit._language.pickling import pickled
from kedit.errors import DTypeError, OperandError, SavingError

COMPARISONS = {
    "greater": ">",
    "greater_equal": ">=",
    "less": "<",
    "less_equal": "<=",
    "equal": "==",
    "not_equal": "!=",
}
_OPERATIONS = {row.name: row.infix for row in OPERATIONS.values() if row.infix}
_WHOLE = {"mod": "%", "floor_divide": "//"}
_ARITHMETIC = _OPERATIONS | _WHOLE
_LOGIC = {"logical_and": "&", "logical_or": "|"}
JOINING = (*_LOGIC, "logical_not")
_INFIX = COMPARISONS | _ARITHMETIC | _LOGIC
_PREFIX = {"negative": "-", "logical_not": "~"}
_TESTS = ("isnan", "isinf", "isfinite")
_OF_FLOATS = ("sqrt", "exp", "log", "tanh", "sigmoid", "round", "floor", "ceil")
_METHODS = (*_TESTS, *_OF_FLOATS, "sign")
_CALLS = {name: f"{{}}.{name}()" for name in _METHODS}
_CALLS |= {"abs": "abs({})", "clip": "{}.clip({}, {})", "apply": "{}.apply({})"}
_PLACED = ("position", "each")
"""Functions of where an element is."""
_OF_TORCH = {
    "add": ("add", False),
    "sub": ("subtract", False),
    "__rsub__": ("subtract", True),
    "mul": ("multiply", False),
    "div": ("divide", False),
    "__rdiv__": ("divide", True),
    "pow": ("power", False),
    "__rpow__": ("power", True),
    "remainder": ("mod", False),
    "__rmod__": ("mod", True),
    "floor_divide": ("floor_divide", False),
    "__rfloordiv__": ("floor_divide", True),
    "gt": ("greater", False),
    "ge": ("greater_equal", False),
    "lt": ("less", False),
    "le": ("less_equal", False),
    "eq": ("equal", False),
    "__eq__": ("equal", False),
    "ne": ("not_equal", False),
    "__ne__": ("not_equal", False),
    "bitwise_and": ("logical_and", False),
    "__and__": ("logical_and", False),
    "bitwise_or": ("logical_or", False),
    "__or__": ("logical_or", False),
}
"""PyTorch's names of operators, and whether the arguments are swapped."""

_ORDERED = ("greater", "greater_equal", "less", "less_equal", "abs", "sign", "clip")
_ARITY = {"X": 0, "position": 1, "each": 1, "apply": 2, "clip": 3, "choose": 3} | dict.fromkeys(
    (*_PREFIX, *_METHODS, "abs"), 1
)
_ARITY |= dict.fromkeys(_INFIX, 2)


class Operators:
    """Operators that create an `Expression`, except `==` and `!=`, which values need."""

    __slots__ = ()

    def __gt__(self, other: Any) -> "Expression":
        return Expression("greater", self, other)

    def __ge__(self, other: Any) -> "Expression":
        return Expression("greater_equal", self, other)

    def __lt__(self, other: Any) -> "Expression":
        return Expression("less", self, other)

    def __le__(self, other: Any) -> "Expression":
        return Expression("less_equal", self, other)

    __array_ufunc__ = None  # leave `numpy_array > X` to Expression

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """An operator between an expression and a tensor of PyTorch, whose compiler calls this."""
        name, is_reflected = _OF_TORCH.get(function.__name__, ("", False))
        if not name:
            return NotImplemented
        left, right = args[::-1] if is_reflected else args
        return Expression(name, left, right)

    def __add__(self, other: Any) -> "Expression":
        return Expression("add", self, other)

    def __radd__(self, other: Any) -> "Expression":
        return Expression("add", other, self)

    def __sub__(self, other: Any) -> "Expression":
        return Expression("subtract", self, other)

    def __rsub__(self, other: Any) -> "Expression":
        return Expression("subtract", other, self)

    def __mul__(self, other: Any) -> "Expression":
        return Expression("multiply", self, other)

    def __rmul__(self, other: Any) -> "Expression":
        return Expression("multiply", other, self)

    def __truediv__(self, other: Any) -> "Expression":
        return Expression("divide", self, other)

    def __rtruediv__(self, other: Any) -> "Expression":
        return Expression("divide", other, self)

    def __pow__(self, other: Any) -> "Expression":
        return Expression("power", self, other)

    def __rpow__(self, other: Any) -> "Expression":
        return Expression("power", other, self)

    def __mod__(self, other: Any) -> "Expression":
        return Expression("mod", self, other)

    def __rmod__(self, other: Any) -> "Expression":
        return Expression("mod", other, self)

    def __floordiv__(self, other: Any) -> "Expression":
        return Expression("floor_divide", self, other)

    def __rfloordiv__(self, other: Any) -> "Expression":
        return Expression("floor_divide", other, self)

    def __neg__(self) -> "Expression":
        return Expression("negative", self)

    def __abs__(self) -> "Expression":
        return Expression("abs", self)

    def __and__(self, other: Any) -> "Expression":
        return Expression("logical_and", self, other)

    def __rand__(self, other: Any) -> "Expression":
        return Expression("logical_and", other, self)

    def __or__(self, other: Any) -> "Expression":
        return Expression("logical_or", self, other)

    def __ror__(self, other: Any) -> "Expression":
        return Expression("logical_or", other, self)

    def __invert__(self) -> "Expression":
        return Expression("logical_not", self)


def _is_affine(name: str, args: list[Any]) -> bool:
    inner = [arg for arg in args if isinstance(arg, Expression)]
    finite = [isinstance(arg, (int, float)) and math.isfinite(arg) for arg in args]
    if name not in ("add", "subtract", "multiply", "negative"):
        return name == "X"
    return all([arg.is_affine for arg in inner]) and (
        len(inner) + sum(finite) == len(args) and (name != "multiply" or len(inner) == 1)
    )


@pickled
class Expression(Operators, Frozen):
    """A function of the elements of a tensor, written with `X` for an element.

    Supports comparisons (`>`, `>=`, `<`, `<=`, `==`, `!=`), arithmetic (`+`, `-`,
    `*`, `/`, `//`, `%`, `**`), `abs(X)`, `X.clip(low, high)`, functions such as
    `X.sqrt()` and `X.isnan()`, and `&`, `|`, `~` between conditions; `position(axis)`
    stands for where an element is. Constants take the dtype of the tensor and must fit
    it; an integer tensor can be compared with any number. An expression is data: it can
    be printed, pickled and saved.

    The gradient is that of the functions; `//` has none, and `%` sends `g` to the
    left and `-g * (left // right)` to the right.

    Example:
    >>> kedit.at.where((abs(X) > 2.0) & ~X.isinf()).set(0.0)
    at.where((abs(X) > 2.0) & ~X.isinf()).set(0.0)
    """

    __slots__ = (
        "args",
        "compares_in",
        "depth",
        "has_x",
        "is_affine",
        "is_placed",
        "leaves",
        "name",
        "terms",
    )
    name: str
    args: tuple[Any, ...]
    depth: int
    terms: int
    leaves: tuple[Any, ...]
    has_x: bool
    is_affine: bool  # sums of X times finite numbers, whose gradient is finite everywhere
    is_placed: bool
    compares_in: str

    def __init__(self, name: str, *args: Any) -> None:
        if name not in _ARITY:
            raise SavingError(
                f"An expression should be made of {sorted(_ARITY)}. Received: {name!r}."
            )
        frozen = [_argument(arg, name == "apply") for arg in args]
        if len(frozen) != _ARITY[name]:
            raise SavingError(
                f"`{name}` in an expression should have {_ARITY[name]} arguments. Received: "
                f"{len(frozen)}."
            )
        inner = [arg for arg in frozen if isinstance(arg, Expression)]
        depth = 1 + max([arg.depth for arg in inner], default=0)
        terms = 1 + sum([arg.terms for arg in inner])
        leaves: list[Any] = []  # all but constants, from left to right
        for arg in frozen:
            if isinstance(arg, Expression):
                leaves.extend(arg.leaves)
            elif is_replaced(arg) or callable(arg):
                leaves.append(arg)
        has_x = name == "X" or any([arg.has_x for arg in inner])
        is_placed = name in _PLACED or any([arg.is_placed for arg in inner])
        compares = name in COMPARISONS and is_placed and not has_x
        self._init(
            name=name,
            args=tuple(frozen),
            depth=depth,
            terms=terms,
            leaves=tuple(leaves),
            has_x=has_x,
            is_affine=_is_affine(name, frozen),
            is_placed=is_placed,
            compares_in=_dtype_of_places(*frozen) if compares else "",
        )

    def __eq__(self, other: object) -> "Expression":  # type: ignore[override]
        return Expression("equal", self, other)

    def __ne__(self, other: object) -> "Expression":  # type: ignore[override]
        return Expression("not_equal", self, other)

    __hash__ = object.__hash__

    def isnan(self) -> "Expression":
        """True where the element is not a number."""
        return Expression("isnan", self)

    def isinf(self) -> "Expression":
        """True where the element is plus or minus infinity."""
        return Expression("isinf", self)

    def isfinite(self) -> "Expression":
        """True where the element is neither infinite nor NaN."""
        return Expression("isfinite", self)

    def sqrt(self) -> "Expression":
        """The square root, of floats. Its gradient is `0.5 / sqrt(x)`."""
        return Expression("sqrt", self)

    def exp(self) -> "Expression":
        """The exponential, of floats. Its gradient is `exp(x)`."""
        return Expression("exp", self)

    def log(self) -> "Expression":
        """The natural logarithm, of floats. Its gradient is `1 / x`."""
        return Expression("log", self)

    def tanh(self) -> "Expression":
        """The hyperbolic tangent, of floats. Its gradient is `1 - tanh(x) ** 2`."""
        return Expression("tanh", self)

    def sigmoid(self) -> "Expression":
        """The logistic function, of floats: `s = 1 / (1 + exp(-x))`. Its gradient is `s * (1 - s)`.

        Example:
        >>> kedit.at(np.array([-100.0, 0.0, 100.0]))[...].set(kedit.X.sigmoid()).round().tolist()
        [0.0, 0.0, 1.0]
        """
        return Expression("sigmoid", self)

    def sign(self) -> "Expression":
        """-1, 0 or 1; NaN for NaN. Its gradient is 0."""
        return Expression("sign", self)

    def round(self) -> "Expression":
        """The nearest whole number, of floats; halves go to the even one. Its gradient is 0."""
        return Expression("round", self)

    def floor(self) -> "Expression":
        """The next whole number below, of floats. Its gradient is 0."""
        return Expression("floor", self)

    def ceil(self) -> "Expression":
        """The next whole number above, of floats. Its gradient is 0."""
        return Expression("ceil", self)

    def clip(self, low: Any, high: Any) -> "Expression":
        """The element, or the bound that it exceeds. Its gradient is 1 from `low` to `high`.

        Args:
            low: Number, array or tensor. Where it exceeds `high`, `high` counts.
            high: Number, array or tensor.

        Example:
        >>> x = np.array([-2.0, 0.5, 7.0])
        >>> kedit.at(x)[...].set(kedit.X.clip(0.0, 1.0)).tolist()
        [0.0, 0.5, 1.0]
        """
        return Expression("clip", self, low, high)

    def apply(self, function: Callable[[Any], Any]) -> "Expression":
        """A function of the elements, which it is called with all at once.

        It is called with chosen elements only, as `at[...].apply` does, and its gradient
        is that of the function. To be saved, it must be registered with Keras.

        Args:
            function: Takes a tensor and returns one of the same shape and kind of dtype.

        Returns:
            An expression.

        Raises:
            kedit.errors.OperandError: If `function` is not callable.
            kedit.errors.EditError: When the edit is applied: a `ShapeError` or a
                `DTypeError` if the function returns something else.

        Gradient:
            That of the function; none from elements that are not chosen.

        Example:
        >>> x = np.array([-2.0, 3.0])
        >>> kedit.at(x).where(kedit.X > 0.0).set(kedit.X.apply(np.square), otherwise=0.0).tolist()
        [0.0, 9.0]
        """
        if not callable(function):
            raise OperandError(
                "`apply` should be given a function. Received: "
                f"{function!r}. Write `X.apply(keras.ops.tanh)`."
            )
        return Expression("apply", self, function)

    def __bool__(self) -> bool:
        raise OperandError(
            "A condition over `X` has no truth value of its own: write `(X > 0) & (X < 1)` for "
            f"`0 < X < 1`, and `|`, `~` for `or`, `not`. Received: {self!r}."
        )

    @property
    def shape(self) -> Any:
        """Raise, so that `X` does not pass for a tensor and end up in a model as a number."""
        self._used_as_tensor()

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        self._used_as_tensor()

    __tf_tensor__ = __array__  # not `__jax_array__`, or JAX would not leave `tensor > X` to `X`

    def _used_as_tensor(self) -> NoReturn:
        raise OperandError(
            "An expression over `X` is no tensor. To index by it, write `at.where(X > 0)`; to "
            "compare with a tensor, write `X` on the left: `X < tensor`, not `tensor > X`. "
            f"Received: `{self!r}`."
        )

    def __repr__(self) -> str:
        parts = [_part_code(arg) for arg in self.args]
        if self.name in _INFIX:
            return f" {_INFIX[self.name]} ".join(parts)
        if self.name in _PREFIX:
            return _PREFIX[self.name] + parts[0]
        if self.name == "abs":
            return f"abs({self.args[0]!r})"
        if self.name == "choose":
            return f"where({', '.join([code_of_part(arg) for arg in self.args])})"
        if self.name in _PLACED:
            value = self.args[0]
            is_listed = isinstance(value, Array) and value.dtype == "int64" and value.numbers
            return f"{self.name}({value.array.tolist() if is_listed else to_code(value)})"
        if self.name in _CALLS:
            bounds = [code_of_part(arg) for arg in self.args[1:]]
            return _CALLS[self.name].format(parts[0], *bounds)
        return "X"

    def __reduce__(self) -> Any:
        return (Expression, (self.name, *self.args))

    @property
    def is_condition(self) -> bool:
        """Whether the expression returns booleans."""
        return self.name in {*COMPARISONS, *JOINING, *_TESTS}

    def constants(self) -> list[Any]:
        """The constants and tensors in the expression, from left to right."""
        return _constants_of(self.args)

    def values(self) -> list[Any]:
        """The constants and tensors that numbers are computed from, not those of a choice."""
        return _constants_of(self.args[1:] if self.name == "choose" else self.args)

    def with_positions(self, change: Callable[["Expression"], "Expression"]) -> "Expression":
        """The same expression with `change` applied to every `position(axis)`."""
        if not self.is_placed or self.name == "each":
            return self
        if self.name == "position":
            return change(self)
        args = [a.with_positions(change) if isinstance(a, Expression) else a for a in self.args]
        return Expression(self.name, *args)

    def parts(self, name: str) -> list["Expression"]:
        """The expressions of a name in this one, itself included."""
        inner = [
            part for arg in self.args if isinstance(arg, Expression) for part in arg.parts(name)
        ]
        return [self, *inner] if self.name == name else inner

    def compares_slots(self) -> bool:
        """Whether a slot is where `X` should be: alone, or on the left of a comparison."""
        wants_x = self.name in (*COMPARISONS, "clip", "apply") or (
            len(self.args) == 1 and self.name != "each"
        )
        return (wants_x and isinstance(self.args[0], Slot)) or any(
            [arg.compares_slots() for arg in self.args if isinstance(arg, Expression)]
        )

    def key(self) -> Any:
        """Hashable stand-in, equal for equal expressions (`==` makes a condition)."""
        args = (arg.key() if isinstance(arg, Expression) else to_key(arg) for arg in self.args)
        return ("expression", self.name, *args)

    def map(self, replace: Callable[[Any], Any], functions: bool = False) -> "Expression":
        """The same expression with `replace` applied to every tensor and slot.

        Args:
            replace: Function to apply.
            functions: Whether to apply it to functions, too.
        """
        return Expression(self.name, *(_map(arg, replace, functions) for arg in self.args))

    def check_saveable(self) -> None:
        """Raise if the expression is nested too deep, or is too large, to be saved."""
        if self.depth > NESTING or self.terms > TERMS:
            raise SavingError(
                f"An expression that is saved should be nested at most {NESTING} deep, and have at "
                f"most {TERMS} parts. Received: one nested {self.depth} deep, of {self.terms} "
                "parts. Write a function, and register it: "
                "`@keras.saving.register_keras_serializable()`."
            )

    def to_json(self, encode: Callable[[Any], Any] = to_json) -> dict[str, Any]:
        """The expression as plain data; `encode` writes constants and functions."""
        self.check_saveable()
        args = [a.to_json(encode) if isinstance(a, Expression) else encode(a) for a in self.args]
        return {"expression": self.name, "args": args}

    @classmethod
    def from_json(
        cls, data: Any, decode: Callable[[Any], Any] = from_json, depth: int = 1
    ) -> "Expression":
        """The expression that `to_json` wrote.

        Args:
            data: What `to_json` wrote.
            decode: Loads constants and functions.
            depth: Nesting depth of this expression, including itself.
        """
        if depth > NESTING:
            raise refused(f"Expressions should be nested at most {NESTING} deep", data)
        fields = check_fields("An expression", data, {"expression": str, "args": list})
        name, args = fields["expression"], []
        for arg in fields["args"]:
            nested = isinstance(arg, dict) and "expression" in arg
            args.append(cls.from_json(arg, decode, depth + 1) if nested else decode(arg))
        made = cls(name, *args)
        if name in _PLACED:
            made._check_placed()
            return made
        if name == "choose" and (depth > 1 or not is_saved_condition(args[0])):
            raise refused("A choice should stand alone, and have a condition", data)
        # As Python's operators do it: a number may be on the left of arithmetic and logic.
        if any([callable(arg) for arg in args]) != (name == "apply"):
            raise refused("A function in an expression should be one of `X.apply(function)`", data)
        over = [isinstance(arg, (Expression, Slot)) for arg in args]
        may_be_right = name in (*_ARITHMETIC, *_LOGIC)
        if args and name != "choose" and not (over[0] or (may_be_right and over[1])):
            raise refused("An expression should have `X` in it, on the left if it compares", data)
        return made

    def check(self, dtype: str, is_compared: bool = False) -> None:
        """Raise for what is not defined in `dtype`, or differs between libraries.

        Args:
            dtype: The dtype to compute in.
            is_compared: Whether it is part of a comparison of where elements are, in which
                integers may be out of range.
        """
        if self.name in _PLACED:
            self._check_placed()
            if self.name == "each" and not is_compared:
                check_values(self.args[0], dtype_name(self.args[0]), dtype)
            if kind(dtype) < 2 and dtype not in _COUNTS:
                raise DTypeError(
                    f"A number computed from where an element is should have 32 bits. Received: "
                    f"`{self!r}` for a tensor of dtype {dtype!r}. Cast it first, as in "
                    "`keras.ops.cast(x, 'int32')`; comparisons without `X` need no cast."
                )
            return
        dtype = self.dtype_within(dtype)
        is_compared = is_compared or bool(self.compares_in)
        if self.name in COMPARISONS and kind(dtype) == 1 and isinstance(self.args[1], (int, float)):
            if isinstance(self.args[0], Expression):
                self.args[0].check(dtype, is_compared)
            return
        self._check(dtype, is_compared)
        for arg in self.args:
            if isinstance(arg, Expression):
                arg.check(dtype, is_compared)

    def dtype_within(self, dtype: str) -> str:
        """The dtype to compute the arguments in, for elements of `dtype`.

        Where elements are is compared as integers, or in float32 with floats, whatever the dtype of
        the elements.
        """
        is_wide = self.compares_in == "float32" and dtype == "float64"
        return dtype if is_wide else self.compares_in or dtype

    def _check_placed(self) -> None:
        value = self.args[0]
        if self.name == "position" and type(value) is not int:
            raise OperandError(
                "`position` should be given the number of an axis. Received: "
                f"{to_code(value)}. Write `position(0)`."
            )
        fits = not isinstance(value, (Expression, int)) and _is_whole(value)
        if self.name == "each" and not (fits and getattr(value, "shape", None) != ()):
            raise OperandError(
                "`each` in an expression should be given integers whose first axis is the batch. "
                f"Received: {to_code(value)}."
            )

    def _check(self, dtype: str, is_compared: bool) -> None:
        if self.name == "choose":
            self._check_choice(dtype)
            return
        for arg in [arg for arg in self.args if not callable(arg)]:
            if isinstance(arg, Expression):
                fits = arg.is_condition or (arg.name in ("X", "apply") and dtype == "bool")
                if self.name in JOINING and not fits:
                    raise DTypeError(
                        "`&`, `|` and `~` should join conditions. Received: "
                        f"`{self!r}` for a tensor of dtype {dtype!r}. Compare, as in `X != 0`."
                    )
            elif not (is_compared and isinstance(arg, Array) and kind(arg.dtype) == 1):
                check_values(arg, dtype_name(arg), "bool" if self.name in JOINING else dtype)
        if kind(dtype) == 0 and self.name in (*_ORDERED, "negative"):
            raise DTypeError(
                "A condition on booleans should use `X`, `~X`, `==`, `&` or `|`. "
                f"Received: {self!r}."
            )
        if self.name in _WHOLE and kind(dtype) not in (1, 2):
            raise DTypeError(
                f"`{_WHOLE[self.name]}` should be given integers or floats. Received: `{self!r}` "
                f"for a tensor of dtype {dtype!r}. Cast it first, as in "
                "`keras.ops.cast(x, 'float32')`."
            )
        if self.name in _OF_FLOATS and kind(dtype) != 2:
            raise DTypeError(
                f"`{self.name}` should be given floats. Received: `{self!r}` for a tensor of dtype "
                f"{dtype!r}. Cast it first, as in `keras.ops.cast(x, 'float32')`."
            )
        if self.name == "negative" and dtype.startswith("uint"):
            raise DTypeError(
                f"A tensor of dtype {dtype!r} has no negative elements. Received: {self!r}. Cast "
                "it first, as in `keras.ops.cast(x, 'int32')`."
            )
        if self.name in _OPERATIONS:
            check_operation(self.name, self.args[1], dtype)
        elif kind(dtype) == 3 and self.name in _ORDERED:
            raise DTypeError(
                "A condition on complex numbers should use `==`, `!=`, `isnan` or `isinf`. "
                f"Received: {self!r}. Write a mask: `at.where(keras.ops.abs(x) > 2.0)`."
            )

    def _check_choice(self, dtype: str) -> None:
        for arg in self.args[1:]:
            if not isinstance(arg, Expression):
                check_values(arg, dtype_name(arg), dtype)
            elif arg.is_condition and kind(dtype) > 0:
                raise DTypeError(
                    f"Values for a tensor of dtype {dtype!r} should be numbers. Received: the "
                    f"condition `{arg!r}`. Write `.where(condition).set(1.0, otherwise=0.0)`."
                )


X = Expression("X")


def position(axis: int) -> Expression:
    """Where an element is along an axis, as an expression like `X`.

    It counts from 0, in the tensor, whatever the index selects. Compared with integers it is
    exact in every dtype of the tensor; together with `X` it takes the dtype of the tensor.
    Arithmetic of positions and integers is done in 32 bits, as that of int32 tensors is. Sizes
    may be unknown when a model is built.

    Args:
        axis: The axis, counted as the edit counts: inside one sample for `sample`. -1 is
            the last one.

    Returns:
        An expression, for `.where(...)` and for values.

    Raises:
        kedit.errors.OperandError: If `axis` is not an int.
        kedit.errors.EditError: When the edit is applied: a `PositionError` if there is no
            such axis, a `CoordinateError` if it is the batch of a layer, a `DTypeError` if
            it should take a dtype of less than 32 bits.

    Gradient:
        No gradient flows to a position.

    Example:
    >>> x = np.ones((2, 4))
    >>> kedit.sample(x).where(kedit.position(0) >= kedit.each([1, 3])).set(0.0).tolist()
    [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]]
    >>> kedit.at(np.ones((3, 3))).where(kedit.position(1) > kedit.position(0)).set(0.0).tolist()
    [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    """
    is_integer = isinstance(axis, np.integer)
    made = Expression("position", int(axis) if is_integer else axis)
    made._check_placed()
    return made


def choose(condition: Any, values: Any, otherwise: Any) -> Expression:
    """`values` where a condition is met, else `otherwise`; each is computed where it is chosen."""
    return Expression("choose", condition, values, otherwise)


def is_saved_condition(condition: Any) -> bool:
    """Whether data that was loaded is a condition: an expression, a mask, or a slot for one."""
    if isinstance(condition, Expression):
        return condition.is_condition or condition.name == "X"
    is_mask = isinstance(condition, Array) and condition.dtype == "bool"
    return is_mask or isinstance(condition, Slot)


def code_of_part(arg: Any) -> str:
    """The code of an argument that stands alone."""
    return repr(arg) if isinstance(arg, Expression) else to_code(arg)


def _constants_of(args: tuple[Any, ...]) -> list[Any]:
    found = []
    for arg in args:
        if isinstance(arg, Expression):
            found += [] if arg.name in _PLACED else arg.constants()
        elif not callable(arg):
            found.append(arg)
    return found


def _argument(arg: Any, takes_functions: bool) -> Any:
    """An argument of an expression as it is kept."""
    if isinstance(arg, Each):
        return per_sample(arg)
    keeps = isinstance(arg, (Expression, Placeholder)) or (callable(arg) and takes_functions)
    return arg if keeps else freeze(arg)


def per_sample(item: Each) -> Any:
    """The numbers of `each` as an expression, or the placeholder that has one for each sample."""
    positions = item.positions
    if isinstance(positions, Placeholder):
        return positions
    if isinstance(positions, Positions):
        dtype = "uint64" if max(positions.numbers, default=0) >= 2**63 else "int64"
        return Expression("each", Array(dtype, positions.shape, positions.numbers))
    tensor = positions.tensor if isinstance(positions, Traced) else positions
    return Expression("each", tensor)


def _dtype_of_places(left: Any, right: Any) -> str:
    """The dtype to compare in where elements are, or numbers computed from it."""
    is_whole = _is_whole(left) and (isinstance(right, float) or _is_whole(right))
    return "int32" if is_whole else "float32"


def _is_whole(arg: Any) -> bool:
    """Whether an argument holds integers: constants, tensors, or expressions without `X`."""
    if isinstance(arg, Expression):
        computes = arg.name in (*_WHOLE, "add", "subtract", "multiply", "negative", "abs", "clip")
        return arg.name in _PLACED or (computes and all([_is_whole(part) for part in arg.args]))
    if isinstance(arg, (bool, int, float, complex)):
        return isinstance(arg, int) and not isinstance(arg, bool)
    return not hasattr(arg, "dtype") or kind(dtype_name(arg)) == 1


_COUNTS = ("int32", "int64", "uint32", "uint64")


def _map(arg: Any, replace: Callable[[Any], Any], functions: bool) -> Any:
    if isinstance(arg, Expression):
        return arg.map(replace, functions)
    is_function = functions and callable(arg) and not is_tensor(arg)
    return replace(arg) if is_replaced(arg) or is_function else arg


def _part_code(arg: Any) -> str:
    if not isinstance(arg, Expression):
        code = to_code(arg)
        return f"({code})" if code.startswith("-") else code  # -2 ** X is -(2 ** X)
    return f"({arg!r})" if arg.name in _INFIX or arg.name == "negative" else repr(arg)
