"""Which tensors an edit works on: dense ones of known rank."""

from functools import lru_cache
from typing import Any

import numpy as np

from kedit.errors import OperandError


def _is_dense(x: Any) -> bool:
    """Whether `x` is not sparse, ragged, masked or of unknown rank."""
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
    """The attributes by which tensors of a class say that they are not dense; lookup is slow."""
    return tuple([n for n in ("layout", "is_nested", "sparse", "ragged") if hasattr(cls, n)])


@lru_cache(maxsize=256)
def _says_not_dense(name: str) -> bool:
    return any([kind in name.lower() for kind in ("sparse", "ragged", "bcoo")])


def check_dense(x: Any) -> None:
    """Raise if a tensor is not dense, or its rank is unknown."""
    if not _is_dense(x):
        raise OperandError(
            "An edit works on dense tensors of known rank. Received: a sparse, ragged or masked "
            f"one, or one of unknown rank, {type(x).__name__}. Convert it first, as in "
            "`x.to_dense()` or `x.filled()`, or give it a shape."
        )
