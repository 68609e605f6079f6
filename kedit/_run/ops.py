"""The ledger of `keras.ops`: each function that kedit may call, and what replaces those that err.

No other file of kedit imports `keras.ops`. `tests/test_ops.py` compares every function named here
with NumPy on every backend. Where Keras differs, the function is written anew below, with the
reason, the version in which that was seen, and the report; `docs/upstream.md` has them all.

Inside `tf.data` tensors are TensorFlow's under every backend of Keras. There the same code runs on
the functions of `_tf_data`; each call, in its thread, knows only its own.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
from keras import ops as keras_ops

from kedit._language.compiler import reads_bytecode
from kedit._language.dtypes import integer_range, kind

AS_THEY_ARE = frozenset(
    [
        "abs",
        "any",
        "arange",
        "argmax",
        "argsort",
        "array",
        "cast",
        "concatenate",
        "convert_to_numpy",
        "convert_to_tensor",
        "copy",
        "cumsum",
        "flip",
        "full",
        "full_like",
        "imag",
        "is_tensor",
        "log",
        "max",
        "ones",
        "ones_like",
        "qr",
        "real",
        "relu",
        "searchsorted",
        "shape",
        "sigmoid",
        "sign",
        "softplus",
        "squeeze",
        "stack",
        "stop_gradient",
        "sum",
        "transpose",
        "zeros",
        "zeros_like",
    ]
)
"""Functions that are called as Keras has them."""

BY_OPERATORS = frozenset(
    [
        "add",
        "divide",
        "equal",
        "greater",
        "greater_equal",
        "less",
        "less_equal",
        "logical_and",
        "logical_not",
        "logical_or",
        "matmul",
        "mod",
        "multiply",
        "negative",
        "not_equal",
    ]
)
"""Functions that are operators of tensors, without what Keras does around them."""

REPLACED = frozenset(
    [
        "broadcast_to",
        "clip",
        "expand_dims",
        "isfinite",
        "isinf",
        "isnan",
        "maximum",
        "mean",
        "minimum",
        "power",
        "reshape",
        "scatter_add",
        "scatter_update",
        "segment_max",
        "subtract",
        "take",
        "where",
    ]
)
"""Functions that are written anew below; `keras_where` and its like are Keras's own."""

_library: ContextVar[Any] = ContextVar("library", default=keras_ops)


def __getattr__(name: str) -> Any:
    _, is_raw, raw = name.rpartition("keras_")
    if not (raw in REPLACED if is_raw else name in AS_THEY_ARE):
        raise AttributeError(f"`keras.ops.{raw}` is not in the ledger: test it, and name it here.")
    return getattr(_library.get(), raw)


_ops: Any = sys.modules[__name__]
"""This module: its own functions call the others by it, as torch's compiler can look up only so."""


def is_used_otherwise() -> bool:
    """Whether functions of another library than Keras are in use."""
    return _library.get() is not keras_ops


@contextmanager
def using(library: Any) -> Iterator[None]:
    """Compute with the functions of `library` for a while."""
    before = _library.set(library)
    try:
        yield
    finally:
        _library.reset(before)


# --- What replaces functions of Keras ----------------------------------------------------------


# On TensorFlow Keras 3.15.1 adds by `bias_add(x1, squeeze(x2))` if `x2` has one axis longer than 1
# and that is as long as axis 1 or the last axis of `x1`, whichever axis it is: wrong for a column
# (keras-team/keras#20386 brought it in). The `+` of a Variable calls the same. On PyTorch it
# computes `matmul` of float64 in float32, and the nightly version 3.16.0.dev2026102704 all
# arithmetic of 64 bits in 32, while `mod` fails (keras-team/keras#23225). Everywhere it flattens
# and checks its arguments, in dozens of calls that torch's compiler has to read. An operator of
# tensors of one dtype does none of this; one of the two may be a number, an array or a Variable.


def add(x1: Any, x2: Any) -> Any:
    x1, x2 = _as_tensors(x1, x2)
    return x1 + x2


def multiply(x1: Any, x2: Any) -> Any:
    x1, x2 = _as_tensors(x1, x2)
    return x1 * x2


