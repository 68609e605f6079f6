"""Where Keras backends disagree, kedit has one answer: a test for each probe that showed it.

Probes keep the names of the study that found them. In each, `i` is a NumPy array, which is known
beforehand, or a tensor, which is not.
"""

import keras
import numpy as np
import pytest
from _backend import compiled, tensors, to_numpy, vjp
from keras import ops
from kit import check_close, dtype_of

from kedit import Edit, X, at, block, each, sample
from kedit.errors import DTypeError, EditError, OperandError, PositionError, ShapeError

S = np.s_
NAN, LEAST = float("nan"), -(2**31)


def update(op, **options):
    return lambda x, i, v: getattr(at(x)[i], op)(v, **options)


def read(**options):
    return lambda x, i, v: at(x)[i].get(**options)


def pairs(op):
    """`i` holds the positions on the first axis and those on the second."""
    return lambda x, i, v: getattr(at(x)[i[0], i[1]], op)(v)


def of_block(size, op="set", **options):
    return lambda x, i, v: getattr(at(x)[block(i, size)], op)(*[v][: op != "get"], **options)


def per_sample(x, i, v):
    return sample(x)[each(i)].get()


def probe(name, call, x, i, v, expected, dtype="float32", index="int32", values=None, known=None):
    """What `call` makes of `x`; `known` is the error if positions are known beforehand."""
    arrays = np.array(x, dtype), np.array(i, index), np.array(v, values or dtype)
    return pytest.param(call, arrays, np.array(expected, dtype), known, id=name)


OOB = {"known": PositionError}
SET, ADD, MULTIPLY, MAX, GET = (
    update("set"),
    update("add"),
    update("multiply"),
    update("max"),
    read(),
)
ZEROS, ONES = [0, 0, 0], [1, 1, 1]

