"""Patching and ablation studies, beside loops of one edit each, and their example."""

import runpy
from pathlib import Path

import keras
import numpy as np
import pytest
from kit import check_close

from kedit import sample
from kedit.errors import EditError, ShapeError
from kedit.interventions import (
    OtherRun,
    ablation_study,
    capture,
    edit_model,
    patching_study,
    site,
)

RNG = np.random.default_rng(0)
CLEAN, CORRUPTED = RNG.normal(size=(2, 3, 4, 5)).astype("float32")


class Counting(keras.layers.Layer):
    """Counts how often it is traced; mixes positions."""

    traces = 0

    def call(self, x):
        """Add to each position the mean of all."""
        Counting.traces += 1
        return x + keras.ops.mean(x, axis=1, keepdims=True)

    def compute_output_shape(self, input_shape):
        return input_shape


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 5))
    x = keras.layers.Dense(6, activation="relu", name="first")(inputs)
    x = keras.layers.Dense(6, activation="tanh", name="second")(Counting(name="mix")(x))
    return keras.Model(inputs, keras.layers.Dense(2)(x[:, -1]))


def metric(outputs):
    return outputs[:, 1] - outputs[:, 0]


def value(edited, *inputs):
    given = dict(zip(("inputs", "other"), inputs, strict=True)) if len(inputs) > 1 else inputs[0]
    return metric(edited.predict(given, verbose=0))


def test_patching_study(model):
    """Each point is a patch alone; and what recovers all or nothing is known."""
    found = patching_study(model, CLEAN, CORRUPTED, ["first", "second"], metric, verbose=0)
    assert found.sites == ["first", "second"]
    assert found.positions == ["0", "1", "2", "3"]
    assert found.values.shape == (2, 4, 3)
    for row, name in enumerate(found.sites):
        for position in range(4):
            alone = edit_model(model, {name: sample[position].set(OtherRun())})
            check_close(found.values[row, position], value(alone, CORRUPTED, CLEAN))
    check_close(found.clean, value(model, CLEAN))
    check_close(found.corrupted, value(model, CORRUPTED))
    check_close(found.recovered[1], [0, 0, 0, 1])  # only the last position is read


def test_positions_of_a_patching_study(model):
    places = [sample[:2], sample[..., 1], sample[...]]
    found = patching_study(
        model, CLEAN, CORRUPTED, "first", metric, positions=places, batch_size=2, verbose=0
    )
    assert found.positions == ["sample[:2]", "sample[..., 1]", "sample[...]"]
    for number, edit in enumerate([place.set(OtherRun()) for place in places]):
        alone = edit_model(model, {"first": edit})
        check_close(found.values[0, number], value(alone, CORRUPTED, CLEAN))
    check_close(found.recovered[0, 2], 1.0)
    whole = patching_study(model, CLEAN, CORRUPTED, site("mix", "input"), metric, verbose=0)
    assert whole.sites == ["mix:input"]


def test_one_trace_for_a_study(model):
    """A compiler sees the model once, however many points there are."""
    fewest = patching_study(
        model, CLEAN, CORRUPTED, "first", metric, positions=[sample[0]], batch_size=3, verbose=0
    )
    assert fewest.values.shape == (1, 1, 3)
    counts = []
    for positions in ([sample[0], sample[1]], [sample[n % 4] for n in range(24)]):
        before = Counting.traces
        patching_study(
            model,
            CLEAN,
            CORRUPTED,
            "first",
            metric,
            positions=positions,
            batch_size=6,
            verbose=0,
        )
        counts.append(Counting.traces - before)
    if _is_traced(model):
        assert counts[0] == counts[1]


def _is_traced(model):
    """Whether `predict` traces the layers, so that a second one does not call them."""
    model.predict(CLEAN, verbose=0)
    before = Counting.traces
    model.predict(CLEAN, verbose=0)
    return Counting.traces == before


