"""Pruned and frozen elements hold under what else is done to a model."""

import keras
import numpy as np
import pytest
from _backend import to_numpy
from kit import (
    check_close,
    check_holds_no_code,
    in_full_once,
    model_files,
    on_devices,
    saved_and_loaded,
)

from kedit import at
from kedit.callbacks import PruningSchedule
from kedit.errors import OperandError
from kedit.weights import WeightEditing, freeze_elements, prune, remove_channels

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 12, (16, 5))
X = RNG.normal(size=(16, 6)).astype("float32")
Y = RNG.normal(size=(16, 2)).astype("float32")


quantizes = pytest.mark.filterwarnings(
    "ignore:Layer .* does not have a `quantize`",
    "ignore:.*custom_gradient.*numpy:UserWarning",  # Keras quantizes without gradients there
)


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
@quantizes
def test_lora_and_int8_after_baking():
    for change in (lambda m: m.get_layer("hidden").enable_lora(2), lambda m: m.quantize("int8")):
        model = prune(plain(), "hidden/kernel", 0.75)
        predicted = model.predict(X, verbose=0)
        baked = model.bake()
        change(baked)
        check_close(baked.predict(X, verbose=0), predicted, atol=0.1)


def wide():
    """Layers that can have LoRA, in a graph in a graph."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 6))
    x = keras.layers.Dense(8, activation="relu", name="dense")(inputs)
    x = keras.layers.EinsumDense("btd,de->bte", (5, 4), bias_axes="e", name="einsum")(x)
    inner = keras.Model(inputs, x, name="inner")
    ids = keras.Input((5,), dtype="int32")
    table = keras.layers.Embedding(12, 6, name="table")
    return keras.Model(ids, keras.layers.Conv1D(2, 3, name="conv")(inner(table(ids))))


WIDE = ("inner/dense/kernel", "inner/einsum/kernel", "table/embeddings", "conv/kernel")


def layer_of(model, name):
    *above, layer, _ = name.split("/")
    for part in above:
        model = model.get_layer(part)
    return model.get_layer(layer)


@pytest.mark.gradient
@pytest.mark.parametrize("name", in_full_once(WIDE, WIDE[:1]))
@pytest.mark.parametrize("pattern", ["name", "*"])
def test_lora_before_baking_is_refused_until_it_is_baked(pattern, name):
    """The error's own line runs, and what it leads to computes the same, and trains."""
    base = wide()
    if pattern == "*":
        model = WeightEditing(base, {"*/kernel": at[0].set(0.5), "*/embeddings": at[0].set(0.5)})
    else:
        model = prune(base, name, 0.5)
    predicted = model.predict(IDS, verbose=0)
    layer_of(base, name).enable_lora(2)
    with pytest.raises(Exception, match="LoRA"):
        model.predict(IDS, verbose=0)  # by a function that was compiled before
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    model.compile("sgd", "mse")
    for use in (
        lambda: model(IDS),
        lambda: model.fit(IDS, np.zeros((16, 3, 2)), verbose=0),
        lambda: model.weight(name),
        model.sparsity,
        lambda: prune(model, name, 0.75),
        model.get_config,
    ):
        with pytest.raises(Exception, match=r"(?s)LoRA.*`model = model.bake\(\)`"):
            use()
    model = model.bake()
    check_close(model.predict(IDS, verbose=0), predicted)
    model.compile("sgd", "mse")
    kernel = layer_of(base, name).lora_kernel_b if "kernel" in name else None
    model.fit(IDS, np.ones((16, 3, 2)), verbose=0)
    assert kernel is None or to_numpy(kernel).any()


@pytest.mark.gradient
def test_lora_of_a_layer_beside_the_edited_one():
    model = prune(plain(), "hidden/kernel", 0.5)
    gone, before = held(model), to_numpy(model.base.get_layer("out").kernel).copy()
    model.base.get_layer("out").enable_lora(2)
    fit(model)
    np.testing.assert_array_equal(held(model), gone)
    assert (to_numpy(model.base.get_layer("out").kernel) != before).any()


@quantizes
def test_int8_before_baking_is_refused_before_anything_is_quantized():
    model = WeightEditing(plain(), {"*/kernel": at[0].set(0.5)})
    predicted = model.predict(X, verbose=0)
    with pytest.raises(OperandError, match=r'Received.*`model.bake\(\).quantize\("int8"\)`'):
        model.quantize("int8")
    check_close(model.predict(X, verbose=0), predicted)
    baked = model.bake()
    baked.quantize("int8")
    check_close(baked.predict(X, verbose=0), predicted, atol=0.1)


@quantizes
@pytest.mark.parametrize("layers", [("hidden",), ("hidden", "out")], ids=len)
def test_int8_of_the_base_before_baking_is_refused_by_the_next_use(layers):
    """Also of a part of the weights that a pattern means."""
    model = WeightEditing(plain(), {"*/kernel": at[0].set(0.5)})
    model.base.quantize("int8", filters=lambda layer: layer.name in layers)
    uses = (lambda: model(X), lambda: model.weight("out/kernel"), model.sparsity, model.bake)
    for use in (*uses, model.get_config):
        with pytest.raises(OperandError, match=r"'int8'.*bake"):
            use()


@quantizes
def test_int8_beside_an_edited_bias():
    model = freeze_elements(plain(), "hidden/bias", 0, 3.0)
    predicted = model.predict(X, verbose=0)
    model.quantize("int8")
    assert "int8" in str(model.base.get_layer("hidden").kernel.dtype)
    assert to_numpy(model.weight("hidden/bias"))[0] == 3.0
    check_close(model.predict(X, verbose=0), predicted, atol=0.1)


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


