"""`Editing` and `ConditionalModifier`: by the kit, and what is special to each."""

import keras
import numpy as np
import pytest
from _backend import tensors, to_numpy, vjp
from keras import ops
from kit import check_close, check_layer, check_roundtrip, dtype_of, saved_and_loaded

from kedit import X, at, sample
from kedit.errors import CoordinateError, EditError, OperandError, PositionError
from kedit.layers import ConditionalModifier, Editing

BATCH = np.array([[1, -2, 3, 0], [4, 5, -6, 8], [0.5, 2, 7, -1]], "float32")
LAYERS = {
    "set": (lambda **kw: Editing(sample[1].set(5.0), **kw), lambda x: [x[0], 5, x[2], x[3]]),
    "many": (
        lambda **kw: Editing(at[..., 0].add(1.0) | sample.where(X < 0).set(X * X), **kw),
        lambda x: [x[0] + 1, *np.where(x[1:] < 0, x[1:] ** 2, x[1:])],
    ),
    "array": (
        lambda **kw: Editing(sample[[3, 0]].set(np.array([2.0, 3.0])), **kw),
        lambda x: [3, x[1], x[2], 2],
    ),
    "slice": (lambda **kw: Editing(at[:, 1::2].multiply(2.0), **kw), lambda x: x * [1, 2, 1, 2]),
    "factor": (lambda **kw: ConditionalModifier(3.0, **kw), lambda x: np.where(x > 3, 2 * x, x)),
    "below": (
        lambda **kw: ConditionalModifier(threshold=-1.5, factor=-0.5, **kw),
        lambda x: np.where(x > -1.5, -0.5 * x, x),
    ),
}
every_layer = pytest.mark.parametrize(("factory", "one"), LAYERS.values(), ids=LAYERS.keys())


@every_layer
def test_layer(factory, one, tmp_path):
    check_layer(factory, BATCH, [one(x) for x in BATCH], tmp_path / "model.keras")


@pytest.mark.gradient
@every_layer
def test_gradient(factory, one):
    """In closed form: `one` is linear or quadratic, so that central differences are exact."""
    upstream = np.arange(1, 13).reshape(3, 4).astype("float32")
    step = np.eye(4) * 2**-6
    expected = [
        [np.dot(np.subtract(one(x + h), one(x - h)), g) / 2**-5 for h in step]
        for x, g in zip(BATCH.astype("float64") + 0.25, upstream, strict=True)
    ]
    layer = factory()
    layer.build((None, 4))
    for compile in (False, True):
        value, (gradient,) = vjp(layer.call, [BATCH + 0.25], upstream, compile=compile)
        check_close(value, [one(x) for x in BATCH + 0.25])
        check_close(gradient, expected)


@pytest.mark.gradient
def test_layer_trains_with_and_without_a_compiler(tmp_path):
    def factory(**kwargs):
        edits = sample[0].set(1.0) | at.where(X > 0.5).multiply(2.0) | sample[[2, 1]].add(X)
        return Editing(edits, **kwargs)

    expected = BATCH.copy()
    expected[:, 0] = 1
    expected = np.where(expected > 0.5, 2 * expected, expected) * [1, 2, 2, 1]
    check_layer(factory, BATCH, expected, tmp_path / "model.keras", jit_compile=(False, True))


def test_formula_of_the_conditional_modifier():
    x = np.array([[4, 5, 6, np.nan, np.inf, -np.inf]], "float32")
    y = to_numpy(ConditionalModifier(threshold=5.0)(ops.convert_to_tensor(x)))
    np.testing.assert_array_equal(y, [[4, 5, 12, np.nan, np.inf, -np.inf]])
    config = ConditionalModifier(5.0, name="it").get_config()
    assert (config["threshold"], config["factor"], config["name"]) == (5.0, 2.0, "it")
    assert "edit" not in config


def test_batches_and_axes_of_any_size_after_the_first_call():
    layer = Editing(sample[1:, -1].set(9.0))
    for shape in ((2, 3, 4), (5, 3, 4), (1, 3, 4), (0, 3, 4), (2, 7, 4)):
        y = to_numpy(layer(ops.zeros(shape)))
        expected = np.zeros(shape)
        expected[:, 1:, -1] = 9
        np.testing.assert_array_equal(y, expected)
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, layer(inputs))
    assert model.predict(np.zeros((4, 3, 4)), batch_size=3, verbose=0).shape == (4, 3, 4)