PROBES = [
    # out of bounds, negative
    probe("scatter_set_oob", SET, ZEROS, [5], [7], ZEROS, **OOB),
    probe("scatter_add_oob", ADD, ZEROS, [5, 1], [7, 1], [0, 1, 0], **OOB),
    probe("scatter_mul_oob", MULTIPLY, ONES, [5, 1], [7, 2], [1, 2, 1], **OOB),
    probe("scatter_set_negative", SET, ZEROS, [-1], [7], [0, 0, 7]),
    probe("scatter_mul_negative", MULTIPLY, ONES, [-1], [7], [1, 1, 7]),
    probe("scatter_set_below_negative", SET, ZEROS, [-4], [7], ZEROS, **OOB),
    probe("index_uint32_max", SET, ZEROS, [2**32 - 1], [7], ZEROS, index="uint32", **OOB),
    probe("scatter_set_oob_drop", update("set", mode="drop"), ZEROS, [5, -4], [7, 8], ZEROS),
    probe("scatter_set_oob_clip", update("set", mode="clip"), ZEROS, [5, -9], [7, 8], [8, 0, 7]),
    probe("scatter_set_oob_wrap", update("set", mode="wrap"), ZEROS, [5, -6], [7, 8], [8, 0, 7]),
    probe(
        "index_uint32_clip",
        update("set", mode="clip"),
        ZEROS,
        [2**32 - 2],
        [7],
        [0, 0, 7],
        index="uint32",
    ),
    probe(
        "index_uint32_wrap",
        update("set", mode="wrap"),
        ZEROS,
        [2**32 - 2],
        [7],
        [0, 0, 7],
        index="uint32",
    ),
    probe("segment_sum_oob", ADD, [0, 0], [0, 5, -1], [1, 2, 3], [1, 3], **OOB),
    probe("take_oob", GET, [10, 20, 30], [1, 5], 0, [20, NAN], **OOB),
    probe("take_oob_int", GET, [10, 20], [1, 5], 0, [20, LEAST], "int32", **OOB),
    probe("take_oob_uint8", GET, [10, 20], [1, 5], 0, [20, 255], "uint8", **OOB),
    probe("take_oob_bool", GET, [0, 0], [1, 5], 0, [0, 1], "bool", **OOB),
    probe("take_oob_fill", read(mode="fill", fill_value=5), [10, 20], [1, 5], 0, [20, 5]),
    probe("take_below_negative", GET, [10, 20, 30], [-4], 0, [NAN], **OOB),
    probe("take_along_axis_oob", per_sample, [[10, 20, 30]], [5], 0, [NAN], **OOB),
    probe("getitem_oob_tensor", GET, [0, 1, 2], 5, 0, NAN, **OOB),
    # blocks, in place of `slice` and `slice_update` with a start that is computed
    probe("slice_update_oob_tensor_start", of_block(2), [0] * 4, 3, [7, 8], [0, 0, 0, 7]),
    probe("slice_update_clip", of_block(2, mode="clip"), [0] * 4, 3, [7, 8], [0, 0, 7, 8]),
    probe("slice_update_negative_tensor", of_block(1), [0] * 4, -1, [7], [0, 0, 0, 7]),
    probe("slice_update_negative_two", of_block(2), [0] * 4, -2, [7, 8], [0, 0, 7, 8]),
    probe("slice_oob", of_block(2, "get"), [0, 1, 2, 3], 3, 0, [3, NAN]),
    probe("slice_negative", of_block(2, "get"), [0, 1, 2, 3], -2, 0, [2, 3]),
    # duplicates, NaN
    probe("dup_set_value", SET, ZEROS, [1, 1, 1], [5, 6, 7], [0, 7, 0]),
    probe("scatter_dup_vs_doc", SET, [0, 0], [0, 0], [1, 2], [2, 0]),
    probe("mul_numpy_indices", MULTIPLY, [2, 1, 5], [0, 2, 0], [1, 1, 2], [4, 1, 5]),
    probe("max_nan_update", MAX, [1], [0], [NAN], [NAN]),
    probe("max_nan_duplicate", MAX, [1], [0, 0], [NAN, 3], [NAN]),
    probe("bool_max", MAX, [0, 1], [0, 1], [1, 0], [1, 1], "bool"),
    probe("segment_max_int_dtype", MAX, [LEAST, 0], [1, 1], [5, 3], [LEAST, 5], "int32"),
    # dtypes of values and of indices
    probe("dtype_set_int_into_float", SET, ZEROS, [1], [2], [0, 2, 0], values="int32"),
    probe("slice_update_dtype", of_block(1), [0] * 4, 1, [7], [0, 7, 0, 0], values="int32"),
    probe("index_dtype_uint8", SET, ZEROS, [1], [7], [0, 7, 0], index="uint8"),
    probe("index_dtype_uint32", SET, ZEROS, [1], [7], [0, 7, 0], index="uint32"),
    probe("index_dtype_int8_long_axis", SET, [0] * 200, [-1], [7], [0] * 199 + [7], index="int8"),
    probe("index_dtype_bool", SET, [0, 0], [1, 0], [5], [5, 0], index="bool"),
    # values that broadcast
    probe("updates_scalar_broadcast", SET, ZEROS, [0, 2], 7, [7, 0, 7]),
    probe("updates_scalar_broadcast_max", MAX, ZEROS, [0, 2], 7, [7, 0, 7]),
    probe("updates_row_broadcast", SET, [[0, 0]] * 3, [0, 2], [1, 2], [[1, 2], [0, 0], [1, 2]]),
    probe("updates_row_broadcast_max", MAX, [[0, 0]] * 3, [0, 2], [1, 2], [[1, 2], [0, 0], [1, 2]]),
    probe("slice_update_low_rank", SET, [[0, 0]] * 2, 1, [7, 8], [[0, 0], [7, 8]]),
    # shapes of indices
    probe("index_rank1", pairs("set"), [ZEROS] * 2, [1, 2], 7, [ZEROS, [0, 0, 7]]),
    probe(
        "index_rank3_square",
        pairs("set"),
        [[0] * 4] * 4,
        [[[0, 0], [3, 3]], [[1, 2], [0, 3]]],
        [[1, 2], [3, 4]],
        [[0, 1, 2, 0], [0] * 4, [0] * 4, [3, 0, 0, 4]],
    ),
    probe(
        "index_rank3_rect",
        SET,
        [0] * 6,
        [[0, 1, 2], [3, 4, 5]],
        [[1, 2, 3], [4, 5, 6]],
        [1, 2, 3, 4, 5, 6],
    ),
    probe("empty_indices_typed", SET, ONES, np.zeros(0), np.zeros(0), ONES),
    probe("empty_indices_typed_mul", MULTIPLY, ONES, np.zeros(0), np.zeros(0), ONES),
    probe(
        "getitem_int_tensor_pair",
        lambda x, i, v: at(x)[i[0], i[1]].get(),
        [ZEROS, ZEROS, [4, 5, 6]],
        [[0, 2], [1, 2]],
        0,
        [0, 6],
    ),
    probe(
        "torch_layout",
        lambda x, i, v: at(x)[0, :, i].get(),
        [[[1, 2, 3], [4, 5, 6]]],
        [0, 2],
        0,
        [[1, 4], [3, 6]],
    ),
]


