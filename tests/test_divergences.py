"""Where the backends of Keras disagree, kedit has one answer: a test for each probe that shows it.

Ids are the names of the probes in the study that found them.
"""

import keras
import numpy as np
import pytest
from _backend import compiled, tensors, to_numpy, vjp
from keras import ops
from kit import check_close, dtype_of

from kedit import Edit, X, at, block, each, sample
from kedit.errors import DTypeError, OperandError, PositionError, ShapeError

S = np.s_
F, I32, U32 = "float32", "int32", "uint32"
NAN, LEAST = float("nan"), -(2**31)
ZEROS, ONES, PLANE = [0, 0, 0], [1, 1, 1], [[0, 0]] * 3


def check_same(found, expected):
    np.testing.assert_array_equal(to_numpy(found), expected)
    assert dtype_of(found) == expected.dtype.name


def params(rows):
    return [pytest.param(*row[1:], id=row[0]) for row in rows]


# --- Values: in each, `i` is an array, known beforehand, or a tensor ---------------------------


def edit(op, index=lambda i: i, coordinates=at, **options):
    """What makes an edit of `x` with positions `i` and values `v`."""
    return lambda x, i, v: getattr(coordinates(x)[index(i)], op)(*[v][: op != "get"], **options)


SET, ADD, MULTIPLY, MAX, GET = [edit(op) for op in ("set", "add", "multiply", "max", "get")]
WRAP = edit("set", mode="wrap")
ONE, TWO = [lambda i: block(i, 1), lambda i: block(i, 2)]
AFTER_SLICE = edit("get", lambda i: (0, slice(None), i))
TWICE = [[1, 2], [0, 0], [1, 2]]
SQUARE = [[[0, 0], [3, 3]], [[1, 2], [0, 3]]]
WRITTEN = [[0, 1, 2, 0], [0] * 4, [0] * 4, [3, 0, 0, 4]]

