"""Edits of `KerasTensor`s: one node each, inferred, checked when built, saved and loaded."""

import contextlib
import operator

import keras
import numpy as np
import pytest
from _backend import to_numpy
from keras import ops
from kit import (
    INDEXED_INPUT,
    REFERENCE_INPUT,
    check_close,
    check_holds_no_code,
    dtype_of,
    in_full_once,
    indexed_model,
    indexed_prediction,
    model_files,
    reference_model,
    reference_prediction,
    saved_and_loaded,
)

import kedit
from kedit import X, at, block, each, sample
from kedit.errors import (
    CoordinateError,
    DTypeError,
    EditError,
    OperandError,
    PositionError,
    ShapeError,
)

S = np.s_
RNG = np.random.default_rng(0)


def model_of(edit, shape, dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, edit(inputs))


def predict(model, *arrays):
    return model.predict(list(arrays) if len(arrays) > 1 else arrays[0], verbose=0)


def test_an_update_is_one_registered_node_with_a_name():
    inputs = keras.Input((4,))
    outputs = at(inputs)[:, 0].set(1.0)
    outputs = (at[:, 1].add(X) | sample.where(X > 2).multiply(3.0))(outputs)
    model = keras.Model(inputs, at(outputs)[:, ::2].get())
    nodes = model.operations[1:]
    names = ["edit_set", "edit_add", "edit_multiply", "edit_get"]
    assert [node.name.startswith(name) for node, name in zip(nodes, names, strict=True)]
    for node in nodes:
        assert isinstance(node, keras.Operation)
        name = keras.saving.get_registered_name(type(node))
        assert name.startswith("kedit>")
        assert keras.saving.get_registered_object(name) is type(node)
    lines = []
    model.summary(print_fn=lambda text, **_: lines.append(text))
    for node in nodes:
        assert node.name[:12] in "".join(lines)
    check_close(predict(model, np.ones((2, 4), "float32")), [[1, 1], [1, 1]])


# what is picked on axis 1 and after it, and the shape of it in (None, None, 4)
UNKNOWN = [
    (S[1,], (None, 4)),
    (S[-2,], (None, 4)),
    (S[1:,], (None, None, 4)),
    (S[-3:-1,], (None, None, 4)),
    (S[::-2,], (None, None, 4)),
    (S[5:1:-2, 1], (None, None)),
    (S[[0, 4, 2],], (None, 3, 4)),
    (S[[-1, -5], 1], (None, 2)),
    (S[[0, 2], :2], (None, 2, 2)),
    (S[:, [3, 0]], (None, None, 2)),
]


@pytest.mark.parametrize(("index", "shape"), UNKNOWN, ids=str)
@pytest.mark.parametrize("op", ["multiply", "set"])
def test_axes_of_unknown_size(op, index, shape):
    """What exists is edited as in NumPy, and a position that turns out not to is dropped."""
    inputs = keras.Input((None, 4))
    assert at(inputs)[:, *index].get().shape == shape
    assert sample(inputs)[index].get().shape == shape
    outputs = getattr(at(inputs)[:, *index], op)({"multiply": -1.0, "set": -X}[op])
    assert outputs.shape == (None, None, 4)
    model = keras.Model(inputs, outputs)
    for length in (6, 3, 1):
        x = RNG.normal(size=(2, length, 4)).astype("float32")
        given, picked = x.copy(), np.zeros(x.shape, bool)
        rows = index[0]
        if not isinstance(rows, slice):
            rows = [row for row in np.ravel(rows) if -length <= row < length]
        columns = index[1] if len(index) > 1 else slice(None)
        picked[:, np.arange(length)[rows, None], np.arange(4)[columns]] = True
        check_close(predict(model, x), np.where(picked, -x, x))
        if length == 1:  # eager
            check_close(model(ops.convert_to_tensor(x)), np.where(picked, -x, x))
        np.testing.assert_array_equal(x, given)


