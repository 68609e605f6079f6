"""Indices whose values are known only when the model runs: tensors, eager and compiled."""

import keras
import numpy as np
import oracle
import pytest
from _backend import FLOATS, INTEGERS, compiled, compiled_apart, optimized, tensors, to_numpy, vjp
from cases import CASES, Case, eager_and_compiled, eagerly
from keras import ops
from kit import check_array, check_updates, dtype_of, let_some_tie, updated
from oracle import cube

from kedit import X, at, block, each, sample
from kedit.errors import CoordinateError, DTypeError, OperandError, PositionError, ShapeError

pytestmark = pytest.mark.tensors

S = np.s_
MODES = [None, "drop", "fill", "clip", "wrap"]


def is_static(item):
    return item is None or item is ... or isinstance(item, (slice, bool))


def parted(index):
    """The items of an index, and the arrays among them that a tensor can stand for."""
    items = index if isinstance(index, tuple) else (index,)
    items = [item if is_static(item) else np.asarray(item) for item in items]
    items = [
        i.astype("int64") if not is_static(i) and i.size == 0 and i.dtype == float else i
        for i in items
    ]
    return items, [item for item in items if not is_static(item)]


def put_together(items, given):
    """The index with `given` in place of its arrays."""
    given = list(given)
    return tuple([item if is_static(item) else given.pop(0) for item in items])


def data(shape, places, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.5, 2.0, shape).astype("float32")
    values = rng.uniform(0.5, 2.0, places.shape).astype("float32")
    return x, values


def masks_of(index):
    return [a for a in parted(index)[1] if a.dtype == bool]


def is_possible(case):
    """Whether an index may be given as tensors: several masks may not."""
    arrays = parted(case.index)[1]
    masks = [array for array in arrays if array.dtype == bool]
    others = [a for a in arrays if a.dtype != bool and a.ndim]
    return bool(arrays) and (not masks or (len(masks) == 1 and not others))


TRACED = [case for case in CASES if is_possible(case)]


@pytest.mark.once
def test_table_has_enough_cases():
    assert len(TRACED) > 120


@pytest.mark.parametrize("case", eagerly(TRACED), ids=repr)
def test_a_tensor_means_what_the_array_does(case):
    places = oracle.positions(case.shape, case.index)
    x, values = data(case.shape, places)
    items, arrays = parted(case.index)
    index = put_together(items, tensors(arrays))
    tensor = ops.convert_to_tensor(x)
    check_array(at(tensor)[index].get(), x[case.index])
    for op in oracle.UPDATES:
        expected = oracle.update(op, x, places, values)
        check_array(updated(op, at[index], tensor, values), expected)
        check_array(updated(op, at[index], tensor, ops.convert_to_tensor(values)), expected)
        if places.size and not masks_of(case.index):
            value = values.ravel()[0]
            check_array(updated(op, at[index], tensor, value), oracle.update(op, x, places, value))
    np.testing.assert_array_equal(to_numpy(tensor), x)
    for array, given in zip(arrays, index_tensors(index), strict=True):
        np.testing.assert_array_equal(to_numpy(given), array)


def index_tensors(index):
    return [item for item in index if not is_static(item)]


def as_floats(array):
    """An array of integers or booleans as floats, which may pass for something to differentiate."""
    return array.astype("float32")


def as_index(number, is_mask):
    """The tensor that `as_floats` hid from the compiler, as an index again."""
    return number > 0.5 if is_mask else ops.cast(ops.round(number), "int32")


def check_gradients(shape, index, places, compile, **options):
    """Check values and gradients of all operations in one function, with a traced index."""
    x, values = data(shape, places)
    let_some_tie(x, values, places)
    items, arrays = parted(index)
    count = len(oracle.UPDATES)
    masks = [array.dtype == bool for array in arrays]
    statics = [item if is_static(item) else "array" for item in items]

    def all_operations(*primals):
        given = [as_index(n, m) for n, m in zip(primals[2 * count :], masks, strict=True)]
        place = at[put_together(statics, given)]
        both = zip(oracle.UPDATES, primals[:count], primals[count : 2 * count], strict=True)
        return ops.stack([updated(op, place, x, v, **options) for op, x, v in both])

    upstream = np.random.default_rng(1).normal(size=(count, *x.shape)).astype("float32")
    primals = [x] * count + [values] * count + [as_floats(array) for array in arrays]
    results, gradients = vjp(all_operations, primals, upstream, compile=compile)
    check_updates(results, gradients, x, values, places, upstream)