# id, call, x, i, v, result; dtypes of x, of i and of v
IN_BOUNDS = [
    ("scatter_set_negative", SET, ZEROS, [-1], [7], [0, 0, 7]),
    ("scatter_mul_negative", MULTIPLY, ONES, [-1], [7], [1, 1, 7]),
    ("index_uint32 wrap", WRAP, ZEROS, [2**32 - 2], [7], [0, 0, 7], F, U32),
    ("slice_update_oob_tensor_start", edit("set", TWO), [0] * 4, 3, [7, 8], [0, 0, 0, 7]),
    ("slice_update_oob wrap", edit("set", TWO, mode="wrap"), ZEROS, 2**31 - 1, [7, 8], [0, 7, 8]),
    ("slice_update_negative_tensor", edit("set", ONE), [0] * 4, -1, [7], [0, 0, 0, 7]),
    ("slice_update_negative_two", edit("set", TWO), [0] * 4, -2, [7, 8], [0, 0, 7, 8]),
    ("slice_oob", edit("get", TWO), [0, 1, 2, 3], 3, 0, [3, NAN]),
    ("slice_negative", edit("get", TWO), [0, 1, 2, 3], -2, 0, [2, 3]),
    ("dup_set_value", SET, ZEROS, [1, 1, 1], [5, 6, 7], [0, 7, 0]),
    ("scatter_dup_vs_doc", SET, [0, 0], [0, 0], [1, 2], [2, 0]),
    ("mul_numpy_indices", MULTIPLY, [2, 1, 5], [0, 2, 0], [1, 1, 2], [4, 1, 5]),
    ("max_nan_update", MAX, [1], [0], [NAN], [NAN]),
    ("bool_add_max", MAX, [0, 1], [0, 1], [1, 0], [1, 1], "bool"),
    ("segment_max_int_dtype", MAX, [LEAST, 0], [1, 1], [5, 3], [LEAST, 5], I32),
    ("dtype_set_int_into_float", SET, ZEROS, [1], [2], [0, 2, 0], F, I32, I32),
    ("slice_update_dtype", edit("set", ONE), [0] * 4, 1, [7], [0, 7, 0, 0], F, I32, I32),
    ("index_dtype_uint8", SET, ZEROS, [1], [7], [0, 7, 0], F, "uint8"),
    ("index_dtype_uint8 long axis", SET, [0] * 256, [255], [7], [0] * 255 + [7], F, "uint8"),
    ("index_dtype_int8_long_axis", SET, [0] * 200, [-1], [7], [0] * 199 + [7], F, "int8"),
    ("index_dtype_bool", SET, [0, 0], [1, 0], [5], [5, 0], F, "bool"),
    ("updates_scalar_broadcast", SET, ZEROS, [0, 2], 7, [7, 0, 7]),
    ("updates_scalar_broadcast_max", MAX, ZEROS, [0, 2], 7, [7, 0, 7]),
    ("updates_row_broadcast", SET, PLANE, [0, 2], [1, 2], TWICE),
    ("updates_row_broadcast_max", MAX, PLANE, [0, 2], [1, 2], TWICE),
    ("slice_update_low_rank", SET, PLANE, 1, [7, 8], [[0, 0], [7, 8], [0, 0]]),
    ("index_rank1", edit("set", tuple), [ZEROS] * 2, [1, 2], 7, [ZEROS, [0, 0, 7]]),
    ("index_rank3_square", edit("set", tuple), [[0] * 4] * 4, SQUARE, [[1, 2], [3, 4]], WRITTEN),
    ("index_rank3_rect", SET, [0] * 4, [[0, 1], [2, 3]], [[1, 2], [3, 4]], [1, 2, 3, 4]),
    ("empty_indices_typed", SET, ONES, [], [], ONES),
    ("empty_indices_typed_mul", MULTIPLY, ONES, [], [], ONES),
    ("getitem_int_tensor_pair", edit("get", tuple), WRITTEN, [[0, 3], [2, 3]], 0, [2, 4]),
    ("torch_layout", AFTER_SLICE, [[[1, 2, 3], [4, 5, 6]]], [0, 2], 0, [[1, 4], [3, 6]]),
]
# The same, for positions that raise if they are known beforehand.
OUT_OF_BOUNDS = [
    ("scatter_set_oob", SET, ZEROS, [5], [7], ZEROS),
    ("scatter_add_oob", ADD, ZEROS, [5, 1], [7, 1], [0, 1, 0]),
    ("scatter_mul_oob", MULTIPLY, ONES, [5, 1], [7, 2], [1, 2, 1]),
    ("scatter_set_below_negative", SET, ZEROS, [-4], [7], ZEROS),
    ("segment_sum_oob", ADD, [0, 0], [0, 5, -1], [1, 2, 3], [1, 3]),
    ("index_uint32", SET, ZEROS, [2**32 - 1], [7], ZEROS, F, U32),
    ("take_oob", GET, [10, 20], [1, 5], 0, [20, NAN]),
    ("take_below_negative", GET, [10, 20], [-4], 0, [NAN]),
    ("take_along_axis_oob", edit("get", each, sample), [[10, 20, 30]], [5], 0, [NAN]),
    ("getitem_oob_tensor", GET, [10, 20], 5, 0, NAN),
]


def probe(name, call, x, i, v, expected, dtype=F, positions=I32, values=None):
    arrays = np.array(x, dtype), np.array(i, positions), np.array(v, values or dtype)
    return pytest.param(call, arrays, np.array(expected, dtype), id=name)


IN_BOUNDS, OUT_OF_BOUNDS = [[probe(*r) for r in rows] for rows in (IN_BOUNDS, OUT_OF_BOUNDS)]


def check_call(call, x, i, v, arrays, expected):
    """What is found, and that nothing is changed in place."""
    check_same(call(x, i, v), expected)
    for given, array in zip((x, i, v), arrays, strict=True):
        np.testing.assert_array_equal(to_numpy(given), array)


