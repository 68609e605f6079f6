"""Remove units: a smaller model that computes what the model with these units at 0 computes."""

import difflib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kedit._addresses import addresses
from kedit.errors import OperandError, PositionError
from kedit.weights._smaller_layers import (
    Kept,
    can_lose_units,
    check_activation,
    smaller,
    units_of,
    unknown,
)


def remove_channels(model: keras.Model, channels: Mapping[Any, Any]) -> keras.Model:
    """Return a smaller model, without chosen units of Dense and Conv layers.

    It computes what `model` computes if the next layer that mixes units, such as Dense or
    Conv, reads 0 for the removed ones. So a unit is gone together with its bias, and with
    its part of BatchNormalization and DepthwiseConv layers behind it. If a unit is 0
    after its activation anyway, the outputs are the same.

    Args:
        model: Functional or Sequential model that is built; nested ones included. It is
            left unchanged. Bake edited weights first: `model.bake()`.
        channels: Dict from Dense, Conv1D, Conv2D or Conv3D layers, given by name, address
            or as an object, to the numbers of the units to remove, or a mask of them.

    Returns:
        A new model of the same kind, with new layers of the same names and copies of the
        weights. It is not compiled.

    Raises:
        kedit.errors.OperandError: If units reach a layer that they cannot be followed
            through, or the output of the model. Known are Dense, Conv1D to Conv3D,
            DepthwiseConv, BatchNormalization, activations, dropout, pooling, padding,
            cropping, upsampling, Flatten, Concatenate, and Add and its like if all inputs
            lose the same units.
        kedit.errors.PositionError: If a layer has no such unit.

    Gradient:
        None: the weights are copied.

    References:
        H. Li, A. Kadav, I. Durdanovic, H. Samet and H. P. Graf, *Pruning Filters for
        Efficient ConvNets*, ICLR 2017.

    Example:
    >>> inputs = keras.Input((4,))
    >>> hidden = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    >>> model = keras.Model(inputs, keras.layers.Dense(2, name="out")(hidden))
    >>> small = kedit.weights.remove_channels(model, {"hidden": [1, 3, -1]})
    >>> [tuple(weight.shape) for weight in small.weights]
    [(4, 5), (5,), (5, 2), (2,)]
    """
    if not _is_graph(model) or not model.built:
        raise OperandError(
            "Units can be removed from a Functional or Sequential model that is built. Received: "
            f"{model!r}. Write `remove_channels(model.bake(), ...)` for edited weights, or call "
            "the model once to build it."
        )
    removed: dict[int, Any] = {}
    for target, numbers in channels.items():
        layer = _layer_of(model, target)
        check_activation(layer)
        removed[id(layer)] = _kept_of(layer, numbers)
    inputs = keras.tree.flatten(model.inputs)
    made, kept = _Walk(removed).graph(model, [None] * len(inputs))
    if any([one is not None for one in kept]):
        names = [_layer_of(model, target).name for target in channels]
        raise OperandError(
            "Removed units should not reach the output of the model, whose shape would change. "
            f"Received: units of {names}. Choose units of a layer before it."
        )
    return made


