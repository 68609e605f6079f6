"""`Trainable`: a value that prints, compares and saves, and the weight that a layer makes of it."""

import copy
import json
import pickle

import keras
import numpy as np
import pytest
from _backend import to_numpy, vjp
from keras import ops
from kit import check_close, check_roundtrip, saved_and_loaded

import kedit
from kedit import Edit, EditSequence, Trainable, X, at, sample
from kedit.errors import OperandError, PositionError, SavingError, ShapeError
from kedit.layers import ConditionalModifier, Editing

TRAINABLES = [
    Trainable(5.0),
    Trainable(2, shape=(3,)),
    Trainable([1.0, 2.0]),
    Trainable(np.ones((1, 3)), shape=(2, 3)),
    Trainable("zeros", shape=4),
    Trainable(float("inf")),
    Trainable(keras.initializers.RandomNormal(stddev=0.1, seed=3)),
    Trainable("ones", constraint="non_neg", regularizer="l2", name="gain"),
    Trainable(0.5, constraint=keras.constraints.MinMaxNorm(), regularizer=keras.regularizers.L1()),
    Trainable(5.0, trainable=False),
]
EDITS = [
    sample[..., 2].add(Trainable("zeros")),
    at.where(X > Trainable(5.0)).multiply(Trainable(2.0)),
    at.where((X > Trainable(5.0)) & (X < Trainable([1.0, 2.0]))).set(1 - Trainable("ones") * X),
    at.where(Trainable("ones", name="m") > 0).set(-Trainable(1.0)),
]


@pytest.mark.parametrize("thing", [*TRAINABLES, *EDITS], ids=repr)
def test_is_a_value(thing):
    again = check_roundtrip(thing)
    names = {"np": np, "keras": keras, "Trainable": Trainable, "X": X, "at": at, "sample": sample}
    written = eval(repr(thing), names)
    for other in (again, written, pickle.loads(pickle.dumps(thing))):
        assert other == thing
        assert hash(other) == hash(thing)
        assert repr(other) == repr(thing)
    assert len({*TRAINABLES, *EDITS, thing}) == len(TRAINABLES) + len(EDITS)
    with pytest.raises((AttributeError, TypeError)):
        thing.shape = ()


@pytest.mark.once
def test_differs_by_every_argument_and_from_other_values():
    one = Trainable("ones", (2,), "non_neg", "l2", "n")
    for other in (
        Trainable("zeros", (2,), "non_neg", "l2", "n"),
        Trainable("ones", (3,), "non_neg", "l2", "n"),
        Trainable("ones", (2,), None, "l2", "n"),
        Trainable("ones", (2,), "non_neg", None, "n"),
        Trainable("ones", (2,), "non_neg", "l2"),
        Trainable("ones", (2,), "non_neg", "l2", "n", trainable=False),
        Trainable(1.0),
        1.0,
        "ones",
    ):
        assert one != other
    assert Trainable(1.0) != Trainable(1)
    assert at[0].set(Trainable(1.0)) != at[0].set(1.0)


@pytest.mark.once
def test_later_changes_of_what_was_given_do_not_reach_it():
    array, config = np.zeros(2), keras.initializers.serialize(keras.initializers.Constant(1.0))
    by_array, by_config = Trainable(array), Trainable(config)
    key = by_array.key(), by_config.key()
    array[:], config["config"]["value"] = 9.0, 9.0
    by_config.get_config()["initializer"]["config"]["value"] = 9.0
    assert (by_array.key(), by_config.key()) == key


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"initializer": None}, OperandError),
        ({"initializer": lambda shape, dtype: 0}, OperandError),
        ({"initializer": "no_such"}, OperandError),
        ({"initializer": [1, "a"]}, OperandError),
        ({"initializer": 1.0, "shape": (2, -1)}, OperandError),
        ({"initializer": 1.0, "shape": (2, None)}, OperandError),
        ({"initializer": 1.0, "constraint": "no_such"}, OperandError),
        ({"initializer": 1.0, "regularizer": 3}, OperandError),
        ({"initializer": 1.0, "name": "a/b"}, OperandError),
        ({"initializer": 1.0, "name": 3}, OperandError),
        ({"initializer": 1.0, "trainable": 0}, OperandError),
        ({"initializer": [1.0, 2.0], "shape": (3,)}, ShapeError),
    ],
)
def test_what_it_cannot_start_from_is_refused(arguments, error):
    with pytest.raises(error, match="Received"):
        Trainable(**arguments)


