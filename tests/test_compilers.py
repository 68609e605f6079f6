"""Edits inside compilers, vectorised maps and compiled training, and second derivatives."""

import keras
import numpy as np
import oracle
import pytest
from _backend import (
    BACKEND,
    as_raised_by_compiler,
    compilers,
    gradients,
    hessian_vector,
    in_inference,
    optimized,
    tensors,
    to_numpy,
    vectorizers,
    vjp,
)
from keras import ops
from kit import check_close
from oracle import cube

from kedit import X, at, block, each, sample
from kedit.errors import EditError, OperandError, PositionError, ShapeError

pytestmark = pytest.mark.tensors

S = np.s_


def by_numpy(op, x, index, values=0.0):
    """An update as its definition has it; what is out of bounds is dropped."""
    return oracle.update(op, x, oracle.positions_in_bounds(x.shape, index), values)


# --- What plans keep ---------------------------------------------------------------------------


def kept_edits():
    rng = np.random.default_rng(0)
    places = tuple(np.divmod(rng.choice(10_000, 300, replace=False), 100))
    return [at[0, 2].set(3.0), at[..., ::3].set(-0.0), at[places].set(7.0), at[places].add(1.0)]


def traces():
    """Every way in which tensors have no values, called with a function and a tensor."""
    found = {name: lambda fn, x, c=c: c(fn)(x) for name, c in compilers().items()}
    rows = vectorizers().items()
    found |= {name: lambda fn, x, v=v: v(fn, ops.stack([x, x]))[0] for name, v in rows}
    found["gradient"] = lambda fn, x: vjp(fn, [x], np.ones(x.shape, "float32"))[0]
    found["without training"] = lambda fn, x: in_inference(lambda: fn(x))
    return found


@pytest.mark.gradient
@pytest.mark.parametrize("way", traces())
def test_what_is_kept_with_a_plan_is_never_of_a_trace(way):
    """An edit that a trace met first works outside of it, in other traces, and in training."""
    x, other = np.ones((100, 100), "float32"), ops.convert_to_tensor(np.ones((100, 100), "float32"))
    for edit in kept_edits():
        expected = edit(x)
        for _ in range(2):
            check_close(traces()[way](lambda x, e=edit: e(x), ops.convert_to_tensor(x)), expected)
            # Also if what is edited is not of the trace.
            check_close(traces()[way](lambda x, e=edit: e(other) + 0 * x, other), expected)
            check_close(edit(other), expected)
        value, (gradient,) = vjp(lambda x, e=edit: e(x) * x, [x], np.ones_like(x))
        check_close(value, expected)
        check_close(gradient, np.where((expected != 1) & (expected != 2), 0, 1) + expected)


# --- Every compiler ----------------------------------------------------------------------------


def program(x, rows, own, mask, v, w):
    """One edit of every kind, on numbers that floats hold exactly."""
    y = at(x)[:, 1:5:2, 0].set(2.0)
    y = at(y)[:, 1:4, [2, 0, 2]].add(v[:3])
    y = at(y)[:, rows].multiply(v)
    y = at(y)[:, rows, 1].set(v[:, 0])
    y = at(y)[mask].set(w)
    y = sample(y)[each(own), :2].add(1.5)
    y = sample(y)[block(own[0], 3)].max(-0.5)
    y = at(y)[:, -2:].where(X > 0.5).apply(cube)
    rows_of_y, masked = at(y)[:, rows].get(fill_value=7.0), at(y)[mask].get(size=11, fill_value=7.0)
    return y, rows_of_y, masked, at(y)[..., ::2].power(2.0)


def program_in_numpy(x, rows, own, mask, v, w):
    y = by_numpy("set", x, S[:, 1:5:2, 0], 2.0)
    y = by_numpy("add", y, S[:, 1:4, [2, 0, 2]], v[:3])
    y = by_numpy("multiply", y, S[:, rows], v)
    y = by_numpy("set", y, S[:, rows, 1], v[:, 0])
    y[mask] = w
    y = by_numpy("add", y, S[np.arange(len(x))[:, None], own[:, None], [0, 1]], 1.5)
    start = own[0] % x.shape[1]
    y = by_numpy("max", y, S[:, np.arange(start, start + 3)], -0.5)
    last = y[:, -2:]
    last[last > 0.5] **= 3
    places = oracle.positions_in_bounds(y.shape, S[:, rows])
    masked = np.full((11, y.shape[-1]), 7.0)
    count = min(11, mask.sum())
    masked[:count] = y[mask][:count]
    return y, oracle.get(y, places, 7.0), masked, by_numpy("power", y, S[..., ::2], 2.0)


