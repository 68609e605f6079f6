"""Sweeps, ablations and counterfactuals, on the data that scikit-learn ships."""

import runpy
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from sklearn.datasets import load_diabetes, load_digits

from kedit import X, at, sample
from kedit.errors import CoordinateError, DTypeError, EditError, OperandError, ShapeError
from kedit.studies import ablate, counterfactual, sweep

DIABETES = load_diabetes().data.astype("float32")[:60]
PIXELS, DIGITS = load_digits(return_X_y=True)
PIXELS = PIXELS.reshape(-1, 8, 8).astype("float32")


def regressor():
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(16, activation="tanh")
    return keras.Sequential([keras.Input((10,)), dense, keras.layers.Dense(1)])


def reader():
    """A model that reads digits, with layers that behave differently in training."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8)),
            keras.layers.Rescaling(1 / 16),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def trained():
    """The reader after training; once for all tests, which leave it as it is."""
    model = reader()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(PIXELS, DIGITS, batch_size=64, epochs=6, verbose=0)
    return model


def predict_each(model, copies):
    return np.stack([model.predict(copy, verbose=0) for copy in copies])


def written(x, index, values):
    copies = [x.copy() for _ in values]
    for copy, value in zip(copies, values, strict=True):
        copy[index] = value
    return copies


# --- sweep -------------------------------------------------------------------------------------

GRID = np.linspace(-0.1, 0.1, 7)


@pytest.mark.parametrize("batch_size", [None, 7, 60, 61, 420, 1000, 1])
def test_sweep_matches_a_loop(batch_size):
    model, x = regressor(), DIABETES[: 5 if batch_size == 1 else None]
    given = x.copy()
    found = sweep(model, x, sample[2], GRID, batch_size=batch_size, verbose=0)
    expected = predict_each(model, written(x, np.s_[:, 2], GRID))
    assert found.outputs.shape == (7, len(x), 1)
    np.testing.assert_allclose(found.outputs, expected, atol=1e-5)
    np.testing.assert_allclose(found.average, expected.mean(axis=1), atol=1e-5)
    np.testing.assert_array_equal(found.values, GRID)
    np.testing.assert_array_equal(x, given)


def test_sweep_of_arrays_and_of_chosen_elements():
    model, x = reader(), PIXELS[:3]
    rows = np.arange(16.0).reshape(2, 8)
    found = sweep(model, x, at[:, 4], rows, verbose=0)
    expected = predict_each(model, written(x, np.s_[:, 4], rows))
    np.testing.assert_allclose(found.outputs, expected, atol=1e-5)
    found = sweep(model, ops.convert_to_tensor(x), sample.where(X > 8.0), [0, 16], verbose=0)
    expected = predict_each(model, [np.where(x > 8, value, x) for value in (0, 16)])
    np.testing.assert_allclose(found.outputs, expected, atol=1e-5)
    assert found.label == "sample.where(X > 8.0)"


def several():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
    both = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    outputs = {"sum": keras.layers.Rescaling(2.0)(both), "b": keras.layers.Rescaling(3.0)(both)}
    return keras.Model(inputs, outputs)


def test_studies_of_a_model_with_several_inputs_and_outputs():
    x = {"a": np.ones((4, 3), "float32"), "b": np.ones((4, 2), "float32")}
    found = sweep(several(), x, sample[0], [5.0, 6.0], path="b", batch_size=3, verbose=0)
    expected = np.ones((2, 4, 5))
    expected[..., 3] = [[5], [6]]
    np.testing.assert_allclose(found.outputs["sum"], 2 * expected)
    np.testing.assert_allclose(found.outputs["b"], 3 * expected)
    assert found.label == "sample[0] of 'b'"
    lost = ablate(several(), x, path="a", verbose=0)
    assert lost.after["sum"].shape == (3, 4, 5)
    np.testing.assert_allclose(lost.before["b"], np.full((4, 5), 3))
    with pytest.raises(OperandError, match=r"arrays at \['a', 'b'\]"):
        sweep(several(), x, sample[0], [5.0], verbose=0)
    with pytest.raises(OperandError, match="model with several"):
        lost.attributions(0)


def test_studies_print_progress_or_nothing(capsys):
    sweep(regressor(), DIABETES, sample[2], GRID, batch_size=100, verbose=0)
    assert capsys.readouterr().out == ""
    sweep(regressor(), DIABETES, sample[2], GRID, batch_size=100, verbose=1)
    assert "5/5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("selection", "values", "error"),
    [
        (at[0, 2], GRID, CoordinateError),
        (sample[10], GRID, IndexError),
        (sample[2].set(0.0), GRID, OperandError),
        (at(DIABETES)[:, 2], GRID, OperandError),
        (2, GRID, OperandError),
        (sample[2], 0.5, OperandError),
        (sample[2], [], OperandError),
        (sample[2], [1j], DTypeError),
        (sample[:2], np.ones((2, 3)), ShapeError),
        (sample.where(DIABETES > 0), GRID, ShapeError),
    ],
)
def test_sweep_refuses(selection, values, error):
    with pytest.raises(error, match="Received") as raised:
        sweep(regressor(), DIABETES, selection, values, verbose=0)
    assert isinstance(raised.value, EditError)


def test_studies_refuse_what_is_no_model_or_no_data():
    for study in (lambda m, x: sweep(m, x, sample[0], [0.0], verbose=0), ablate):
        for model, x in ((lambda x: x, DIABETES), (regressor(), DIABETES[:0]), (regressor(), 1.0)):
            with pytest.raises(OperandError, match="Received"):
                study(model, x)
    with pytest.raises(OperandError, match="one length"):
        sweep(several(), {"a": np.ones((4, 3)), "b": np.ones((3, 2))}, sample[0], [1.0], path="a")


# --- ablate ------------------------------------------------------------------------------------


def test_ablation_of_every_element_matches_a_loop():
    model, x = regressor(), DIABETES[:8]
    found = ablate(model, x, baseline=0.5, verbose=0)
    copies = [written(x, np.s_[:, n], [0.5])[0] for n in range(10)]
    expected = predict_each(model, [x, *copies])
    np.testing.assert_allclose(found.before, expected[0], atol=1e-5)
    np.testing.assert_allclose(found.after, expected[1:], atol=1e-5)
    np.testing.assert_allclose(found.effects, expected[0] - expected[1:], atol=1e-5)
    np.testing.assert_allclose(found.attributions(), found.effects[..., 0].T, atol=1e-6)


def test_ablation_of_numbered_groups_and_of_windows():
    model, x = reader(), PIXELS[:4]
    average = PIXELS.mean(axis=0)
    groups = np.repeat(np.arange(-1, 3), 2)  # of rows; the first two belong to none
    found = ablate(model, x, groups[:, None], average, verbose=0)
    copies = [np.where((groups == n)[:, None], average, x) for n in range(3)]
    expected = predict_each(model, copies)
    np.testing.assert_allclose(found.after, expected, atol=1e-5)
    lost = (found.before - expected)[..., 7]
    np.testing.assert_allclose(found.attributions(7)[:, 4, 1], lost[1], atol=1e-6)
    assert not found.attributions(7)[:, :2].any()
    windows = [sample[i : i + 3, :] for i in (0, 2)]  # the third row is in both
    found = ablate(model, x, windows, verbose=0)
    lost = (found.before - found.after)[..., 7]
    copies = [written(x, np.s_[:, i : i + 3], [0])[0] for i in (0, 2)]
    np.testing.assert_allclose(found.after, predict_each(model, copies), atol=1e-5)
    by_row = [lost[0], lost[0], lost.mean(axis=0), lost[1], lost[1], *np.zeros((3, 4))]
    np.testing.assert_allclose(
        found.attributions(7), np.transpose([by_row] * 8, (2, 1, 0)), atol=1e-6
    )
    found = ablate(model, x, [sample.where(X > 8.0)], verbose=0)
    np.testing.assert_array_equal(found.members[0], x > 8)


@pytest.mark.parametrize(
    ("groups", "baseline", "error"),
    [
        ([], 0, OperandError),
        (np.ones(10), 0, OperandError),
        (np.full(10, -1), 0, OperandError),
        (np.arange(9), 0, ShapeError),
        ([at[0]], 0, CoordinateError),
        (None, np.ones(3), ShapeError),
        (None, 1j, DTypeError),
    ],
)
def test_ablate_refuses(groups, baseline, error):
    with pytest.raises(error, match="Received"):
        ablate(regressor(), DIABETES, groups, baseline, verbose=0)


# --- counterfactual ----------------------------------------------------------------------------


@pytest.mark.gradient
@pytest.mark.parametrize("l1", [0.0, 0.002])
def test_counterfactual_digits(trained, l1):
    x, read = PIXELS[:10], trained.predict(PIXELS[:10], verbose=0).argmax(axis=1)
    target = (read + 3) % 10
    weights = [np.array(weight) for weight in trained.get_weights()]
    flags = [variable.trainable for variable in trained.variables]
    found = counterfactual(
        trained, x, target, sample[2:7], l1=l1, minimum=0.0, maximum=16.0, verbose=0
    )
    assert found.reached.sum() >= 9
    predicted = trained.predict(found.edited, verbose=0)
    np.testing.assert_allclose(predicted, found.after, atol=1e-5)
    np.testing.assert_array_equal(predicted.argmax(axis=1) == target, found.reached)
    np.testing.assert_allclose(trained.predict(x, verbose=0), found.before, atol=1e-5)
    outside = np.delete(found.delta, np.s_[2:7], axis=1)
    assert not outside.any()
    assert found.edited.min() >= 0
    assert found.edited.max() <= 16
    assert found.edited.dtype == x.dtype
    np.testing.assert_array_equal(x, PIXELS[:10])
    if l1:  # fewer pixels: of 40 that may change
        assert np.count_nonzero(found.delta, axis=(1, 2))[found.reached].mean() < 25
    # The model is as it was, to the bit.
    for before, after in zip(weights, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert flags == [variable.trainable for variable in trained.variables]


@pytest.mark.gradient
def test_counterfactual_of_a_line_is_what_solves_it():
    """Of `y = 3 a + 2 b`, to reach 8 from 0 with `a` alone takes `a = 8 / 3`."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.set_weights([np.array([[3.0], [2.0]]), np.zeros(1)])
    for target in (8.0, np.full((4, 1), 8.0), np.full(4, 8.0)):
        found = counterfactual(
            model, np.zeros((4, 2), "float32"), target, sample[0], learning_rate=0.1, verbose=0
        )
        assert found.reached.all()
        np.testing.assert_allclose(found.edited, [[8 / 3, 0]] * 4, rtol=0.011)


