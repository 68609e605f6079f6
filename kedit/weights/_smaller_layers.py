"""A layer with fewer units: its config, its weights, and which units come out."""

from typing import Any, NamedTuple

import keras
import numpy as np

from kedit._run import ops
from kedit.errors import OperandError

Kept = Any
"""Which units of a tensor are kept, along its last axis: a NumPy mask, or None for all."""


class Smaller(NamedTuple):
    """A layer with fewer units, not built yet, its weights, and the units that come out."""

    layer: Any
    weights: list[Any]
    kept: Kept


_MIXING = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
"""Layers whose units are computed from all units before them, so that they can be removed."""
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_POOLING = tuple(
    getattr(keras.layers, f"{kind}{n}D")
    for n in (1, 2, 3)
    for kind in ("MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling")
)
_SPATIAL = tuple(
    getattr(keras.layers, f"{kind}{n}D")
    for n in (1, 2, 3)
    for kind in ("UpSampling", "ZeroPadding", "Cropping", "SpatialDropout")
)
_SINGLE = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.Dropout,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.ActivityRegularization,
    keras.layers.Identity,
    *_POOLING,
    *_SPATIAL,
)
"""Layers that treat each unit alone, and have no weights."""
_JOINING = (
    keras.layers.Add,
    keras.layers.Subtract,
    keras.layers.Multiply,
    keras.layers.Average,
    keras.layers.Maximum,
    keras.layers.Minimum,
)
_OPERATIONS = {"Add", "Subtract", "Multiply", "Maximum", "Minimum", "Relu", "Identity"}
"""Operations of `keras.ops` that treat each unit alone, such as `x + y`."""


def can_lose_units(layer: Any) -> bool:
    """Whether units of a layer can be removed by its name."""
    return type(layer) in _MIXING


def units_of(layer: Any) -> int:
    """Return how many units a layer has."""
    return int(layer.units if isinstance(layer, keras.layers.Dense) else layer.filters)


def smaller(layer: Any, inputs: list[Any], kepts: list[Kept], own: Kept) -> Smaller:
    """Return a layer that computes the kept units of the kept inputs.

    Args:
        layer: Layer, or operation of `keras.ops`.
        inputs: Its inputs as they were in the large model, as tensors without values.
        kepts: Which units of each input are kept.
        own: Which of its own units are kept.

    Raises:
        kedit.errors.OperandError: If the layer treats units in a way that is not known.
    """
    if own is None and all([kept is None for kept in kepts]):
        weights = layer.get_weights() if isinstance(layer, keras.layers.Layer) else []
        return Smaller(_again(layer, {}), weights, None)
    kind = type(layer)
    _check_known(layer)
    if kind in _MIXING:
        return _mixing(layer, _or_all(kepts[0], inputs[0]), own)
    if kind in _DEPTHWISE:
        kernel, *bias = layer.get_weights()
        out = np.repeat(kepts[0], layer.depth_multiplier)
        weights = [kernel[..., kepts[0], :], *[b[out] for b in bias]]
        return Smaller(_again(layer, {}), weights, out)
    if kind is keras.layers.BatchNormalization:
        axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
        if [axis % len(inputs[0].shape) for axis in axes] != [len(inputs[0].shape) - 1]:
            raise unknown(layer, "does not normalize the last axis")
        return Smaller(_again(layer, {}), [w[kepts[0]] for w in layer.get_weights()], kepts[0])
    if kind is keras.layers.Flatten:
        sizes = inputs[0].shape[1:-1]
        if None in sizes:
            raise unknown(layer, "flattens axes of unknown size")
        return Smaller(_again(layer, {}), [], np.tile(kepts[0], int(np.prod(sizes))))
    if kind is keras.layers.Concatenate and layer.axis in (-1, len(inputs[0].shape) - 1):
        pairs = zip(kepts, inputs, strict=True)
        return Smaller(_again(layer, {}), [], np.concatenate([_or_all(*p) for p in pairs]))
    if (
        kind is keras.layers.Concatenate
        or kind in _JOINING
        or (_is_operation(layer) and kind.__name__ in _OPERATIONS)
    ):
        return Smaller(_again(layer, {}), [], _alike(layer, inputs, kepts))
    if kind in _SINGLE:
        return Smaller(_again(layer, {}), [], kepts[0])
    raise unknown(layer, f"is a {kind.__name__}")


def _mixing(layer: Any, kept: Any, own: Kept) -> Smaller:
    kernel, *bias = layer.get_weights()
    if getattr(layer, "groups", 1) != 1:
        raise unknown(layer, f"has {layer.groups} groups")
    out = np.ones(units_of(layer), bool) if own is None else own
    size = "units" if isinstance(layer, keras.layers.Dense) else "filters"
    weights = [kernel[..., kept, :][..., out], *[b[out] for b in bias]]
    return Smaller(_again(layer, {size: int(out.sum())}), weights, own)


def _check_known(layer: Any) -> None:
    """Raise if a layer keeps its units or its weights in a way that is not known."""
    if getattr(layer, "data_format", None) == "channels_first":
        raise unknown(layer, "counts units along axis 1, as `channels_first` has them")
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        raise unknown(layer, "is quantized or has LoRA")
    if type(layer) not in _MIXING:  # those that lose units are checked where they are named
        check_activation(layer)


def check_activation(layer: Any) -> None:
    """Raise if the activation of a layer computes a unit from other units."""
    activation = getattr(layer, "activation", None)
    if not callable(activation):
        return
    x = np.array([[-1.0, 0.5, 2.0, -0.25]], "float32")
    whole = ops.convert_to_numpy(activation(ops.convert_to_tensor(x)))
    part = ops.convert_to_numpy(activation(ops.convert_to_tensor(x[:, :2])))
    if whole.shape != x.shape or not np.allclose(whole[:, :2], part, atol=1e-6):
        name = getattr(activation, "__name__", type(activation).__name__)
        raise unknown(layer, f"has the activation {name!r}, which mixes units")


def _again(layer: Any, changes: dict[str, Any]) -> Any:
    return type(layer).from_config({**layer.get_config(), **changes})


def _or_all(kept: Kept, tensor: Any) -> Any:
    return np.ones(tensor.shape[-1], bool) if kept is None else kept


def _alike(layer: Any, inputs: list[Any], kepts: list[Kept]) -> Kept:
    """Return the units that all inputs keep, or raise if they differ."""
    given = list(zip(kepts, inputs, strict=True))
    ranks = {len(tensor.shape) for tensor in inputs}
    sizes = {tensor.shape[-1] for tensor in inputs}
    first = _or_all(*given[0])
    if len(ranks) > 1 or len(sizes) > 1 or any([(_or_all(*p) != first).any() for p in given]):
        gone = [np.flatnonzero(~_or_all(*pair)).tolist() for pair in given]
        raise OperandError(
            f"The inputs of {layer.name!r} should lose the same units. Received: inputs that lose "
            f"{gone}. Remove the same units in each layer that leads to it: "
            "`remove_channels(model, {'first': [1, 3], 'second': [1, 3]})`."
        )
    return first


def _is_operation(layer: Any) -> bool:
    return not isinstance(layer, keras.layers.Layer)


def unknown(layer: Any, why: str) -> OperandError:
    """Return the error for a layer through which removed units cannot be followed."""
    error: OperandError = OperandError(
        "Removed units should be followed to the layers that read them. Received: a model where "
        f"{layer.name!r} {why}. Set the units to 0 instead: `freeze_elements(model, "
        "'conv/kernel', at[..., [1, 3]], 0.0)`."
    )
    return error
