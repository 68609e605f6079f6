"""`at(x)[index].op(values)` against the oracle: values, gradients, dtypes, errors, purity."""

import contextlib
import json
import operator
import pickle

import keras
import numpy as np
import oracle
import pytest
from _backend import INTEGERS, compiled, tensors, to_numpy, vjp
from cases import CASES, FEW, FEWER, OUT_OF_BOUNDS, Case, eager_and_compiled, eagerly
from keras import ops
from kit import check_array, check_updates, let_some_tie, updated
from oracle import cube

import kedit
from kedit import X, at, sample
from kedit._plan import bind, layout
from kedit._run import axes
from kedit.errors import (
    CoordinateError,
    DTypeError,
    EditError,
    OperandError,
    PositionError,
    ShapeError,
)

S = np.s_


def data(case, seed=0):
    """An array of the case's shape, and values of the shape of its selection; all positive."""
    rng = np.random.default_rng(seed)
    places = oracle.positions(case.shape, case.index)
    x = rng.uniform(0.5, 2.0, case.shape).astype("float32")
    values = rng.uniform(0.5, 2.0, places.shape).astype("float32")
    return x, values, places


def edited(op, x, index, values):
    place = at(x)[index]
    return place.apply(cube) if op == "apply" else getattr(place, op)(values)


@pytest.mark.parametrize("case", eagerly(CASES), ids=repr)
def test_every_operation_gives_what_numpy_gives(case):
    x, values, places = data(case)
    tensor = ops.convert_to_tensor(x)
    check_array(at(tensor)[case.index].get(), x[case.index])
    for op in oracle.UPDATES:
        expected = oracle.update(op, x, places, values)
        check_array(edited(op, tensor, case.index, values), expected)
        check_array(edited(op, x, case.index, values), expected)
    np.testing.assert_array_equal(to_numpy(tensor), data(case)[0])
    np.testing.assert_array_equal(x, data(case)[0])


@pytest.mark.gradient
@eager_and_compiled(FEW, FEWER)
def test_values_and_gradients(case, compile):
    x, values, places = data(case)
    let_some_tie(x, values, places)
    check_gradients(case.index, x, values, places, compile)


def check_gradients(index, x, values, places, compile):
    """Check all operations in one function, each on its own copies: one compilation."""
    # An index array is given beforehand: a compiler that reads Python's bytecode takes an array
    # that it meets in there for a tensor.
    count = len(oracle.UPDATES)
    place = at[index]

    def all_operations(*primals):
        edits = [
            updated(op, place, primals[n], primals[count + n])
            for n, op in enumerate(oracle.UPDATES)
        ]
        return ops.stack(edits)

    rng = np.random.default_rng(1)
    upstream = rng.normal(size=(count, *x.shape)).astype("float32")
    primals = [x] * count + [values] * count
    results, gradients = vjp(all_operations, primals, upstream, compile=compile)
    check_updates(results, gradients, x, values, places, upstream)


@pytest.mark.gradient
@pytest.mark.parametrize("case", FEW, ids=repr)
def test_gradient_of_get(case):
    x, values, places = data(case)
    upstream = values.astype("float32")
    _, (dx,) = vjp(lambda x: at(x)[case.index].get(), [x], upstream)
    np.testing.assert_allclose(dx, oracle.get_vjp(x, places, upstream), rtol=1e-5)


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_gradient_of_set_goes_to_the_last_duplicate_only(compile):
    x, values = np.zeros(3, "float32"), np.array([5, 6, 7], "float32")
    upstream = np.array([1, 10, 100], "float32")
    y, (dx, dv) = vjp(lambda x, v: at(x)[[0, 0, 2]].set(v), [x, values], upstream, compile=compile)
    assert y.tolist() == [6, 0, 7]
    assert dx.tolist() == [0, 10, 0]
    assert dv.tolist() == [0, 1, 100]


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_gradient_of_multiply_is_right_through_zeros(compile):
    x = np.array([3, 1], "float32")
    upstream = np.array([1, 10], "float32")
    table = np.array([[2, 0, 5], [0, 0, 5], [2, 4, 5]], "float32")

    def edits(*primals):
        return ops.stack([at(primals[n])[[0, 0, 0]].multiply(primals[3 + n]) for n in range(3)])

    _, found = vjp(edits, [x, x, x, *table], np.stack([upstream] * 3), compile=compile)
    for values, dx, dv in zip(table, found[:3], found[3:], strict=True):
        others = [values[1] * values[2], values[0] * values[2], values[0] * values[1]]
        assert dx.tolist() == [np.prod(values), 10]
        assert dv.tolist() == [3 * other for other in others]


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_ties_share_the_gradient_evenly(compile):
    three = np.array([3, 3, 3], "float32")

    def edits(x, y, v, w):
        return ops.stack([at(x)[[0, 0, 1]].min(v), at(y)[[0, 0, 1]].max(w)])

    _, found = vjp(edits, [three] * 4, np.ones((2, 3), "float32"), compile=compile)
    for dx in found[:2]:
        np.testing.assert_allclose(dx, [1 / 3, 1 / 2, 1], rtol=1e-6)
    for dv in found[2:]:
        np.testing.assert_allclose(dv, [1 / 3, 1 / 3, 1 / 2], rtol=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (3, 1)])
