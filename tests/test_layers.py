"""`Editing` and `ConditionalModifier`: by the kit, and what is special to each."""

from functools import partial

import keras
import numpy as np
import pytest
from _backend import TRAINING, tensors, to_numpy, vjp
from keras import ops
from kit import (
    LEARNED_INPUT,
    check_close,
    check_holds_no_code,
    check_layer,
    check_roundtrip,
    dtype_of,
    learned_model,
    learned_prediction,
    model_files,
    saved_and_loaded,
)

import kedit
from kedit import Trainable, X, at, sample
from kedit.errors import CoordinateError, EditError, OperandError, PositionError, ShapeError
from kedit.inputs import InputEditing
from kedit.layers import ConditionalModifier, Editing, IndexGuide

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
    "dead zone": (
        lambda **kw: ConditionalModifier(1.5, 0.0, comparison="abs<", operation="set", **kw),
        lambda x: np.where(abs(x) < 1.5, 0, x),
    ),
    "between": (
        lambda **kw: ConditionalModifier((0.75, 6.0), 0.5, comparison="between", **kw),
        lambda x: np.where((x > 0.75) & (x < 6), 0.5 * x, x),
    ),
    "straight through": (
        lambda **kw: Editing(at.where(X < 0).set(0.0), gradient="straight_through", **kw),
        lambda x: np.maximum(x, 0),
    ),
    "inference": (
        lambda **kw: Editing(sample[1].set(5.0), when="inference", switch=True, **kw),
        lambda x: [x[0], 5, x[2], x[3]],
    ),
    "guide": (lambda **kw: IndexGuide(1, 2.0, **kw), lambda x: x),
}
# Layers that have something to learn.
LEARNING = {
    "steering": (
        lambda **kw: Editing(sample[1:].add(Trainable(0.5)), **kw),
        lambda x: np.add(x, [0, 0.5, 0.5, 0.5]),
    ),
    "threshold": (
        lambda **kw: ConditionalModifier(Trainable(1.5), Trainable(0.5), gradient="sigmoid", **kw),
        lambda x: np.where(x > 1.5, 0.5 * x, x),
    ),
    "both ends": (
        lambda **kw: ConditionalModifier(
            (Trainable(0.75), Trainable(6.0)), 0.5, comparison="between", gradient="sigmoid", **kw
        ),
        lambda x: np.where((x > 0.75) & (x < 6), 0.5 * x, x),
    ),
    "switch": (
        lambda **kw: Editing(
            at.where(X < Trainable("zeros", shape=())).multiply(Trainable(-1.0)),
            gradient="sigmoid",
            temperature=2.0,
            switch=True,
            **kw,
        ),
        np.abs,
    ),
}
ALL = LAYERS | LEARNING
KINDS = ("guide", "switch", "both ends")  # one of each class


def of_channels(learn, **options):
    """A threshold for each channel, which has to know how many there are."""
    thresholds, offsets = learn([0.5, 4.5, -7.0, 0.25]), learn([2.0, 0.0, 0.5, 1.0])
    options |= {"comparison": "abs>", "operation": "add", "gradient": "sigmoid"}
    return ConditionalModifier(thresholds, offsets, **options)


@pytest.mark.parametrize("name", ALL)
def test_layer(name, tmp_path):
    factory, one = ALL[name]
    check_layer(factory, BATCH, [one(x) for x in BATCH], tmp_path / f"{name}.keras")


def test_layer_that_casts_nothing():
    """So that it computes in the dtype of its input, not in that of its policy."""
    expected = BATCH * [1, 0, 1, 1]
    options = {"dtypes": ["float32"], "jit_compile": TRAINING}
    kedit.testing.check_layer(
        lambda **kw: InputEditing(sample[1].set(0.0), **kw), BATCH, expected, **options
    )


