"""Patching and ablation studies, beside loops of one edit each, and their example."""

import runpy
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from _backend import to_numpy
from kit import check_close

from kedit import sample
from kedit.errors import EditError, ShapeError
from kedit.interventions import (
    OtherRun,
    ablation_study,
    attribution_study,
    capture,
    direct_effect_study,
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


@pytest.mark.gradient
def test_attribution_study_in_closed_form(model):
    """The gradient by NumPy, of the last layers and the mean, times the difference."""
    names = ["first", "second"]
    found = attribution_study(model, CLEAN, CORRUPTED, names, metric, batch_size=2, verbose=0)
    assert (found.sites, found.positions) == (names, ["0", "1", "2", "3"])
    check_close(found.clean, value(model, CLEAN))
    check_close(found.corrupted, value(model, CORRUPTED))
    now, then = [capture(model, names).predict(x, verbose=0) for x in (CORRUPTED, CLEAN)]
    second, last = [to_numpy(layer.kernel) for layer in model.layers[-2:]]
    at_second = np.zeros((3, 4, 6))
    at_second[:, -1] = last[:, 1] - last[:, 0]
    mixed = (at_second * (1 - now["second"] ** 2)) @ second.T
    at_first = mixed + mixed.mean(axis=1, keepdims=True)
    for row, (name, slopes) in enumerate((("first", at_first), ("second", at_second))):
        expected = (slopes * (then[name] - now[name])).sum(axis=2).T
        check_close(found.effects[row], expected, rtol=1e-4)
    patching = patching_study(model, CLEAN, CORRUPTED, names, metric, verbose=0)
    check_close(found.effects[1], patching.effects[1], rtol=1e-4)  # linear from there on
    pairs = [np.ravel(study.recovered) for study in (found, patching)]
    check_close(found.correlation(patching), np.corrcoef(*pairs)[0, 1])


def right(outputs, targets):
    """The score of the right answer."""
    return keras.ops.take_along_axis(outputs, targets[:, None], axis=1)[:, 0]


@pytest.mark.gradient
def test_targets_go_with_their_samples_in_batches(model):
    answers = np.array([1, 0, 0])
    given = (model, CLEAN, CORRUPTED, "second")
    found = attribution_study(*given, right, targets=answers, batch_size=2, verbose=0)
    for sample_, answer in enumerate(answers):
        alone = attribution_study(
            *given, lambda y, answer=answer: y[:, answer], batch_size=3, verbose=0
        )
        check_close(found.effects[..., sample_], alone.effects[..., sample_], rtol=1e-4)
        check_close(found.clean[sample_], alone.clean[sample_])


def test_targets_of_patches_and_ablations(model):
    answers = np.array([1, 0, 0])
    by_hand = lambda y: y.reshape(-1, 3, 2)[:, np.arange(3), answers].reshape(-1)  # noqa: E731
    given = (model, CLEAN, CORRUPTED, "first")
    found, expected = [
        patching_study(*given, one, targets=targets, batch_size=2, verbose=0)
        for one, targets in ((right, answers), (by_hand, None))
    ]
    check_close(found.values, expected.values)
    check_close(found.effects, expected.values - expected.corrupted)
    found = ablation_study(model, CLEAN, "first", right, targets=answers, verbose=0)
    check_close(found.after, ablation_study(model, CLEAN, "first", by_hand, verbose=0).after)
    with pytest.raises(ShapeError, match="entry for each of 3 samples"):
        ablation_study(model, CLEAN, "first", right, targets=answers[:2], verbose=0)


@pytest.mark.gradient
def test_attributions_of_places_and_of_a_layer_that_is_called_twice():
    inputs = keras.Input((4, 3))
    layer = keras.layers.Rescaling(2.0, name="twice")
    model = keras.Model(inputs, keras.ops.sum(layer(layer(inputs) + 1.0), axis=1))
    clean, corrupted = CLEAN[..., :3], CORRUPTED[..., :3]
    places = [sample[..., 1], sample[:2, 0], sample[3]]
    found = attribution_study(
        model, clean, corrupted, "twice", lambda y: y[:, 1], positions=places, verbose=0
    )
    assert found.positions == ["sample[..., 1]", "sample[:2, 0]", "sample[3]"]
    change = 4 * (clean - corrupted)[..., 1]  # of each call, as the first passes it on
    expected = [2 * change.sum(axis=1), 0 * change[:, 0], 2 * change[:, 3]]
    check_close(found.effects[0], expected, rtol=1e-4)
    named = ["twice", site("twice", call=0), "twic*"]
    again = attribution_study(
        model, clean, corrupted, named, lambda y: y[:, 1], positions=places, verbose=0
    )
    assert again.sites == ["twice", "twice#0"]
    check_close(again.effects[0], expected, rtol=1e-4)
    check_close(again.effects[1], found.effects[0] / 2, rtol=1e-4)


@pytest.mark.gradient
def test_what_an_attribution_study_refuses(model):
    with pytest.raises(EditError, match="one number for each"):
        attribution_study(model, CLEAN, CORRUPTED, "first", lambda y: y, verbose=0)
    found = attribution_study(model, CLEAN, CORRUPTED, "first", metric, verbose=0)
    other = patching_study(model, CLEAN, CORRUPTED, "second", metric, verbose=0)
    with pytest.raises(EditError, match=r"same sites and positions.*Give `patching_study`"):
        found.correlation(other)
    flat = replace(found, effects=np.zeros_like(found.effects))
    same = patching_study(model, CLEAN, CORRUPTED, "first", metric, verbose=0)
    assert np.isnan(flat.correlation(same))


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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_mean_of_many_activations_of_half_precision(dtype):
    """A sum in half precision no longer grows: the mean of 5000 twos came out as 0.1."""
    layers = [keras.layers.Rescaling(2.0, name="h", dtype=dtype), keras.layers.Rescaling(1.0)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    x = np.ones((5000, 2), "float32")
    found = ablation_study(model, x, "h", lambda y: y[:, 0], baseline="mean", verbose=0)
    np.testing.assert_array_equal(found.after, np.full((2, 5000), 2.0))


def test_studies_of_models_of_half_precision():
    """A metric is given arrays whose dtypes NumPy has, and computes with."""
    layers = [keras.layers.Rescaling(s, name=f"h_{s}", dtype="bfloat16") for s in (2, 3)]
    model = keras.Sequential([keras.Input((2, 1)), *layers, keras.layers.Flatten(dtype="bfloat16")])
    seen = []

    def first(y):
        seen.append(np.asarray(y).dtype.name)
        return y[:, 0]

    clean, corrupted = np.ones((600, 2, 1)), np.zeros((600, 2, 1))
    found = patching_study(model, clean, corrupted, "h_2", first, verbose=0)
    assert found.recovered.tolist() == [[1.0, 0.0]]
    assert found.clean.mean() == 6.0
    found = ablation_study(model, clean, "h_2", first, axis=1, verbose=0)
    assert found.effects.mean(axis=1).tolist() == [6.0, 0.0]
    into = site("h_3", "input")
    found = direct_effect_study(model, clean, "h_2", into, first, verbose=0)
    assert found.shown.tolist() == [[6.0]]
    assert set(seen) == {"float32"}


def test_units_of_images():
    """A channel is ablated everywhere, even where the batch is as long as an image is wide."""
    model = keras.Sequential(
        [keras.Input((3, 3, 2)), keras.layers.Rescaling(2.0, name="h"), keras.layers.Flatten()]
    )
    x = RNG.normal(size=(3, 3, 3, 2)).astype("float32")
    found = ablation_study(model, x, "h", lambda y: abs(y).sum(axis=1), verbose=0)
    check_close(found.effects[0], 2 * abs(x[..., 0]).sum(axis=(1, 2)), rtol=1e-4)


def test_units_and_positions_on_another_axis(model):
    """Positions are units, and channels are patched."""
    found = ablation_study(model, CLEAN, ["first", "second"], metric, axis=1, verbose=0)
    assert found.units[2:5] == ["first[2]", "first[3]", "second[0]"]
    alone = edit_model(model, {"first": sample[2].set(0.0)})
    check_close(found.after[2], value(alone, CLEAN))
    assert found.sites == ["first", "second"]
    check_close(found.by_site()[1, 3], found.effects[7].mean())
    found = patching_study(model, CLEAN, CORRUPTED, "first", metric, axis=-1, verbose=0)
    assert found.positions == ["0", "1", "2", "3", "4", "5"]
    alone = edit_model(model, {"first": sample[..., 4].set(OtherRun())})
    check_close(found.values[0, 4], value(alone, CORRUPTED, CLEAN))


@pytest.mark.parametrize("axis", [0, -3, 3, "heads", True])
def test_what_an_axis_of_a_study_may_not_be(model, axis):
    with pytest.raises(EditError, match=r"`axis`.*Received"):
        ablation_study(model, CLEAN, "first", metric, axis=axis, verbose=0)
    with pytest.raises(EditError, match=r"`axis`.*Received"):
        patching_study(model, CLEAN, CORRUPTED, "first", metric, axis=axis, verbose=0)


def test_what_a_study_refuses(model):
    for count in (1, 2):
        with pytest.raises(ShapeError, match=f"a pair.*Received: 3 and {count} samples"):
            patching_study(model, CLEAN, CORRUPTED[:count], "first", metric, verbose=0)
    with pytest.raises(ShapeError, match=r"a pair.*Received: 2 and 3 samples"):
        attribution_study(model, CLEAN[:2], CORRUPTED, "first", metric, verbose=0)
    with pytest.raises(ShapeError, match=r"one shape.*\(4, 5\).*\(3, 5\).*Pad the inputs"):
        ablation_study(model, iter([CLEAN, CLEAN[:, :3]]), "first", metric, verbose=0)
    inputs, layer = keras.Input((4, 5)), keras.layers.Rescaling(2.0, name="twice")
    twice = keras.Model(inputs, keras.layers.Flatten()(layer(layer(inputs))))
    with pytest.raises(EditError, match=r"one call of a layer.*site\('twice', call=0\)"):
        ablation_study(twice, CLEAN, "twice", metric, baseline="mean", verbose=0)
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
    with pytest.raises(EditError, match="`positions` or `axis`"):
        patching_study(
            model, CLEAN, CORRUPTED, "first", metric, axis=1, positions=[sample[0]], verbose=0
        )
    with pytest.raises(EditError, match=r"equally many units.*'first': 6, 'mix:input': 4"):
        of_sizes(model).by_site()


@pytest.mark.gradient
def test_plots_of_attributions(model):
    pytest.importorskip("matplotlib")
    names = ["first", "second"]
    found = attribution_study(model, CLEAN, CORRUPTED, names, metric, verbose=0)
    np.testing.assert_array_equal(found.plot().images[0].get_array(), found.recovered)
    assert "estimated" in found._repr_html_()
    patching = patching_study(model, CLEAN, CORRUPTED, names, metric, verbose=0)
    ax = found.plot_beside(patching)
    points = np.concatenate([drawn.get_offsets() for drawn in ax.collections])
    expected = [np.ravel(study.recovered) for study in (patching, found)]
    np.testing.assert_array_equal(points, np.stack(expected, axis=1))
    assert ax.get_title() == f"correlation {found.correlation(patching):.3f}"


def test_plots(model):
    pytest.importorskip("matplotlib")
    found = patching_study(model, CLEAN, CORRUPTED, ["first", "second"], metric, verbose=0)
    ax = found.plot()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["first", "second"]
    np.testing.assert_array_equal(ax.images[0].get_array(), found.recovered)
    found = ablation_study(model, CLEAN, "first", metric, verbose=0)
    ax = found.plot([0, 1, 1])
    np.testing.assert_array_equal(ax.images[0].get_array(), found.by_group([0, 1, 1]))


def of_sizes(model):
    """A study of sites with 6 and 4 units."""
    six, other = [
        ablation_study(model, CLEAN, one, metric, axis=axis, verbose=0)
        for one, axis in (("first", -1), (site("mix", "input"), 1))
    ]
    after = np.concatenate([six.after, other.after])
    return replace(six, units=[*six.units, *other.units], after=after)


def ticks(ax, axis):
    return [tick.get_text() for tick in getattr(ax, f"get_{axis}ticklabels")()]


def test_plots_of_ablations_say_whose_unit_is_whose(model):
    pytest.importorskip("matplotlib")
    found = ablation_study(model, CLEAN, ["second", "first"], metric, verbose=0)
    ax = found.plot()
    np.testing.assert_array_equal(ax.images[0].get_array(), found.by_site())
    assert ticks(ax, "y") == ["second", "first"]
    ax = found.plot([0, 1, 1])
    np.testing.assert_array_equal(ax.images[0].get_array(), found.by_group([0, 1, 1]))
    assert (ticks(ax, "x"), ticks(ax, "y")) == (["second", "first"], ["0", "1"])
    uneven = of_sizes(model)
    ax = uneven.plot()
    np.testing.assert_array_equal(ax.images[0].get_array(), uneven.by_group([0, 0, 0]))
    assert ticks(ax, "x") == ["first", "mix:input"]
    assert list(ax.get_xticks()) == [2.5, 7.5]
    assert [list(line.get_xdata()) for line in ax.lines] == [[5.5, 5.5]]


@pytest.mark.once
@pytest.mark.gradient
def test_example_draws_its_pictures(tmp_path, capsys):
    path = Path(__file__).parent.parent / "examples" / "inside_a_model.py"
    options = ["--epochs", "2", "--steps", "4", "--to", str(tmp_path)]
    found = runpy.run_path(str(path))["main"](options)
    assert "matters most" in capsys.readouterr().out
    check_close(found["recovered"][0], [1, 0, 0, 0, 0, 0, 0, 0], rtol=1e-4, atol=1e-4)
    assert found["correlation"] > 0.9
    assert found["threes"][8] > found["threes"][4] + 0.3
    pictures = sorted(tmp_path.glob("*.png"))
    names = [f"inside_{name}.png" for name in ("ablation", "attribution", "patching", "steering")]
    assert [picture.name for picture in pictures] == names
    assert all(picture.stat().st_size > 5000 for picture in pictures)
    assert all((path.parent / picture.name).exists() for picture in pictures)
