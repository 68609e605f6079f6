"""Every strategy on every case that it fits: the same values, gradients and untouched bits.

A strategy is chosen for its cost alone. So it is taken from the choice here: plans are carried out
by each strategy that fits, the oracle says what is right, and positions that are tensors are read
where that would be done, and not.
"""

import contextlib
import copy
from unittest import mock

import numpy as np
import oracle
import pytest
import test_properties
from _backend import compiled, to_numpy, vjp
from cases import FEW, FEWER
from hypothesis import assume, given
from hypothesis import strategies as st
from keras import ops
from kit import check_array, updated

from kedit import X, at, each, sample
from kedit._edit import Spelled
from kedit._plan import plan as planning
from kedit._plan.strategy import STRATEGIES, fitting
from kedit._run import cast, positions, scatter

F = "float32"
pytestmark = pytest.mark.tensors


@contextlib.contextmanager
def forced(number, *, hidden=False, sparse=False, compiled=False):
    """Have plans carried out by the strategy of this number among those that fit.

    If `sparse`, winners are found as where positions are few of many; if `compiled`, positions are
    dropped as in a graph.

    Yields the names of those that were taken.
    """
    taken = []

    def take(plan, how):
        names = fitting(plan, how)
        taken.append(names[number % len(names)])
        return taken[-1]

    def unseen(tensors, on_host):
        return None

    Spelled.forget()  # in which are those of `at(x)[...]`; an edit keeps its own
    patches = [mock.patch.object(planning, "choose", take)]
    patches += [mock.patch.object(positions, "seen", unseen)] if hidden else []
    if sparse:
        patches += [mock.patch.object(positions.ComputedPositions, "_is_sparse", True)]
    if compiled:
        patches += [mock.patch.object(scatter, "has_value", return_value=False)]
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield taken
    Spelled.forget()


def places_of(case):
    return oracle.positions(case.shape, case.index)


def as_tensors(index):
    """An index whose arrays of integers are tensors."""
    items = index if isinstance(index, tuple) else (index,)
    arrays = [isinstance(i, list) or (isinstance(i, np.ndarray) and i.dtype != bool) for i in items]
    return tuple(
        [
            ops.convert_to_tensor(np.array(item, "int32")) if is_array else item
            for item, is_array in zip(items, arrays, strict=True)
        ]
    )


BRIEFLY = FEWER[1:4]
FORCED = [(number, hidden) for number in range(3) for hidden in (False, True)]


@pytest.mark.parametrize("op", oracle.UPDATES)
@pytest.mark.parametrize(("number", "hidden"), FORCED)
def test_every_strategy_gives_what_numpy_gives(op, number, hidden):
    rng = np.random.default_rng(0)
    for case in FEW:
        x = rng.uniform(0.5, 2.0, case.shape).astype(F)
        places = places_of(case)
        for values in (np.float32(1.5), rng.uniform(0.5, 2.0, places.shape).astype(F)):
            expected = oracle.update(op, x, places, values)
            for index in (case.index, as_tensors(case.index)):
                given = values.item() if not values.ndim else ops.convert_to_tensor(values)
                with forced(number, hidden=hidden):
                    found = updated(op, at[index], ops.convert_to_tensor(x), given)
                check_array(found, expected)
                untouched = np.setdiff1d(np.arange(x.size), places)
                np.testing.assert_array_equal(
                    to_numpy(found).ravel()[untouched], x.ravel()[untouched]
                )


@pytest.mark.gradient
@pytest.mark.parametrize("op", ["set", "add", "multiply", "max"])
@pytest.mark.parametrize("number", range(3))
def test_every_strategy_has_the_gradient(op, number):
    rng = np.random.default_rng(1)
    for case in FEWER:
        places = places_of(case)
        x = rng.uniform(0.5, 2.0, case.shape).astype(F)
        values = rng.uniform(0.5, 2.0, places.shape).astype(F)
        upstream = rng.uniform(0.5, 2.0, case.shape).astype(F)
        wanted = oracle.update_vjp(op, x, places, values, upstream)
        for index in (case.index, as_tensors(case.index)):
            with forced(number, hidden=True):
                _, found = vjp(
                    lambda x, v, i=index: updated(op, at[i], x, v), [x, values], upstream
                )
            for gradient, expected in zip(found, wanted, strict=True):
                np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", range(3))
