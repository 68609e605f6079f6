"""How many functions of kedit the shortest ways through it call, once what is given was met.

Calls are the same on every machine, as times are not. `benchmarks/calls.py` prints both.
"""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
from _backend import compiled
from keras import ops

import kedit
from kedit import X, at, block, each, sample
from kedit._edit import Spelled

pytestmark = pytest.mark.tensors
_PATH = Path(__file__).parents[1] / "benchmarks" / "calls.py"
_SPEC = importlib.util.spec_from_file_location("calls", _PATH)
calls = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(calls)

MOST = {
    "at(x)[0, 2].set(100.0)": (35, 8),
    "the same, an Edit made before": (20, 6),
    "NumPy array": (35, 12),
    "index tensor, set": (90, 20),
    "index tensor, add": (125, 20),  # whose values are not read
    "Editing layer": (30, 12),
    "KerasTensor": (60, 12),
}
"""The most calls, and files that they are in."""


@pytest.fixture(scope="module")
def ways():
    return calls.ways()


@pytest.mark.parametrize("name", MOST)
def test_the_way_is_short(ways, name):
    function, _ = ways[name]
    for _ in range(3):
        function()
    found = calls.calls(function)
    most, files = MOST[name]
    assert len(found) <= most, found
    assert len({file for file, _ in found}) <= files, found


@pytest.fixture
def made(monkeypatch):
    """What plans are made of, one after the other."""
    made, make = [], kedit._run.tensors.make
    monkeypatch.setattr(
        kedit._run.tensors, "make", lambda *given: made.append(given) or make(*given)
    )
    Spelled.forget()
    return made


def test_plans_are_made_once(made):
    x = ops.ones((3, 4))
    for number in (1, 1.0, True, 1, 1.0):  # of another type is another edit
        at(x)[0, 1].add(number)
    assert len(made) == 3
    for number in (0.0, -0.0, 0.0):
        at(x)[0, 1].set(number)
    assert len(made) == 5
    edit = at[1:].where(X > 0.0).multiply(2.0)
    for shape in ((3, 4), (2, 4), (3, 4)):
        edit(ops.ones(shape))
    assert len(made) == 7


def test_plans_of_arrays_are_made_once(made):
    x = ops.ones((300, 4))
    rows, mask = np.arange(100), np.arange(300) % 2 == 0
    for index in (rows, rows.tolist(), rows.copy()):  # a long list is an array
        at(x)[index].set(0.0)
    assert len(made) == 1
    for index in (rows[::-1], rows.astype("int32"), rows.reshape(10, 10), mask, mask):
        at(x)[index].set(0.0)
    assert len(made) == 5
    at(x)[2].set(np.zeros(4, "float32"))
    at(x)[2].set(np.zeros(4, "float32"))
    at(x)[2].set(-np.zeros(4, "float32"))
    at(x)[2].set(np.zeros(4, "float16"))
    assert len(made) == 8
    for _ in range(2):
        at(x)[:, 0].where(mask).set(0.0)
        at(x)[rows, ops.convert_to_tensor(np.zeros(100, "int32"))].set(0.0)
    assert len(made) == 10
    for start in (0, 1):
        i = ops.convert_to_tensor(np.full(300, start, "int32"))
        sample(x)[each(i)].set(1.0)
        at(x)[block(i[0], 2)].set(1.0)
    at(x)[block(i[0], 3)].set(1.0)
    sample(x[:, :, None])[each(i), block(i[0], 0)].set(1.0)
    assert len(made) == 14


def test_an_array_that_was_changed_is_another_one():
    x = ops.zeros(4)
    rows, values = np.array([0, 1]), np.array([1.0, 2.0], "float32")
    for expected in ([1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 2.0]):
        found = at(x)[rows].set(values)
        assert ops.convert_to_numpy(found).tolist() == expected
        rows[:], values[0] = [2, 3], 3.0
    with pytest.raises(IndexError, match="out of bounds"):
        at(x)[np.array([0, 4])].set(1.0)


def test_what_is_spelled_alike_is_told_apart():
    x = ops.convert_to_tensor(np.arange(12, dtype="float32").reshape(3, 4))
    zeros = [at(x)[0, 0].set(number) for number in (0.0, -0.0, 0.0)]
    signs = [np.signbit(ops.convert_to_numpy(zero))[0, 0] for zero in zeros]
    assert signs == [False, True, False]
    for index in (0, (0,), (0, ...), slice(0, 1), [0], (slice(0, 1), 0), (None, 0), ([0], 0)):
        found = ops.convert_to_numpy(at(x)[index].get())
        np.testing.assert_array_equal(found, ops.convert_to_numpy(x)[index])
    with pytest.raises(TypeError, match="kind 'int'"):
        at(ops.cast(x, "int32"))[0].set(1.0)
    at(ops.cast(x, "int32"))[0].set(1)
    with pytest.raises(TypeError, match="kind 'int'"):
        at(ops.cast(x, "int32"))[0].set(1.0)


def test_plans_do_not_outgrow_their_room():
    x = ops.ones((3, 4))
    Spelled.forget()
    for number in range(kedit._plan.plan.KEPT + 9):
        at(x)[0, 1].set(float(number))
        at(x)[np.array([0])].set(float(number))
    for limit, kept in Spelled._kept.items():
        assert 0 < len(kept[0]) <= limit
    assert float(at(x)[0, 1].set(5.0)[0, 1]) == 5.0


def test_a_plan_is_good_for_other_values():
    x = ops.convert_to_tensor(np.zeros((3, 3), "float32"))
    for rows in ([0, 1], [2, 2], [1, 7]):
        i = ops.convert_to_tensor(np.array(rows, "int32"))
        expected = np.zeros((3, 3), "float32")
        for row in rows:
            expected[row : row + 1] = 1.0
        np.testing.assert_array_equal(ops.convert_to_numpy(at(x)[i].set(1.0)), expected)
    for function in (ops.square, ops.negative):
        found = at(x + 2.0)[0].apply(function)
        np.testing.assert_allclose(
            ops.convert_to_numpy(found)[0], ops.convert_to_numpy(function(x + 2.0))[0]
        )


@pytest.mark.gradient
def test_plans_made_while_compiling_are_good_in_eager_mode_and_back():
    x = ops.ones((4, 4))
    edit = at[1].add(2.0)
    expected = np.ones((4, 4))
    expected[1] = 3.0
    for run in (compiled(edit), edit, compiled(edit), compiled(lambda x: at(x)[1].add(2.0)), edit):
        np.testing.assert_array_equal(ops.convert_to_numpy(run(x)), expected)
    model = keras.Sequential([keras.Input((4,)), kedit.layers.Editing(kedit.sample[1].add(2.0))])
    for _ in range(2):
        found = ops.convert_to_numpy(model(x))
        np.testing.assert_array_equal(found[:, 1], np.full(4, 3.0))
