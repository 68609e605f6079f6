"""The only code that turns an edit into calls: of `keras.ops`, or of NumPy for NumPy's arrays."""

from typing import Any

import keras
import numpy as np
from keras import ops

from kedit._data import is_array
from kedit._lowering import _cast, _keras, _numpy
from kedit._lowering._cast import constant
from kedit._lowering._check import Edit, check, check_dense
from kedit._lowering._node import call_node, fill, known_shape
from kedit._types import Shape
from kedit.errors import OperandError

__all__ = ["Edit", "apply", "check", "constant", "fill"]


def apply(edit: Any, x: Any, shape: Shape | None = None) -> Any:
    """Apply an edit where `x` lives.

    Args:
        edit: The edit.
        x: NumPy array, list or number: gives a NumPy array, unless the edit
            holds a tensor. Tensor of the running backend or Variable: gives a
            tensor. `KerasTensor`: adds one node to the graph.
        shape: Shape that a layer was built with, with None for sizes that it
            must not rely on.
    """
    tensors = edit.tensors()
    if any([isinstance(tensor, keras.KerasTensor) for tensor in (x, *tensors)]):
        given = isinstance(x, (keras.KerasTensor, keras.Variable))  # of which one will be refused
        return call_node(edit, x if given else _tensor(x))
    if _is_numpy(x) and not tensors and shape is None:
        return _numpy.apply(edit, x)
    x = _tensor(x)
    if tensors:
        edit = edit.map(_tensor)
        if _needs_values(edit):
            edit = _with_known_index(edit)
    return _keras.apply(edit, x, known_shape(x, tuple(x.shape) if shape is None else shape))


def _needs_values(edit: Edit) -> bool:
    """Whether an edit can be had only if the values of its index are there to look at."""
    tensors = edit.selection.index.tensors()
    if edit.mode == "raise":
        return bool(tensors)
    reads = edit.op == "get" and edit.size is None
    return reads and any([_cast.dtype_of(tensor) == "bool" for tensor in tensors])


def _with_known_index(edit: Any) -> Any:
    """The edit with the values that it needs, or the same where a compiler has hidden them."""

    def values(tensor: Any) -> Any:
        needed = edit.mode == "raise" or _cast.dtype_of(tensor) == "bool"
        return ops.convert_to_numpy(tensor) if needed else tensor

    try:
        return edit.with_index(edit.selection.index.known(values))
    except (TypeError, ValueError, NotImplementedError, AttributeError, RuntimeError):
        return edit  # which will be refused


def _is_numpy(x: Any) -> bool:
    if isinstance(x, (list, tuple)):
        return all(_is_numpy(entry) and not isinstance(entry, np.ndarray) for entry in x)
    if isinstance(x, np.ma.MaskedArray):
        return False
    return is_array(x) or isinstance(x, (bool, int, float, complex))


def _tensor(x: Any) -> Any:
    """A tensor of the running backend."""
    check_dense(x)
    if ops.is_tensor(x) or isinstance(x, keras.Variable) or _is_numpy(x):
        return ops.convert_to_tensor(np.asarray(x) if isinstance(x, (list, tuple)) else x)
    raise OperandError(
        "An edit works on NumPy arrays, lists and tensors of the running backend, "
        f"{keras.backend.backend()!r}. Received: {x!r} of type {type(x).__name__}. Convert it "
        "first, as in `at(numpy.asarray(x))[...]`."
    )
