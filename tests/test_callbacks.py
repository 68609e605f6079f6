"""`DualAscent` and `PenaltySchedule` in `fit`: the state of a guide, step by step."""

import keras
import numpy as np
import pytest
from _backend import EXECUTIONS, to_numpy
from kit import check_close, check_roundtrip, in_full_once, saved_and_loaded

from kedit.callbacks import DualAscent, PenaltySchedule
from kedit.errors import OperandError, SavingError
from kedit.layers import IndexGuide
from kedit.losses import IndexPenalty

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype("float32")
Y = RNG.normal(size=(12, 2)).astype("float32")


class Seen(keras.callbacks.Callback):
    """What the multiplier is after each batch and each epoch."""

    def __init__(self):
        super().__init__()
        self.batches, self.epochs = [], []

    def value(self):
        return to_numpy(self.model.get_layer("guide").multiplier).copy()

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(float(self.value()))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(float(self.value()))


def guided(guide=None, **options):
    """A model of fixed weights, with output 1 guided to 2, and its misses."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    guide = guide or IndexGuide(1, 2.0, name="guide")
    model = keras.Model(inputs, guide(keras.layers.Dense(2)(inputs)))
    model.compile(keras.optimizers.SGD(options.pop("rate", 0.0)), "mse", **options)
    return model, guide, np.abs(to_numpy(model(X))[:, 1] - 2)


def fit(model, *callbacks, **options):
    options = {"batch_size": 3, "epochs": 2, "shuffle": False, "verbose": 0, **options}
    return model.fit(X, Y, callbacks=list(callbacks), **options)


@pytest.mark.gradient
def test_ascends_by_the_mean_of_the_epoch():
    """What evaluation and validation see does not count, nor what was seen before training."""
    model, guide, miss = guided()
    fit(model)
    far = (X * 100, Y)
    seen = Seen()
    history = fit(model, DualAscent(guide, 0.5), seen, validation_data=far)
    model.evaluate(*far, verbose=0)
    check_close(seen.epochs, [0.5 * miss.mean(), miss.mean()])
    check_close(guide.multiplier, miss.mean())
    check_close(history.history["guide_multiplier"], seen.epochs)


@pytest.mark.usefixtures("without_building")
@pytest.mark.gradient
@pytest.mark.parametrize("jit_compile", in_full_once([False, True], [False]))
@pytest.mark.parametrize("steps_per_execution", EXECUTIONS)
def test_ascends_by_the_mean_of_so_many_batches(jit_compile, steps_per_execution):
    """With more steps in one execution later, by the mean of all of them; not by validation."""
    options = {"jit_compile": jit_compile, "steps_per_execution": steps_per_execution}
    model, guide, miss = guided(**options)
    seen = Seen()
    far = {"validation_data": (X * 100, Y), "validation_batch_size": 12}
    fit(model, DualAscent(guide, 1.0, every=2), seen, epochs=1, **far)
    halves = [miss[:6].mean(), miss.mean() * 2]
    expected = {1: [0, halves[0], halves[0], halves[1]], 2: halves, 4: [miss.mean()]}
    check_close(seen.batches, expected[steps_per_execution])
    check_close(guide.multiplier, seen.batches[-1])


@pytest.mark.gradient
def test_steps_per_execution_do_not_change_an_epoch():
    """Compiled, where they can be several."""
    found = []
    for steps in (EXECUTIONS[0], EXECUTIONS[-1]):
        options = {"jit_compile": steps > 1, "steps_per_execution": steps}
        model, guide, _ = guided(**options, rate=0.05)
        fit(model, DualAscent(guide, 0.5), epochs=3)
        found.append([to_numpy(guide.multiplier), *model.get_weights()])
    for one, four in zip(*found, strict=True):
        check_close(four, one)


@pytest.mark.gradient
def test_batches_left_over_count_at_the_end_of_the_epoch():
    model, guide, miss = guided()
    seen = Seen()
    fit(model, DualAscent(guide, 1.0, every=3), seen, epochs=1)
    check_close(seen.batches, [0, 0, miss[:9].mean(), miss[:9].mean()])
    check_close(guide.multiplier, miss[:9].mean() + miss[9:].mean())


@pytest.mark.usefixtures("without_building")
@pytest.mark.gradient
@pytest.mark.parametrize("jit_compile", in_full_once([False, True], [False]))
def test_penalty_schedule(jit_compile):
    """The step that is compiled sees every penalty: 1, 10, 100."""
    model, guide, miss = guided(jit_compile=jit_compile)
    mse = ((to_numpy(model(X)) - Y) ** 2).mean()
    schedule = PenaltySchedule(guide, lambda epoch: 10.0**epoch)
    history = fit(model, schedule, epochs=3, batch_size=12).history
    assert history["guide_penalty"] == [1.0, 10.0, 100.0]
    check_close(history["loss"], [mse + p * (miss**2).mean() / 2 for p in (1, 10, 100)], rtol=1e-4)


@pytest.mark.gradient
def test_state_survives_saving_and_training_goes_on_by_name(tmp_path):
    model, guide, miss = guided()
    fit(model, DualAscent(guide, 0.5))
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    assert float(to_numpy(loaded.get_layer("guide").multiplier)) == float(
        to_numpy(guide.multiplier)
    )
    fit(loaded, DualAscent("guide", 0.5), epochs=1)
    check_close(loaded.get_layer("guide").multiplier, 1.5 * miss.mean())
    with pytest.raises(OperandError, match="Give its name"):
        fit(loaded, DualAscent(guide))


@pytest.mark.gradient
def test_a_multiplier_does_not_wind_up_while_steps_are_skipped():
    """Where float16 overflows the optimizer skips steps; the cap holds, and nothing is NaN."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    guide = IndexGuide(1, 300.0, name="guide")
    dense = keras.layers.Dense(2, dtype="mixed_float16")
    model = keras.Model(inputs, guide(dense(inputs)))
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-3), 2.0**30)
    model.compile(optimizer, "mse")
    before = to_numpy(dense.kernel).copy()
    fit(model, DualAscent(guide, 1.0, every=1, max_multiplier=500.0), epochs=1)
    np.testing.assert_array_equal(to_numpy(dense.kernel), before)  # all steps were skipped
    assert float(to_numpy(guide.multiplier)) == 500.0
    fit(model, DualAscent(guide, 1.0, max_multiplier=500.0), epochs=30)
    assert np.isfinite(to_numpy(dense.kernel)).all()
    assert np.abs(to_numpy(dense.kernel) - before).max() > 0


