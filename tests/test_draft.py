"""`draft(x)`: programs of assignments, against the same programs on a NumPy array."""

import copy
import operator
import os
import pickle

import keras
import numpy as np
import pytest
from _backend import EAGER_IS_SLOW, compilers, tensors, to_numpy, vjp
from cases import CASES, FEW, FEWER, OUT_OF_BOUNDS, eager_and_compiled, eagerly
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from keras import ops
from kit import check_array

import kedit
from kedit import X, at, block, draft
from kedit.errors import DTypeError, EditError, OperandError, PositionError, ShapeError

IN_PLACE = {
    "+=": operator.iadd,
    "-=": operator.isub,
    "*=": operator.imul,
    "/=": operator.itruediv,
    "**=": operator.ipow,
}
WAYS = {"eager": lambda function: function, **compilers()}


def data(case):
    """An array of the case's shape, and values of the shape of its selection; all positive."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.5, 2.0, case.shape).astype("float32")
    return x, rng.uniform(0.5, 2.0, x[case.index].shape).astype("float32")


def changed(x, index, change, values):
    """`x[index] += values`, or another change in place."""
    x[index] = change(x[index], values)
    return x


# --- Every index -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", eagerly(CASES), ids=repr)
def test_every_index(case):
    x, values = data(case)
    for given_x in (x, ops.convert_to_tensor(x)):
        expected, d = x.copy(), draft(given_x)
        check_array(d[case.index].get(), x[case.index])
        expected[case.index] = values
        d[case.index] = values
        check_array(d.value, expected)
        for sign, change in IN_PLACE.items():
            changed(expected, case.index, change, values)
            changed(d, case.index, change, values)
            np.testing.assert_allclose(to_numpy(d.value), expected, 1e-5, err_msg=sign)
        np.testing.assert_array_equal(to_numpy(given_x), x)


@pytest.mark.gradient
@eager_and_compiled(FEW, FEWER)
def test_gradients(case, compile):
    """`d[i] = v; d[i] *= w`: of elements that are named twice, the last ones count."""
    x, v = data(case)
    w = v[::-1].copy() if v.ndim else v.copy()
    upstream = np.random.default_rng(1).normal(size=x.shape).astype("float32")
    index = tuple(
        [
            ops.convert_to_tensor(item) if isinstance(item, np.ndarray) else item
            for item in (case.index if isinstance(case.index, tuple) else (case.index,))
        ]
    )

    def program(x, v, w):
        d = draft(x)
        d[index] = v
        d[index] *= w
        return d.value

    number = np.full(x.shape, -1)
    number[case.index] = np.arange(v.size).reshape(v.shape)
    wins = number[case.index] == np.arange(v.size).reshape(v.shape)
    y, gx = x.copy(), upstream.copy()
    y[case.index] = v
    gx[case.index] = 0
    selected = y[case.index].copy()
    y[case.index] *= w
    last = x.copy()
    last[case.index] = w
    gv = np.where(wins, upstream[case.index] * last[case.index], 0)
    gw = np.where(wins, upstream[case.index] * selected, 0)
    value, gradients = vjp(program, [x, v, w], upstream, compile=compile)
    np.testing.assert_allclose(value, y, 1e-6)
    for found, expected in zip(gradients, (gx, gv, gw), strict=True):
        np.testing.assert_allclose(found, expected, 1e-5, 1e-6)


@pytest.mark.parametrize("case", OUT_OF_BOUNDS, ids=repr)
def test_an_index_that_does_not_fit_raises_and_changes_nothing(case):
    x = np.ones(case.shape, "float32")
    d = draft(ops.convert_to_tensor(x))
    for attempt in (
        lambda: to_numpy(d[case.index].get()),
        lambda: d.__setitem__(case.index, 5.0),
        lambda: changed(d, case.index, operator.iadd, 5.0),
    ):
        with pytest.raises((EditError, IndexError)):
            attempt()
    check_array(d.value, x)
    assert repr(d).startswith("<Draft with 0 edits: ")


# --- Programs ----------------------------------------------------------------------------------


def program(x, i, mask, v):
    d = draft(x)
    d[0, 2] = 100.0
    d[mask] *= 2.0
    d[:, i] += v
    d[mask] = 3.0
    d.where(X > 5.0).set(0.0)
    d[[0, 0], [1, 1]] += [5.0, 7.0]
    d[1] = d[0]
    d[1, 1:] -= d[0, :2]
    for row in range(2):
        d[row, 0] **= 2.0
    d[[0, 0], 0].add(1.0)
    d[block(i, 1)].where(at(mask)[1:].get()).apply(abs)
    d[i, -1] = d[i, 0] + v[0]
    d[...] /= 2.0
    return d.value


def by_numpy(x, i, mask, v):
    x = x.copy()
    x[0, 2] = 100.0
    x[mask] *= 2.0
    x[:, i] += v
    x[mask] = 3.0
    x[x > 5.0] = 0.0
    x[[0, 0], [1, 1]] += [5.0, 7.0]
    x[1] = x[0]
    x[1, 1:] -= x[0, :2].copy()
    for row in range(2):
        x[row, 0] **= 2.0
    x[0, 0] += 2.0
    x[1:] = np.where(mask[1:], abs(x[1:]), x[1:])
    x[i, -1] = v[0] + x[i, 0]
    x /= 2.0
    return x


GIVEN = [
    np.arange(6, dtype="float32").reshape(2, 3),
    np.array(1, "int32"),
    np.array([[True, False, True], [False, True, False]]),
    np.array([3.0, 4.0], "float32"),
]


@pytest.mark.parametrize("way", WAYS)
def test_a_program_in_every_way_to_run(way):
    given_tensors = tensors(GIVEN)
    check_array(WAYS[way](program)(*given_tensors), by_numpy(*GIVEN))
    check_array(given_tensors[0], GIVEN[0])


@pytest.mark.tensors
def test_a_program_in_a_model():
    inputs = [keras.Input(batch_shape=a.shape, dtype=str(a.dtype)) for a in GIVEN]
    model = keras.Model(inputs, program(*inputs))
    check_array(model(tensors(GIVEN)), by_numpy(*GIVEN))


@pytest.mark.tensors
def test_each_assignment_is_a_node_of_a_model(tmp_path):
    inputs = keras.Input((3,))
    d = draft(inputs)
    d[:, 0] = 1.0
    d[:, 1] *= 2.0
    model = keras.Model(inputs, d.value)
    assert len(model.operations) == 3
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    check_array(loaded(ops.ones((1, 3))), np.array([[1, 2, 1]], "float32"))


STEPS = ("=", *IN_PLACE, "add", "multiply", "max", "where")
BY_SHAPE = {
    shape: [case.index for case in CASES if case.shape == shape] for shape in ((5,), (3, 4))
}
EXAMPLES = int(os.environ.get("KEDIT_EXAMPLES", "0")) or (25 if EAGER_IS_SLOW else 100)
UFUNCS = {"add": np.add, "multiply": np.multiply, "max": np.maximum}


@st.composite
def programs(draw):
    shape = draw(st.sampled_from(list(BY_SHAPE)))
    dtype = draw(st.sampled_from(["float32", "float32", "float64", "float16", "int32", "uint8"]))
    as_tensor = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = []
    for _ in range(draw(st.integers(1, 6))):
        step = draw(st.sampled_from(STEPS))
        index = draw(st.sampled_from(BY_SHAPE[shape]))
        selected = np.zeros(shape)[index].shape
        number = draw(st.booleans())
        values = rng.integers(1, 4, () if number else selected)
        steps.append((step, index, int(values) if number else values.astype(dtype)))
    return rng.integers(0, 5, shape).astype(dtype), as_tensor, steps


def take_step(x, step, index, values, *, is_draft):
    if step == "=":
        x[index] = values
    elif step in IN_PLACE:
        changed(x, index, IN_PLACE[step], values)
    elif is_draft and step == "where":
        x.where(X > 2).set(1)
    elif is_draft:
        getattr(x[index], step)(values)
    elif step == "where":
        x[x > 2] = 1
    else:
        UFUNCS[step].at(x, index, values)


@seed(int(os.environ.get("KEDIT_SEED", "0")))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_any_program(case):
    x, as_tensor, steps = case
    if any(step == "/=" for step, *_ in steps) and x.dtype.kind != "f":
        steps = [step for step in steps if step[0] != "/="]
    expected, d = x.copy(), draft(ops.convert_to_tensor(x) if as_tensor else x)
    narrowed = as_tensor and to_numpy(d.value).dtype != x.dtype
    with np.errstate(all="ignore"):
        for step, index, values in steps:
            used = values
            if isinstance(values, np.ndarray) and step in UFUNCS:
                used = np.broadcast_to(values, expected[index].shape)
            take_step(expected, step, index, used, is_draft=False)
            take_step(d, step, index, values, is_draft=True)
    if narrowed:
        expected = expected.astype(to_numpy(d.value).dtype)
    tolerance = {"f": 2e-2 if x.dtype == "float16" else 1e-5}.get(x.dtype.kind, 0)
    np.testing.assert_allclose(to_numpy(d.value), expected, tolerance)
    assert d.dtype == to_numpy(d.value).dtype
    again = d.edit(x if not as_tensor else ops.convert_to_tensor(x)) if steps else d.value
    np.testing.assert_array_equal(to_numpy(again), to_numpy(d.value))


# --- Values ------------------------------------------------------------------------------------


def test_nothing_that_was_given_or_taken_changes():
    x = np.zeros((2, 3), "float32")
    v = keras.Variable(x)
    for given_x in (x, ops.convert_to_tensor(x), v):
        d = draft(given_x)
        first = d.value
        d[0, 0] = 1.0
        second = d.value
        d[0] += 1.0
        check_array(given_x, x)
        check_array(first, x)
        assert to_numpy(second).sum() == 1
        assert to_numpy(d.value).sum() == 4
    d = draft(x)
    x[0] = 7.0
    v.assign(x)
    assert not d.value.any()
    assert d.value is d.value


def test_what_was_read_stays_as_it_was():
    d = draft(np.arange(3.0))
    before = d[0]
    d[0] = 5.0
    assert float(before) == 0
    assert float(d[0]) == 5
    d[0], d[1] = d[1], d[0]
    assert d.value.tolist() == [1.0, 5.0, 2.0]
    row = d[:2]
    row += 1.0
    assert row.get().tolist() == [2.0, 6.0]
    assert d.value.tolist() == [1.0, 5.0, 2.0]
    d[1:] = row
    assert d.value.tolist() == [1.0, 2.0, 6.0]


def test_elements_count_once_by_operators_and_every_time_by_methods():
    d = draft(np.zeros(2))
    d[[0, 0]] += [1.0, 2.0]
    assert d.value.tolist() == [2.0, 0.0]
    assert d[[0, 0]].add([1.0, 2.0]) is None
    assert d.value.tolist() == [5.0, 0.0]
    pair = d[[0, 0]]
    pair += [1.0, 2.0]
    assert pair.get().tolist() == [6.0, 7.0]


def test_booleans_and_integers():
    d = draft(np.array([True, False]))
    d[:] &= np.array([True, True])
    d[1] |= True
    assert d.value.tolist() == [True, True]
    d = draft(np.array([1, 2], "uint8"))
    d[0] += 1
    d[1] **= 2
    assert d.value.tolist() == [2, 4]
    with pytest.raises(DTypeError):
        d[0] += 0.5
    with pytest.raises(DTypeError):
        d[0] /= 2
    assert d.value.tolist() == [2, 4]


@pytest.mark.tensors
def test_options_go_to_methods():
    d = draft(ops.zeros(3))
    i = ops.convert_to_tensor(np.array([-1, 4], "int32"))
    d[i] = 1.0
    d[i].add(2.0, mode="clip")
    check_array(d.value, np.array([0, 0, 5], "float32"))
    check_array(d[i].get(mode="fill", fill_value=9.0), np.array([5, 9], "float32"))


@pytest.mark.gradient
def test_functions_and_operators_read_elements():
    x = np.arange(4, dtype="float32")

    def total(x):
        d = draft(x)
        d[0] *= 3.0
        read = d[1:]
        return ops.sum(2.0 * read + read**2) + ops.sum((-d[:1] + abs(d[2])) / d[3])

    value, (gradient,) = vjp(total, [x], np.array(1.0, "float32"))
    assert value == pytest.approx(12 + 14 + 2 / 3)
    np.testing.assert_allclose(gradient, [-1, 4, 6 + 1 / 3, 8 - 2 / 9], 1e-5)


def test_elements_are_read_by_functions():
    d = draft(ops.convert_to_tensor(np.arange(4, dtype="float32")))
    assert float(to_numpy(ops.sum(d[1:]))) == 6
    assert np.asarray(d[1:]).tolist() == [1, 2, 3]
    assert (int(d[3]), float(d[3]), bool(d[0]), len(d[1:])) == (3, 3.0, False, 3)
    assert (d[1:].shape, d[1:].dtype) == ((3,), "float32")
    assert to_numpy(d[1:] > 2).tolist() == [False, False, True]
    assert float(to_numpy(d[1:][0])) == 1
    assert [float(to_numpy(n)) for n in d[1:]] == [1, 2, 3]


def test_expressions_and_functions():
    d = draft(np.array([-1.0, 4.0]))
    d[:] = abs(X) + 1.0
    d[1].apply(np.sqrt)
    d[0:1].where(X > 1.0).multiply(10.0)
    assert d.value.tolist() == [20.0, 5.0**0.5]
    assert d.edit.edits[0] == at[:].set(abs(X) + 1.0)


# --- The draft ---------------------------------------------------------------------------------


def test_a_draft_tells_what_it_is():
    d = draft(ops.zeros((2, 3)))
    assert (d.shape, d.ndim, d.dtype, len(d)) == ((2, 3), 2, "float32", 2)
    assert repr(d).startswith("<Draft with 0 edits: ")
    d[0] = 1.0
    assert repr(d).startswith("<Draft with 1 edit: ")
    assert repr(draft(np.arange(2.0))[1:]) == repr(np.array([1.0]))
    assert repr(d.where(X > 0)) == "<elements of a draft where X > 0>"
    with pytest.raises(ShapeError, match=r"Use `d\.shape`"):
        len(draft(1.0))
    with pytest.raises(ShapeError, match=r"Use `d\.shape`"):
        len(draft(keras.Input((3,))))


def test_the_edits_of_a_draft():
    d = draft(np.zeros((2, 2)))
    assert d.edit(np.ones(2)).tolist() == [1.0, 1.0]
    d[0] = [1.0, 2.0]
    d[:, 0] -= 1.0
    assert d.edit == at[0].set([1.0, 2.0]) | at[:, 0].set(X - 1.0)
    assert d.edit(np.ones((2, 2))).tolist() == [[0.0, 2.0], [0.0, 1.0]]


@pytest.mark.tensors
def test_edits_of_a_draft_hold_no_tensors():
    d = draft(np.zeros(2))
    d[0] = 1.0
    d[ops.convert_to_tensor(np.array(0, "int32"))] = 1.0
    with pytest.raises(OperandError, match="a tensor in assignment 2 of 2"):
        d.edit  # noqa: B018


def test_drafts_can_be_copied_and_pickled():
    d = draft(np.zeros(2))
    d[0] = 1.0
    for twin in (copy.copy(d), copy.deepcopy(d), pickle.loads(pickle.dumps(d))):
        twin[1] = 5.0
        assert twin.value.tolist() == [1.0, 5.0]
    assert d.value.tolist() == [1.0, 0.0]
    assert len(d.edit.edits) == 1
    other = draft(d)
    other[...] += d[0]
    assert other.value.tolist() == [2.0, 1.0]


def test_an_assignment_to_what_was_read_raises():
    d = draft(ops.zeros((2, 3)))
    with pytest.raises(OperandError, match=r"d\[0, 1\] = 5\.0"):
        d[0][1] = 5.0
    with pytest.raises(OperandError, match=r"d\[0, 1\] = 5\.0"):
        d[0][1] += 5.0
    assert not to_numpy(d.value).any()


@pytest.mark.parametrize(
    "use",
    [
        lambda d, x: ops.sum(d),
        lambda d, x: keras.layers.Dense(1)(d),
        lambda d, x: d + 1.0,
        lambda d, x: x * d,
        lambda d, x: np.ones(3) - d,
        lambda d, x: np.sum(d),
        lambda d, x: operator.iadd(d, 1.0),
        lambda d, x: -d,
        lambda d, x: d > 1,
    ],
)
def test_a_draft_is_no_tensor(use):
    x = ops.zeros((2, 3))
    with pytest.raises(OperandError, match=r"Write `d\.value`"):
        use(draft(x), x)


def test_a_draft_is_not_iterated_over():
    with pytest.raises(OperandError, match=r"for i in range\(len\(d\)\)"):
        list(draft(np.zeros(2)))
    with pytest.raises(TypeError):
        1.0 in draft(np.zeros(2))  # noqa: B015
    with pytest.raises(OperandError, match="draft\\(x\\['image'\\]\\)"):
        draft({"image": np.zeros(2)})
    with pytest.raises(OperandError, match="second one"):
        draft(np.zeros(2)).where(X > 0).where(X < 1)


def test_positions_are_checked_when_elements_are_read():
    with pytest.raises(PositionError):
        float(draft(np.zeros(2))[2])


def test_draft_is_public():
    assert kedit.draft is draft
