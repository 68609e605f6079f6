"""Path patching, the logit lens and direct effects, beside the same model in NumPy."""

import keras
import numpy as np
import pytest
from _backend import to_numpy
from kit import check_close, on_devices

from kedit import sample
from kedit.errors import EditError, OperandError, ShapeError
from kedit.interventions import (
    ablation_study,
    attribution_study,
    capture,
    direct_effect_study,
    edit_model,
    logit_lens_study,
    patching_study,
    path_patching_study,
    site,
)

RNG = np.random.default_rng(0)
CLEAN, CORRUPTED = RNG.normal(size=(2, 3, 4, 5)).astype("float32")
BLOCKS = ("a", "b", "c")
INTO = site("norm", "input")


class Mixing(keras.layers.Layer):
    """A dense layer of each position and the mean of all."""

    def build(self, input_shape):
        """Make the kernel."""
        self.kernel = self.add_weight(shape=(input_shape[-1], input_shape[-1]), name="kernel")

    def call(self, x):
        """Mix, then multiply."""
        return keras.ops.tanh((x + keras.ops.mean(x, axis=1, keepdims=True)) @ self.kernel)


def made():
    """A residual stream to which three blocks write; a norm and a head."""
    keras.utils.set_random_seed(0)
    inputs = stream = keras.Input((4, 5))
    for name in BLOCKS:
        stream = stream + Mixing(name=name)(stream)
    stream = keras.layers.LayerNormalization(name="norm")(stream)
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(stream))


@pytest.fixture(scope="module")
def model():
    return made()


class InNumPy:
    """The same model, in which activations can be overwritten."""

    def __init__(self, model):
        self.kernels = {name: to_numpy(model.get_layer(name).kernel) for name in BLOCKS}
        self.head = [to_numpy(w) for w in model.get_layer("head").weights]

    def run(self, x, written=None):
        """Return all activations."""
        written, seen = written or {}, {}

        def passed(name, x):
            seen[name] = np.array(written.get(name, x))
            return seen[name]

        stream = x
        for name, kernel in self.kernels.items():
            given = passed(f"{name}:input", stream)
            block = np.tanh((given + given.mean(axis=1, keepdims=True)) @ kernel)
            stream = stream + passed(name, block)
        stream = passed("norm:input", stream)
        centred = stream - stream.mean(axis=-1, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-3)
        seen["y"] = normal @ self.head[0] + self.head[1]
        return seen


def last(y):
    return y[:, -1, 1] - y[:, -1, 0]


def each_position(y):
    return y[..., 1] - y[..., 0]


def by_hand(model, sender, position, receivers, frozen):
    """The two runs of path patching, one after the other."""
    plain = InNumPy(model)
    clean, corrupted = plain.run(CLEAN), plain.run(CORRUPTED)
    patch = corrupted[sender].copy()
    patch[:, position] = clean[sender][:, position]
    kept = {name: corrupted[name] for name in frozen if name not in receivers}
    first = plain.run(CORRUPTED, {**kept, sender: patch})
    if not receivers:
        return last(first["y"])
    return last(plain.run(CORRUPTED, {name: first[name] for name in receivers})["y"])


@pytest.mark.parametrize(
    ("receivers", "frozen"),
    [
        (None, None),
        (None, ["b", "c"]),
        (["c:input"], ["b"]),
        (["c"], ["a", "b", "c"]),
        (["b:input", "c:input"], ["a", "b"]),
    ],
    ids=["total", "direct", "through one", "frozen senders and receivers", "through two"],
)
def test_path_patching(model, receivers, frozen):
    as_sites = receivers and [site(*name.split(":")) for name in receivers]
    found = path_patching_study(
        model,
        CLEAN,
        CORRUPTED,
        ["a", "b"] if receivers != ["b:input", "c:input"] else ["a"],
        last,
        receivers=as_sites,
        frozen=frozen,
        batch_size=2,
        verbose=0,
    )
    for row, sender in enumerate(found.sites):
        for position in range(4):
            expected = by_hand(model, sender, position, receivers or [], frozen or [])
            check_close(found.values[row, position], expected, rtol=1e-4)
    plain = InNumPy(model)
    check_close(found.clean, last(plain.run(CLEAN)["y"]), rtol=1e-4)
    check_close(found.corrupted, last(plain.run(CORRUPTED)["y"]), rtol=1e-4)


