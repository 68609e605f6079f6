"""Intercept the calls of layers inside a block."""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Call = Callable[..., Any]
Handler = Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]

_METHODS = ("call", "quantized_call")
_LOCK = threading.Lock()
_ACTIVE = threading.local()
_INSTALLED: dict[int, tuple[int, Callable[[], None]]] = {}
"""For each intercepted layer, by `id`: how often it is intercepted, and what ends that."""


@contextmanager
def intercepted(handlers: Sequence[tuple[Any, Handler]]) -> Iterator[Any]:
    """Call handlers in place of layers, in this thread, inside the block.

    A handler receives the intercepted call and its arguments. If a layer has several
    handlers, the last is innermost. In other threads, and after the block, the layers
    behave as before.

    Args:
        handlers: Pairs of a layer, or another operation, and its handler.

    Yields:
        A frame to pass to `set_aside`.
    """
    frame: dict[int, list[Handler]] = {}
    for layer, handler in handlers:
        frame.setdefault(id(layer), []).append(handler)
    layers = {id(layer): layer for layer, _ in handlers}
    if not layers:
        yield frame
        return
    stack = _stack()
    for layer in layers.values():
        _install(layer)
    stack.append(frame)
    try:
        yield frame
    finally:
        stack[:] = [other for other in stack if other is not frame]
        for layer in layers.values():
            _uninstall(layer)


@contextmanager
def set_aside(frames: list[Any]) -> Iterator[None]:
    """Suspend active blocks of this thread inside this block."""
    stack = _stack()
    kept, stack[:] = stack[:], [f for f in stack if not any([f is other for other in frames])]
    try:
        yield
    finally:
        stack[:] = kept


def _stack() -> list[dict[int, list[Handler]]]:
    """Return the active blocks of this thread, innermost last."""
    if not hasattr(_ACTIVE, "stack"):
        _ACTIVE.stack = []
    stack: list[dict[int, list[Handler]]] = _ACTIVE.stack
    return stack


def _install(layer: Any) -> None:
    with _LOCK:
        if id(layer) in _INSTALLED:
            count, end = _INSTALLED[id(layer)]
        else:
            count, end = 0, _stand_before(layer)
        _INSTALLED[id(layer)] = (count + 1, end)


def _uninstall(layer: Any) -> None:
    with _LOCK:
        count, end = _INSTALLED[id(layer)]
        if count > 1:
            _INSTALLED[id(layer)] = (count - 1, end)
        else:
            del _INSTALLED[id(layer)]
            end()


def _stand_before(layer: Any) -> Callable[[], None]:
    """Replace the methods of a layer by calls of the handlers; return a function to undo it."""
    own = {name: vars(layer)[name] for name in _METHODS if name in vars(layer)}
    names = [name for name in _METHODS if hasattr(layer, name)]
    for name in names:
        # Bypass Keras and the backend, which would track it.
        object.__setattr__(layer, name, _asking(id(layer), getattr(layer, name)))

    def end() -> None:
        for name in names:
            object.__delattr__(layer, name)
        for name, method in own.items():
            object.__setattr__(layer, name, method)

    return end


def _asking(key: int, method: Call) -> Call:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        handlers = [handler for frame in _stack() for handler in frame.get(key, ())]

        def proceed(number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if number == len(handlers):
                return method(*args, **kwargs)

            def inner(*args: Any, **kwargs: Any) -> Any:
                return proceed(number + 1, args, kwargs)

            return handlers[number](inner, args, kwargs)

        return proceed(0, args, kwargs)

    return call
