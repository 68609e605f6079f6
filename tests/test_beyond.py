"""The recipes for engines that carry edits to other processes, as the guide has them.

They need the engines, and start them on this machine: `nox -s beyond`.
"""

import json
import pathlib
import re
import shutil
import sys

import keras
import numpy as np
import pytest

from kedit import at
from kedit.interventions import patching_study

pytestmark = [pytest.mark.beyond, pytest.mark.filterwarnings("ignore")]

GUIDE = pathlib.Path(__file__).parent.parent / "docs" / "guides" / "export.md"
X = np.arange(24.0).reshape(8, 3)
EDITED = np.where(np.arange(3) == 1, 100.0, X)


def recipes():
    text = GUIDE.read_text().split("## Beyond one machine\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run(number, **given):
    """What a recipe of the guide leaves behind."""
    found = {"np": np, "at": at, **given}
    exec(recipes()[number], found)
    return found


@pytest.fixture(scope="module")
def engine():
    import ray

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20)
    yield ray
    ray.shutdown()


def test_ray_data(engine):
    found = run(0, x=X)["edited"]
    np.testing.assert_array_equal(found[np.argsort(found[:, 0])], EDITED)


def test_dask():
    np.testing.assert_array_equal(run(1, x=X)["edited"], EDITED)


def test_beam(tmp_path):
    path = tmp_path / "rows.jsonl"
    run(2, x=X, path=str(path))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    np.testing.assert_array_equal(sorted(rows), EDITED)


@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")
def test_spark(monkeypatch):
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    found = run(3, x=X)
    found["spark"].stop()
    np.testing.assert_array_equal(found["edited"], EDITED)


def test_a_study_in_parts(engine, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((4, 3))
    for number in range(2):
        x = keras.layers.Dense(3, "tanh", name=f"block_{number}")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))
    path = str(tmp_path / "model.keras")
    model.save(path)
    clean, corrupted = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype("float32")
    found = run(4, path=path, clean=clean, corrupted=corrupted)["values"]
    sites = ["block_0", "block_1"]
    whole = patching_study(model, clean, corrupted, sites, lambda y: y[:, 0], verbose=0)
    np.testing.assert_allclose(found, whole.values, rtol=1e-5, atol=1e-6)