def test_all_paths_together_are_a_patch(model):
    given = (model, CLEAN, CORRUPTED, ["a", "b"], last)
    found, whole = path_patching_study(*given, verbose=0), patching_study(*given, verbose=0)
    check_close(found.values, whole.values)
    places = [sample[:2], sample[..., 1]]
    found = path_patching_study(*given, positions=places, verbose=0)
    check_close(found.values, patching_study(*given, positions=places, verbose=0).values)
    assert found.positions == ["sample[:2]", "sample[..., 1]"]


def test_paths_of_an_edited_model(model):
    """The edits of the model are there in all runs."""
    edited = edit_model(model, {"b": sample[..., 0].set(0.0)})
    found = path_patching_study(edited, CLEAN, CORRUPTED, "a", last, frozen="b", verbose=0)
    bare = path_patching_study(model, CLEAN, CORRUPTED, "a", last, frozen="b", verbose=0)
    check_close(found.clean, last(edited.predict(CLEAN, verbose=0)))
    assert not np.allclose(found.values, bare.values)


@pytest.mark.parametrize("metric", [last, each_position], ids=["a number", "by position"])
@pytest.mark.parametrize("op", ["set", "subtract"])
def test_what_is_read_out(model, op, metric):
    study = logit_lens_study if op == "set" else direct_effect_study
    found = study(model, CLEAN, list(BLOCKS), INTO, metric, batch_size=2, verbose=0)
    plain = InNumPy(model)
    seen = plain.run(CLEAN)
    values = found.values if op == "set" else found.after
    final = found.final if op == "set" else found.before
    columns = 1 if metric is last else 4
    assert values.shape == (3, columns, 3)
    assert found.positions == (["all"] if metric is last else ["0", "1", "2", "3"])
    check_close(final, metric(seen["y"]).reshape(3, -1).T, rtol=1e-4)
    for row, name in enumerate(found.sites):
        stream = seen[name] if op == "set" else seen["norm:input"] - seen[name]
        expected = metric(plain.run(CLEAN, {"norm:input": stream})["y"]).reshape(3, -1).T
        check_close(values[row], expected, rtol=1e-4, atol=1e-5)
    if op == "subtract":
        check_close(found.effects, final - values)


def test_the_last_of_the_stream_gives_the_predictions(model):
    places = [site(name, "input") for name in ("a", "b", "c", "norm")]
    answers = np.array([0, 1, 1])
    found = logit_lens_study(
        model,
        CLEAN,
        places,
        INTO,
        lambda y, right: y[np.arange(len(y)), :, right],
        targets=answers,
        batch_size=2,
        verbose=0,
    )
    np.testing.assert_array_equal(found.values[-1], found.final)
    check_close(found.final, model.predict(CLEAN, verbose=0)[np.arange(3), :, answers].T)


def test_what_these_studies_refuse(model):
    with pytest.raises(ShapeError, match=r"a pair.*Received: 3 and 2 samples"):
        path_patching_study(model, CLEAN, CORRUPTED[:2], "a", last, verbose=0)
    with pytest.raises(ShapeError, match=r"shape of that at 'norm:input'.*path_patching_study"):
        logit_lens_study(model, CLEAN, "head", INTO, last, verbose=0)
    with pytest.raises(OperandError, match=r"one site.*Received: .'a', 'b'"):
        direct_effect_study(model, CLEAN, "a", ["a", "b"], last, verbose=0)
    with pytest.raises(OperandError, match="number for each prediction"):
        logit_lens_study(model, CLEAN, "a", INTO, lambda y: y, verbose=0)
    inputs = keras.Input((4, 3))
    layer = keras.layers.Rescaling(2.0, name="twice")
    end = keras.layers.Rescaling(1.0, name="end")
    twice = keras.Model(inputs, end(layer(layer(inputs))))
    x = CLEAN[..., :3]
    with pytest.raises(EditError, match=r"one call of a layer.*site\('twice', call=0\)"):
        logit_lens_study(twice, x, "twice", "end", last, verbose=0)
    with pytest.raises(EditError, match=r"one call of a layer.*site\('twice', call=0\)"):
        path_patching_study(twice, x, x, "end", last, receivers="twice", verbose=0)


def test_pictures(model):
    pytest.importorskip("matplotlib")
    found = logit_lens_study(model, CLEAN, list(BLOCKS), INTO, each_position, verbose=0)
    ax = found.plot()
    np.testing.assert_array_equal(ax.images[0].get_array(), found.shown)
    assert "Metric read out" in found._repr_html_()
    found = direct_effect_study(model, CLEAN, list(BLOCKS), INTO, last, verbose=0)
    np.testing.assert_array_equal(found.plot().images[0].get_array(), found.effects.mean(axis=2))


