"""The scripts in `examples`: they run on every backend, and find what they claim on one."""

import importlib.util
import pathlib

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.gradient
EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def two_epochs(monkeypatch):
    """Whatever is trained is trained for two epochs at most."""
    fit = keras.Model.fit

    def fit_briefly(model, x, y, batch_size=None, epochs=1, **options):
        return fit(model, x, y, batch_size, min(epochs, 2), **options)

    monkeypatch.setattr(keras.Model, "fit", fit_briefly)


# --- Whether they find what they claim -----------------------------------------------------------


@pytest.mark.once
def test_learned_threshold(tmp_path):
    picture = tmp_path / "picture.png"
    example = load("learned_threshold")
    found = example.main(picture, epochs=12, count=4096)
    threshold, factor, steering = found["kedit"]
    assert threshold == pytest.approx(example.THRESHOLD, rel=0.01)
    assert factor == pytest.approx(example.FACTOR, rel=0.01)
    np.testing.assert_allclose(steering, example.STEERING, rtol=0.01)
    threshold, factor, _ = found["naive"]
    assert threshold == pytest.approx(example.START)
    assert factor != pytest.approx(example.FACTOR, rel=0.01)
    assert picture.stat().st_size > 10_000


@pytest.mark.once
def test_dead_zone(tmp_path):
    picture = tmp_path / "picture.png"
    learned, errors = load("dead_zone").main(picture, epochs=8, count=512)
    assert 1.0 < learned < 1.8
    assert errors["learned"] < 1.05 * errors["theory"] < 0.5 * errors["noisy"]
    assert picture.stat().st_size > 10_000


@pytest.mark.once
def test_pruning(tmp_path):
    picture = tmp_path / "picture.png"
    rows = load("pruning").main(picture, epochs=4, sparsities=(0.9,))
    (_, whole, _, _), (_, pruned, tuned, came_back) = rows
    assert pruned < tuned
    assert tuned > whole - 0.1
    assert came_back == 0
    assert picture.stat().st_size > 10_000


@pytest.mark.once
def test_gradual_pruning(tmp_path):
    """At a sparsity at which pruning at once breaks the network."""
    picture = tmp_path / "picture.png"
    rows = load("gradual_pruning").main(picture, epochs=8, sparsities=(0.98,), seeds=(0,))
    found = {way: (share, mean) for way, share, mean, _ in rows}
    trained = found["trained"][1]
    assert trained > 0.9
    assert found["schedule"][1] > 0.5
    assert found["2 of 4"][1] > trained - 0.03
    assert found["half of the units"][1] > trained - 0.05
    assert 0.7 < found["half of the units"][0] < 0.8
    assert picture.stat().st_size > 10_000


@pytest.mark.once
def test_random_erasing(tmp_path):
    picture = tmp_path / "picture.png"
    rows = load("random_erasing").main(picture, epochs=12, draws=2)
    erased, plain = rows["trained with erasing"], rows["trained without"]
    assert min(erased[0], plain[0]) > 0.9
    assert erased[-1] > plain[-1] + 0.03
    assert erased[0] > erased[-1]
    assert picture.stat().st_size > 10_000


@pytest.mark.once
def test_output_target(tmp_path, capsys):
    """Three recipes never reach the target; three do, within so many steps."""
    out = tmp_path / "picture.png"
    outcomes, cannot = load("output_target").main(["--out", str(out), "--steps", "80"])
    *failing, excluded, ascended, weak, marked = outcomes
    assert [one.steps for one in (*failing, weak)] == [None] * 4
    assert all(one.misses[-1] > 1 for one in (*failing, weak))
    for one, most in ((excluded, 200), (ascended, 1600), (marked, 100)):
        assert one.misses[-1] < 1e-3, one.name
        assert one.steps <= most
    assert ascended.others < 1e-6
    assert cannot["index_satisfied"] == 0
    assert 10 <= cannot["index_violation"] < 11
    assert cannot["epochs"] < 200
    assert "IndexGuide with DualAscent" in capsys.readouterr().out
    assert out.stat().st_size > 1000


