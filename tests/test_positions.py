"""`position(axis)`: conditions and values by where an element stands, and `each(n)` beside it."""

import json
import pickle

import keras
import numpy as np
import pytest
from _backend import FLOATS, compilers, tensors, to_numpy, vjp
from keras import ops
from kit import check_close, saved_and_loaded

import kedit
from kedit import Edit, Trainable, X, at, draft, each, position, sample
from kedit.errors import (
    CoordinateError,
    DTypeError,
    OperandError,
    PositionError,
    SavingError,
    ShapeError,
)
from kedit.layers import Editing

WAYS = {"eager": lambda function: function, **compilers()}
x = np.arange(1.0, 28.0, dtype="float32").reshape(3, 3, 3)
n = np.array([0, 3, 1], "int32")
P = np.indices(x.shape)
# What is edited, and where each axis stands in it.
PLACES = {
    "all": (at[...], np.s_[:]),
    "slices": (at[1:, ::-1, :2], np.s_[1:, ::-1, :2]),
    "number": (at[:, 1], np.s_[:, 1]),
    "list": (at[[2, 0]], np.s_[[2, 0]]),
    "lists together": (at[:, [2, 0, 1], [1, 1, 0]], np.s_[:, [2, 0, 1], [1, 1, 0]]),
    "lists apart": (at[[2, 0], :, [1, 2]], np.s_[[2, 0], :, [1, 2]]),
    "more axes": (at[None, [[2, 0], [1, 1]], ..., 2], np.s_[None, [[2, 0], [1, 1]], ..., 2]),
    "mask": (at[P[1] != P[2]], np.s_[P[1] != P[2]]),
}
CONDITIONS = {
    "one axis": (position(1) >= 1, lambda p: p[1] >= 1),
    "last axis": (position(-1) != 2, lambda p: p[2] != 2),
    "two axes": (position(0) > position(1), lambda p: p[0] > p[1]),
    "checkerboard": (
        (position(0) + position(1) + position(2)) % 2 == 0,
        lambda p: (p[0] + p[1] + p[2]) % 2 == 0,
    ),
    "band": (abs(position(1) - position(2)) <= 1, lambda p: abs(p[1] - p[2]) <= 1),
    "blocks": (position(0) // 2 == position(-2) // 2, lambda p: p[0] // 2 == p[1] // 2),
    "with X": ((position(2) > 0) & ~(X > 20.0), lambda p: (p[2] > 0) & ~(p[3] > 20)),
    "a fraction": (1.5 > position(0) * 1.0, lambda p: p[0] < 1.5),
    "less than X": (X > position(0) * 10.0, lambda p: p[3] > p[0] * 10),
}


def expected(index, condition, value=-1.0):
    y = x.copy()
    picked = [along[index] for along in (*P, x)]
    y[index] = np.where(condition(picked), value, y[index])
    return y


SIZED = ("eager", *compilers(sizes=True))  # a mask that is known needs sizes


@pytest.mark.parametrize(
    ("place", "way"),
    [(place, way) for place in PLACES for way in (SIZED if place == "mask" else WAYS)],
)
def test_values(place, way):
    of, index = PLACES[place]
    edits = [of.where(condition).set(-1.0) for condition, _ in CONDITIONS.values()]
    found = WAYS[way](lambda x: [edit(x) for edit in edits])(*tensors([x]))
    for name, edit, value in zip(CONDITIONS, edits, found, strict=True):
        wanted = expected(index, CONDITIONS[name][1])
        np.testing.assert_array_equal(to_numpy(value), wanted, err_msg=name)
        np.testing.assert_array_equal(edit(x), wanted, err_msg=name)


@pytest.mark.tensors
@pytest.mark.parametrize("way", WAYS)
def test_where_positions_are_tensors(way):
    rows = np.array([2, 0], "int32")

    def edits(x, rows, n):
        return [
            at(x)[rows].where(position(0) == 2).set(-1.0),
            at(x)[:, rows, 1].where(position(1) == 2).set(-1.0),
            at(x)[rows, 1, rows].where(position(2) == 2).set(-1.0),
            sample(x)[each(n)].where(position(0) == 1).set(-1.0, mode="drop"),
            at(x)[kedit.block(rows[0], 2)].where(position(0) >= 2).set(-1.0),
            sample(x).where(position(0) >= each(n)).set(-1.0),
            sample(x)[:, 1:].where(position(1) - each(n) >= 1).multiply(-1.0),
            at(x).where(position(-1) >= n[2]).set(-1.0),
            sample(x)[0].where(position(1) < each(n)).set(X + each(n)),
        ]

    one, two, three, four, five, six, seven, eight, nine = [x.copy() for _ in range(9)]
    one[2] = two[:, 2, 1] = three[2, 1, 2] = four[2, 1] = five[2] = eight[..., 1:] = -1
    six = np.where(P[1] >= n[:, None, None], -1, x)
    seven = np.where((P[2] >= 1) & (P[2] - n[:, None, None] >= 1), -x, x)
    nine[:, 0] = np.where(P[2][:, 0] < n[:, None], x[:, 0] + n[:, None], x[:, 0])
    wanted = [one, two, three, four, five, six, seven, eight, nine]
    for found, value in zip(WAYS[way](edits)(*tensors([x, rows, n])), wanted, strict=True):
        np.testing.assert_array_equal(to_numpy(found), value)


@pytest.mark.tensors
def test_in_a_model_of_unknown_length_where_the_length_is_an_input(tmp_path):
    inputs, length = keras.Input((None, 3)), keras.Input((), dtype="int32")
    y = sample(inputs).where(position(0) >= each(length)).set(0.0)
    z = Editing(sample.where(position(0) > position(1)).set(-1.0))(y)
    model = keras.Model([inputs, length], [y, z])
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    for size in (3, 5):
        given = np.arange(1.0, 9 * size + 1, dtype="float32").reshape(3, 3 * size // 3, 3)[:, :size]
        along = np.indices(given.shape)
        first = np.where(along[1] >= n[:, None, None], 0, given)
        second = np.where(along[1] > along[2], -1, first)
        for one in (model, loaded):
            found = one.predict([given, n], verbose=0)
            for value, wanted in zip(found, (first, second), strict=True):
                np.testing.assert_array_equal(value, wanted)


def test_compared_with_integers_they_are_exact_in_every_dtype():
    for dtype in ("bool", "uint8", "int8", *FLOATS, "complex64"):
        zeros = ops.zeros((5, 3000), dtype)
        found = to_numpy(at(zeros).where(position(1) >= 2049).set(True if dtype == "bool" else 1))
        assert found.astype("complex64").real.sum(1).tolist() == [951.0] * 5
    far = np.array([2**40, -(2**40), 1, 0, 7])
    ones = np.ones((5, 4), "uint8")
    edit = sample.where(position(0) >= each(far)).set(0)
    for given in (ones, ops.convert_to_tensor(ones)):
        assert to_numpy(edit(given)).sum(1).tolist() == [4, 0, 1, 0, 4]
    assert at(ones).where(position(1) > 1.5).set(0).sum() == 10
    assert at(ones).where(position(1) == 1.5).set(0).sum() == 20


@pytest.mark.parametrize("way", SIZED)  # a constant for each sample needs the batch size
def test_a_sum_with_the_ends_of_the_integers_does_not_wrap(way):
    low, high = -(2**31), 2**31 - 1
    edits = [
        sample.where(position(0) - each([low, high]) < 5).set(7.0),
        sample.where(position(0) + each([low, high]) > 5).set(7.0),
        sample.where(position(0) >= each([low, high])).set(7.0),
    ]
    zeros = np.zeros((2, 4), "float32")
    wanted = [[False, True], [False, True], [True, False]]
    for edit, found, chosen in zip(
        edits, WAYS[way](lambda x: [e(x) for e in edits])(*tensors([zeros])), wanted, strict=True
    ):
        expected = np.where(np.array(chosen)[:, None], 7.0, zeros)
        np.testing.assert_array_equal(to_numpy(found), expected)
        np.testing.assert_array_equal(edit(zeros), expected)


def test_numbers_of_each_sample_must_fit_where_they_are_values():
    for dtype, number in (("int32", 2**40), ("uint32", -1), ("float16", 70000)):
        x = np.zeros((1, 2), dtype)
        for given in (x, ops.convert_to_tensor(x)):
            if to_numpy(given).dtype != x.dtype:
                continue  # of uint32, which the backend widens
            with pytest.raises(DTypeError, match="should lie between"):
                sample(given)[...].set(each([number]))
            with pytest.raises(DTypeError, match="should lie between"):
                sample(given).where(X == each([number])).set(0)


def test_functions_of_positions_are_compared_in_32_bits():
    for dtype in ("float16", "bfloat16", "int32", "uint8", "complex64"):
        x = np.zeros((1, 3000)).astype(dtype)
        edit = sample.where(position(0).apply(lambda p: p * 1.0) > 2049).set(1)
        for given in (x, ops.convert_to_tensor(x)):
            assert to_numpy(edit(given)).astype("complex64").real.sum() == 950


@pytest.mark.tensors
def test_integers_of_64_bits_are_not_narrowed():
    """Where the backend has such: a length beyond 32 bits is longer than any axis."""
    length = ops.convert_to_tensor(np.array(2**32 + 1)) if _has_64_bits() else None
    if length is None:
        length = ops.convert_to_tensor(np.array(2**31 - 1, "int32"))
    found = at(ops.ones(4)).where(position(0) >= length).set(0.0)
    assert to_numpy(found).tolist() == [1.0] * 4
    found = at(ops.ones(4)).where(position(0) < length).set(0.0)
    assert to_numpy(found).tolist() == [0.0] * 4


def _has_64_bits():
    return "64" in str(ops.convert_to_tensor(np.array(2)).dtype)


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True])
def test_gradients(compile):
    g = np.random.default_rng(0).normal(size=x.shape).astype("float32")
    v = np.array([2.0, 3.0, 5.0], "float32")

    def function(x, v):
        return at(x).where(position(1) >= position(2)).set(X * position(0) + v * position(2))

    value, (gx, gv) = vjp(function, [x, v], g, compile=compile)
    chosen = P[1] >= P[2]
    np.testing.assert_allclose(value, np.where(chosen, x * P[0] + v * P[2], x), 1e-6)
    np.testing.assert_allclose(gx, np.where(chosen, g * P[0], g), 1e-6)
    np.testing.assert_allclose(gv, np.where(chosen, g * P[2], 0).sum((0, 1)), 1e-5, 1e-5)


