"""`RandomEditing`: what each sample is given, the same in every way to run, and what flows back."""

import json

import keras
import numpy as np
import pytest
from _backend import DRAWING, TRAINING, to_numpy, vjp
from keras import ops
from kit import check_close, check_layer, check_roundtrip, saved_and_loaded

from kedit import Trainable, X, at, sample
from kedit._draws import Draw
from kedit._run import ops as ledger
from kedit.errors import CoordinateError, OperandError, ShapeError
from kedit.inputs import RandomEdit
from kedit.inputs._random_edit import _NumPy
from kedit.layers import Editing, RandomEditing

ERASE = sample[...].set(0.0)
COUNT = 96
"""Samples in a batch: so many that what can be drawn is drawn."""


def ones(*shape):
    return np.ones((COUNT, *shape), "float32")


def drawn(layer, x):
    """What a layer makes of a batch in training."""
    return to_numpy(layer(ops.convert_to_tensor(x), training=True))


def boxes(masks):
    """Start and length along each axis, of every mask that is one box."""
    found = []
    for mask in masks:
        box = []
        for axis in range(mask.ndim):
            others = tuple(other for other in range(mask.ndim) if other != axis)
            places = np.flatnonzero(mask.any(axis=others))
            box.append((int(places[0]), len(places)))
        expected = np.zeros_like(mask)
        expected[tuple(slice(start, start + size) for start, size in box)] = True
        np.testing.assert_array_equal(mask, expected)
        found.append(tuple(box))
    return found


# --- What is drawn -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "selection", "shape", "sizes"),
    [
        ({"block": (2, 3)}, sample[...], (4, 5), ({2}, {3})),
        ({"block": (2, 3)}, sample[...], (4, 5, 3), ({2}, {3}, {3})),
        ({"block": ((1, 3), (2, 5))}, sample[...], (4, 5), ({1, 2, 3}, {2, 3, 4, 5})),
        ({"block": ((1, 3), 2), "axes": (-1, 0)}, sample[...], (4, 5, 3), ({2}, {5}, {1, 2, 3})),
        ({"block": ((4, 4),), "axes": 0}, sample[...], (4,), ({4},)),
        ({"block": ((1, 2), 2)}, sample[1:], (3, 4), ({1, 2}, {2})),
    ],
)
def test_boxes(options, selection, shape, sizes):
    """Every size has its turn, and every place."""
    masks = drawn(RandomEditing(selection.set(0.0), **options, seed=1), ones(*shape)) == 0
    found = boxes(masks)
    assert tuple({size for _, size in axis} for axis in zip(*found, strict=True)) == sizes
    selected = np.zeros(shape, bool)
    selected[1 if selection.selection.index.items[0] != ... else 0 :] = True
    np.testing.assert_array_equal(masks.any(axis=0), selected)
    assert len(set(found)) > 1 or sizes == ({4},)


@pytest.mark.parametrize(
    ("options", "whole", "count"),
    [
        ({"count": 3}, (), 3),
        ({"count": 0}, (), 0),
        ({"count": 24}, (), 24),
        ({"count": 2, "axes": -1}, (0, 1), 2),
        ({"count": 5, "axes": (2, 0)}, (1,), 5),
    ],
)
def test_counts(options, whole, count):
    masks = drawn(RandomEditing(ERASE, **options, seed=1), ones(2, 3, 4)) == 0
    axes = tuple(axis + 1 for axis in whole)
    assert (masks.all(axis=axes) == masks.any(axis=axes)).all()
    assert (masks.any(axis=axes).reshape(COUNT, -1).sum(axis=1) == count).all()
    assert masks.any(axis=0).all() == (count > 0)
    if 0 < count < 24:
        assert len({mask.tobytes() for mask in masks}) > 1


def test_rates_and_probabilities():
    masks = drawn(RandomEditing(ERASE, rate=0.25, seed=1), ones(10, 10)) == 0
    assert 0.23 < masks.mean() < 0.27
    assert len({mask.tobytes() for mask in masks}) == COUNT
    for rate in (0.0, 1.0):
        assert (drawn(RandomEditing(ERASE, rate=rate), ones(10)) == 1 - rate).all()
    masks = drawn(RandomEditing(ERASE, block=(2, 2), probability=0.5, seed=1), ones(4, 4)) == 0
    found = masks.sum(axis=(1, 2))
    assert set(found) == {0, 4}
    assert 0.3 < (found > 0).mean() < 0.7