def test_every_strategy_compiled(number):
    rng = np.random.default_rng(2)
    arrays = [rng.uniform(0.5, 2.0, case.shape).astype(F) for case in BRIEFLY]
    values = [rng.uniform(0.5, 2.0, places_of(case).shape).astype(F) for case in BRIEFLY]
    places = [[at[case.index], at[as_tensors(case.index)]] for case in BRIEFLY]

    def edits(*given):
        xs, vs = given[: len(BRIEFLY)], given[len(BRIEFLY) :]
        return [
            updated(op, place, x, v)
            for op in ("set", "multiply")
            for x, v, both in zip(xs, vs, places, strict=True)
            for place in both
        ]

    with forced(number):
        found = iter(compiled(edits)(*[ops.convert_to_tensor(array) for array in arrays + values]))
    for op in ("set", "multiply"):
        for case, x, v in zip(BRIEFLY, arrays, values, strict=True):
            expected = oracle.update(op, x, places_of(case), v)
            for _ in range(2):
                check_array(next(found), expected)


@test_properties.search(60)
@given(test_properties.cases("some", ["tensor"]), st.integers(0, 2), *[st.booleans()] * 3)
def test_any_edit_by_any_strategy(case, number, hidden, sparse, compiled):
    assume(test_properties.mask_beside_arrays(case.place) == "fine")
    looks = case.place.mode == "raise" or case.op == "get"
    with forced(number, hidden=hidden and not looks, sparse=sparse, compiled=compiled):
        test_properties.check(case)


@pytest.mark.parametrize("op", ["set", "add", "multiply", "max", "min", "divide"])
def test_few_positions_on_a_long_axis(op):
    rng = np.random.default_rng(3)
    x, values = [rng.uniform(0.5, 2.0, shape).astype(F) for shape in ((3000, 2), (7, 2))]
    rows = np.array([2999, 5, -1, 5, 5, 17, 0], "int32")
    given = [ops.convert_to_tensor(array) for array in (x, rows, values)]
    expected = oracle.update(op, x, oracle.positions(x.shape, rows), values)
    found = updated(op, at[given[1]], given[0], given[2])
    np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-6)
    beyond = ops.convert_to_tensor(np.where(rows == 17, 3000, rows))
    kept = rows != 17
    expected = oracle.update(op, x, oracle.positions(x.shape, rows[kept]), values[kept])
    found = updated(op, at[beyond], given[0], given[2])
    np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-6)


def test_each_strategy_is_met():
    met = set()
    x, i = ops.zeros((4, 4)), ops.convert_to_tensor(np.array([1, 3], "int32"))
    edits = [at[0].get(), at[[]].set(1.0), at[0].set(1.0), at[:].multiply(2.0), at[i].add(1.0)]
    for number in range(3):
        for edit in edits:
            with forced(number) as taken:
                copy.deepcopy(edit)(x)
            met |= set(taken)
    assert met == set(STRATEGIES)


BESIDE = {
    "all rows": ([0, 1, 2, 3, 4], (5, 5), [4, 0, 2, 2, 1]),
    "all rows, some out of bounds": ([0, 1, 2, 3, 4], (5, 5), [4, 5, -2, -9, 1]),
    "other rows": ([4, 1, 3], (5, 5), [0, 0, 0]),
    "rows that repeat": ([4, 1, 1], (5, 5), [0, 2, 2]),
    "several in each row": (
        [[0], [1], [2], [3], [4]],
        (5, 5),
        [[0, 1], [4, 4], [2, 3], [3, 2], [0, 0]],
    ),
    "the same in each row": ([[0], [1], [2], [3], [4]], (5, 5), [0, 3]),
    "with a further axis": ([0, 1, 2, 3, 4], (5, 5, 3), [4, 0, 2, 2, 1]),
    "too few rows": ([0, 1, 2], (5, 3), [2, 0, 2]),
    "negative rows": ([0, -1, -2], (5, 3), [2, 0, 2]),
}


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("name", BESIDE)
def test_arrays_beside_tensors(name, hidden):
    """Rows that are known to differ need no search for the winner."""
    rows, shape, columns = BESIDE[name]
    rng = np.random.default_rng(5)
    x = rng.uniform(0.5, 2.0, shape).astype(F)
    r, c = np.broadcast_arrays(np.array(rows), np.array(columns))
    flat = np.arange(x.size).reshape(shape)
    for mode in (None, "clip", "wrap"):
        size = shape[1]
        column = c % size if mode == "wrap" else np.where(c < 0, c + size, c)
        inside = (column >= 0) & (column < size)
        column = column.clip(0, size - 1)
        places = flat[r, column]
        values = rng.uniform(0.5, 2.0, places.shape).astype(F)
        kept = np.ones_like(inside) if mode else inside
        for op in [op for op in oracle.UPDATES if op != "apply"]:
            expected = oracle.update(op, x, places[kept], values[kept])
            place = at[np.array(rows), ops.convert_to_tensor(np.array(columns, "int32"))]
            with forced(0, hidden=hidden):
                edit = getattr(place, op)(ops.convert_to_tensor(values), mode=mode)
                found = edit(ops.convert_to_tensor(x))
            np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-6)