@pytest.mark.gradient
def test_counterfactual_leaves_what_is_reached_already(trained):
    x = PIXELS[:4]
    read = trained.predict(x, verbose=0).argmax(axis=1)
    for l1 in (0.0, 0.01):
        found = counterfactual(trained, x, read, sample[...], l1=l1, steps=20, verbose=0)
        assert found.reached.all()
        np.testing.assert_array_equal(found.edited, x)


@pytest.mark.gradient
def test_counterfactual_that_cannot_be_reached_says_so(trained):
    read = trained.predict(PIXELS[:3], verbose=0).argmax(axis=1)
    found = counterfactual(
        trained, PIXELS[:3], (read + 5) % 10, sample[0, 0], steps=20, l1=0.01, verbose=0
    )
    assert not found.reached.any()
    assert found.delta[:, 0, 0].all()  # the last that was tried


@pytest.mark.gradient
def test_counterfactual_of_two_classes_and_of_several_inputs():
    inputs = [keras.Input((3,)), keras.Input((2,))]
    both = keras.layers.Concatenate()(inputs)
    dense = keras.layers.Dense(1, activation="sigmoid")
    model = keras.Model(inputs, dense(both))
    dense.set_weights([np.array([[1.0], [1], [1], [1], [-2]]), np.array([-1.0])])
    dense.trainable = False
    x = [np.zeros((6, 3), "float32"), np.zeros((6, 2), "float32")]
    target = np.array([0, 1, 0, 1, 1, 1])
    found = counterfactual(model, x, target, sample[1], path="1", learning_rate=0.1, verbose=0)
    assert found.reached.all()
    np.testing.assert_array_equal(found.after[:, 0] > 0.5, target == 1)
    np.testing.assert_array_equal(found.delta[:, 0], 0)
    np.testing.assert_array_equal(found.delta[:, 1] < 0, target == 1)
    assert model.trainable_variables == []


