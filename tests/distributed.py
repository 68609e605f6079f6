"""A model with all of kedit that learns, and what comes of it, as numbers to compare."""

import pathlib
import re

import keras
import numpy as np
from _backend import to_numpy

from kedit import Trainable, X, each, sample
from kedit.callbacks import DualAscent
from kedit.interventions import (
    OtherRun,
    attribution_study,
    capture,
    edit_model,
    patching_study,
)
from kedit.layers import ConditionalModifier, Editing, IndexGuide
from kedit.losses import IndexPenalty, WeightedSum
from kedit.metrics import IndexViolation
from kedit.studies import sweep
from kedit.weights import freeze_elements, prune

_rng = np.random.default_rng(0)
SAMPLES, BATCH = 32, 16
GIVEN = {
    "x": _rng.normal(size=(SAMPLES, 4, 4)).astype("float32"),
    "place": _rng.integers(-4, 4, SAMPLES).astype("int32"),
}
WANTED = _rng.normal(size=(SAMPLES, 2)).astype("float32")
SITES = ["hidden", "gate"]
QUIET = {"batch_size": BATCH, "verbose": 0}


def made(mean=None):
    """A model with edits as layers and as nodes, whose weights are the same each time."""
    keras.utils.set_random_seed(0)
    x, place = keras.Input((4, 4), name="x"), keras.Input((), dtype="int32", name="place")
    h = keras.layers.Dense(4, "tanh", name="hidden")(x)
    h = Editing(sample[..., 2].add(Trainable("zeros")), name="steering")(h)
    threshold, factor = Trainable(0.2, shape=(1,)), Trainable("ones", shape=(4,))
    h = ConditionalModifier(threshold, factor, gradient="sigmoid", name="gate")(h)
    h = sample(h)[each(place)].multiply(2.0)
    h = sample(h)[[0, -1], 1:].where(X < 0.0).set(0.1 * X)
    h = IndexGuide(sample[..., 1], 0.5, name="guide")(h)
    y = keras.layers.Dense(2, name="out")(keras.layers.Flatten()(h))
    return keras.Model([x, place], y)


def score(y):
    return y[:, 0]


def compiled(model, **options):
    loss = WeightedSum(["mse", IndexPenalty(1, upper=0.25, weight=2.0)])
    metrics = [
        IndexViolation(0, upper=0.25, name="mean"),
        IndexViolation(1, upper=0.25, reduce="max", name="max"),
    ]
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=metrics, **options)
    return model


def learned(model):
    """History, weights, prediction and evaluation of a model after it was trained."""
    given = [GIVEN["x"], GIVEN["place"]]
    callbacks = [DualAscent("guide", 0.1)]
    options = {"epochs": 2, "shuffle": False, "callbacks": callbacks}
    found = dict(model.fit(given, WANTED, **options, **QUIET).history)
    logs = model.evaluate(given, WANTED, return_dict=True, **QUIET)
    found |= {f"test {name}": value for name, value in logs.items()}
    found |= {weight.path: to_numpy(weight) for weight in model.weights}
    return {**found, "prediction": model.predict(given, **QUIET)}


def asked(model):
    """What edits, captures and studies of a model find, and what its weights become."""
    given = [GIVEN["x"], GIVEN["place"]]
    other = [GIVEN["x"][::-1].copy(), GIVEN["place"]]
    edited = edit_model(model, {"hidden": sample[1:, 0].set(2.0)})
    patched = edit_model(model, {"hidden": sample[..., 3].set(OtherRun())})
    found = {
        "edited": edited.predict(given, **QUIET),
        "patched": patched.predict({"inputs": given, "other": other}, **QUIET),
        "captured": capture(model, "hidden").predict(given, **QUIET)["hidden"],
        "sweep": sweep(model, GIVEN, sample[0, 1], [0.0, 1.0], path="x", **QUIET).outputs,
        "patches": patching_study(model, given, other, SITES, score, **QUIET).values,
        "attribution": attribution_study(model, given, other, SITES, score, **QUIET).effects,
        "slopes": capture(model, "hidden").gradients(given, score, batch_size=BATCH)["hidden"],
    }
    small = prune(model, "hidden/kernel", 0.5)
    small = freeze_elements(small, "out/bias", [0], 0.125)
    compiled(small).fit(given, WANTED, epochs=1, shuffle=False, **QUIET)
    found |= {name: to_numpy(small.weight(name)) for name in ("hidden/kernel", "out/bias")}
    assert (found["hidden/kernel"] == 0).sum() == 8
    assert found["out/bias"][0] == 0.125
    return found


def check_same(found, expected, rtol=1e-4, atol=1e-5):
    assert found.keys() == expected.keys()
    for name, numbers in expected.items():
        np.testing.assert_allclose(found[name], numbers, rtol=rtol, atol=atol, err_msg=name)


# --- What the guide shows ------------------------------------------------------------------------

GUIDE = pathlib.Path(__file__).parent.parent / "docs" / "guides" / "export.md"


def small_model():
    keras.utils.set_random_seed(0)
    x = keras.Input((4, 4))
    h = Editing(sample[..., 2].add(Trainable("zeros")))(keras.layers.Dense(4, "tanh")(x))
    return keras.Model(x, keras.layers.Dense(2)(keras.layers.Flatten()(h)))


def recipe(number, **given):
    """Run a recipe of the guide, and return the weights of the model that it leaves behind."""
    text = GUIDE.read_text().split("## Several devices\n")[1].split("\n## ")[0]
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[number]
    names = {"keras": keras, "IndexPenalty": IndexPenalty, "make_model": small_model, **given}
    exec(code, names)
    return [to_numpy(variable).tolist() for variable in names["model"].trainable_variables]


def after_one_epoch(**options):
    """The weights that the recipes should leave behind: those of one device."""
    model = small_model()
    loss = IndexPenalty(1, upper=0.5, base_loss="mse")
    model.compile(keras.optimizers.SGD(0.01), loss, **options)
    model.fit(GIVEN["x"], WANTED, batch_size=16, shuffle=False, verbose=0)
    return [to_numpy(variable) for variable in model.trainable_variables]


def check_weights(found, expected):
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)