@pytest.mark.gradient
@pytest.mark.parametrize("expression", [X.sqrt(), X.log(), 1.0 / X, X.apply(ops.sqrt)], ids=repr)
def test_no_nan_comes_from_a_surrogate_where_nothing_is_compared(expression):
    layer = Editing(sample.where(expression >= Trainable(0.5)).set(0.0), gradient="sigmoid")
    layer.build((None, 4))
    low = (
        0.0 if expression.name in ("log", "divide") else 0.25
    )  # the slope of a root at 0 is infinite
    x = np.array([[-1.0, low, 1.0, 4.0]], "float32")

    def outputs(x, weight):
        return layer.stateless_call([weight], [], x)[0]

    _, (gx, gt) = vjp(outputs, [x, np.float32(0.5)], np.ones_like(x))
    assert np.isfinite(gx).all()
    assert np.isfinite(gt).all()
    assert gt != 0


@pytest.mark.gradient
def test_a_length_is_learned():
    t = Trainable(0.5)
    edit = sample.where(position(0) >= t).set(0.0)
    layer = Editing(edit, gradient="sigmoid", temperature=0.5)
    layer.build((None, 4, 1))
    ones = np.ones((2, 4, 1), "float32")
    g = np.random.default_rng(0).normal(size=ones.shape).astype("float32")

    def outputs(weight):
        return layer.stateless_call([weight], [], ops.convert_to_tensor(ones))[0]

    value, (gt,) = vjp(outputs, [np.float32(1.25)], g)
    check_close(value[..., 0], [[1, 1, 0, 0]] * 2)
    s = 1 / (1 + np.exp(-(np.arange(4) - 1.25) / 0.5))
    check_close(gt, (g[..., 0] * s * (1 - s) / 0.5).sum())  # (0 - 1) * -slope


