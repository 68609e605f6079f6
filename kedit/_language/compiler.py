"""Support for a compiler that traces functions by their bytecode, such as torch's."""

import sys
from collections.abc import Callable, Iterable
from operator import index
from typing import Any, TypeVar

from kedit.errors import OperandError

_F = TypeVar("_F", bound=Callable[..., Any])


def called_when_traced(function: _F) -> _F:
    """Make a compiler that reads bytecode call a function once, and keep the result.

    Otherwise it traces everything that the function calls, at a millisecond a call. The function
    must be pure, take numbers, strings, slices and tuples of them, and not return a tensor. A
    number from the result must be copied, `int(n)`, before it is passed to Keras. This is what
    `torch.compiler.assume_constant_result` does, but without importing the whole compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@called_when_traced
def reads_bytecode() -> bool:
    """Whether the caller is traced by a compiler that reads bytecode, as `torch.compile` does.

    Such a compiler ignores caches and treats NumPy arrays as tensors. While it traces, the compiler
    itself calls this function.
    """
    return str(sys._getframe(1).f_globals.get("__name__")).startswith("torch._dynamo")


def check_not_read(what: str, value: Any) -> None:
    """Raise for an array in a traced function, where its contents are unknown."""
    if reads_bytecode():
        raise OperandError(
            f"{what} in a function that `torch.compile` reads should be a number, a list of at "
            f"most 1024 numbers, or a tensor. Received: {type(value).__name__}. Make the edit "
            "outside of the function, `edit = at[index].set(values)`, and write `edit(x)` inside; "
            "or write `keras.ops.convert_to_tensor(...)`, by which positions out of bounds are "
            "dropped."
        )


def as_numbers(sizes: Iterable[Any]) -> tuple[Any, ...]:
    """Sizes as numbers, because `torch.compile` may use symbols for sizes that have changed.

    Plans are made of numbers, so a function is compiled again for other sizes.
    """
    return tuple([index(size) if isinstance(size, int) else size for size in sizes])


def as_number(item: Any) -> Any:
    """A number, or the numbers in a tuple, as plain numbers; see `as_numbers`."""
    if isinstance(item, tuple):
        return tuple([as_number(part) for part in item])
    if not isinstance(item, int) or isinstance(item, bool):
        return item
    return index(item)
