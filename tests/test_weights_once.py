"""Weights that are edited once, and put back."""

import keras
import numpy as np
import pytest
from _backend import to_numpy
from kit import check_close

from kedit import X, at
from kedit.errors import EditError
from kedit.weights import edit_weights, freeze_elements, prune


def model_of(*sizes):
    layers = [keras.layers.Dense(n, name=f"d{i}") for i, n in enumerate(sizes)]
    return keras.Sequential([keras.Input((3,)), *layers])


def values(model):
    return [w.copy() for w in model.get_weights()]


EDITS = {
    "d0/kernel": at[0].set(0.0),
    "*/bias": at[0].set(1.0) | at[1:].add(0.5),
    "d1": at[...].multiply(2.0),
}


def edited_by_hand(weights):
    kernel, bias, kernel_1, bias_1 = [w.copy() for w in weights]
    kernel[0] = 0
    for b in (bias, bias_1):
        b[0] = 1
        b[1:] += 0.5
    return [kernel, bias, kernel_1 * 2, bias_1 * 2]


def test_values_are_assigned_and_come_back():
    model = model_of(4, 2)
    before = values(model)
    predicted = model.predict(np.ones((2, 3)), verbose=0)
    change = edit_weights(model, EDITS)
    assert change.weights == ("d0/kernel", "d0/bias", "d1/bias", "d1/kernel")
    assert repr(change) == "<WeightChange of d0/kernel, d0/bias, d1/bias, d1/kernel>"
    expected = edited_by_hand(before)
    for found, one in zip(values(model), expected, strict=True):
        np.testing.assert_array_equal(found, one)
    hidden = np.ones((2, 3)) @ expected[0] + expected[1]
    check_close(model.predict(np.ones((2, 3)), verbose=0), hidden @ expected[2] + expected[3])
    for _ in range(2):
        change.undo()
        for found, one in zip(values(model), before, strict=True):
            np.testing.assert_array_equal(found, one)
    check_close(model.predict(np.ones((2, 3)), verbose=0), predicted)


def test_for_the_length_of_a_block():
    model = model_of(4, 2)
    before = values(model)
    with pytest.raises(ZeroDivisionError), edit_weights(model, {"*": at[...].set(0.0)}):
        assert all((w == 0).all() for w in values(model))
        raise ZeroDivisionError
    for found, one in zip(values(model), before, strict=True):
        np.testing.assert_array_equal(found, one)


@pytest.mark.gradient
def test_edited_weights_train():
    model = model_of(4, 2)
    edit_weights(model, {"d0/kernel": at.where(X < 9).set(0.25)})
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    assert (to_numpy(model.layers[0].kernel) != 0.25).any()


def test_what_holds_stays_held():
    model = prune(freeze_elements(model_of(4, 2), "d0/kernel", 0, 3.0), "d1/kernel", 0.5)
    before = to_numpy(model.weight("d1/kernel")).copy()
    edit_weights(model, {"*/kernel": at[...].set(7.0)})
    assert (to_numpy(model.weight("d0/kernel")) == [[3.0]] * 1 + [[7.0]] * 2).all()
    np.testing.assert_array_equal(to_numpy(model.weight("d1/kernel")), np.where(before == 0, 0, 7))


@pytest.mark.parametrize(
    "edits",
    [
        {"d0/kernel": at[0].set(0.0), "*/bias": at[3].set(0.0)},
        {"d0/kernel": at[0].set(0.0), "d9/kernel": at[0].set(0.0)},
        {"d0/kernel": at[0].set(0.0), "kernel": at[0].set(0.0)},
        {"d0/kernel": 0.0},
        [at[0].set(0.0)],
    ],
    ids=repr,
)
def test_what_does_not_fit_changes_nothing(edits):
    model = model_of(4, 2)
    before = values(model)
    with pytest.raises(EditError, match="Received"):
        edit_weights(model, edits)
    for found, one in zip(values(model), before, strict=True):
        np.testing.assert_array_equal(found, one)
