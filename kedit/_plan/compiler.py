"""What is known of the compiler that traces a function, if any does."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])


@lru_cache(maxsize=1)
def _mark() -> list[Any]:
    return []


_MARK = _mark()


def reads_bytecode() -> bool:
    """Whether what calls this is not run but read, as `torch.compile` reads Python's bytecode.

    Such a compiler looks through caches, and takes NumPy's arrays for tensors.
    """
    return _mark() is not _MARK


def as_numbers(sizes: Iterable[int | None]) -> tuple[int | None, ...]:
    """Sizes as numbers, where `torch.compile` may stand a symbol for those that changed.

    Plans are made of numbers, so that it compiles a function again for other sizes.
    """
    return tuple([None if size is None else len(range(size)) for size in sizes])


def called_when_traced(function: _F) -> _F:
    """Let a compiler that reads bytecode call a function once, and keep what it returns.

    Otherwise it reads everything that the function calls, at a millisecond a call. The function
    must be pure, take numbers, strings, slices and tuples of them, and not return a tensor; a
    number of the result that is passed to Keras must be made new, `int(n)`. This is what
    `torch.compiler.assume_constant_result` does, which would import the whole compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