# --- Several devices -----------------------------------------------------------------------------


def trained(devices=1):
    """What a model that is pruned while it trains has learned, as data."""
    if devices > 1:
        assert len(keras.distribution.list_devices()) == devices
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    model = prune(plain(), "*/kernel", 0.0, scope="global")
    model = freeze_elements(model, "hidden/bias", np.s_[:3], 0.125)
    model.compile(keras.optimizers.AdamW(0.05, weight_decay=0.1, use_ema=True), "mse")
    schedule = PruningSchedule(0.0, 0.75, 0, 6, frequency=2)
    options = {"batch_size": 8, "epochs": 4, "shuffle": False, "verbose": 0}
    history = model.fit(X, Y, callbacks=[schedule], **options).history
    names = ("hidden/kernel", "hidden/bias", "out/kernel")
    return {**history, **{name: to_numpy(model.weight(name)).tolist() for name in names}}


@pytest.mark.once
def test_eight_devices_prune_and_hold_what_one_does():
    """Under `keras.distribution.DataParallel`, in a process of its own."""
    found, expected = on_devices("test_weights_hold", "trained", 8), trained()
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        check_close(found[name], one, rtol=1e-4)
        np.testing.assert_array_equal(np.equal(found[name], 0), np.equal(one, 0))
    assert found["hidden/bias"][:3] == [0.125] * 3
    assert found["sparsity"] == [0.53125, 0.71875, 0.75, 0.75]


# --- A pruned model that every backend saved while it trained ------------------------------------

WEIGHTS = [RNG.normal(size=shape).astype("float32") for shape in ((6, 8), (8,), (8, 2), (2,))]
FIRST = (0.0, 0.75, 0, 8, 1, 2)


def half_pruned(sparsity=0.0):
    """A model with fixed weights, of which some are frozen, and one is pruned."""
    base = plain()
    base.set_weights(WEIGHTS)
    model = freeze_elements(base, {"hidden/bias": 0, "out/kernel": np.s_[:2]}, value=0.125)
    return prune(model, "hidden/kernel", sparsity)


def compiled(model):
    # With Adam, as with SGD, Keras saves on PyTorch a class that it has on no other backend.
    model.compile(keras.optimizers.Lamb(0.0), "mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


def train(model, epochs, rate=0.0):
    model.optimizer.learning_rate = rate
    schedule = PruningSchedule(*FIRST)
    return model.fit(X, Y, 8, epochs, shuffle=False, verbose=0, callbacks=[schedule]).history


def gone(sparsity):
    order = np.argsort(np.abs(WEIGHTS[0]), axis=None, kind="stable")
    mask = np.zeros(48, bool)
    mask[order[: int(48 * sparsity)]] = True
    return mask.reshape(6, 8)


def check_half_pruned(model):
    """Beside NumPy."""
    hidden, bias, out, last = [one.copy() for one in WEIGHTS]
    hidden[gone(0.375)], bias[0], out[:2] = 0.0, 0.125, 0.125
    np.testing.assert_array_equal(to_numpy(model.weight("hidden/kernel")), hidden)
    np.testing.assert_array_equal(to_numpy(model.weight("hidden/bias")), bias)
    np.testing.assert_array_equal(to_numpy(model.weight("out/kernel")), out)
    expected = np.maximum(X @ hidden + bias, 0) @ out + last
    check_close(model.predict(X, verbose=0), expected)
    assert model.sparsity()[0].zeros == 18


def check_goes_on(model, expected):
    """Train it further: what is held stays, to the last bit, and the rest learns."""
    history = train(model, 4, 0.01)
    assert history["sparsity"][-1] == 0.75
    weight = to_numpy(model.weight("hidden/kernel"))
    assert (weight[gone(0.375)] == 0).all()
    assert (weight == 0).sum() == 36
    assert (weight[weight != 0] != WEIGHTS[0][weight != 0]).all()
    assert to_numpy(model.weight("hidden/bias"))[0] == 0.125
    assert (to_numpy(model.weight("out/kernel"))[:2] == 0.125).all()
    for found, value in zip(model.get_weights(), expected, strict=True):
        check_close(found, value, rtol=1e-4)


def files_of(suffix, tmp_path, model=None):
    return model_files("pruned", tmp_path, model, suffix)


@pytest.mark.gradient
def test_training_goes_on_on_another_backend(tmp_path):
    """From `.keras` files with the step and the mask that they were saved at."""
    model = compiled(half_pruned())
    train(model, 2)
    check_half_pruned(model)
    files = files_of(".keras", tmp_path, model)
    weights = files_of(".weights.h5", tmp_path, model)
    train(model, 4, 0.01)
    for path in files:
        check_holds_no_code(path)
        loaded = keras.saving.load_model(path)
        check_half_pruned(loaded)
        assert int(loaded.optimizer.iterations) == 4
        check_goes_on(loaded, model.get_weights())
    for path in weights:
        loaded = compiled(half_pruned(0.125))
        loaded.set_weights([np.ones_like(w) for w in loaded.get_weights()])
        loaded.load_weights(path)
        check_half_pruned(loaded)
        assert int(loaded.optimizer.iterations) == 4
        check_goes_on(loaded, model.get_weights())


def test_pruned_models_of_every_backend_predict(tmp_path):
    """On NumPy, too, where Keras does not train."""
    for path in files_of(".keras", tmp_path):
        check_half_pruned(keras.saving.load_model(path))
    for path in files_of(".weights.h5", tmp_path):
        model = half_pruned(0.125)
        model.load_weights(path)
        check_half_pruned(model)
