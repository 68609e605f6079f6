"""`PruningSchedule` in `fit`: sparsity step by step, beside the formula in NumPy."""

import keras
import numpy as np
import pytest
from _backend import EXECUTIONS, to_numpy
from kit import check_close, check_roundtrip, in_full_once, saved_and_loaded

from kedit.callbacks import PruningSchedule
from kedit.errors import OperandError, SavingError
from kedit.weights import freeze_elements, prune

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6)).astype("float32")
Y = RNG.normal(size=(24, 2)).astype("float32")
KERNELS = ("hidden/kernel", "out/kernel")


class Seen(keras.callbacks.Callback):
    """What is pruned after each call, and the share of it."""

    def __init__(self, owner=None):
        super().__init__()
        self.owner, self.shares, self.gone = owner, [], []

    def on_train_batch_end(self, batch, logs=None):
        owner = self.owner or self.model
        assert self.model is not None  # on JAX, this brings the weights up to date
        gone = [to_numpy(owner.weight(name)) == 0 for name in KERNELS]
        self.gone.append(np.concatenate([one.ravel() for one in gone]))
        self.shares.append(self.gone[-1].mean())


def plain():
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(10, activation="tanh", name="hidden")
    return keras.Sequential([keras.Input((6,)), hidden, keras.layers.Dense(2, name="out")])


def pruned(optimizer=None, scope="global", **options):
    model = prune(plain(), "*/kernel", 0.0, scope=scope)
    model.compile(optimizer or keras.optimizers.SGD(0.05), "mse", **options)
    return model


def fit(model, *callbacks, **options):
    options = {"batch_size": 3, "epochs": 2, "shuffle": False, "verbose": 0, **options}
    return model.fit(X, Y, callbacks=list(callbacks), **options).history


def by_hand(step, start, end, begin, stop, power, frequency):
    """Zhu and Gupta, with what is due at the last multiple of `frequency`."""
    if step < begin:
        return 0.0
    step = stop if step >= stop else begin + (step - begin) // frequency * frequency
    return end + (start - end) * (1 - (step - begin) / (stop - begin)) ** power


@pytest.mark.gradient
@pytest.mark.usefixtures("without_building")
@pytest.mark.parametrize("jit_compile", in_full_once([False, True], [False]))
@pytest.mark.parametrize("steps", EXECUTIONS)
@pytest.mark.parametrize(
    ("arguments", "power", "frequency"),
    in_full_once(
        [((0.0, 0.9, 0, 12), 3, 1), ((0.2, 0.8, 3, 14), 1, 4), ((0.5, 0.75, 2, 9), 2, 3)],
        [((0.2, 0.8, 3, 14), 1, 4)],
    ),
)
def test_the_sparsity_after_each_step(arguments, power, frequency, steps, jit_compile):
    model = pruned(jit_compile=jit_compile, steps_per_execution=steps)
    schedule, seen = PruningSchedule(*arguments, power, frequency), Seen()
    history = fit(model, schedule, seen)
    start, end, begin, stop = arguments
    size = seen.gone[0].size
    expected = [
        np.floor(by_hand(step, start, end, begin, stop, power, frequency) * size + 0.5) / size
        for step in range(steps, 17, steps)
    ]
    np.testing.assert_allclose(seen.shares, expected)
    for before, after in zip(seen.gone, seen.gone[1:], strict=False):
        assert not (before & ~after).any()
    np.testing.assert_allclose(history["sparsity"][-1], expected[-1])
    assert [schedule.sparsity_at(step) for step in range(20)] == pytest.approx(
        [by_hand(step, start, end, begin, stop, power, frequency) for step in range(20)]
    )


@pytest.mark.gradient
@pytest.mark.parametrize("jit_compile", in_full_once([False, True], [False]))
def test_the_compiled_step_sees_each_mask(jit_compile):
    """With weights that do not move: the loss of each epoch is that of the pruned model."""
    model = pruned(keras.optimizers.SGD(0.0), jit_compile=jit_compile)
    losses = fit(model, PruningSchedule(0.2, 0.8, 0, 3, 1, 1), batch_size=24, epochs=5)["loss"]
    for epoch, loss in enumerate(losses):
        reference = prune(plain(), "*/kernel", (0.2, 0.4, 0.6, 0.8, 0.8)[epoch], scope="global")
        reference.compile("sgd", "mse")
        check_close(loss, reference.evaluate(X, Y, verbose=0), rtol=1e-4)


@pytest.mark.gradient
def test_it_goes_on_after_saving_where_it_stopped(tmp_path):
    found = []
    for stops in (False, True):
        model = pruned(keras.optimizers.AdamW(0.01))
        for _ in range(2):
            fit(model, PruningSchedule(0.0, 0.9, 2, 15, frequency=3), epochs=1)
            if stops:
                model = saved_and_loaded(model, tmp_path / "model.keras")
        found.append([to_numpy(model.weight(name)) for name in KERNELS])
    assert 0.8 < (found[0][0] == 0).mean() < 1
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one == 0, other == 0)
        check_close(one, other)


OPTIMIZERS = {
    "AdamW and EMA": lambda: keras.optimizers.AdamW(
        0.01, weight_decay=0.1, use_ema=True, ema_overwrite_frequency=7
    ),
    "momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
}