def check_same(found, expected):
    np.testing.assert_array_equal(to_numpy(found), expected)
    assert dtype_of(found) == expected.dtype.name


def check_unchanged(given, arrays):
    for tensor, array in zip(given, arrays, strict=True):
        np.testing.assert_array_equal(to_numpy(tensor), array)


@pytest.mark.parametrize(("call", "arrays", "expected", "known"), PROBES)
def test_positions_known_beforehand(call, arrays, expected, known):
    x, i, v = [array.copy() for array in arrays]
    for given in ([x, v], tensors([x, v]), [x, *tensors([v])]):
        if known is None:
            check_same(call(given[0], i, given[1]), expected)
        else:
            with pytest.raises(known, match="out of bounds"):
                call(given[0], i, given[1])
        check_unchanged([given[0], i, given[1]], arrays)


@pytest.mark.tensors
@pytest.mark.parametrize(("call", "arrays", "expected", "known"), PROBES)
def test_positions_in_a_tensor(call, arrays, expected, known):
    x, i, v = tensors(arrays)
    check_same(call(x, i, v), expected)
    check_same(call(arrays[0], i, arrays[2]), expected)
    check_unchanged([x, i, v], arrays)


COMPILED = {
    "scatter_set_oob",
    "scatter_mul_negative",
    "segment_sum_oob",
    "take_oob",
    "slice_update_oob_tensor_start",
    "dup_set_value",
    "max_nan_duplicate",
    "index_dtype_int8_long_axis",
    "updates_row_broadcast_max",
    "empty_indices_typed_mul",
}


@pytest.mark.tensors
def test_positions_in_a_tensor_compiled():
    """In one function, to compile once."""
    cases = [case for case in PROBES if case.id in COMPILED]
    calls, arrays, expected, _ = zip(*[case.values for case in cases], strict=True)
    assert len(calls) == len(COMPILED)

    def all_probes(given):
        return [call(*three) for call, three in zip(calls, given, strict=True)]

    results = compiled(all_probes)([tensors(three) for three in arrays])
    for case, found, wanted in zip(cases, results, expected, strict=True):
        np.testing.assert_array_equal(to_numpy(found), wanted, err_msg=case.id)


