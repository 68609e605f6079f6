"""Keras layers as values: what they are and what they weigh, without the layer itself.

A file names the class of a layer. It is looked for among Keras's own and those that are registered
with Keras in this session; nothing is imported, and no code is run that the file brings.
"""

import copy
import warnings
from typing import Any

import keras

from kedit._addresses import addresses
from kedit._language.constants import Array, Frozen, from_json, to_json
from kedit._language.decoding import (
    DTYPES,
    as_text,
    check_fields,
    check_same,
    received,
    refused,
)
from kedit._language.pickling import pickled
from kedit._run import ops
from kedit.errors import OperandError, SavingError

_DATA: dict[str, Any] = {
    "layer": dict,
    "input_shape": (list, type(None)),
    "weights": (list, type(None)),
}
_LAYER: dict[str, Any] = {
    "module": (str, type(None)),
    "class_name": str,
    "config": dict,
    "registered_name": (str, type(None)),
}
_MODULES: dict[str, Any] = {
    "keras": (keras, (keras.Layer, keras.DTypePolicy)),
    "keras.layers": (keras.layers, keras.Layer),
    "keras.dtype_policies": (keras.dtype_policies, keras.DTypePolicy),
    "keras.initializers": (keras.initializers, keras.initializers.Initializer),
    "keras.regularizers": (keras.regularizers, keras.regularizers.Regularizer),
    "keras.constraints": (keras.constraints, keras.constraints.Constraint),
}
"""Modules of Keras as it names them, and of which kinds their classes may be."""

_SETTINGS = ("compile_config", "shared_object_id")
_PLAIN = ("__tuple__", "__slice__", "__ellipsis__", "__keras_tensor__")
_ARRAYS = ("__numpy__", "__tensor__")
_REFUSED = tuple(
    [
        getattr(keras.layers, name)
        for name in (
            "Lambda",  # code
            "TorchModuleWrapper",
            "JaxLayer",
            "FlaxLayer",
            "TFSMLayer",
            "StringLookup",  # files
            "IntegerLookup",
            "TextVectorization",
        )
        if hasattr(keras.layers, name)
    ]
)
"""Layers that hold code of their own, or read files."""


@pickled
class KeptLayer(Frozen):
    """A layer of Keras as a value.

    Attributes:
        kind: Its class.
        data: What Keras serializes of it.
        input_shape: Shape that it was built for, with None for the batch; None if it was not.
        weights: Its weights; None for those that it starts with.
    """

    __slots__ = ("data", "input_shape", "kind", "weights")
    kind: Any
    data: dict[str, Any]
    input_shape: tuple[int | None, ...] | None
    weights: tuple[Array, ...] | None

    def __init__(self, kind: Any, data: Any, input_shape: Any, weights: Any) -> None:
        self._init(kind=kind, data=data, input_shape=input_shape, weights=weights)

    @classmethod
    def of(cls, layer: Any) -> "KeptLayer":
        is_layer = isinstance(layer, keras.Layer)
        inside = [layer, *addresses(layer).values()] if is_layer else []
        if not is_layer or any([isinstance(part, _REFUSED) for part in inside]):
            raise OperandError(
                "`Through` should be given layers whose class says all that they do. Received: "
                f"{layer!r} of type {type(layer).__name__}. Write a layer of `keras.layers`, a "
                "`keras.Sequential` of these, or a subclass of `keras.Layer`."
            )
        fresh = cls(type(layer), _data_of(layer), None, None)
        fresh.make()  # raises if it cannot be made again
        if not layer.built:
            return fresh
        built = (layer.get_build_config() or {}).get("input_shape")
        shape = None if built is None else (None, *built[1:])
        return cls(type(layer), fresh.data, shape, _values(layer))

    def make(self) -> Any:
        """Return a layer of its own with the weights."""
        try:
            layer = self.kind.from_config(copy.deepcopy(self.data["config"]))
        except (ValueError, TypeError) as error:
            raise OperandError(
                "A layer should be made again by its config, with parts that are Keras's or "
                f"registered. Received: a {self.kind.__name__}, and {type(error).__name__}. Write "
                "`@keras.saving.register_keras_serializable()` above its parts."
            ) from error
        if self.weights is None:
            return layer
        if not layer.built and self.input_shape is not None:
            layer(keras.KerasTensor(self.input_shape))
        try:
            layer.set_weights([weight.array for weight in self.weights])
        except ValueError as error:
            raise OperandError(
                f"A layer should have the weights that were kept of it, {len(self.weights)} of "
                f"shapes {[weight.shape for weight in self.weights]}. Received: a "
                f"{self.kind.__name__} of {len(layer.weights)} weights. Build its weights in "
                "`build(self, input_shape)`."
            ) from error
        return layer

    def now(self, layer: Any, input_shape: Any) -> "KeptLayer":
        """Return it with the values that the weights of `layer` have."""
        return KeptLayer(self.kind, self.data, self.input_shape or input_shape, _values(layer))

    def without_weights(self) -> "KeptLayer":
        return KeptLayer(self.kind, self.data, self.input_shape, None)

    def key(self) -> Any:
        weights = None if self.weights is None else tuple([weight.key() for weight in self.weights])
        return (self.kind, as_text(self.data), self.input_shape, weights)

    def __repr__(self) -> str:
        return f"<{self.kind.__name__} {self.data['config'].get('name', '')!r}>"

    def __reduce__(self) -> Any:
        return (KeptLayer, (self.kind, self.data, self.input_shape, self.weights))

    def get_config(self) -> dict[str, Any]:
        _check_known(self.data, "A layer that is saved")
        shape, weights = self.input_shape, self.weights
        return {
            "layer": copy.deepcopy(self.data),
            "input_shape": None if shape is None else list(shape),
            "weights": None if weights is None else [to_json(weight) for weight in weights],
        }

    @classmethod
    def from_config(cls, config: Any) -> "KeptLayer":
        fields = check_fields("A saved layer", config, _DATA)
        data = check_fields("What Keras says of a saved layer", fields["layer"], _LAYER)
        _check_known(data, "A saved layer")
        kind = _class_of(data)
        if kind is None or not issubclass(kind, keras.Layer):
            raise refused("A saved layer should be a layer", data)
        shape, weights = fields["input_shape"], fields["weights"]
        if shape is not None and not (
            shape[:1] == [None] and all([type(size) in (int, type(None)) for size in shape])
        ):
            raise refused(
                "The shape that a layer is built for should have None for the batch", shape
            )
        arrays = None if weights is None else tuple([_array(weight) for weight in weights])
        # Safe: `_check_known` has looked up all that it names.
        layer = keras.saving.deserialize_keras_object(copy.deepcopy(data), safe_mode=True)
        made = cls(kind, _data_of(layer), None if shape is None else tuple(shape), arrays)
        check_same("A saved layer", made.get_config(), config)
        return made