def program_data(batch):
    rng = np.random.default_rng(batch)
    x = rng.integers(-8, 9, (batch, 6, 3)) / 4
    rows = np.array([0, 5, 0, 9, -1], "int32")
    own = np.array([-2, 7, 1, 0][:batch], "int32")
    mask = np.arange(batch * 6).reshape(batch, 6) % 3 < 2 - (batch == 2)
    v = rng.choice([0.5, 1.0, 2.0, -1.0], (5, 3))
    w = rng.integers(-8, 9, (mask.sum(), 3)) / 4
    return x, rows, own, mask, v, w


def floats(arrays):
    """The arrays, those of floats with 32 bits."""
    return [a.astype("float32") if a.dtype == "float64" else a for a in map(np.asarray, arrays)]


@pytest.mark.parametrize("compiler", compilers())
def test_compiled_is_eager_is_numpy(compiler):
    """Bit for bit, but for powers, which TensorFlow does not round as others do."""
    given = program_data(4)
    expected = program_in_numpy(*given)
    for wanted in expected:
        np.testing.assert_array_equal(wanted, wanted.astype("float32"))  # nothing was rounded
    given = tensors(floats(given))
    found = [to_numpy(y) for y in compilers()[compiler](program)(*given)]
    eager = [to_numpy(y) for y in program(*given)]
    for results in (found, eager):
        for result, wanted in zip(results[:3], expected[:3], strict=True):
            np.testing.assert_array_equal(result, wanted.astype("float32"))
        np.testing.assert_allclose(results[3], expected[3], rtol=1e-6)


def few_edits(x, rows, values):
    return at(x)[rows].set(values), sample(x)[each(rows[:3]), ...].add(at(x)[:3, 0].get())


def test_optimized_is_numpy():
    """The compiler as it is by default, which may write and build code of its own."""
    x, rows = np.arange(12.0).reshape(3, 4), np.array([1, -1, 1, 5], "int32")
    values = -np.arange(16.0).reshape(4, 4)
    written, added = optimized(few_edits)(*tensors(floats([x, rows, values])))
    np.testing.assert_array_equal(to_numpy(written), by_numpy("set", x, S[rows], values))
    expected = by_numpy("add", x, S[np.arange(3), rows[:3]], x[:, 0])
    np.testing.assert_array_equal(to_numpy(added), expected)


@pytest.mark.parametrize("compiler", compilers())
def test_a_compiled_function_takes_tensors_of_other_sizes(compiler):
    """Also of an index, a mask and values: a compiler may then take the sizes for unknown."""

    def edits(x, rows, values):
        return [
            at(x)[0, 2].set(1.0),
            at(x)[1:, ::2].multiply(2.0),
            at(x)[[0, 1, 1]].add(0.5),
            at(x)[rows].max(values),
            at(x)[x > 1].set(0.0),
            sample(x)[block(rows[0], 2)].add(1.0),
        ]

    function = compilers()[compiler](edits)
    for size in (3, 4, 5, 3):
        x = np.arange(size * (size + 1.0)).reshape(size, size + 1)
        rows, values = np.array([1, -1, *range(size - 3)], "int32"), np.full((size - 1, 1), 4.0)
        found = function(*tensors(floats([x, rows, values])))
        expected = [
            by_numpy("set", x, S[0, 2], 1.0),
            by_numpy("multiply", x, S[1:, ::2], 2.0),
            by_numpy("add", x, S[[0, 1, 1]], 0.5),
            by_numpy("max", x, S[rows], values),
            np.where(x > 1, 0.0, x),
            by_numpy("add", x, S[:, 1:3], 1.0),
        ]
        for result, wanted in zip(found, expected, strict=True):
            np.testing.assert_array_equal(to_numpy(result), wanted)


# --- Errors ------------------------------------------------------------------------------------


OF_TENSORS = [
    (lambda x, i, m: at(x)[i].set(0.0, mode="raise"), OperandError, 'mode="raise"'),
    (lambda x, i, m: at(x)[i].get(mode="raise"), OperandError, 'mode="raise"'),
    (lambda x, i, m: at(x)[m].get(), OperandError, "size=10"),
    (lambda x, i, m: at(x)[x].set(0.0), PositionError, "integers or booleans"),
]
OF_SIZES = [
    (lambda x, i, m: at(x)[3].set(0.0), PositionError, "out of bounds for axis 0 with size 3"),
    (lambda x, i, m: at(x)[[0, -4]].get(), PositionError, "index -4, which is out of bounds"),
    (lambda x, i, m: at(x)[i].set(x), ShapeError, "Received: shape"),
]


def check_error(compiler, edit, error, message):
    given = tensors([np.ones((3, 2), "float32"), np.array([0, 2], "int32"), np.ones(3, bool)])
    error, message = as_raised_by_compiler(error, message)
    with pytest.raises(error, match=message) as raised:
        compiler(edit)(*given)
    assert isinstance(raised.value, EditError) or error is Exception


