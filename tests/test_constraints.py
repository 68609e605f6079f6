"""`EditConstraint`: an edit of a weight after every step."""

import keras
import numpy as np
import pytest
from _backend import to_numpy
from keras import ops
from kit import check_roundtrip, saved_and_loaded

from kedit import Trainable, X, at, sample
from kedit.constraints import EditConstraint
from kedit.errors import CoordinateError, OperandError, PositionError

MASK = np.random.default_rng(0).random((6, 4)) < 0.4
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.02),
    "adamw": lambda: keras.optimizers.AdamW(0.02, weight_decay=0.1),
    "momentum": lambda: keras.optimizers.SGD(0.02, momentum=0.9, nesterov=True),
}


def data():
    x = np.random.default_rng(1).normal(size=(64, 6)).astype("float32")
    return x, x @ np.ones((6, 4), "float32")


def test_is_a_function_of_the_weight_and_saves():
    kernel = np.arange(24, dtype="float32").reshape(6, 4)
    edit = at.where(MASK).set(0.5) | at[:, 0].max(3.0) | at.where(X > 20.0).set(20.0)
    constraint = EditConstraint(edit)
    expected = np.where(MASK, 0.5, kernel)
    expected[:, 0] = np.maximum(expected[:, 0], 3)
    expected = np.minimum(expected, 20)
    for one in (constraint, check_roundtrip(constraint)):
        for weight in (kernel, ops.convert_to_tensor(kernel), keras.Variable(kernel)):
            np.testing.assert_array_equal(to_numpy(one(weight)), expected)
    assert keras.constraints.get(keras.constraints.serialize(constraint)).edit == edit


@pytest.mark.gradient
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_holds_elements_and_is_saved_with_the_layer(name, tmp_path):
    x, y = data()
    constraint = EditConstraint(at.where(MASK).set(-0.25))
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(4, kernel_constraint=constraint)(inputs))
    for path in ("first.keras", "second.keras"):
        model.compile(OPTIMIZERS[name](), "mse")
        model.fit(x, y, 16, epochs=4, verbose=0)
        kernel = to_numpy(model.layers[-1].kernel)
        assert (kernel[MASK] == -0.25).all()
        assert len(np.unique(kernel[~MASK])) == (~MASK).sum()
        model = saved_and_loaded(model, tmp_path / path)


@pytest.mark.once
@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (sample[0].set(0.0), CoordinateError),
        (at[0].add(1.0), OperandError),
        (at[0].set(0.0) | at[1].multiply(0.5), OperandError),
        (at[0].get(), OperandError),
        (at[0].set(0.0).on("a"), OperandError),
        (at[0].set(Trainable(1.0)), OperandError),
        (5.0, OperandError),
    ],
    ids=repr,
)
def test_what_is_no_projection_of_a_weight_is_refused(edit, error):
    with pytest.raises(error, match="Received"):
        EditConstraint(edit)


def test_an_edit_that_does_not_fit_the_weight_is_refused():
    with pytest.raises(PositionError, match="Received"):
        EditConstraint(at[9].set(0.0))(np.zeros((6, 4)))