READS_NOTHING = {
    "set, promised": lambda x, i, v, m: at(x)[i].set(
        v, unique_indices=True, mode="promise_in_bounds"
    ),
    "multiply, promised": lambda x, i, v, m: at(x)[i].multiply(
        v, unique_indices=True, mode="promise_in_bounds"
    ),
    "add": lambda x, i, v, m: at(x)[i].add(v),
    "subtract": lambda x, i, v, m: at(x)[i].subtract(v),
    "add, clipped": lambda x, i, v, m: at(x)[i].add(v, mode="clip"),
    "get": lambda x, i, v, m: at(x)[i].get(),
    "get, filled": lambda x, i, v, m: at(x)[i].get(mode="fill", fill_value=0.0),
    "one position": lambda x, i, v, m: at(x)[i[0]].set(v[0]),
    "one in each row": lambda x, i, v, m: sample(x)[each(i)].set(
        v[:, 0], unique_indices=True, mode="promise_in_bounds"
    ),
    "mask": lambda x, i, v, m: at(x)[m].set(0.0),
    "mask, several values": lambda x, i, v, m: at(x)[m].add(v),
    "mask of some rows": lambda x, i, v, m: at(x)[m[:, 0]].multiply(2.0),
    "where": lambda x, i, v, m: at(x).where(m).set(0.0),
    "where of some rows": lambda x, i, v, m: at(x)[i].where(m).add(v),
    "condition": lambda x, i, v, m: at(x).where(X > 0.5).set(v),
}


def _edit_of(name):
    rng = np.random.default_rng(0)
    x, v = [ops.convert_to_tensor(rng.uniform(size=(5, 5)).astype(F)) for _ in range(2)]
    i = ops.convert_to_tensor(np.array([3, 0, 4, 1, 2], "int32"))
    m = ops.convert_to_tensor(np.eye(5) > 0)
    v = v[0] if name == "mask, several values" else v
    return lambda: READS_NOTHING[name](x, i, v, m)


@pytest.mark.parametrize("name", READS_NOTHING)
def test_values_of_tensors_are_not_read(name, monkeypatch):
    """What is on an accelerator need not wait for the host."""
    edit = _edit_of(name)
    Spelled.forget()
    expected = to_numpy(edit())
    Spelled.forget()
    hide_values(monkeypatch)
    found = edit()
    monkeypatch.undo()
    np.testing.assert_array_equal(to_numpy(found), expected)


@pytest.mark.parametrize("op", ["set", "multiply", "max", "divide"])
def test_values_on_an_accelerator_are_not_read(op, monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 2, (5, 5)).astype(F)
    values = rng.uniform(1, 2, (5, 5)).astype(F)
    rows = np.array([3, 0, 3, 3, 2], "int32")
    given = [ops.convert_to_tensor(array) for array in (x, rows, values)]
    monkeypatch.setattr(cast, "is_on_host", lambda tensor: False)
    hide_values(monkeypatch)
    found = [updated(op, at[given[1]], given[0], given[2])]
    found += [getattr(at(given[0])[given[1]], op)(given[2], mode="clip")]
    monkeypatch.undo()
    expected = oracle.update(op, x, oracle.positions(x.shape, rows), values)
    for result in found:
        np.testing.assert_allclose(to_numpy(result), expected, rtol=1e-6)


def hide_values(monkeypatch):
    """Have every way by which the values of a tensor reach the host fail, but for one number."""
    kind = type(ops.ones(1))

    def guarded(read):
        def fail(tensor, *given, **options):
            if tuple(tensor.shape):
                raise AssertionError("The values of a tensor are read.")
            return read(tensor, *given, **options)

        return fail

    for name in ("__array__", "numpy", "item", "tolist", "cpu", "__bool__", "__int__", "__index__"):
        if hasattr(kind, name):
            monkeypatch.setattr(kind, name, guarded(getattr(kind, name)))
    monkeypatch.setattr(ops, "convert_to_numpy", guarded(ops.convert_to_numpy))


def test_reading_would_be_noticed(monkeypatch):
    x, i = ops.ones((5, 5)), ops.convert_to_tensor(np.array([3, 0, 3], "int32"))
    hide_values(monkeypatch)
    with pytest.raises(AssertionError, match="are read"):
        at(x)[i].set(0.0)
