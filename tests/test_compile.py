"""Losses, metrics and guides together, as `compile` takes them: by object, in lists and dicts."""

import operator

import keras
import numpy as np
import pytest
from _backend import to_numpy
from keras import ops
from kit import check_close, check_holds_no_code, model_files, saved_and_loaded

from kedit import sample
from kedit.callbacks import DualAscent, PenaltySchedule
from kedit.layers import IndexGuide
from kedit.losses import IndexPenalty, MaskedLoss, WeightedSum
from kedit.metrics import IndexViolation

RNG = np.random.default_rng(0)
STEPS = np.array([[True, True], [True, False], [False, False], [True, True]] * 2)
X = RNG.normal(size=(8, 2, 3)).astype("float32") * STEPS[..., None]
STEPS_TRUE = RNG.normal(size=(8, 2, 2)).astype("float32")
STEPS_TRUE[:3, 0, 1] = np.nan
ALL_TRUE = np.where(RNG.random((8, 2)) < 0.3, np.nan, RNG.normal(size=(8, 2))).astype("float32")
STEPS_WEIGHT = RNG.random((8, 2)).astype("float32")
ALL_WEIGHT = RNG.random(8).astype("float32")


def make(structure, policy, jit_compile, optimizer=None):
    """Two outputs: one of masked timesteps, one of samples, guided on the way."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((2, 3))
    dense = keras.layers.Dense(2, dtype=policy)
    steps = keras.layers.TimeDistributed(dense, name="steps")(keras.layers.Masking()(inputs))
    guide = IndexGuide(1, 0.5, name="guide", dtype=policy)
    flat = guide(keras.layers.Dense(3, dtype=policy, name="hidden")(keras.layers.Flatten()(inputs)))
    flat = keras.layers.Dense(2, dtype=policy, name="all")(flat)
    of_steps = IndexPenalty(sample[..., 1], "y_true", weight=0.5, base_loss="mse")
    of_all = WeightedSum([MaskedLoss("mae"), IndexPenalty(0, lower=1.0)], [2.0, 3.0])
    metrics = [[IndexViolation(sample[..., 1], "y_true")], [IndexViolation(0, lower=1.0, name="v")]]
    outputs, losses = [steps, flat], [of_steps, of_all]
    if structure == "dict":
        names = ("steps", "all")
        outputs, losses, metrics = [
            dict(zip(names, both, strict=True)) for both in (outputs, losses, metrics)
        ]
    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer or keras.optimizers.SGD(0.01), losses, metrics=metrics, jit_compile=jit_compile
    )
    return model


def given(structure):
    """What is true, and the weights, as the outputs are put together; and they as a list again."""
    y, weights, again = [STEPS_TRUE, ALL_TRUE], [STEPS_WEIGHT, ALL_WEIGHT], list
    if structure == "dict":
        names = ("steps", "all")
        y, weights = [dict(zip(names, both, strict=True)) for both in (y, weights)]
        again = operator.itemgetter(*names)
    return y, {"sample_weight": weights, "batch_size": 8, "verbose": 0}, again


def expected_losses(steps, flat):
    """By NumPy, of what the model predicts."""
    known = STEPS[..., None] & ~np.isnan(STEPS_TRUE)
    square = np.where(known, (steps - STEPS_TRUE) ** 2, 0) * STEPS_WEIGHT[..., None]
    of_steps = square.sum() / known.sum() + 0.5 * square[..., 1].sum() / known[..., 1].sum()
    known = ~np.isnan(ALL_TRUE)
    far = np.where(known, abs(flat - ALL_TRUE), 0) * ALL_WEIGHT[:, None]
    short = np.maximum(1 - flat[:, 0], 0) ** 2 * ALL_WEIGHT
    return of_steps, 2 * far.sum() / known.sum() + 3 * short.mean()


@pytest.mark.gradient
@pytest.mark.parametrize(
    ("structure", "policy", "jit_compile"),
    [
        ("list", "float32", False),
        pytest.param("dict", "mixed_float16", True, marks=pytest.mark.once),
        ("dict", "mixed_bfloat16", False),
    ],
)
def test_several_outputs(structure, policy, jit_compile, tmp_path):
    """With weights of samples and of timesteps, a mask, and NaN where nothing is known."""
    model = make(structure, policy, jit_compile)
    y, options, as_list = given(structure)
    guide = model.get_layer("guide")
    # One step: PyTorch compiles each anew, of a model with a layer that adds a loss.
    history = model.fit(X, y, callbacks=[DualAscent(guide, 0.1)], **options).history
    assert np.isfinite(history["loss"]).all()
    assert history["guide_multiplier"][0] > 0
    logs = model.evaluate(X, y, return_dict=True, **options)
    predicted = as_list(model(X, training=False))
    steps, flat = [to_numpy(ops.cast(one, "float32")).astype("float64") for one in predicted]
    of_steps, of_all = expected_losses(steps, flat)
    close = {"rtol": 1e-4} if policy == "float32" else {"rtol": 2e-2, "atol": 2e-2}
    check_close(logs["steps_loss"], of_steps, **close)
    check_close(logs["all_loss"], of_all, **close)
    assert logs["loss"] > logs["steps_loss"] + logs["all_loss"]  # by the loss of the guide
    known = STEPS & ~np.isnan(STEPS_TRUE[..., 1])
    missed = abs(steps - STEPS_TRUE)[..., 1][known].mean()
    check_close(logs["steps_index_violation"], missed, **close)
    check_close(logs["all_v"], np.maximum(1 - flat[:, 0], 0).mean(), **close)
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    assert loaded.jit_compile is jit_compile
    loaded.jit_compile = False  # what a compiler makes of it was seen, and takes long
    again = loaded.evaluate(X, y, return_dict=True, **options)
    assert again.keys() == logs.keys()
    for name, value in logs.items():
        check_close(again[name], value, **close)


# --- A compiled model that every backend saved while it learned --------------------------------

KERNELS = {
    name: RNG.normal(size=shape).astype("float32")
    for name, shape in {"steps": (3, 2), "hidden": (6, 3), "all": (3, 2)}.items()
}
RATE, PENALTY = 0.1, 3.0
every_structure = pytest.mark.parametrize("structure", ["list", "dict"])


def by_numpy():
    """What the model with these kernels predicts, how far its guide is off, and its losses."""
    hidden = X.reshape(8, 6) @ KERNELS["hidden"]
    steps, flat, miss = X @ KERNELS["steps"], hidden @ KERNELS["all"], abs(hidden[:, 1] - 0.5)
    multiplier = 2 * RATE * miss.mean()
    of_guide = multiplier * miss.mean() + PENALTY / 2 * (miss**2).mean()
    return (steps, flat), miss.mean(), [*expected_losses(steps, flat), of_guide]


def train(model, structure, **kwargs):
    """By name, as of a loaded model."""
    y, options, _ = given(structure)
    callbacks = [DualAscent("guide", RATE), PenaltySchedule("guide", lambda epoch: PENALTY)]
    return model.fit(X, y, callbacks=callbacks, **options, **kwargs).history


def half_trained(structure):
    """At a learning rate of 0, so that what was learned, the multiplier, has a closed form."""
    # With Adam, as with SGD, Keras saves on PyTorch a class that it has on no other backend.
    model = make(structure, "float32", False, keras.optimizers.Lamb(0.0))
    for name, kernel in KERNELS.items():
        model.get_layer(name).set_weights([kernel, np.zeros(kernel.shape[1])])
    train(model, structure, epochs=2)
    return model


@pytest.mark.gradient
@every_structure
def test_training_goes_on_on_another_backend(structure, tmp_path):
    """With losses, metrics and the state of optimizer and guide as they were."""
    model = half_trained(structure)
    files = model_files(f"compiled_{structure}", tmp_path, model)
    model.optimizer.learning_rate = 0.01
    train(model, structure)
    _, miss, (of_steps, of_all, of_guide) = by_numpy()
    y, options, _ = given(structure)
    for path in files:
        check_holds_no_code(path)
        loaded = keras.saving.load_model(path)
        logs = loaded.evaluate(X, y, return_dict=True, **options)
        check_close(logs["loss"], of_steps + of_all + of_guide)
        check_close([logs["steps_loss"], logs["all_loss"]], [of_steps, of_all])
        assert {"steps_index_violation", "all_v"} < logs.keys()
        assert int(loaded.optimizer.iterations) == 2
        loaded.optimizer.learning_rate = 0.01
        history = train(loaded, structure)
        check_close(history["guide_multiplier"], [3 * RATE * miss])
        for found, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
            check_close(found, expected, rtol=1e-4)


@every_structure
def test_compiled_models_of_every_backend_predict(structure, tmp_path):
    """On NumPy, too, where Keras does not train, nor evaluates a model with a loss of a layer."""
    predicted, miss, _ = by_numpy()
    for path in model_files(f"compiled_{structure}", tmp_path):
        loaded = keras.saving.load_model(path)
        found = given(structure)[-1](loaded.predict(X, verbose=0))
        for one, other in zip(found, predicted, strict=True):
            check_close(one, other)
        guide = loaded.get_layer("guide")
        check_close(guide.multiplier, 2 * RATE * miss)
        check_close(guide.penalty, PENALTY)
        assert sorted(type(one).__name__ for one in keras.tree.flatten(loaded.loss)) == [
            "IndexPenalty",
            "WeightedSum",
        ]


@pytest.mark.gradient
def test_class_weights():
    """They come as weights of samples, with timesteps or without."""
    x, labels = X[:, 0], np.array([0, 1] * 4)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.0), IndexPenalty(1, 2.0))
    loss = model.fit(
        x, labels, class_weight={0: 1.0, 1: 3.0}, batch_size=8, verbose=0, epochs=1
    ).history["loss"][0]
    each = (model.predict(x, verbose=0)[:, 1] - 2.0) ** 2
    check_close(loss, (each * np.array([1.0, 3.0] * 4)).mean())


@pytest.mark.gradient
def test_two_losses_of_one_output_need_a_weighted_sum():
    """Keras takes the first of a list, and does not say so."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    x, y, penalty = X[:, 0], np.zeros((8, 2), "float32"), IndexPenalty(1, 2.0)
    mse = (model.predict(x, verbose=0) ** 2).mean()
    both = mse + ((model.predict(x, verbose=0)[:, 1] - 2) ** 2).mean()
    for loss, expected in ((["mse", penalty], mse), (WeightedSum(["mse", penalty]), both)):
        model.compile("sgd", loss)
        check_close(model.evaluate(x, y, verbose=0, return_dict=True)["loss"], expected)
