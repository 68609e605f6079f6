"""What people asked in public, and what was awkward, wrong or impossible once: now a test each."""

import keras
import numpy as np
import pytest
from _backend import compiled, to_numpy, vjp
from keras import ops
from kit import check_array, check_close

from kedit import Trainable, X, at, block, each, position, sample
from kedit.errors import DTypeError, PositionError
from kedit.inputs import RandomEdit
from kedit.layers import Editing
from kedit.losses import MaskedLoss


@pytest.mark.tensors
def test_a_layer_keeps_the_keras_mask_and_a_node_drops_it_as_keras_does():
    ids = np.array([[1, 2, 3, 0, 0]])
    inputs = keras.Input((5,), dtype="int32")
    embedded = keras.layers.Embedding(6, 3, mask_zero=True)(inputs)
    mean = keras.layers.GlobalAveragePooling1D()
    edit = sample[..., 0].set(0.0)
    by_layer, by_node, unedited = [
        mean(h) for h in (Editing(edit)(embedded), edit(embedded), at(embedded)[..., 0].set(0.0))
    ]
    values = at(embedded)[..., 0].set(0.0)
    layer, node, also, h = keras.Model(inputs, [by_layer, by_node, unedited, values])(ids)
    check_close(layer, to_numpy(h)[:, :3].mean(1))
    check_close(node, to_numpy(h).mean(1))
    check_close(also, to_numpy(h).mean(1))


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_integers_times_a_fraction(dtype, run):
    x = np.array([100, 3, 7], dtype)
    high = np.iinfo(dtype).max
    for given in (x, ops.convert_to_tensor(x)):
        wrap = run if given is not x else (lambda function: function)
        half = wrap(lambda x: at(x)[0].multiply(0.5, casting="unsafe"))(given)
        check_array(half, np.array([50, 3, 7], dtype))
        more = wrap(lambda x: at(x)[0].set(X * 3.0, casting="unsafe"))(given)
        check_array(more, np.array([min(300, high), 3, 7], dtype))
        with pytest.raises(DTypeError, match="Received"):
            at(given)[0].multiply(0.5)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_a_function_that_makes_fractions_of_integers_is_refused(dtype):
    x = ops.convert_to_tensor(np.array([100, 3], dtype))
    with pytest.raises(DTypeError, match="Received"):
        at(x)[0].apply(lambda x: x * 0.5)


@pytest.mark.gradient
def test_one_learned_threshold_for_if_and_else():
    """keras-team/keras#6926: 1 above, 0 below, and one weight."""
    t = Trainable(-0.5)
    layer = Editing(sample.where(X < t).set(0.0, otherwise=1.0), gradient="sigmoid")
    assert to_numpy(layer(np.array([[-0.9, 0.3]], "float32"))).tolist() == [[0.0, 1.0]]
    assert len(layer.trainable_weights) == 1
    parts = sample.where(X < t).set(0.0) | sample.where(X >= t).set(1.0)
    in_two = Editing(parts, gradient="sigmoid")
    in_two.build((None, 2))
    assert len(in_two.trainable_weights) == 1


def test_the_other_branch_sees_the_original_elements(run):
    x = np.array([-1.0, 0.0, 2.0], "float32")
    found = run(lambda x: at(x).where(X <= 0).apply(ops.exp, otherwise=X + 1.0))(
        ops.convert_to_tensor(x)
    )
    check_close(found, np.where(x <= 0, np.exp(x), x + 1))


@pytest.mark.tensors
def test_zero_after_a_length_that_is_an_input():
    steps, length = keras.Input((None, 2)), keras.Input((), dtype="int32")
    model = keras.Model([steps, length], sample(steps).where(position(0) >= each(length)).set(0.0))
    x, n = np.ones((3, 4, 2), "float32"), np.array([0, 4, 2])
    assert model.predict([x, n], verbose=0).sum((1, 2)).tolist() == [0.0, 8.0, 4.0]


@pytest.mark.tensors
def test_a_mask_from_another_input():
    inputs, chosen = keras.Input((3,)), keras.Input((3,), dtype="bool")
    model = keras.Model([inputs, chosen], at(inputs)[chosen].set(0.0))
    found = model.predict([np.ones((1, 3)), np.array([[True, False, True]])], verbose=0)
    assert found.tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.gradient
def test_void_pixels_beside_one_hot_labels():
    """keras-team/keras#6118 and divamgupta/image-segmentation-keras#52."""
    y_true = np.eye(3)[[[0, 1], [2, 2]]][None].astype("float32")
    y_true[0, 0, 1] = 255.0
    y_pred = np.full((1, 2, 2, 3), 1 / 3, "float32")
    loss = MaskedLoss("categorical_crossentropy", ignore=255)
    check_close(loss(y_true, y_pred), np.log(3))
    _, (gradient,) = vjp(lambda p: loss(y_true, p), [y_pred], np.float32(1.0))
    assert (gradient[0, 0, 1] == 0).all()
    assert np.isfinite(gradient).all()


def test_a_box_of_its_own_in_each_image():
    x, rows, columns = np.ones((2, 6, 6), "float32"), np.array([0, 3]), np.array([4, 1])
    wanted = x.copy()
    wanted[0, 0:2, 4:6] = wanted[1, 3:5, 1:3] = 0
    inside = [
        (position(a) >= each(i)) & (position(a) - each(i) < 2) for a, i in ((0, rows), (1, columns))
    ]
    for given in (x, ops.convert_to_tensor(x)):
        check_close(sample(given).where(inside[0] & inside[1]).set(0.0), wanted)
    with pytest.raises(PositionError, match=r"sample\[each\(start\[:, None\]"):
        block(each(rows), 2)
    erased = RandomEdit(sample[...].set(0.0), block=(2, 2), seed=1)(x, index=[0, 1])
    assert erased.sum((1, 2)).tolist() == [32.0, 32.0]


def test_a_weight_is_edited_once():
    layer = keras.layers.Dense(2, kernel_initializer="ones")
    layer.build((None, 3))
    at(layer.kernel)[0].set(0.0)  # makes a tensor, and changes nothing
    assert to_numpy(layer.kernel).sum() == 6
    layer.kernel.assign(at(layer.kernel)[0].set(0.0))
    assert to_numpy(layer.kernel).tolist() == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]


@pytest.mark.gradient
def test_the_mask_of_logits_in_half_precision():
    logits = ops.convert_to_tensor(np.array([[1.0, 2.0, 3.0]], "float16"))
    mask = ops.convert_to_tensor(np.array([[False, True, False]]))
    with pytest.raises(DTypeError, match=r"-numpy\.inf"):
        at(logits).where(mask).set(-1e9)

    def probabilities(x):
        return ops.softmax(at(x).where(mask).set(-np.inf))

    check_close(compiled(probabilities)(logits), [[0.1192, 0.0, 0.8808]], 1e-2, 1e-3)
