"""Which tensors an edit works on: those that are dense, and of known rank."""

from functools import lru_cache
from typing import Any

import numpy as np

from kedit.errors import OperandError


def _is_dense(x: Any) -> bool:
    """Whether `x` is none of the tensors that have the looks but not the layout of others."""
    if isinstance(x, np.ma.MaskedArray) or _says_not_dense(type(x).__name__):
        return False
    if getattr(getattr(x, "shape", None), "rank", 0) is None:
        return False
    cls: Any = type(x)
    for name in flags(cls):
        flag = getattr(x, name)
        if flag is True or (name == "layout" and _says_not_dense(str(flag))):
            return False
    return True


@lru_cache(maxsize=256)
def flags(cls: Any) -> tuple[str, ...]:
    """By which attributes a tensor of a class says that it is not dense; looking is slow."""
    return tuple([n for n in ("layout", "is_nested", "sparse", "ragged") if hasattr(cls, n)])


@lru_cache(maxsize=256)
def _says_not_dense(name: str) -> bool:
    return any([kind in name.lower() for kind in ("sparse", "ragged", "bcoo")])


def check_dense(x: Any) -> None:
    """Refuse a tensor that is not what it looks like."""
    if not _is_dense(x):
        raise OperandError(
            "An edit works on dense tensors of known rank. Received: a sparse, ragged or masked "
            f"one, or one of unknown rank, {type(x).__name__}. Convert it first, as in "
            "`x.to_dense()` or `x.filled()`, or give it a shape."
        )
