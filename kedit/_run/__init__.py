"""The only code that turns an edit into calls to `keras.ops`, or to NumPy for NumPy arrays."""

from typing import Any

import keras

from kedit._language.compiler import reads_bytecode
from kedit._language.types import Shape
from kedit._plan.check import Edit, check
from kedit._plan.plan import signature
from kedit._run import arrays, cast, foreign, tensors, tf_data
from kedit._run.cast import constant, limited
from kedit._run.node import call_node, fill
from kedit._run.tensors import carry_out, is_plain, known_shape

__all__ = ["Edit", "apply", "apply_to_rows", "check", "constant", "fill", "known_shape", "limited"]


def apply(said: Any, x: Any, shape: Shape | None = None) -> Any:
    """Apply an edit in the framework of `x`.

    Args:
        said: The edit, or a `Spelled` one: has the leaves, makes the edit and keeps the plans.
        x: A NumPy array, list or number returns a NumPy array, unless the edit
            holds a tensor. A tensor of the running backend or a Variable returns a
            tensor. A `KerasTensor` adds one node to the graph. A tensor of another
            framework returns one of that framework; a tensor of TensorFlow may also
            be one without values, as inside `tf.data`.
        shape: Shape that a layer was built with, with None for sizes that it
            must not rely on.
    """
    leaves = said._leaves
    if reads_bytecode() and hasattr(x, "index_add"):  # a tensor of PyTorch
        return tensors.apply(said, x, shape)
    given = [leaf for leaf in leaves if hasattr(leaf, "shape")] if leaves else leaves
    # The fast path: all types are known, and the plan was kept.
    if is_plain(x) and all([is_plain(leaf) for leaf in given]):
        known = tuple(x.shape) if shape is None else known_shape(x, shape)
        plan = said._plans.get(
            (said._spelling, known, x.dtype, signature(leaves) if leaves else ())
        )
        if plan is not None:
            return carry_out(plan, x, leaves)
    if any([isinstance(tensor, keras.KerasTensor) for tensor in (x, *given)]):
        # A Variable is passed on as it is, and raises later.
        is_keras = isinstance(x, (keras.KerasTensor, keras.Variable))
        return call_node(said._edit(), x if is_keras else tensors.tensor(x))
    if not given and shape is None:
        if tensors.is_numpy(x):
            return arrays.apply(said, x)
        if foreign.has_values(x):
            return foreign.apply(said._edit(), x)
    return tf_data.run(tensors.apply, (x, *given), said, x, shape)


def apply_to_rows(edit: Any, x: Any) -> Any:
    """Apply an edit to a batch, where it must mean the same for every row."""
    shape: Shape = (None, *tuple(x.shape)[1:])
    edit.check_rows(len(shape))
    check(edit, shape, cast.dtype_of(x))
    return apply(edit, x)