@pytest.mark.parametrize("baseline", [0.0, 2.5, "mean"])
def test_ablation_study(model, baseline):
    found = ablation_study(model, CLEAN, ["second", "first"], metric, baseline=baseline, verbose=0)
    assert found.units[:2] == ["second[0]", "second[1]"]
    assert found.units[-1] == "first[5]"
    assert found.after.shape == (12, 3)
    check_close(found.before, value(model, CLEAN))
    activations = capture(model, ["second", "first"]).predict(CLEAN, verbose=0)
    for number, (name, unit) in enumerate([("second", 0), ("first", 3)]):
        written = activations[name][..., unit].mean(axis=0) if baseline == "mean" else baseline
        alone = edit_model(model, {name: sample[..., unit].set(written)})
        check_close(found.after[number * 9 + 0], value(alone, CLEAN))
    groups = found.by_group([1, 0, 1])
    check_close(groups[0], found.effects[:, 1])
    check_close(groups[1], found.effects[:, [0, 2]].mean(axis=1))


def test_units_of_images():
    """A channel is ablated everywhere, even where the batch is as long as an image is wide."""
    model = keras.Sequential(
        [keras.Input((3, 3, 2)), keras.layers.Rescaling(2.0, name="h"), keras.layers.Flatten()]
    )
    x = RNG.normal(size=(3, 3, 3, 2)).astype("float32")
    found = ablation_study(model, x, "h", lambda y: abs(y).sum(axis=1), verbose=0)
    check_close(found.effects[0], 2 * abs(x[..., 0]).sum(axis=(1, 2)), rtol=1e-4)


def test_what_a_study_refuses(model):
    wide = keras.Sequential([keras.Input((4, 5)), keras.layers.Dense(3, name="a")])
    wide.add(keras.layers.Flatten(name="b"))
    with pytest.raises(ShapeError, match="equally many positions"):
        patching_study(wide, CLEAN, CORRUPTED, ["a", "b"], metric, verbose=0)
    with pytest.raises(EditError, match="one number for each"):
        patching_study(model, CLEAN, CORRUPTED, "first", lambda y: y, verbose=0)
    with pytest.raises(EditError, match="'mean'"):
        ablation_study(model, CLEAN, "first", metric, baseline="median", verbose=0)
    with pytest.raises(EditError, match="each of 3 samples"):
        ablation_study(model, CLEAN, "first", metric, verbose=0).by_group([0, 1])


def test_plots(model):
    pytest.importorskip("matplotlib")
    found = patching_study(model, CLEAN, CORRUPTED, ["first", "second"], metric, verbose=0)
    ax = found.plot()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["first", "second"]
    np.testing.assert_array_equal(ax.images[0].get_array(), found.recovered)
    found = ablation_study(model, CLEAN, "first", metric, verbose=0)
    ax = found.plot([0, 1, 1])
    np.testing.assert_array_equal(ax.images[0].get_array(), found.by_group([0, 1, 1]))


@pytest.mark.once
@pytest.mark.gradient
def test_example_draws_its_pictures(tmp_path, capsys):
    path = Path(__file__).parent.parent / "examples" / "inside_a_model.py"
    options = ["--epochs", "2", "--steps", "4", "--to", str(tmp_path)]
    found = runpy.run_path(str(path))["main"](options)
    assert "matters most" in capsys.readouterr().out
    check_close(found["recovered"][0], [1, 0, 0, 0, 0, 0, 0, 0], rtol=1e-4, atol=1e-4)
    assert found["threes"][8] > found["threes"][4] + 0.3
    pictures = sorted(tmp_path.glob("*.png"))
    names = ["inside_ablation.png", "inside_patching.png", "inside_steering.png"]
    assert [picture.name for picture in pictures] == names
    assert all(picture.stat().st_size > 5000 for picture in pictures)
    assert all((path.parent / picture.name).exists() for picture in pictures)
