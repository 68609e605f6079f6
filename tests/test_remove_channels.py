"""Smaller models, beside models of full size in which the same units are 0."""

import keras
import numpy as np
import pytest
from _backend import to_numpy
from kit import check_close, saved_and_loaded

from kedit import at, sample
from kedit.errors import EditError, OperandError, PositionError
from kedit.interventions import edit_model
from kedit.weights import freeze_elements, remove_channels

L = keras.layers
RNG = np.random.default_rng(0)


def randomized(model):
    """Weights, and statistics, of which none is as it was initialized."""
    rng = np.random.default_rng(1)
    values = [rng.normal(0, 0.5, w.shape) for w in model.weights]
    for number, weight in enumerate(model.weights):
        if "variance" in weight.path:
            values[number] = np.abs(values[number]) + 0.5
    model.set_weights([value.astype("float32") for value in values])
    return model


def chain():
    """A Sequential model of convolutions, one of which is depthwise."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            L.Conv2D(6, 3, padding="same", name="conv"),
            L.BatchNormalization(name="norm"),
            L.ReLU(),
            L.DepthwiseConv2D(3, depth_multiplier=2, activation="tanh", name="deep"),
            L.MaxPooling2D(),
            L.Dropout(0.5),
            L.Conv2D(5, 2, activation="gelu", name="conv_2"),
            L.Flatten(),
            L.Dense(7, activation="relu", name="wide"),
            L.Dense(3, activation="softmax", name="out"),
        ]
    )


def residual():
    """A graph with sums, a concatenation, two outputs and a layer that is called twice."""
    inputs = keras.Input((12, 3), name="signal")
    stem = L.Conv1D(8, 3, padding="same", name="stem")(inputs)
    h = L.Activation("relu")(L.BatchNormalization(name="norm")(stem))
    shared = L.Conv1D(8, 3, padding="same", activation="relu", name="block")
    h = L.Add()([h, shared(h)])
    h = h + shared(h)
    side = L.Conv1D(4, 1, activation="relu", name="side")(h)
    h = L.Concatenate()([h, side, L.Conv1D(2, 1)(h)])
    pooled = L.GlobalAveragePooling1D()(h)
    dense = L.Dense(5, activation="silu", name="wide")(pooled)
    return keras.Model(inputs, {"a": L.Dense(2)(dense), "b": L.Conv1D(1, 1)(h)})


def nested():
    """Models in a model, with volumes."""
    inner = keras.Sequential(
        [
            keras.Input((4, 4, 4, 6)),
            L.BatchNormalization(name="norm"),
            L.Conv3D(5, 2, activation="relu", name="inner_conv"),
            L.AveragePooling3D(3),
        ],
        name="inner",
    )
    inputs = keras.Input((4, 4, 4, 1))
    h = L.Conv3D(6, 3, padding="same", activation="relu", name="conv")(inputs)
    h = L.Flatten()(inner(h))
    return keras.Model(inputs, L.Dense(2)(L.LayerNormalization()(L.Dense(4, name="d")(h))))


# For each model what is removed, and the weights that belong to it: name, axis, numbers.
MODELS = {
    "chain": (
        chain,
        {"conv": [1, 3], "conv_2": np.arange(5) == 0, "wide": [0, -1]},
        {
            "conv": [1, 3],
            "norm": [1, 3],
            "deep": [2, 3, 6, 7],
            "conv_2": [0],
            "wide": [0, 6],
        },
    ),
    "residual": (
        residual,
        {"stem": [0, 5], "block": [0, 5], "side": slice(1, 3), "wide": [2]},
        {"stem": [0, 5], "norm": [0, 5], "block": [0, 5], "side": [1, 2], "wide": [2]},
    ),
    "nested": (
        nested,
        {"conv": [4], "inner_conv": [0, 2]},
        {"conv": [4], "inner/norm": [4], "inner_conv": [0, 2]},
    ),
}


def zeroed(model, units):
    """The model with the weights of the units at 0."""
    for name, numbers in units.items():
        owner = model
        for part in name.split("/")[:-1]:
            owner = owner.get_layer(part)
        own = name.split("/")[-1]
        layer = next(
            layer
            for one in (owner, *owner.layers)
            for layer in getattr(one, "layers", [])
            if layer.name == own
        )
        for weight in layer.weights:
            value = to_numpy(weight).copy()
            if weight.name not in ("moving_mean", "moving_variance"):
                flat = value.reshape(*value.shape[:-2], -1) if own == "deep" else value
                flat = value.reshape(-1) if own == "deep" and value.ndim == 1 else flat
                flat[..., numbers] = 0
                value = flat.reshape(value.shape)
            weight.assign(value)
    return model


def inputs_of(model):
    return RNG.normal(size=(3, *model.inputs[0].shape[1:])).astype("float32")


@pytest.mark.parametrize("name", MODELS)
def test_it_computes_what_the_zeroed_model_computes(name, tmp_path):
    make, removed, units = MODELS[name]
    model = randomized(make())
    before = [w.copy() for w in model.get_weights()]
    small = remove_channels(model, removed)
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    x = inputs_of(model)
    whole = model.predict(x, verbose=0)
    expected = zeroed(model, units).predict(x, verbose=0)
    for one in (small, saved_and_loaded(small, tmp_path / "model.keras")):
        assert type(one) is type(model)
        found = one.predict(x, verbose=0)
        keras.tree.map_structure(check_close, found, expected)
        assert one.count_params() < model.count_params()
    differs = keras.tree.map_structure(lambda a, b: np.abs(a - b).max(), whole, expected)
    assert min(keras.tree.flatten(differs)) > 1e-3
    names = [layer.name for layer in model.layers if not isinstance(layer, L.InputLayer)]
    assert [one.name for one in small.layers if not isinstance(one, L.InputLayer)] == names


@pytest.mark.gradient
def test_the_smaller_model_trains():
    small = remove_channels(randomized(chain()), {"conv": [1, 3]})
    small.compile("sgd", "sparse_categorical_crossentropy")
    x = inputs_of(small)
    small.fit(x, np.zeros(3), epochs=2, verbose=0)


def test_a_unit_that_is_not_0_at_0_counts_as_0():
    """As in the model whose unit is set to 0 behind its activation."""
    inputs = keras.Input((4,))
    hidden = L.Dense(6, activation="sigmoid", name="hidden")
    model = randomized(keras.Model(inputs, L.Dense(2)(hidden(inputs))))
    x = inputs_of(model)
    ablated = edit_model(model, {"hidden": sample[[1, 3]].set(0.0)})
    small = remove_channels(model, {hidden: [1, 3]})
    check_close(small.predict(x, verbose=0), ablated.predict(x, verbose=0))


def test_nothing_is_removed():
    model = randomized(residual())
    x = inputs_of(model)
    same = remove_channels(model, {})
    keras.tree.map_structure(check_close, same.predict(x, verbose=0), model.predict(x, verbose=0))
    assert not {id(w) for w in same.weights} & {id(w) for w in model.weights}


def between(*layers, units=4, shape=(6, 6, 2)):
    """A model with some layers between a convolution and a dense layer."""
    x = inputs = keras.Input(shape)
    x = L.Conv2D(units, 3, padding="same", name="conv")(x)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, L.Dense(2, name="out")(L.Flatten()(x)))


class Plain(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, x):
        return self.dense(x)


REFUSED = {
    "softmax": (lambda: between(L.Softmax(name="s")), {"conv": [0]}, "'s' is a Softmax"),
    "activation": (
        lambda: between(L.Activation("softmax", name="s")),
        {"conv": [0]},
        "'s' has the activation 'softmax'",
    ),
    "norm": (lambda: between(L.LayerNormalization(name="n")), {"conv": [0]}, "'n' is a Layer"),
    "norm of another axis": (
        lambda: between(L.BatchNormalization(axis=1, name="n")),
        {"conv": [0]},
        "'n' does not normalize the last axis",
    ),
    "reshape": (lambda: between(L.Reshape((-1, 8), name="r")), {"conv": [0]}, "'r' is a Reshape"),
    "groups": (
        lambda: between(L.Conv2D(4, 1, groups=2, name="g")),
        {"conv": [0]},
        "'g' has 2 groups",
    ),
    "function": (lambda: between(keras.ops.sin), {"conv": [0]}, "is a Sin"),
    "output": (between, {"out": [0]}, r"output.*\['out'\]"),
    "sum": (residual, {"stem": [0], "block": [1]}, r"inputs that lose \[\[0\], \[1\]\]"),
    "sum of one": (residual, {"stem": [0]}, "same units"),
    "name": (between, {"cnov": [0]}, r"0 layers. Close to it: \['conv'"),
    "kind": (lambda: between(L.ReLU(name="r")), {"r": [0]}, r"'r', a ReLU. Write one of \['conv'"),
    "all": (between, {"conv": range(4)}, "all 4 of 'conv'"),
    "numbers": (between, {"conv": [0.5]}, "by their numbers"),
    "mask": (between, {"conv": [True, False]}, "by their numbers"),
    "position": (between, {"conv": [4]}, r"Received: \[4\]"),
    "subclassed": (Plain, {"dense": [0]}, "Received: <Plain"),
    "edited": (
        lambda: freeze_elements(between(), "conv/kernel", at[0], 0.0),
        {"conv": [0]},
        "Write `remove_channels.model.bake",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(name):
    make, removed, message = REFUSED[name]
    model = make()
    weights = [w.copy() for w in model.get_weights()]
    with pytest.raises(EditError, match=message) as raised:
        remove_channels(model, removed)
    assert isinstance(raised.value, PositionError if name == "position" else OperandError)
    assert "Received" in str(raised.value)
    for found, expected in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(found, expected)
