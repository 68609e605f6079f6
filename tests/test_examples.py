"""The scripts in `examples`, on a small scale: they run, draw, and find what they claim."""

import importlib.util
import pathlib

import numpy as np
import pytest

pytestmark = pytest.mark.gradient
EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_dead_zone(tmp_path):
    picture = tmp_path / "picture.png"
    learned, errors = load("dead_zone").main(picture, epochs=8, count=512)
    assert 1.0 < learned < 1.8
    assert errors["learned"] < 1.05 * errors["theory"] < 0.5 * errors["noisy"]
    assert picture.stat().st_size > 10_000


def test_pruning(tmp_path):
    picture = tmp_path / "picture.png"
    rows = load("pruning").main(picture, epochs=4, sparsities=(0.9,))
    (_, whole, _, _), (_, pruned, tuned, came_back) = rows
    assert pruned < tuned
    assert tuned > whole - 0.1
    assert came_back == 0
    assert picture.stat().st_size > 10_000


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
