"""Tensors made of arrays of a plan, kept with it: to convert takes longer than to use."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kedit._language.types import Tensor
from kedit._plan.plan import Plan
from kedit._run import cast


def kept(plan: Plan, x: Tensor, make: Callable[[], Any], array: Any) -> Any:
    """Tensors that `make` makes, or made before for such a tensor as `x`.

    They are kept only if they have values: what is made in a trace must not be met outside of it.

    Args:
        plan: The plan, which keeps one tuple for each type and device.
        x: The tensor that they are used with.
        make: Function without arguments that returns a tuple of tensors.
        array: What the first of them holds.
    """
    key = (type(x), getattr(x, "device", None))
    found = plan.tensors.get(key)
    if found is None:
        found = make()
        are_alike = all([type(tensor) is type(x) for tensor in found])
        values = cast.seen(list(found)) if are_alike else None
        # With a tensor made in PyTorch's inference mode, nothing can be trained.
        of_inference = getattr(found[0], "is_inference", bool)()
        if values is not None and not of_inference and np.array_equal(values[0], array):
            plan.tensors[key] = found
    return found
