"""Casts of values to the dtype of the tensor."""

from functools import lru_cache
from typing import Any

import keras
import numpy as np

from kedit._language.compiler import called_when_traced, reads_bytecode
from kedit._language.constants import Array, is_tensor
from kedit._language.dtypes import clipped, integer_range, kind, saturate
from kedit._language.operations import OPERATIONS
from kedit._language.types import Casting, Tensor
from kedit._run import ops


def seen(tensors: list[Any], on_host: bool = False) -> list[Any] | None:
    """The values of tensors as NumPy arrays, or None if a compiler hides them.

    Args:
        tensors: The tensors.
        on_host: Whether to read only what the host has, without waiting for an accelerator.
    """
    if reads_bytecode():
        return None
    try:
        if on_host and not all([is_on_host(tensor) for tensor in tensors]):
            return None
        return [np.asarray(ops.convert_to_numpy(tensor)) for tensor in tensors]
    except (TypeError, ValueError, NotImplementedError, AttributeError, RuntimeError):
        return None


def is_on_host(tensor: Tensor) -> bool:
    """Whether a tensor says that it is in the memory of the host."""
    return "cpu" in str(getattr(tensor, "device", "cpu")).lower()


def has_value(tensor: Tensor) -> bool:
    """Whether a tensor is known to have a value now: it is of no graph that is being built."""
    return not reads_bytecode() and (hasattr(tensor, "numpy") or hasattr(tensor, "is_ready"))


def dtype_of(x: Tensor) -> str:
    return _name_when_traced(x.dtype) if reads_bytecode() else _name_of(x.dtype)


@lru_cache(maxsize=64)
def _name_of(dtype: Any) -> str:
    return str(keras.backend.standardize_dtype(dtype))


@called_when_traced
def _name_when_traced(dtype: Any) -> str:
    return _name_of(dtype)


def constant(value: Any, dtype: str) -> Tensor:
    """Convert a number or an array to a tensor of dtype `dtype`, or cast a tensor."""
    if is_tensor(value):
        return value if dtype_of(value) == dtype else ops.cast(value, dtype)
    if isinstance(value, Array):
        if value.numbers is None or not reads_bytecode():
            return ops.convert_to_tensor(value.array, dtype=dtype)
        as_dtype = {0: int, 1: int, 2: float, 3: complex}[max(kind(value.dtype), kind(dtype))]
        numbers = [as_dtype(number) for number in value.numbers]
        return ops.reshape(listed(numbers, dtype), value.shape)
    if isinstance(value, float) and str(value) == "-0.0":
        # Frameworks may cache constants by value, where -0.0 equals 0.0 and would be replaced.
        return ops.negative(ops.zeros((), dtype=dtype))
    return ops.convert_to_tensor(_made_anew(value, dtype), dtype=dtype)


def _made_anew(value: Any, dtype: str) -> Any:
    """A copy of a number; from Keras, torch's compiler would trace a stored one to its source.

    A float if it should become one: frameworks refuse integers of more than 63 bits.
    """
    if isinstance(value, complex):
        return value
    is_float = isinstance(value, float) or (kind(dtype) > 1 and not isinstance(value, bool))
    return float(value) if is_float else int(value)


def constant_like(value: Any, x: Tensor, dtype: str) -> Tensor:
    """Convert a number to a tensor of dtype `dtype`, like `x`."""
    simple = isinstance(value, float) or abs(value) < 2**63
    if hasattr(x, "new_full") and simple and str(value) != "-0.0":
        return x.new_full((), _made_anew(value, dtype))  # a third of the time that Keras takes
    return constant(value, dtype)


def listed(numbers: list[Any], dtype: str) -> Tensor:
    """Convert a list of numbers for a compiler that reads bytecode; Keras's code is long."""
    return ops.zeros((), dtype=dtype).new_tensor(numbers)


def neutral(op: str, dtype: str) -> Tensor:
    """The value that changes nothing in an operation, not even -0.0."""
    numbers: Any = OPERATIONS[op].neutral
    return constant(numbers[kind(dtype) > 1], dtype)


def existing(wide: str, dtype: str) -> str:
    """The dtype to compute in: `wide`, or a narrower one if the backend lacks 64 bits."""
    if wide == dtype or reads_bytecode() or _exists(wide):
        return wide
    return "complex64" if kind(wide) == 3 else "float32"


@lru_cache(maxsize=64)
def _exists(dtype: str) -> bool:
    """Whether the backend has a dtype: JAX has none of 64 bits, and narrows them."""
    return dtype_of(ops.convert_to_tensor(np.zeros((), dtype))) == dtype


def values(value: Any, dtype: str, casting: Casting) -> Tensor:
    """Convert an operand to a tensor of dtype `dtype`; "unsafe" saturates it."""
    if casting == "unsafe":
        if is_tensor(value):
            return saturated(value, dtype)
        if reads_bytecode() and kind(dtype) > 1 and isinstance(value, (bool, int, float)):
            return constant(value, dtype)  # floats hold all of these, and NumPy cannot be traced
        value = Array.of(saturate(value, dtype))
    return constant(value, dtype)


def limited(value: Any, dtype: str, limit: int | None) -> Tensor:
    """Like `constant`, where integers beyond a limit, or its negative, become it."""
    if limit is None or kind(dtype) != 1:
        return constant(value, dtype)
    if isinstance(value, Array):
        return constant(clipped(value, limit), dtype)
    if not is_tensor(value):
        return constant(value, dtype)
    low, high = integer_range(dtype_of(value))
    return constant(ops.clip(value, max(low, -limit), min(high, limit)), dtype)


def saturated(value: Tensor, dtype: str) -> Tensor:
    """Cast a tensor to `dtype`, as `dtypes.saturate` does with arrays."""
    if dtype_of(value) == dtype:
        return value
    return ops.cast(_saturate(value, dtype), dtype)


def _saturate(value: Tensor, dtype: str) -> Tensor:
    given = dtype_of(value)
    if kind(dtype) == 0:
        return ops.not_equal(value, 0)
    if kind(given) == 3 and kind(dtype) < 3:
        value = ops.real(value)
        given = dtype_of(value)
    if kind(dtype) != 1 or kind(given) == 0:
        return value
    low, high = integer_range(dtype)
    if kind(given) == 1:
        given_low, given_high = integer_range(given)
        return ops.clip(value, max(low, given_low), min(high, given_high))
    # Cast only what fits: the cast of a float out of range differs between backends.
    inside = ops.logical_and(value > float(low), value < float(high))
    whole = ops.cast(ops.where(inside, value, ops.zeros_like(value)), dtype)
    whole = ops.where(value >= float(high), constant(high, dtype), whole)
    return ops.where(value <= float(low), constant(low, dtype), whole)
