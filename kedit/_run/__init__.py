"""The only code that turns an edit into calls: of `keras.ops`, or of NumPy for NumPy's arrays."""

from typing import Any

import keras

from kedit._language.compiler import reads_bytecode
from kedit._language.types import Shape
from kedit._plan.check import Edit, check
from kedit._plan.plan import signature
from kedit._run import arrays, cast, foreign, tensors, tf_data
from kedit._run.cast import constant
from kedit._run.node import call_node, fill
from kedit._run.tensors import carry_out, is_plain, known_shape

__all__ = ["Edit", "apply", "apply_to_rows", "check", "constant", "fill"]


def apply(said: Any, x: Any, shape: Shape | None = None) -> Any:
    """Apply an edit where `x` lives.

    Args:
        said: The edit, or one that is spelled: what has the leaves, makes the edit and keeps plans.
        x: NumPy array, list or number: gives a NumPy array, unless the edit
            holds a tensor. Tensor of the running backend or Variable: gives a
            tensor. `KerasTensor`: adds one node to the graph. Tensor of another
            framework: gives one of its own; of TensorFlow, as inside
            `tf.data`, also one without values.
        shape: Shape that a layer was built with, with None for sizes that it
            must not rely on.
    """
    leaves = said._leaves
    if reads_bytecode() and hasattr(x, "index_add"):  # a tensor of PyTorch
        return tensors.apply(said, x, shape)
    given = [leaf for leaf in leaves if hasattr(leaf, "shape")] if leaves else leaves
    # The short way: what is given has been met before, and the plan is kept.
    if is_plain(x) and all([is_plain(leaf) for leaf in given]):
        known = tuple(x.shape) if shape is None else known_shape(x, shape)
        plan = said._plans.get(
            (said._spelling, known, x.dtype, signature(leaves) if leaves else ())
        )
        if plan is not None:
            return carry_out(plan, x, leaves)
    if any([isinstance(tensor, keras.KerasTensor) for tensor in (x, *given)]):
        # A Variable goes on as it is, to be refused.
        is_keras = isinstance(x, (keras.KerasTensor, keras.Variable))
        return call_node(said._edit(), x if is_keras else tensors.tensor(x))
    if not given and shape is None:
        if tensors.is_numpy(x):
            return arrays.apply(said, x)
        if foreign.has_values(x):
            return foreign.apply(said._edit(), x)
    return tf_data.run(tensors.apply, (x, *given), said, x, shape)


def apply_to_rows(edit: Any, x: Any) -> Any:
    """Apply an edit to a batch, where it has to mean the same for every row."""
    shape: Shape = (None, *tuple(x.shape)[1:])
    edit.selection.check_rows(len(shape))
    check(edit, shape, cast.dtype_of(x))
    return apply(edit, x)
