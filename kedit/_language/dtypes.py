"""The dtype rule: a tensor keeps its dtype, and values that would lose information raise."""

import math
from typing import Any

import numpy as np

from kedit._language.constants import Array, brief, is_scalar, to_code
from kedit._language.operations import OPERATIONS
from kedit._language.types import Casting
from kedit.errors import DTypeError

FLOAT_MAX = {
    "float16": 65504.0,
    "bfloat16": 3.3895313892515355e38,
    "float32": 3.4028234663852886e38,
    "float64": 1.7976931348623157e308,
}
_KINDS = ("bool", "int", "float", "complex")


_RANKS = {
    "bool": 0,
    **{f"{name}{bits}": 1 for name in ("int", "uint") for bits in ("", 8, 16, 32, 64)},
    **dict.fromkeys(["float", "float16", "bfloat16", "float32", "float64"], 2),
    **dict.fromkeys(["complex", "complex64", "complex128"], 3),
}


def kind(dtype: str) -> int:
    """Rank of a dtype's kind: 0 bool, 1 integer, 2 float, 3 complex."""
    rank = _RANKS.get(dtype)
    if rank is not None:
        return rank
    raise DTypeError(
        "An edit should be given a tensor of booleans, integers, floats or complex numbers. "
        f"Received: dtype {dtype!r}."
    )


_INTEGER_RANGES = {
    f"{name}{bits}": (int(np.iinfo(f"{name}{bits}").min), int(np.iinfo(f"{name}{bits}").max))
    for name in ("int", "uint")
    for bits in (8, 16, 32, 64)
}


def integer_range(dtype: str) -> tuple[int, int]:
    return _INTEGER_RANGES[dtype]


def check_operation(op: str, operand: Any, dtype: str) -> None:
    """Raise if an operation is not defined for `dtype`."""
    row, rank = OPERATIONS[op], kind(dtype)
    if rank not in row.kinds:
        raise DTypeError(_NO_ANSWER[rank].format(op=op, dtype=dtype))
    if rank == 1 and row.needs_natural:
        _check_natural(op, operand, dtype)


_NO_ANSWER = {
    0: "`{op}` should be given numbers. Received: a tensor of dtype {dtype!r}. Write `.set(...)`, "
    "`.max(...)` for a logical or, `.min(...)` for a logical and, or cast the tensor: "
    "`keras.ops.cast(x, 'int32')`.",
    1: "`{op}` should be given floats. Received: a tensor of dtype {dtype!r}. Cast it first, as in "
    "`at(keras.ops.cast(x, 'float32'))[...].{op}(...)`.",
    3: "`{op}` should be given numbers that have an order. Received: a tensor of dtype {dtype!r}. "
    "Edit its real or imaginary part: `keras.ops.real(x)`.",
}


def _check_natural(op: str, operand: Any, dtype: str) -> None:
    if isinstance(operand, Array):
        natural = kind(operand.dtype) < 2 and operand.low >= 0
    else:
        natural = isinstance(operand, int) and operand >= 0
    if not natural:
        raise DTypeError(
            f"`{op}` of a tensor of dtype {dtype!r} should be given an operand that is known "
            f"beforehand, whole and not negative. Received: {to_code(operand)}. Cast the tensor "
            f"first, as in `at(keras.ops.cast(x, 'float32'))[...].{op}(...)`."
        )


def check_values(
    values: Any, values_dtype: str, dtype: str, casting: Casting | None = "same_kind"
) -> None:
    """Raise if `dtype` cannot hold the values, unless `casting` is "unsafe".

    For a tensor, only the kind of its dtype is checked; for a constant, also its
    numbers. `values` may be None if only the dtype is known. `casting` is None
    where there is no such option.
    """
    if casting == "unsafe":
        return
    allow = "" if casting is None else ', or allow it: `casting="unsafe"`'
    if kind(values_dtype) > kind(dtype):
        raise DTypeError(
            f"Values for a tensor of dtype {dtype!r} should be of kind {_KINDS[kind(dtype)]!r} or "
            f"lower. Received: {_shown(values)}dtype {values_dtype!r}. Cast the values, as "
            f"in `keras.ops.cast(values, {dtype!r})`, or cast the tensor{allow}."
        )
    if not (is_scalar(values) or isinstance(values, Array)):
        return
    low, high = value_range(dtype)
    least, greatest = (values.low, values.high) if isinstance(values, Array) else (values, values)
    if isinstance(values, complex):
        least, greatest = 0, abs(values)
    # Infinity and NaN fit every dtype of floats; for integers, the check of kinds has refused them.
    if any([_is_finite(n) and not low <= n <= high for n in (least, greatest)]):
        lowest = ", write `-numpy.inf`" if kind(dtype) == 2 else ""
        raise DTypeError(
            f"Values for a tensor of dtype {dtype!r} should lie between {low} and {high}. "
            f"Received: {brief(values)}. Cast the tensor to a wider dtype{lowest}{allow}."
        )