def _i(*numbers, dtype="int64"):
    return np.array(numbers, dtype)


GRADIENTS = [
    Case((5,), S[_i(3, 3, 3, 1, 3, 3)]),
    Case((3, 4), S[_i(0, 7, 2, 0, -9), _i(1, 1, -1, 1, 0)]),
    Case((3, 4), S[_i(2), 1:]),
    Case((3, 4), S[:, np.array([True, False, True, True])]),
    Case((2, 3, 4), S[:, _i([0], [5]), _i([0, 1, 1])]),
    Case((2, 3, 4), S[np.array(-1), None, :, _i(3, 0, 3)]),
    Case((3, 4), S[np.arange(12).reshape(3, 4) % 5 == 0]),
    Case((5,), S[np.array(9)]),
]


@pytest.mark.gradient
@eager_and_compiled(GRADIENTS, GRADIENTS[1:7:5])
def test_gradients(case, compile):
    places = oracle.positions_in_bounds(case.shape, case.index)
    check_gradients(case.shape, case.index, places, compile)


# --- Out of bounds -----------------------------------------------------------------------------

OUT_OF_BOUNDS = [
    Case((5,), S[_i(0, 7, -1, -9, 7)]),
    Case((5,), S[np.array(7)]),
    Case((5,), S[np.array(-6)]),
    Case((3, 4), S[_i(0, 5, 1), _i(1, 1, -7)]),
    Case((3, 4), S[:, _i(-1, 4, 9)]),
    Case((3, 4), S[_i([0], [9]), 1::2]),
    Case((2, 3, 4), S[np.array(1), :, _i(1, 7)]),
    Case((2, 3, 4), S[..., None, _i(4, 0)]),
    Case((0, 3), S[_i(0, 2)]),
    Case((0, 3), S[:, _i(0, 3)]),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", OUT_OF_BOUNDS, ids=repr)
def test_modes(case, mode):
    places = oracle.positions_in_bounds(case.shape, case.index, mode)
    x, values = data(case.shape, places)
    items, arrays = parted(case.index)
    place, tensor = at[put_together(items, tensors(arrays))], ops.convert_to_tensor(x)
    check_array(place.get(mode=mode)(tensor), oracle.get(x, places))
    check_array(place.get(mode=mode, fill_value=5)(tensor), oracle.get(x, places, 5))
    for op in oracle.UPDATES:
        expected = oracle.update(op, x, places, values)
        check_array(updated(op, place, tensor, values, mode=mode), expected)
    if mode is not None:  # then what is known beforehand is treated alike
        for given in (x, tensor):
            check_array(at(given)[case.index].get(mode=mode), oracle.get(x, places))
            for op in oracle.UPDATES:
                expected = oracle.update(op, x, places, values)
                check_array(updated(op, at[case.index], given, values, mode=mode), expected)
    np.testing.assert_array_equal(to_numpy(tensor), x)


@pytest.mark.gradient
@pytest.mark.parametrize("mode", ["clip", "wrap"])
def test_gradients_of_modes(mode):
    index = S[_i(0, 5, 1), _i(1, 1, -7)]
    places = oracle.positions_in_bounds((3, 4), index, mode)
    check_gradients((3, 4), index, places, False, mode=mode)


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_what_is_dropped_gets_no_gradient_and_sends_no_nan(compile):
    """Of values and functions that have no finite gradient where nothing is written."""
    x, zeros = np.array([0, 4], "float32"), np.zeros(2, "float32")
    values = np.array([2, 0], "float32")
    infinite = np.array([2, np.inf], "float32")

    def edits(x, values, infinite, zeros, i):
        place = at(x)[ops.cast(i, "int32")]
        return ops.stack(
            [
                place.divide(values),
                place.power(zeros - 1 + values),
                place.multiply(infinite),
                place.apply(lambda x: 8 / x),
                place.apply(lambda x: 2 * ops.log(x)),
            ]
        )

    index = np.array([1, 7], "float32")
    primals = [x, values, infinite, zeros, index]
    y, gradients = vjp(edits, primals, np.ones((5, 2), "float32"), compile=compile)
    np.testing.assert_allclose(y[:, 1], [2, 4, 8, 2, 2 * np.log(4)], rtol=1e-6)
    assert y[:, 0].tolist() == [0] * 5
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert [gradient[1] for gradient in gradients[1:3]] == [0, 0]
    assert gradients[0][0] == 5


@pytest.mark.gradient
def test_a_value_that_loses_sends_no_nan():
    primals = [np.array([0, 4], "float32"), np.array([-1, 2], "float32")]
    i = ops.convert_to_tensor([0, 0])
    y, (dx, dv) = vjp(lambda x, v: at(x)[i].power(v), primals, np.ones(2, "float32"))
    assert y.tolist() == [0, 4]
    assert dx.tolist() == [0, 1]
    assert dv[0] == 0


def extremes_of(dtype):
    """The ends of a dtype as `x` and values, as arrays of a dtype that NumPy has."""
    if dtype in FLOATS:
        inf, nan = np.inf, np.nan
        values = [-inf, -inf, inf, inf, nan, 1, -inf, 2, 2, 3, nan, nan]
        return np.array([-inf, inf, 1, nan, 2, 3], "float32"), np.array(values, "float32")
    # Not all backends have all of them.
    wide = keras.backend.standardize_dtype(ops.convert_to_tensor(np.zeros(1, dtype)).dtype)
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(wide).min, np.iinfo(wide).max)
    values = [low, low, high, high, low, high, high, low, low, high, low, low]
    return np.array([low, high, low, high, high, low], wide), np.array(values, wide)


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_extremes_of_the_ends_of_a_dtype(compile):
    """Of these alone, and beside others. NaN wins."""
    i = np.array([0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 9, 5], "int32")
    dtypes = [*FLOATS, *INTEGERS[:7], "bool"]
    dtypes = compiled_apart(dtypes) if compile else dtypes
    pairs = [extremes_of(dtype) for dtype in dtypes]
    given = [
        ops.cast(tensor, dtype) if dtype in FLOATS else tensor
        for dtype, pair in zip(dtypes, pairs, strict=True)
        for tensor in tensors(pair)
    ]

    def edits(i, *given):
        both = zip(given[::2], given[1::2], strict=True)
        return [(at(x)[i].min(v), at(x)[i].max(v)) for x, v in both]

    found = (compiled(edits) if compile else edits)(ops.array(i), *given)
    for dtype, x, pair, results in zip(dtypes, given[::2], pairs, found, strict=True):
        for result, extreme in zip(results, (np.minimum, np.maximum), strict=True):
            expected, values = pair[0].copy(), pair[1]
            for place, value in zip(i, values, strict=True):
                if place < 6:
                    expected[place] = extreme(expected[place], value)
            assert result.dtype == x.dtype
            result = to_numpy(ops.cast(result, dtype_of(expected)))
            np.testing.assert_array_equal(result, expected, err_msg=f"{dtype}, {extreme}")


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_gradients_of_extremes_beside_nan_and_infinity(compile):
    """NaN and infinity take none, and send none to others."""
    inf, nan = np.inf, np.nan
    x = np.array([1, 5, 2, -inf, nan], "float32")
    i = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], "float32")
    values = np.array([3, 3, 4, 5, nan, 1, inf, 2, 3, 3], "float32")

    def largest(x, values, i):
        return at(x)[ops.cast(i, "int32")].max(values)

    y, (dx, dv, _) = vjp(
        largest, [x, values, i], np.arange(1.0, 6, dtype="float32"), compile=compile
    )
    np.testing.assert_array_equal(y, np.array([3, 5, nan, inf, nan], "float32"))
    assert dx.tolist() == [0, 1, 0, 0, 0]
    assert dv.tolist() == [0.5, 0.5, 0, 1, 0, 0, 0, 0, 0, 0]