def divide(x1: Any, x2: Any) -> Any:
    """`x1 / x2` of floats."""
    x1, x2 = _as_tensors(x1, x2)
    return x1 / x2


def mod(x1: Any, x2: Any) -> Any:
    """`x1 % x2` of integers, of the sign of `x2`."""
    x1, x2 = _as_tensors(x1, x2)
    return x1 % x2


def matmul(x1: Any, x2: Any) -> Any:
    """`x1 @ x2` in the dtype of `x1`: NumPy multiplies bfloat16 into float32."""
    product = x1 @ x2
    return product if product.dtype == x1.dtype else _ops.cast(product, x1.dtype)


def negative(x: Any) -> Any:
    return -x


def equal(x1: Any, x2: Any) -> Any:
    x1, x2 = _as_tensors(x1, x2)
    return x1 == x2


def not_equal(x1: Any, x2: Any) -> Any:
    x1, x2 = _as_tensors(x1, x2)
    return x1 != x2


def greater(x1: Any, x2: Any) -> Any:
    x1, x2 = _as_tensors(x1, x2)
    return x1 > x2


def greater_equal(x1: Any, x2: Any) -> Any:
    x1, x2 = _as_tensors(x1, x2)
    return x1 >= x2


def less(x1: Any, x2: Any) -> Any:
    x1, x2 = _as_tensors(x1, x2)
    return x1 < x2


def less_equal(x1: Any, x2: Any) -> Any:
    x1, x2 = _as_tensors(x1, x2)
    return x1 <= x2


def logical_and(x1: Any, x2: Any) -> Any:
    """`x1 & x2` of booleans."""
    x1, x2 = _as_tensors(x1, x2)
    return x1 & x2


def logical_or(x1: Any, x2: Any) -> Any:
    x1, x2 = _as_tensors(x1, x2)
    return x1 | x2


def logical_not(x: Any) -> Any:
    return ~x


