"""The scripts in `examples`, on a small scale: they run, draw, and find what they claim."""

import importlib.util
import pathlib

import numpy as np
import pytest

pytestmark = pytest.mark.gradient


def load(name):
    path = pathlib.Path(__file__).parent.parent / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
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
