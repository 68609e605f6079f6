"""Freeze or prune chosen elements of a weight."""

import math
from typing import Any

import keras
import numpy as np

from kedit._at import Place, at
from kedit._edit import check_weight_edit
from kedit._language.expression import Expression
from kedit._run import ops
from kedit.errors import OperandError
from kedit.weights._weight_editing import WeightEditing, weight_of


def freeze_elements(
    base: keras.layers.Layer, name: str, index: Any, value: Any = None
) -> WeightEditing:
    """Freeze chosen elements of a weight of an existing layer or model.

    Constraints and masked gradients let elements drift under weight decay, momentum
    or `use_ema`, or are lost when the model is saved. Here, frozen elements are
    constants of the computation, to the last bit. All other elements train as before.

    Args:
        base: Layer, or model of any kind. Its weights are shared, not copied. It may
            already have frozen elements; the last call that freezes an element wins.
        name: End of the weight's `path`, such as "kernel" or "dense/kernel".
        index: Elements to freeze: a boolean mask with the shape of the weight,
            anything else that `at[...]` accepts, a condition such as `X == 0.0`, which
            freezes the elements that meet it now, or a selection `at[...]` itself.
        value: Number or array that broadcasts to the selection. Defaults to None:
            the current values, after the edits in `base`.

    Returns:
        `kedit.interventions.WeightEditing`: a model to compile, train and save, or
        a layer for another model. `model.weight(name)` returns the weight with its
        frozen elements. In `model.base`, these elements may drift until `model.bake()`
        writes them.

    Raises:
        kedit.errors.OperandError: If no weight or several weights match `name`, or
            the weight is quantized.
        kedit.errors.EditError: If the index or the value does not fit the weight.

    Gradient:
        Exactly 0 for the frozen elements; the gradient of `base` for the others.

    Example:
    >>> layer = keras.layers.Dense(2, kernel_initializer="ones")
    >>> layer.build((None, 2))
    >>> held = kedit.interventions.freeze_elements(layer, "kernel", np.eye(2) > 0, 0.0)
    >>> ops.convert_to_numpy(held.weight("kernel")).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    place = _place_of(index)
    mask, held = place.selection.index.mask, None
    if place.selection.condition is None and value is not None:
        return WeightEditing(base, {name: place.set(value)})
    now = ops.convert_to_numpy(weight_of(base, name))
    values = now if value is None else value
    if place.selection.condition is not None:  # which elements meet it should not change
        check_weight_edit(place.set(0))
        held = (place.set(0)(now) == 0) & (place.set(1)(now) == 1)
        values = values if value is None else place.set(value)(now)
    elif mask is not None and tuple(mask.shape) == now.shape:
        held = np.asarray(mask.array)
    if held is None:
        return WeightEditing(base, {name: place.set(place.get()(now))})
    # One choice between two arrays, instead of many positions.
    return WeightEditing(base, {name: at.where(held).set(np.where(held, values, 0))})


def _place_of(index: Any) -> Place[Any]:
    if isinstance(index, Expression):
        return at.where(index)
    return index if isinstance(index, Place) else at[index]


def prune(base: keras.layers.Layer, name: str, sparsity: float) -> WeightEditing:
    """Set the elements of a weight with the smallest magnitude to 0, and freeze them.

    If the weight is already pruned or frozen, elements are ranked by their frozen values.

    Args:
        base: Layer or model that is built; see `freeze_elements`.
        name: End of the weight's `path`.
        sparsity: Fraction of the elements to set to 0, from 0 to 1. Equal elements are
            pruned in C order.

    Returns:
        As for `freeze_elements`.

    Raises:
        kedit.errors.OperandError: As for `freeze_elements`, or if `sparsity` is not
            from 0 to 1.

    Gradient:
        As for `freeze_elements`.

    References:
        S. Han, J. Pool, J. Tran and W. J. Dally, *Learning both Weights and
        Connections for Efficient Neural Networks*, NeurIPS 2015.

    Example:
    >>> layer = keras.layers.Dense(3)
    >>> layer.build((None, 1))
    >>> layer.set_weights([np.array([[3.0, -1.0, 2.0]]), np.zeros(3)])
    >>> pruned = kedit.interventions.prune(layer, "kernel", 1 / 3)
    >>> ops.convert_to_numpy(pruned.weight("kernel")).tolist()
    [[3.0, 0.0, 2.0]]
    """
    if not isinstance(sparsity, (int, float)) or not 0 <= sparsity <= 1:
        raise OperandError(f"`sparsity` should be from 0 to 1. Received: sparsity={sparsity!r}.")
    weight = ops.convert_to_numpy(ops.cast(weight_of(base, name), "float32"))
    count = math.floor(sparsity * weight.size + 0.5)
    mask = np.zeros(weight.size, bool)
    mask[np.argsort(np.abs(weight), axis=None, kind="stable")[:count]] = True
    return freeze_elements(base, name, mask.reshape(weight.shape), 0.0)
