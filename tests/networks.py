"""Models of every kind whose activations are edited, each with its pieces called by hand.

A `Kind` says, beside how a model is made and what it is given, through which site all goes that
comes after, and how the model is computed piece by piece, with a NumPy function in between.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from _backend import to_numpy
from keras import ops

from kedit.interventions import site

_RNG = np.random.default_rng(11)
IMAGES = _RNG.normal(size=(6, 6, 6, 2)).astype("float32")
ROWS = _RNG.normal(size=(6, 4)).astype("float32")
WIDE = _RNG.normal(size=(6, 16)).astype("float32")


class Kind(NamedTuple):
    """A model of one kind.

    Attributes:
        make: Makes it, with weights of its own.
        x: What it is given.
        site: Where it is edited; of shape `(batch_size, ..., units)`, 3 units or more.
        by_hand: Given the model, `x` and a function of an array, computes the model with the
            function applied at the site.
        tolerance: How closely that meets the whole.
    """

    make: Callable[[], Any]
    x: Any
    site: Any
    by_hand: Callable[[Any, Any, Any], Any]
    tolerance: float = 1e-5


def stirred(model: Any, x: Any = None) -> Any:
    """The model with weights of which none is 0 or 1, biases and moving averages included."""
    if x is not None:
        model(x)
    rng = np.random.default_rng(5)
    for variable in model.weights:
        if "seed" not in variable.path:
            values = rng.normal(size=variable.shape) / max(1, np.sqrt(variable.shape[0]))
            values = abs(values) + 0.5 if "variance" in variable.path else values
            variable.assign(values.astype("float32"))
    return model


def touched(touch: Any, h: Any) -> Any:
    """What NumPy makes of an activation."""
    dtype = keras.backend.standardize_dtype(h.dtype)
    array = to_numpy(ops.cast(h, "float32")).copy()
    return ops.cast(ops.convert_to_tensor(touch(array).astype("float32")), dtype)


def convolutional() -> Any:
    inputs = keras.Input((6, 6, 2))
    h = keras.layers.Conv2D(5, 3, activation="relu", name="conv")(inputs)
    h = keras.layers.BatchNormalization(name="norm")(h)
    h = keras.layers.Dropout(0.5)(h)
    h = keras.layers.GlobalAveragePooling2D()(h)
    return stirred(keras.Model(inputs, keras.layers.Dense(3, name="head")(h)))


def _convolutional(model: Any, x: Any, touch: Any) -> Any:
    get = model.get_layer
    h = get("norm")(touched(touch, get("conv")(x)))
    return get("head")(ops.mean(h, axis=(1, 2)))


def sequential() -> Any:
    dense = keras.layers.Dense
    layers = [dense(5, activation="tanh"), keras.layers.Dropout(0.5), dense(3)]
    return stirred(keras.Sequential([keras.Input((4,)), *layers]))


def _sequential(model: Any, x: Any, touch: Any) -> Any:
    first, _, last = model.layers
    return last(touched(touch, first(x)))


def nested() -> Any:
    inputs = keras.Input((4,))
    block = keras.Sequential([keras.layers.Dense(5, name="up"), keras.layers.ReLU()], name="block")
    inner = keras.Input((5,))
    tower = keras.Model(inner, keras.layers.Dense(3, name="out")(block(inner)), name="tower")
    h = keras.layers.Dense(5, name="first")(inputs)
    return stirred(keras.Model(inputs, keras.layers.Dense(2, name="last")(tower(h))))


def _nested(model: Any, x: Any, touch: Any) -> Any:
    tower = model.get_layer("tower")
    up, relu = tower.get_layer("block").layers
    h = relu(touched(touch, up(model.get_layer("first")(x))))
    return model.get_layer("last")(tower.get_layer("out")(h))


class Block(keras.layers.Layer):
    """A residual block."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inner = keras.layers.Dense(4, activation="tanh")
        self.drop = keras.layers.Dropout(0.5)

    def call(self, inputs: Any, training: Any = None) -> Any:
        return inputs + self.drop(self.inner(inputs), training=training)


