"""The functions that the lowering is written with: `keras.ops`, or what stands in for it.

Inside `tf.data` tensors are TensorFlow's under every backend of Keras. There the same lowering runs
on the functions of `_tf_data`; each call, in its thread, knows only its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from keras import ops

_library: ContextVar[Any] = ContextVar("library", default=ops)


def __getattr__(name: str) -> Any:
    return getattr(_library.get(), name)


@contextmanager
def using(library: Any) -> Iterator[None]:
    """Lower to the functions of `library` for a while."""
    before = _library.set(library)
    try:
        yield
    finally:
        _library.reset(before)
