"""Edits of tensors with values from a framework other than the running backend, by NumPy."""

from typing import Any

import keras
import numpy as np

from kedit._plan.check import Edit
from kedit._run import arrays, ops
from kedit._run.dense import check_dense
from kedit.errors import OperandError


def has_values(x: Any) -> bool:
    """Whether `x` is an array of another framework that can create arrays of its kind."""
    if ops.is_tensor(x) or isinstance(x, keras.Variable):
        return False
    return hasattr(x, "__array_namespace__") or hasattr(x, "new_tensor")


def apply(edit: Edit, x: Any) -> Any:
    """Apply an edit in NumPy, and return a tensor with the framework, dtype and device of `x`."""
    check_dense(x)
    try:
        array = np.asarray(x)
    except Exception as error:  # of many kinds: on a device, traced, or with a gradient to keep
        raise OperandError(
            "A tensor of another framework than the running backend, "
            f"{keras.backend.backend()!r}, should be one that NumPy can read. Received: a "
            f"{type(x).__name__} of dtype {x.dtype}, of which NumPy says: {error} Convert it "
            "first, as in `at(numpy.asarray(x.detach().cpu()))[...]`."
        ) from error
    edited = arrays.apply(edit, array)
    if hasattr(x, "new_tensor"):  # PyTorch: keeps dtype and device
        return x.new_tensor(edited)
    return x.__array_namespace__().asarray(edited, device=x.device)
