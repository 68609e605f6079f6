"""`set(values, otherwise=...)`: one of two values for each selected element, by one condition."""

import json
import pickle

import keras
import numpy as np
import pytest
from _backend import compilers, tensors, to_numpy, vjp
from keras import ops
from kit import check_array

from kedit import Edit, Trainable, X, at, draft, sample
from kedit.errors import DTypeError, OperandError, SavingError, ShapeError
from kedit.layers import ConditionalModifier, Editing

WAYS = {"eager": lambda function: function, **compilers()}
x = np.array([[-2.0, -0.5, 0.0], [0.5, 4.0, np.nan]], "float32")
v = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "float32")
mask = np.array([[True, False, True], [False, True, False]])


def edits(x, v, mask):
    return [
        at(x).where(X > 0).set(1.0, otherwise=0.0),
        at(x).where(X > 0).set(v, otherwise=X - 1.0),
        at(x).where(X > 0).set(X.log(), otherwise=v[0]),
        at(x).where((X < 0) | X.isnan()).set(X * v, otherwise=X),
        at(x).where(mask).set(v, otherwise=-v),
        at(x)[0].where(X < 0).set(v[1], otherwise=v[0]),
        at(x)[:, [2, 0]].where(X < 0).set(1.0, otherwise=X + 1.0),
        at(x)[[0, 0], [0, 0]].where(v[0, :2] > 1.5).set(7.0, otherwise=9.0),
    ]


def wanted():
    rows, columns = x.copy(), x.copy()
    rows[0] = np.where(x[0] < 0, v[1], v[0])
    columns[:, [2, 0]] = np.where(x[:, [2, 0]] < 0, 1, x[:, [2, 0]] + 1)
    twice = x.copy()
    twice[0, 0] = 7.0  # the last one wins
    with np.errstate(all="ignore"):
        return [
            np.where(x > 0, 1, 0).astype("float32"),
            np.where(x > 0, v, x - 1),
            np.where(x > 0, np.log(x), v[0]),
            np.where((x < 0) | np.isnan(x), x * v, x),
            np.where(mask, v, -v),
            rows,
            columns,
            twice,
        ]


@pytest.mark.parametrize("way", WAYS)
def test_values(way):
    for found, expected in zip(WAYS[way](edits)(*tensors([x, v, mask])), wanted(), strict=True):
        np.testing.assert_allclose(to_numpy(found), expected, 1e-6)


def test_arrays_and_drafts():
    for found, expected in zip(edits(x, v, mask), wanted(), strict=True):
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, expected, 1e-6)
    d = draft(x)
    d.where(X > 0).set(1.0, otherwise=0.0)
    check_array(d.value, wanted()[0])


@pytest.mark.tensors
def test_in_a_model(tmp_path):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, at(inputs).where(X > 0).set(X.sqrt(), otherwise=X * 2.0))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = np.array([[-4, -1, 0], [0.5**0.5, 2, np.nan]], "float32")
    np.testing.assert_allclose(to_numpy(loaded(x)), expected, 1e-6)


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True])
def test_no_nan_comes_from_the_branch_that_is_not_chosen(compile):
    x, v = np.array([-1.0, 0.0, 2.0], "float32"), np.array([0.0, 3.0, 5.0], "float32")
    g = np.array([1.0, 10.0, 100.0], "float32")

    def function(x, v):
        return at(x).where(X > 0).set(X.log() * v, otherwise=1.0 / (X - 2.0) + v)

    value, (gx, gv) = vjp(function, [x, v], g, compile=compile)
    np.testing.assert_allclose(value, [-1 / 3, 2.5, 5 * np.log(2)], 1e-6)
    np.testing.assert_allclose(gx, [-1 / 9, -10 / 4, 250], 1e-5)
    np.testing.assert_allclose(gv, [1, 10, 100 * np.log(2)], 1e-5)

    def divided(x, v):
        return at(x).where(v != 0).set(X / v, otherwise=0.0)

    value, (gx, gv) = vjp(divided, [x, v], g, compile=compile)
    np.testing.assert_allclose(value, [0, 0, 0.4], 1e-6)
    np.testing.assert_allclose(gx, [0, 10 / 3, 20], 1e-5)
    np.testing.assert_allclose(gv, [0, 0, -8], 1e-5)


@keras.saving.register_keras_serializable(package="test_otherwise")
def halved(x):
    return x * 0.5


def functions(x, v):
    return [
        at(x).where(X > 0).apply(ops.sqrt, otherwise=lambda x: x * v),
        at(x).where(X > 0).apply(halved, otherwise=X - 1.0),
        at(x).where(v > 2.5).apply(X * 2.0, otherwise=ops.abs),
        at(x).where(X > 0).apply(ops.log, otherwise=v),
        at(x)[:, 1:].where(X.apply(ops.abs) > 1.0).set(X.apply(halved) + 1.0),
    ]


