"""What kedit does with TensorFlow itself: compute where `keras.ops` cannot, and call NumPy.

`keras.ops` cannot compute with tensors inside `tf.data` under another backend, and on TensorFlow it
narrows some. To draw the positions of a random edit, a graph calls NumPy. This is the only file
that names a framework. It imports it only when it meets a tensor of it.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import keras
import numpy as np

from kedit._language.types import Shape
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

    def split(self, x: Any, places: list[int], axis: int = 0) -> Any:
        return self._tf.split(x, np.diff([0, *places, x.shape[axis]]), axis)

    def take(self, x: Any, places: Any, axis: int = 0) -> Any:
        return self._tf.gather(x, places, axis=axis)

    def take_along_axis(self, x: Any, places: Any) -> Any:
        return self._tf.gather(x, places, axis=1, batch_dims=1)


@lru_cache(maxsize=1)
def _library() -> TensorFlowOps:
    return TensorFlowOps()


def run(function: Callable[..., Any], tensors: Any, *arguments: Any) -> Any:
    """Call a function that applies an edit, with TensorFlow's functions if a tensor needs them."""
    if not any([_is_foreign(tensor) for tensor in tensors]):
        return function(*arguments)
    with ops.using(_library()):
        return without_autograph(function)(*arguments)


def without_autograph(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it is: AutoGraph has no branches to convert here, and would take seconds."""
    converted: Callable[..., Any] = _library().autograph.experimental.do_not_convert(function)
    return converted


def in_graph(x: Any) -> bool:
    """Whether `x` is, or holds, a tensor of TensorFlow without a value, as inside `tf.data`."""
    if isinstance(x, (list, tuple)):
        return any([in_graph(entry) for entry in x])
    x = x.value if isinstance(x, keras.Variable) else x
    if not type(x).__module__.startswith("tensorflow."):
        return False
    tf: Any = _library()
    has_value = hasattr(x, "numpy") and not isinstance(x, tf.Variable)
    return bool(tf.is_tensor(x)) and not (tf.executing_eagerly() or has_value)


def sizes(x: Any) -> tuple[Any, ...]:
    """Sizes of `x`: ints, or scalar tensors where a graph does not know them."""
    return _library().shape(x) if in_graph(x) else tuple(x.shape)


def integers(x: Any) -> Any:
    """A tensor of integers from a number, an array, a tensor, or a list of these; else None."""
    tf: Any = _library()
    if isinstance(x, (list, tuple)) and in_graph(x):
        x = tf.stack([tf.cast(entry, "int64") for entry in x])
    x = tf.convert_to_tensor(x)
    return x if x.dtype.is_integer else None


def drawn(draw: Callable[..., Any], given: Any, shape: Shape) -> Any:
    """Booleans that NumPy draws while the graph runs.

    They depend on what is given alone, so they are the same in every thread and order.

    Args:
        draw: Function of arrays that returns an array of booleans.
        given: The tensors of TensorFlow that it is called with, as arrays.
        shape: Shape of the booleans, with None for an unknown size.
    """
    tf: Any = _library()
    mask = tf.numpy_function(draw, given, "bool", stateful=False)
    mask.set_shape(shape)
    return mask