@pytest.mark.parametrize(
    ("edit", "shown"),
    [
        (at[0, 2].set(1.0), "sample[2]"),
        (at[-1, 2].set(1.0), "sample[2]"),
        (at[0].set(1.0), "sample[0]"),
        (at[1:, 2].set(1.0), "sample[2]"),
        (at[::-1].set(1.0), "sample[...]"),
        (at[[0, 1], 2].where(X > 0).set(1.0), "sample[2].where(X > 0)"),
        (at[np.array([True, False])].set(1.0), "sample[...]"),
        (at[None, 0].set(1.0), "sample["),
        (at[..., 2].set(1.0) | at[0].set(1.0), "sample[0]"),
    ],
    ids=repr,
)
def test_rows_of_the_batch_are_refused_with_the_fix(edit, shown):
    with pytest.raises(CoordinateError, match="Received") as raised:
        Editing(edit)
    assert shown in str(raised.value)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    "edit", [at[..., 0].set(1.0), at[..., 0, 0].set(1.0), sample[..., 0, 0].get()]
)
def test_rows_behind_an_ellipsis_are_refused_when_built(edit):
    if edit.op == "get":
        edit = sample[..., 0, 0].set(1.0)  # one axis too many is no row, but does not fit
    rank = len(edit.selection.index.items) - 1
    for given in (ops.zeros((2, 3)[:rank]), keras.Input((3,)[: rank - 1])):
        with pytest.raises((CoordinateError, PositionError), match="Received"):
            Editing(edit)(given)
    wider = Editing(edit)(ops.zeros((2, 3, 4)))
    assert wider.shape == (2, 3, 4)


@pytest.mark.parametrize(
    "edit",
    [
        sample[0].get(),
        sample[0].set(1.0).on("a"),
        sample[0].set(1.0).on(part="y"),
        sample[0].set(1.0) | sample[0].set(1.0).on("a"),
        sample[0],
        lambda x: x,
        5.0,
    ],
)
def test_what_is_no_edit_of_a_tensor_is_refused(edit):
    with pytest.raises(OperandError, match="Received") as raised:
        Editing(edit)
    assert isinstance(raised.value, TypeError)


def test_edits_that_do_not_fit_are_refused_while_building():
    for edit in (sample[4].set(1.0), sample[0].set(np.zeros(2)), sample[0].set(1j)):
        for inputs in (keras.Input((4,)), ops.zeros((2, 4))):
            with pytest.raises(EditError, match="Received"):
                Editing(edit)(inputs)


def test_mask_reaches_the_layers_behind(tmp_path):
    tokens = np.array([[1, 2, 0, 0], [3, 0, 0, 0], [1, 1, 2, 3]])
    table = np.arange(8, dtype="float32").reshape(4, 2) + 1
    inputs = keras.Input((None,), dtype="int32")
    embedding = keras.layers.Embedding(4, 2, mask_zero=True)
    h = Editing(sample[0, 1].set(100.0))(embedding(inputs))
    h = ConditionalModifier(50.0, 0.5)(h)
    outputs = keras.layers.GlobalAveragePooling1D()(h)
    model = keras.Model(inputs, outputs)
    embedding.set_weights([table])
    x = table[tokens]
    x[:, 0, 1] = 50
    kept = (tokens != 0)[..., None]
    expected = (x * kept).sum(axis=1) / kept.sum(axis=1)
    check_close(model.predict(tokens, verbose=0), expected)
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    check_close(loaded.predict(tokens, verbose=0), expected)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_integers_and_booleans_stay_what_they_are(dtype):
    value = True if dtype == "bool" else 7
    x = np.array([[0, 1, 1], [1, 0, 0]], dtype)
    y = Editing(sample[2].set(value))(ops.convert_to_tensor(x))
    assert dtype_of(y) == dtype
    assert to_numpy(y).tolist() == [[*row[:2], value] for row in x.tolist()]
    if dtype != "bool":
        y = ConditionalModifier(0.5, 3)(ops.convert_to_tensor(x))
        assert to_numpy(y).tolist() == [[0, 3, 3], [3, 0, 0]]
        with pytest.raises(TypeError, match="Received"):
            ConditionalModifier(0.5, 1.5)(ops.convert_to_tensor(x))


def test_inputs_and_edit_are_unchanged():
    x, edit = BATCH.copy(), sample[0].set(np.array(3.0))
    tensor, variable = *tensors([x]), keras.Variable(x)
    layer = Editing(edit)
    for given in (tensor, variable, x):
        layer(given)
        np.testing.assert_array_equal(to_numpy(given), BATCH)
    assert layer.edit == edit == check_roundtrip(layer).edit == sample[0].set(np.array(3.0))