@pytest.mark.tensors
def test_a_tensor_is_refused_with_the_fix():
    with pytest.raises(OperandError, match="convert_to_numpy"):
        Trainable(ops.ones(3))


def test_outside_of_a_layer_it_is_refused_with_the_fix():
    edit = sample[1].add(Trainable(2.0))
    for x in (np.zeros((2, 3)), ops.zeros((2, 3)), keras.Input((3,)), [[1.0, 2.0]]):
        for apply in (
            edit,
            at[..., 0].set(1.0) | edit,
            lambda x: sample(x)[1].add(Trainable(2.0)),
            lambda x: at(x).where(X > Trainable(1.0)).set(0.0),
            lambda x: edit.on("a")({"a": x}),
        ):
            with pytest.raises(OperandError, match=r"Received.*Trainable") as raised:
                apply(x)
            assert "kedit.layers.Editing(" in str(raised.value)
    with pytest.raises(PositionError, match="Received"):
        sample[Trainable("zeros")]
    with pytest.raises(OperandError, match="Received"):
        at.where(Trainable("zeros"))


@pytest.mark.parametrize(
    ("edit", "shape", "expected"),
    [
        (sample[..., 2].add(Trainable("zeros")), (8, 5, 3), (5,)),
        (sample[..., 2].add(Trainable("zeros")), (8, None, 3), (1,)),
        (sample[1:, :2].add(Trainable("zeros")), (None, 5, 3), (4, 2)),
        (at[..., [0, 2, 1]].add(Trainable("zeros")), (8, 5, 3), (5, 3)),
        (at[:, [0, 2], :, [1, 1]].add(Trainable("zeros")), (8, 5, 3, 4), (2, 1, 3)),
        (sample[[True, False, True]].add(Trainable("zeros")), (8, 3), (2,)),
        (sample.where(X > 0).add(Trainable("zeros")), (8, 5, 3), (5, 3)),
        (sample.where(X > 0).add(Trainable("zeros")), (None, None, 3), (1, 3)),
        (sample[2].add(Trainable(1.0)), (8, 5, 3), ()),
        (sample[2].add(Trainable([1.0, 2.0, 3.0])), (8, 5, 3), (3,)),
        (sample[2].add(Trainable("zeros", shape=())), (8, 5, 3), ()),
        (sample[2].add(X * Trainable("zeros", shape=(3,))), (8, 5, 3), (3,)),
    ],
    ids=repr,
)
def test_shape_is_that_of_the_start_or_of_the_selection_in_a_sample(edit, shape, expected):
    layer = Editing(edit)
    layer.build(shape)
    assert [tuple(weight.shape) for weight in layer.weights] == [expected]
    x = np.ones([size or 2 for size in shape], "float32")
    assert layer(ops.convert_to_tensor(x)).shape == x.shape


def test_shape_that_does_not_broadcast_is_refused():
    edit = sample[..., 2].add(Trainable("zeros", shape=(4,)))
    for inputs in (keras.Input((5, 3)), ops.zeros((2, 5, 3))):
        with pytest.raises(ShapeError, match="Received"):
            Editing(edit)(inputs)
    with pytest.raises(TypeError, match="Received"):
        Editing(sample[0].add(Trainable(1.0)))(ops.zeros((2, 3), dtype="int32"))


def test_weights_are_what_was_asked_for():
    first = Trainable("ones", constraint="non_neg", regularizer="l2", name="gain")
    layer = Editing(sample[1].multiply(first) | sample.where(X > 0).set(Trainable(0.5) * X))
    layer.build((None, 3))
    gain, values = layer.weights
    assert [weight.path.split("/")[-1] for weight in layer.weights] == ["gain", "values"]
    assert isinstance(gain.constraint, keras.constraints.NonNeg)
    assert isinstance(gain.regularizer, keras.regularizers.L2)
    assert len(layer.losses) == 1
    assert all(weight.trainable for weight in layer.weights)
    assert to_numpy(values) == 0.5
    layer.trainable = False
    assert not layer.trainable_weights