def test_a_tensor_that_is_broadcast_is_written_like_another():
    """Also by a compiler that keeps one element of it."""

    def edits(number, i):
        x = ops.broadcast_to(number, (4,))
        return ops.stack([at(x)[i].set(ops.cast(i, "float32")), at(x)[i].add(1.0)])

    given = [ops.convert_to_tensor(np.array(7, "float32")), ops.convert_to_tensor([2, 0, 2])]
    expected = np.array([[0, 7, 2, 7], [8, 7, 9, 7]], "float32")
    for function in (edits, optimized(edits)):
        check_array(function(*given), expected)


@pytest.mark.parametrize("op", ["add", "subtract"])
def test_what_is_not_chosen_keeps_its_sign(op):
    x, i = ops.convert_to_tensor(np.array([-0.0, 1], "float32")), ops.convert_to_tensor([0, 7, 1])
    for place in (at(x)[i[1:]], at(x)[i].where(X > 0)):
        y = to_numpy(getattr(place, op)(1.0))
        assert y.tolist() == [0, 2 if op == "add" else 0]
        assert np.signbit(y[0])


def test_get_fills_with_what_is_seldom_met(run):
    for dtype, fill in [("float32", np.nan), ("int32", -(2**31)), ("uint8", 255), ("bool", True)]:
        x = ops.convert_to_tensor(np.zeros(2, dtype))
        found = run(lambda x, i: at(x)[i].get())(x, ops.convert_to_tensor([0, 5]))
        np.testing.assert_array_equal(to_numpy(found), np.array([0, fill], dtype))
    with pytest.raises(TypeError, match="Received"):
        at(ops.zeros((2,), "int32"))[ops.convert_to_tensor([5])].get(fill_value=0.5)