def _is_finite(number: float) -> bool:
    return isinstance(number, int) or math.isfinite(number)


def value_range(dtype: str) -> tuple[float, float]:
    """Smallest and largest finite number that `dtype` can hold."""
    rank = kind(dtype)
    if rank == 0:
        return 0, 1
    if rank == 1:
        return integer_range(dtype)
    part = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    return -FLOAT_MAX.get(part, math.inf), FLOAT_MAX.get(part, math.inf)


def default_fill(dtype: str) -> Any:
    """Fill value for elements that do not exist, as in JAX: NaN, or a value that is rare."""
    rank = kind(dtype)
    if rank == 0:
        return True
    if rank > 1:
        return math.nan
    low, high = integer_range(dtype)
    return low if low < 0 else high


def promoted(edit: Any, dtype: str) -> str:
    """The dtype that an edit computes in: with `casting="unsafe"`, the one that NumPy promotes to.

    As in NumPy, Python numbers are weak: they take the tensor's dtype if it can hold them.
    """
    operand, wide = edit.operand, dtype
    if edit.casting != "unsafe" or callable(operand):
        return dtype
    if hasattr(operand, "constants"):  # an expression
        for constant in operand.values():
            wide = _promoted_by(constant, wide)
        return wide
    return dtype if OPERATIONS[edit.op].writes else _promoted_by(operand, dtype)


def _promoted_by(operand: Any, dtype: str) -> str:
    if not is_scalar(operand):
        return _result_type(dtype, dtype_name(operand))
    rank = max(kind(dtype), kind(type(operand).__name__))
    if rank == 1 and kind(dtype) < 2:
        low, high = value_range(dtype)
        return (
            dtype if kind(dtype) == 1 and low <= operand <= high else _result_type(dtype, "int64")
        )
    if rank == kind(dtype):
        return dtype
    return _result_type(dtype, {2: "float64", 3: "complex64"}[rank])


_DTYPES = [
    "bool",
    *[f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)],
    *["float16", "float32", "float64", "complex64", "complex128"],
]
# A table, because torch's compiler cannot trace NumPy's function.
_PROMOTED = {(a, b): np.result_type(a, b).name for a in _DTYPES for b in _DTYPES}


def _result_type(left: str, right: str) -> str:
    """NumPy's result type; bfloat16, which NumPy does not know, counts as a 16-bit float."""
    is_half = "bfloat16" in (left, right)
    if is_half and "float16" in (left, right):
        return "float32"
    left, right = ["float16" if name == "bfloat16" else name for name in (left, right)]
    wide = _PROMOTED[left, right]
    return "bfloat16" if is_half and wide == "float16" else wide


def dtype_name(value: Any) -> str:
    """Name of the dtype of a constant or of any framework's tensor."""
    dtype = getattr(value, "dtype", type(value).__name__)
    return str(getattr(dtype, "name", str(dtype).split(".")[-1]))


def saturate(values: Any, dtype: str) -> Any:
    """Bring an array into the range and kind of `dtype`, as `casting="unsafe"` defines it.

    Complex numbers lose their imaginary part. For integers, fractions are truncated
    toward zero, values are clipped to the range, and NaN becomes 0. For booleans,
    anything but 0 becomes True. Floats follow IEEE 754, to infinity.
    """
    array = values.array if isinstance(values, Array) else np.asarray(values)
    if kind(dtype) == 0:
        return array != 0
    if array.dtype.kind == "c" and kind(dtype) < 3:
        array = array.real
    if kind(dtype) != 1 or array.dtype.kind == "b":
        return array
    low, high = integer_range(dtype)
    if array.dtype.kind != "f":
        return np.clip(
            array, max(low, int(array.min(initial=0))), min(high, int(array.max(initial=0)))
        )
    with np.errstate(invalid="ignore"):
        whole = np.nan_to_num(array, nan=0.0, posinf=np.inf, neginf=-np.inf)
        inside = np.where((whole > low) & (whole < high), whole, 0.0).astype(dtype)
    return np.select(
        [whole >= high, whole <= low], [np.array(high, dtype), np.array(low, dtype)], inside
    )


def clipped(array: Array, limit: int) -> Array:
    """An array of integers, clipped to a limit and its negative."""
    if -limit <= array.low and array.high <= limit:
        return array
    if array.numbers is None:
        low, high = integer_range(array.dtype)
        return Array.of(np.clip(array.array, max(low, -limit), min(high, limit)))
    numbers = [max(-limit, min(number, limit)) for number in array.numbers]
    return Array(array.dtype, array.shape, tuple(numbers))


def _shown(values: Any) -> str:
    return "" if values is None else f"{brief(values)} of "
