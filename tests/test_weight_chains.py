"""Edits of weights within one another: what is reported, baked and predicted is the same."""

import keras
import numpy as np
import pytest
from _backend import to_numpy
from kit import check_close, in_full_once, saved_and_loaded

from kedit import Trainable, X, at, sample
from kedit.constraints import EditConstraint
from kedit.errors import OperandError
from kedit.interventions import WeightEditing, edit_model, freeze_elements, prune

RNG = np.random.default_rng(0)
INPUT = RNG.normal(size=(16, 6)).astype("float32")
TARGET = RNG.normal(size=(16, 2)).astype("float32")
MASK = RNG.random((6, 8)) < 0.4
WEIGHTS = {
    "first/kernel": RNG.normal(size=(6, 8)).astype("float32"),
    "first/bias": RNG.normal(size=8).astype("float32"),
    "second/kernel": RNG.normal(size=(8, 4)).astype("float32"),
    "second/bias": RNG.normal(size=4).astype("float32"),
    "last/kernel": RNG.normal(size=(4, 2)).astype("float32"),
    "last/bias": RNG.normal(size=2).astype("float32"),
}
FIRST, SECOND, LAST = (f"{name}/kernel" for name in ("first", "second", "last"))


def layers(**options):
    """Three layers, one on top of the other, with the weights above."""
    first = keras.layers.Dense(8, activation="tanh", name="first", **options)
    second = keras.layers.Dense(4, activation="tanh", name="second")
    last = keras.layers.Dense(2, name="last")
    for layer, size in ((first, 6), (second, 8), (last, 4)):
        layer.build((None, size))
        layer.set_weights([WEIGHTS[f"{layer.name}/{name}"] for name in ("kernel", "bias")])
    return first, second, last


def plain(*given):
    return keras.Sequential([keras.Input((6,)), *(given or layers())])


@keras.saving.register_keras_serializable("test_weight_chains")
class Subclassed(keras.Model):
    """Holds its layers in a list and a dict."""

    def __init__(self, *given, **options):
        super().__init__(**options)
        self.ends, self.middle = [given[0], given[2]], {"second": given[1]}

    def call(self, inputs):
        return self.ends[1](self.middle["second"](self.ends[0](inputs)))

    def get_config(self):
        given = [self.ends[0], self.middle["second"], self.ends[1]]
        layers = [keras.saving.serialize_keras_object(layer) for layer in given]
        return {**super().get_config(), "layers": layers}

    @classmethod
    def from_config(cls, config):
        layers = [keras.saving.deserialize_keras_object(one) for one in config.pop("layers")]
        return cls(*layers, **config)


def subclassed(*given):
    model = Subclassed(*given)
    model(INPUT[:1])
    return model


def functional(first, second, last):
    inputs = keras.Input((6,))
    inner = keras.Sequential([keras.Input((8,)), second], name="inner")
    return keras.Model(inputs, last(inner(first(inputs))))


def pruned(weight, sparsity):
    """The weight, with those of its elements that are least in magnitude at 0."""
    least = np.argsort(np.abs(weight), axis=None, kind="stable")[: round(sparsity * weight.size)]
    weight = weight.copy()
    weight.ravel()[least] = 0
    return weight


def masked(weight, mask, value):
    return np.where(mask, np.asarray(value, "float32"), weight)


def nested_twice():
    """Edited layers inside of an edited model, which is a layer of one that is edited."""
    first, second, last = layers()
    inner = keras.Sequential(
        [keras.Input((6,)), freeze_elements(first, "kernel", MASK, 0.5), second], name="inner"
    )
    inner = WeightEditing(inner, {FIRST: at[0].multiply(2.0), SECOND: at[0].set(0.25)})
    model = keras.Sequential([keras.Input((6,)), inner, prune(last, "kernel", 0.5)])
    return WeightEditing(model, {FIRST: at[:, 0].add(1.0), LAST: at[0].set(3.0)})


def expected_of_nested_twice(w):
    first = masked(w[FIRST], MASK, 0.5)
    first[0] *= 2
    first[:, 0] += 1
    second, last = w[SECOND].copy(), pruned(w[LAST], 0.5)
    second[0], last[0] = 0.25, 3
    return {FIRST: first, SECOND: second, LAST: last}


def in_a(make):
    """A model that `make` makes of an edited layer and two others, and edits of all of it."""
    first, second, last = layers()
    model = make(freeze_elements(first, "kernel", MASK, 0.5), second, last)
    return prune(prune(model, FIRST, 0.25), SECOND, 0.5)


def expected_in_a_model(w):
    return {FIRST: pruned(masked(w[FIRST], MASK, 0.5), 0.25), SECOND: pruned(w[SECOND], 0.5)}