@pytest.mark.gradient
def test_layers_of_every_kind_train_compiled():
    """One of each class in one model, whose step PyTorch compiles for longer than all else takes.

    The others differ in what they compute, whose compiled gradients have tests of their own.
    """

    def factory(**kw):
        kinds = [ALL[name][0]() for name in KINDS]
        return keras.Sequential([InputEditing(sample[1].multiply(2.0)), *kinds], **kw)

    options = {"unknown_axes": False, "masks": False, "dtypes": ()}  # of layers, each by itself
    kedit.testing.check_layer(factory, BATCH, jit_compile=[False, True], **options)


def test_models_of_every_backend_that_have_learned(tmp_path):
    model = learned_model()
    check_close(model.predict(LEARNED_INPUT, verbose=0), learned_prediction())
    for path in model_files("learned", tmp_path, model):
        loaded = keras.saving.load_model(path)
        check_holds_no_code(path)
        check_close(loaded.predict(LEARNED_INPUT, verbose=0), learned_prediction())
        loaded.get_layer("switched").enabled = True
        assert (loaded.predict(LEARNED_INPUT, verbose=0)[:, 0] != learned_prediction()[:, 0]).all()


@pytest.mark.parametrize("learn", [lambda array: array, Trainable], ids=["fixed", "learned"])
def test_one_threshold_for_each_channel(learn):
    expected = BATCH + (abs(BATCH) > [0.5, 4.5, -7, 0.25]) * [2, 0, 0.5, 1]
    options = {"unknown_axes": False, "jit_compile": TRAINING}
    kedit.testing.check_layer(partial(of_channels, learn), BATCH, expected, **options)
    with pytest.raises(ShapeError, match="Received"):
        of_channels(learn)(keras.Input((3,)))


@pytest.mark.gradient
@pytest.mark.parametrize("name", ["set", "many", "array", "slice", "factor", "below"])
def test_gradient(name):
    """In closed form: `one` is linear or quadratic, so that central differences are exact."""
    factory, one = LAYERS[name]
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


def test_formula_of_the_conditional_modifier():
    x = np.array([[4, 5, 6, np.nan, np.inf, -np.inf]], "float32")
    y = to_numpy(ConditionalModifier(threshold=5.0)(ops.convert_to_tensor(x)))
    np.testing.assert_array_equal(y, [[4, 5, 12, np.nan, np.inf, -np.inf]])
    config = ConditionalModifier(5.0, name="it").get_config()
    assert (config["threshold"], config["factor"], config["name"]) == (5.0, 2.0, "it")
    assert "edit" not in config
    old = {"name": "it", "trainable": True, "dtype": "float32", "threshold": 5.0, "factor": 3.0}
    assert ConditionalModifier.from_config(old).edit == at.where(X > 5.0).multiply(3.0)
    for options in (
        {"threshold": "5"},
        {"threshold": 1j},
        {"threshold": 5.0, "factor": None},
        {"threshold": 5.0, "comparison": "=>"},
        {"threshold": 5.0, "operation": "divide"},
        {"threshold": 5.0, "comparison": "between"},
        {"threshold": (1.0, 2.0, 3.0), "comparison": "between"},
    ):
        with pytest.raises(OperandError, match="Received"):
            ConditionalModifier(**options)


@pytest.mark.gradient
@pytest.mark.parametrize("when", ["always", "training", "inference"])
def test_when(when):
    """In training the edit leaves no gradient to the kernel, in inference no output."""
    inputs = keras.Input((2,))
    dense = keras.layers.Dense(3, use_bias=False)
    model = keras.Model(inputs, Editing(sample[...].set(7.0), when=when)(dense(inputs)))
    x = np.ones((4, 2), "float32")
    before = to_numpy(dense.kernel).copy()
    edits = (model.predict(x, verbose=0) == 7).all()
    assert edits == (when != "training") == (to_numpy(model(x, training=False)) == 7).all()
    assert (to_numpy(model(x, training=True)) == 7).all() == (when != "inference")
    model.compile("sgd", "mse")
    if when == "inference":  # where all is set, nothing learns
        model.fit(x, np.zeros((4, 3)), verbose=0)
        assert (to_numpy(dense.kernel) != before).all()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_switch_works_after_predict_was_compiled_and_is_saved(jit_compile, tmp_path):
    layer = Editing(at.where(X > 1.0).divide(0.0), switch=True, name="switched")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(inputs))
    model.compile(loss="mse", jit_compile=jit_compile)
    on = np.where(BATCH > 1, np.inf, BATCH)
    for enabled in (True, False, True, False):
        layer.enabled = enabled
        assert layer.enabled is enabled
        np.testing.assert_array_equal(model.predict(BATCH, verbose=0), on if enabled else BATCH)
    assert layer.trainable_weights == []
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(BATCH, verbose=0), BATCH)
    loaded.get_layer("switched").enabled = True
    np.testing.assert_array_equal(loaded.predict(BATCH, verbose=0), on)


