"""An edit of tensors of the running backend: find or make its plan, and carry it out."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kedit._language.compiler import as_numbers, reads_bytecode
from kedit._language.constants import as_array, is_array, stand_ins
from kedit._language.types import Shape, Tensor
from kedit._plan.check import Edit, check
from kedit._plan.plan import Plan, keep, make, signature
from kedit._run import arrays, axes, cast, choose, ops, positions, read, scatter, spread, whole
from kedit._run.dense import check_dense, flags
from kedit.errors import DTypeError, OperandError

RUN: dict[str, Callable[[Plan, Any, Tensor, Any], Tensor]] = {
    "read": read.run,
    "copy": lambda plan, layout, x, leaves: ops.copy(x),
    "choose": choose.run,
    "whole": whole.run,
    "add": scatter.run_add,
    "scatter": scatter.run,
    "spread": spread.run,
}
"""The functions that carry out the strategies of `kedit._plan.strategy`."""


def apply(said: Any, x: Any, shape: Shape | None = None, already_checked: bool = False) -> Tensor:
    """Apply an edit to a tensor, and return a new tensor of the same shape and dtype.

    Args:
        said: See `kedit._run.apply`.
        x: Tensor, Variable or array.
        shape: Shape of `x` that a layer was built with.
        already_checked: Whether the edit was checked when a graph was built.
    """
    x = tensor(x)
    leaves = [tensor(leaf) if hasattr(leaf, "shape") else leaf for leaf in said._leaves]
    known = known_shape(x, tuple(x.shape) if shape is None else shape)
    if is_array(x):  # on Keras's NumPy backend
        edit = said._with(leaves)
        check(edit, known, cast.dtype_of(x), already_checked=already_checked)
        return arrays.apply_to_built(edit, x, known)
    forms = signature(leaves)
    if reads_bytecode():
        forms = tuple([form and (as_numbers(form[0]), form[1]) for form in forms])
        bound = (as_numbers(known), cast.dtype_of(x), already_checked)
        return carry_out(said._plan_when_traced(forms, bound), x, leaves)
    forms = tuple([form and (_known_sizes(form[0]), form[1]) for form in forms])
    key: Any = (said._spelling, known, x.dtype, forms)
    if already_checked or ops.is_used_otherwise():
        key = (*key, already_checked, ops.is_used_otherwise())
    plan = said._plans.get(key)
    if plan is None:
        edit = said._with(stand_ins(forms))
        if not already_checked and _needs_values(edit):
            looked_at = _with_known_index(said._with(leaves))
            if looked_at is not None:
                return apply(looked_at, x, shape)
        plan = make(edit, known, cast.dtype_of(x), already_checked)
        keep(said._plans, key, plan, said._limit)
        for met in (x, *leaves):
            _remember(met)
    return carry_out(plan, x, leaves)


def carry_out(plan: Plan, x: Tensor, leaves: Any) -> Tensor:
    """Carry out a plan.

    Args:
        plan: The plan.
        x: Tensor of the running backend.
        leaves: The tensors and functions of the edit.
    """
    layout = plan.layout
    if not layout.is_computed:
        name = plan.strategies["known"]
    else:
        layout, how = positions.resolve(plan, _sizes(plan, x), leaves)
        name = plan.strategies[how]
    if 0 in tuple(x.shape) and name != "read":  # an axis whose size was not known
        name = "copy"
    return RUN[name](plan, layout, x, leaves)


def _sizes(plan: Plan, x: Tensor) -> tuple[Any, ...]:
    """The sizes of a tensor; None for one that is unknown, and on which nothing is computed."""
    given: Any = tuple(x.shape)
    if all([isinstance(size, int) for size in given]):
        return as_numbers(given) if reads_bytecode() else given
    picks = [pick.positions.parts for pick in plan.layout.picks if pick.is_computed]
    needed = {axis for parts in picks for part in parts for axis in part.axes}
    return tuple(
        [
            size if size is not None else axes.length(x, axis) if axis in needed else None
            for axis, size in enumerate(plan.shape)
        ]
    )


_PLAIN: dict[type, tuple[str, ...]] = {}
"""Known types of tensors of the running backend, and the attributes to check."""
_STRIDED = ("torch.strided",)


def is_plain(x: Any) -> bool:
    """Whether `x` can be used as it is: a dense tensor of a known type, with known sizes."""
    names = _PLAIN.get(type(x))
    if names is None:
        return False
    for name in names:
        flag = getattr(x, name)
        if flag is not False and str(flag) not in _STRIDED:
            return False
    return all([type(size) is int for size in x.shape])


def _remember(x: Any) -> None:
    """Remember the type of `x` as plain, if it is a tensor of the running backend."""
    kind: Any = type(x)
    if isinstance(x, (keras.Variable, keras.KerasTensor)) or not ops.is_tensor(x):
        return
    # A tensor in a graph of TensorFlow may have no known rank.
    if hasattr(x.shape, "rank") and kind.__name__ != "EagerTensor":
        return
    _PLAIN[kind] = flags(kind)


def _needs_values(edit: Edit) -> bool:
    """Whether an edit needs to read the values of its index."""
    tensors = edit.selection.index.tensors()
    if edit.mode == "raise":
        return bool(tensors)
    reads = edit.op == "get" and edit.size is None
    return reads and any([cast.dtype_of(tensor) == "bool" for tensor in tensors])


def _with_known_index(edit: Any) -> Any:
    """The edit with the index values that it needs, or None if a compiler hides them all."""
    found_any = False

    def values(tensor: Any) -> Any:
        nonlocal found_any
        needed = edit.mode == "raise" or cast.dtype_of(tensor) == "bool"
        found = cast.seen([tensor]) if needed else None
        found_any = found_any or found is not None
        return tensor if found is None else found[0]  # hidden values raise later

    index = edit.selection.index.known(values)
    return edit.with_index(index) if found_any else None


def is_numpy(x: Any) -> bool:
    if isinstance(x, (list, tuple)):
        return all(is_numpy(entry) and not isinstance(entry, np.ndarray) for entry in x)
    if isinstance(x, np.ma.MaskedArray):
        return False
    return is_array(x) or isinstance(x, (bool, int, float, complex))


def tensor(x: Any) -> Any:
    """Convert `x` to a tensor of the running backend, or of TensorFlow inside `tf.data`."""
    if reads_bytecode() and hasattr(x, "index_add") and str(x.layout) == "torch.strided":
        return x  # the compiler traces each further call
    check_dense(x)
    if not (ops.is_tensor(x) or isinstance(x, keras.Variable) or is_numpy(x)):
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
    """Raise for integers that a backend without integers of their width would change."""
    limits = np.iinfo(dtype)
    if x.size and not limits.min <= x.min() <= x.max() <= limits.max:
        raise DTypeError(
            f"An array of dtype {x.dtype.name!r} becomes a tensor of dtype {dtype!r} on the "
            f"{keras.backend.backend()} backend and should fit it. Received: numbers from "
            f"{x.min()} to {x.max()}. Edit the array by arrays, which stays in NumPy."
        )


def known_shape(x: Tensor, built: Shape) -> Shape:
    """Shape of `x` with None wherever the model was built without a size.

    Such an axis means the same on every backend, even on those that know its
    size when the model runs. Where a tracer keeps all sizes as tensors, those that the
    model was built with are known.
    """
    sizes = zip(tuple(x.shape), built, strict=True)
    return _known_sizes(
        [size if size is None or not isinstance(here, int) else here for here, size in sizes]
    )


def _known_sizes(shape: Any) -> Shape:
    """A shape with None for sizes that a graph or a tracer does not know."""
    return tuple([size if isinstance(size, int) else None for size in shape])
