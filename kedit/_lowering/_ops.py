"""The ledger of `keras.ops`: each function that kedit may call, and what replaces those that err.

No other file of kedit imports `keras.ops`. `tests/test_ops.py` compares every function named here
with NumPy on every backend. Where Keras differs, the function is written anew below, with the
reason, the version in which that was seen, and the report; `docs/upstream.md` has them all.

Inside `tf.data` tensors are TensorFlow's under every backend of Keras. There the same code runs on
the functions of `_tf_data`; each call, in its thread, knows only its own.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
from keras import ops as keras_ops

from kedit._lowering._compiler import reads_bytecode

AS_THEY_ARE = frozenset(
    [
        "abs",
        "any",
        "arange",
        "argmax",
        "argsort",
        "array",
        "broadcast_to",
        "cast",
        "clip",
        "concatenate",
        "convert_to_numpy",
        "convert_to_tensor",
        "copy",
        "cumsum",
        "divide",
        "equal",
        "expand_dims",
        "flip",
        "full",
        "full_like",
        "greater",
        "greater_equal",
        "imag",
        "is_tensor",
        "less",
        "less_equal",
        "log",
        "logical_and",
        "logical_not",
        "logical_or",
        "matmul",
        "max",
        "maximum",
        "mean",
        "minimum",
        "mod",
        "multiply",
        "negative",
        "not_equal",
        "ones",
        "ones_like",
        "qr",
        "real",
        "relu",
        "reshape",
        "scatter_update",
        "searchsorted",
        "segment_max",
        "shape",
        "sigmoid",
        "sign",
        "softplus",
        "squeeze",
        "stack",
        "stop_gradient",
        "sum",
        "take",
        "transpose",
        "zeros",
        "zeros_like",
    ]
)
"""Functions that are called as Keras has them."""

REPLACED = frozenset(
    ["add", "isfinite", "isinf", "isnan", "power", "scatter_add", "subtract", "where"]
)
"""Functions that are written anew below; `keras_where` and its like are Keras's."""

_library: ContextVar[Any] = ContextVar("library", default=keras_ops)


def __getattr__(name: str) -> Any:
    _, is_raw, raw = name.rpartition("keras_")
    if not (raw in REPLACED if is_raw else name in AS_THEY_ARE):
        raise AttributeError(f"`keras.ops.{raw}` is not in the ledger: test it, and name it here.")
    return getattr(_library.get(), raw)


_ops: Any = sys.modules[__name__]
"""This module: its own functions call the others by it, as torch's compiler can look up only so."""


@contextmanager
def using(library: Any) -> Iterator[None]:
    """Compute with the functions of `library` for a while."""
    before = _library.set(library)
    try:
        yield
    finally:
        _library.reset(before)


# --- What replaces functions of Keras ----------------------------------------------------------


def add(x1: Any, x2: Any) -> Any:
    """`x1 + x2` of tensors of one dtype; one of them may be a number, an array or a Variable.

    Keras 3.15.1 on TensorFlow computes `bias_add(x1, squeeze(x2))` if `x2` has one axis longer
    than 1 and that is as long as axis 1 or the last axis of `x1`, whichever axis it is: wrong
    for a column (keras-team/keras#20386 brought it in). The `+` of a Variable calls the same.
    """
    x1, x2 = _as_tensors(x1, x2)
    return x1 + x2


def where(condition: Any, x1: Any, x2: Any) -> Any:
    """`x1` where the condition holds, else `x2`; a number takes the dtype of the other one.

    Keras 3.15.1 makes a tensor of `floatx()` of a number on PyTorch, so that float64 is rounded,
    and one of int32 on JAX, which not all numbers of uint32 fit. Not reported.
    """
    return _ops.keras_where(condition, *_as_tensors(x1, x2))


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
        x2 = _ops.keras_where(_ops.equal(x1, x1), x2, x2)
    return _ops.keras_power(x1, x2)


def scatter_add(x: Any, places: Any, values: Any) -> Any:
    """Add values at places on the first axis, of shape `(n,)`, in which some may occur twice.

    On PyTorch Keras 3.15.1 adds by `index_put_(accumulate=True)`, in which threads race for the
    order, so that sums differ from run to run. Not reported. Torch's tensors can do it in a fixed
    order; each function in its place is the faster one of those that do.
    """
    if not hasattr(x, "index_add"):
        return _ops.scatter_update(x, _ops.expand_dims(places, 1), values, "add")
    places = _ops.convert_to_tensor(places, "int64")
    if not reads_bytecode():
        return x.index_add(0, places, values)
    column = _ops.reshape(places, (-1, *[1] * (len(x.shape) - 1)))
    return x.scatter_add(0, _ops.broadcast_to(column, tuple(values.shape)), values)


def subtract(x1: Any, x2: Any) -> Any:
    """`x1 - x2`, also of unsigned integers.

    Of zeros that it knows, the optimizer of TensorFlow's graphs takes away by a negation, of which
    there is none for unsigned integers. So -1, as they have it, is multiplied by. In TensorFlow
    2.21; not reported.
    """
    if not any(["uint" in str(getattr(x, "dtype", "")) for x in (x1, x2)]):
        return _ops.keras_subtract(x1, x2)
    x1, x2 = _as_tensors(x1, x2)
    minus_one = np.iinfo(keras.backend.standardize_dtype(x2.dtype)).max
    return _ops.add(x1, _ops.multiply(*_as_tensors(x2, int(minus_one))))


def _as_tensors(*operands: Any) -> list[Any]:
    """Tensors as they are; numbers, arrays and Variables as tensors of their dtype."""
    given = [_ops.convert_to_tensor(x) if isinstance(x, keras.Variable) else x for x in operands]
    dtypes = [x.dtype for x in given if hasattr(x, "dtype")]
    if not dtypes:
        return given
    dtype = keras.backend.standardize_dtype(dtypes[0])
    return [x if _ops.is_tensor(x) else _ops.convert_to_tensor(x, dtype=dtype) for x in given]