def test_values_broadcast_to_the_selection(shape):
    x = np.arange(20, dtype="float32").reshape(4, 5)
    values = np.random.default_rng(0).normal(size=shape).astype("float32")
    for index in (np.s_[1:, :4], np.s_[[0, 3, 1], :4], np.s_[:0:-1, 1:]):
        expected = x.copy()
        expected[index] = values
        for given in (values, ops.convert_to_tensor(values), values.tolist()):
            check_array(at(ops.convert_to_tensor(x))[index].set(given), expected)
        check_array(at(x)[index].set(values), expected)


@pytest.mark.parametrize("shape", [(), (3,), (3, 1)])
def test_values_broadcast_where_an_element_is_named_twice(shape):
    x = np.arange(7, dtype="float32")
    index = [[0, 1, 2], [3, 4, 5], [3, 4, 5]]
    values = np.random.default_rng(0).uniform(1, 2, shape).astype("float32")
    for op in ("add", "multiply", "max"):
        expected = oracle.update(op, x, np.array(index), values)
        for given in (x, ops.convert_to_tensor(x)):
            check_array(getattr(at(given)[index], op)(values), expected)


@pytest.mark.gradient
@pytest.mark.parametrize("shape", [(), (4,), (3, 1)])
def test_gradients_of_broadcast_values_are_summed(shape):
    x = np.random.default_rng(0).uniform(0.5, 2, (4, 5)).astype("float32")
    values = np.random.default_rng(1).uniform(0.5, 2, shape).astype("float32")
    for index in (np.s_[1:, :4], np.s_[[0, 3, 0], :4]):
        check_gradients(index, x, values, oracle.positions(x.shape, index), compile=False)


# --- Conditions and masks ----------------------------------------------------------------------


NARROWED = [Case((3, 4), index) for index in (..., S[1:, ::2], S[[0, 2]], S[:, [0, 0, 3]])]


@eager_and_compiled(NARROWED, NARROWED[1::2])
def test_condition_narrows_the_selection(case, compile):
    x = np.random.default_rng(0).normal(size=case.shape).astype("float32")
    places = oracle.positions(x.shape, case.index)
    kept = places[x.ravel()[places] > 0]
    place = at[case.index].where(X > 0.0)
    run = compiled if compile else lambda function: function

    def all_operations(x):
        return [updated(op, place, x, 1.5) for op in oracle.UPDATES]

    found = run(all_operations)(ops.convert_to_tensor(x))
    for op, here, there in zip(oracle.UPDATES, found, all_operations(x), strict=True):
        expected = oracle.update(op, x, kept, np.float32(1.5))
        check_array(here, expected)
        check_array(there, expected)


def test_condition_may_be_a_mask_an_expression_or_a_function():
    x = np.array([[1, -2, 3], [-4, 5, -6]], "float32")
    expected = np.where(x > 0, x, 0)
    mask = x > 0
    for given in (x, ops.convert_to_tensor(x)):
        for place in (
            at(given)[mask == 0],
            at(given).where(X <= 0),
            at(given).where(~(X > 0)),
            at(given).where(mask == 0),
            at(given).where((mask == 0).tolist()),
            at(given).where(lambda x: x <= 0),
            at(given)[ops.convert_to_tensor(mask == 0)],
            at(given).where(ops.convert_to_tensor(mask == 0)),
            sample.where(X <= 0),
        ):
            found = place.set(0.0)
            check_array(found(given) if isinstance(found, kedit.Edit) else found, expected)


def test_mask_takes_one_value_for_each_true():
    x = np.arange(6, dtype="float32").reshape(2, 3)
    mask = np.array([[True, False, True], [False, True, False]])
    values = np.array([10, 20, 30], "float32")
    expected = x.copy()
    expected[mask] = values
    check_array(at(ops.convert_to_tensor(x))[mask].set(values), expected)
    check_array(at(x)[mask].set(values), expected)
    expected = x.copy()
    expected[:, mask[0]] *= 2
    check_array(at(ops.convert_to_tensor(x))[:, mask[0]].multiply(2.0), expected)


def test_mask_broadcasts_in_where_along_with_values():
    x = np.arange(6, dtype="float32").reshape(2, 3)
    columns, values = np.array([True, False, True]), np.array([[7], [8]], "float32")
    expected = np.where(columns, values, x)
    check_array(at(ops.convert_to_tensor(x)).where(columns).set(values), expected)
    check_array(at(x).where(columns).set(values), expected)


CONDITIONS = [
    (X > 1, lambda x: x > 1),
    (X >= 1, lambda x: x >= 1),
    (X < -1, lambda x: x < -1),
    (X <= -1, lambda x: x <= -1),
    (X == 1, lambda x: x == 1),
    (X != 1, lambda x: x != 1),
    (1 < X, lambda x: x > 1),
    ((X > -2) & (X < 2), lambda x: (x > -2) & (x < 2)),
    ((X < -2) | (X > 2), lambda x: (x < -2) | (x > 2)),
    (~(X > 0), lambda x: ~(x > 0)),
    (abs(X) > 1, lambda x: abs(x) > 1),
    (-X > 1, lambda x: -x > 1),
    (X * X - 2 * X + 1 > 1, lambda x: x * x - 2 * x + 1 > 1),
    (X**2 > 1, lambda x: x**2 > 1),
    (1 - X > 1, lambda x: 1 - x > 1),
    (X > np.array([0, 1, 2, 3, -1, -2, 3]), lambda x: x > [0, 1, 2, 3, -1, -2, 3]),
    (X.isnan(), np.isnan),
    (X.isinf(), np.isinf),
    (X.isfinite(), np.isfinite),
    (X.sign() > 0, lambda x: np.sign(x) > 0),
    (X.clip(-1, 2) > 1, lambda x: np.clip(x, -1, 2) > 1),
    (~X.isinf() & (X + 1 > 0), lambda x: ~np.isinf(x) & (x + 1 > 0)),
]


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_expressions_mean_what_they_mean_in_numpy(dtype, run):
    x = np.array([-3, -1, 0, 1, 2, 3, 5]).astype(dtype)
    if dtype == "float32":
        x[0], x[2] = -np.inf, np.nan

    def all_conditions(x):
        return [at(x).where(condition).set(9) for condition, _ in CONDITIONS]

    found = run(all_conditions)(ops.convert_to_tensor(x))
    for (_, meaning), here, there in zip(CONDITIONS, found, all_conditions(x), strict=True):
        expected = np.where(meaning(x), 9, x).astype(dtype)
        check_array(here, expected)
        check_array(there, expected)