@pytest.mark.parametrize("way", WAYS)
def test_both_branches_may_be_functions(way):
    x = np.array([[-2.0, -0.5, 0.0], [0.5, 4.0, 2.0]], "float32")
    last = x.copy()
    last[:, 1:] = np.where(abs(x[:, 1:]) > 1, x[:, 1:] / 2 + 1, x[:, 1:])
    with np.errstate(all="ignore"):
        wanted = [
            np.where(x > 0, np.sqrt(x), x * v),
            np.where(x > 0, x / 2, x - 1),
            np.where(v > 2.5, x * 2, abs(x)),
            np.where(x > 0, np.log(x), v),
            last,
        ]
    for found, expected in zip(WAYS[way](functions)(*tensors([x, v])), wanted, strict=True):
        np.testing.assert_allclose(to_numpy(found), expected, 1e-6)
    found = at(x).where(X > 0).apply(np.sqrt, otherwise=np.abs)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, np.sqrt(np.maximum(x, 0)) - np.minimum(x, 0))


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True])
def test_no_nan_comes_from_a_function_that_is_not_chosen(compile):
    x, v = np.array([-1.0, 0.0, 2.0], "float32"), np.array([2.0, 0.0, 5.0], "float32")
    g = np.array([1.0, 10.0, 100.0], "float32")

    def function(x, v):
        both = at(x).where(X > 0)
        return both.apply(lambda x: ops.log(x) * v[0], otherwise=lambda x: v[0] / (x - 2.0))

    value, (gx, gv) = vjp(function, [x, v], g, compile=compile)
    np.testing.assert_allclose(value, [-2 / 3, -1, 2 * np.log(2)], 1e-6)
    np.testing.assert_allclose(gx, [-2 / 9, -20 / 4, 100], 1e-5)
    np.testing.assert_allclose(gv, [-1 / 3 - 5 + 100 * np.log(2), 0, 0], 1e-5)


def test_functions_of_both_branches_are_saved_if_they_are_registered(tmp_path):
    edit = at.where(X > 0).apply(halved, otherwise=X * 2.0)
    assert repr(edit) == "at.where(X > 0).set(X.apply(halved), otherwise=X * 2.0)"
    twin = Edit.from_config(json.loads(json.dumps(edit.get_config())))
    assert twin == edit
    inputs = keras.Input((3,))
    model = keras.Model(inputs, [Editing(edit)(inputs), edit(inputs)])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for found in loaded.predict(x[:, :2].repeat(2, 1)[:, :3], verbose=0):
        given = x[:, :2].repeat(2, 1)[:, :3]
        np.testing.assert_allclose(found, np.where(given > 0, given / 2, given * 2))
    with pytest.raises(SavingError, match="register"):
        at.where(X > 0).apply(lambda x: x, otherwise=0.0).get_config()
    config = edit.get_config()
    for broken in (
        {"expression": "apply", "args": [{"expression": "X", "args": []}, 1.0]},
        {"expression": "add", "args": [{"expression": "X", "args": []}, {"function": "abs"}]},
        {"expression": "apply", "args": [1.0, config["operand"]["args"][1]["args"][1]]},
        {"expression": "apply", "args": [{"expression": "X", "args": []}, {"function": "none"}]},
    ):
        with pytest.raises(SavingError, match="Received"):
            Edit.from_config({**config, "operand": broken})


def test_a_function_in_an_expression_keeps_shape_and_dtype():
    for given in (x, ops.convert_to_tensor(x)):
        with pytest.raises(ShapeError, match="Received"):
            at(given).where(X > 0).apply(lambda x: x[0], otherwise=0.0)
    integers = ops.convert_to_tensor(np.array([1, -2]))
    with pytest.raises(DTypeError, match="Received"):
        at(integers).where(X > 0).apply(lambda x: ops.cast(x, "float32") * 0.5, otherwise=0)
    with pytest.raises(OperandError, match="should be given a function"):
        at(x).where(X > 0).set(X.apply(1.0), otherwise=0.0)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "float16", "bool"])
def test_dtypes(dtype):
    x = np.array([0, 1, 1]).astype(dtype)
    one, zero = (False, True) if dtype == "bool" else (3, 2)
    condition = X if dtype == "bool" else X > 0
    expected = np.where(x.astype(bool), one, zero).astype(dtype)
    for given in (x, ops.convert_to_tensor(x)):
        found = at(given).where(condition).set(one, otherwise=zero)
        assert to_numpy(found).dtype == to_numpy(given).dtype
        np.testing.assert_array_equal(to_numpy(found), expected)
    if dtype != "float16":
        with pytest.raises(DTypeError):
            at(x).where(condition).set(one, otherwise=0.5)
    if dtype != "bool":
        with pytest.raises(DTypeError, match="should be numbers"):
            at(x).where(X > 0).set(X > 1, otherwise=0)
    if dtype == "uint8":
        found = at(x).where(X > 0).set(X * 300.5, otherwise=-4, casting="unsafe")
        assert found.tolist() == [0, 255, 255]