@pytest.mark.gradient
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"x": PIXELS[:2].astype(int)}, DTypeError),
        ({"target": 10}, OperandError),
        ({"target": -1}, OperandError),
        ({"target": [1, 2, 3]}, ShapeError),
        ({"target": [0.5, 0.5]}, ShapeError),
        ({"free": at[0]}, CoordinateError),
        ({"free": sample[...].set(0.0)}, OperandError),
    ],
)
def test_counterfactual_refuses(trained, change, error):
    given = {"x": PIXELS[:2], "target": 1, "free": sample[...], **change}
    with pytest.raises(error, match="Received"):
        counterfactual(trained, **given, verbose=0)
    assert all(variable.trainable for layer in trained.layers for variable in layer.weights[:2])


@pytest.mark.gradient
def test_model_is_thawed_when_training_fails(trained):
    flags = [variable.trainable for variable in trained.variables]
    with pytest.raises(ValueError, match="nonsense"):
        counterfactual(trained, PIXELS[:2], 1, sample[...], loss="nonsense", verbose=0)
    assert flags == [variable.trainable for variable in trained.variables]


# --- plots -------------------------------------------------------------------------------------


def test_plots_show_what_was_found():
    found = sweep(regressor(), DIABETES[:5], sample[2], GRID, verbose=0)
    ax = found.plot()
    assert len(ax.lines) == 6
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), found.average[:, 0], rtol=1e-6)
    np.testing.assert_allclose(ax.lines[0].get_xdata(), GRID)
    assert ax.get_xlabel() == "sample[2]"
    assert found.plot(0, ax) is ax
    digit = ablate(reader(), PIXELS[:2], np.arange(8), verbose=0)
    (image,) = digit.plot(3, index=1).images
    np.testing.assert_array_equal(image.get_array(), digit.attributions(3)[1])
    bars = ablate(regressor(), DIABETES[:2], verbose=0).plot()
    assert len(bars.patches) == 10
    for output in (None, 10, (0, 0)):
        with pytest.raises((OperandError, IndexError)):
            digit.plot(output)