def test_one_name_is_one_weight():
    t = Trainable(1.5, name="t")
    layer = Editing(at.where(X > t).subtract(t) | sample[0].add(t), gradient="sigmoid")
    x = np.array([[1.0, 2.0, -3.0]], "float32")
    assert to_numpy(layer(ops.convert_to_tensor(x))).tolist() == [[2.5, 0.5, -3.0]]
    assert len(layer.weights) == 1
    assert len(check_roundtrip(layer).weights) == 1  # which Keras builds
    apart = Editing(at.where(X > Trainable(1.5)).subtract(Trainable(1.5)), gradient="sigmoid")
    apart.build((None, 3))
    assert len(apart.weights) == 2
    clash = Editing(sample[0].add(t) | sample[1].add(Trainable(2.0, name="t")))
    with pytest.raises(OperandError, match="Received"):
        clash.build((None, 3))


def shared():
    """Edits in which some objects occur more than once, and how many weights they have."""
    t, u, z = Trainable(0.5), Trainable(2.0), Trainable("zeros")
    return {
        "expression": (sample[...].set(X * t + t), 1),
        "condition and operand": (at.where(X > t).set(t), 1),
        "both branches": (at.where(X > t).set(u, otherwise=X * u - t), 2),
        "sequence": (at.where(X > t).multiply(u) | sample[0].add(u) | sample[1].set(t), 2),
        "from an initializer": (sample[0].add(z) | sample[1].subtract(z), 1),
        "beside an equal one": (sample[0].add(t) | sample[1].add(t) | sample[2].add(0.5 * u), 2),
        "keras#6926 in two parts": (at.where(X < t).set(0.0) | at.where(X >= t).set(1.0), 1),
        "equal, not the same": (sample[0].add(Trainable(0.5)) | sample[1].add(Trainable(0.5)), 2),
    }


@pytest.mark.parametrize("name", shared())
def test_one_object_is_one_weight(name, tmp_path):
    edit, count = shared()[name]
    names = {"Trainable": Trainable, "X": X, "at": at, "sample": sample}
    x = np.array([[1.0, 2.0, -3.0], [0.25, -0.5, 0.75]], "float32")
    layer = Editing(edit, gradient="sigmoid" if "where" in repr(edit) else "exact")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layer(inputs))
    assert len(layer.weights) == count
    layer.set_weights([w + 0.125 for w in layer.get_weights()])
    expected = model.predict(x, verbose=0)
    for again in (
        pickle.loads(pickle.dumps(edit)),
        copy.deepcopy(edit),
        eval(repr(edit), names),
        type(edit).from_config(json.loads(json.dumps(edit.get_config()))),
    ):
        assert again == edit
        assert hash(again) == hash(edit)
        assert repr(again) == repr(edit)
        other = Editing(again, gradient=layer.gradient)
        other.build((None, 3))
        assert len(other.weights) == count
        other.set_weights(layer.get_weights())
        check_close(to_numpy(other(ops.convert_to_tensor(x))), expected)
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    assert len(loaded.weights) == count
    check_close(loaded.predict(x, verbose=0), expected)


@pytest.mark.once
def test_edits_differ_by_which_weights_are_one():
    t = Trainable(0.5)
    one, two = at.where(X > t).set(t), at.where(X > Trainable(0.5)).set(Trainable(0.5))
    assert one != two
    assert one | one == at.where(X > t).set(t) | at.where(X > t).set(t)
    assert one | two != one | one
    assert repr(one) == "at.where(X > (t := Trainable(0.5))).set(t)"
    assert repr(two) == "at.where(X > Trainable(0.5)).set(Trainable(0.5))"


@pytest.mark.once
@pytest.mark.parametrize(
    "weights", [[0, 1], [0, 0, 0], [], [1, 1], [0], ["a", "a"], None, [0, True]]
)
def test_loading_refuses_weights_that_no_sequence_has(weights):
    t = Trainable(0.5)
    config = (sample[0].add(t) | sample[1].add(t)).get_config()
    assert config["weights"] == [0, 0]
    with pytest.raises(SavingError, match="Received"):
        EditSequence.from_config({**config, "weights": weights})
    two = (sample[0].add(t) | sample[1].add(Trainable(0.25))).get_config()
    with pytest.raises(SavingError, match="Received"):
        EditSequence.from_config({**two, "weights": [0, 0]})