def test_only_what_is_selected_is_edited():
    x = np.random.default_rng(0).normal(size=(COUNT, 4, 3)).astype("float32")
    kept = np.arange(12).reshape(4, 3) % 2 > 0
    for selection, chosen in (
        (sample.where(X > 0.0), x > 0),
        (sample.where(kept), np.broadcast_to(kept, x.shape)),
        (sample.where((X > 0.0) & ~(X > 1.0)), (x > 0) & (x <= 1)),
    ):
        found = drawn(RandomEditing(selection.add(10.0), rate=0.5, seed=1), x)
        changed = found != x
        assert not changed[~chosen].any()
        assert 0.4 < changed[chosen].mean() < 0.6
        np.testing.assert_array_equal(found, np.where(changed, x + np.float32(10), x))
    found = drawn(
        RandomEditing(sample.where(X > 0.0).set(1.0, otherwise=-1.0), rate=0.5, seed=1), x
    )
    changed = found != x
    np.testing.assert_array_equal(found[changed], np.where(x > 0, 1, -1)[changed])
    assert 0.4 < changed.mean() < 0.6
    found = drawn(RandomEditing(sample[[2, 0]].set(9.0), count=1, axes=0, seed=1), x)
    assert (found == 9).all(axis=2)[:, [0, 2]].sum(axis=1).tolist() == [1] * COUNT
    np.testing.assert_array_equal(found[:, [1, 3]], x[:, [1, 3]])


@pytest.mark.parametrize("when", ["training", "inference", "always"])
def test_when(when):
    layer, x = RandomEditing(ERASE, rate=0.5, when=when), ones(5)
    for training in (True, False):
        edits = when == "always" or training == (when == "training")
        found = to_numpy(layer(ops.convert_to_tensor(x), training=training))
        assert (found == 0).any() == edits


def test_each_call_draws_anew_and_a_seed_repeats_it():
    x = ones(6, 6)
    first, second = RandomEditing(ERASE, count=5, seed=7), RandomEditing(ERASE, count=5, seed=7)
    calls = [drawn(first, x) for _ in range(3)]
    assert len({call.tobytes() for call in calls}) == 3
    for call in calls:
        np.testing.assert_array_equal(drawn(second, x), call)
    assert (drawn(RandomEditing(ERASE, count=5, seed=8), x) != calls[0]).any()
    keras.utils.set_random_seed(3)
    found = drawn(RandomEditing(ERASE, count=5), x)
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(drawn(RandomEditing(ERASE, count=5), x), found)


DRAWS = [
    Draw(block=((1, 3), 2), axes=(2, 0), probability=0.7),
    Draw(block=((0, 4), (1, 3))),
    Draw(count=5, axes=(1, 0)),
    Draw(count=2, axes=-1, probability=0.4),
    Draw(rate=0.3, axes=(2, 0, 1)),
]


@pytest.mark.parametrize("draw", DRAWS, ids=lambda draw: str(draw.get_config()))
def test_numpy_and_the_backend_choose_alike(draw):
    """By the same uniform numbers: `RandomEdit` sample by sample, and the layer a batch at once."""
    rng, sizes, given = np.random.default_rng(0), (4, 3, 5), []

    def uniform(shape):
        given.append(rng.random((COUNT, *shape), "float32"))
        return ops.convert_to_tensor(given[-1])

    found = to_numpy(draw.mask(sizes, uniform, ledger))
    for n in range(COUNT):
        numbers = iter([array[n] for array in given])
        expected = draw.mask(sizes, lambda shape, left=numbers: next(left), _NumPy())
        np.testing.assert_array_equal(found[n], expected)
        assert found[n].shape == draw.shape(sizes)


# --- In a model --------------------------------------------------------------------------------


def model_of(shape, **options):
    inputs = keras.Input(shape)
    return keras.Model(inputs, RandomEditing(ERASE, **options, when="always")(inputs))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("options", [{"block": ((1, 3), 2)}, {"count": 3}, {"rate": 0.5}])
def test_compiled_models_repeat_their_draws(jit_compile, options):
    found = []
    for _ in range(2):
        model = model_of((5, 4), seed=11, **options)
        model.compile(loss="mse", jit_compile=jit_compile)
        found.append([model.predict(ones(5, 4), batch_size=COUNT, verbose=0) for _ in range(2)])
    np.testing.assert_array_equal(*found)
    first, second = found[0]
    assert (first != second).any()
    if "block" in options:
        assert {box[0][1] for box in boxes(first == 0)} == {1, 2, 3}
        assert {box[1][1] for box in boxes(first == 0)} == {2}
    if "count" in options:
        assert ((first == 0).sum(axis=(1, 2)) == 3).all()


