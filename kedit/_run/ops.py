"""The ledger of `keras.ops`: every function that kedit may call, with replacements for faulty ones.

No other file of kedit imports `keras.ops`. `tests/test_ops.py` compares every function named here
with NumPy on every backend. Where Keras differs, the function is rewritten below, with the reason,
the version in which it was seen, and the report; `docs/upstream.md` lists them all.

Inside `tf.data`, tensors are TensorFlow's under every backend of Keras. There the same code runs
with the functions of `kedit._run.tf_data`; each call, in its own thread, sees only its own library.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import signature
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
        "exp",
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
        "round",
        "searchsorted",
        "segment_sum",
        "shape",
        "sigmoid",
        "softplus",
        "sort",
        "sqrt",
        "squeeze",
        "stack",
        "stop_gradient",
        "sum",
        "tanh",
        "transpose",
        "zeros",
        "zeros_like",
    ]
)
"""Functions that are called as Keras defines them."""

BY_OPERATORS = frozenset(
    [
        "add",
        "divide",
        "greater",
        "greater_equal",
        "less",
        "less_equal",
        "logical_and",
        "logical_not",
        "logical_or",
        "matmul",
        "multiply",
        "negative",
    ]
)
"""Functions that use the operators of tensors, without what Keras does around them."""

REPLACED = frozenset(
    [
        "broadcast_to",
        "ceil",
        "clip",
        "equal",
        "expand_dims",
        "floor",
        "floor_divide",
        "isfinite",
        "isinf",
        "isnan",
        "maximum",
        "mean",
        "minimum",
        "mod",
        "not_equal",
        "power",
        "reshape",
        "scatter_update",
        "segment_max",
        "sign",
        "split",
        "subtract",
        "take",
        "take_along_axis",
        "where",
    ]
)
"""Functions that are rewritten below; `keras_where` and the like are Keras's own."""

OWN = frozenset(["extreme", "finite", "scatter_add"])
"""Functions that Keras does not have, or not by themselves."""

_library: ContextVar[Any] = ContextVar("library", default=keras_ops)


def __getattr__(name: str) -> Any:
    _, is_raw, raw = name.rpartition("keras_")
    if not (raw in REPLACED if is_raw else name in AS_THEY_ARE):
        raise AttributeError(f"`keras.ops.{raw}` is not in the ledger: test it, and name it here.")
    return getattr(_library.get(), raw)


_ops: Any = sys.modules[__name__]
"""This module. Its functions call each other through it, which torch's compiler requires."""


def is_used_otherwise() -> bool:
    """Whether functions of a library other than Keras are in use."""
    return _library.get() is not keras_ops


_IS_JAX = keras.config.backend() == "jax"


def may_split() -> bool:
    """Whether a compiler may split tensors among devices, as JAX's does."""
    return _IS_JAX and not is_used_otherwise()


@contextmanager
def using(library: Any) -> Iterator[None]:
    """Compute with the functions of `library` inside the context."""
    before = _library.set(library)
    try:
        yield
    finally:
        _library.reset(before)


# --- Replacements of functions of Keras --------------------------------------------------------


# On TensorFlow, Keras 3.15.1 adds by `bias_add(x1, squeeze(x2))` if `x2` has a single axis longer
# than 1, and it is as long as axis 1 or the last axis of `x1`, whichever axis it is. This is wrong
# for a column (introduced by keras-team/keras#20386). The `+` of a Variable does the same. On
# PyTorch, Keras computes `matmul` of float64 in float32; the nightly version 3.16.0.dev2026102704
# computes all 64-bit arithmetic in 32 bits, and its `mod` fails (keras-team/keras#23225). On every
# backend, Keras flattens and checks its arguments, in dozens of calls that torch's compiler has to
# trace. An operator of tensors of one dtype does none of this. One of the two arguments may be a
# number, an array or a Variable.


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


def matmul(x1: Any, x2: Any) -> Any:
    """`x1 @ x2` in the dtype of `x1`: for bfloat16, NumPy returns float32."""
    product = x1 @ x2
    return product if product.dtype == x1.dtype else _ops.cast(product, x1.dtype)


def negative(x: Any) -> Any:
    return -x


# The `==` of TensorFlow's tensors is False if shapes do not broadcast, where it should raise. In
# graphs that do not know whether they do, the result has no rank.
def equal(x1: Any, x2: Any) -> Any:
    x1, x2 = _as_tensors(x1, x2)
    return _ops.keras_equal(x1, x2) if _is_tensorflow(x1) else x1 == x2