@pytest.mark.parametrize(("options", "fill"), [({}, np.nan), ({"fill_value": 0.0}, 0)])
def test_positions_that_do_not_exist_read_as_the_fill_value(options, fill):
    model = model_of(lambda x: at(x)[:, [0, 3], 1].get(**options), (None, 4))
    x = RNG.normal(size=(2, 2, 4)).astype("float32")
    check_close(predict(model, x), np.stack([x[:, 0, 1], np.full(2, fill)], axis=1))


def test_the_last_of_many_values_wins_in_a_model():
    x, i, v = keras.Input((4,)), keras.Input((), dtype="int32"), keras.Input(())
    outputs = [
        at(np.zeros(4, "float32"))[i].set(v),
        at(keras.layers.Reshape((-1,))(x))[:, np.arange(40) % 4].set(np.arange(40.0)),
        kedit.layers.Editing(sample[np.arange(2000) % 4].set(np.arange(2000.0)))(x),
    ]
    model = keras.Model([x, i, v], outputs)
    given = [np.zeros((40, 4)), np.arange(40) % 4, np.arange(40.0)]
    found = model([ops.convert_to_tensor(array) for array in given])
    assert [to_numpy(y).reshape(-1, 4)[0].tolist() for y in found] == [
        [36, 37, 38, 39],
        [36, 37, 38, 39],
        [1996, 1997, 1998, 1999],
    ]


def test_values_go_with_their_positions_on_an_unknown_axis():
    values = np.array([[10], [20], [30]], "float32")
    model = model_of(lambda x: at(x)[:, [2, 0, 2], :].set(values), (None, 2))
    x = RNG.normal(size=(2, 3, 2)).astype("float32")
    expected = x.copy()
    expected[:, [2, 0, 2]] = values
    check_close(predict(model, x), expected)
    check_close(predict(model, x[:, :2]), expected[:, :2])
    model = model_of(lambda x: at(x)[:, [0, -1, 2]].set(values), (None, 2))
    expected = x.copy()
    expected[:, [0, -1, 2]] = values
    check_close(predict(model, x), expected)
    expected = x[:, :1].copy()
    expected[:, 0] = 20  # what 0 and -1 name is one and the same
    check_close(predict(model, x[:, :1]), expected)


def test_a_model_inside_another_keeps_its_meaning():
    """The inner model may be used at a known size, and still drops what does not exist."""
    inner = model_of(lambda x: at(x)[:, 3].set(0.0), (None, 2))
    outer_inputs = keras.Input((6, 2))
    outer = keras.Model(outer_inputs, inner(outer_inputs))
    assert outer.output_shape == (None, 6, 2)
    x = np.ones((1, 6, 2), "float32")
    expected = x.copy()
    expected[:, 3] = 0
    check_close(predict(outer, x), expected)
    check_close(inner(ops.convert_to_tensor(x[:, :2])), x[:, :2])
    check_close(predict(inner, x[:, :2]), x[:, :2])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32", "uint8", "bool"])