ROW = np.arange(6)[:, None] == np.zeros(8)
CHAINS = {
    "one edit": (
        lambda: prune(plain(), FIRST, 0.5),
        lambda w: {FIRST: pruned(w[FIRST], 0.5)},
    ),
    "two weights": (
        lambda: prune(prune(plain(), FIRST, 0.5), SECOND, 0.25),
        lambda w: {FIRST: pruned(w[FIRST], 0.5), SECOND: pruned(w[SECOND], 0.25)},
    ),
    "three weights": (
        lambda: prune(freeze_elements(prune(plain(), FIRST, 0.5), SECOND, 0), LAST, 0.5),
        lambda w: {FIRST: pruned(w[FIRST], 0.5), LAST: pruned(w[LAST], 0.5)},
    ),
    "pruned further": (
        lambda: prune(prune(prune(plain(), FIRST, 0.25), FIRST, 0.5), FIRST, 0.75),
        lambda w: {FIRST: pruned(w[FIRST], 0.75)},
    ),
    "pruned, and less": (
        lambda: prune(prune(plain(), FIRST, 0.75), FIRST, 0.25),
        lambda w: {FIRST: pruned(w[FIRST], 0.75)},
    ),
    "frozen, then pruned": (
        lambda: prune(freeze_elements(plain(), FIRST, MASK, 9.0), FIRST, 0.5),
        lambda w: {FIRST: pruned(masked(w[FIRST], MASK, 9.0), 0.5)},
    ),
    "frozen at nearly 0, then pruned": (
        lambda: prune(freeze_elements(plain(), FIRST, MASK, 1e-9), FIRST, 0.25),
        lambda w: {FIRST: pruned(masked(w[FIRST], MASK, 1e-9), 0.25)},
    ),
    "pruned, then frozen": (
        lambda: freeze_elements(prune(plain(), FIRST, 0.5), FIRST, MASK),
        lambda w: {FIRST: pruned(w[FIRST], 0.5)},
    ),
    "pruned, then a row frozen": (
        lambda: freeze_elements(prune(plain(), FIRST, 0.5), FIRST, 0),
        lambda w: {FIRST: pruned(w[FIRST], 0.5)},
    ),
    "frozen, and elsewhere": (
        lambda: freeze_elements(freeze_elements(plain(), FIRST, MASK, 1.0), FIRST, 0, 2.0),
        lambda w: {FIRST: masked(masked(w[FIRST], MASK, 1.0), ROW, 2.0)},
    ),
    "set, then added to": (
        lambda: WeightEditing(
            WeightEditing(plain(), {FIRST: at[0].set(1.0)}), {FIRST: at[:, 0].add(1.0)}
        ),
        lambda w: {FIRST: masked(w[FIRST], ROW, 1.0) + (np.arange(8) == 0)},
    ),
    "added to, then set by a condition": (
        lambda: WeightEditing(
            WeightEditing(
                plain(), {FIRST: at.where(X > -9.0).add(1.0), "first/bias": at[0].set(7)}
            ),
            {FIRST: at.where(X > 1.0).set(X * 0.5), "first/bias": at[0].multiply(2.0)},
        ),
        lambda w: {
            FIRST: np.where(w[FIRST] + 1 > 1, (w[FIRST] + 1) / 2, w[FIRST] + 1),
            "first/bias": masked(w["first/bias"], np.arange(8) == 0, 14.0),
        },
    ),
    "in a Sequential": (lambda: in_a(plain), expected_in_a_model),
    "in a functional model": (lambda: in_a(functional), expected_in_a_model),
    "in a subclassed model": (lambda: in_a(subclassed), expected_in_a_model),
    "in models in models": (nested_twice, expected_of_nested_twice),
    "around an edited model": (
        lambda: prune(
            edit_model(prune(plain(), FIRST, 0.5), {"base/second": at[..., 0].add(0.0)}, "all"),
            FIRST,
            0.75,
        ),
        lambda w: {FIRST: pruned(w[FIRST], 0.75)},
    ),
    "over a constraint": (
        lambda: prune(
            prune(plain(*layers(kernel_constraint=EditConstraint(at[0].set(0.5)))), FIRST, 0.25),
            SECOND,
            0.5,
        ),
        lambda w: {FIRST: pruned(w[FIRST], 0.25), SECOND: pruned(w[SECOND], 0.5)},
    ),
}
LEAVE_SOME_FREE = ("set, then added to", "added to, then set by a condition", "in models in models")
"""Those of which the edits change elements that they do not hold."""
every_chain = pytest.mark.parametrize(
    "name",
    in_full_once(
        CHAINS, ("pruned further", "frozen, then pruned", "in models in models", *LEAVE_SOME_FREE)
    ),
)