@pytest.mark.once
def test_heat_equation(tmp_path):
    """At equal steps the guide errs at the edge by a tenth of the penalty at most; edits do not."""
    out = tmp_path / "picture.png"
    example = load("heat_equation")
    found = example.main(["--out", str(out), "--steps", "1500"])
    edge = {name: example.errors(u)[0] for name, u in found.items()}
    assert edge["guide"] < edge["penalty, weight 1"] / 10
    assert edge["guide"] < edge["penalty, weight 20"]
    assert edge["hard"] == edge["guide, pinned"] == 0
    inside = {name: example.errors(u)[2] for name, u in found.items()}
    np.testing.assert_allclose(inside["guide, pinned"], inside["guide"])
    assert inside["guide"] < inside["penalty, weight 1"] / 10
    assert out.stat().st_size > 1000


PICTURED = ("pattern", "study")


@pytest.mark.once
def test_heads_that_copy(tmp_path):
    """Both studies find one head a layer, the same ones as the attention patterns."""
    found = load("heads_that_copy").main(["--to", str(tmp_path)])
    assert found["accuracy"] > 0.99
    needed = found["lost"] > 0.1 * found["lost"].max()
    assert needed.sum(axis=1).tolist() == [1, 1]
    np.testing.assert_array_equal(found["recovered"] > 0.9, needed)
    assert abs(found["recovered"][~needed]).max() < 0.05
    np.testing.assert_array_equal(found["before"][0] > 0.7, needed[0])
    np.testing.assert_array_equal(found["behind"][1] > 0.7, needed[1])
    assert max(found["before"][0][~needed[0]].max(), found["behind"][1][~needed[1]].max()) < 0.4
    assert all((tmp_path / f"heads_{name}.png").stat().st_size > 5000 for name in PICTURED)


# --- Whether they run, and set out in the right direction ----------------------------------------


@pytest.mark.brief
@pytest.mark.usefixtures("two_epochs")
def test_learned_threshold_briefly(tmp_path):
    picture = tmp_path / "picture.png"
    example = load("learned_threshold")
    found = example.main(picture, count=1024)
    threshold, factor, steering = found["kedit"]
    assert threshold != pytest.approx(example.START, abs=0.01)  # a gradient came
    assert 1 < factor < 1.1 * example.FACTOR
    assert (np.sign(steering) == np.sign(example.STEERING)).all()
    threshold, _, _ = found["naive"]
    assert threshold == pytest.approx(example.START)
    assert picture.stat().st_size > 10_000


@pytest.mark.brief
@pytest.mark.usefixtures("two_epochs")
def test_dead_zone_briefly(tmp_path):
    picture = tmp_path / "picture.png"
    learned, errors = load("dead_zone").main(picture, count=512)
    assert 0.1 < learned < 1.8
    assert errors["theory"] < errors["learned"] < errors["noisy"]
    assert picture.stat().st_size > 10_000


@pytest.mark.brief
@pytest.mark.usefixtures("two_epochs")
def test_pruning_briefly(tmp_path):
    picture = tmp_path / "picture.png"
    rows = load("pruning").main(picture, sparsities=(0.9,))
    (_, whole, _, _), (_, pruned, tuned, came_back) = rows
    assert pruned < tuned
    assert pruned < whole
    assert came_back == 0
    assert picture.stat().st_size > 10_000


@pytest.mark.brief
@pytest.mark.usefixtures("two_epochs")
def test_gradual_pruning_briefly(tmp_path):
    picture = tmp_path / "picture.png"
    example = load("gradual_pruning")
    seconds = example.seconds
    example.seconds = lambda model, x: seconds(model, x[:64])
    rows = example.main(picture, sparsities=(0.9,), seeds=(0,))
    assert [row[0] for row in rows] == [
        "trained", "at once", "schedule", "2 of 4", "half of the units"
    ]  # fmt: skip
    assert picture.stat().st_size > 10_000


@pytest.mark.once
def test_assign_to_a_table(tmp_path):
    picture = tmp_path / "picture.png"
    heights, losses = load("assign_to_a_table").main(picture)
    (mean_high, mean_low), (high, low) = heights.values()
    assert high > 1.3 * mean_high
    assert low < 1.3 * mean_low
    assert losses[-1] < losses[0]
    assert picture.stat().st_size > 10_000


@pytest.mark.brief
@pytest.mark.usefixtures("two_epochs")
def test_assign_to_a_table_briefly(tmp_path):
    picture = tmp_path / "picture.png"
    example = load("assign_to_a_table")
    example.LENGTH = 7  # TensorFlow traces each diagonal of the table
    _, losses = example.main(picture)
    assert losses[1] < losses[0]
    assert picture.stat().st_size > 10_000