@pytest.mark.parametrize(("call", "arrays", "expected"), IN_BOUNDS)
def test_positions_known_beforehand(call, arrays, expected):
    x, i, v = [array.copy() for array in arrays]
    check_call(call, x, i, v, arrays, expected)
    check_call(call, *tensors([x]), i, *tensors([v]), arrays, expected)


@pytest.mark.parametrize(("call", "arrays", "_"), OUT_OF_BOUNDS)
def test_positions_known_beforehand_raise(call, arrays, _):
    for x in (arrays[0], ops.convert_to_tensor(arrays[0])):
        with pytest.raises(PositionError, match="out of bounds"):
            call(x, *arrays[1:])


@pytest.mark.tensors
@pytest.mark.parametrize(("call", "arrays", "expected"), IN_BOUNDS + OUT_OF_BOUNDS)
def test_positions_in_a_tensor(call, arrays, expected):
    check_call(call, *tensors(arrays), arrays, expected)


@pytest.mark.tensors
def test_positions_in_a_tensor_compiled():
    names = ("scatter_set_oob", "scatter_mul_negative", "dup_set_value", "take_oob", "slice_oob")
    cases = [case.values for case in IN_BOUNDS + OUT_OF_BOUNDS if case.id in names]
    calls, arrays, expected = zip(*cases, strict=True)
    assert len(calls) == len(names)

    def together(given):
        return [call(*three) for call, three in zip(calls, given, strict=True)]

    found = compiled(together)([tensors(three) for three in arrays])
    for y, wanted in zip(found, expected, strict=True):
        check_same(y, wanted)


WAYS = [int, lambda n: np.array([n]), lambda n: np.full(1025, n), lambda n: block(n, 1)]


@pytest.mark.parametrize("way", WAYS, ids=["int", "array", "long array", "block"])
@pytest.mark.parametrize("number", [2**32, 2**32 + 1, 2**32 + 2, -(2**32) - 1])
def test_index_int64_2_pow_32(number, way):
    """No number of 64 bits is taken for its lower 32 bits, or for the largest that fits there."""
    places = {"drop": None, "clip": 2 if number > 0 else 0, "wrap": number % 3}
    for x in (np.zeros(3, F), ops.zeros(3)):
        for mode, place in places.items():
            expected = np.where(np.arange(3) == place, 7, 0).astype(F)
            check_same(at(x)[way(number)].set(7.0, mode=mode), expected)
        with pytest.raises(PositionError):
            at(x)[way(number)].set(7.0, mode="raise")


# --- Gradients, for an upstream gradient of 1, 10, 100 -----------------------------------------

ROOT = at.where(X > 0).apply(ops.sqrt) | at.where(X <= 0).set(0.0)
# id, call, x, i, v, gradient of x, gradient of v
GRADIENTS = [
    ("dup_set_grad", SET, [1, 2, 3], [0, 0, 2], [4, 5, 6], [0, 10, 0], [0, 1, 100]),
    ("dup_add_grad", ADD, [1, 2, 3], [0, 0, 2], [4, 5, 6], [1, 10, 100], [1, 1, 100]),
    ("dup_mul_grad", MULTIPLY, [1, 2, 3], [0, 0, 2], [4, 5, 6], [20, 10, 600], [5, 4, 300]),
    ("unique_mul_grad", MULTIPLY, [1, 2, 3], [0, 2], [4, 5], [4, 10, 500], [1, 300]),
    ("mul_grad_through_zero", MULTIPLY, [0, 1, 2], [0, 0], [2, 3], [6, 10, 100], [0, 0]),
    ("dup_max_grad", MAX, [1, 2, 3], [0, 0, 2], [4, 5, 2], [0, 10, 100], [0, 1, 0]),
    ("max_grad_three_way_tie", MAX, [3, 1, 1], [0, 0], [3, 3], [1 / 3, 10, 100], [1 / 3, 1 / 3]),
    ("oob_set_grad", SET, [1, 2, 3], [5, 1], [4, 5], [1, 0, 100], [0, 10]),
    ("oob_add_grad", ADD, [1, 2, 3], [5, 1], [4, 5], [1, 10, 100], [0, 10]),
    ("where_nan_grad", lambda x, i, v: ROOT(x), [0, 4, 1], [], [], [0, 2.5, 50], []),
    ("negative_set_grad", SET, [1, 2, 3], [-1], [4], [1, 10, 0], [100]),
    ("slice_update_grad", edit("set", TWO), [1, 2, 3], 1, [4, 5], [1, 0, 0], [10, 100]),
    ("slice_update_oob_grad", edit("set", TWO), [1, 2, 3], 2, [4, 5], [1, 10, 0], [100, 0]),
]


