"""Edits inside loops, maps and branches, in passes that are computed again, and in Jacobians."""

import keras
import numpy as np
import pytest
from _backend import (
    REMATERIALIZES_KEYWORDS,
    RUNS_IN_PIECES,
    compilers,
    differentiable_loops,
    jacobians,
    loops,
    maps,
    recomputed,
    to_numpy,
    vjp,
)
from keras import ops
from kit import check_close

from kedit import Trainable, X, at, block, each, sample
from kedit.layers import ConditionalModifier, Editing

pytestmark = [pytest.mark.tensors, pytest.mark.gradient]

COUNT = 4
RNG = np.random.default_rng(0)
STATE = RNG.uniform(0.5, 1.0, (4, 4)).astype("float32")


def step(n, x):
    """Edits of many kinds, some of them where the loop stands."""
    x = at(x)[n].multiply(1.5)
    x = at(x)[0, 1].add(0.25)
    x = at(x)[:, [2, 0, 2]].add(0.125)
    x = sample(x)[each(ops.broadcast_to(n, (4,)))].add(0.5)
    x = at(x)[block(n, 2), 3].set(1.0)
    return at(x).where(X > 1.25).multiply(0.5)


def step_in_numpy(n, x):
    """The same, and by how much each element changes with itself."""
    x, slope = x.copy(), np.ones_like(x)
    x[n] *= 1.5
    slope[n] *= 1.5
    x[0, 1] += 0.25
    np.add.at(x, (slice(None), [2, 0, 2]), 0.125)
    x[:, n] += 0.5
    x[n : n + 2, 3] = 1.0
    slope[n : n + 2, 3] = 0.0
    above = x > 1.25
    return np.where(above, 0.5 * x, x), np.where(above, 0.5 * slope, slope)


def after(count):
    x, slope = STATE.astype("float64"), 1.0
    for n in range(count):
        x, of_step = step_in_numpy(n, x)
        slope = slope * of_step
    return x, slope


@pytest.mark.parametrize("loop", loops())
def test_a_loop(loop):
    check_close(loops()[loop](step, ops.convert_to_tensor(STATE), COUNT), after(COUNT)[0])


@pytest.mark.parametrize(("loop", "compile"), differentiable_loops())
def test_gradients_of_a_loop(loop, compile):
    upstream = RNG.normal(size=STATE.shape).astype("float32")

    def run(x):
        return loops()[loop](step, x, COUNT)

    value, (found,) = vjp(run, [STATE], upstream, compile=compile)
    expected, slope = after(COUNT)
    check_close(value, expected)
    check_close(found, upstream * slope)


@pytest.mark.parametrize("rows", maps())
def test_a_map(rows):
    places = np.array([3, -1, 0, 9], "int32")
    found = maps()[rows](
        lambda row, place: at(at(row)[place].set(5.0))[::2].multiply(2.0),
        ops.convert_to_tensor(STATE),
        ops.convert_to_tensor(places),
    )
    expected = STATE.copy()
    expected[[0, 1, 2], places[:3]] = 5.0
    expected[:, ::2] *= 2
    check_close(found, expected)


@pytest.mark.parametrize("compiler", ["eager", *([] if RUNS_IN_PIECES else compilers())])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_branch(compiler, is_first):
    def branch(x, is_first):
        return ops.cond(is_first, lambda: at(x)[0].set(1.0), lambda: at(x)[:, 0].add(x[:, 1]))

    run = {"eager": lambda fn: fn, **compilers()}[compiler](branch)
    found = run(ops.convert_to_tensor(STATE), ops.convert_to_tensor(is_first))
    expected = STATE.copy()
    if is_first:
        expected[0] = 1.0
    else:
        expected[:, 0] += STATE[:, 1]
    check_close(found, expected)


# --- Passes that are computed again ------------------------------------------------------------


@pytest.mark.parametrize("compile", [False, True])
def test_a_step_that_is_computed_again(compile):
    upstream = RNG.normal(size=STATE.shape).astype("float32")
    again = recomputed(lambda x: step(ops.convert_to_tensor(1), x))
    value, (found,) = vjp(again, [STATE], upstream, compile=compile)
    expected, slope = step_in_numpy(1, STATE)
    check_close(value, expected)
    check_close(found, upstream * slope)


def layers(*others):
    keras.utils.set_random_seed(0)
    first, last = keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)
    return keras.Sequential([keras.Input((4,)), first, *others, last])


def edits():
    modifier = ConditionalModifier(Trainable(0.1), Trainable("ones"), gradient="sigmoid")
    return Editing(sample[1].add(Trainable("ones"))), modifier


def trained(model):
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(STATE, STATE[:, :2], epochs=3, verbose=0)
    return model.get_weights()


def test_layers_inside_a_remat_scope_learn_what_they_learn_outside():
    expected = trained(layers(*edits()))
    with keras.RematScope(mode="full"):
        inside, native = layers(*edits()), layers(keras.layers.Dropout(0.0, seed=0))
    if not REMATERIALIZES_KEYWORDS:
        for model in (inside, native):
            with pytest.raises(ValueError, match="keywords arguments only"):
                trained(model)
        return
    for found, wanted in zip(trained(inside), expected, strict=True):
        check_close(found, wanted)
    before = layers(*edits()).get_weights()
    assert all([(a != b).any() for a, b in zip(expected, before, strict=True)])


# --- Jacobians ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", jacobians())
def test_jacobians(way):
    """Backward and forward, of a function whose every output depends on one element."""
    found = jacobians()[way](lambda x: step(ops.convert_to_tensor(1), x))(
        ops.convert_to_tensor(STATE)
    )
    _, slope = step_in_numpy(1, STATE)
    expected = np.diag(slope.ravel()).reshape(4, 4, 4, 4)
    check_close(found, expected)
    assert to_numpy(found).shape == (4, 4, 4, 4)