@pytest.mark.brief
@pytest.mark.usefixtures("two_epochs")
def test_random_erasing_briefly(tmp_path):
    picture = tmp_path / "picture.png"
    rows = load("random_erasing").main(picture, draws=1)
    assert all(row[0] > 0.5 and row[0] > row[-1] for row in rows.values())
    assert picture.stat().st_size > 10_000


@pytest.mark.brief
@pytest.mark.usefixtures("two_epochs")
def test_output_target_briefly(tmp_path, capsys):
    out = tmp_path / "picture.png"
    outcomes, cannot = load("output_target").main(["--out", str(out)])
    assert [one.steps for one in outcomes] == [None] * 7
    for one in outcomes:
        assert len(one.misses) == 2
    _, weak, strong, excluded, ascended, *_ = [one.misses[-1] for one in outcomes]
    assert max(strong, excluded, ascended) < weak
    assert cannot["index_satisfied"] == 0
    assert cannot["epochs"] == 2
    assert "IndexGuide with DualAscent" in capsys.readouterr().out
    assert out.stat().st_size > 1000


@pytest.mark.brief
@pytest.mark.usefixtures("two_epochs")
def test_heat_equation_briefly(tmp_path):
    out = tmp_path / "picture.png"
    example = load("heat_equation")
    example.PER_EPOCH = 10
    found = example.main(["--out", str(out)])
    edge = {name: example.errors(u)[0] for name, u in found.items()}
    assert edge["hard"] == edge["guide, pinned"] == 0
    assert 0 < edge["guide"] < 0.5
    inside = {name: example.errors(u)[2] for name, u in found.items()}
    np.testing.assert_allclose(inside["guide, pinned"], inside["guide"])
    assert out.stat().st_size > 1000


@pytest.mark.brief
def test_heads_that_copy_briefly(tmp_path):
    """Before it has learned anything, a head sees what is before it as often as all else."""
    found = load("heads_that_copy").main(["--to", str(tmp_path), "--steps", "2", "--count", "8"])
    assert found["lost"].shape == found["recovered"].shape == (2, 4)
    assert (found["lost"] != 0).all()
    for looked in (found["before"], found["behind"]):
        assert looked.shape == (2, 4)
        assert ((looked > 0.05) & (looked < 0.6)).all()
    assert all((tmp_path / f"heads_{name}.png").stat().st_size > 5000 for name in PICTURED)


# --- Quick ones, which run in full on every backend -----------------------------------------------


def test_padding_masks(tmp_path):
    picture = tmp_path / "picture.png"
    filled, kept = load("padding_masks").main(picture).values()
    assert np.nanmax(filled) > 0.1
    assert np.nanmax(kept) < 1e-5
    assert picture.stat().st_size > 10_000


def test_who_edits_right(tmp_path):
    picture = tmp_path / "picture.png"
    only = ["integers", "steps", "special values"]
    reports = [*load("who_edits_right").main(picture, only).values()]
    assert reports[0].passes
    for report in reports[1:3]:
        assert "fails" in report.count("steps")
        assert report.count("integers")["passes"] > 3
    assert "fails" in reports[1].count("special values")  # 0 times NaN
    assert "fails" not in reports[2].count("special values")
    assert picture.stat().st_size > 10_000


def test_look_at_an_edit(tmp_path):
    picture = tmp_path / "picture.png"
    assert load("look_at_an_edit").main(picture) == [17, 137, 8]
    assert picture.stat().st_size > 10_000


def test_kv_cache(tmp_path):
    picture = tmp_path / "picture.png"
    assert max(load("kv_cache").main(picture)) < 1e-5
    assert picture.stat().st_size > 10_000


@pytest.mark.usefixtures("two_epochs")
def test_new_tokens(tmp_path):
    picture = tmp_path / "picture.png"
    example = load("new_tokens")
    moved, _ = example.main(picture, count=512)
    all_rows, frozen = moved.values()
    assert all_rows[: example.OLD].min() > 0
    assert frozen[: example.OLD].max() == 0
    assert frozen[example.OLD :].min() > 0
    assert picture.stat().st_size > 10_000


@pytest.mark.usefixtures("two_epochs")
def test_mask_input(tmp_path):
    picture = tmp_path / "picture.png"
    error = load("mask_input").main(picture)
    assert error["hole filled by the network"] < error["hole set to 0"]
    assert error["known pixels"] == 0
    assert picture.stat().st_size > 10_000
