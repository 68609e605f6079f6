"""What people type first, and that the error answers with a line that runs."""

import keras
import numpy as np
import pytest
from _backend import to_numpy
from keras import ops

from kedit import X, at, draft, position, sample
from kedit.errors import DTypeError, EditError, OperandError, OperationError, PositionError
from kedit.inputs import InputEditing, RandomEdit
from kedit.interventions import sites
from kedit.layers import Editing
from kedit.losses import MaskedLoss


def assign(place):
    place[0] = 5.0


def add_to(place):
    place[0] += 1.0


@pytest.mark.once
def test_a_model_of_keras_2_is_named():
    of_keras_2 = type("Functional", (), {"__module__": "tf_keras.src.engine.functional"})
    with pytest.raises(
        OperandError, match=r"Functional.* of Keras 2\. Unset `TF_USE_LEGACY_KERAS`"
    ):
        sites(of_keras_2())
    with pytest.raises(OperandError, match=r"of type list\.$"):
        sites([])


@pytest.fixture
def x():
    return ops.convert_to_tensor(np.arange(6, dtype="float32").reshape(2, 3))


@pytest.mark.parametrize(
    ("mistake", "fix"),
    [
        (lambda x: assign(at(x)), r"x = at\(x\)\[index\]\.set\(values\)"),
        (lambda x: assign(at), r"d = draft\(x\); d\[index\] = values; x = d\.value"),
        (lambda x: assign(at(x)[0]), r"at\(x\)\[index\]\.set\(values\)"),
        (lambda x: add_to(at(x)), r"x = at\(x\)\[index\]\.add\(values\)"),
        (lambda x: at(x)[0] + 1.0, r"\.get\(\)"),
        (lambda x: 1.0 - at(x)[0], r"\.add\(1\.0\)"),
        (lambda x: at(x)[0] > 1.0, r"\.get\(\)"),
        pytest.param(
            lambda x: ops.sum(at(x)[0]),
            r"`at\(<tensor of shape \(2, 3\)>\)\[0\]`.*\.get\(\)",
            marks=pytest.mark.tensors,  # Keras on NumPy looks for a dtype first
        ),
        (lambda x: np.sum(at(x)[0]), r"\.get\(\)"),
        (lambda x: at(x)[0].set(at(x)[1]), r"\.get\(\)"),
        (lambda x: list(at(x)[0]), r"\.get\(\)"),
        (lambda x: at[0].set(1.0) + at[1].set(2.0), r"`first \| second`"),
        (lambda x: (at[0].set(1.0) | at[1].set(2.0)) + 1, r"`first \| second`"),
        (lambda x: Editing(RandomEdit(sample[...].set(0.0), count=1)), "EditedDataset"),
        (lambda x: Editing(RandomEdit(sample[...].set(0.0), count=1)), r"block=\(8, 8\)\)`"),
        (lambda x: InputEditing(RandomEdit(sample[...].set(0.0), count=1)), r"index=\[0, 1\]"),
        (RandomEdit(sample[...].set(0.0), count=1), r"number, x: erase\(x, number\)"),
    ],
)
def test_operand_errors(mistake, fix, x):
    before = to_numpy(x).copy()
    with pytest.raises(OperandError, match=f"Received: .*{fix}"):
        mistake(x)
    np.testing.assert_array_equal(to_numpy(x), before)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mul", "multiply"),
        ("sub", "subtract"),
        ("assign", "set"),
        ("update", "set"),
        ("div", "div"),
    ],
)
def test_other_names_of_operations(name, meant, x):
    for place in (at(x)[0], at[0], sample[0]):
        with pytest.raises(OperationError, match=rf"Write `.*\[0\]\.{meant}"):
            getattr(place, name)
    with pytest.raises(OperationError, match=rf"Write `at\(x\)\[0\]\.{meant}"):
        getattr(at(x), name)
    assert not hasattr(at(x)[0], name)


def test_an_operation_without_an_index(x):
    with pytest.raises(OperationError, match=r"Write `at\(x\)\[0\]\.set\(\.\.\.\)`; for all"):
        at(x).set(1.0)
    with pytest.raises(OperationError, match=r"Write `at\[0\]\.add\(\.\.\.\)`; .*`at\[\.\.\.\]"):
        at.add(1.0)
    assert issubclass(OperationError, EditError)


def test_a_selection_shows_what_it_is_bound_to(x):
    assert repr(at[0, 1:]) == "at[0, 1:]"
    assert repr(sample.where(X > 1.0)) == "sample.where(X > 1.0)"
    assert repr(at(np.zeros(3))[0]) == "at(<ndarray of shape (3,)>)[0]"
    assert repr(at([1, 2]).where(X > 1)) == "at(<list>).where(X > 1)"
    assert repr(at(keras.Input((3,)))[:, 0]) == "at(<tensor of shape (None, 3)>)[:, 0]"


@pytest.mark.tensors
def test_a_selection_shows_its_tensor(x):
    assert repr(at(x)[0]) == "at(<tensor of shape (2, 3)>)[0]"


def test_indices():
    with pytest.raises(PositionError, match=r"Received: 'a'\. .*`at\[\.\.\.\].*\.on\('a'\)`"):
        at({"a": np.zeros(3)})["a"]
    for edit in (lambda x: sample(x)[0].set(1.0), sample[0].set(1.0)):
        with pytest.raises(PositionError, match=r"axis 0 is the batch.*of shape \(3,\)"):
            edit(ops.zeros((3,)))


def test_a_mask_of_logits_in_float16():
    x = ops.zeros((3,), "float16")
    with pytest.raises(DTypeError, match=r"write `-numpy\.inf`"):
        at(x)[0].set(-1e9)
    assert to_numpy(at(x)[0].set(-np.inf)).tolist() == [-np.inf, 0.0, 0.0]


def test_a_loss_ignores_each_number_of_a_list():
    y_true, y_pred = np.array([[2.0, 255.0, 1.0]]), np.zeros((1, 3))
    expected = float(to_numpy(MaskedLoss("mse", ignore=(2, 255))(y_true, y_pred)))
    assert float(to_numpy(MaskedLoss("mse", ignore=[2, 255])(y_true, y_pred))) == expected == 1
    mask = MaskedLoss("mse", ignore=[True, True, False])
    assert float(to_numpy(mask(y_true, y_pred))) == 1
    twin = MaskedLoss.from_config(MaskedLoss("mse", ignore=[2, 255]).get_config())
    assert float(to_numpy(twin(y_true, y_pred))) == 1


@pytest.mark.tensors
def test_the_advice_for_an_end_that_is_a_tensor():
    inputs, stop = keras.Input((4,)), keras.Input(batch_shape=(), dtype="int32")
    with pytest.raises(IndexError, match=r"`at\(x\)\.where\(position\(0\) < stop\)`"):
        at(inputs)[:, :stop].set(0.0)
    outputs = at(inputs).where(position(1) < stop).set(0.0)
    found = keras.Model([inputs, stop], outputs)([np.ones((1, 4), "float32"), np.array(3, "int32")])
    assert to_numpy(found).tolist() == [[0.0, 0.0, 0.0, 1.0]]


def test_the_advice_for_an_assignment(x):
    d = draft(x)
    d[0] = 5.0
    np.testing.assert_array_equal(to_numpy(d.value), to_numpy(at(x)[0].set(5.0)))