def logistic(x):
    return 1 / (1 + np.exp(-x))


FUNCTIONS = {
    "sqrt": (X.sqrt(), np.sqrt, lambda x: 0.5 / np.sqrt(x)),
    "exp": (X.exp(), np.exp, np.exp),
    "log": (X.log(), np.log, lambda x: 1 / x),
    "tanh": (X.tanh(), np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (X.sigmoid(), logistic, lambda x: logistic(x) * logistic(-x)),
    "sign": (X.sign(), np.sign, np.zeros_like),
    "round": (X.round(), np.round, np.zeros_like),
    "floor": (X.floor(), np.floor, np.zeros_like),
    "ceil": (X.ceil(), np.ceil, np.zeros_like),
    "%": (X % 0.75, lambda x: x % 0.75, np.ones_like),
    "% on the left": (1.75 % X, lambda x: 1.75 % x, lambda x: -np.floor(1.75 / x)),
    "//": (X // 0.75, lambda x: x // 0.75, np.zeros_like),
    "// on the left": (1.75 // X, lambda x: 1.75 // x, np.zeros_like),
    "clip": (X.clip(0.5, 2.0), lambda x: x.clip(0.5, 2), lambda x: (x >= 0.5) & (x <= 2)),
    "mixed": (1.0 - X.exp().log() * 2.0, lambda x: 1 - 2 * x, lambda x: 0 * x - 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_x(name, run):
    """Those that are not chosen keep their bits, and what they are does not matter."""
    expression, function, _ = FUNCTIONS[name]
    for dtype in ("float32", "float16", "bfloat16"):
        x = np.array([0.25, -0.0, 0.5, 1.5, np.nan, 2.0, np.inf, -1.0]).astype(dtype)
        mask = np.array([1, 0, 1, 1, 1, 1, 1, 0], bool)
        with np.errstate(all="ignore"):
            expected = np.where(mask, function(x.astype("float64")).astype(dtype), x)
        edit = at.where(mask).set(expression)
        for found in (run(edit)(ops.convert_to_tensor(x)), edit(x)):
            assert to_numpy(found).dtype == x.dtype
            np.testing.assert_allclose(
                to_numpy(found).astype("float64"),
                expected.astype("float64"),
                *[{"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[dtype]] * 2,
            )
            unchanged = to_numpy(found)[~mask].view("uint8")
            np.testing.assert_array_equal(unchanged, x[~mask].view("uint8"))


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True])
def test_gradients_of_functions_of_x(compile):
    x = np.array([0.25, -1.0, 0.5, 1.5, np.nan, 2.0, 0.0], "float32")
    mask = np.array([1, 0, 1, 1, 0, 1, 0], bool)
    upstream = np.random.default_rng(0).normal(size=(len(FUNCTIONS), 7)).astype("float32")
    edits = [at.where(mask).set(expression) for expression, *_ in FUNCTIONS.values()]

    def total(x):
        return ops.stack([edit(x) for edit in edits])

    with np.errstate(all="ignore"):
        wanted = [np.where(mask, function(x), x) for _, function, _ in FUNCTIONS.values()]
        slopes = [np.where(mask, slope(x), 1) for *_, slope in FUNCTIONS.values()]
    value, (gradient,) = vjp(total, [x], upstream, compile=compile)
    np.testing.assert_allclose(value, np.stack(wanted), 1e-5, 1e-6)
    np.testing.assert_allclose(gradient, (upstream * np.stack(slopes)).sum(0), 1e-5, 1e-5)


def test_functions_of_x_print_save_and_refuse():
    for expression, *_ in FUNCTIONS.values():
        edit = at[0].set(expression)
        twin = kedit.Edit.from_config(json.loads(json.dumps(edit.get_config())))
        assert twin == edit
        assert eval(repr(edit)) == edit
        assert pickle.loads(pickle.dumps(edit)) == edit
    assert repr((X + 1.0).clip(-1.0, abs(X)).sqrt()) == "(X + 1.0).clip(-1.0, abs(X)).sqrt()"
    for dtype in ("int32", "bool", "complex64"):
        for name in ("sqrt", "exp", "log", "tanh", "sigmoid", "round", "floor", "ceil"):
            with pytest.raises(DTypeError, match="should be given floats"):
                at(np.ones(2, dtype))[0].set(FUNCTIONS[name][0])
    for dtype in ("bool", "complex64"):
        for expression in (X.sign(), X.clip(0, 1)):
            with pytest.raises(DTypeError):
                at(np.ones(2, dtype))[0].set(expression)
    assert at(np.array([-7, 9]))[...].set(X.clip(-1, 5)).tolist() == [-1, 5]
    assert at(np.array([-7, 9]))[...].set(X.sign()).tolist() == [-1, 1]


OPERATORS = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.pow,
    operator.gt,
    operator.ge,
    operator.lt,
    operator.le,
    operator.eq,
    operator.ne,
]


@pytest.mark.tensors
@pytest.mark.parametrize("is_left", [True, False])
def test_operators_between_an_expression_and_a_tensor(is_left, run):
    """The tensor stands left only of arithmetic; where it compares, the backend may raise."""
    x, v = np.array([1, 2, 3], "float32"), np.array([3, 2, 0.5], "float32")
    used = OPERATORS if is_left else OPERATORS[:5]

    def edits(x, v):
        made = [operate(X, v) if is_left else operate(v, X) for operate in used]
        return [
            at(x).where(e).set(0.0) if e.is_condition else at(x)[...].set(e + 0.0) for e in made
        ]

    for operate, found in zip(used, run(edits)(*tensors([x, v])), strict=True):
        expected = operate(x, v) if is_left else operate(v, x)
        expected = np.where(expected, 0, x) if expected.dtype == bool else expected
        np.testing.assert_allclose(to_numpy(found), expected, 1e-6, err_msg=operate.__name__)


@pytest.mark.tensors
def test_logic_between_an_expression_and_a_tensor(run):
    x, mask = np.array([True, True, False]), np.array([True, False, False])

    def edits(x, mask):
        return [at(x)[...].set(e) for e in (X & mask, mask & X, X | mask, mask | X)]

    for found, expected in zip(
        run(edits)(*tensors([x, mask])), [x & mask, x & mask, x | mask, x | mask], strict=True
    ):
        check_array(found, expected)


@pytest.mark.parametrize("number", [0.5, -0.5, 1.0, 254.9, 255, 256, 300.5, -1, -1e9, 1e9, 2**40])
@pytest.mark.parametrize("special", [float("inf"), float("-inf"), float("nan")])
def test_integers_compare_with_any_number(number, special):
    x = np.array([0, 1, 127, 254, 255], "uint8")
    for limit in (number, special):
        for make in (
            lambda x, n: x > n,
            lambda x, n: x >= n,
            lambda x, n: x < n,
            lambda x, n: x <= n,
            lambda x, n: x == n,
            lambda x, n: x != n,
        ):
            expected = np.where(make(x.astype("float64"), limit), 7, x).astype("uint8")
            check_array(at(ops.convert_to_tensor(x)).where(make(X, limit)).set(7), expected)
            check_array(at(x).where(make(X, limit)).set(7), expected)


def test_operand_may_be_an_expression():
    x = np.array([[1, -2], [3, 4]], "float32")
    for given in (x, ops.convert_to_tensor(x)):
        check_array(at(given)[:, 1].set(X * 10 + 1), np.array([[1, -19], [3, 41]], "float32"))
        check_array(at(given)[0].add(X), np.array([[2, -4], [3, 4]], "float32"))
        check_array(
            at(given).where(X > 0).set(1 / X), np.array([[1, -2], [1 / 3, 0.25]], "float32")
        )
        check_array(at(given)[1].apply(abs(X) - 3), np.array([[1, -2], [0, 1]], "float32"))


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_elements_that_are_not_chosen_send_back_no_nan(compile):
    """The untaken branch: log, 1/x, x**v, x*v at elements where they have no finite gradient."""
    x = np.array([0.0, 4.0, np.nan, 1.0, -2.0, np.inf], "float32")
    chosen = np.array([0, 1, 0, 1, 0, 0], "float32")
    upstream = np.array([1, 10, 100, 1000, 1e4, 1e5], "float32")
    condition = (X > 0) & ~X.isinf()

    def edits(x, v, w):
        place = at(x).where(condition)
        return ops.stack(
            [
                place.apply(lambda x: ops.log(x) * w),
                place.set(1 / X),
                place.divide(v),
                place.power(v),
                place.multiply(v),
                at(x).where(condition).multiply(w),
            ]
        )

    ones = np.ones(6, "float32")
    w = np.float32(2)
    y, (dx, dv, dw) = vjp(edits, [x, ones, w], np.stack([upstream] * 6), compile=compile)
    kept = np.stack([np.where(chosen, 0, x)] * 6)
    np.testing.assert_array_equal(np.where(chosen, 0, y), kept)
    s = np.where(chosen, x, 1)  # the elements on which the operations run
    taken = np.stack([w / s, -1 / s**2, ones, ones, ones, w * ones])
    expected = np.where(chosen, (taken * upstream).sum(0), 6 * upstream)
    np.testing.assert_allclose(dx, expected, rtol=1e-5, atol=1e-6)
    shares = np.stack([-s, s * np.log(s), s])
    expected = np.where(chosen, (shares * upstream).sum(0), 0)
    np.testing.assert_allclose(dv, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(dw, (chosen * upstream * (np.log(s) + s)).sum(), rtol=1e-5)


@pytest.mark.gradient
def test_gradient_of_a_condition_without_any_element_is_the_identity():
    x = np.array([0.0, -1.0], "float32")
    upstream = np.array([1, 10], "float32")
    _, (dx,) = vjp(lambda x: at(x).where(X > 5).apply(ops.log), [x], upstream)
    assert dx.tolist() == [1, 10]


# --- Dtypes ------------------------------------------------------------------------------------

DTYPES = ["bool", "uint8", "int8", "int16", "int32", "float16", "bfloat16", "float32"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_has_the_dtype_of_the_target(dtype):
    x = ops.cast(ops.convert_to_tensor([1, 0, 3, 4]), dtype)
    value = True if dtype == "bool" else 2
    allowed = ["set", "min", "max"] if dtype == "bool" else ["set", "add", "multiply", "min", "max"]
    numpy_x = to_numpy(ops.cast(x, "float32")).astype("bool" if dtype == "bool" else "float64")
    for op in allowed:
        for index in (np.s_[1], np.s_[[0, 0, 2]], np.s_[::-1]):
            y = edited(op, x, index, value)
            assert keras.backend.standardize_dtype(y.dtype) == dtype
            places = oracle.positions((4,), index)
            expected = oracle.update(op, numpy_x, places, np.array(value, numpy_x.dtype))
            np.testing.assert_array_equal(to_numpy(ops.cast(y, "float32")), expected)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("int32", 2.7),
        ("int32", 2.0),
        ("int32", np.array([1.5, 2.5])),
        ("int32", np.nan),
        ("uint8", 300),
        ("uint8", -1),
        ("int8", np.array([1, 200])),
        ("float16", 1e9),
        ("float32", 1e39),
        ("float32", 1j),
        ("bool", 1),
        ("bool", 0.5),
    ],
)
def test_what_the_dtype_cannot_hold_raises(dtype, values):
    x = np.zeros((2,), dtype)
    for given in (x, ops.convert_to_tensor(x)):
        with pytest.raises(TypeError, match="casting=") as raised:
            at(given)[:].set(values)
        assert isinstance(raised.value, EditError)


def test_tensor_of_a_higher_kind_raises():
    x = ops.zeros((2,), "int32")
    with pytest.raises(DTypeError, match="Received"):
        at(x)[0].set(ops.convert_to_tensor(2.5))


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        (
            "int32",
            [2.7, -2.7, 1e20, -1e20, np.nan, np.inf],
            [2, -2, 2**31 - 1, -(2**31), 0, 2**31 - 1],
        ),
        ("uint8", [300, -5, 255.9, 7, -0.5, 256], [255, 0, 255, 7, 0, 255]),
        ("int8", [300, -300, 127, -128, 5, 0], [127, -128, 127, -128, 5, 0]),
        ("bool", [0, 1, 2, -1, 0, 300], [0, 1, 1, 1, 0, 1]),
    ],
)
def test_unsafe_casting_saturates(dtype, values, expected, run):
    x = np.zeros(6, dtype)
    values = np.array(values, "float32" if isinstance(values[0], float) else "int32")
    check_array(at(x)[:].set(values, casting="unsafe"), np.array(expected, dtype))
    tensor = ops.convert_to_tensor(x)
    check_array(at(tensor)[:].set(values, casting="unsafe"), np.array(expected, dtype))

    def with_tensor(x, v):
        return at(x)[:].set(v, casting="unsafe")

    check_array(run(with_tensor)(*tensors([x, values])), np.array(expected, dtype))


@pytest.mark.parametrize(
    ("op", "dtype", "value"),
    [
        ("divide", "int32", 2),
        ("power", "int32", 0.5),
        ("power", "int32", -1),
        ("add", "bool", True),
        ("multiply", "bool", True),
    ],
)
def test_operation_without_an_answer_in_the_dtype_raises(op, dtype, value):
    x = np.ones(2, dtype)
    for given in (x, ops.convert_to_tensor(x)):
        with pytest.raises(DTypeError, match="Received"):
            getattr(at(given)[0], op)(value, casting="unsafe")


def test_integers_take_whole_powers(run):
    x = np.array([2, 3, -4], "int32")
    check_array(run(at[1:].power(3))(ops.convert_to_tensor(x)), np.array([2, 27, -64], "int32"))
    check_array(at(x)[1:].power([2, 3]), np.array([2, 9, -64], "int32"))


def test_nan_wins_in_min_and_max(run):
    x = np.array([1.0, np.nan, 2.0, np.inf], "float32")
    values = np.array([np.nan, 3.0, 5.0, np.inf], "float32")
    twice = np.append(values, np.inf).astype("float32")
    given = [(at[:], values), (at[[0, 1, 2, 3]], values), (at[[0, 1, 2, 3, 3]], twice)]
    edits = [getattr(place, op)(v) for op in ("min", "max") for place, v in given]
    found = run(lambda x: [edit(x) for edit in edits])(ops.convert_to_tensor(x))
    for n, y in enumerate(found):
        check_array(y, (np.minimum, np.maximum)[n // 3](x, values))


@pytest.mark.parametrize("dtype", [*INTEGERS[6:], "float64", "complex128"])
def test_numbers_of_64_bits_keep_them_all(run, dtype):
    """Some functions of Keras make narrower ones."""
    made = ops.convert_to_tensor(np.zeros(1, dtype)).dtype
    dtype = np.dtype(keras.backend.standardize_dtype(made))  # not all backends have all of them
    if dtype.kind in "iu":
        x = np.array([3, np.iinfo(dtype).max - 1, 5, 2], dtype)
        operations = ["set", "add", "subtract", "multiply", "min", "max"]
    else:
        x = np.array([3, 1 + 1e-12, -5, 2], dtype) + (1e-12j if dtype.kind == "c" else 0)
        operations = ["set", "add", "subtract", "multiply", "divide"]
        operations += ["min", "max"] if dtype.kind == "f" else []
    repeated = [op for op in operations if op in ("set", "add", "max")]
    value, i = np.array(3, dtype), np.array([1, 1, 0], "int32")

    def edits(x, value, i):
        found = [at(x)[i].get(), at(x).where(X == value).set(1)]
        found += [getattr(at(x)[::2], op)(1) for op in operations]
        return found + [getattr(at(x)[i], op)(value) for op in repeated]

    expected = [x[i], np.where(x == value, 1, x)]
    places = oracle.positions(x.shape, np.s_[::2])
    expected += [oracle.update(op, x, places, dtype.type(1)) for op in operations]
    expected += [oracle.update(op, x, i, value) for op in repeated]
    rounding = 0 if dtype.kind in "iu" else 4 * np.finfo(dtype).eps
    for y, one in zip(run(edits)(*tensors([x, value, i])), expected, strict=True):
        assert keras.backend.standardize_dtype(y.dtype) == dtype.name
        np.testing.assert_allclose(to_numpy(y), one, rtol=rounding)


@pytest.mark.parametrize("dtype", INTEGERS[6:])
def test_variables_and_models_keep_64_bits(dtype):
    x = ops.convert_to_tensor(np.array([[3, 2**31 - 7, 2**31 - 1]], dtype) * 2**8)
    dtype = keras.backend.standardize_dtype(x.dtype)
    variable = keras.Variable(x, dtype=dtype, trainable=False)
    inputs = keras.Input((3,), dtype=dtype)
    model = keras.Model(inputs, at(inputs)[:, 0].add(1))
    expected = to_numpy(x) + np.array([[1, 0, 0]], dtype)
    for y in (at(variable)[:, 0].add(1), model(x)):
        assert keras.backend.standardize_dtype(y.dtype) == dtype
        np.testing.assert_array_equal(to_numpy(y), expected)


def test_complex_numbers():
    x = np.array([1 + 2j, 3j, -1], "complex64")
    expected = np.array([1 + 2j, 4j, -1j], "complex64")
    check_array(at(ops.convert_to_tensor(x))[1:].set([4j, -1j]), expected)
    check_array(at(x)[1:].set([4j, -1j]), expected)
    with pytest.raises(DTypeError):
        at(ops.convert_to_tensor(x))[0].max(1.0)


# --- What may be edited, and what comes back ---------------------------------------------------


def test_numpy_arrays_stay_numpy_and_meet_no_backend(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the NumPy kernel made a tensor")

    for name in ("convert_to_tensor", "where", "take", "scatter_update", "cast", "reshape"):
        monkeypatch.setattr(ops, name, refuse)
    x = np.zeros((2, 3))
    for given in (x, x.tolist(), np.asfortranarray(x), x.astype("float16")):
        y = at(given)[0, [2, 0]].set([1.0, 2.0])
        assert isinstance(y, np.ndarray)
        assert y.tolist() == [[2, 0, 1], [0, 0, 0]]
    y = at(x)[x == 0].set(1.0)
    assert y.tolist() == [[1] * 3] * 2
    assert at(x).where(X == 0).apply(np.cos).tolist() == [[1] * 3] * 2
    assert not x.any()


def test_numpy_array_that_may_not_be_written():
    x = np.zeros(3)
    x.setflags(write=False)
    y = at(x)[1].set(5.0)
    assert y.tolist() == [0, 5, 0]
    y[0] = 1  # the result is the caller's own
    assert at(x)[[]].set(0.0) is not x


def test_variable_is_read_and_not_changed():
    variable = keras.Variable(np.zeros(3, "float32"))
    y = at(variable)[1].set(7.0)
    assert to_numpy(y).tolist() == [0, 7, 0]
    assert to_numpy(variable).tolist() == [0, 0, 0]
    y = at(ops.zeros(3))[:].where(X == 0).set(variable)
    assert to_numpy(y).tolist() == [0, 0, 0]


def test_empty_selection_gives_an_equal_tensor():
    x = ops.convert_to_tensor(np.arange(3.0, dtype="float32"))
    for op in oracle.UPDATES:
        check_array(edited(op, x, [], np.zeros(0, "float32")), np.arange(3, dtype="float32"))
        check_array(edited(op, x, slice(2, 2), 1.0), np.arange(3, dtype="float32"))


def test_what_is_not_a_tensor_raises():
    for wrong in ("text", object(), {1, 2}):
        with pytest.raises(OperandError, match="Received"):
            at(wrong)[0].set(1.0)


# --- Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", OUT_OF_BOUNDS, ids=repr)
def test_static_index_that_does_not_fit_raises(case):
    x = np.zeros(case.shape, "float32")
    for given in (x, ops.convert_to_tensor(x)):
        for op in ("set", "get"):
            with pytest.raises((IndexError, ValueError), match="Received") as raised:
                place = at(given)[case.index]
                place.get() if op == "get" else place.set(1.0)
            assert isinstance(raised.value, EditError)
    assert not x.any()


def test_out_of_bounds_says_what_and_where():
    with pytest.raises(
        PositionError, match="index 7, which is out of bounds for axis 1 with size 3"
    ):
        at(ops.zeros((2, 3)))[0, 7].set(1.0)


@pytest.mark.parametrize("shape", [(2,), (3, 1, 1), (1, 3), (2, 3)])
def test_values_that_do_not_broadcast_raise(shape):
    x = np.zeros((5, 3), "float32")
    for given in (x, ops.convert_to_tensor(x)):
        for values in (np.zeros(shape), ops.zeros(shape)):
            with pytest.raises(ValueError, match="should broadcast") as raised:
                at(given)[0].set(values)
            assert isinstance(raised.value, ShapeError)


@pytest.mark.parametrize(
    "make",
    [
        lambda: at[0].set(lambda x: x),
        lambda: at[0].apply(3.0),
        lambda: at[0].set("text"),
        lambda: at[0].set([[1, 2], [3]]),
        lambda: at.where(X > 0).where(X < 1),
        lambda: at.where(X > 0).get(),
        lambda: at.where(0 < X < 1),
        lambda: at[0].set(1.0, casting="maybe"),
        lambda: at[0].set(1.0) | at[1],
    ],
)
def test_misuse_raises_and_shows_the_fix(make):
    with pytest.raises(OperandError, match=r"Received.*|should be one of"):
        make()


@pytest.mark.tensors
def test_list_of_tensors_raises_instead_of_losing_the_gradient():
    with pytest.raises(OperandError, match="stack"):
        at[0].set([ops.zeros(2), ops.ones(2)])


def test_condition_that_is_not_boolean_raises():
    for wrong in (X + 1, np.array([1, 0]), 1.0):
        with pytest.raises(DTypeError, match="Received"):
            at.where(wrong)
    for given in (np.zeros(2), ops.zeros(2)):
        with pytest.raises(DTypeError, match="Received"):
            at(given).where(lambda x: x).set(1.0)


def test_function_that_changes_the_shape_raises():
    for given in (np.zeros((2, 2)), ops.zeros((2, 2))):
        with pytest.raises(ShapeError, match="keep their shape"):
            at(given)[0].apply(lambda x: x[:1])


def test_condition_that_differs_between_duplicates_raises():
    for given in (np.zeros(3), ops.zeros(3)):
        with pytest.raises(OperandError, match="twice"):
            at(given)[[0, 0]].where(X < np.array([1.0, -1.0])).set(5.0)
        y = at(given)[[0, 0]].where(X < np.array([1.0, -1.0])).add(5.0)
        assert to_numpy(y).tolist() == [5, 0, 0]


# --- Sample coordinates ------------------------------------------------------------------------

SAMPLE_CASES = [case for case in FEW if case.shape]


@pytest.mark.parametrize("case", SAMPLE_CASES, ids=repr)
def test_sample_edits_every_sample_alike(case):
    places = oracle.positions((4, *case.shape), case.index, per_sample=True)
    rng = np.random.default_rng(0)
    x = rng.uniform(0.5, 2, (4, *case.shape)).astype("float32")
    constant = rng.uniform(0.5, 2, places.shape[1:]).astype("float32")
    batched = rng.uniform(0.5, 2, places.shape).astype("float32")
    tensor = ops.convert_to_tensor(x)
    check_array(sample(tensor)[case.index].get(), oracle.get(x, places))
    check_array(sample(x)[case.index].get(), oracle.get(x, places))
    for op in oracle.UPDATES:
        place = sample[case.index]
        edit = place.apply(cube) if op == "apply" else getattr(place, op)(constant)
        check_array(edit(tensor), oracle.update(op, x, places, constant))
        check_array(edit(x), oracle.update(op, x, places, constant))
        for given in (batched, ops.convert_to_tensor(batched)) if op != "apply" else ():
            edit = getattr(place, op)(given)
            check_array(edit(tensor), oracle.update(op, x, places, batched))


def test_sample_needs_a_batch_axis():
    with pytest.raises(PositionError, match="batch axis"):
        sample[...].set(1.0)(np.array(3.0))


def test_coordinate_error_is_a_value_error():
    assert issubclass(CoordinateError, ValueError)


@pytest.mark.parametrize(
    "case", [Case((3, 4), np.s_[0, 2]), Case((5,), np.s_[[0, 0, 2]])], ids=repr
)
def test_law_now_is_later(case):
    x, values, _ = data(case)
    for op in oracle.UPDATES:
        place = at[case.index]
        edit = place.apply(cube) if op == "apply" else getattr(place, op)(values)
        for given in (x, ops.convert_to_tensor(x)):
            now = to_numpy(edited(op, given, case.index, values))
            np.testing.assert_array_equal(to_numpy(edit(given)), now)


# --- Found by review ---------------------------------------------------------------------------


def test_mask_with_one_constant_for_each_true():
    x = np.array([[1, 2], [3, 4]], "float32")
    mask = np.array([[True, False], [True, False]])
    for given in (x, ops.convert_to_tensor(x)):
        place = at(given)[mask]
        check_array(place.set(X + np.array([10, 20])), np.array([[11, 2], [23, 4]], "float32"))
        found = place.where(np.array([True, False])).set(0.0)
        check_array(found, np.array([[0, 2], [3, 4]], "float32"))
        found = place.where(X > np.array([5, 0])).set(0.0)
        check_array(found, np.array([[1, 2], [0, 4]], "float32"))


@pytest.mark.parametrize(
    ("dtype", "edit"),
    [
        ("float32", at[:].set(X > 1)),
        ("int32", at[:].set(X * 2.5)),
        ("int32", at[:].set(X + np.array([0.5, 0.9]))),
        ("int32", at.where(X >= np.array([4.5, 4.5])).set(0)),
        ("int8", at.where(X == np.array([300, 300])).set(0)),
        ("uint8", at[:].set(X * 300)),
        ("uint8", at[:].set(-X)),
        ("float32", at[:].set(X + 1j)),
        ("float32", at.where(~X).set(0.0)),
        ("bool", at.where(X == 5).set(True)),
        ("bool", at.where(X > False).set(True)),
    ],
    ids=repr,
)
def test_expression_without_an_answer_in_the_dtype_raises(dtype, edit):
    for given in (np.ones(2, dtype), ops.ones((2,), dtype)):
        with pytest.raises(DTypeError, match="Received"):
            edit(given)


@pytest.mark.gradient
def test_extremes_among_duplicates_with_infinity_and_at_the_end_of_the_range():
    values = np.array([np.inf, 2], "float32")
    y, _ = vjp(lambda x, v: at(x)[[0, 0]].max(v), [np.ones(1, "float32"), values], np.ones(1, "f"))
    assert y.tolist() == [np.inf]
    large, least = np.full(2, 40000, "float16"), np.full(2, 3 * 2.0**-24, "float16")
    for x in (large, least):
        y, (dx, dv) = vjp(lambda x, v: at(x)[[0, 0]].max(v), [x, x], np.ones(2, "float16"))
        assert y.tolist() == x.tolist()
        np.testing.assert_allclose(dx, [1 / 3, 1], rtol=1e-3)
        np.testing.assert_allclose(dv, [1 / 3, 1 / 3], rtol=1e-3)


@pytest.mark.gradient
def test_tensor_in_an_expression_gets_no_nan_from_elements_not_chosen():
    x, w = np.array([-1, 1], "float32"), np.array([0, 2], "float32")
    edit = lambda x, w: at(x).where(X > 0).set(X / w)  # noqa: E731
    _, (dx, dw) = vjp(edit, [x, w], np.ones(2, "float32"))
    assert dx.tolist() == [1, 0.5]
    assert dw.tolist() == [0, -0.25]


@pytest.mark.gradient
def test_gradient_of_abs_at_zero_is_zero():
    _, (dx,) = vjp(lambda x: at(x)[:].set(abs(X)), [np.array([-2, 0, 2], "f")], np.ones(3, "f"))
    assert dx.tolist() == [-1, 0, 1]


def test_nothing_that_comes_back_or_is_handed_out_is_a_view_of_the_input():
    def spoil(z):
        """Set the first row to 99, where a tensor lets itself be changed."""
        with contextlib.suppress(TypeError):
            z[0] = 99.0
        return z

    def never(z):
        return ops.equal(spoil(z) * 0, 1)

    x = ops.convert_to_tensor(np.arange(4, dtype="float32"))
    values = ops.zeros(4)
    spoil(at(x)[1:3].get())
    spoil(at(x)[...].set(values))
    spoil(at(x)[[]].set(0.0))
    at(x)[1:3].apply(spoil)
    at(x)[1:3].where(never).set(0.0)
    assert to_numpy(x).tolist() == [0, 1, 2, 3]
    assert to_numpy(values).tolist() == [0] * 4


def test_at_is_no_collection():
    with pytest.raises(TypeError):
        list(at(np.zeros(3)))
    with pytest.raises(TypeError):
        5 in at(np.zeros(3))  # noqa: B015


def test_numbers_of_more_than_64_bits_raise():
    for make in (lambda: at[0].set(10**400), lambda: at.where(X < 10**400)):
        with pytest.raises(OperandError, match="64 bits"):
            make()


def test_masked_array_raises():
    with pytest.raises(OperandError, match="dense"):
        at(np.ma.masked_array([1.0, 2.0], [True, False]))[0].set(5.0)


def test_long_index_array():
    count = 3000
    numbers = np.random.default_rng(0).permutation(count)
    x = np.arange(2 * count, dtype="float32").reshape(count, 2)
    expected = x.copy()
    expected[numbers] = x
    check_array(at(ops.convert_to_tensor(x))[numbers].set(x), expected)
    check_array(at(x)[numbers].set(x), expected)
    check_array(at(ops.convert_to_tensor(x))[numbers].get(), x[numbers])


# --- Long tensors, where a mask or a count of all elements would need much room -----------------


@pytest.fixture
def every_tensor_is_long(monkeypatch):
    """Makes what holds for tensors of many elements hold for all."""
    for module in (layout, axes):
        monkeypatch.setattr(module, "FEW", 0)
    bind._cached.cache_clear()
    yield
    bind._cached.cache_clear()


@pytest.mark.usefixtures("every_tensor_is_long")
@pytest.mark.parametrize("case", eagerly(CASES), ids=repr)
def test_operations_on_long_tensors(case):
    x, values, places = data(case)
    tensor = ops.convert_to_tensor(x)
    for op in ("set", "add", "min"):
        expected = oracle.update(op, x, places, values)
        check_array(edited(op, tensor, case.index, values), expected)
        expected = oracle.update(op, x, places, np.float32(1.25))
        check_array(edited(op, tensor, case.index, 1.25), expected)


@pytest.mark.gradient
@pytest.mark.usefixtures("every_tensor_is_long")
@eager_and_compiled(FEW, [*FEWER[:2], FEWER[-1]])
def test_gradients_on_long_tensors(case, compile):
    x, values, places = data(case)
    check_gradients(case.index, x, values, places, compile)


@pytest.mark.parametrize("index", [S[5], S[-3:], S[1:-1:3], S[[7, 70_000, 7]], S[::-2]], ids=str)
def test_long_tensor(index, run):
    x = np.arange(70_001, dtype="uint8")
    expected = x.copy()
    expected[index] = 200
    check_array(run(lambda x: at(x)[index].set(200))(ops.convert_to_tensor(x)), expected)