def _array(data: Any) -> Array:
    array = from_json(data)
    if not isinstance(array, Array):
        raise refused("A weight of a saved layer should be an array", data)
    return array


def _data_of(layer: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is a lambda: it is refused
        data = without_settings(keras.saving.serialize_keras_object(layer))
    return {name: data[name] for name in _LAYER}


def _values(layer: Any) -> tuple[Array, ...]:
    arrays = [ops.convert_to_numpy(weight) for weight in layer.weights]
    return tuple([Array.of(a if a.dtype.name in DTYPES else a.astype("float32")) for a in arrays])


def without_settings(data: Any) -> Any:
    """Return what Keras serialized without how it was compiled, and which others it was among."""
    if isinstance(data, dict):
        return {k: without_settings(v) for k, v in data.items() if k not in _SETTINGS}
    return [without_settings(part) for part in data] if isinstance(data, (list, tuple)) else data


def _check_known(data: Any, what: str) -> None:
    """Raise if Keras would look for something else than what is known here."""
    if isinstance(data, dict):
        if "class_name" in data and not _is_known(data):
            raise SavingError(
                f"{what} should be one of `keras.layers` without code of its own, a "
                "`keras.Sequential` of these, or registered with Keras. Received: "
                f"{received(data)}. Write a subclass of `keras.Layer`, and "
                "`@keras.saving.register_keras_serializable()` above it."
            )
        data = list(data.values())
    if isinstance(data, (list, tuple)):
        for part in data:
            _check_known(part, what)


def _is_known(data: dict[str, Any]) -> bool:
    name, config = data["class_name"], data.get("config")
    if name in _PLAIN:
        return True
    if name in _ARRAYS:
        return isinstance(config, dict) and config.get("dtype") in DTYPES
    if name == "function":
        function = keras.saving.get_registered_object(config) if isinstance(config, str) else None
        return callable(function) and not isinstance(function, type)
    kind = _class_of(data)
    return kind is not None and not issubclass(kind, _REFUSED)


def _class_of(data: dict[str, Any]) -> Any:
    """Return the class that is registered, or Keras's own; None if there is none."""
    name, module, registered = [
        data.get(key) for key in ("class_name", "module", "registered_name")
    ]
    if not isinstance(name, str):
        return None
    if isinstance(registered, str):
        found = keras.saving.get_registered_object(registered)
        if found is not None:
            return found if isinstance(found, type) else None
    home, allowed = _MODULES.get(module, (None, ())) if isinstance(module, str) else (None, ())
    found = getattr(home, name, None)
    return found if isinstance(found, type) and issubclass(found, allowed) else None