def test_a_weight_that_does_not_fit_its_second_place_is_refused():
    t = Trainable("zeros")
    clash = Editing(sample[..., :2].add(t) | sample[..., :3].add(t))
    with pytest.raises(ShapeError, match="Received"):
        clash.build((None, 3))
    fits = Editing(sample[0].add(t) | sample[:3].add(t))
    fits.build((None, 3))
    assert [tuple(weight.shape) for weight in fits.weights] == [()]


@pytest.mark.gradient
def test_one_weight_receives_the_gradient_of_all_its_places():
    t = Trainable(3.0)
    layer = Editing(sample[0].multiply(t) | sample[1].add(X * t * t))
    layer.build((None, 2))
    x = np.array([[2.0, 5.0], [-1.0, 4.0]], "float32")

    def outputs(weight):
        return layer.stateless_call([weight], [], ops.convert_to_tensor(x))[0]

    upstream = np.array([[1.0, 10.0], [100.0, 1000.0]], "float32")
    _, (received,) = vjp(outputs, [np.float32(3.0)], upstream)
    expected = (upstream[:, 0] * x[:, 0]).sum() + (upstream[:, 1] * x[:, 1] * 6.0).sum()
    check_close(received, expected)


def test_a_conditional_modifier_by_one_weight(tmp_path):
    """A learned clip: one weight is the threshold and what is written."""
    t = Trainable(1.5)
    layer = ConditionalModifier(t, t, operation="set", gradient="sigmoid")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layer(inputs))
    assert len(layer.weights) == 1
    layer.set_weights([np.float32(2.5)])
    x = np.array([[1.0, 2.0, 3.0]], "float32")
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    assert len(loaded.weights) == 1
    check_close(loaded.predict(x, verbose=0), [[1.0, 2.0, 2.5]])
    pair = ConditionalModifier((Trainable(0.0), t), t, comparison="between", gradient="sigmoid")
    again = ConditionalModifier.from_config(pair.get_config())
    again.build((None, 3))
    assert len(again.weights) == 2
    config = layer.get_config()
    for number in (1, -1, True, 2.0):
        with pytest.raises(SavingError, match="Received"):
            ConditionalModifier.from_config({**config, "factor": {"trainable": number}})


def test_a_learned_edit_is_saved_with_its_weights(tmp_path):
    inputs = keras.Input((4, 3))
    layer = Editing(EDITS[0] | at[..., :1].multiply(Trainable(2.0)))
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.arange(4.0), np.array(3.0)])
    x = np.ones((2, 4, 3), "float32")
    expected = x * [3, 1, 1]
    expected[..., 2] += np.arange(4)
    check_close(model.predict(x, verbose=0), expected)
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    check_close(loaded.predict(x, verbose=0), expected)
    assert loaded.layers[-1].edit == layer.edit


@pytest.mark.once
def test_loading_refuses_what_no_edit_wrote():
    config = EDITS[0].get_config()
    text = json.dumps(config)
    assert Edit.from_config(json.loads(text)) == EDITS[0]
    config["trainables"] = [{**config["trainables"][0], "initializer": {"evil": 1}}]
    with pytest.raises(SavingError, match="Received"):
        Edit.from_config(config)


@pytest.mark.gradient
def test_factor_and_steering_vector_are_found_again():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(512, 4, 3)).astype("float32")
    steering = np.array([0.5, -1.0, 0.25, 2.0])
    y = x * [2.5, 1, 1]
    y[..., 2] += steering
    keras.utils.set_random_seed(0)
    layer = Editing(sample[..., 0].multiply(Trainable(1.0)) | EDITS[0])
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(1.0, momentum=0.5), "mse")
    model.fit(x, y, 64, epochs=12, verbose=0)
    factor, found = layer.get_weights()
    np.testing.assert_allclose(factor, 2.5, rtol=0.01)
    np.testing.assert_allclose(found, steering, rtol=0.01)


@pytest.mark.once
def test_is_public():
    assert kedit.Trainable is Trainable