COMPILED = [row for row in GRADIENTS if row[0] in ("dup_set_grad", "oob_add_grad")]
CASES = [(*r, False) for r in GRADIENTS] + [(f"{r[0]} jit", *r[1:], True) for r in COMPILED]


@pytest.mark.gradient
@pytest.mark.parametrize(("call", "x", "i", "v", "dx", "dv", "compile"), params(CASES))
def test_gradients(call, x, i, v, dx, dv, compile):
    known, upstream = np.array(i, I32), np.array([1, 10, 100], F)
    primals = [np.array(primal, F) for primal in (x, v, i)]

    def check(edit, primals, compile=False):
        _, found = vjp(edit, primals, upstream, compile=compile)
        for gradient, expected in zip(found, (dx, dv, 0 * known), strict=False):
            np.testing.assert_allclose(gradient, expected, rtol=1e-6)

    check(lambda x, v, i: call(x, ops.cast(i, I32), v), primals, compile)
    if (known < 3).all():
        check(lambda x, v: call(x, known, v), primals[:2])


# --- Dtypes ------------------------------------------------------------------------------------

LOSSES = [
    ("dtype_set_float_into_int", at[[1]], "set", ZEROS, I32, [1.9], [0, 1, 0]),
    ("dtype_add_float_into_int", at[[1, 1]], "add", ONES, I32, [0.6, 0.6], [1, 2, 1]),
    ("dtype_mul_float_into_int", at[[1]], "multiply", [2, 2], I32, [1.5], [2, 3]),
    ("dtype_int8_overflow", at[[0]], "set", [0, 0], "int8", [300], [127, 0]),
    ("where_uint8_neg", at.where([False, True]), "set", [1, 2], "uint8", -1, [1, 0]),
]


@pytest.mark.parametrize(("place", "op", "x", "dtype", "v", "expected"), params(LOSSES))
def test_what_the_dtype_cannot_hold_raises_or_saturates(place, op, x, dtype, v, expected):
    x, tensor = np.array(x, dtype), ops.convert_to_tensor(v)
    for given in (x, ops.convert_to_tensor(x)):
        for values in (v, np.array(v), tensor):
            edited = getattr(place, op)(values, casting="unsafe")(given)
            check_same(edited, np.array(expected, dtype))
        for values in [v] + [tensor] * ("float" in dtype_of(tensor)):
            with pytest.raises(DTypeError, match="casting="):
                getattr(place, op)(values)(given)


@pytest.mark.tensors
def test_dtypes_of_tensors():
    """Of a tensor only the dtype is known: it is cast, as NumPy casts an array."""
    x, v = tensors([np.zeros(2, "int8"), np.array([300], I32)])
    check_same(at(x)[[0]].set(v), np.array([44, 0], "int8"))  # dtype_int8_overflow
    y = at(ops.ones(2, "bfloat16"))[[0, 1]].set(ops.convert_to_tensor([3.0, 2.0]))
    assert dtype_of(y) == "bfloat16"  # dtype_bf16_target_f32_updates
    check_close(y, [3, 2])


