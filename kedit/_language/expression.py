"""`X` and expressions built from it: conditions and operands that are data. No Keras.

An expression is a tree of named functions. NumPy and `keras.ops` share these
names, so either can evaluate the tree.
"""

import math
from collections.abc import Callable
from typing import Any

from kedit._language.constants import (
    Array,
    Frozen,
    Placeholder,
    Slot,
    freeze,
    from_json,
    is_replaced,
    is_scalar,
    to_code,
    to_json,
    to_key,
)
from kedit._language.decoding import NESTING, TERMS, check_fields, refused
from kedit._language.dtypes import check_operation, check_values, dtype_name, integer_range, kind
from kedit._language.operations import OPERATIONS
from kedit.errors import DTypeError, OperandError, SavingError

_COMPARISONS = {
    "greater": ">",
    "greater_equal": ">=",
    "less": "<",
    "less_equal": "<=",
    "equal": "==",
    "not_equal": "!=",
}
_ARITHMETIC = {row.name: row.infix for row in OPERATIONS.values() if row.infix}
_LOGIC = {"logical_and": "&", "logical_or": "|"}
_JOINING = (*_LOGIC, "logical_not")
_INFIX = _COMPARISONS | _ARITHMETIC | _LOGIC
_PREFIX = {"negative": "-", "logical_not": "~"}
_TESTS = ("isnan", "isinf", "isfinite")
_OF_FLOATS = ("sqrt", "exp", "log", "tanh", "round", "floor", "ceil")
_METHODS = (*_TESTS, *_OF_FLOATS, "sign")
_CALLS = {name: f"{{}}.{name}()" for name in _METHODS}
_CALLS |= {"abs": "abs({})", "clip": "{}.clip({}, {})"}
_OF_TORCH = {
    "add": ("add", False),
    "sub": ("subtract", False),
    "__rsub__": ("subtract", True),
    "mul": ("multiply", False),
    "div": ("divide", False),
    "__rdiv__": ("divide", True),
    "pow": ("power", False),
    "__rpow__": ("power", True),
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
_ARITY = {"X": 0, "clip": 3, "choose": 3} | dict.fromkeys((*_PREFIX, *_METHODS, "abs"), 1)
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


class Expression(Operators, Frozen):
    """A function of the elements of a tensor, written with `X` for an element.

    Supports comparisons (`>`, `>=`, `<`, `<=`, `==`, `!=`), arithmetic (`+`, `-`,
    `*`, `/`, `**`), `abs(X)`, `X.clip(low, high)`, functions such as `X.sqrt()` and
    `X.isnan()`, and `&`, `|`, `~` between conditions. Constants take the dtype of the
    tensor and must fit it; an integer tensor can be compared with any number. An
    expression is data: it can be printed, pickled and saved.

    Example:
    >>> kedit.at.where((abs(X) > 2.0) & ~X.isinf()).set(0.0)
    at.where((abs(X) > 2.0) & ~X.isinf()).set(0.0)
    """

    __slots__ = ("args", "depth", "leaves", "name", "terms")
    name: str
    args: tuple[Any, ...]
    depth: int
    terms: int
    leaves: tuple[Any, ...]

    def __init__(self, name: str, *args: Any) -> None:
        if name not in _ARITY:
            raise SavingError(
                f"An expression should be made of {sorted(_ARITY)}. Received: {name!r}."
            )
        frozen = [a if isinstance(a, (Expression, Placeholder)) else freeze(a) for a in args]
        if len(frozen) != _ARITY[name]:
            raise SavingError(f"`{name}` was given {len(frozen)} arguments, which are not its own.")
        inner = [arg for arg in frozen if isinstance(arg, Expression)]
        depth = 1 + max([arg.depth for arg in inner], default=0)
        terms = 1 + sum([arg.terms for arg in inner])
        leaves: list[Any] = []  # all but constants, from left to right
        for arg in frozen:
            if isinstance(arg, Expression):
                leaves.extend(arg.leaves)
            elif is_replaced(arg):
                leaves.append(arg)
        self._init(name=name, args=tuple(frozen), depth=depth, terms=terms, leaves=tuple(leaves))

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

    def __bool__(self) -> bool:
        raise OperandError(
            "A condition over `X` has no truth value of its own: write `(X > 0) & (X < 1)` for "
            f"`0 < X < 1`, and `|`, `~` for `or`, `not`. Received: {self!r}."
        )

    @property
    def shape(self) -> Any:
        """Raise, so that `X` does not pass for a tensor and end up in a model as a number."""
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
        if self.name in _CALLS:
            bounds = [code_of_part(arg) for arg in self.args[1:]]
            return _CALLS[self.name].format(parts[0], *bounds)
        return "X"

    def __reduce__(self) -> Any:
        return (Expression, (self.name, *self.args))

    @property
    def is_condition(self) -> bool:
        """Whether the expression returns booleans."""
        return self.name in {*_COMPARISONS, *_JOINING, *_TESTS}

    def constants(self) -> list[Any]:
        """The constants and tensors in the expression, from left to right."""
        return _constants_of(self.args)

    def values(self) -> list[Any]:
        """The constants and tensors that numbers are computed from, not those of a choice."""
        return _constants_of(self.args[1:] if self.name == "choose" else self.args)

    def compares_slots(self) -> bool:
        """Whether a slot is where `X` should be: alone, or on the left of a comparison."""
        wants_x = self.name in (*_COMPARISONS, "clip") or len(self.args) == 1
        return (wants_x and isinstance(self.args[0], Slot)) or any(
            [arg.compares_slots() for arg in self.args if isinstance(arg, Expression)]
        )

    def key(self) -> Any:
        """Hashable stand-in, equal for equal expressions (`==` makes a condition)."""
        args = (arg.key() if isinstance(arg, Expression) else to_key(arg) for arg in self.args)
        return ("expression", self.name, *args)

    def map(self, replace: Callable[[Any], Any]) -> "Expression":
        """The same expression with `replace` applied to every tensor and slot."""
        return Expression(self.name, *(_map(arg, replace) for arg in self.args))

    def check_saveable(self) -> None:
        """Raise if the expression is nested too deep, or is too large, to be saved."""
        if self.depth > NESTING or self.terms > TERMS:
            raise SavingError(
                f"An expression that is saved should be nested at most {NESTING} deep, and have at "
                f"most {TERMS} parts. Received: one nested {self.depth} deep, of {self.terms} "
                "parts. Write a function, and register it: "
                "`@keras.saving.register_keras_serializable()`."
            )

    def to_json(self) -> dict[str, Any]:
        self.check_saveable()
        args = [a.to_json() if isinstance(a, Expression) else to_json(a) for a in self.args]
        return {"expression": self.name, "args": args}

    @classmethod
    def from_json(cls, data: Any, depth: int = 1) -> "Expression":
        """The expression that `to_json` wrote.

        Args:
            data: What `to_json` wrote.
            depth: Nesting depth of this expression, including itself.
        """
        if depth > NESTING:
            raise refused(f"Expressions should be nested at most {NESTING} deep", data)
        fields = check_fields("An expression", data, {"expression": str, "args": list})
        name, args = fields["expression"], []
        for arg in fields["args"]:
            nested = isinstance(arg, dict) and "expression" in arg
            args.append(cls.from_json(arg, depth + 1) if nested else from_json(arg))
        made = cls(name, *args)
        if name == "choose" and (depth > 1 or not is_saved_condition(args[0])):
            raise refused("A choice should stand alone, and have a condition", data)
        # As Python's operators do it: a number may be on the left of arithmetic and logic.
        over = [isinstance(arg, (Expression, Slot)) for arg in args]
        may_be_right = name in (*_ARITHMETIC, *_LOGIC)
        if args and name != "choose" and not (over[0] or (may_be_right and over[1])):
            raise refused("An expression should have `X` in it, on the left if it compares", data)
        return made

    def check(self, dtype: str) -> None:
        """Raise for what is not defined in `dtype`, or differs between libraries."""
        if (
            self.name in _COMPARISONS
            and kind(dtype) == 1
            and isinstance(self.args[1], (int, float))
        ):
            if isinstance(self.args[0], Expression):
                self.args[0].check(dtype)
            return
        self._check(dtype)
        for arg in self.args:
            if isinstance(arg, Expression):
                arg.check(dtype)

    def _check(self, dtype: str) -> None:
        if self.name == "choose":
            self._check_choice(dtype)
            return
        for arg in self.args:
            if isinstance(arg, Expression):
                fits = arg.is_condition or (arg.name == "X" and dtype == "bool")
                if self.name in _JOINING and not fits:
                    raise DTypeError(
                        "`&`, `|` and `~` should join conditions. Received: "
                        f"`{self!r}` for a tensor of dtype {dtype!r}. Compare, as in `X != 0`."
                    )
            else:
                check_values(arg, dtype_name(arg), "bool" if self.name in _JOINING else dtype)
        if kind(dtype) == 0 and self.name in (*_ORDERED, "negative"):
            raise DTypeError(
                "A condition on booleans should use `X`, `~X`, `==`, `&` or `|`. "
                f"Received: {self!r}."
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
        if self.name in _ARITHMETIC:
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


def choose(condition: Any, values: Any, otherwise: Any) -> Expression:
    """`values` where a condition is met, else `otherwise`; each is computed where it is chosen."""
    return Expression("choose", condition, values, otherwise)


def evaluate(
    expression: Expression,
    x: Any,
    dtype: str,
    library: Any,
    constant: Callable[[Any, str], Any],
) -> Any:
    """Evaluate an expression with `x` for `X`.

    Args:
        expression: The expression.
        x: Array or tensor of dtype `dtype`.
        dtype: Name of the dtype.
        library: `numpy` or `keras.ops`.
        constant: Function that converts a constant to an array or tensor of a given dtype.
    """
    name, args = expression.name, expression.args
    if name == "X":
        return x
    if name in _COMPARISONS and kind(dtype) == 1 and isinstance(args[1], (int, float)):
        # Compare exactly, even if the number does not fit the dtype.
        left = evaluate(args[0], x, dtype, library, constant)
        verdict = _integer_comparison(name, args[1], *integer_range(dtype))
        if isinstance(verdict, bool):
            return (library.equal if verdict else library.not_equal)(left, left)
        return getattr(library, name)(left, constant(verdict, dtype))
    if name == "choose":
        return _evaluate_choice(args, x, dtype, library, constant)
    of = "bool" if name in _JOINING else dtype
    values = [
        evaluate(arg, x, dtype, library, constant)
        if isinstance(arg, Expression)
        else constant(arg, of)
        for arg in args
    ]
    if name == "abs" and kind(dtype) == 2:
        # The gradient of abs at 0 differs between backends; the gradient of a constant is 0.
        zero = constant(0.0, dtype)
        return library.where(library.equal(values[0], zero), zero, library.abs(values[0]))
    if name == "clip":  # whose gradient at the bounds differs between backends
        raised = library.where(library.less(values[0], values[1]), values[1], values[0])
        return library.where(library.greater(raised, values[2]), values[2], raised)
    return getattr(library, name)(*values)


def _evaluate_choice(
    args: tuple[Any, ...], x: Any, dtype: str, library: Any, constant: Callable[[Any, str], Any]
) -> Any:
    """One of two values for each element. No NaN comes from the one that is not chosen."""
    condition, *branches = args
    if isinstance(condition, Expression):
        chosen = evaluate(condition, x, dtype, library, constant)
    else:
        chosen = constant(condition, "bool")
    values = []
    for branch, here in zip(branches, (chosen, library.logical_not(chosen)), strict=True):
        if not isinstance(branch, Expression):
            values.append(constant(branch, dtype))
            continue

        def safe(value: Any, dtype: str, here: Any = here) -> Any:
            number = constant(value, dtype)
            return number if is_scalar(value) else library.where(here, number, constant(1, dtype))

        elements = library.where(here, x, constant(1, dtype))
        values.append(evaluate(branch, elements, dtype, library, safe))
    return library.where(chosen, *values)


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
    return [
        leaf for arg in args for leaf in (arg.constants() if isinstance(arg, Expression) else [arg])
    ]


def _map(arg: Any, replace: Callable[[Any], Any]) -> Any:
    if isinstance(arg, Expression):
        return arg.map(replace)
    return replace(arg) if is_replaced(arg) else arg


def _part_code(arg: Any) -> str:
    if not isinstance(arg, Expression):
        code = to_code(arg)
        return f"({code})" if code.startswith("-") else code  # -2 ** X is -(2 ** X)
    return f"({arg!r})" if arg.name in _INFIX or arg.name == "negative" else repr(arg)


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
