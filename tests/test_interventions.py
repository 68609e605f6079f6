"""Weights of a model that exists, element by element."""

import keras
import numpy as np
import pytest
from _backend import to_numpy
from keras import ops
from kit import check_close, check_roundtrip, in_full_once, saved_and_loaded

from kedit import Trainable, X, at, sample
from kedit.errors import CoordinateError, EditError, OperandError, PositionError, ShapeError
from kedit.interventions import WeightEditing, freeze_elements, prune

RNG = np.random.default_rng(0)
MASK = RNG.random((6, 8)) < 0.4
INPUT = RNG.normal(size=(80, 6)).astype("float32")
TARGET = INPUT[:, :1] * 2 - INPUT[:, 1:2]
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "ema": lambda: keras.optimizers.AdamW(0.01, use_ema=True, ema_momentum=0.9),
    "ema, overwriting": lambda: keras.optimizers.Adam(
        0.01, use_ema=True, ema_overwrite_frequency=3
    ),
}


def hidden(**options):
    return keras.layers.Dense(8, activation="relu", name="hidden", **options)


def sequential():
    return keras.Sequential([keras.Input((6,)), hidden(), keras.layers.Dense(1)])


def functional():
    """A model with everything that has a state or a loss of its own."""
    inputs = keras.Input((6,))
    h = hidden(activity_regularizer="l2", kernel_regularizer="l2")(inputs)
    h = keras.layers.BatchNormalization()(h)
    h = keras.layers.Dropout(0.25, seed=3)(h)
    return keras.Model(inputs, keras.layers.Dense(1)(keras.Sequential([keras.layers.Dense(4)])(h)))