# --- Indices that are no tensors: NumPy's meaning, in a tensor and in a model ------------------

INDICES = {
    "getitem_list_is_tuple": [0, 2],
    "getitem_int_array": np.array([0, 2]),
    "getitem_bool_mask": np.array([True, False, True]),
    "getitem_negative_step": S[::-1],
    "symbolic_getitem_int_array": S[:, np.array([0, 2])],
    "symbolic_getitem_npint": S[:, np.int64(1)],
    "symbolic_getitem_bare_slice": S[:2],
    "symbolic_getitem_list": [2, 0],
    "symbolic_getitem_bool": True,
    "empty_indices_list": [],
    "slice_minus_one": S[1:],
}


def test_index_means_what_it_means_in_numpy():
    x = np.arange(18, dtype=F).reshape(2, 3, 3)
    inputs, symbol = keras.Input((3, 3)), keras.KerasTensor((3, 3))
    model = keras.Model(inputs, [sample(inputs)[index].get() for index in INDICES.values()])
    predicted = model.predict(x, verbose=0)
    for in_model, (name, index) in zip(predicted, INDICES.items(), strict=True):
        expected, written = np.stack([x[0][index], x[1][index]]), x[0].copy()
        written[index] = -1
        np.testing.assert_array_equal(in_model, expected, err_msg=name)
        tensor = ops.convert_to_tensor(x[0])
        np.testing.assert_array_equal(to_numpy(at(tensor)[index].get()), expected[0], err_msg=name)
        np.testing.assert_array_equal(to_numpy(at(tensor)[index].set(-1.0)), written, err_msg=name)
        assert at(symbol)[index].get().shape == expected.shape[1:], name
        assert at(symbol)[index].set(-1.0).shape == (3, 3), name


ERRORS = {
    "getitem_oob_int": (lambda x: at(x)[5].get(), PositionError),
    "jax_set_oob_is_silent": (lambda x: at(x)[9].set(7), PositionError),
    "index_dtype_float": (lambda x: at(x)[np.array([1.9])].set(7), PositionError),
    "index_dtype_float tensor": (lambda x: at(x)[ops.ones(1)].set(7), PositionError),
    "index_dtype_bool": (lambda x: at(x)[[True, False, False]].set([5, 6]), ShapeError),
    "updates_too_many_max": (lambda x: at(x)[[0, 1]].max([1, 2, 3]), ShapeError),
    "too_many_index_columns": (lambda x: at(x)[[0], [0]].set([7]), PositionError),
    "slice_update_too_big_symbolic": (lambda x: at(x)[2:].set(ops.ones(5)), ShapeError),
    "slice_minus_one": (lambda x: at(x)[block(1, -1)].get(), PositionError),
    "symbolic_scatter_garbage": (lambda x: at(x)[np.zeros((2, 5))].set(0.0), PositionError),
    "symbolic_scatter_garbage v": (lambda x: at(x)[[[0, 1]]].set(np.ones((9, 9))), ShapeError),
    "scatter_update_unknown_reduction": (lambda x: Edit(at(x)[0].selection, "foo"), OperandError),
    "bool_add_max": (lambda x: at(ops.cast(x, "bool"))[0].add(True), DTypeError),
    "jax_int_divide": (lambda x: at(ops.cast(x, I32))[0].divide(0.5), DTypeError),
    "jax_int_power": (lambda x: at(ops.cast(x, I32))[0].power(0.5), DTypeError),
    "getitem_bool_mask in a model": (lambda x: at(x)[keras.Input(()) > 0].get(), OperandError),
}


@pytest.mark.parametrize(("call", "error"), ERRORS.values(), ids=ERRORS)
def test_what_does_not_fit_raises_everywhere(call, error):
    for x in (np.zeros(3, F), ops.zeros(3), keras.KerasTensor((3,))):
        with pytest.raises(error, match="Received"):
            call(x)