def reported(model):
    return {name: to_numpy(model.weight(name)).copy() for name in WEIGHTS}


def check_agrees(model, tmp_path):
    """Check that what a model reports, predicts, saves and bakes is the same. It is baked then."""
    weights, predicted = reported(model), model.predict(INPUT, verbose=0)
    reference = plain()
    reference.set_weights(list(weights.values()))
    check_close(reference.predict(INPUT, verbose=0), predicted)
    check_close(model(INPUT), predicted)
    stored = [w.copy() for w in model.get_weights()]
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    for found, expected in zip(loaded.get_weights(), stored, strict=True):
        np.testing.assert_array_equal(found, expected)
    model.set_weights(stored)
    for one in (model, loaded):
        for name, found in reported(one).items():
            np.testing.assert_array_equal(found, weights[name])
        check_close(one.predict(INPUT, verbose=0), predicted)
    for one in (loaded, model):
        baked = one.bake()
        assert not isinstance(baked, WeightEditing)
        for name, expected in weights.items():
            (found,) = [w for w in baked.weights if f"/{w.path}".endswith(f"/{name}")]
            np.testing.assert_array_equal(to_numpy(found), expected)
        check_close(baked.predict(INPUT, verbose=0), predicted)
        again = saved_and_loaded(baked, tmp_path / "baked.keras")
        check_close(again.predict(INPUT, verbose=0), predicted)


@every_chain
def test_what_is_reported_predicted_saved_and_baked_agrees(name, tmp_path):
    make, in_numpy = CHAINS[name]
    model = make()
    for weight, expected in {**WEIGHTS, **in_numpy(WEIGHTS)}.items():
        np.testing.assert_allclose(to_numpy(model.weight(weight)), expected, rtol=1e-6)
    check_agrees(model, tmp_path)


def held_by(model):
    """Which elements of what a model reports stay as they are when what is stored changes."""
    before, stored = reported(model), [w.copy() for w in model.get_weights()]
    model.set_weights([w + np.float32(0.125) for w in stored])
    held = {name: found == before[name] for name, found in reported(model).items()}
    model.set_weights(stored)
    return held


@pytest.mark.gradient
@every_chain
def test_it_agrees_after_a_step_which_moves_no_held_element_by_a_bit(name, tmp_path):
    make, in_numpy = CHAINS[name]
    model = make()
    held, before = held_by(model), reported(model)
    for weight, expected in in_numpy(WEIGHTS).items():
        if name not in LEAVE_SOME_FREE:
            assert held[weight][expected != WEIGHTS[weight]].all()
        assert weight.endswith("bias") or not held[weight].all()
    model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.1), "mse")
    model.fit(INPUT, TARGET, 16, verbose=0)
    for weight, after in reported(model).items():
        moved = after != before[weight]
        assert not moved[held[weight]].any()
        assert moved[~held[weight]].mean() > 0.9
    check_agrees(model, tmp_path)


def sharing(edit_again):
    """A model that adds what a layer gives to what it gives when it is edited."""
    first, *_ = layers()
    held = freeze_elements(first, "kernel", MASK, 0.5)
    other = freeze_elements(first, "kernel", MASK, 0.5) if edit_again else first
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.add([held(inputs), other(inputs), held(inputs)]))
    return WeightEditing(model, {FIRST: at[:, 0].multiply(2.0), "first/bias": at[1].set(0.0)})


def test_layers_that_share_a_weight_and_edit_it_alike():
    model = sharing(edit_again=True)
    kernel = masked(WEIGHTS[FIRST], MASK, 0.5)
    kernel[:, 0] *= 2
    bias = masked(WEIGHTS["first/bias"], np.arange(8) == 1, 0.0)
    np.testing.assert_array_equal(to_numpy(model.weight(FIRST)), kernel)
    expected = 3 * np.tanh(INPUT @ kernel + bias)
    check_close(model.predict(INPUT, verbose=0), expected)
    check_close(model.bake().predict(INPUT, verbose=0), expected)


def test_a_weight_of_which_a_model_computes_with_two_versions():
    """It predicts with both, and there is none to report, to bake or to prune."""
    model = sharing(edit_again=False)
    kernels = [masked(WEIGHTS[FIRST], MASK, 0.5), WEIGHTS[FIRST].copy()]
    bias = masked(WEIGHTS["first/bias"], np.arange(8) == 1, 0.0)
    for kernel in kernels:
        kernel[:, 0] *= 2
    held, plain = [np.tanh(INPUT @ kernel + bias) for kernel in kernels]
    check_close(model.predict(INPUT, verbose=0), 2 * held + plain)
    np.testing.assert_array_equal(to_numpy(model.weight("first/bias")), bias)
    for refused in (
        lambda: model.weight(FIRST),
        model.bake,
        lambda: prune(model, FIRST, 0.5),
        lambda: freeze_elements(model, FIRST, 0),
    ):
        with pytest.raises(OperandError, match="Received: 'first/kernel'"):
            refused()
    check_close(model.predict(INPUT, verbose=0), 2 * held + plain)
    frozen = freeze_elements(model, FIRST, ..., 0.25)  # which needs no version
    both = 3 * np.tanh(INPUT @ np.full((6, 8), 0.25) + bias)
    check_close(frozen.predict(INPUT, verbose=0), both)