@pytest.mark.parametrize("jit_compile", TRAINING or [False])
@pytest.mark.parametrize(
    "options", [{"block": ((1, 3), 9)}, {"count": 30, "axes": (1, 0)}, {"rate": 0.5, "axes": 0}]
)
def test_axes_of_unknown_size(options, jit_compile):
    """A model of unknown sizes edits as one that knows them; a box is cut to fit."""
    model = model_of((None, None, 2), seed=5, **options)
    model.compile(loss="mse", jit_compile=jit_compile)
    for shape in ((3, 4), (5, 3)):
        mask = model.predict(ones(*shape, 2), batch_size=COUNT, verbose=0) == 0
        assert (mask.all(axis=3) == mask.any(axis=3)).all()
        if "block" in options:
            sizes = [[size for _, size in box] for box in boxes(mask)]
            assert {tuple(size) for size in sizes} == {(n, shape[1], 2) for n in (1, 2, 3)}
        elif "count" in options:
            assert mask.all()
        else:
            assert (mask.all(axis=(2, 3)) == mask.any(axis=(2, 3))).all()
            assert 0.4 < mask.mean() < 0.6


def test_a_slice_of_an_axis_of_unknown_size():
    inputs = keras.Input((None,))
    layer = RandomEditing(sample[1::2].set(0.0), count=1, when="always", seed=0)
    model = keras.Model(inputs, layer(inputs))
    for size in (2, 7):
        mask = model.predict(ones(size), verbose=0) == 0
        assert (mask.sum(axis=1) == 1).all()
        assert np.flatnonzero(mask.any(axis=0)).tolist() == list(range(1, size, 2))


def factory(**kw):
    return RandomEditing(sample[..., :2].multiply(3.0), **{"count": 1, "seed": 4, **kw})


def test_contract(tmp_path):
    x = np.array([[1, -2, 3, 0], [4, 5, -6, 8], [0.5, 2, 7, -1]], "float32")
    check_layer(factory, x, x, tmp_path / "random.keras")


@pytest.mark.gradient
@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit(jit_compile):
    """About half of the samples are erased, and teach the kernel nothing; later none is."""
    inputs = keras.Input((6,))
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    erase = RandomEditing(ERASE, rate=1.0, probability=0.5, seed=2)
    model = keras.Model(inputs, dense(erase(inputs)))
    model.compile(keras.optimizers.SGD(0.25), "mse", jit_compile=jit_compile)
    model.fit(ones(6), ones(1), batch_size=COUNT, verbose=0)
    # The gradient of the squared error of those that are left is -2 for each weight.
    left = to_numpy(dense.kernel)[:, 0] / 0.5 * COUNT
    np.testing.assert_allclose(left, np.full(6, round(float(left[0]))), rtol=1e-4)
    assert 0.3 * COUNT < left[0] < 0.7 * COUNT
    found = model.predict(ones(6), verbose=0)
    check_close(found, np.full((COUNT, 1), 6 * 0.5 * left[0] / COUNT))


def test_precision_and_dtypes():
    for policy in ("float16", "bfloat16", "mixed_bfloat16"):
        layer = RandomEditing(ERASE, count=3, seed=1, dtype=policy)
        found = layer(ops.convert_to_tensor(ones(8)), training=True)
        assert keras.backend.standardize_dtype(found.dtype) == layer.compute_dtype
        assert (to_numpy(ops.cast(found, "float32")) == 0).sum(axis=1).tolist() == [3] * COUNT
    for dtype in ("int32", "uint8", "bool"):
        layer = RandomEditing(sample[...].set(False), count=3, seed=1, autocast=False)
        found = layer(ops.convert_to_tensor(np.ones((COUNT, 8), dtype)), training=True)
        assert keras.backend.standardize_dtype(found.dtype) == dtype
        assert (to_numpy(found) == 0).sum(axis=1).tolist() == [3] * COUNT


def test_batches_of_any_size():
    layer = RandomEditing(ERASE, block=(2, (1, 2)), seed=1)
    for count in (0, 1, 5):
        found = drawn(layer, np.ones((count, 4, 3), "float32"))
        assert found.shape == (count, 4, 3)
        assert set((found == 0).sum(axis=(1, 2)).tolist()) <= {2, 4}


def test_the_mask_of_keras_is_passed_on():
    inputs = keras.Input((4,), dtype="int32")
    hidden = keras.layers.Embedding(5, 3, mask_zero=True)(inputs)
    outputs = RandomEditing(ERASE, count=1, axes=0)(hidden)
    assert keras.Model(inputs, outputs).output._keras_mask is not None