class _Walk:
    """Makes smaller layers, in the order of the graph, and remembers which units are kept."""

    def __init__(self, removed: dict[int, Any]) -> None:
        self.removed = removed
        self.made: dict[int, tuple[Any, Any, Any]] = {}

    def graph(self, model: Any, kepts: list[Kept]) -> tuple[Any, list[Kept]]:
        """Return a model with fewer units, and which units of its outputs are kept."""
        state = _State()
        old = keras.tree.flatten(model.inputs)
        new = [_input(tensor, kept) for tensor, kept in zip(old, kepts, strict=True)]
        for tensor, made, kept in zip(old, new, kepts, strict=True):
            state.note(made, kept, tensor)
        if isinstance(model, keras.Sequential):
            layers = [one for one in model.layers if not isinstance(one, keras.layers.InputLayer)]
            x, made_layers = new[0], []
            for layer in layers:
                x = self.call(state, layer, x)
                made_layers.append(self.made[id(layer)][0])
            made = keras.Sequential([new[0], *made_layers], name=model.name)
            return made, [state.kept(x)]
        given = keras.tree.pack_sequence_as(model.input, new)

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            return self.call(state, layer, *args, **kwargs)

        made = keras.models.clone_model(
            model, input_tensors=given, clone_function=_same, call_function=call
        )
        return made, [state.kept(tensor) for tensor in keras.tree.flatten(made.outputs)]

    def call(self, state: "_State", layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the smaller form of a layer, which is made at the first call."""
        tensors = [
            leaf for leaf in keras.tree.flatten((args, kwargs)) if keras.utils.is_keras_tensor(leaf)
        ]
        kepts = [state.kept(tensor) for tensor in tensors]
        key = [None if kept is None else kept.tolist() for kept in kepts]
        weights = None
        if id(layer) not in self.made:
            if _is_graph(layer):
                made, out = self.graph(layer, kepts)
            else:
                before = [state.before(tensor) for tensor in tensors]
                made, weights, kept = smaller(layer, before, kepts, self.removed.get(id(layer)))
                out = [kept]
            self.made[id(layer)] = (made, key, out)
        made, first, out = self.made[id(layer)]
        if first != key:
            raise unknown(layer, "is called several times, and reads different units")
        outputs = made(*args, **kwargs)
        if weights:
            made.set_weights(weights)
        flat = keras.tree.flatten(outputs)
        out = out * len(flat) if len(out) == 1 else out
        for tensor, kept in zip(flat, out, strict=True):
            size = tensor.shape[-1] if kept is None else len(kept)
            before = keras.KerasTensor((*tensor.shape[:-1], size)) if tensor.shape else tensor
            state.note(tensor, kept, before)
        return outputs


class _State:
    """Which units of each tensor are kept, and what its shape was in the large model."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[Any, Kept, Any]] = {}

    def note(self, tensor: Any, kept: Kept, before: Any) -> None:
        self._found[id(tensor)] = (tensor, kept, before)

    def kept(self, tensor: Any) -> Kept:
        return self._found[id(tensor)][1]

    def before(self, tensor: Any) -> Any:
        return self._found[id(tensor)][2]


def _same(layer: Any) -> Any:
    return layer


def _input(tensor: Any, kept: Kept) -> Any:
    shape = list(tensor.shape)
    if kept is not None:
        shape[-1] = int(kept.sum())
    name = tensor.name if kept is None else None
    return keras.Input(batch_shape=tuple(shape), dtype=tensor.dtype, name=name)


def _is_graph(model: Any) -> bool:
    return isinstance(model, (keras.Sequential, keras.Function)) and isinstance(model, keras.Model)


def _layer_of(model: Any, target: Any) -> Any:
    table = addresses(model)
    found = {id(x): x for a, x in table.items() if target in (a, x.name) or x is target}
    names = [address for address, layer in table.items() if can_lose_units(layer)]
    if len(found) != 1:
        close = difflib.get_close_matches(str(target), names, 5, 0.4) or names[:10]
        raise OperandError(
            f"A layer that loses units should be named as in the model. Received: {target!r}, "
            f"which is the name of {len(found)} layers. Close to it: {close}."
        )
    (layer,) = found.values()
    if not can_lose_units(layer):
        raise OperandError(
            "Units should be removed from a Dense, Conv1D, Conv2D or Conv3D layer; layers behind "
            f"it follow. Received: {target!r}, a {type(layer).__name__}. Write one of {names[:10]}."
        )
    return layer


def _kept_of(layer: Any, numbers: Any) -> Any:
    """Return which units of a layer are kept, as a mask."""
    count = units_of(layer)
    kept = np.ones(count, bool)
    given = np.asarray(np.arange(count)[numbers] if isinstance(numbers, slice) else numbers)
    is_mask = given.dtype == bool and given.shape == (count,)
    if not is_mask and (given.size and given.dtype.kind not in "iu"):
        raise OperandError(
            f"Units of {layer.name!r} should be given by their numbers, or a mask of shape "
            f"({count},). Received: {numbers!r}. Write `{{{layer.name!r}: [0, 1]}}`."
        )
    if not is_mask and given.size and not (-count <= given.min() and given.max() < count):
        raise PositionError(
            f"Units of {layer.name!r} should be numbers below {count}. Received: {numbers!r}. "
            f"Write `{{{layer.name!r}: [{count - 1}]}}` for the last one."
        )
    kept[given if is_mask or given.size else []] = False
    if not kept.any():
        raise OperandError(
            f"A layer should keep at least one unit. Received: all {count} of {layer.name!r}. "
            f"Write `{{{layer.name!r}: slice(1, None)}}` to keep the first."
        )
    return kept