@pytest.mark.parametrize(("edit", "error", "message"), OF_TENSORS)
@pytest.mark.parametrize("compiler", compilers())
def test_errors_keep_class_and_message_under_a_compiler(compiler, edit, error, message):
    check_error(compilers()[compiler], edit, error, message)


@pytest.mark.parametrize(("edit", "error", "message"), OF_SIZES)
@pytest.mark.parametrize("compiler", compilers(sizes=True))
def test_errors_of_sizes_that_a_compiler_knows(compiler, edit, error, message):
    check_error(compilers()[compiler], edit, error, message)


@pytest.mark.parametrize("index", [[0, 1], None], ids=["list", "tensor"])
def test_values_that_turn_out_not_to_fit_raise(index):
    """A model that does not know how many values will come must not take any number of them."""
    x, i = keras.Input(batch_shape=(None, 3)), keras.Input(batch_shape=(None,), dtype="int32")
    values = keras.Input(batch_shape=(None, 3))
    model = keras.Model([x, i, values], at(x)[i if index is None else index].set(values))
    for count in (1, 2, 3):
        given = np.zeros((4, 3)), np.array([0, 1], "int32"), np.ones((count, 3))
        if count < 3:
            found = to_numpy(model(tensors(floats(given))))
            np.testing.assert_array_equal(found, by_numpy("set", given[0], S[:2], 1.0))
        else:
            with pytest.raises(ShapeError, match="Received: 3 values"):
                model(tensors(floats(given)))


# --- Vectorised maps ---------------------------------------------------------------------------


VECTORIZED = {
    "integer tensors": lambda x, i, k, m, v, o: [
        *[getattr(at(x)[i], op)(v) for op in ("set", "add", "multiply", "divide", "max")],
        at(x)[i].power(v),
        at(x)[i].apply(cube),
        at(x)[i].get(fill_value=0.0),
        at(x)[i, 1].min(v[:, 0], mode="clip"),
        at(x)[i, ops.flip(i)].subtract(o[0], mode="wrap"),
        at(x)[k].set(o),
        at(x)[k, [2, 0]].multiply(o[:2]),
    ],
    "masks": lambda x, i, k, m, v, o: [
        *[getattr(at(x)[m], op)(v) for op in ("set", "add", "min")],
        at(x)[m].multiply(2.0),
        at(x)[m].get(size=3, fill_value=0.0),
        at(x)[m, 1].set(o[0]),
    ],
    "block and each": lambda x, i, k, m, v, o: [
        at(x)[block(k, 2)].set(o),
        at(x)[block(k, 4), 1].add(v[:, 0], mode="clip"),
        sample(x)[each(i[:1])].set(o[0]),
        sample(v)[each(i), ...].set(o[0]),
        sample(v)[each(i)].get(fill_value=0.0),
    ],
    "static": lambda x, i, k, m, v, o: [
        *[getattr(at(x)[[0, 3, 0, 1]], op)(v) for op in ("set", "add", "divide", "max")],
        at(x)[1:5, ::-1].set(v),
        at(x).where(X > o).apply(ops.log),
        at(x).where(X > 1.0).power(2.0),
        at(x)[..., 1].set(X * X),
    ],
}


def vectorized_data():
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0.5, 2, shape) for shape in ((3, 6, 3), (3, 4, 3), (3, 3))]
    x, v, o = floats(arrays)
    i = np.array([[0, 5, 0, 9], [1, 1, 1, 2], [-1, 3, -9, 0]], "int32")
    return tensors([x, i, np.array([2, -1, 7], "int32"), rng.random((3, 6)) > 0.4, v, o])


@pytest.mark.filterwarnings("ignore:.*non-contiguous")  # what torch makes of batched searches
@pytest.mark.parametrize("edits", VECTORIZED)
@pytest.mark.parametrize("vectorizer", vectorizers())
def test_a_vectorized_map_does_what_a_loop_does(vectorizer, edits):
    given = vectorized_data()
    found = vectorizers()[vectorizer](VECTORIZED[edits], *given)
    by_row = [VECTORIZED[edits](*[tensor[row] for tensor in given]) for row in range(3)]
    for result, *rows in zip(found, *by_row, strict=True):
        expected = np.stack([to_numpy(row) for row in rows])
        np.testing.assert_allclose(to_numpy(result), expected, rtol=1e-6)


def loss(x, i, v):
    y = at(x)[i].multiply(v)
    return ops.sum(cube(at(y)[[0, 3, 0, 1]].add(v)))