@pytest.mark.tensors
def test_last_of_many_updates_wins():
    """dup_set_nondeterministic: one position twice, where a kernel may part the work in two."""
    count = 2**20
    i = np.arange(count, dtype="int32")
    i[count // 2] = i[count // 2 - 1]
    values = np.arange(count, dtype="float32")
    x, i, v = tensors([np.zeros(count, "float32"), i, values])
    values[count // 2 - 1 : count // 2 + 1] = count // 2, 0
    for _ in range(3):
        check_same(at(x)[i].set(v), values)


@pytest.mark.parametrize("many", [1, 1025])
@pytest.mark.parametrize("number", [2**32, 2**31 + 5, -(2**32) - 3])
def test_index_int64_2_pow_32(number, many):
    """No number of 64 bits is taken for the one that its lower 32 bits are."""
    places = {"drop": None, "fill": None, "clip": 2 if number > 0 else 0, "wrap": number % 3}
    for x in (np.zeros(3, "float32"), ops.zeros(3)):
        for index in (np.full(many, number), np.full((1, many), number)):
            with pytest.raises(PositionError, match="out of bounds"):
                at(x)[index].set(7.0)
            for mode, place in places.items():
                expected = np.where(np.arange(3) == place, 7, 0).astype("float32")
                check_same(at(x)[index].set(7.0, mode=mode), expected)
        with pytest.raises(PositionError, match="out of bounds"):
            at(x)[number].set(7.0)


# --- Gradients ---------------------------------------------------------------------------------

# x, i, v and the gradients of x and v for an upstream gradient of 1, 10, 100
GRADIENTS = [
    ("dup_set_grad", SET, [1, 2, 3], [0, 0, 2], [4, 5, 6], [0, 10, 0], [0, 1, 100]),
    ("dup_add_grad", ADD, [1, 2, 3], [0, 0, 2], [4, 5, 6], [1, 10, 100], [1, 1, 100]),
    ("dup_mul_grad", MULTIPLY, [1, 2, 3], [0, 0, 2], [4, 5, 6], [20, 10, 600], [5, 4, 300]),
    ("unique_mul_grad", MULTIPLY, [1, 2, 3], [0, 2], [4, 5], [4, 10, 500], [1, 300]),
    ("mul_grad_through_zero", MULTIPLY, [0, 1], [0, 0], [2, 3], [6, 10], [0, 0]),
    ("mul_grad_by_zero", MULTIPLY, [2, 1], [0, 0], [0, 3], [0, 10], [6, 0]),
    ("dup_max_grad", MAX, [1, 2, 3], [0, 0, 2], [4, 5, 2], [0, 10, 100], [0, 1, 0]),
    ("max_grad_three_way_tie", MAX, [3], [0, 0], [3, 3], [1 / 3], [1 / 3, 1 / 3]),
    ("oob_set_grad", SET, [1, 2, 3], [5, 1], [4, 5], [1, 0, 100], [0, 10]),
    ("oob_add_grad", ADD, [1, 2, 3], [5, 1], [4, 5], [1, 10, 100], [0, 10]),
    ("oob_take_grad", GET, [1, 2, 3], [5, 1, -1], [], [0, 10, 100], []),
    ("negative_set_grad", SET, [1, 2, 3], [-1], [4], [1, 10, 0], [100]),
    ("slice_update_grad", of_block(2), [1, 2, 3], 1, [4, 5], [1, 0, 0], [10, 100]),
    ("slice_update_oob_grad", of_block(2), [1, 2, 3], 2, [4, 5], [1, 10, 0], [100, 0]),
]
GRADIENTS = [pytest.param(call, *arrays, id=name) for name, call, *arrays in GRADIENTS]


def check_gradients(cases, *, compile):
    """Of all cases in one function; positions are computed inside, and get no gradient."""
    calls, xs, places, vs, dxs, dvs = zip(*cases, strict=True)
    primals = [np.array(a, "float32") for three in zip(xs, places, vs, strict=True) for a in three]
    upstream = np.array([w for x in xs for w in [1, 10, 100][: len(x)]], "float32")

    def together(*primals):
        threes = zip(calls, primals[::3], primals[1::3], primals[2::3], strict=True)
        return ops.concatenate([call(x, ops.cast(i, "int32"), v) for call, x, i, v in threes])

    _, found = vjp(together, primals, upstream, compile=compile)
    for one, dx, dv in zip(range(0, len(found), 3), dxs, dvs, strict=True):
        np.testing.assert_allclose(found[one], dx, rtol=1e-6)
        np.testing.assert_allclose(found[one + 2], dv, rtol=1e-6)
        assert not found[one + 1].any()


@pytest.mark.gradient
@pytest.mark.parametrize(("call", "x", "i", "v", "dx", "dv"), GRADIENTS)
def test_gradients(call, x, i, v, dx, dv):
    check_gradients([(call, x, i, v, dx, dv)], compile=False)
    primals = np.array(x, "float32"), np.array(v, "float32")
    upstream = np.array([1, 10, 100][: len(x)], "float32")
    index = np.array(i)
    if (index < len(x)).all() and "block" not in str(call):
        _, (known_dx, known_dv) = vjp(lambda x, v: call(x, index, v), primals, upstream)
        np.testing.assert_allclose(known_dx, dx, rtol=1e-6)
        np.testing.assert_allclose(known_dv, dv, rtol=1e-6)


@pytest.mark.gradient
def test_gradients_compiled():
    check_gradients([case.values for case in GRADIENTS], compile=True)


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_where_nan_grad(compile):
    edit = at.where(X > 0).apply(ops.sqrt) | at.where(X <= 0).set(0.0)
    y, (dx,) = vjp(edit, [np.array([0, 4], "f")], np.ones(2, "f"), compile=compile)
    assert y.tolist() == [0, 2]
    assert dx.tolist() == [0, 0.25]


# --- Dtypes ------------------------------------------------------------------------------------

UNSAFE = [
    ("dtype_set_float_into_int", at[[1]], "set", ZEROS, "int32", [1.9], [0, 1, 0]),
    ("dtype_add_float_into_int", at[[1, 1]], "add", ONES, "int32", [0.6, 0.6], ONES),
    ("dtype_mul_float_into_int", at[[1]], "multiply", [2, 2], "int32", [1.5], [2, 2]),
    ("dtype_int8_overflow", at[[0]], "set", [0, 0], "int8", [300], [127, 0]),
    ("where_uint8_neg", at.where(np.array([False, True])), "set", [1, 2], "uint8", -1, [1, 0]),
]


def test_values_that_lose_something_raise_or_saturate(run):
    def all_edits(xs, vs):
        return [
            getattr(place, op)(v, casting="unsafe")(x)
            for (_, place, op, *_), x, v in zip(UNSAFE, xs, vs, strict=True)
        ]

    xs = [np.array(x, dtype) for _, _, _, x, dtype, *_ in UNSAFE]
    vs = [np.array(v, "float32" if np.ndim(v) and v[0] % 1 else "int32") for *_, v, _ in UNSAFE]
    found = run(all_edits)(tensors(xs), tensors(vs))
    for (name, place, op, _, dtype, v, expected), y, x in zip(UNSAFE, found, xs, strict=True):
        expected = np.array(expected, dtype)
        check_same(y, expected)
        for given in (x, ops.convert_to_tensor(x)):
            check_same(getattr(place, op)(v, casting="unsafe")(given), expected)
            with pytest.raises(DTypeError, match="Received"):
                pytest.fail(f"{name}: {getattr(place, op)(v)(given)}")


def test_dtype_bf16_target_f32_updates():
    y = at(ops.ones(2, "bfloat16"))[[0, 1]].set(ops.convert_to_tensor([3.0, 2.0]))
    assert dtype_of(y) == "bfloat16"
    check_close(y, [3, 2])


# --- Indices and models ------------------------------------------------------------------------

INDICES = [
    pytest.param([0, 2], id="getitem_list_is_tuple"),
    pytest.param(np.array([0, 2]), id="getitem_int_array"),
    pytest.param(np.array([True, False, True]), id="getitem_bool_mask"),
    pytest.param(S[::-1], id="getitem_negative_step"),
    pytest.param(S[:, np.array([0, 2])], id="symbolic_getitem_int_array"),
    pytest.param(S[:, np.int64(1)], id="symbolic_getitem_npint"),
    pytest.param(S[:2], id="symbolic_getitem_bare_slice"),
    pytest.param(True, id="symbolic_getitem_bool"),
    pytest.param([], id="empty_indices_list"),
    pytest.param(S[1:9], id="slice_oob"),
    pytest.param(S[-2:], id="slice_negative"),
    pytest.param(S[0, :, [0, 1]], id="torch_layout"),
]


@pytest.mark.parametrize("index", INDICES)
def test_index_means_what_it_means_in_numpy(index):
    """In a tensor, in the shape inferred of a `KerasTensor`, and in a model."""
    x = np.arange(24, dtype="float32").reshape(2, 3, 4)[..., :3].copy()
    one, written = x[0] if not isinstance(index, tuple) or len(index) < 3 else x, x.copy()
    written = one.copy()
    written[index] = -1
    tensor = ops.convert_to_tensor(one)
    check_same(at(tensor)[index].get(), one[index])
    check_same(at(tensor)[index].set(-1.0), written)
    symbol = keras.KerasTensor(one.shape)
    assert at(symbol)[index].get().shape == one[index].shape
    assert at(symbol)[index].set(-1.0).shape == one.shape
    inputs = keras.Input(one.shape)
    model = keras.Model(inputs, [sample(inputs)[index].get(), sample(inputs)[index].set(-1.0)])
    found = model(tensor[None])
    check_same(found[0], one[index][None])
    check_same(found[1], written[None])


ERRORS = [
    ("getitem_oob_int", lambda x: at(x)[5].get(), PositionError),
    ("jax_set_oob_is_silent", lambda x: at(x)[9].set(7), PositionError),
    ("index_dtype_float", lambda x: at(x)[np.array([1.9])].set(7), PositionError),
    ("index_dtype_float_tensor", lambda x: at(x)[ops.ones(1)].set(7), PositionError),
    ("index_dtype_bool", lambda x: at(x)[np.array([True, False, False])].set([5, 6]), ShapeError),
    ("updates_too_many_max", lambda x: at(x)[[0, 1]].max([1, 2, 3]), ShapeError),
    ("updates_too_many_max_tensor", lambda x: at(x)[[0, 1]].max(ops.ones(3)), ShapeError),
    ("too_many_index_columns", lambda x: at(x)[[0], [0]].set([7]), PositionError),
    ("slice_update_too_big_symbolic", lambda x: at(x)[2:].set(np.zeros(5)), ShapeError),
    ("slice_minus_one", lambda x: at(x)[block(1, -1)].get(), PositionError),
    ("symbolic_scatter_garbage", lambda x: at(x)[np.zeros((2, 5))].set(ops.ones(9)), PositionError),
    ("symbolic_scatter_shape", lambda x: at(x)[[[0, 1]]].set(np.zeros((9, 9))), ShapeError),
    ("ScatterUpdate_ctor", lambda x: Edit(at[0].selection, "foo")(x), OperandError),  # noqa: PLW0108
    ("bool_add", lambda x: at(ops.cast(x, "bool"))[0].add(True), DTypeError),
    ("jax_int_divide", lambda x: at(ops.cast(x, "int32"))[0].divide(0.5), DTypeError),
    ("jax_int_power", lambda x: at(ops.cast(x, "int32"))[0].power(0.5), DTypeError),
]


@pytest.mark.parametrize(("call", "error"), [pytest.param(*e[1:], id=e[0]) for e in ERRORS])
def test_what_does_not_fit_raises_everywhere(call, error):
    for x in (np.zeros(3, "float32"), ops.zeros(3), keras.KerasTensor((3,))):
        with pytest.raises(error, match="Received") as raised:
            call(x)
        assert isinstance(raised.value, EditError)
        assert isinstance(raised.value, error.__mro__[2])


def test_item_assignment_has_a_counterpart_for_all():
    """setitem_*, variable_as_input, python_list_inputs, mutation_through_dense_weights."""
    expected = np.array([0, 7, 0], "float32")
    variable = keras.Variable(np.zeros(3, "float32"))
    for x in (variable, ops.zeros(3), np.zeros(3, "float32"), [0.0, 0.0, 0.0]):
        with pytest.raises(TypeError, match="item assignment"):
            at(x)[1] = 7.0
        np.testing.assert_array_equal(to_numpy(at(x)[1].set(7.0)), expected)
        np.testing.assert_array_equal(to_numpy(at(x)[[1]].set([7.0])), expected)
        assert not np.any(to_numpy(x))
    inputs = keras.Input((3,))
    model = keras.Model(inputs, at(inputs)[:, 1].set(7.0))
    check_same(model(ops.zeros((1, 3))), expected[None])


class Erasing(keras.layers.Layer):
    def call(self, x):
        return at(x)[:, 1].set(7.0)


def test_functional_output_corrupted():
    """And functional_const_indices, layer_mutates_caller_array: nothing else is edited."""
    inputs = keras.Input((3,))
    h = inputs * 1
    model = keras.Model(inputs, [h, at(h)[0, [0, 1]].set(7.0), at(h)[:, -1].add(7.0), h + 0])
    given = np.zeros((2, 3), "float32")
    found = model.predict(given, verbose=0)
    for y, expected in zip(
        found, [[ZEROS] * 2, [[7, 7, 0], ZEROS], [[0, 0, 7]] * 2, [ZEROS] * 2], strict=True
    ):
        check_same(y, np.array(expected, "float32"))
    check_same(Erasing()(given), np.array([[0, 7, 0]] * 2, "float32"))
    assert not given.any()


@pytest.mark.tensors
@pytest.mark.parametrize("options", [{"run_eagerly": True}, {"jit_compile": True}], ids=str)
def test_model_predict_modes(options):
    """And functional_scatter_unknown_batch, functional_row_index_unknown_batch, symbolic mask."""
    x, rows, columns = keras.Input((4,)), *[keras.Input((), dtype="int32") for _ in "ij"]
    v = keras.Input(())
    outputs = [
        at(x)[:, -1].set(7.0),
        at(x)[rows, columns].set(v),
        sample(x)[each(columns)].set(v),
        at(x)[x > 2].get(size=3, fill_value=0.0),
    ]
    assert [y.shape for y in outputs] == [(None, 4)] * 3 + [(3,)]
    with pytest.raises(OperandError, match="size="):
        at(x)[x > 2].get()
    model = keras.Model([x, rows, columns, v], outputs)
    model.compile(**options)
    given = np.arange(8, dtype="float32").reshape(2, 4)
    places = np.array([1, 5], "int32"), np.array([-1, 2], "int32")
    values = np.array([10, 20], "float32")
    expected = [given.copy() for _ in "123"]
    expected[0][:, -1] = 7
    expected[1][1, -1] = 10
    expected[2][[0, 1], [-1, 2]] = values
    found = model.predict_on_batch([given, *places, values])
    for y, wanted in zip(found, [*expected, np.array([3, 4, 5], "float32")], strict=True):
        check_same(y, wanted)


@pytest.mark.gradient
@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_through_updates(jit_compile):
    inputs = keras.Input((3,))
    dense = keras.layers.Dense(
        5, use_bias=False, kernel_initializer=keras.initializers.Constant(0.5)
    )
    h = at(dense(inputs))[:, :1].set(np.zeros((1, 1)))  # slice_update
    h = at(h)[:, [1, 2]].max(np.array([2.0, 1.0]))
    h = at(h)[:, np.array([3, 3])].multiply(np.array([1.0, 2.0]))
    h = at(h)[:, ops.cast(at(inputs)[0, :1].get(), "int32") + 3].set(0.0)  # position 4
    model = keras.Model(inputs, h)
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=jit_compile)
    model.fit(np.ones((2, 3), "float32"), np.zeros((2, 5), "float32"), verbose=0)
    # h is 1.5 everywhere; 2 * y * dy/dh / 5 for column 2 and 3, nothing for the rest
    expected = 0.5 - np.array([[0, 0, 0.6, 2.4, 0]] * 3)
    check_close(dense.kernel, expected)