def test_raise_looks_at_tensors_and_names_the_first_offender():
    x, index = ops.zeros((3, 4)), ops.convert_to_tensor([[0, 1], [7, 9]])
    for edit in (at[index].set(1.0, mode="raise"), at[:, index].get(mode="raise")):
        with pytest.raises(PositionError, match="index 7, which is out of bounds"):
            edit(x)
    expected = np.zeros((3, 4), "float32")
    expected[[[0, 1], [2, -1]]] = 1
    index = ops.convert_to_tensor([[0, 1], [2, -1]])
    check_array(at(x)[index].set(1.0, mode="raise"), expected)
    check_array(at(np.zeros((3, 4), "float32"))[index].set(1.0, mode="raise"), expected)
    with pytest.raises(Exception, match=r"mode=\"raise\"|graph break|Unsupported|ndarray"):
        compiled(lambda x, i: at(x)[i].set(1.0, mode="raise"))(x, index)
    for given in (x, np.zeros((3, 4))):
        with pytest.raises(PositionError, match="Received"):
            at(given)[5].set(1.0, mode="raise")


# --- Integers of any width ---------------------------------------------------------------------


def of_any_width(dtype):
    """Positions on an axis of 300, among them those at both ends of what JAX holds of a dtype."""
    high, low = min(np.iinfo(dtype).max, 2**31 - 1), max(np.iinfo(dtype).min, -(2**31))
    if dtype == "uint64":
        high = 2**64 - 1
    return np.array([1, 100, high, low], object).astype(dtype)


def test_index_of_any_integer_dtype(run):
    x = np.zeros(300, "float32")
    indices = [of_any_width(dtype) for dtype in INTEGERS]

    def edits(x, *indices):
        return [[at(x)[i].add(1.0, mode=mode) for mode in (None, "wrap")] for i in indices]

    found = run(edits)(*tensors([x, *indices]))
    for index, dropped, wrapped in zip(indices, *zip(*found, strict=True), strict=True):
        for mode, edited in ((None, dropped), ("wrap", wrapped)):
            places = oracle.positions_in_bounds(x.shape, (index,), mode)
            check_array(edited, oracle.update("add", x, places, np.float32(1)))


def test_index_that_is_no_integer_raises():
    for wrong in (ops.zeros(2), ops.zeros((2,), "complex64")):
        with pytest.raises(PositionError, match="Received"):
            at(ops.zeros(3))[wrong]
    with pytest.raises(PositionError, match="stack"):
        at(ops.zeros(3))[[ops.convert_to_tensor(1), ops.convert_to_tensor(2)]]
    with pytest.raises(PositionError, match="axes"):
        at(ops.zeros(3))[ops.convert_to_tensor(1), ops.convert_to_tensor(2)].set(0.0)
    for wrong in ([block(0, 3)], [each([0])], [1, block(0, 3)], np.ma.array([0, 1], mask=[0, 1])):
        with pytest.raises(PositionError, match="Received"):
            at(ops.zeros(3))[wrong]
    with pytest.raises(OperandError, match="Received"):
        at(ops.zeros(2))[:].set(block(1, 2))