@pytest.mark.gradient
def test_a_switched_off_edit_sends_back_no_nan():
    layer = Editing(at[...].apply(ops.sqrt), switch=True)
    layer.build((None, 4))
    layer.enabled = False
    x = np.array([[-1.0, 0.0, 4.0, 9.0]], "float32")
    value, (gradient,) = vjp(layer.call, [x], np.ones((1, 4), "float32"))
    np.testing.assert_array_equal(value, x)
    np.testing.assert_array_equal(gradient, np.ones((1, 4)))


def test_a_layer_without_a_switch_has_no_weight_and_says_so():
    layer = Editing(sample[0].set(1.0))
    layer.build((None, 4))
    assert layer.enabled
    assert layer.weights == []
    with pytest.raises(OperandError, match="switch=True"):
        layer.enabled = False
    with pytest.raises(OperandError, match="Build it first"):
        Editing(sample[0].set(1.0), switch=True).enabled = False


def test_summary_shows_the_edit_in_words():
    keras.utils.clear_session()
    inputs = keras.Input((4,))
    h = Editing(sample[2].set(0.0))(inputs)
    h = ConditionalModifier(5.0)(h)
    h = Editing(at[..., -1].where(abs(X) <= 0.5).set(1 - X) | sample[::2].add(1.0))(h)
    h = ConditionalModifier(5.0)(h)
    h = ConditionalModifier(Trainable(0.5), gradient="sigmoid")(h)
    model = keras.Model(inputs, Editing(sample[0].set(1.0), name="own")(h))
    names = [layer.name for layer in model.layers[1:]]
    assert names == [
        "sample_2_set_0",
        "where_X_gt_5_multiply_2",
        "minus_1_where_abs_X_le_0_5_set_1_X_then_sample_2",
        "where_X_gt_5_multiply_2_1",
        "where_X_gt_learned_0_5_multiply_2",
        "own",
    ]
    lines = []
    model.summary(print_fn=lines.append, line_length=160)
    for name in names:
        assert f"{name} (" in "".join(lines)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.filterwarnings("ignore:(.|\n)*custom_gradient")
def test_quantized_neighbours_are_left_alone():
    inputs = keras.Input((4,))
    h = Editing(sample[0].add(Trainable(1.0)), switch=True)(keras.layers.Dense(4)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(h))
    before = model.predict(BATCH, verbose=0)
    model.quantize("int8")
    assert model.layers[1].quantization_mode == "int8"
    assert len(model.layers[2].weights) == 2
    np.testing.assert_allclose(model.predict(BATCH, verbose=0), before, atol=0.3)


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


@pytest.mark.once
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


@pytest.mark.once
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


def test_a_tensor_of_the_model_is_refused_in_a_layer():
    """It would be no input of the layer, and have no value when the model runs."""
    mask, values = keras.Input((3,), dtype="bool"), keras.Input((3,))
    for edit in (sample.where(mask).set(0.0), sample[...].set(values), sample[0].set(X * values)):
        with pytest.raises(OperandError, match=r"holds a KerasTensor. .*`at\(inputs\)"):
            Editing(edit)
