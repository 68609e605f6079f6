"""What is known of the compiler that traces a function, if any does."""

import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])


def called_when_traced(function: _F) -> _F:
    """Let a compiler that reads bytecode call a function once, and keep what it returns.

    Otherwise it reads everything that the function calls, at a millisecond a call. The function
    must be pure, take numbers, strings, slices and tuples of them, and not return a tensor; a
    number of the result that is passed to Keras must be made new, `int(n)`. This is what
    `torch.compiler.assume_constant_result` does, which would import the whole compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@called_when_traced
def reads_bytecode() -> bool:
    """Whether what calls this is not run but read, as `torch.compile` reads Python's bytecode.

    Such a compiler looks through caches, and takes NumPy's arrays for tensors. Then it is the one
    that calls this.
    """
    return str(sys._getframe(1).f_globals.get("__name__")).startswith("torch._dynamo")


def as_numbers(sizes: Iterable[Any]) -> tuple[Any, ...]:
    """Sizes as numbers, where `torch.compile` may stand a symbol for those that changed.

    Plans are made of numbers, so that it compiles a function again for other sizes.
    """
    return tuple([as_number(size) for size in sizes])


def as_number(value: Any) -> Any:
    """A number, or anything else as it is, where a compiler may stand a symbol for a number."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    return len(range(value)) if value >= 0 else -len(range(-value))