def test_of_a_fill_value_that_does_not_fit_nothing_is_allowed():
    with pytest.raises(DTypeError, match="Cast") as raised:
        at(ops.ones(3, "int32"))[ops.convert_to_tensor([9])].get(fill_value=0.5)
    assert "casting=" not in str(raised.value)


# --- Duplicates --------------------------------------------------------------------------------


def test_a_million_rows_are_deterministic(run):
    count, size = 1_000_000, 1000
    rng = np.random.default_rng(0)
    index = rng.integers(-size, size + 50, count).astype("int32")
    values = rng.integers(0, 2**20, count).astype("int32")
    x = np.arange(size, dtype="int32")
    kept = index < size
    last = x.copy()
    last[index[kept]] = values[kept]
    most, total = x.copy(), x.copy()
    np.maximum.at(most, index[kept], values[kept])
    np.add.at(total, index[kept], values[kept])
    edits = run(lambda x, i, v: [at(x)[i].set(v), at(x)[i].max(v), at(x)[i].add(v)])
    found = edits(*tensors([x, index, values]))
    for one, expected in zip(found, (last, most, total), strict=True):
        np.testing.assert_array_equal(to_numpy(one), expected)
    found = at(ops.convert_to_tensor(x))[index[kept]].set(values[kept])  # known beforehand
    np.testing.assert_array_equal(to_numpy(found), last)


def test_promises_do_not_change_the_answer(run):
    x = np.arange(6, dtype="float32")
    index, values = np.array([0, 2, 3, 9]), np.array([5, 6, 7, 8], "float32")
    promise = {"unique_indices": True, "indices_are_sorted": True}

    def edits(x, i, v):
        return [
            at(x)[i].set(v, **promise),
            at(x)[i].multiply(v, unique_indices=True),
            at(x)[i].max(v, indices_are_sorted=True),
            at(x)[i].where(X < v).set(v, **promise),
            at(x)[i].get(**promise),
        ]

    places = oracle.positions_in_bounds(x.shape, (index,))
    expected = [oracle.update(op, x, places, values) for op in ("set", "multiply", "max", "set")]
    found = run(edits)(*tensors([x, index, values]))
    for one, other in zip(found, [*expected, oracle.get(x, places)], strict=True):
        check_array(one, other)


def test_condition_that_differs_between_picks_needs_a_promise():
    x, index = ops.zeros(3), ops.convert_to_tensor([0, 1])
    chosen = ops.convert_to_tensor([True, False])
    with pytest.raises(OperandError, match="unique_indices"):
        at(x)[index].where(chosen).set(1.0)
    found = at(x)[index].where(chosen).set(1.0, unique_indices=True)
    assert to_numpy(found).tolist() == [1, 0, 0]
    assert to_numpy(at(x)[index].where(chosen).add(1.0)).tolist() == [1, 0, 0]


def test_condition_on_many_positions_of_which_none_is_named_twice():
    rows, columns = np.divmod(np.random.default_rng(0).permutation(10000)[:2000], 100)
    chosen, expected = np.arange(2000) % 2 == 0, np.zeros((100, 100), "float32")
    expected[rows[chosen], columns[chosen]] = 1
    for x in (expected * 0, ops.zeros((100, 100))):
        check_array(at(x)[rows, columns].where(chosen).set(1.0), expected)


def test_condition_on_the_elements_at_computed_positions(run):
    x = np.array([[1, -2, 3], [-4, 5, -6]], "float32")
    index = np.array([2, 0, 2, 8])
    edits = run(lambda x, i: [updated(op, at[:, i].where(X > 0), x, 2.0) for op in oracle.UPDATES])
    places = oracle.positions_in_bounds(x.shape, (slice(None), index))
    places = np.where(np.append(x.ravel(), 0)[places] > 0, places, -1)
    for op, found in zip(oracle.UPDATES, edits(*tensors([x, index])), strict=True):
        check_array(found, oracle.update(op, x, places, np.float32(2)))


# --- Masks -------------------------------------------------------------------------------------