def studied(devices=1):
    """What several studies find, as data."""
    if devices > 1:
        assert len(keras.distribution.list_devices()) == devices
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    model, options = made(), {"batch_size": 8, "verbose": 0}
    pair = (np.tile(CLEAN, (4, 1, 1)), np.tile(CORRUPTED, (4, 1, 1)))
    found = [
        patching_study(model, *pair, ["a", "b"], last, **options).values,
        path_patching_study(model, *pair, "a", last, frozen="b", **options).values,
        attribution_study(model, *pair, ["a", "b"], last, **options).effects,
        ablation_study(model, pair[0], "b", last, **options).after,
        logit_lens_study(model, pair[0], ["a", "b"], INTO, last, **options).values,
    ]
    return [array.tolist() for array in found]


@pytest.mark.once
def test_eight_devices_find_what_one_does():
    """Under `keras.distribution.DataParallel`, in a process of its own."""
    for found, expected in zip(
        on_devices("test_path_studies", "studied", 8), studied(), strict=True
    ):
        check_close(found, expected, rtol=1e-4)


class Logging(keras.layers.Layer):
    """Notes that it was called."""

    calls = 0

    def call(self, x):
        """Hand on."""
        Logging.calls += 1
        return x


def test_capture_computes_no_further_than_it_reads():
    inputs = keras.Input((2,))
    hidden = keras.layers.Rescaling(3.0, name="h")(inputs)
    base = keras.Model(inputs, Logging(name="later")(hidden))
    x = np.ones((2, 2), "float32")
    acts, whole = capture(base, "h"), capture(base, ["h", "later"])
    Logging.calls = 0
    check_close(acts.predict(x, verbose=0)["h"], 3 * x)
    assert Logging.calls == 0
    check_close(whole.predict(x, verbose=0)["later"], 3 * x)
    assert Logging.calls > 0
    check_close(base.predict(x, verbose=0), 3 * x)


@pytest.mark.parametrize("edited_at", ["h", "later"])
def test_capture_stops_inside_an_edited_model_that_is_a_layer(edited_at):
    """It stops the run of the whole, not that of the layer, which would go on without a value."""
    layers = [keras.layers.Rescaling(3.0, name="h"), keras.layers.Rescaling(5.0, name="later")]
    base = keras.Sequential([keras.Input((2,)), *layers])
    edited = edit_model(base, {edited_at: sample[0].set(0.0)}, name="edited")
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Rescaling(7.0)(edited(inputs)))
    found = capture(model, "edited/base/h").predict(np.ones((1, 2)), verbose=0)
    check_close(found["edited/base/h"], [[0.0 if edited_at == "h" else 3.0, 3.0]])


def test_capture_of_a_model_that_takes_more_than_it_was_built_for():
    """Then a layer may be called more often, and the run does not stop at its first call."""
    model = Optional()
    one, other = np.ones((2, 2, 3), "float32")
    model({"a": one})
    acts = capture(model, "h")
    assert sorted(acts.predict({"a": one}, verbose=0)) == ["h"]
    found = acts.predict({"a": one, "b": 2 * other}, verbose=0)
    assert sorted(found) == ["h", "h#1"]
    check_close(found["h#1"], 6 * other)


@pytest.mark.parametrize("built", [1, 2])
def test_capture_of_a_model_that_calls_a_layer_for_each_position(built):
    model = Stepping()
    model(np.ones((2, built, 3)))
    acts = capture(model, "h")
    for length in (3, 1):
        found = acts(np.ones((2, length, 3), "float32"))  # TensorFlow compiles for any length
        assert sorted(found) == ["h", "h#1", "h#2"][:length]


class Optional(keras.Model):
    """Calls a layer for each input that it is given."""

    def __init__(self):
        super().__init__()
        self.h = keras.layers.Rescaling(3.0, name="h")

    def call(self, inputs):
        """Add what the layer makes of each."""
        return sum([self.h(inputs[name]) for name in sorted(inputs)])


class Stepping(Optional):
    """Calls a layer for each position."""

    def call(self, inputs):
        """Add what the layer makes of each."""
        return sum([self.h(inputs[:, step]) for step in range(inputs.shape[1])])
