"""The only code that turns an edit into calls: of `keras.ops`, or of NumPy for NumPy's arrays."""

from typing import Any

import keras
import numpy as np

from kedit._language.constants import as_array, is_array
from kedit._language.types import Shape
from kedit._plan.check import Edit, check, check_dense
from kedit._run import arrays, cast, foreign, ops, tf_data, update
from kedit._run.cast import constant
from kedit._run.node import call_node, fill, known_shape
from kedit.errors import DTypeError, OperandError

__all__ = ["Edit", "apply", "apply_to_rows", "check", "constant", "fill"]


def apply(edit: Any, x: Any, shape: Shape | None = None) -> Any:
    """Apply an edit where `x` lives.

    Args:
        edit: The edit.
        x: NumPy array, list or number: gives a NumPy array, unless the edit
            holds a tensor. Tensor of the running backend or Variable: gives a
            tensor. `KerasTensor`: adds one node to the graph. Tensor of another
            framework: gives one of its own; of TensorFlow, as inside
            `tf.data`, also one without values.
        shape: Shape that a layer was built with, with None for sizes that it
            must not rely on.
    """
    tensors = edit.tensors()
    if any([isinstance(tensor, keras.KerasTensor) for tensor in (x, *tensors)]):
        given = isinstance(x, (keras.KerasTensor, keras.Variable))  # of which one will be refused
        return call_node(edit, x if given else _tensor(x))
    if not tensors and shape is None:
        if _is_numpy(x):
            return arrays.apply(edit, x)
        if foreign.has_values(x):
            return foreign.apply(edit, x)
    return tf_data.run(_apply_to_tensor, edit, x, tensors, shape)


def apply_to_rows(edit: Edit, x: Any) -> Any:
    """Apply an edit to a batch, where it has to mean the same for every row."""
    shape: Shape = (None, *tuple(x.shape)[1:])
    edit.selection.check_rows(len(shape))
    check(edit, shape, cast.dtype_of(x))
    return apply(edit, x)


def _apply_to_tensor(edit: Any, x: Any, tensors: list[Any], shape: Shape | None) -> Any:
    x = _tensor(x)
    if tensors:
        edit = edit.map(_tensor)
        if _needs_values(edit):
            edit = _with_known_index(edit)
    return update.apply(edit, x, known_shape(x, tuple(x.shape) if shape is None else shape))


def _needs_values(edit: Edit) -> bool:
    """Whether an edit can be had only if the values of its index are there to look at."""
    tensors = edit.selection.index.tensors()
    if edit.mode == "raise":
        return bool(tensors)
    reads = edit.op == "get" and edit.size is None
    return reads and any([cast.dtype_of(tensor) == "bool" for tensor in tensors])


def _with_known_index(edit: Any) -> Any:
    """The edit with the values that it needs, or the same where a compiler has hidden them."""

    def values(tensor: Any) -> Any:
        needed = edit.mode == "raise" or cast.dtype_of(tensor) == "bool"
        found = cast.seen([tensor]) if needed else None
        return tensor if found is None else found[0]  # what is hidden will be refused

    return edit.with_index(edit.selection.index.known(values))


def _is_numpy(x: Any) -> bool:
    if isinstance(x, (list, tuple)):
        return all(_is_numpy(entry) and not isinstance(entry, np.ndarray) for entry in x)
    if isinstance(x, np.ma.MaskedArray):
        return False
    return is_array(x) or isinstance(x, (bool, int, float, complex))


def _tensor(x: Any) -> Any:
    """A tensor of the running backend, or, beside one of `tf.data`, of TensorFlow."""
    check_dense(x)
    if not (ops.is_tensor(x) or isinstance(x, keras.Variable) or _is_numpy(x)):
        raise OperandError(
            "An edit works on NumPy arrays, lists and tensors of the running backend, "
            f"{keras.backend.backend()!r}. Received: {x!r} of type {type(x).__name__}. Convert it "
            "first, as in `at(numpy.asarray(x))[...]`."
        )
    tensor = ops.convert_to_tensor(as_array(x) if isinstance(x, (list, tuple)) else x)
    if is_array(x) and x.dtype.kind in "iu" and cast.dtype_of(tensor) != x.dtype.name:
        _check_narrowed(x, cast.dtype_of(tensor))
    return tensor


def _check_narrowed(x: Any, dtype: str) -> None:
    """Refuse integers that a backend without integers of their width would change."""
    limits = np.iinfo(dtype)
    if x.size and not limits.min <= x.min() <= x.max() <= limits.max:
        raise DTypeError(
            f"An array of dtype {x.dtype.name!r} becomes a tensor of dtype {dtype!r} on the "
            f"{keras.backend.backend()} backend and should fit it. Received: numbers from "
            f"{x.min()} to {x.max()}. Edit the array by arrays, which stays in NumPy."
        )