MASKS = [
    Case((5,), S[np.array([True, False, True, True, False])]),
    Case((5,), S[np.zeros(5, bool)]),
    Case((3, 4), S[np.arange(12).reshape(3, 4) % 5 == 0]),
    Case((3, 4), S[:, np.array([True, False, True, True])]),
    Case((3, 4), S[np.array([True, False, True]), None, 1:3]),
    Case((2, 3, 4), S[:, np.arange(12).reshape(3, 4) % 5 == 0]),
    Case((2, 3, 4), S[np.arange(6).reshape(2, 3) % 2 == 0, ::-2]),
    Case((2, 3, 4), S[1, :, np.array([True, False, False, True])]),
    Case((2, 3, 4), S[:, np.array([True, False, True]), np.array(2)]),
]


@eager_and_compiled(MASKS, MASKS[2:9:3])
def test_mask_takes_one_value_for_each_true(case, compile):
    places = oracle.positions(case.shape, case.index)
    x, values = data(case.shape, places)
    items, arrays = parted(case.index)
    statics = [item if is_static(item) else "array" for item in items]

    def edits(x, values, *given):
        index = put_together(statics, given)
        both = [at(x)[index].set(values), at(x)[index].multiply(values), at(x)[index].add(3.0)]
        return [*both, at(x)[index].apply(cube)]

    found = (compiled(edits) if compile else edits)(*tensors([x, values, *arrays]))
    given = [values, values, np.float32(3), values]
    for op, value, edited in zip(("set", "multiply", "add", "apply"), given, found, strict=True):
        check_array(edited, oracle.update(op, x, places, value))


def test_mask_of_which_too_few_or_too_many_values_are_given(run):
    x, mask = np.zeros(5, "float32"), np.array([True, False, True, True, False])
    edits = run(lambda x, m, few, many: [at(x)[m].set(few), at(x)[m].set(many)])
    few, many = edits(*tensors([x, mask, np.float32([1, 2]), np.float32([1, 2, 3, 4])]))
    assert to_numpy(few).tolist() == [1, 0, 2, 0, 0]
    assert to_numpy(many).tolist() == [1, 0, 2, 3, 0]
    with pytest.raises((ShapeError, PositionError), match="Received"):
        at(ops.zeros(5))[ops.convert_to_tensor(mask)].set([1.0, 2.0], mode="raise")
    with pytest.raises((ShapeError, PositionError), match="Received"):
        at(ops.zeros(5))[mask].set([1.0, 2.0])


def test_get_with_a_mask(run):
    x = np.arange(12, dtype="float32").reshape(3, 4)
    mask = x % 5 == 0
    get = run(lambda x, m: [at(x)[m].get(size=n, fill_value=-1.0) for n in (0, 2, 3, 5)])
    for found, size in zip(get(*tensors([x, mask])), (0, 2, 3, 5), strict=True):
        expected = np.append(x[mask], [-1, -1]).astype("float32")[:size]
        check_array(found, expected)
        check_array(at(x)[mask].get(size=size, fill_value=-1.0), expected)
    rows = run(lambda x, m: at(x)[:, m, 1:].get(size=3))
    x3, mask1 = np.arange(24, dtype="float32").reshape(2, 3, 4), np.array([True, False, True])
    expected = np.concatenate([x3[:, mask1, 1:], np.full((2, 1, 3), np.nan)], axis=1)
    check_array(rows(*tensors([x3, mask1])), expected.astype("float32"))
    check_array(at(ops.convert_to_tensor(x))[ops.convert_to_tensor(mask)].get(), x[mask])
    with pytest.raises(Exception, match=r"size=|Unsupported|ndarray|graph break"):
        compiled(lambda x, m: at(x)[m].get())(*tensors([x, mask]))
    with pytest.raises(OperandError, match="size"):
        at(x)[0].get(size=3)
    x, mask, columns = tensors([x, np.array([True, False, True]), np.array([0, 99])])
    check_array(at(x)[mask, columns].get(), np.array([0, np.nan], "float32"))


