"""What is known of the compiler that traces a function, if any does."""

import sys
from collections.abc import Callable, Iterable
from operator import index
from typing import Any, TypeVar

from kedit.errors import OperandError

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


def check_not_read(what: str, value: Any) -> None:
    """Refuse an array in a function that is read, where nobody can look at what it holds."""
    if reads_bytecode():
        raise OperandError(
            f"{what} in a function that `torch.compile` reads should be a number, a list of at "
            f"most 1024 numbers, or a tensor. Received: {type(value).__name__}. Make the edit "
            "outside of the function, `edit = at[index].set(values)`, and write `edit(x)` inside; "
            "or write `keras.ops.convert_to_tensor(...)`, by which positions out of bounds are "
            "dropped."
        )


def as_numbers(sizes: Iterable[Any]) -> tuple[Any, ...]:
    """Sizes as numbers, where `torch.compile` may stand a symbol for those that changed.

    Plans are made of numbers, so that it compiles a function again for other sizes.
    """
    return tuple([index(size) if isinstance(size, int) else size for size in sizes])


def as_number(item: Any) -> Any:
    """A number, or a tuple of numbers and others, as numbers; see `as_numbers`."""
    if isinstance(item, tuple):
        return tuple([as_number(part) for part in item])
    if not isinstance(item, int) or isinstance(item, bool):
        return item
    return index(item)