@pytest.mark.once
@pytest.mark.gradient
def test_a_hidden_activation_is_guided():
    """Another loss wants it elsewhere; two guides, of a target and of a bound, in one model."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    low = IndexGuide(0, lower=1.0, reduce="mean", name="low")
    mean = IndexGuide((1, 0), 2.0, reduce="mean", name="mean")
    hidden = mean(keras.layers.Reshape((2, 1))(low(keras.layers.Dense(2, name="h")(inputs))))
    model = keras.Model(inputs, keras.layers.Flatten()(hidden))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    callbacks = [DualAscent(low, 1.0), DualAscent("mean", 1.0)]
    model.fit(X, Y * 0, epochs=150, batch_size=12, verbose=0, callbacks=callbacks)
    found = model.predict(X, verbose=0).mean(axis=0)
    check_close(found, [1.0, 2.0], atol=1e-3)
    # The slope of the mean squared error there: the mean over two outputs of y ** 2.
    check_close(low.multiplier, -1.0, atol=5e-2)
    check_close(mean.multiplier, -2.0, atol=5e-2)


def growth(epoch):
    return 2.0**epoch


def test_callbacks_are_saved_as_data():
    for callback in (
        DualAscent("guide", 0.5, every=3, max_multiplier=10.0),
        DualAscent(IndexGuide(1, 2.0, name="guide")),
        PenaltySchedule("guide", keras.optimizers.schedules.ExponentialDecay(1.0, 1, 10.0)),
    ):
        again = check_roundtrip(callback)
        assert again.guide == "guide"
    assert float(to_numpy(again.schedule(2))) == 100.0
    with pytest.raises(SavingError, match="register_keras_serializable"):
        PenaltySchedule("guide", growth).get_config()
    registered = keras.saving.register_keras_serializable("test_callbacks")(growth)
    assert check_roundtrip(PenaltySchedule("guide", registered)).schedule is registered


@pytest.mark.once
@pytest.mark.parametrize(
    "make",
    [
        lambda: DualAscent(IndexPenalty(1, 2.0)),
        lambda: DualAscent(None),
        lambda: DualAscent("guide", 0.0),
        lambda: DualAscent("guide", every="batch"),
        lambda: DualAscent("guide", every=0),
        lambda: DualAscent("guide", max_multiplier=0.0),
        lambda: PenaltySchedule("guide", 1.0),
        lambda: PenaltySchedule(IndexPenalty(1, 2.0), growth),
    ],
)
def test_errors(make):
    with pytest.raises(OperandError, match="Received"):
        make()


@pytest.mark.gradient
def test_errors_in_fit():
    model, guide, _ = guided()
    with pytest.raises(OperandError, match="should be positive"):
        fit(model, PenaltySchedule(guide, lambda epoch: -1.0))
    dense, without = model.layers[1].name, keras.Sequential([keras.Input((3,)), model.layers[1]])
    without.compile("sgd", "mse")
    for trained, callback, message in (
        (
            model,
            DualAscent("guido"),
            r"'guido', which is the name of no layer.*DualAscent\('guide'",
        ),
        (model, DualAscent(dense), r"another layer.*DualAscent\('guide'\)"),
        (model, PenaltySchedule("other", growth), r"PenaltySchedule\('guide'\)"),
        (without, DualAscent("guide"), r"layers: \[\]\. Received: 'guide'.*Put `IndexGuide"),
    ):
        with pytest.raises(OperandError, match=message):
            fit(trained, callback)
