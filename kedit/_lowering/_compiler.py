"""What is known of the compiler that traces a function, if any does."""

from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def _mark() -> list[Any]:
    return []


def reads_bytecode() -> bool:
    """Whether what calls this is not run but read, as `torch.compile` reads Python's bytecode.

    Such a compiler looks through caches. It takes NumPy's arrays for tensors, so
    that constants have to come as lists, which are slow for everything else.
    """
    return _mark() is not _mark()