def test_item_assignment_has_a_counterpart_for_all():
    """setitem_*, variable_as_input, python_list_inputs, mutation_through_dense_weights."""
    variable = keras.Variable(np.zeros(3, F))
    for x in (variable, ops.zeros(3), np.zeros(3, F), [0.0, 0.0, 0.0]):
        with pytest.raises(TypeError, match="cannot be assigned to"):
            at(x)[1] = 7.0
        assert to_numpy(at(x)[1].set(7.0)).tolist() == [0, 7, 0]
        assert to_numpy(at(x)[[1]].set([7.0])).tolist() == [0, 7, 0]
        assert to_numpy(x).tolist() == ZEROS


def test_nothing_else_is_edited(run):
    """functional_const_indices, functional_output_corrupted, model_predict_modes, and a layer."""
    inputs = keras.Input((3,))
    h = inputs * 1
    model = keras.Model(inputs, [h, at(h)[0, [0, 1]].set(7.0), at(h)[:, -1].add(7.0), h + 0])
    given = np.zeros((2, 3), F)
    expected = [[ZEROS] * 2, [[7, 7, 0], ZEROS], [[0, 0, 7]] * 2, [ZEROS] * 2]
    assert [y.tolist() for y in model.predict(given, verbose=0)] == expected
    found = run(model)(ops.convert_to_tensor(given))
    assert [to_numpy(y).tolist() for y in found] == expected
    layer = keras.layers.Lambda(lambda x: at(x)[:, 1].set(7.0))
    assert to_numpy(layer(given)).tolist() == [[0, 7, 0]] * 2
    assert not given.any()


@pytest.mark.parametrize("run_eagerly", [False, True], ids=["graph", "eager"])
def test_positions_of_unknown_batch(run_eagerly):
    """functional_scatter_unknown_batch, functional_row_index_unknown_batch, symbolic masks."""
    x, v = keras.Input((4,)), keras.Input(())
    rows, columns = keras.Input((), dtype=I32), keras.Input((), dtype=I32)
    own = sample(x)[each(columns)]
    masked = at(x)[x > 2].get(size=3, fill_value=0.0)
    outputs = [at(x)[rows, columns].set(v), own.set(v), own.get(), masked]
    assert [y.shape for y in outputs] == [(None, 4), (None, 4), (None,), (3,)]
    model = keras.Model([x, rows, columns, v], outputs)
    model.compile(run_eagerly=run_eagerly)
    given = [np.arange(8, dtype=F).reshape(2, 4), np.array([1, 1], I32), np.array([-1, 2], I32)]
    found = model.predict_on_batch([*given, np.array([10, 20], F)])
    assert found[0].tolist() == [[0, 1, 2, 3], [4, 5, 20, 10]]
    assert found[1].tolist() == [[0, 1, 2, 10], [4, 5, 20, 7]]
    assert [y.tolist() for y in found[2:]] == [[3, 6], [3, 4, 5]]


@pytest.mark.gradient
def test_fit_through_updates():
    inputs = keras.Input((3,))
    dense = keras.layers.Dense(5, use_bias=False, kernel_initializer="ones")
    h = at(dense(inputs))[:, :1].set(np.zeros((1, 1)))
    h = at(h)[:, [1, 2]].max(np.array([4.0, 2.0]))
    h = at(h)[:, np.array([3, 3])].multiply(np.array([1.0, 2.0]))
    h = at(h)[:, ops.cast(at(inputs)[0, :1].get(), I32) + 3].set(0.0)  # position 4
    model = keras.Model(inputs, h)
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(np.ones((2, 3), F), np.zeros((2, 5), F), verbose=0)
    # Before, h is 3 everywhere; only columns 2 and 3 feel it, as h**2 and (2 * h)**2 do.
    check_close(dense.kernel, 1 - np.array([[0, 0, 1.2, 4.8, 0]] * 3))