def test_it_is_a_value():
    for edit in (
        at.where(X > 0).set(1.0, otherwise=0.0),
        sample[1:].where(X.isnan() | (X < 0)).set(X + 1.0, otherwise=X * 2.0),
        at[:, 0].where(mask[0]).set([1.0, 2.0], otherwise=-1.0, mode="wrap"),
    ):
        assert "otherwise=" in repr(edit)
        assert eval(repr(edit)) == edit
        assert pickle.loads(pickle.dumps(edit)) == edit
        assert Edit.from_config(json.loads(json.dumps(edit.get_config()))) == edit
        assert hash(eval(repr(edit))) == hash(edit)
    assert at.where(X > 0).set(1.0, otherwise=0.0) != at.where(X > 0).set(1.0)


def test_saved_choices_that_disagree_with_themselves_are_refused():
    config = at.where(X > 0).set(1.0, otherwise=0.0).get_config()
    condition, one, zero = config["operand"]["args"]
    nested = {"expression": "add", "args": [config["operand"], one]}
    for broken in (
        {"operand": {"expression": "choose", "args": [one, one, zero]}},
        {"operand": {"expression": "choose", "args": [condition, one]}},
        {"operand": {"expression": "choose", "args": [condition["args"][0], one, zero, zero]}},
        {"operand": nested},
        {"op": "add"},
    ):
        with pytest.raises(SavingError):
            Edit.from_config({**config, **broken})
    assert Edit.from_config(config)(np.array([1.0, -1.0])).tolist() == [1.0, 0.0]


def test_what_cannot_be_chosen():
    with pytest.raises(OperandError, match=r"should follow a condition.*at\.where\(X > 0\.0\)"):
        at[0].set(1.0, otherwise=0.0)
    for condition, values in ((lambda x: x > 0, 1.0), (X > 0, abs)):
        with pytest.raises(OperandError, match=r"Write `\.set\(X\.sqrt\(\), otherwise=0\.0\)`"):
            at.where(condition).set(values, otherwise=0.0)


@pytest.mark.gradient
def test_a_learned_threshold_between_two_values():
    """keras-team/keras#6926: 1 above a threshold that is learned, 0 below."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-1, 1, (2000, 1)).astype("float32")
    targets = (inputs > 0.3).astype("float32")
    layer = ConditionalModifier(
        Trainable(-0.5), 1.0, operation="set", otherwise=0.0, gradient="sigmoid", temperature=0.2
    )
    model = keras.Sequential([keras.Input((1,)), layer])
    model.compile(keras.optimizers.Adam(0.02), "mse", run_eagerly=False)
    model.fit(inputs, targets, batch_size=200, epochs=15, verbose=0)
    (threshold,) = [float(to_numpy(w)) for w in layer.trainable_weights]
    assert threshold == pytest.approx(0.3, abs=0.01)
    hard = to_numpy(layer(np.array([[threshold - 0.01], [threshold + 0.01]], "float32")))
    assert hard.tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [(">=", [0, 1, 1]), ("<=", [1, 1, 0]), ("==", [0, 1, 0]), ("abs<", [1, 0, 0])],
)
def test_comparisons_of_the_modifier(comparison, expected):
    inputs = np.array([[0.25, 0.5, 4.0]], "float32")
    layer = ConditionalModifier(0.5, 1.0, comparison=comparison, operation="set", otherwise=0.0)
    assert to_numpy(layer(inputs)).tolist() == [expected]
    twin = ConditionalModifier.from_config(json.loads(json.dumps(layer.get_config())))
    assert to_numpy(twin(inputs)).tolist() == [expected]
    passed = ConditionalModifier(0.5, 10.0, comparison=comparison, operation="add")
    assert "otherwise" not in passed.get_config()


def test_the_modifier_computes_from_the_element():
    inputs = np.array([[1.0, 3.0]], "float32")
    doubled = ConditionalModifier(2.0, 2.0, otherwise=-1.0)
    assert to_numpy(doubled(inputs)).tolist() == [[-1.0, 6.0]]
    added = ConditionalModifier(2.0, 5.0, operation="add", otherwise=Trainable(0.5))
    assert to_numpy(added(inputs)).tolist() == [[0.5, 8.0]]
    assert len(added.trainable_weights) == 1
    layer = Editing(sample.where(X > Trainable(0.0)).set(X, otherwise=0.0), gradient="sigmoid")
    assert to_numpy(layer(inputs - 2.0)).tolist() == [[0.0, 1.0]]