def not_equal(x1: Any, x2: Any) -> Any:
    x1, x2 = _as_tensors(x1, x2)
    return _ops.keras_not_equal(x1, x2) if _is_tensorflow(x1) else x1 != x2


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


# On PyTorch, Keras 3.15.1 rounds float64 down and up in float32 (keras-team/keras#23704).
def floor(x: Any) -> Any:
    return x.floor() if _is_torch(x) else _ops.keras_floor(x)


def ceil(x: Any) -> Any:
    return x.ceil() if _is_torch(x) else _ops.keras_ceil(x)


def sign(x: Any) -> Any:
    """-1, 0 or 1; NaN for NaN, for which PyTorch's own returns 0."""
    return _ops.where(_ops.isnan(x), x, x.sign()) if _is_torch(x) else _ops.keras_sign(x)


def mod(x1: Any, x2: Any) -> Any:
    """`x1 % x2`, also its zeros, with the sign of `x2`; 0 for integers if `x2` is 0.

    Keras 3.15.1 returns a zero with the sign of `x1`. By zero, integers raise on TensorFlow and
    PyTorch. Not reported. On PyTorch, floats give NaN if the quotient overflows.
    """
    is_safe = isinstance(x2, int) and x2 > 0
    x1, x2 = _as_tensors(x1, x2)
    if "int" in str(x1.dtype):
        return x1 % (x2 if is_safe else _safe_divisor(x2))
    rest = x1 % x2
    still = _ops.stop_gradient(rest)
    # Zeros with the gradient of `rest`. Not by a difference from a constant zero, which
    # TensorFlow's graph optimizer turns into a negation.
    zero = _ops.where(_is_negative(x2), -_ops.subtract(still, rest), _ops.subtract(rest, still))
    return _ops.where(_ops.equal(rest, 0), zero, rest)


def floor_divide(x1: Any, x2: Any) -> Any:
    """`x1 // x2` of two tensors; 0 for integers if `x2` is 0.

    Keras 3.15.1 on TensorFlow rounds the quotient of floats before it takes the floor, so that
    `1.0 // 0.1` is 10. By zero, integers give -2 on JAX, and raise on TensorFlow and PyTorch. Not
    reported. NumPy computes floats from the remainder, and so does this.
    """
    x1, x2 = _as_tensors(x1, x2)
    if "int" in str(x1.dtype):
        whole = x1 // _safe_divisor(x2)
        if "uint" not in str(x1.dtype):
            whole = _ops.where(_ops.equal(x2, -1), -x1, whole)
        return _ops.where(_ops.equal(x2, 0), _ops.zeros_like(whole), whole)
    dtype = x1.dtype
    if "16" in str(dtype):
        x1, x2 = [_ops.cast(x, "float32") for x in (x1, x2)]
    if _is_torch(x1):
        return x1.div(x2, rounding_mode="floor").type(dtype)
    x1, x2 = _ops.stop_gradient(x1), _ops.stop_gradient(x2)
    rest, ratio = x1 % x2, _ops.divide(x1, x2)
    exact = _ops.divide(_ops.subtract(x1, rest), x2)
    whole = _ops.floor(exact)
    whole = _ops.where(_ops.greater(_ops.subtract(exact, whole), 0.5), whole + 1, whole)
    # By infinity: -1 if the signs differ. By zero: infinity or NaN.
    beyond = _ops.where(_ops.isinf(rest), -_ops.ones_like(rest), _ops.zeros_like(rest))
    is_beyond = _ops.logical_and(_ops.isinf(x2), _ops.isfinite(x1))
    whole = _ops.where(is_beyond, beyond, whole)
    whole = _ops.where(_ops.equal(x2, 0), ratio, whole)
    whole = _ops.where(_ops.equal(whole, 0), _zero_like(ratio), whole)
    return whole if whole.dtype == dtype else _ops.cast(whole, dtype)


def _safe_divisor(x: Any) -> Any:
    """Integers to divide by: 1 in place of 0 and -1, by which processors may refuse to divide."""
    if isinstance(x, int):
        return 1 if x in (0, -1) else x
    unsafe = _ops.equal(x, 0)
    if "uint" not in str(x.dtype):
        unsafe = _ops.logical_or(unsafe, _ops.equal(x, -1))
    return _ops.where(unsafe, _ops.ones_like(x), x)