def test_it_is_a_value():
    for edit in (
        at.where(position(1) > position(0)).set(0.0),
        sample[..., 1:].where(position(-1) >= each([0, 3, 1])).set(X % 2.0),
        sample.where(~(position(0) // 2 == 1)).add(X * position(1)),
        sample[0].set(each([1, 2, 3])),
    ):
        assert eval(repr(edit)) == edit
        assert hash(eval(repr(edit))) == hash(edit)
        assert pickle.loads(pickle.dumps(edit)) == edit
        loaded = Edit.from_config(json.loads(json.dumps(edit.get_config())))
        assert loaded == edit
        np.testing.assert_array_equal(loaded(x), edit(x))
    assert repr(position(-1) >= each([0, 3])) == "position(-1) >= each([0, 3])"
    assert at.where(position(0) > 1).set(0.0) != at.where(position(1) > 1).set(0.0)


def test_in_a_draft_and_with_otherwise():
    d = draft(x)
    d.where(position(2) > position(1)).set(0.0, otherwise=1.0)
    d[0].where(position(-1) == 2).set(5.0)
    wanted = np.where(P[2] > P[1], 0, 1)
    wanted[0, :, 2] = 5
    np.testing.assert_array_equal(to_numpy(d.value), wanted)


@pytest.mark.parametrize(
    ("call", "error", "fix"),
    [
        (lambda: position(1.5), OperandError, r"Write `position\(0\)`"),
        (lambda: position(ops.zeros(())), OperandError, "should be given the number of an axis"),
        (lambda: at(x).where(position(3) > 1).set(0.0), PositionError, "from -3 to 2"),
        (lambda: sample(x).where(position(2) > 1).set(0.0), PositionError, "from -2 to 1"),
        (lambda: sample(x).where(position(-3) > 1).set(0.0), PositionError, "from -2 to 1"),
        (lambda: at(keras.Input((3,))).where(position(2) > 1).set(0.0), PositionError, "-2 to 1"),
        (lambda: at(x).where(position(0) > each(n)).set(0.0), OperandError, r"`sample\[\.\.\.\]`"),
        (lambda: sample(x).where(position(0) > each(n[:2])).set(0.0), ShapeError, "batch"),
        (lambda: Editing(at.where(position(0) > 1).set(0.0)), CoordinateError, "sample.where"),
        (lambda: Editing(at[:, 0].set(X * position(0))), CoordinateError, "sample.where"),
        (
            lambda: Editing(at.where(position(-2) > 1).set(0.0)).build((None, 3)),
            CoordinateError,
            "sample.where",
        ),
        (lambda: at(np.zeros(3, "int8"))[:].set(position(0)), DTypeError, "keras.ops.cast"),
        (lambda: at(np.zeros(3, bool)).where(X > position(0)).set(True), DTypeError, "Received"),
        (lambda: each([0.5, 1.5]), PositionError, "integers"),
        (
            lambda: Editing(sample.where(position(0) >= each([1, 3])).set(0.0))(ops.ones((2, 3))),
            ShapeError,
            "give a tensor",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, error, fix):
    with pytest.raises(error, match=fix) as raised:
        call()
    assert "Received" in str(raised.value)


@pytest.mark.once
@pytest.mark.parametrize(
    "condition",
    [
        {"expression": "position", "args": [1.0]},
        {"expression": "position", "args": [True]},
        {"expression": "position", "args": []},
        {"expression": "position", "args": [{"expression": "X", "args": []}]},
        {"expression": "each", "args": [1.5]},
        {"expression": "each", "args": [{"expression": "X", "args": []}]},
    ],
)
def test_loading_refuses_what_no_expression_wrote(condition):
    config = at.where(position(0) > 1).set(0.0).get_config()
    broken = {"expression": "greater", "args": [condition, 1]}
    with pytest.raises(SavingError, match="Received"):
        Edit.from_config({**config, "condition": broken})


def test_masks_given_by_functions_broadcast():
    for function in (
        lambda x: ops.convert_to_tensor(np.array([[True], [False], [True]])),
        lambda x: ops.convert_to_tensor(np.array([True, False, False])),
        lambda x: ops.convert_to_tensor(np.array(True)),
        lambda x: x[:1] > 5.0,
    ):
        mask = np.broadcast_to(to_numpy(function(ops.convert_to_tensor(x))), x.shape)
        for given in (x, ops.convert_to_tensor(x)):
            for op in ("set", "add", "max", "power"):
                place = at(given).where(function)
                found = to_numpy(getattr(place, op)(2.0))
                value = {"set": 2.0 + 0 * x, "add": x + 2, "max": np.maximum(x, 2), "power": x**2}
                check_close(found, np.where(mask, value[op], x))
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, at(inputs).where(lambda x: x[:, :, :1] > 4.5).set(0.0))
    check_close(model.predict(x, verbose=0), np.where(x[:, :, :1] > 4.5, 0, x))
    for shape in ((1, 3, 3, 3), (2, 3)):
        with pytest.raises(ShapeError, match="should broadcast"):
            at(ops.convert_to_tensor(x)).where(lambda _, s=shape: ops.ones(s, "bool")).set(0.0)
