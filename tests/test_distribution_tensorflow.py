"""On two replicas of TensorFlow's `MirroredStrategy`: the numbers of one.

`nox -s "distribution(backend='tensorflow')"`.
"""

from types import SimpleNamespace

import distributed
import keras
import numpy as np
import pytest
from distributed import BATCH, GIVEN, QUIET, check_same

pytestmark = pytest.mark.distribution

COUNT = 2


@pytest.fixture(scope="module")
def strategy():
    """Two replicas on one CPU, which pretends to be two devices."""
    import tensorflow as tf

    one = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [one] * COUNT
    )
    found = tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(COUNT)])
    assert found.num_replicas_in_sync == COUNT
    return found


def on_two(strategy, **options):
    with strategy.scope():
        return distributed.compiled(distributed.made(), jit_compile=False, **options)


def greatest(model, count):
    """The mean over replicas of the greatest violation that each of them meets."""
    predicted = model.predict([GIVEN["x"], GIVEN["place"]], **QUIET)[:, 1]
    parts = np.maximum(predicted - 0.25, 0).reshape(-1, count, BATCH // count)
    return parts.max(axis=(0, 2)).mean()


def test_a_model_learns_what_it_learns_on_one(strategy):
    """But for a maximum, which is the mean of what each replica found."""
    alone = distributed.compiled(distributed.made(), jit_compile=False)
    one = distributed.learned(alone)
    model = on_two(strategy)
    found = distributed.learned(model)
    maxima = {name: one.pop(name) for name in list(one) if name.split()[-1] == "max"}
    check_same({name: found[name] for name in one}, one)
    np.testing.assert_allclose(maxima["test max"], greatest(alone, 1), rtol=1e-4)
    np.testing.assert_allclose(found["test max"], greatest(model, COUNT), rtol=1e-4)
    assert found["test max"] < maxima["test max"]


def test_edits_captures_and_studies_find_what_they_find_on_one(strategy):
    one = distributed.asked(distributed.made())
    with strategy.scope():
        found = distributed.asked(distributed.made())
    check_same(found, one)


def test_keras_predicts_a_batch_once_for_each_replica_also_without_kedit(strategy):
    """If not, `kedit.studies._batches.predict_on_batch` can go."""
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(2.0)])
    assert model.predict_on_batch(np.ones((4, 3))).shape == (4 * COUNT, 3)


def test_the_recipe(strategy):
    """With the strategy of this file: collectives of two in one process get in each other's way."""
    distribute = SimpleNamespace(MirroredStrategy=lambda devices: strategy)
    tf = SimpleNamespace(distribute=distribute)
    given = {"x": GIVEN["x"], "y": distributed.WANTED, "devices": strategy.extended.worker_devices}
    found = distributed.recipe(1, tf=tf, **given)
    distributed.check_weights(found, distributed.after_one_epoch())