@keras.saving.register_keras_serializable(package="networks")
class Subclassed(keras.Model):
    """Layers in lists and dicts, outputs in dicts and tuples, and no `training` of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.blocks = [Block() for _ in range(3)]
        self.heads = {"logits": keras.layers.Dense(2), "value": keras.layers.Dense(1)}
        self.norm = keras.layers.BatchNormalization()
        self.traces = 0

    def call(self, inputs: Any) -> Any:
        self.traces += 1
        h = inputs
        for block in self.blocks:
            h = block(h)
        h = self.norm(h)
        return {"logits": self.heads["logits"](h), "rest": (self.heads["value"](h), h * 2)}


def subclassed() -> Any:
    return stirred(Subclassed(), ROWS)


def _subclassed(model: Any, x: Any, touch: Any) -> Any:
    h = model.blocks[1](model.blocks[0](ops.convert_to_tensor(x)))
    h = model.norm(model.blocks[2](touched(touch, h)))
    return {"logits": model.heads["logits"](h), "rest": (model.heads["value"](h), h * 2)}


def shared() -> Any:
    """A layer that is called twice, with raw operations around it."""
    inputs = keras.Input((4,))
    layer = keras.layers.Dense(4, activation="tanh", name="shared")
    h = layer(ops.sin(layer(inputs)) * 2)
    return stirred(keras.Model(inputs, ops.concatenate([h, h**2], axis=-1)))


def _shared(model: Any, x: Any, touch: Any) -> Any:
    layer = model.get_layer("shared")
    h = touched(touch, layer(ops.sin(layer(x)) * 2))
    return ops.concatenate([h, h**2], axis=-1)


def operations() -> Any:
    """Raw operations, one of which is edited."""
    inputs = keras.Input((4,))
    h = keras.layers.Dense(4, name="dense")(inputs)
    return stirred(keras.Model(inputs, ops.exp(ops.sin(h))))


def _operations(model: Any, x: Any, touch: Any) -> Any:
    return ops.exp(touched(touch, ops.sin(model.get_layer("dense")(x))))


def masked() -> Any:
    """Masks from an embedding to what is downstream."""
    inputs = keras.Input((4,), dtype="int32")
    h = keras.layers.Embedding(7, 5, mask_zero=True, name="embed")(inputs)
    h = keras.layers.Dense(5, name="dense")(h)
    return stirred(keras.Model(inputs, keras.layers.GlobalAveragePooling1D(name="pool")(h)))


TOKENS = np.array([[1, 2, 3, 4], [5, 6, 0, 0], [2, 0, 0, 0], [4, 4, 4, 0], [1, 0, 0, 0], [6] * 4])


def _masked(model: Any, x: Any, touch: Any) -> Any:
    h = touched(touch, model.get_layer("dense")(model.get_layer("embed")(x)))
    return model.get_layer("pool")(h, mask=ops.convert_to_tensor(x != 0))


def with_dtype(dtype: str) -> Callable[[], Any]:
    def make() -> Any:
        inputs = keras.Input((4,))
        h = keras.layers.Dense(6, activation="relu", name="h", dtype=dtype)(inputs)
        return stirred(keras.Model(inputs, keras.layers.Dense(3, name="out", dtype=dtype)(h)))

    return make


def quantized() -> Any:
    inputs = keras.Input((16,))
    h = keras.layers.Dense(8, activation="relu", name="h")(inputs)
    model = stirred(keras.Model(inputs, keras.layers.Dense(3, name="out")(h)))
    model.quantize("int8", filters=lambda layer: layer.name in ("h", "out"))
    return model


def _two(model: Any, x: Any, touch: Any) -> Any:
    return model.get_layer("out")(touched(touch, model.get_layer("h")(x)))


KINDS = {
    "functional": Kind(convolutional, IMAGES, "conv", _convolutional),
    "sequential": Kind(sequential, ROWS, "dense", _sequential),
    "nested": Kind(nested, ROWS, "tower/block/up", _nested),
    "subclassed": Kind(subclassed, ROWS, "blocks.1", _subclassed),
    "shared": Kind(shared, ROWS, site("shared", call=1), _shared),
    "operations": Kind(operations, ROWS, "sin", _operations),
    "masks": Kind(masked, TOKENS, "dense", _masked),
    "mixed_float16": Kind(with_dtype("mixed_float16"), ROWS, "h", _two, 2e-3),
    "bfloat16": Kind(with_dtype("mixed_bfloat16"), ROWS, "h", _two, 2e-2),
    "int8": Kind(quantized, WIDE, "h", _two),
}