@pytest.mark.gradient
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_pruned_or_frozen_does_not_move_by_a_bit_in_500_steps(name):
    model = freeze_elements(plain(), {"hidden/bias": 0, "out/kernel": np.s_[:2]}, value=0.125)
    model = prune(model, "hidden/kernel", 0.0)
    model.compile(OPTIMIZERS[name](), "mse")
    before = to_numpy(model.weight("hidden/kernel")).copy()
    seen = Seen()
    schedule = PruningSchedule(0.0, 0.9, 0, 200, frequency=50)
    # In one epoch: what an epoch begins with takes TensorFlow longer than its two steps.
    x, y = [np.tile(one, (250, 1)) for one in (X, Y)]
    model.fit(x, y, 12, shuffle=False, verbose=0, callbacks=[schedule, seen])
    assert len(seen.gone) == 500
    gone = seen.gone[199][: before.size].reshape(before.shape)
    assert gone.mean() == 0.9
    assert all((one == seen.gone[199]).all() for one in seen.gone[199:])
    after = to_numpy(model.weight("hidden/kernel"))
    assert (after[gone] == 0).all()
    assert (after[~gone] != before[~gone]).all()
    assert (to_numpy(model.weight("out/kernel"))[:2] == 0.125).all()
    assert to_numpy(model.weight("hidden/bias"))[0] == 0.125


@pytest.mark.gradient
def test_elements_come_back_only_if_asked():
    """One that is pruned as the smallest, and is larger when the others are set smaller."""
    kept = {}
    for regrow in (False, True):
        model = pruned(keras.optimizers.SGD(0.0), scope="each")
        kernel = model.base.get_layer("hidden").kernel
        first = fit(model, PruningSchedule.constant(0.5), epochs=1)["sparsity"]
        assert first == [0.5]
        kernel.assign(1 / (to_numpy(kernel) + 1e-3))
        model.optimizer.iterations.assign(0)
        again = PruningSchedule(0.5, 0.5, 0, 0, regrow=regrow)
        fit(model, again, epochs=1)
        kept[regrow] = to_numpy(model.weight("hidden/kernel")) != 0
        score = np.abs(to_numpy(kernel))
        if regrow:
            np.testing.assert_array_equal(kept[True], score >= np.median(score))
    assert kept[False].mean() == kept[True].mean() == 0.5
    assert (kept[False] != kept[True]).any()
    model = pruned(scope="each")
    fit(model, PruningSchedule(0.8, 0.25, 0, 10, 1, 1, regrow=True))
    assert (to_numpy(model.weight("hidden/kernel")) == 0).mean() == 0.25


@pytest.mark.gradient
def test_what_is_frozen_last_is_not_pruned():
    """Though it is the smallest; what was frozen before it was pruned may be."""
    base = freeze_elements(plain(), "hidden/kernel", np.s_[0], 1e-6)
    model = freeze_elements(prune(base, "*/kernel", 0.0), "hidden/kernel", np.s_[1], 1e-6)
    for regrow in (False, True):
        model.prune_further(0.5, regrow=regrow)
        kernel = to_numpy(model.weight("hidden/kernel"))
        assert (kernel[0] == 0).all()
        assert (kernel[1] == np.float32(1e-6)).all()
        assert (kernel == 0).mean() == 0.5
    model.prune_further(1.0)
    assert (to_numpy(model.weight("hidden/kernel")) != 0).sum() == 10
    assert (to_numpy(prune(model, "*/kernel", 1.0).weight("hidden/kernel")) == 0).all()


@pytest.mark.gradient
def test_a_pruned_layer_inside_of_a_model():
    inner = prune(plain(), "*/kernel", 0.0)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Rescaling(2.0)(inner(inputs)))
    model.compile("sgd", "mse")
    history = fit(model, PruningSchedule(0.0, 0.75, 0, 10, frequency=5))
    assert history["sparsity"] == pytest.approx([0.656, 0.75], abs=0.01)
    assert (to_numpy(inner.weight("hidden/kernel")) == 0).mean() == 0.75


def test_it_is_saved_as_data():
    for schedule in (PruningSchedule(0.0, 0.9, 5, 100, 2), PruningSchedule.constant(0.5, 3)):
        assert repr(check_roundtrip(schedule)) == repr(schedule)
    with pytest.raises(SavingError):
        PruningSchedule.from_config({**schedule.get_config(), "power": "3"})


@pytest.mark.once
@pytest.mark.parametrize(
    "make",
    [
        lambda: PruningSchedule(-0.1, 0.9, 0, 10),
        lambda: PruningSchedule(0.0, 1.1, 0, 10),
        lambda: PruningSchedule(0.0, "most", 0, 10),
        lambda: PruningSchedule(0.9, 0.5, 0, 10),
        lambda: PruningSchedule(0.0, 0.9, 10, 5),
        lambda: PruningSchedule(0.0, 0.9, 10, 10),
        lambda: PruningSchedule(0.0, 0.9, -1, 10),
        lambda: PruningSchedule(0.0, 0.9, 0, 10, power=0),
        lambda: PruningSchedule(0.0, 0.9, 0, 10, frequency=0),
        lambda: PruningSchedule(0.0, 0.9, 0, 10.0),
        lambda: PruningSchedule(0.0, 0.9, 0, 10).on_train_begin(),
    ],
)
def test_errors(make):
    with pytest.raises(OperandError, match=r"Received.*Write"):
        make()


@pytest.mark.gradient
def test_errors_in_fit():
    model = plain()
    model.compile("sgd", "mse")
    with pytest.raises(OperandError, match=r"no pruned weights. Write `prune\(model"):
        fit(model, PruningSchedule(0.0, 0.9, 0, 10))
    model = prune(keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)]), "*/kernel", 0.0,
                  structure=(1, 2))  # fmt: skip
    model.compile("sgd", "mse")
    with pytest.raises(OperandError, match=r"from 0 to 0.5. Received: sparsity=0.9"):
        fit(model, PruningSchedule(0.9, 0.9, 0, 10))