class Subclassed(keras.Model):
    """A model of which Keras knows no graph."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.last = hidden(), keras.layers.Dense(1)

    def call(self, inputs):
        return self.last(self.first(inputs))


def fit(model, optimizer, epochs=10):
    """20 steps an epoch."""
    model.compile(optimizer, "mse")
    return model.fit(INPUT, TARGET, 4, epochs, shuffle=False, verbose=0).history["loss"]


@pytest.mark.gradient
@pytest.mark.parametrize("name", in_full_once(OPTIMIZERS, ("adamw", "ema, overwriting")))
def test_frozen_elements_do_not_move_by_a_bit_in_200_steps(name, tmp_path):
    """Nor after saving, loading and compiling again; all others move."""
    keras.utils.set_random_seed(0)
    base = functional()
    fit(base, OPTIMIZERS[name](), epochs=1)
    start = to_numpy(base.get_layer("hidden").kernel).copy()
    model = freeze_elements(base, "hidden/kernel", MASK)
    for path in ("first.keras", "second.keras"):
        before = to_numpy(model.weight("hidden/kernel")).copy()
        fit(model, OPTIMIZERS[name]())
        kernel = to_numpy(model.weight("hidden/kernel"))
        np.testing.assert_array_equal(kernel[MASK], start[MASK])
        assert (kernel[~MASK] != before[~MASK]).all()
        # On JAX, Keras cannot save after `use_ema` and `predict`, whose buffers it shares.
        loaded = saved_and_loaded(model, tmp_path / path)
        predicted = model.predict(INPUT, verbose=0)
        model = loaded
        check_close(model.predict(INPUT, verbose=0), predicted)
    baked = model.bake()
    np.testing.assert_array_equal(to_numpy(baked.get_layer("hidden").kernel)[MASK], start[MASK])
    check_close(baked.predict(INPUT, verbose=0), predicted)


@pytest.mark.gradient
@pytest.mark.parametrize("make", [functional, sequential, Subclassed], ids=lambda f: f.__name__)
def test_without_an_edit_a_model_trains_as_its_base(make):
    """With regularizers, moving averages and random numbers."""
    losses = []
    for wrap in (
        lambda model: model,
        lambda model: WeightEditing(model, {}),
        lambda model: WeightEditing(WeightEditing(model, {}), {}),
    ):
        keras.utils.set_random_seed(0)
        model = make()
        model(INPUT[:4])
        wrapped = wrap(model)
        losses.append(fit(wrapped, keras.optimizers.SGD(0.01), epochs=3))
        losses.append([wrapped.evaluate(INPUT, TARGET, verbose=0)])
        losses.append([to_numpy(v).sum() for v in model.variables])
    for by_base, *by_wrapped in zip(losses[:3], losses[3:6], losses[6:], strict=True):
        for found in by_wrapped:
            np.testing.assert_allclose(found, by_base, rtol=1e-5)


def test_computes_with_edited_weights_and_leaves_the_base_alone():
    base = sequential()
    kernel = to_numpy(base.get_layer("hidden").kernel).copy()
    edits = {"hidden/kernel": at[0].multiply(2.0) | at.where(X > 0.1).set(0.1)}
    model = WeightEditing(base, edits, name="edited")
    expected = kernel.copy()
    expected[0] *= 2
    expected = np.minimum(expected, np.float32(0.1))
    np.testing.assert_array_equal(to_numpy(model.weight("hidden/kernel")), expected)
    reference = sequential()
    reference.set_weights([expected, *base.get_weights()[1:]])
    check_close(model.predict(INPUT, verbose=0), reference.predict(INPUT, verbose=0))
    np.testing.assert_array_equal(to_numpy(base.get_layer("hidden").kernel), kernel)
    again = check_roundtrip(model)
    assert again.name == "edited"
    assert again.edits == edits


def test_stands_in_a_model_as_a_layer(tmp_path):
    layer = freeze_elements(hidden(), "kernel", MASK, 0.0)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)))
    assert layer.compute_output_shape((None, 6)) == (None, 8)
    kernel = np.where(MASK, 0, to_numpy(layer.base.kernel))
    inner = keras.Model(inputs, model.layers[1].output)
    check_close(inner.predict(INPUT, verbose=0), np.maximum(INPUT @ kernel, 0))
    predicted = model.predict(INPUT, verbose=0)
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    check_close(loaded.predict(INPUT, verbose=0), predicted)


def test_mixed_precision_and_masks():
    embedding = keras.layers.Embedding(5, 4, mask_zero=True)
    tokens = np.array([[1, 2, 0], [3, 0, 0]])
    held = WeightEditing(embedding, {"embeddings": at[1].set(9.0)})
    inputs = keras.Input((3,), dtype="int32")
    pooled = keras.layers.GlobalAveragePooling1D()(held(inputs))
    model = keras.Model(inputs, pooled)
    table = to_numpy(embedding.embeddings).copy()
    table[1] = 9
    check_close(model.predict(tokens, verbose=0), [(table[1] + table[2]) / 2, table[3]])
    layer = keras.layers.Dense(2, dtype="mixed_float16", kernel_initializer="ones")
    edited = WeightEditing(layer, {"kernel": at[0].set(0.5)})
    outputs = edited(ops.ones((1, 3)))
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    assert keras.backend.standardize_dtype(edited.weight("kernel").dtype) == "float32"
    check_close(outputs, [[2.5, 2.5]])


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (MASK, None),
        (MASK, 0.0),
        (at[MASK], np.arange(MASK.sum())),
        (np.s_[2, 1:3], None),
        (np.s_[:, [0, -1]], np.array([1.0, 2.0])),
        (0, 5.0),
        (np.eye(6)[0] > 0, None),
    ],
    ids=["mask", "mask to 0", "mask to values", "slice", "columns", "row", "mask of rows"],
)
def test_every_index_freezes(index, value):
    base = sequential()
    kernel = to_numpy(base.get_layer("hidden").kernel).copy()
    model = freeze_elements(base, "hidden/kernel", index, value)
    expected = kernel.copy()
    place = MASK if isinstance(index, type(at[0])) else index
    if value is not None:
        expected[place] = value
    np.testing.assert_array_equal(to_numpy(model.weight("hidden/kernel")), expected)
    base.get_layer("hidden").kernel.assign(np.zeros((6, 8)))
    elsewhere = np.zeros((6, 8))
    elsewhere[place] = expected[place]
    np.testing.assert_array_equal(to_numpy(model.weight("hidden/kernel")), elsewhere)


def test_prune_takes_the_least_in_magnitude():
    base = sequential()
    kernel = to_numpy(base.get_layer("hidden").kernel).copy()
    for sparsity, count in ((0.0, 0), (0.5, 24), (0.75, 36), (1, 48)):
        pruned = to_numpy(prune(base, "hidden/kernel", sparsity).weight("hidden/kernel"))
        gone = pruned == 0
        assert gone.sum() == count
        np.testing.assert_array_equal(pruned[~gone], kernel[~gone])
        assert abs(kernel[gone]).max(initial=0) <= abs(kernel[~gone]).min(initial=np.inf)
    base.get_layer("hidden").kernel.assign(np.ones((6, 8)))
    pruned = to_numpy(prune(base, "hidden/kernel", 0.25).weight("hidden/kernel"))
    assert (pruned.ravel() == [0] * 12 + [1] * 36).all()
    for wrong in (-0.1, 1.5, "half"):
        with pytest.raises(OperandError, match="Received"):
            prune(base, "hidden/kernel", wrong)


def test_a_large_mask_is_saved_compactly(tmp_path):
    inputs = keras.Input((64,))
    model = keras.Model(inputs, keras.layers.Dense(100, name="wide")(inputs))
    mask = np.random.default_rng(0).random((64, 100)) < 0.5
    for value in (0.0, None):
        frozen = freeze_elements(model, "wide/kernel", mask, value)
        again = check_roundtrip(frozen)
        assert again.edits == frozen.edits
        size = len(repr(frozen.get_config()["edits"]))
        assert size < 3000 + (0 if value == 0 else 10 * mask.size)


@pytest.mark.parametrize(
    ("name", "edit", "error"),
    [
        ("kernel", at[0].set(0.0), OperandError),
        ("hidden/gamma", at[0].set(0.0), OperandError),
        ("den/kernel", at[0].set(0.0), OperandError),
        ("hidden/kernel", at[6].set(0.0), PositionError),
        ("hidden/kernel", at[0].set([1.0, 2.0]), ShapeError),
        ("hidden/kernel", sample[0].set(0.0), CoordinateError),
        ("hidden/kernel", at[0].get(), OperandError),
        ("hidden/kernel", 0.0, OperandError),
    ],
)
def test_what_does_not_fit_is_refused(name, edit, error):
    with pytest.raises(error, match="Received") as raised:
        WeightEditing(sequential(), {name: edit})
    assert isinstance(raised.value, EditError)


def test_a_condition_freezes_what_meets_it_now():
    base = sequential()
    kernel = base.get_layer("hidden").kernel
    start = to_numpy(kernel).copy()
    start[::2, 1] = 0.0
    kernel.assign(start)
    for index, value, mask in (
        (X == 0, None, start == 0),
        (X == 0, 0.5, start == 0),
        (at[0].where(X > 0.0), None, (start > 0) & (np.arange(len(start)) == 0)[:, None]),
        (at.where(abs(X) > 0.2), -1.0, abs(start) > 0.2),
    ):
        kernel.assign(start)
        model = freeze_elements(base, "hidden/kernel", index, value)
        wanted = np.where(mask, start if value is None else value, start)
        check_close(model.weight("hidden/kernel"), wanted)
        kernel.assign(start + 1.0)
        check_close(model.weight("hidden/kernel"), np.where(mask, wanted, start + 1))
    start[3, 2] = np.nan
    kernel.assign(start)
    column = np.arange(1.0, 7.0)
    model = freeze_elements(base, "hidden/kernel", at[:, 1].where(X == 0), column)
    kernel.assign(np.full_like(start, 9.0))
    found = to_numpy(model.weight("hidden/kernel"))
    assert found[::2, 1].tolist() == [1.0, 3.0, 5.0]
    assert found.sum() == 9 * (48 - 3) + 9
    for index in (X > Trainable(0.0), sample.where(X > 0)):
        with pytest.raises(EditError, match="Received"):
            freeze_elements(base, "hidden/kernel", index)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
def test_what_cannot_be_held_is_refused():
    with pytest.raises(OperandError, match="Build it first"):
        freeze_elements(hidden(), "kernel", MASK)
    with pytest.raises(OperandError, match="Received"):
        WeightEditing(lambda x: x, {})
    edits = {"hidden/kernel": at[0].set(0.0), "kernel": at[1].set(0.0)}
    with pytest.raises(OperandError, match="two"):
        layer = hidden()
        layer.build((None, 6))
        WeightEditing(layer, edits)
    base = sequential()
    model = freeze_elements(base, "hidden/kernel", MASK)
    base.get_layer("hidden").enable_lora(2)
    with pytest.raises(OperandError, match="LoRA"):
        model(INPUT)
    base = sequential()
    model = freeze_elements(base, "hidden/kernel", MASK)
    base.quantize("int8")
    with pytest.raises(OperandError, match="int8"):
        model(INPUT)
