"""Pruned and frozen elements hold under what else is done to a model."""

import keras
import numpy as np
import pytest
from _backend import to_numpy
from kit import check_close, saved_and_loaded

from kedit.weights import freeze_elements, prune, remove_channels

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 12, (16, 5))
X = RNG.normal(size=(16, 6)).astype("float32")
Y = RNG.normal(size=(16, 2)).astype("float32")


def plain():
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")
    return keras.Sequential([keras.Input((6,)), hidden, keras.layers.Dense(2, name="out")])


def fit(model, x=X, y=Y, **options):
    model.compile(keras.optimizers.AdamW(0.05, weight_decay=0.1), "mse", **options)
    model.fit(x, y, 4, 3, verbose=0)


def held(model, name="hidden/kernel"):
    return to_numpy(model.weight(name)) == 0


@pytest.mark.gradient
def test_recompiled_and_frozen_layers():
    model = prune(plain(), "*/kernel", 0.5)
    gone = held(model)
    for run_eagerly in (False, True):
        fit(model, run_eagerly=run_eagerly)
        np.testing.assert_array_equal(held(model), gone)
    model.base.get_layer("hidden").trainable = False
    before = to_numpy(model.weight("hidden/kernel")).copy()
    out = to_numpy(model.weight("out/kernel")).copy()
    fit(model)
    np.testing.assert_array_equal(to_numpy(model.weight("hidden/kernel")), before)
    assert (to_numpy(model.weight("out/kernel")) != out).any()
    assert not any("mask" in weight.path for weight in model.trainable_weights)


@pytest.mark.gradient
def test_tied_embeddings(tmp_path):
    """One weight that is read as a table and as a kernel."""
    table = keras.layers.ReversibleEmbedding(12, 4, tie_weights=True, name="tied")
    inputs = keras.Input((5,), dtype="int32")
    model = keras.Model(inputs, table(table(inputs), reverse=True))
    held_model = prune(freeze_elements(model, "tied/embeddings", np.s_[:10], 0.5), table, 0.25)
    assert [row.weight for row in held_model.sparsity()] == ["tied/embeddings"]
    weight = to_numpy(held_model.weight("tied")).copy()
    gone = weight == 0
    assert gone.sum() == 12
    rows = np.zeros((12, 4), bool)
    rows[:10] = True
    fit(held_model, IDS, np.zeros((16, 5, 12)))
    after = to_numpy(held_model.weight("tied")).copy()
    np.testing.assert_array_equal(after[rows | gone], weight[rows | gone])
    assert (after[~(rows | gone)] != weight[~(rows | gone)]).all()
    loaded = saved_and_loaded(held_model, tmp_path / "model.keras")
    check_close(loaded.predict(IDS, verbose=0), (after[IDS] @ after.T))


def test_a_layer_that_is_called_twice():
    layer = keras.layers.Dense(6, name="twice")
    inputs = keras.Input((6,))
    model = prune(keras.Model(inputs, layer(layer(inputs))), "twice/kernel", 0.5)
    kernel = to_numpy(model.weight("twice/kernel"))
    assert (kernel == 0).sum() == 18
    check_close(model.predict(X, verbose=0), X @ kernel @ kernel)


@pytest.mark.gradient
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
def test_lora_and_int8_after_baking():
    for change in (lambda m: m.get_layer("hidden").enable_lora(2), lambda m: m.quantize("int8")):
        model = prune(plain(), "hidden/kernel", 0.75)
        predicted = model.predict(X, verbose=0)
        baked = model.bake()
        change(baked)
        check_close(baked.predict(X, verbose=0), predicted, atol=0.1)


@pytest.mark.gradient
def test_pruned_tuned_baked_and_made_smaller():
    """The way from a trained model to a small one."""
    model = prune(plain(), "hidden/kernel", 0.5, structure="channels")
    gone = np.flatnonzero(held(model).all(axis=0))
    assert len(gone) == 4
    model = freeze_elements(model, "hidden/bias", gone, 0.0)
    fit(model)
    predicted = model.predict(X, verbose=0)
    small = remove_channels(model.bake(), {"hidden": gone})
    assert small.get_layer("hidden").units == 4
    check_close(small.predict(X, verbose=0), predicted)