def test_mask_beside_positions_names_pairs(run):
    x = np.arange(12, dtype="float32").reshape(3, 4)
    mask, columns = np.array([True, False, True]), np.array([1, 3])
    expected = x.copy()
    expected[mask, columns] = -1
    edits = run(lambda x, m, c: [at(x)[m, c].set(-1.0), at(x)[m, [1, 3]].set(-1.0)])
    for found in edits(*tensors([x, mask, columns])):
        check_array(found, expected)
    twice = [[1, 3], [1, 3]]
    expected = x.copy()
    np.add.at(expected, (mask, twice), np.float32(1))
    edit = run(lambda x, m: at(x)[m, twice].add(1.0))
    check_array(edit(*tensors([x, mask])), expected)


def test_mask_that_does_not_fit_raises():
    x, mask = ops.zeros((2, 3)), ops.convert_to_tensor([True, False])
    with pytest.raises(PositionError, match="mask"):
        at(x)[:, mask].set(0.0)
    with pytest.raises(OperandError, match="only one"):
        at(x)[mask, ops.convert_to_tensor([True, False, True])].set(0.0)
    with pytest.raises(ShapeError, match="broadcast"):
        at(x)[mask].set(ops.zeros((4, 2, 3)))


# --- Positions of their own in each sample -----------------------------------------------------

EACH = [
    ((4, 5), (), S["i"]),
    ((4, 5), (2,), S["i"]),
    ((4, 5), (2, 3), S["i"]),
    ((4, 5, 3), (), S["i", 1]),
    ((4, 5, 3), (), S["i", ::2]),
    ((4, 5, 3), (2,), S[:, "i"]),
    ((4, 5, 3), (2,), S["i", :, None]),
    ((4, 3, 5), (2,), S[1:, "i"]),
    ((4, 5, 3), (2,), S["i", "i"]),
    ((4, 5, 3), (2,), S["i", np.array([0, -1])]),
    ((4, 5, 2, 5), (2,), S["i", :, "i"]),
    ((4, 5, 2, 5), (2,), S["i", ..., 2]),
    ((4, 2, 3, 5), (2, 1), S[0, :, "i"]),
]


def each_index(index, array):
    items = index if isinstance(index, tuple) else (index,)
    return tuple([each(array) if isinstance(i, str) else i for i in items])


def each_places(shape, index, array, mode=None):
    """What each sample's own positions select there, sample by sample."""
    items = index if isinstance(index, tuple) else (index,)
    whole = np.arange(np.prod(shape)).reshape(shape)
    rows = []
    for row, positions in zip(
        whole, np.broadcast_to(array, (shape[0], *array.shape[1:])), strict=True
    ):
        own = tuple([positions if isinstance(i, str) else i for i in items])
        inside = oracle.positions_in_bounds(row.shape, own, mode)
        rows.append(np.where(inside < 0, -1, row.ravel()[inside]))
    return np.stack(rows)