def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The mean of floats.

    Keras 3.15.1 on PyTorch computes that of float64 in float32 (keras-team/keras#23704). Numbers of
    16 bits it adds up in 32 everywhere, as they should be.
    """
    if "float64" not in str(x.dtype):
        return _ops.keras_mean(x, axis=axis, keepdims=keepdims)
    total = _ops.sum(x, axis=axis, keepdims=keepdims)
    count = _ops.sum(_ops.ones_like(x), axis=axis, keepdims=keepdims)
    return _ops.divide(total, count)


def maximum(x1: Any, x2: Any) -> Any:
    """The greater of two, or NaN from either; where floats tie, all the gradient is the second's.

    Keras 3.15.1 on PyTorch computes numbers of 64 bits in 32, and on TensorFlow XLA gives infinity
    for NaN. Not reported.
    """
    return _better("greater", "maximum", *_as_tensors(x1, x2))


def minimum(x1: Any, x2: Any) -> Any:
    """The less of two, or NaN from either; see `maximum`."""
    return _better("less", "minimum", *_as_tensors(x1, x2))


def clip(x: Any, low: Any, high: Any) -> Any:
    """`x` moved between two bounds: Keras 3.15.1 on PyTorch makes int8 and int16 into int32.

    Not reported.
    """
    return x.clip(low, high) if _is_torch(x) else _ops.keras_clip(x, low, high)


def where(condition: Any, x1: Any, x2: Any) -> Any:
    """`x1` where the condition holds, else `x2`; a number takes the dtype of the other one.

    Keras 3.15.1 makes a tensor of `floatx()` of a number on PyTorch, so that float64 is rounded,
    and one of int32 on JAX, which not all numbers of uint32 fit. Not reported. Tensors that can
    choose themselves, do, as it is called more often than any other; and of a condition and a
    number that are NumPy arrays none is made where that takes longer than the choice.
    """
    is_number = isinstance(x1, np.ndarray) and not x1.ndim and hasattr(x2, "dtype")
    if is_number and _is_torch(x2) and (x1.dtype.kind != "u" or x1 < 2**63):
        x1 = x2.new_full((), x1.item())
    elif not is_number or _is_torch(x2):
        x1, x2 = _as_tensors(x1, x2)
    like = x1 if _is_torch(x1) else x2
    if not _is_torch(like):
        return _ops.keras_where(condition, x1, x2)
    if isinstance(condition, np.ndarray):
        condition = like.new_tensor(condition).bool()
    elif not _is_torch(condition):
        condition = _ops.convert_to_tensor(condition, dtype="bool")
    return (x1 if like is x1 else like.new_full((), x1)).where(condition, x2)


def isfinite(x: Any) -> Any:
    """Whether elements are numbers, which all of integers are, and both parts of complex ones.

    For integers Keras 3.15.1 on TensorFlow makes the answer of `x.shape`, as for `isinf` and
    `isnan`, and fails in a graph that does not know it; it fails for complex numbers. Not reported.
    """
    if "complex" in str(x.dtype):
        return _ops.logical_and(_ops.isfinite(_ops.real(x)), _ops.isfinite(_ops.imag(x)))
    return _ops.keras_isfinite(x) if "float" in str(x.dtype) else _ops.equal(x, x)


def isinf(x: Any) -> Any:
    """Whether elements are infinite, as no integers are; see `isfinite`."""
    if "complex" in str(x.dtype):
        return _ops.logical_or(_ops.isinf(_ops.real(x)), _ops.isinf(_ops.imag(x)))
    return _ops.keras_isinf(x) if "float" in str(x.dtype) else _ops.not_equal(x, x)


def isnan(x: Any) -> Any:
    """Whether elements are NaN, which alone does not equal itself; see `isfinite`."""
    return _ops.not_equal(x, x)


def power(x1: Any, x2: Any) -> Any:
    """`x1` to the power of `x2`, as IEEE 754 defines it.

    The optimizer of TensorFlow's graphs takes the root for an exponent of 0.5 that it knows: NaN of
    -inf, whose power is inf, and -0.0 of -0.0. So it is not let know: the comparison says nothing
    new, but is not computed before the tensor is there. In TensorFlow 2.21; not reported.
    """
    if "float" in str(x2.dtype):
        x2 = _ops.where(_ops.equal(x1, x1), x2, x2)
    if str(x1.dtype).rpartition(".")[2] in ("int64", "float64"):  # see above
        return x1**x2
    return _ops.keras_power(x1, x2)


# Keras looks at its arguments in dozens of calls, each of which torch's compiler reads; of a shape
# to `reshape` in seventy. So tensors of PyTorch do themselves what they are asked for most.


def reshape(x: Any, shape: Any) -> Any:
    """`x` in another shape, with at most one size of -1."""
    return x.reshape(tuple(shape)) if hasattr(x, "reshape") else _ops.keras_reshape(x, shape)


def broadcast_to(x: Any, shape: Any) -> Any:
    return x.broadcast_to(tuple(shape)) if _is_torch(x) else _ops.keras_broadcast_to(x, shape)


def expand_dims(x: Any, axis: int) -> Any:
    return x.unsqueeze(axis) if _is_torch(x) else _ops.keras_expand_dims(x, axis)


def take(x: Any, places: Any, axis: int = 0) -> Any:
    """The entries of an axis at places of any shape, none of them negative or out of bounds."""
    if not _is_torch(x):
        return _ops.keras_take(x, places, axis=axis)
    places = _of_64_bits(places)
    taken = x.index_select(axis, places.reshape(-1))
    if len(places.shape) == 1:
        return taken
    return taken.reshape((*x.shape[:axis], *places.shape, *x.shape[axis:][1:]))


def scatter_add(x: Any, places: Any, values: Any) -> Any:
    """Add values at places on the first axis, of shape `(n,)`, in which some may occur twice.

    On PyTorch Keras 3.15.1 adds by `index_put_(accumulate=True)`, in which threads race for the
    order, so that sums differ from run to run. Not reported. Torch's tensors can do it in a fixed
    order; each function in its place is the faster one of those that do.
    """
    if not _is_torch(x):
        return _ops.keras_scatter_update(x, _ops.expand_dims(places, 1), values, "add")
    places = _of_64_bits(places)
    if not reads_bytecode():
        return x.index_add(0, places, values)
    return x.scatter_add(0, _along_rows(places, values), values)


def scatter_update(x: Any, places: Any, values: Any) -> Any:
    """Write values at places on the first axes, of shape `(n, axes)`, each of which occurs once.

    On PyTorch Keras 3.15.1 writes into a copy, which `torch.func.vmap` refuses where the values
    are mapped and `x` is not. Not reported.
    """
    if not _is_torch(x):
        return _ops.keras_scatter_update(x, places, values)
    return x.index_put(_of_64_bits(places).unbind(1), values)


def segment_max(x: Any, segments: Any, count: Any) -> Any:
    """The greatest of each of `count` segments; of those without numbers, any that is not greater.

    Keras 3.15.1 on PyTorch computes it in float32. Not reported.
    """
    if not _is_torch(x):
        return _ops.keras_segment_max(x, segments, count)
    dtype = str(x.dtype).rpartition(".")[2]
    least = x.new_full(
        (count, *x.shape[1:]), -math.inf if kind(dtype) > 1 else integer_range(dtype)[0]
    )
    return least.scatter_reduce(0, _along_rows(_of_64_bits(segments), x), x, "amax")


def subtract(x1: Any, x2: Any) -> Any:
    """`x1 - x2`, also of unsigned integers, by operators as above.

    Of zeros that it knows, the optimizer of TensorFlow's graphs takes away by a negation, of which
    there is none for unsigned integers. So -1, as they have it, is multiplied by. In TensorFlow
    2.21; not reported.
    """
    x1, x2 = _as_tensors(x1, x2)
    if "uint" not in str(x2.dtype):
        return x1 - x2
    minus_one = np.iinfo(keras.backend.standardize_dtype(x2.dtype)).max
    return x1 + _ops.multiply(x2, int(minus_one))


def _is_torch(x: Any) -> bool:
    """Whether it is a tensor of PyTorch, with the methods that only those have."""
    return hasattr(x, "index_add")


def _of_64_bits(places: Any) -> Any:
    """Integers as PyTorch has to be given them."""
    return places.long() if _is_torch(places) else _ops.convert_to_tensor(places, "int64")


def _along_rows(numbers: Any, x: Any) -> Any:
    """A number for each row of `x`, written out for each of its elements."""
    return numbers.reshape((-1, *[1] * (len(x.shape) - 1))).expand(x.shape)


def _is_small(x: Any) -> bool:
    """Whether it is a number of Python that no dtype of its kind is too narrow for."""
    return isinstance(x, float) or (isinstance(x, int) and -128 <= x < 128)


def _better(beats: str, name: str, x1: Any, x2: Any) -> Any:
    """The one of two that beats the other; as Keras finds it where that is right."""
    dtype = str(x1.dtype)
    if not _is_torch(x1) and "float" not in dtype and "64" not in dtype:
        return getattr(_ops, f"keras_{name}")(x1, x2)
    first = getattr(_ops, beats)(x1, x2)
    if "float" in dtype:
        first = _ops.logical_or(first, _ops.isnan(x1))
    return _ops.where(first, x1, x2)


def _as_tensors(x1: Any, x2: Any) -> tuple[Any, Any]:
    """Tensors as they are; arrays, Variables and numbers as tensors of their dtype.

    Without a dtype beside them numbers are of int32, in which kedit counts.
    """
    if type(x1) is type(x2) and hasattr(x1, "dtype") and not isinstance(x1, keras.Variable):
        return x1, x2
    # A number beside a tensor of PyTorch is of its dtype already.
    of_torch = [hasattr(x, "index_add") for x in (x1, x2)]
    if any(of_torch) and (all(of_torch) or _is_small(x2 if of_torch[0] else x1)):
        return x1, x2
    given = [_ops.convert_to_tensor(x) if isinstance(x, keras.Variable) else x for x in (x1, x2)]
    dtypes = [x.dtype for x in given if hasattr(x, "dtype")]
    dtype = keras.backend.standardize_dtype(dtypes[0]) if dtypes else "int32"
    x1, x2 = [x if _ops.is_tensor(x) else _ops.convert_to_tensor(x, dtype=dtype) for x in given]
    return x1, x2
