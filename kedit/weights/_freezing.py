"""Freeze chosen elements of weights."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from kedit._at import Place, at
from kedit._edit import check_weight_edit
from kedit._language.expression import Expression
from kedit._run import ops
from kedit.errors import OperandError
from kedit.weights._extending import extended, mask_of
from kedit.weights._names import Address, find_weights, weights_in
from kedit.weights._weight_chains import chains_of, edited
from kedit.weights._weight_editing import WeightEditing


def freeze_elements(
    base: keras.layers.Layer, name: Any, index: Any = ..., value: Any = None
) -> WeightEditing:
    """Freeze chosen elements of weights of an existing layer or model.

    Constraints and masked gradients let elements drift under weight decay, momentum
    or `use_ema`, or are lost when the model is saved. Here, frozen elements are
    constants of the computation, to the last bit. All other elements train as before.

    Args:
        base: Layer, or model of any kind. Its weights are shared, not copied. If it is
            a `WeightEditing`, its edits and those of this call are in one new
            `WeightEditing`, and the last call that freezes an element wins.
        name: Which weights:

            - the end of the weight's `path`, such as "kernel" or "dense/kernel", or
              the layer's name or address with the name of the weight;
            - a layer's name or address alone: all its weights;
            - a pattern of these with `*`, `?` or `[]`, such as `"*/kernel"`;
            - a variable, a layer, or a function of (layer, variable) that returns a bool;
            - a list of these;
            - a dict from any of these, except variables, to an index each.
        index: Elements to freeze: a boolean mask with the shape of the weight,
            anything else that `at[...]` accepts, a condition such as `X == 0.0`, which
            freezes the elements that meet it now, or a selection `at[...]` itself.
            Defaults to all elements.
        value: Number or array that broadcasts to the selection. Defaults to None:
            the current values, after the edits in `base`.

    Returns:
        `kedit.weights.WeightEditing`: a model to compile, train and save, or
        a layer for another model. `model.weight(name)` returns the weight with its
        frozen elements. In `model.base`, these elements may drift until `model.bake()`
        writes them.

    Raises:
        kedit.errors.OperandError: If a name stands for no weight or, without a pattern, for
            several, or if a weight is quantized.
        kedit.errors.EditError: If the index or the value does not fit a weight.

    Gradient:
        Exactly 0 for the frozen elements; the gradient of `base` for the others.

    Example:
    >>> layer = keras.layers.Dense(2, kernel_initializer="ones")
    >>> layer.build((None, 2))
    >>> held = kedit.weights.freeze_elements(layer, "kernel", np.eye(2) > 0, 0.0)
    >>> ops.convert_to_numpy(held.weight("kernel")).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    edits: dict[Any, Any] = {}
    chain_of = chains_of(base)
    table = weights_in(base)
    for target, chosen in _pairs(name, index):
        place = _place_of(chosen)
        if not base.built and isinstance(target, str) and value is not None:
            edits[target] = (place.set(value), None)  # found when the layer is built
            continue
        for found in find_weights(base, target, table):
            key = Address(found.address)
            edits[key] = _edit_of(chain_of, found.variable, mask_of(base, key), place, value)
    return extended(base, edits)


def _pairs(name: Any, index: Any) -> Iterator[tuple[Any, Any]]:
    if not isinstance(name, Mapping):
        yield name, index
        return
    if index is not ...:
        raise OperandError(
            "A dict should give each weight its own index. Received: a dict and "
            f"index={index!r}. Write `freeze_elements(model, ['a/kernel', 'b/kernel'], index)` "
            "for one index."
        )
    yield from name.items()


def _edit_of(chain_of: Any, variable: Any, mask: Any, place: Any, value: Any) -> Any:
    """Return the edit that freezes, and which elements it sets to something other than 0."""
    index = place.selection.index
    if value is not None and place.selection.condition is None:
        edit = place.set(value)
        if mask is None:
            return edit, None
        held = place.set(True)(np.zeros(tuple(variable.shape), bool))
        set_to = edit(np.zeros(tuple(variable.shape)))
        return edit, held & (set_to != 0)
    now = ops.convert_to_numpy(ops.convert_to_tensor(edited(variable, chain_of(variable))))
    held, values = None, now if value is None else value
    if place.selection.condition is not None:  # which elements meet it should not change
        check_weight_edit(place.set(0))
        held = (place.set(0)(now) == 0) & (place.set(1)(now) == 1)
        values = now if value is None else place.set(value)(now)
    elif index.mask is not None and tuple(index.mask.shape) == now.shape:
        held = np.asarray(index.mask.array)
    if held is None:
        edit = place.set(place.get()(now))
        held = place.set(True)(np.zeros(now.shape, bool))
    else:
        # One choice between two arrays, instead of many positions.
        edit = at.where(held).set(np.where(held, values, 0))
    if mask is None:
        return edit, None
    return edit, held & (edit(now) != 0)


def _place_of(index: Any) -> Place[Any]:
    if isinstance(index, Expression):
        return at.where(index)
    return index if isinstance(index, Place) else at[index]