def test_a_switch():
    layer = RandomEditing(ERASE, rate=1.0, switch=True)
    assert (drawn(layer, ones(3)) == 0).all()
    layer.enabled = False
    assert (drawn(layer, ones(3)) == 1).all()


def test_a_loaded_model_starts_from_its_seed(tmp_path):
    options = {"block": ((1, 3), 2), "seed": 9}
    loaded = saved_and_loaded(model_of((6, 5), **options), tmp_path / "model.keras")
    found = [
        model.predict(ones(6, 5), batch_size=COUNT, verbose=0)
        for model in (loaded, model_of((6, 5), **options))
    ]
    np.testing.assert_array_equal(*found)
    assert {box[0][1] for box in boxes(found[0] == 0)} == {1, 2, 3}


@pytest.mark.parametrize(
    "options",
    [
        {"block": (2, (1, 3)), "axes": (1, 0)},
        {"count": 3, "axes": -1, "probability": 0.5, "seed": 4},
        {"rate": 0.5, "when": "always", "switch": True, "gradient": "straight_through"},
    ],
)
def test_config(options):
    layer = RandomEditing(sample[1:].set(0.0), name="erase", **options)
    again = check_roundtrip(layer)
    assert (again.edit, again.name) == (layer.edit, "erase")
    config = json.loads(json.dumps(layer.get_config()))
    for name, value in options.items():
        found = config[name]
        assert json.dumps(found) == json.dumps(value)  # a tuple is a list in JSON
    assert RandomEditing(ERASE, count=1).name.startswith("random_sample_set_0")


# --- Gradients ---------------------------------------------------------------------------------


def in_training(layer):
    """The layer as a function of its input, which leaves the state of its seed alone."""
    state = [to_numpy(v) for v in layer.non_trainable_variables]

    def call(x, *weights):
        given = [ops.convert_to_tensor(value) for value in state]
        return layer.stateless_call(weights, given, x, training=True)[0]

    return call


@pytest.mark.gradient
@pytest.mark.parametrize("compile", DRAWING)
@pytest.mark.parametrize(
    ("edit", "options", "slopes"),
    [
        (sample[...].set(0.0), {}, (0, 1)),
        (sample[...].multiply(3.0), {}, (3, 1)),
        (sample[...].set(0.0), {"gradient": "straight_through"}, (1, 1)),
        (sample[...].multiply(3.0), {"gradient": "blocked"}, (0, 1)),
    ],
)
def test_gradient(edit, options, slopes, compile):
    x = np.random.default_rng(0).normal(size=(8, 5)).astype("float32") + 5
    layer = RandomEditing(edit, count=2, seed=3, **options)
    layer.build((None, 5))
    upstream = np.random.default_rng(1).normal(size=x.shape).astype("float32")
    value, (found,) = vjp(in_training(layer), [x], upstream, compile=compile)
    chosen = value != x
    assert (chosen.sum(axis=1) == 2).all()
    check_close(found, np.where(chosen, *slopes) * upstream)


@pytest.mark.gradient
def test_no_nan_comes_from_what_is_not_drawn():
    """The square root of negative numbers is taken nowhere but where it is drawn."""
    x = np.where(np.arange(40).reshape(8, 5) % 2, 4.0, -4.0).astype("float32")
    layer = RandomEditing(sample.where(X > 0.0).set(X.sqrt()), rate=0.5, seed=3)
    layer.build((None, 5))
    value, (found,) = vjp(in_training(layer), [x], np.ones_like(x))
    chosen = value != x
    assert chosen.any()
    assert (x[chosen] > 0).all()
    np.testing.assert_array_equal(value[chosen], 2)
    check_close(found, np.where(chosen, 0.25, 1))


@pytest.mark.gradient
@pytest.mark.parametrize("compile", DRAWING)
def test_operands_that_are_learned(compile):
    x = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    layer = RandomEditing(sample[...].add(Trainable("zeros")), count=2, seed=3)
    layer.build((None, 5))
    (weight,) = layer.trainable_variables
    assert tuple(weight.shape) == (5,)
    given = np.full(5, 20, "float32")
    value, (dx, dw) = vjp(in_training(layer), [x, given], np.ones_like(x), compile=compile)
    chosen = value > 10
    assert (chosen.sum(axis=1) == 2).all()
    check_close(dx, np.ones_like(x))
    check_close(dw, chosen.sum(axis=0))