@pytest.mark.gradient
def test_plot_of_a_counterfactual(trained):
    found = counterfactual(trained, PIXELS[:1], 1, sample[...], steps=10, verbose=0)
    first, change, last = found.plot()
    np.testing.assert_array_equal(first.images[0].get_array(), PIXELS[0])
    np.testing.assert_array_equal(change.images[0].get_array(), found.delta[0])
    np.testing.assert_array_equal(last.images[0].get_array(), found.edited[0])


def test_plot_without_matplotlib_says_how_to_install_it(monkeypatch):
    found = sweep(regressor(), DIABETES[:2], sample[2], GRID, verbose=0)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "kedit\[plot\]"'):
        found.plot()


# --- The example -------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.gradient
def test_example_draws_its_pictures(tmp_path, capsys):
    path = Path(__file__).parent.parent / "examples" / "what_if.py"
    runpy.run_path(str(path))["main"](["--epochs", "2", "--to", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "Read as the next digit" in printed
    pictures = sorted(tmp_path.glob("*.png"))
    assert [picture.name for picture in pictures] == [
        "what_if_counterfactual.png",
        "what_if_curve.png",
        "what_if_occlusion.png",
    ]
    assert all(picture.stat().st_size > 5000 for picture in pictures)
    assert all((path.parent / picture.name).exists() for picture in pictures)