def test_dtype_is_inferred(dtype):
    inputs = keras.Input((3,), dtype=dtype)
    value = dtype == "bool" or 1
    for outputs in (
        at(inputs)[:, 0].set(value),
        at(inputs)[:, 1:].get(),
        at(inputs)[...].max(value),
    ):
        assert dtype_of(outputs) == dtype
    outputs = keras.Model(inputs, at(inputs)[:, 0].set(value))(ops.zeros((2, 3), dtype))
    assert dtype_of(outputs) == dtype
    assert to_numpy(ops.cast(outputs, "int32")).tolist() == [[1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("build", "error", "built_in"),
    [
        (lambda x: at(x)[:, 4].set(0.0), PositionError, IndexError),
        (lambda x: at(x)[:, -5].get(), PositionError, IndexError),
        (lambda x: at(x)[:, [0, 4]].set(0.0), PositionError, IndexError),
        (lambda x: sample(x)[0, 0].set(0.0), PositionError, IndexError),
        (lambda x: sample(x)[np.ones(3, bool)].set(0.0), PositionError, IndexError),
        (lambda x: at(x)[:, :2].set(np.zeros(3)), ShapeError, ValueError),
        (lambda x: at(x)[:, 0].set(np.zeros((1, 1))), ShapeError, ValueError),
        (lambda x: sample(x)[0].set(np.zeros(2)), ShapeError, ValueError),
        (lambda x: at(x).where(np.ones(3, bool)).set(0.0), ShapeError, ValueError),
        (lambda x: at(x)[:, :2].set(x), ShapeError, ValueError),
        (lambda x: at(x)[at(x)[:, :2].get() > 0].set(0.0), PositionError, IndexError),
        (lambda x: at(x)[:, at(x)[:, 0].get() > 0, 0].set(0.0), PositionError, IndexError),
        (lambda x: at(x)[x > 0, [0, 1]].set(0.0), PositionError, IndexError),
        (lambda x: at(x)[:, x[0] > 0, [0, 1]].set(0.0), PositionError, IndexError),
        (lambda x: at(x)[x].set(0.0), PositionError, IndexError),
        (lambda x: at(x)[:, each([0])].set(0.0), CoordinateError, ValueError),
        (lambda x: sample(x)[each([0, 1])].set(0.0), ShapeError, ValueError),
        (lambda x: at(x)[ops.cast(x[0], "int32")].set(0.0, mode="raise"), OperandError, TypeError),
        (lambda x: at(x)[:, 0].set(1j), DTypeError, TypeError),
        (lambda x: at(ops.cast(x, "int32"))[:, 0].set(0.5), DTypeError, TypeError),
        (lambda x: at(ops.cast(x, "int32"))[:, 0].set(x[:, 0]), DTypeError, TypeError),
        (lambda x: at(ops.cast(x, "int32"))[:, 0].divide(2), DTypeError, TypeError),
        (lambda x: at(x).where(x).set(0.0), DTypeError, TypeError),
        (lambda x: at(x)[x > 0].get(), OperandError, TypeError),
        (lambda x: at(x)[:, 0].add(keras.Variable(1.0)), OperandError, TypeError),
        (lambda x: at(keras.Variable([1.0, 2.0]))[0].set(x[0, 0]), OperandError, TypeError),
        (lambda x: at(x)[9].set(0.0, mode="raise"), OperandError, TypeError),
        (lambda x: at(x)[block(9, 2)].set(0.0, mode="raise"), OperandError, TypeError),
        (lambda x: sample(x)[0].set(0.0, unique_indices=1), OperandError, TypeError),
    ],
)
def test_errors_come_while_building(build, error, built_in):
    with pytest.raises(built_in, match="Received") as raised:
        build(keras.Input((4,)))
    assert isinstance(raised.value, error)
    assert isinstance(raised.value, EditError)


def test_values_masks_and_conditions_may_be_symbolic(tmp_path):
    x, v, m = keras.Input((4,)), keras.Input((2,)), keras.Input((4,), dtype="bool")
    outputs = [
        at(x)[:, [2, 0]].set(v),
        at(x)[m].multiply(2.0),
        at(x).where(m).add(at(v)[:, :1].get()),
        at(x).where(X > v[:, :1]).set(v[:, 1:] + 1.0),
        sample(x)[1:3].where(X > v).set(X * v),
        at(ops.zeros((2, 4)))[:, 1:3].set(v),
    ]
    assert [tuple(y.shape) for y in outputs[:5]] == [(None, 4)] * 5
    model = keras.Model([x, v, m], outputs)
    x, v = RNG.normal(size=(2, 4)).astype("float32"), RNG.normal(size=(2, 2)).astype("float32")
    m = x > 0.2
    expected = [x.copy(), np.where(m, 2 * x, x), np.where(m, x + v[:, :1], x)]
    expected[0][:, [2, 0]] = v
    expected += [np.where(x > v[:, :1], v[:, 1:] + 1, x), x.copy(), np.zeros((2, 4))]
    expected[4][:, 1:3] = np.where(x[:, 1:3] > v, x[:, 1:3] * v, x[:, 1:3])
    expected[5][:, 1:3] = v
    for one in (model, saved_and_loaded(model, tmp_path / "model.keras")):
        for found, wanted in zip(one.predict([x, v, m], verbose=0), expected, strict=True):
            check_close(found, wanted)


def test_a_tensor_may_stand_left_of_x_or_is_refused():
    """Never may the tensor's own operator take `X` for a number."""
    operators = [operator.lt, operator.ge, operator.eq, operator.add, operator.mul, operator.and_]
    for x in (keras.Input((4,)), ops.ones(4), keras.Variable(np.ones(4))):
        for operation in operators:
            with contextlib.suppress(TypeError, ValueError):
                made = operation(x, X)
                if made is False:  # what Python makes of an `==` that neither side answers
                    at.where(made)  # is refused
                assert type(made) is type(X), (
                    f"{operation.__name__}: {type(x).__name__} gave {made!r}"
                )


def test_a_function_is_saved_if_it_is_registered(tmp_path):
    model = model_of(at[:, 0].apply(twice), (2,))
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    check_close(predict(loaded, np.ones((1, 2))), [[2, 1]])
    with pytest.raises(TypeError, match="register_keras_serializable"):
        model_of(at[:, 0].apply(ops.relu), (2,)).save(tmp_path / "other.keras")


@keras.saving.register_keras_serializable(package="tests")
def twice(x):
    return x + x


def test_reference_model_predicts_what_numpy_does():
    check_close(predict(reference_model(), REFERENCE_INPUT), reference_prediction(), atol=1e-4)


def test_models_load_on_every_backend(tmp_path):
    for path in model_files("reference", tmp_path, reference_model()):
        check_holds_no_code(path)
        model = keras.saving.load_model(path)
        check_close(predict(model, REFERENCE_INPUT), reference_prediction(), atol=1e-4)


@pytest.mark.gradient
def test_a_model_with_edits_trains_saves_and_loads(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    h = kedit.layers.Editing(sample[0].multiply(2.0))(keras.layers.Dense(8)(inputs))
    h = kedit.layers.ConditionalModifier(0.0, 1.5)(h)
    h = at(h)[:, -1].add(at(inputs)[:, 0].get())
    model = keras.Model(inputs, keras.layers.Dense(1)(h))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x = RNG.normal(size=(64, 4)).astype("float32")
    history = model.fit(x, x.sum(axis=1, keepdims=True), epochs=10, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    check_close(predict(loaded, x), predict(model, x))
    again = loaded.fit(x, x.sum(axis=1, keepdims=True), verbose=0).history["loss"]
    assert again[0] < history[0]


def check_models_with_index_inputs(files):
    for path in files:
        check_holds_no_code(path)
        # Keras loads the optimizer that it has of its own for torch on no other backend.
        model = keras.saving.load_model(path, compile=False)
        check_close(predict(model, *INDEXED_INPUT), indexed_prediction(*model.get_weights()))


def test_trained_models_with_index_inputs_predict_equally_on_every_backend(tmp_path):
    check_models_with_index_inputs(model_files("indexed", tmp_path))


@pytest.mark.usefixtures("without_building")
@pytest.mark.gradient
@pytest.mark.parametrize("jit_compile", in_full_once([False, True], [False]))
def test_a_model_with_index_inputs_trains(jit_compile, tmp_path):
    keras.utils.set_random_seed(0)
    model = indexed_model()
    model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=jit_compile)
    wanted = indexed_prediction(RNG.normal(size=(3, 3)).astype("float32"))
    fitted = model.fit(INDEXED_INPUT, wanted, epochs=30, verbose=0)
    assert fitted.history["loss"][-1] < 0.1 * fitted.history["loss"][0]
    model.jit_compile = False  # to predict is compiled in tests of its own
    check_close(predict(model, *INDEXED_INPUT), indexed_prediction(*model.get_weights()))
    check_models_with_index_inputs(model_files("indexed", tmp_path, model))