@pytest.mark.gradient
@pytest.mark.filterwarnings("ignore:.*non-contiguous")
@pytest.mark.parametrize("vectorizer", vectorizers())
def test_gradients_of_each_row(vectorizer):
    x, i, _, _, v, _ = vectorized_data()

    def of_row(x, i, v):
        return gradients(lambda x, v: loss(x, i, v))(x, v)

    found = vectorizers()[vectorizer](of_row, x, i, v)
    for row in range(3):
        for result, wanted in zip(found, of_row(x[row], i[row], v[row]), strict=True):
            np.testing.assert_allclose(to_numpy(result[row]), to_numpy(wanted), rtol=1e-5)


# --- Second derivatives ------------------------------------------------------------------------

INDICES = {
    "static": (S[1:, [2, 0, 2]], S[1:, [2, 0, 2]]),
    "tensor": (S[:, [2, 0, 2, 7]], None),
}


def curved_loss(op, index, w):
    """A function of `x` and `values` whose every second derivative counts."""

    def loss(x, values):
        edited = at[index].apply(cube)(x) if op == "apply" else getattr(at(x)[index], op)(values)
        return ops.sum(w * cube(edited)) + 0.0 * ops.sum(values)

    return loss


def slope_in_numpy(op, places, w, x, values):
    """The closed form of the gradient of `curved_loss`."""
    upstream = 3 * w * oracle.update(op, x, places, values) ** 2
    return oracle.update_vjp(op, x, places, values, upstream)


@pytest.mark.gradient
@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("op", oracle.UPDATES)
def test_second_derivatives(op, index):
    rng = np.random.default_rng(3)
    named, static = INDICES[index]
    places = oracle.positions_in_bounds((3, 4), named)
    x, w = rng.uniform(0.5, 2, (3, 4)), rng.uniform(0.5, 1, (3, 4))
    values = rng.uniform(0.5, 2, places.shape)
    if op == "multiply":
        values[0, :3] = 0.0  # of three factors two may be 0
    tangents = [rng.normal(size=x.shape), rng.normal(size=values.shape)]
    step = 1e-5
    up, down = [
        slope_in_numpy(op, places, w, x + sign * tangents[0], values + sign * tangents[1])
        for sign in (step, -step)
    ]
    expected = [(a - b) / (2 * step) for a, b in zip(up, down, strict=True)]
    if static is None:
        static = (slice(None), *tensors([np.array(named[1], "int32")]))
    fn = curved_loss(op, static, *tensors(floats([w])))
    found = hessian_vector(fn, floats(tangents))(*tensors(floats([x, values])))
    for result, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(to_numpy(result), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.gradient
@pytest.mark.parametrize("compiler", compilers())
def test_second_derivatives_compiled(compiler):
    x, i, _, _, v, _ = vectorized_data()
    second = hessian_vector(lambda x, v: loss(x, i[0], v), [x[1], v[1]])
    found = compilers()[compiler](second)(x[0], v[0])
    for result, wanted in zip(found, second(x[0], v[0]), strict=True):
        np.testing.assert_allclose(to_numpy(result), to_numpy(wanted), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("compiler", compilers())
def test_nan_keeps_its_bits_where_nothing_is_added(compiler, dtype):
    x = ops.cast(ops.convert_to_tensor(np.array([[1, np.nan], [3, np.nan]], "float32")), dtype)
    i, v = tensors([np.array([1, 1], "int32")])[0], ops.ones((2, 2), dtype=dtype)
    before = to_numpy(x).tobytes()[: to_numpy(x).nbytes // 2]
    for op in ("add", "subtract"):
        found = compilers()[compiler](lambda x, i, v, op=op: getattr(at(x)[i], op)(v))(x, i, v)
        assert to_numpy(found).tobytes()[: len(before)] == before


GIVEN = {
    "index": lambda x: at(x)[np.array([0, 2])].set(1.0),
    "mask": lambda x: at(x)[np.array([True, False, True])].set(1.0),
    "values": lambda x: at(x)[[0, 2]].set(np.array([1.0, 1.0])),
    "condition": lambda x: at(x).where(np.array([True, False, True])).set(1.0),
    "list": lambda x: at(x)[[0, 2]].set([1.0, 1.0]),
    "list of booleans": lambda x: at(x)[[True, False, True]].set(1.0),
    "empty list": lambda x: at(at(x)[[]].set([]))[[0, 2]].set(1.0),
}


@pytest.mark.parametrize("compiler", compilers(sizes=True))  # which a mask needs
@pytest.mark.parametrize("name", GIVEN)
def test_arrays_and_lists_named_inside_a_compiled_function(name, compiler):
    """They are constants; where a compiler would hide what an array holds, the error says so."""
    compiled = compilers()[compiler](GIVEN[name])
    if BACKEND == "torch" and "list" not in name:
        with pytest.raises(Exception, match="Make the edit outside of the function"):
            compiled(ops.zeros(3))
        return
    assert to_numpy(compiled(ops.zeros(3))).tolist() == [1.0, 0.0, 1.0]