@pytest.mark.gradient
def test_two_models_of_one_edit_each_train_as_one_of_two():
    """With moving averages, which are edited too, losses of layers and random numbers."""
    edits = {
        "first/kernel": at.where(MASK).set(0.5),
        "norm/moving_mean": at[0].set(0.25),
        "norm/gamma": at[1].set(2.0),
    }
    found = []
    for split in ([edits], [{}, edits, {}], [{name: edit} for name, edit in edits.items()]):
        keras.utils.set_random_seed(0)
        first, second, last = layers(activity_regularizer="l2", kernel_regularizer="l2")
        norm = keras.layers.BatchNormalization(name="norm")
        drop = keras.layers.Dropout(0.25, seed=3)
        model = keras.Sequential([keras.Input((6,)), first, norm, drop, second, last])
        for some in split:
            model = WeightEditing(model, some)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.5), "mse")
        losses = model.fit(INPUT, TARGET, 4, 3, shuffle=False, verbose=0).history["loss"]
        found.append([np.array(losses), model.predict(INPUT, verbose=0), *model.get_weights()])
    for other in found[1:]:
        for one, expected in zip(other, found[0], strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)


def test_an_edited_layer_can_be_edited_on_top_of_edited_weights(tmp_path):
    """As the address of a layer inside: what is edited is what the chain computes."""
    chain = prune(prune(plain(), FIRST, 0.5), LAST, 0.5)
    kernels = {name: to_numpy(chain.weight(name)) for name in (FIRST, SECOND, LAST)}
    model = edit_model(chain, {"base/second": sample[1].set(2.0)})
    h = np.tanh(INPUT @ kernels[FIRST] + WEIGHTS["first/bias"])
    h = np.tanh(h @ kernels[SECOND] + WEIGHTS["second/bias"])
    h[:, 1] = 2
    expected = h @ kernels[LAST] + WEIGHTS["last/bias"]
    check_close(model.predict(INPUT, verbose=0), expected)
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    check_close(loaded.predict(INPUT, verbose=0), expected)
    prune_too = prune(model, SECOND, 0.5)
    np.testing.assert_array_equal(to_numpy(prune_too.weight(FIRST)), kernels[FIRST])
    np.testing.assert_array_equal(to_numpy(prune_too.weight(SECOND)), pruned(kernels[SECOND], 0.5))


@pytest.mark.gradient
def test_an_edit_of_an_activation_learns_on_top_of_edited_weights(tmp_path):
    """As it does on top of a model that has been baked, in the same steps."""
    found = []
    for finish in (lambda model: model, WeightEditing.bake):
        base = finish(prune(prune(plain(), FIRST, 0.5), LAST, 0.5))
        address = "second" if found else "base/second"
        edit = sample[1].set(Trainable(2.0)) | sample[2:].add(Trainable("zeros"))
        model = edit_model(base, {address: edit}, "edits")
        model.compile(keras.optimizers.SGD(0.1), "mse")
        losses = model.fit(INPUT, TARGET, 4, 3, shuffle=False, verbose=0).history["loss"]
        assert losses[-1] < losses[0]
        loaded = saved_and_loaded(model, tmp_path / "model.keras")
        check_close(loaded.predict(INPUT, verbose=0), model.predict(INPUT, verbose=0))
        found.append([np.array(losses), *map(to_numpy, model.values(address))])
    for on_top, of_baked in zip(*found, strict=True):
        np.testing.assert_allclose(on_top, of_baked, rtol=1e-5)


def test_a_baked_model_computes_the_same_though_it_was_run_before():
    """Its compiled functions, and those of models inside, do not keep the edits."""
    first, second, last = layers()
    inner = plain(WeightEditing(first, {"kernel": at[0].add(1.0)}), second, last)
    model = WeightEditing(inner, {FIRST: at[0].add(1.0)})
    expected = model.predict(INPUT, verbose=0)
    assert np.abs(inner.predict(INPUT, verbose=0) - expected).max() > 1e-3
    baked = model.bake()
    assert baked is inner
    check_close(inner.predict(INPUT, verbose=0), expected)
