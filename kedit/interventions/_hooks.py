"""Intercept the calls of layers inside a block."""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Call = Callable[..., Any]
Handler = Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]
Key = tuple[int, str]
"""The `id` of a layer, and one of its methods."""

_METHODS = ("call", "quantized_call")
_LOCK = threading.Lock()
_ACTIVE: ContextVar[tuple[Any, ...]] = ContextVar("kedit_active", default=())
"""The active blocks of this task or thread, innermost last."""
_INSTALLED: dict[Key, tuple[int, Callable[[], None]]] = {}
"""For each intercepted method: how often it is intercepted, and what ends that."""


@contextmanager
def intercepted(handlers: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Call handlers in place of layers, in this task or thread, inside the block.

    A handler receives the intercepted call and its arguments. If a layer has several
    handlers, the last is innermost. In other tasks and threads, and after the block, the
    layers behave as before.

    Args:
        handlers: Pairs of a layer, or another operation, and its handler; a third entry
            is the method to intercept in place of the call.

    Yields:
        A frame to pass to `set_aside`.
    """
    frame: dict[Key, list[Handler]] = {}
    layers: dict[Key, Any] = {}
    for layer, handler, *methods in handlers:
        for name in methods or _METHODS:
            if hasattr(layer, name):
                frame.setdefault((id(layer), name), []).append(handler)
                layers[id(layer), name] = layer
    if not layers:
        yield frame
        return
    for (_, name), layer in layers.items():
        _install(layer, name)
    _ACTIVE.set((*_ACTIVE.get(), frame))
    try:
        yield frame
    finally:
        _ACTIVE.set(tuple([other for other in _ACTIVE.get() if other is not frame]))
        for key in layers:
            _uninstall(key)


@contextmanager
def set_aside(frames: list[Any]) -> Iterator[None]:
    """Suspend active blocks of this task or thread inside this block."""
    kept = _ACTIVE.get()
    _ACTIVE.set(tuple([f for f in kept if not any([f is other for other in frames])]))
    try:
        yield
    finally:
        _ACTIVE.set(kept)


def is_active(frame: Any) -> bool:
    """Whether a block is active in this task or thread."""
    return any([frame is one for one in _ACTIVE.get()])


def _install(layer: Any, name: str) -> None:
    key = (id(layer), name)
    with _LOCK:
        count, end = _INSTALLED[key] if key in _INSTALLED else (0, _stand_before(layer, name))
        _INSTALLED[key] = (count + 1, end)


def _uninstall(key: Key) -> None:
    with _LOCK:
        count, end = _INSTALLED[key]
        if count > 1:
            _INSTALLED[key] = (count - 1, end)
        else:
            del _INSTALLED[key]
            end()


def _stand_before(layer: Any, name: str) -> Callable[[], None]:
    """Replace a method of a layer by a call of the handlers; return a function to undo it."""
    own = vars(layer).get(name)
    # Bypass Keras and the backend, which would track it.
    object.__setattr__(layer, name, _asking((id(layer), name), getattr(layer, name)))

    def end() -> None:
        object.__delattr__(layer, name)
        if own is not None:
            object.__setattr__(layer, name, own)

    return end


def _asking(key: Key, method: Call) -> Call:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        handlers = [handler for frame in _ACTIVE.get() for handler in frame.get(key, ())]

        def proceed(number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if number == len(handlers):
                return method(*args, **kwargs)

            def inner(*args: Any, **kwargs: Any) -> Any:
                return proceed(number + 1, args, kwargs)

            return handlers[number](inner, args, kwargs)

        return proceed(0, args, kwargs)

    return call