def _zero_like(x: Any) -> Any:
    """A zero with the sign of each float."""
    zero = _ops.zeros_like(x)
    return _ops.where(_is_negative(x), -zero, zero)


def _is_negative(x: Any) -> Any:
    """Whether floats have the sign of -0.0."""
    return _ops.logical_or(_ops.less(x, 0), _ops.less(_ops.divide(_ops.ones_like(x), x), 0))


def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The mean of floats.

    Keras 3.15.1 on PyTorch computes the mean of float64 in float32 (keras-team/keras#23704). It
    sums 16-bit numbers in 32 bits on every backend, as it should.
    """
    if "float64" not in str(x.dtype):
        return _ops.keras_mean(x, axis=axis, keepdims=keepdims)
    total = _ops.sum(x, axis=axis, keepdims=keepdims)
    count = _ops.sum(_ops.ones_like(x), axis=axis, keepdims=keepdims)
    return _ops.divide(total, count)


def maximum(x1: Any, x2: Any) -> Any:
    """The larger of two, or NaN if either is; if floats tie, the second gets all the gradient.

    Keras 3.15.1 on PyTorch computes 64-bit numbers in 32 bits; on TensorFlow, XLA returns infinity
    for NaN. Not reported.
    """
    return _better("greater", "maximum", *_as_tensors(x1, x2))


def minimum(x1: Any, x2: Any) -> Any:
    """The smaller of two, or NaN if either is; see `maximum`."""
    return _better("less", "minimum", *_as_tensors(x1, x2))


# On PyTorch, a choice by an irregular condition takes 30 times as long as a sum.


def extreme(op: str, x1: Any, x2: Any) -> Any:
    """The smaller ("min") or larger ("max") of two that are not NaN; any gradient if they tie."""
    name = f"{op}imum"
    if _is_torch(x1):
        if "uint" not in str(x1.dtype) or "uint8" in str(x1.dtype):
            return getattr(x1, name)(x2)
    elif "64" not in str(x1.dtype):
        return getattr(_ops, f"keras_{name}")(x1, x2)
    return _ops.where((_ops.greater if op == "max" else _ops.less)(x1, x2), x1, x2)


def finite(x: Any) -> Any:
    """Floats with finite numbers in place of infinities, which get no gradient; NaN stays."""
    if _is_torch(x) and not _is_jit(x):  # which OpenVINO does not convert
        return x.nan_to_num(nan=math.nan)
    return _ops.where(_ops.isinf(x), 0, x)


def clip(x: Any, low: Any, high: Any) -> Any:
    """`x` clipped to two bounds.

    Keras 3.15.1 on PyTorch returns int32 for int8 and int16. XLA on TensorFlow before 2.21 returns
    a bound for NaN. Not reported.
    """
    if _is_torch(x):
        return x.clip(low, high)
    clipped = _ops.keras_clip(x, low, high)
    is_float = _is_tensorflow(x) and "float" in str(x.dtype)
    return _ops.where(_ops.isnan(x), x, clipped) if is_float else clipped


def where(condition: Any, x1: Any, x2: Any) -> Any:
    """`x1` where the condition holds, else `x2`; a number takes the dtype of the other one.

    Keras 3.15.1 converts a number to `floatx()` on PyTorch, which rounds float64, and to int32 on
    JAX, which not all numbers of uint32 fit. Not reported. This function is called more often than
    any other, so tensors that have a `where` of their own use it. And a condition and a number that
    are NumPy arrays are not converted to tensors if that takes longer than the choice.
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
    """Whether elements are finite: all integers are, and complex numbers if both parts are.

    For integers, Keras 3.15.1 on TensorFlow creates the result from `x.shape`, also in `isinf` and
    `isnan`, and fails in a graph that does not know the shape. It also fails for complex numbers.
    Not reported.
    """
    if "complex" in str(x.dtype):
        return _ops.logical_and(_ops.isfinite(_ops.real(x)), _ops.isfinite(_ops.imag(x)))
    return _ops.keras_isfinite(x) if "float" in str(x.dtype) else _ops.equal(x, x)


def isinf(x: Any) -> Any:
    """Whether elements are infinite, which integers never are; see `isfinite`."""
    if "complex" in str(x.dtype):
        return _ops.logical_or(_ops.isinf(_ops.real(x)), _ops.isinf(_ops.imag(x)))
    return _ops.keras_isinf(x) if "float" in str(x.dtype) else _ops.not_equal(x, x)


def isnan(x: Any) -> Any:
    """Whether elements are NaN, the only value that does not equal itself; see `isfinite`."""
    return _ops.not_equal(x, x)


def power(x1: Any, x2: Any) -> Any:
    """`x1` to the power of `x2`, as IEEE 754 defines it.

    For a constant exponent of 0.5, TensorFlow's graph optimizer takes the square root: NaN for
    -inf, whose power is inf, and -0.0 for -0.0. So the exponent is hidden from it: the comparison
    changes nothing, but is computed only at run time. In TensorFlow 2.21; not reported.
    """
    if "float" in str(x2.dtype):
        x2 = _ops.where(_ops.equal(x1, x1), x2, x2)
    if str(x1.dtype).rpartition(".")[2] in ("int64", "float64"):  # see above
        return x1**x2
    return _ops.keras_power(x1, x2)


# Keras checks its arguments in dozens of calls (seventy for the shape in `reshape`), and torch's
# compiler traces each of them. So the most frequent functions use the methods of PyTorch's tensors.


def reshape(x: Any, shape: Any) -> Any:
    """`x` in another shape, with at most one size of -1."""
    return x.reshape(tuple(shape)) if hasattr(x, "reshape") else _ops.keras_reshape(x, shape)


def broadcast_to(x: Any, shape: Any) -> Any:
    return x.broadcast_to(tuple(shape)) if _is_torch(x) else _ops.keras_broadcast_to(x, shape)


def expand_dims(x: Any, axis: int) -> Any:
    return x.unsqueeze(axis) if _is_torch(x) else _ops.keras_expand_dims(x, axis)


def split(x: Any, places: list[int], axis: int = 0) -> Any:
    """The parts of an axis between places on it."""
    if _is_torch(x):
        return x.tensor_split(tuple(places), axis)
    return _ops.keras_split(x, places, axis=axis)


def take(x: Any, places: Any, axis: int = 0) -> Any:
    """The entries of an axis at places of any shape, none of them negative or out of bounds."""
    if not _is_torch(x):
        return _ops.keras_take(x, places, axis=axis)
    places = _of_64_bits(places)
    taken = x.index_select(axis, places.reshape(-1))
    if len(places.shape) == 1:
        return taken
    return taken.reshape((*x.shape[:axis], *places.shape, *x.shape[axis:][1:]))


def take_along_axis(x: Any, places: Any) -> Any:
    """One entry of each row, `x[n, places[n]]`, at places of shape `(n,)`, none out of bounds.

    XLA sees that no row reads from another one, so rows may be on several devices.
    """
    places = _ops.reshape(places, (-1, *[1] * (len(x.shape) - 1)))
    return _ops.squeeze(_ops.keras_take_along_axis(x, places, axis=1), 1)


def scatter_add(x: Any, places: Any, values: Any) -> Any:
    """Add values at places on the first axis, of shape `(n,)`, which may repeat.

    On PyTorch, Keras 3.15.1 adds by `index_put_(accumulate=True)`, in which threads race for the
    order, so sums differ from run to run. Not reported. Torch has functions with a fixed order; the
    fastest of them is used in each case.
    """
    if not _is_torch(x):
        if not (_CAN_ADD or _ops.is_used_otherwise()):
            return _added_in_segments(x, places, values)
        return _ops.keras_scatter_update(x, _ops.expand_dims(places, 1), values, "add")
    places = _of_64_bits(places)
    if not reads_bytecode():
        return x.index_add(0, places, values)
    added = x.scatter_add(0, _along_rows(places, values), values)
    if "float16" not in str(x.dtype):
        return added
    # Compiled, PyTorch 2.13 changes the bits of NaN where nothing is added. Not reported.
    named = places.new_zeros(x.shape[:1]).scatter(0, places, 1).bool()
    return added.where(named.reshape((-1, *[1] * (len(x.shape) - 1))), x)


_CAN_ADD = "reduction" in signature(keras_ops.scatter_update).parameters
"""Whether `scatter_update` can add, which it cannot before Keras 3.14."""


def _added_in_segments(x: Any, places: Any, values: Any) -> Any:
    """`scatter_add` by sums that begin with the rows of `x`; what gets nothing keeps its bits."""
    count, places = _ops.shape(x)[0], _ops.cast(places, "int32")
    segments = _ops.concatenate([_ops.arange(count, dtype="int32"), places])
    added = _ops.segment_sum(_ops.concatenate([x, values]), segments, count)
    named = _ops.greater(_ops.segment_sum(_ops.ones_like(places), places, count), 0)
    return _ops.where(_ops.reshape(named, (-1, *[1] * (len(x.shape) - 1))), added, x)


def scatter_update(x: Any, places: Any, values: Any) -> Any:
    """Write values at places on the first axes, of shape `(n, axes)`, that each occur once.

    On PyTorch, Keras 3.15.1 writes into a copy, which `torch.func.vmap` refuses if the values are
    mapped and `x` is not. Not reported. OpenVINO converts a trace only with such a copy.
    """
    if not _is_torch(x):
        return _ops.keras_scatter_update(x, places, values)
    where = _of_64_bits(places).unbind(1)
    return x.clone().index_put_(where, values) if _is_jit(x) else x.index_put(where, values)


def segment_max(x: Any, segments: Any, count: Any) -> Any:
    """The maximum of each of `count` segments; for an empty segment, a number that is not greater.

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
    """`x1 - x2`, also for unsigned integers, by operators as above.

    TensorFlow's graph optimizer turns a subtraction from constant zeros into a negation, which
    unsigned integers do not have. So `x2` is multiplied by their equivalent of -1, and added. In
    TensorFlow 2.21; not reported.
    """
    x1, x2 = _as_tensors(x1, x2)
    if "uint" not in str(x2.dtype):
        return x1 - x2
    minus_one = np.iinfo(keras.backend.standardize_dtype(x2.dtype)).max
    return x1 + _ops.multiply(x2, int(minus_one))


def _is_tensorflow(x: Any) -> bool:
    """Whether `x` is a TensorFlow tensor, by a method that only those have."""
    return hasattr(x, "get_shape")


def _is_torch(x: Any) -> bool:
    """Whether `x` is a PyTorch tensor, by a method that only those have."""
    return hasattr(x, "index_add")


def _is_jit(x: Any) -> bool:
    """Whether a PyTorch tensor is traced by `torch.jit.trace`, where sizes are tensors."""
    return len(x.shape) > 0 and _is_torch(x.shape[0])


def _of_64_bits(places: Any) -> Any:
    """Integers in 64 bits, as PyTorch requires."""
    if _is_torch(places):
        return places.long()
    is_array = isinstance(places, np.ndarray)
    return _ops.convert_to_tensor(places.astype("int64") if is_array else places, "int64")


def _along_rows(numbers: Any, x: Any) -> Any:
    """A number for each row of `x`, repeated for each of its elements."""
    return numbers.reshape((-1, *[1] * (len(x.shape) - 1))).expand(x.shape)


def _is_small(x: Any) -> bool:
    """Whether `x` is a Python number that fits every dtype of its kind."""
    return isinstance(x, float) or (isinstance(x, int) and -128 <= x < 128)


def _better(beats: str, name: str, x1: Any, x2: Any) -> Any:
    """The one of two that beats the other; by Keras's function where that is correct."""
    dtype = str(x1.dtype)
    if not _is_torch(x1) and "float" not in dtype and "64" not in dtype:
        return getattr(_ops, f"keras_{name}")(x1, x2)
    first = getattr(_ops, beats)(x1, x2)
    if "float" in dtype:
        first = _ops.logical_or(first, _ops.isnan(x1))
    return _ops.where(first, x1, x2)


def _as_tensors(x1: Any, x2: Any) -> tuple[Any, Any]:
    """Return tensors as they are; convert arrays, Variables and numbers to their dtype.

    If neither has a dtype, numbers become int32, in which kedit counts.
    """
    if type(x1) is type(x2) and hasattr(x1, "dtype") and not isinstance(x1, keras.Variable):
        return x1, x2
    # A number next to a PyTorch tensor already takes its dtype.
    of_torch = [_is_torch(x) for x in (x1, x2)]
    if any(of_torch) and (all(of_torch) or _is_small(x2 if of_torch[0] else x1)):
        return x1, x2
    given = [_ops.convert_to_tensor(x) if isinstance(x, keras.Variable) else x for x in (x1, x2)]
    dtypes = [x.dtype for x in given if hasattr(x, "dtype")]
    dtype = keras.backend.standardize_dtype(dtypes[0]) if dtypes else "int32"
    x1, x2 = [x if _ops.is_tensor(x) else _ops.convert_to_tensor(x, dtype=dtype) for x in given]
    return x1, x2