@pytest.mark.gradient
def test_a_threshold_that_is_learned_by_a_surrogate():
    x = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    threshold = Trainable("zeros", shape=())
    layer = RandomEditing(
        sample.where(X > threshold).set(9.0), rate=0.5, seed=3, gradient="sigmoid"
    )
    layer.build((None, 5))
    args = [x, np.array(0.0, "float32")]
    value, (_, found) = vjp(in_training(layer), args, np.ones_like(x))
    chosen = drawn(RandomEditing(ERASE, rate=0.5, seed=3), x) == 0
    np.testing.assert_array_equal(value, np.where(chosen & (x > 0), 9, x))
    s = 1 / (1 + np.exp(-x))
    check_close(found, -np.sum(np.where(chosen, (9 - x) * s * (1 - s), 0)), rtol=1e-4)


# --- What is refused ---------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize(
    ("make", "error", "shown"),
    [
        (lambda: RandomEditing(ERASE), OperandError, "one of `count`, `rate` and `block`"),
        (lambda: RandomEditing(ERASE, count=1, rate=0.5), OperandError, "rate=0.5"),
        (lambda: RandomEditing(ERASE, count=-1), OperandError, "not negative"),
        (lambda: RandomEditing(ERASE, count=True), OperandError, "not negative"),
        (lambda: RandomEditing(ERASE, count=1, seed=-1), OperandError, "`seed`"),
        (lambda: RandomEditing(ERASE, rate="0.5"), OperandError, "`rate`"),
        (lambda: RandomEditing(ERASE, count=1, probability=None), OperandError, "`probability`"),
        (lambda: RandomEditing(ERASE, block=8), OperandError, r"block=\(8, 8\)"),
        (lambda: RandomEditing(ERASE, block=((3, 2),)), OperandError, r"\(low, high\)"),
        (lambda: RandomEditing(ERASE, block=((1, 2, 3),)), OperandError, "for each axis"),
        (lambda: RandomEditing(ERASE, block=(2, 2), axes=0), OperandError, "each of `axes`"),
        (lambda: RandomEditing(ERASE, count=1, axes=0.0), OperandError, "ints"),
        (lambda: RandomEditing(ERASE, count=1, when="never"), OperandError, "when"),
        (lambda: RandomEditing(ERASE | ERASE, count=1), OperandError, r"RandomEditing\(sample"),
        (lambda: RandomEditing(sample[0].get(), count=1), OperandError, "one edit"),
        (lambda: RandomEditing(RandomEdit(ERASE, count=1), count=1), OperandError, "one edit"),
        (lambda: RandomEditing(ERASE.on("a"), count=1), OperandError, "one whole tensor"),
        (lambda: RandomEditing(at[0, 2].set(1.0), count=1), CoordinateError, "arbitrary"),
        (lambda: RandomEditing(at[..., 2].set(1.0), count=1), CoordinateError, "Write `sample"),
        (lambda: RandomEditing(sample.where(ops.isnan).set(0.0), count=1), OperandError, "X > 0"),
        (
            lambda: RandomEditing(
                sample.where(X > 0).set(1.0, otherwise=0.0), count=1, gradient="sigmoid"
            ),
            OperandError,
            "otherwise",
        ),
        (lambda: RandomEditing(ERASE, count=7)(keras.Input((2, 3))), ShapeError, "there are, 6"),
        (lambda: RandomEditing(ERASE, block=(4,))(keras.Input((3,))), ShapeError, "there are, 3"),
        (lambda: RandomEditing(ERASE, block=((1, 4),))(keras.Input((3,))), ShapeError, "are, 3"),
        (lambda: RandomEditing(ERASE, block=(1, 1))(keras.Input((3,))), ShapeError, "rank 1"),
        (lambda: RandomEditing(ERASE, count=1, axes=1)(keras.Input((3,))), ShapeError, "rank 1"),
        (
            lambda: RandomEditing(sample[[0, 0]].set(1.0), count=1)(keras.Input((3,))),
            OperandError,
            "names an element twice",
        ),
    ],
)
def test_refuses(make, error, shown):
    with pytest.raises(error, match=f"(?s)Received.*{shown}|{shown}.*Received"):
        make()


@pytest.mark.once
def test_a_random_edit_in_another_layer_shows_this_one():
    with pytest.raises(OperandError, match=r"In a model, write `(RandomEditing.*?)`;") as raised:
        Editing(RandomEdit(ERASE, count=1))
    code = str(raised.value).split("In a model, write `")[1].split("`;")[0]
    layer = eval(code, {"RandomEditing": RandomEditing, "sample": sample})
    assert ((drawn(layer, ones(9, 9)) == 0).sum(axis=(1, 2)) == 64).all()
