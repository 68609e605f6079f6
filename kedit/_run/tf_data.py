"""A replacement for `keras.ops`, for TensorFlow tensors that `keras.ops` cannot compute with.

These are tensors inside `tf.data` under another backend, and, on TensorFlow, tensors that
`keras.ops` would narrow. This is the only file that names a framework. It imports it only when it
meets such a tensor.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import keras
import numpy as np

from kedit._run import ops

_NARROWED = ("uint64", "complex128")
"""Dtypes that `keras.ops` narrows on TensorFlow."""


def _is_foreign(x: Any) -> bool:
    """Whether `x` is a TensorFlow tensor that `keras.ops` cannot compute with as it is."""
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if isinstance(x, keras.Variable):
        return on_tensorflow and x.dtype in _NARROWED
    if not type(x).__module__.startswith("tensorflow."):
        return False
    return not on_tensorflow or (ops.is_tensor(x) and x.dtype.name in _NARROWED)


class TensorFlowOps:
    """The functions of `keras.ops` that kedit calls, with Keras's names and arguments.

    Functions that TensorFlow has under the same name are looked up there.
    """

    def __init__(self) -> None:
        import tensorflow as tf

        self._tf = tf
        self.copy = tf.identity
        self.isfinite, self.isinf = tf.math.is_finite, tf.math.is_inf

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tf if hasattr(self._tf, name) else self._tf.math, name)

    def abs(self, x: Any) -> Any:
        return x if x.dtype.is_unsigned else self._tf.abs(x)

    def arange(self, start: Any, stop: Any = None, dtype: str = "int32") -> Any:
        start, stop = (0, start) if stop is None else (start, stop)
        return self._tf.range(start, stop, dtype=dtype)

    def argmax(self, x: Any) -> Any:
        return self._tf.argmax(x, axis=0)

    def argsort(self, x: Any) -> Any:
        return self._tf.argsort(x, stable=True)

    def array(self, x: Any, dtype: str) -> Any:
        return self.convert_to_tensor(x, dtype)

    def clip(self, x: Any, low: Any, high: Any) -> Any:
        return self._tf.clip_by_value(x, low, high)

    def concatenate(self, xs: Any, axis: int = 0) -> Any:
        return self._tf.concat(xs, axis)

    def convert_to_numpy(self, x: Any) -> Any:
        return x.numpy()

    def convert_to_tensor(self, x: Any, dtype: str | None = None) -> Any:
        x = x.value if isinstance(x, keras.Variable) else x
        if self._tf.is_tensor(x):
            return x if dtype is None else self._tf.cast(x, dtype)
        return self._tf.convert_to_tensor(np.asarray(x, dtype))

    def cumsum(self, x: Any, axis: int = 0) -> Any:
        return self._tf.cumsum(x, axis)

    def flip(self, x: Any, axis: int) -> Any:
        return self._tf.reverse(x, [axis])

    def full(self, shape: Any, value: Any, dtype: str) -> Any:
        return self._tf.cast(self._tf.fill(shape, value), dtype)

    def power(self, x: Any, exponent: Any) -> Any:
        if not x.dtype.is_unsigned:
            return self._tf.pow(x, exponent)
        return self._tf.cast(
            self._tf.pow(*[self._tf.cast(n, "int64") for n in (x, exponent)]), x.dtype
        )

    def scatter_update(self, x: Any, places: Any, values: Any, reduction: Any = None) -> Any:
        return getattr(self._tf, f"tensor_scatter_nd_{reduction or 'update'}")(x, places, values)

    def searchsorted(self, x: Any, values: Any) -> Any:
        return self._tf.searchsorted(x, values)

    def segment_max(self, x: Any, segments: Any, count: Any) -> Any:
        return self._tf.math.unsorted_segment_max(x, segments, count)

    def shape(self, x: Any) -> tuple[Any, ...]:
        known = tuple(x.shape)
        if None not in known:
            return known
        sizes = self._tf.shape(x)
        return tuple([sizes[n] if size is None else size for n, size in enumerate(known)])

    def take(self, x: Any, places: Any, axis: int = 0) -> Any:
        return self._tf.gather(x, places, axis=axis)


@lru_cache(maxsize=1)
def _library() -> TensorFlowOps:
    return TensorFlowOps()


def run(function: Callable[..., Any], tensors: Any, *arguments: Any) -> Any:
    """Call a function that applies an edit, with TensorFlow's functions if a tensor needs them."""
    if not any([_is_foreign(tensor) for tensor in tensors]):
        return function(*arguments)
    # AutoGraph has no branches to convert here, and would take seconds.
    function = _library().autograph.experimental.do_not_convert(function)
    with ops.using(_library()):
        return function(*arguments)