@pytest.mark.parametrize("mode", [None, "clip", "wrap"])
@pytest.mark.parametrize("case", eagerly(EACH), ids=str)
def test_each(case, mode):
    shape, inner, index = case
    array = np.random.default_rng(0).integers(-6, 6, (shape[0], *inner))
    places = each_places(shape, index, array, mode)
    x, values = data(shape, places)
    tensor = ops.convert_to_tensor(x)
    place = sample[each_index(index, ops.convert_to_tensor(array))]
    check_array(place.get(mode=mode)(tensor), oracle.get(x, places))
    for op in oracle.UPDATES:
        expected = oracle.update(op, x, places, values)
        check_array(updated(op, place, tensor, values, mode=mode), expected)
    mode = mode or "drop"  # what is known beforehand would raise
    known = sample[each_index(index, array)]
    check_array(known.get(mode=mode)(x), oracle.get(x, places))
    for op in oracle.UPDATES:
        expected = oracle.update(op, x, places, values)
        check_array(updated(op, known, tensor, values, mode=mode), expected)
        check_array(updated(op, known, x, values, mode=mode), expected)


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_gradients_of_each(compile):
    shape, inner, index = EACH[5]
    array = np.random.default_rng(0).integers(-6, 6, (shape[0], *inner))
    places = each_places(shape, index, array)
    x, values = data(shape, places)
    count = len(oracle.UPDATES)

    def all_operations(i, *primals):
        place = sample[each_index(index, ops.cast(i, "int32"))]
        both = zip(oracle.UPDATES, primals[:count], primals[count:], strict=True)
        return ops.stack([updated(op, place, x, v) for op, x, v in both])

    upstream = np.random.default_rng(1).normal(size=(count, *x.shape)).astype("float32")
    primals = [as_floats(array), *[x] * count, *[values] * count]
    results, (_, *gradients) = vjp(all_operations, primals, upstream, compile=compile)
    for n, op in enumerate(oracle.UPDATES):
        check_array(results[n], oracle.update(op, x, places, values))
        dx, dv = oracle.update_vjp(op, x, places, values, upstream[n])
        np.testing.assert_allclose(gradients[n], dx, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(gradients[count + n], dv, rtol=1e-4, atol=1e-5)


def test_each_of_one_row_is_the_same_for_all():
    x = np.zeros((3, 4), "float32")
    expected = x.copy()
    expected[:, [1, 3]] = 1
    for given in (x, ops.convert_to_tensor(x)):
        check_array(sample(given)[each([[1, 3]])].set(1.0), expected)


def test_each_belongs_into_sample_and_holds_integers():
    with pytest.raises(CoordinateError, match="sample"):
        at(np.zeros((2, 3)))[each([0, 1])].set(0.0)
    for wrong in (2, [True, False], 1.5, ops.zeros(2), ops.convert_to_tensor(1)):
        with pytest.raises(PositionError, match="Received"):
            each(wrong)
    with pytest.raises(ShapeError, match="batch"):
        sample(np.zeros((3, 4)))[each([0, 1])].set(0.0)
    with pytest.raises(PositionError, match="out of bounds"):
        sample(np.zeros((2, 3)))[each([0, 5])].set(0.0)


# --- Blocks ------------------------------------------------------------------------------------


def block_places(shape, start, size, mode):
    """Positions on axis 1, written down one by one."""
    length = shape[1]
    start = start + length if start < 0 else start
    if mode == "clip":
        start = min(max(start, 0), max(length - size, 0))
    whole = np.arange(np.prod(shape)).reshape(shape)
    columns = []
    for position in range(start, start + size):
        if mode == "wrap":
            position %= length
        elif mode == "clip":
            position = min(position, length - 1)
        inside = 0 <= position < length
        columns.append(whole[:, position] if inside else np.full(shape[0], -1))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("mode", [None, "clip", "wrap"])
@pytest.mark.parametrize("start", [0, 2, 3, 4, 7, -1, -3, -5, -9])
def test_blocks(start, mode):
    shape = (2, 4)
    for size in (1, 3, 5):
        places = block_places(shape, start, size, mode)
        x, values = data(shape, places)
        tensor = ops.convert_to_tensor(x)
        for given, begin in ((x, start), (tensor, start), (tensor, ops.convert_to_tensor(start))):
            place = at[:, block(begin, size)]
            check_array(place.get(mode=mode)(given), oracle.get(x, places))
            for op in ("set", "add", "multiply", "max"):
                expected = oracle.update(op, x, places, values)
                check_array(updated(op, place, given, values, mode=mode), expected)


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_block_that_overhangs_is_written_as_far_as_it_reaches(compile):
    x, values = np.zeros((2, 4), "float32"), np.array([1, 2, 3], "float32")
    upstream = np.arange(8, dtype="float32").reshape(2, 4)
    y, (dx, dv, _) = vjp(
        lambda x, v, i: at(x)[:, block(ops.cast(i, "int32"), 3)].set(v),
        [x, values, np.float32(2)],
        upstream,
        compile=compile,
    )
    assert y.tolist() == [[0, 0, 1, 2]] * 2
    assert dx.tolist() == [[0, 1, 0, 0], [4, 5, 0, 0]]
    assert dv.tolist() == [8, 10, 0]


def test_block_needs_an_integer_and_a_size():
    for wrong in ((1.5, 2), (0, -1), (0, 2.0), (ops.zeros(2, "int32"), 2), (True, 2)):
        with pytest.raises(PositionError, match="Received"):
            block(*wrong)
    for given in (np.zeros(4), ops.zeros(4)):
        with pytest.raises(PositionError, match="block"):
            at(given)[block(3, 2)].set(0.0, mode="raise")
    start = ops.convert_to_tensor(3)
    with pytest.raises(PositionError, match="block"):
        at(ops.zeros(4))[block(start, 2)].set(0.0, mode="raise")
