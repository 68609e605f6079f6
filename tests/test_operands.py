"""Operands that draw, that are learned, that run layers, and that skip one."""

import functools
import importlib
import json
import operator
import pathlib
import pickle
import runpy

import keras
import numpy as np
import pytest
from _backend import to_numpy, vjp
from keras import ops
from kit import check_close, check_roundtrip, model_files, saved_and_loaded
from networks import ROWS, Subclassed, sequential

from kedit import Trainable, X, at, sample
from kedit.errors import (
    CoordinateError,
    DTypeError,
    OperandError,
    PositionError,
    SavingError,
    ShapeError,
)
from kedit.interventions import (
    BatchMean,
    Fed,
    LayerInput,
    Noise,
    OtherRun,
    Rotated,
    Through,
    capture,
    edit_model,
    load_edits,
    principal_components,
    save_edits,
    site,
)
from kedit.interventions._positions import Piece
from kedit.interventions._site_editing import SiteEditing
from kedit.layers import Editing

RNG = np.random.default_rng(7)


def predict(model, x, **options):
    return model.predict(x, verbose=0, **options)


def plain(shape, dtype="float32"):
    """A model that returns what it is given."""
    return keras.Sequential([keras.Input(shape), keras.layers.Identity(name="h", dtype=dtype)])


def check_is_value(*edits):
    """Each is equal to what its code, its JSON and its pickle make, and to no other one."""
    names = {name: value for name, value in globals().items() if name[0] != "_"}
    for edit in edits:
        again = check_roundtrip(edit)
        written = eval(repr(edit), names)
        for other in (again, written, pickle.loads(pickle.dumps(edit))):
            assert other == edit
            assert hash(other) == hash(edit)
            assert repr(other) == repr(edit)
    assert len({*edits}) == len(edits)


def check_saved(edited, given, path, predicts=predict):
    """The model and its edits predict the same after a file of each kind."""
    expected = predicts(edited, given)
    loaded = saved_and_loaded(edited, path / "model.keras")
    save_edits(edited, path / "edits.json")
    again = edit_model(edited.base, load_edits(path / "edits.json"), train=edited.trains)
    for one in (loaded, again):
        check_close(predicts(one, given), expected)
        assert one.edits == edited.edits
        assert len(one.trainable_variables) == len(edited.trainable_variables)
    return loaded, again


# --- Noise ---------------------------------------------------------------------------------------


def test_noise_has_the_deviation_and_goes_where_it_is_added():
    edited = edit_model(plain((2000,)), {"h": sample[:1000].add(Noise(0.5, seed=1))})
    x = RNG.normal(size=(10, 2000)).astype("float32")
    found = predict(edited, x) - x
    assert (found[:, 1000:] == 0).all()
    drawn = found[:, :1000]
    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 0.5) < 0.02
    assert abs((drawn**3).mean()) < 0.03
    assert abs(np.corrcoef(drawn)[np.triu_indices(10, 1)]).max() < 0.15


def test_noise_is_a_series_that_a_seed_repeats():
    x = np.zeros((3, 4), "float32")

    def series(seed, compiled, count=3):
        edited = edit_model(plain((4,)), {"h": sample[...].add(Noise(seed=seed))})
        run = edited.predict_on_batch if compiled else lambda x: to_numpy(edited(x))
        return [run(x) for _ in range(count)]

    first = series(3, False)
    for compiled in (False, True):
        for one, other in zip(series(3, compiled), first, strict=True):
            check_close(one, other)
    assert not np.allclose(first[0], first[1])
    assert not np.allclose(series(4, False, 1)[0], first[0])
    keras.utils.set_random_seed(1)
    unseeded = series(None, False, 1)[0]
    assert not np.allclose(unseeded, series(None, False, 1)[0])
    keras.utils.set_random_seed(1)
    check_close(series(None, False, 1)[0], unseeded)


def test_the_series_does_not_depend_on_when_the_model_is_built():
    def first(base):
        edited = edit_model(base, {"blocks.0": sample[...].add(Noise(seed=2))})
        acts = capture(edited, ["blocks.0"])(ROWS)["blocks.0"]
        return to_numpy(acts) - to_numpy(capture(base, ["blocks.0"])(ROWS)["blocks.0"])

    built = Subclassed()
    built(ROWS)
    check_close(first(Subclassed()), first(built), atol=1e-5)


def test_one_object_is_one_series():
    x, one = np.zeros((2, 4), "float32"), Noise(seed=0)
    for edit, is_same in (
        (sample[0].add(Noise(seed=0)) | sample[1].add(Noise(seed=0)), True),
        (sample[0].add(one) | sample[1].add(one), False),
    ):
        edited = edit_model(plain((4,)), {"h": edit})
        found = to_numpy(edited(x))
        alone = to_numpy(edit_model(plain((4,)), {"h": sample[...].add(one)})(x))
        check_close(found[:, 0], alone[:, 0])
        assert np.allclose(found[:, 1], alone[:, 1]) == is_same


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_noise_takes_the_dtype_of_the_activation(dtype):
    edited = edit_model(plain((400,), dtype), {"h": sample[...].add(X * Noise(0.25, seed=0))})
    found = edited(np.ones((5, 400)))
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    drawn = to_numpy(ops.cast(found, "float32")) - 1
    assert abs(drawn.std() - 0.25) < 0.02


@pytest.mark.gradient
def test_no_gradient_flows_to_noise():
    edited = edit_model(plain((4,)), {"h": sample[0].add(Noise(seed=0)) | sample[1].set(Noise())})
    up = RNG.normal(size=(3, 4)).astype("float32")
    _, (dx,) = vjp(edited, [np.ones((3, 4), "float32")], up)
    check_close(dx, up * [1, 0, 1, 1])


@pytest.mark.gradient
def test_a_vector_is_learned_under_noise():
    """It finds the shift that the targets have, and the draws go on with every batch."""
    edit = sample[...].add(Trainable("zeros")) | sample[...].add(Noise(0.1, seed=5))
    edited = edit_model(plain((3,)), {"h": edit}, train="edits")
    edited.compile(keras.optimizers.SGD(0.75), "mse")
    x, shift = RNG.normal(size=(64, 3)).astype("float32"), np.array([2, -1, 0.5], "float32")
    (draws,) = edited.edit_layers[0].draws()
    start = to_numpy(draws.state).copy()
    edited.fit(x, x + shift, batch_size=16, epochs=3, verbose=0)
    check_close(edited.values("h")[0], shift, atol=0.15)
    assert len(edited.trainable_variables) == 1
    assert [tuple(v.shape) for v in edited.values("h")] == [(3,)]
    assert to_numpy(draws.state)[1] - start[1] >= 12


def test_noise_in_the_model_itself():
    """A block draws once; the next one draws anew."""
    base, x = plain((4,)), np.zeros((3, 4), "float32")
    edited = edit_model(base, {"h": sample[:2].add(Noise(seed=0))})
    blocks = []
    for _ in range(2):
        with edited.applied():
            drawn = to_numpy(base(x))
            check_close(to_numpy(base(x)), drawn)
            check_close(predict(base, x), drawn)
            check_close(to_numpy(edited(x)), drawn)
            blocks.append(drawn)
    assert (blocks[0][:, 2:] == 0).all()
    assert not np.allclose(*blocks)
    assert (predict(base, x) == 0).all()
    assert not any(np.allclose(to_numpy(edited(x)), drawn) for drawn in blocks)


def test_noise_is_saved_with_where_its_series_is(tmp_path):
    edit = sample[0].set(2.0) | sample[1].add(Noise(0.5, seed=3)) | sample[2].add(Noise())
    edited = edit_model(sequential(), {"dense": edit})
    to_numpy(edited(ROWS))
    loaded = saved_and_loaded(edited, tmp_path / "model.keras")
    assert loaded.edits == edited.edits
    for _ in range(2):
        check_close(to_numpy(loaded(ROWS)), to_numpy(edited(ROWS)))
    save_edits(edited, tmp_path / "edits.json")
    assert load_edits(tmp_path / "edits.json") == edited.edits


def test_noise_in_features_is_a_series_of_its_own(tmp_path):
    """Each block draws anew, and a file holds where the series is."""
    layers = [keras.layers.Rescaling(scale) for scale in (2.0, 0.5)]
    noisy = sample[...].set(Through(*layers, sample[...].add(Noise(seed=0))))
    base, x = plain((4,)), np.zeros((3, 4), "float32")
    edited = edit_model(base, {"h": noisy})
    blocks = []
    for _ in range(2):
        with edited.applied():
            blocks.append(to_numpy(base(x)))
            check_close(to_numpy(base(x)), blocks[-1])
    assert not np.allclose(*blocks)
    loaded = saved_and_loaded(edited, tmp_path / "model.keras")
    check_close(to_numpy(loaded(x)), to_numpy(edited(x)))


def test_noise_is_a_value():
    one = Noise(0.5)
    check_is_value(
        sample[3].add(Noise()),
        sample[3].add(Noise(np.float32(2))),
        sample[3].add(Noise(2.0, seed=0)),
        sample[...].set(X + Noise(seed=1) * Trainable(0.5)),
        sample[1].set(one) | sample[2].set(one),
        sample[1].set(Noise(0.5)) | sample[2].set(Noise(0.5)),
    )
    with pytest.raises(OperandError, match="edit_model"):
        sample[0].add(one)(ROWS)


@pytest.mark.parametrize(
    "arguments",
    [
        (-1.0,),
        ("1",),
        (float("nan"),),
        (float("inf"),),
        (True,),
        (1.0, -1),
        (1.0, 2**31),
        (1.0, 0.5),
    ],
    ids=repr,
)
def test_bad_noise(arguments):
    with pytest.raises(OperandError, match="Received"):
        Noise(*arguments)


def test_noise_for_integers_is_refused():
    inputs = keras.Input((4,), dtype="int32")
    base = keras.Model(inputs, keras.layers.Identity(name="h", dtype="int32")(inputs))
    with pytest.raises(DTypeError, match=r"Received: .*'int32'"):
        edit_model(base, {"h": sample[0].set(Noise())})


# --- Subspaces -----------------------------------------------------------------------------------


def activations(samples, features=5, rank=2, noise=0.01):
    """Activations that vary in a plane, and hardly beside it."""
    rng = np.random.default_rng(11)
    plane = np.linalg.qr(rng.normal(size=(features, rank)))[0]
    codes = rng.normal(size=(samples, rank)) * np.arange(rank, 0, -1) * 3
    rows = codes @ plane.T + noise * rng.normal(size=(samples, features)) + 10.0
    return rows.astype("float32"), plane


@pytest.mark.once
def test_principal_components_are_those_of_the_covariance():
    rows, plane = activations(300)
    for given in (rows, rows.reshape(20, 15, 5), rows.astype("float64")):
        basis = principal_components(given, rank=3)
        assert basis.shape == (5, 3)
        assert basis.dtype == given.dtype
        _, vectors = np.linalg.eigh(np.cov(rows.astype("float64"), rowvar=False))
        for number in range(3):
            vector = vectors[:, -1 - number]
            check_close(basis[:, number], vector * np.sign(vector[abs(vector).argmax()]), atol=1e-3)
        check_close(basis[:, :2] @ basis[:, :2].T, plane @ plane.T, atol=1e-2)
        check_close(basis.T @ basis, np.eye(3))
    assert principal_components(np.arange(12).reshape(4, 3) % 5, rank=2).dtype == "float32"
    check_close(principal_components(-rows, rank=3), principal_components(rows, rank=3), atol=1e-4)


def test_principal_components_of_half_precision():
    """Which not every backend hands on as an array of NumPy's own dtypes."""
    rows, _ = activations(300)
    for dtype in ("float16", "bfloat16"):
        base = keras.Sequential([keras.Input((5,)), keras.layers.Rescaling(1.0, dtype=dtype)])
        captured = predict(capture(base, "rescaling"), rows)["rescaling"]
        basis = principal_components(captured, rank=2)
        assert basis.dtype == "float32"
        check_close(basis, principal_components(rows, rank=2), atol=2e-2)


@pytest.mark.once
@pytest.mark.parametrize(
    ("rows", "rank", "error"),
    [
        (np.ones((4, 3)), 4, ShapeError),
        (np.ones((2, 3)), 3, ShapeError),
        (np.ones(3), 1, ShapeError),
        (np.ones((0, 3)), 1, ShapeError),
        (np.ones((4, 3)), 0, OperandError),
        (np.ones((4, 3)), 1.0, OperandError),
        (np.full((4, 3), np.nan), 1, OperandError),
        (np.ones((4, 3), complex), 1, OperandError),
        ([["a", "b"]], 1, OperandError),
    ],
)
def test_bad_principal_components(rows, rank, error):
    with pytest.raises(error, match="Received"):
        principal_components(rows, rank)


def test_a_subspace_that_is_known_is_exchanged_and_not_trained(tmp_path):
    rows, _ = activations(6)
    basis = principal_components(activations(100)[0], rank=2)
    edit = sample[...].set(Rotated(initializer=basis, trainable=False))
    base = plain((5,))
    edited = edit_model(base, {"h": edit}, train="edits")
    given = {"inputs": rows, "other": rows[::-1].copy()}
    expected = rows + (rows[::-1] - rows) @ basis @ basis.T
    check_close(predict(edited, given), expected, atol=1e-4)
    assert not edited.trainable_variables
    with pytest.raises(OperandError, match="something to train"):
        edited.make_train_function()
    check_close(edited.values("h")[0], basis)
    check_saved(edited, given, tmp_path)


def test_a_subspace_is_exchanged_between_numbers_far_apart():
    """In half precision their difference is infinite."""
    base = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(1.0, dtype="float16")])
    exchanged = sample[...].set(Rotated(initializer=[[1.0], [0.0]], trainable=False))
    edited = edit_model(base, {"rescaling": exchanged})
    given = {"inputs": np.array([[60000.0, 3.0]]), "other": np.array([[-60000.0, 5.0]])}
    check_close(predict(edited, given), [[-60000.0, 3.0]])


@pytest.mark.parametrize("source", [0, 0.5, [1.0, 2.0, 3.0, 4.0, 5.0], [2.0], BatchMean()])
def test_a_subspace_is_set_to_what_is_known(source, tmp_path):
    rows, _ = activations(6)
    basis = RNG.normal(size=(5, 2))
    rotated = Rotated(source, initializer=basis, trainable=False)
    edited = edit_model(plain((5,)), {"h": sample[...].set(rotated)})
    q = np.linalg.qr(basis)[0]
    fixed = rows.mean(0) if isinstance(source, BatchMean) else np.asarray(source)
    check_close(predict(edited, rows), rows + (fixed - rows) @ q @ q.T, atol=1e-4)
    check_saved(edited, rows, tmp_path)


def test_a_subspace_that_is_removed_is_gone_at_the_positions_alone():
    x = RNG.normal(size=(4, 3, 5)).astype("float32")
    basis = RNG.normal(size=(5, 2))
    edit = sample[1].set(Rotated(0.0, initializer=basis, trainable=False))
    found = predict(edit_model(plain((3, 5)), {"h": edit}), x)
    check_close(found[:, 1] @ np.linalg.qr(basis)[0], np.zeros((4, 2)))
    np.testing.assert_array_equal(found[:, [0, 2]], x[:, [0, 2]])


@pytest.mark.gradient
def test_gradients_of_a_subspace_in_closed_form():
    basis, up = RNG.normal(size=(5, 2)), RNG.normal(size=(4, 5)).astype("float32")
    x = RNG.normal(size=(4, 5)).astype("float32")
    rotated = Rotated(0.0, initializer=basis, trainable=False)
    edited = edit_model(plain((5,)), {"h": sample[...].set(rotated)})
    q = np.linalg.qr(basis)[0]
    _, (dx,) = vjp(edited, [x], up)
    check_close(dx, up - up @ q @ q.T, atol=1e-4)


@pytest.mark.parametrize(
    ("rotated", "error"),
    [
        (Rotated(rank=6), ShapeError),
        (Rotated(initializer=np.ones((4, 2))), ShapeError),
        (Rotated(np.ones(4)), ShapeError),
        (Rotated(np.ones((1, 1, 5))), ShapeError),
        (Rotated(temperature=1.0, rank=6), ShapeError),
    ],
    ids=repr,
)
def test_rotations_that_do_not_fit(rotated, error):
    with pytest.raises(error, match="Received"):
        edit_model(plain((5,)), {"h": sample[...].set(rotated)})


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments",
    [(None, 1, np.ones((4, 2))), (None, None, np.ones(4)), (None, None, np.ones((4, 2, 1)))],
)
def test_arrays_that_are_no_basis(arguments):
    with pytest.raises(ShapeError, match="Received"):
        Rotated(*arguments)


# --- Soft boundaries -----------------------------------------------------------------------------


def soft(rank, boundary, temperature):
    return 1 / (1 + np.exp(-(rank * boundary - np.arange(rank) - 0.5) / temperature))


@pytest.mark.parametrize("rank", [5, 3])
def test_a_soft_boundary_in_closed_form_and_at_no_temperature_the_hard_one(rank, tmp_path):
    rows, start = activations(6)[0] - 10, RNG.normal(size=(5, rank))
    other = rows[::-1].copy()
    given = {"inputs": rows, "other": other}
    rotated = Rotated(initializer=start, temperature=2.0, boundary=0.25)
    edited = edit_model(plain((5,)), {"h": sample[...].set(rotated)}, train="edits")
    _, boundary, temperature = edited.values("h")
    assert len(edited.trainable_variables) == 2
    q = np.linalg.qr(start)[0]
    for b, t in ((0.25, 2.0), (0.6, 0.5)):
        boundary.assign(b)
        temperature.assign(t)
        expected = rows + (other - rows) @ q @ np.diag(soft(rank, b, t)) @ q.T
        check_close(predict(edited, given), expected, atol=1e-4)
    check_saved(edited, given, tmp_path)
    temperature.assign(1e-4)
    for count in range(1, rank):
        boundary.assign(count / rank)
        hard = Rotated(initializer=start[:, :count], trainable=False)
        expected = predict(edit_model(plain((5,)), {"h": sample[...].set(hard)}), given)
        check_close(predict(edited, given), expected, atol=1e-4)
    boundary.assign(0.0)
    np.testing.assert_array_equal(predict(edited, given), rows)


@pytest.mark.gradient
def test_gradients_of_a_soft_boundary_in_closed_form():
    """One step of descent by a rate of one, also to the regularizer."""
    x, other, y = RNG.normal(size=(3, 8, 4)).astype("float32")
    start = np.linalg.qr(RNG.normal(size=(4, 4)))[0].astype("float32")
    b = Trainable(0.5, regularizer=keras.regularizers.L1(0.01), name="share")
    rotated = Rotated(initializer=start, temperature=1.5, boundary=b)
    edited = edit_model(plain((4,)), {"h": sample[...].set(rotated)}, train="edits")
    edited.compile(keras.optimizers.SGD(1.0), "mse")
    edited.train_on_batch({"inputs": x, "other": other}, y)
    _, boundary, temperature = edited.values("h")
    q = np.linalg.qr(start)[0]
    m = soft(4, 0.5, 1.5)
    error = 2 * (x + (other - x) @ q @ np.diag(m) @ q.T - y) / y.size
    slope = ((error @ q) * ((other - x) @ q)).sum(0) @ (m * (1 - m) * 4 / 1.5)
    check_close(boundary, 0.5 - slope - 0.01, atol=1e-4)
    check_close(temperature, 1.5)


def cooling(variable, factor):
    """Let a temperature sink, from one epoch to the next."""
    start = float(to_numpy(variable))
    return keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: variable.assign(start * factor**epoch)
    )


@pytest.mark.once
@pytest.mark.gradient
def test_a_boundary_finds_how_many_dimensions_were_planted():
    """Two of six dimensions come from the other run; the boundary starts at three."""
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0].astype("float32")
    x, other = np.random.default_rng(2).normal(size=(2, 256, 6)).astype("float32")
    plane = turn[:, :2]
    target = x + (other - x) @ plane @ plane.T
    start = keras.initializers.Orthogonal(seed=1)
    rotated = Rotated(rank=6, initializer=start, temperature=2.0)
    edited = edit_model(plain((6,)), {"h": sample[...].set(rotated)}, train="edits")
    matrix, boundary, temperature = edited.values("h")
    edited.compile(keras.optimizers.Adam(0.02), "mse")
    given = {"inputs": x, "other": other}
    callbacks = [cooling(temperature, 0.95)]
    history = edited.fit(given, target, 64, 80, verbose=0, callbacks=callbacks).history
    assert history["loss"][-1] < 1e-2 < history["loss"][0]
    assert round(6 * float(to_numpy(boundary))) == 2
    q = np.linalg.qr(to_numpy(matrix))[0][:, :2]
    check_close(q @ q.T, plane @ plane.T, atol=0.1)


@pytest.mark.gradient
def test_a_boundary_stays_from_0_to_1():
    rotated = Rotated(rank=4, temperature=1.0, boundary=0.9)
    edited = edit_model(plain((4,)), {"h": sample[...].set(rotated)}, train="edits")
    edited.compile(keras.optimizers.SGD(1e3), "mse")
    x, other = RNG.normal(size=(2, 8, 4)).astype("float32")
    edited.train_on_batch({"inputs": x, "other": other}, 100 * other)
    assert 0 <= float(to_numpy(edited.values("h")[1])) <= 1


def test_rotations_are_values():
    basis = np.array([[1.0], [0.5]])
    edits = [
        sample[...].set(rotated)
        for rotated in (
            Rotated(rank=2),
            Rotated(rank=2, trainable=False),
            Rotated(rank=2, temperature=50.0),
            Rotated(rank=2, temperature=50),
            Rotated(rank=2, temperature=5.0, boundary=0.25),
            Rotated(rank=2, temperature=5.0, boundary=Trainable(0.25, regularizer="l1")),
            Rotated(0.0, rank=2),
            Rotated(0, rank=2),
            Rotated([0.0, 1.0], rank=2),
            Rotated(BatchMean(), rank=2, initializer="ones", trainable=False),
        )
    ]
    assert edits[2] == edits.pop(3)
    check_is_value(*edits)
    one = sample[...].set(Rotated(0.5, initializer=basis, trainable=False))
    for again in (check_roundtrip(one), pickle.loads(pickle.dumps(one))):
        assert again == one
    assert one != sample[...].set(Rotated(0.5, initializer=2 * basis, trainable=False))
    assert repr(one) == "sample[...].set(Rotated(0.5, rank=1, initializer=..., trainable=False))"


# --- Masks that are learned ----------------------------------------------------------------------


def test_a_soft_mask_in_closed_form(tmp_path):
    x, other = RNG.normal(size=(2, 6, 4)).astype("float32")
    temperature = Trainable(2.0, trainable=False, name="temperature")
    mask = (Trainable([-3.0, 0.0, 1.0, 4.0]) / temperature).sigmoid()
    edit = sample[...].set(X + (OtherRun() - X) * mask)
    check_is_value(edit)
    edited = edit_model(plain((4,)), {"h": edit}, train="edits")
    given = {"inputs": x, "other": other}
    logits, heat = edited.values("h")
    assert [v is logits for v in edited.trainable_variables] == [True]
    for t in (2.0, 0.5):
        heat.assign(t)
        m = 1 / (1 + np.exp(-np.array([-3, 0, 1, 4]) / t))
        check_close(predict(edited, given), x + (other - x) * m)
    check_saved(edited, given, tmp_path)
    heat.assign(1e-3)
    logits.assign([-1.0, 1.0, 1.0, -1.0])
    check_close(predict(edited, given), np.where([0, 1, 1, 0], other, x))


@pytest.mark.gradient
def test_a_mask_finds_the_units_that_were_planted():
    x, other = np.random.default_rng(3).normal(size=(2, 64, 4)).astype("float32")
    target = np.where([0, 1, 0, 1], other, x)
    heat = Trainable(1.0, trainable=False)
    edit = sample[...].set(X + (OtherRun() - X) * (Trainable("zeros") / heat).sigmoid())
    edited = edit_model(plain((4,)), {"h": edit}, train="edits")
    edited.compile(keras.optimizers.SGD(4.0), "mse")
    logits, heat = edited.values("h")
    given = {"inputs": x, "other": other}
    edited.fit(given, target, batch_size=64, epochs=3, verbose=0, callbacks=[cooling(heat, 0.8)])
    assert (to_numpy(logits) > 0).tolist() == [False, True, False, True]
    check_close(heat, 0.8**2)


# --- Layers --------------------------------------------------------------------------------------

WIDTH, FEATURES = 4, 7


@keras.saving.register_keras_serializable(package="operands")
class Shifted(keras.layers.Layer):
    """A layer of one's own, with a weight."""

    def build(self, input_shape):
        self.shift = self.add_weight(name="shift", shape=input_shape[-1:], initializer="ones")

    def call(self, x):
        return x + self.shift


@keras.saving.register_keras_serializable(package="operands")
def cubed(x):
    return x**3


class Unregistered(Shifted):
    pass


def plus_one(x):
    return x + 1


def coder(encoder=None, decoder=None):
    """An encoder and a decoder of fixed weights, and what they compute in NumPy."""
    rng = np.random.default_rng(21)
    encode = encoder or keras.layers.Dense(FEATURES, activation="relu", name="encoder")
    decode = decoder or keras.layers.Dense(WIDTH, name="decoder")
    encode.build((None, WIDTH))
    decode.build((None, FEATURES))
    for layer in (encode, decode):
        layer.set_weights([rng.normal(size=w.shape).astype("float32") for w in layer.weights])
    (w, b), (v, c) = encode.get_weights(), decode.get_weights()
    return encode, decode, lambda x: np.maximum(x @ w + b, 0), lambda z: z @ v + c


def through(edit, x, given=None, shape=(WIDTH,), at=sample[...]):
    """What an edit of features makes of activations."""
    encode, decode, *_ = coder()
    edited = edit_model(plain(shape), {"h": at.set(Through(encode, decode, edit))})
    return predict(edited, x if given is None else {"inputs": x, **given})


def test_features_are_edited_and_the_error_is_kept():
    x, other = RNG.normal(size=(2, 6, WIDTH)).astype("float32")
    *_, encode, decode = coder()
    z, theirs = encode(x), encode(other)
    v = RNG.normal(size=6).astype("float32")
    for edit, given, change in (
        (sample[2].set(0.0), None, {2: 0 * z[:, 2]}),
        (sample[2].add(1.5) | sample[5].multiply(X), None, {2: z[:, 2] + 1.5, 5: z[:, 5] ** 2}),
        (sample[1:3].set(OtherRun()), {"other": other}, {1: theirs[:, 1], 2: theirs[:, 2]}),
        (sample[0].set(Fed("v")), {"v": v}, {0: v}),
        (sample[3].set(BatchMean()), None, {3: np.full(6, z[:, 3].mean())}),
    ):
        edited = z.copy()
        for number, values in change.items():
            edited[:, number] = values
        check_close(through(edit, x, given), x + decode(edited) - decode(z), atol=1e-4)


def test_an_edit_that_changes_nothing_leaves_every_bit():
    x = RNG.normal(size=(6, WIDTH)).astype("float32")
    x[0], x[1] = -0.0, x[1] * 1e20
    for edit in (sample[...].multiply(1.0), sample[0].set(X), sample.where(X < -1.0).set(9.0)):
        np.testing.assert_array_equal(through(edit, x).view("int32"), x.view("int32"))


def test_features_at_some_positions():
    x = RNG.normal(size=(3, 5, WIDTH)).astype("float32")
    *_, encode, decode = coder()
    z = encode(x)
    edited = np.where(np.arange(FEATURES) == 2, 3, z)
    expected = x.copy()
    expected[:, 1] += (decode(edited) - decode(z))[:, 1]
    found = through(sample[..., 2].set(3.0), x, shape=(5, WIDTH), at=sample[1])
    check_close(found, expected, atol=1e-4)
    np.testing.assert_array_equal(found[:, [0, 2, 3, 4]], x[:, [0, 2, 3, 4]])
    found = through(sample[1, 2].set(3.0), x, shape=(5, WIDTH))
    check_close(found, expected, atol=1e-4)


def test_a_layer_and_a_reconstruction_are_written_as_they_are():
    x = RNG.normal(size=(6, WIDTH)).astype("float32")
    encode, decode, encoded, decoded = coder()
    whole = edit_model(plain((WIDTH,)), {"h": sample[...].set(Through(encode, decode))})
    check_close(predict(whole, x), decoded(encoded(x)), atol=1e-4)
    shift = Through(Shifted())
    for edit, expected in (
        (sample[0].set(shift), x + np.eye(WIDTH)[0]),
        (sample[...].add(shift), 2 * x + 1),
        (sample[...].set(X + (shift - X) * 0.5), x + 0.5),
        (sample[...].where(shift > 1.0).set(0.0), np.where(x > 0, 0, x)),
    ):
        check_close(predict(edit_model(plain((WIDTH,)), {"h": edit}), x), expected)


def test_layers_are_copied_once_for_each_site_and_not_changed_later():
    encode, decode, *_ = coder()
    base = keras.Sequential([keras.Input((WIDTH,)), *[Shifted(name=f"s{n}") for n in (0, 1)]])
    edit = sample[...].set(Through(encode, decode, sample[...].set(0.0)))
    edited = edit_model(base, {"s?": edit})
    x = RNG.normal(size=(3, WIDTH)).astype("float32")
    before = predict(edited, x)
    assert len(edited.values("s0")) == len(edited.values("s1")) == 5
    kernels = [
        next(v for v in edited.values(a) if v.shape == (WIDTH, FEATURES)) for a in ("s0", "s1")
    ]
    assert kernels[0] is not kernels[1] is not encode.kernel
    encode.kernel.assign(np.zeros((WIDTH, FEATURES)))
    np.testing.assert_array_equal(predict(edited, x), before)
    kernels[0].assign(np.zeros((WIDTH, FEATURES)))
    assert abs(predict(edited, x) - before).max() > 1e-3
    assert (to_numpy(kernels[1]) != 0).any()


def test_layers_and_edits_that_have_moved_to_another_module_load():
    """What is registered is found by its name."""
    layers = [keras.layers.Dense(2, name="d"), Editing(sample[0].set(0.0), name="e")]
    one = Through(*layers, sample[0].set(X))
    config = one.get_config()
    for part in (config["layers"][1]["layer"], config["edit"]):
        part["module"] = "kedit._where_it_was"
    assert Through.from_config(config) == one


@pytest.mark.gradient
def test_gradients_through_an_autoencoder_in_closed_form():
    """To the activation, to an operand of features, and to the weights of the decoder."""
    x, up = RNG.normal(size=(2, 6, WIDTH)).astype("float32")
    encode, decode, encoded, _ = coder()
    (w, _), (v, _) = encode.get_weights(), decode.get_weights()
    edit = sample[1].set(0.0) | sample[2].add(Trainable(0.5))
    base = plain((WIDTH,))
    edited = edit_model(base, {"h": sample[...].set(Through(encode, decode, edit))}, train="edits")
    _, (dx,) = vjp(edited, [x], up)
    on = encoded(x) > 0
    gate = np.zeros(FEATURES)
    gate[1] = 1  # the one feature that no longer depends on x
    check_close(dx, up - ((up @ v.T) * on * gate) @ w.T, atol=1e-4)
    edited.compile(keras.optimizers.SGD(1.0), lambda y, z: ops.sum(z * ops.convert_to_tensor(up)))
    edited.train_on_batch(x, np.zeros_like(x))
    steer = next(value for value in edited.values("h") if value.shape == () and value.trainable)
    check_close(steer, 0.5 - (up @ v[2]).sum(), atol=1e-4)
    z = encoded(x)
    changed = z.copy()
    changed[:, 1] = 0
    changed[:, 2] += 0.5
    kernel = next(value for value in edited.values("h") if value.shape == (FEATURES, WIDTH))
    check_close(kernel, v - (changed - z).T @ up, atol=1e-4)


@pytest.mark.gradient
def test_what_a_layer_that_is_not_trained_keeps():
    encode, decode, *_ = coder()
    encode.trainable = decode.trainable = False
    edit = sample[...].set(Through(encode, decode, sample[...].add(Trainable("zeros"))))
    edited = edit_model(plain((WIDTH,)), {"h": edit}, train="edits")
    assert [tuple(v.shape) for v in edited.trainable_variables] == [(FEATURES,)]
    x, y = RNG.normal(size=(2, 32, WIDTH)).astype("float32")
    edited.compile(keras.optimizers.SGD(0.1), "mse")
    losses = edited.fit(x, y, batch_size=32, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    known = [*encode.get_weights(), *decode.get_weights()]
    left = [to_numpy(v) for v in edited.values("h") if not v.trainable]
    assert len(left) == 4
    for weight in known:
        assert any(weight.shape == v.shape and (weight == v).all() for v in left)


@pytest.mark.gradient
def test_a_layer_is_trained_in_place():
    """An adapter that starts anew, between two layers that stay as they are."""
    base = sequential()
    before = [to_numpy(v).copy() for v in base.variables]
    edit = sample[...].set(X + Through(keras.layers.Dense(5, kernel_initializer="zeros")))
    edited = edit_model(base, {"dense": edit}, train="edits")
    edited.compile(keras.optimizers.SGD(0.05), "mse")
    unedited = predict(base, ROWS)
    np.testing.assert_array_equal(predict(edited, ROWS), unedited)
    losses = edited.fit(ROWS, unedited + 1, batch_size=6, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for variable, value in zip(base.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)


CODERS = {
    "dense": lambda: coder()[:2],
    "sequential": lambda: coder(
        keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(FEATURES, "relu")], name="e"),
        keras.Sequential([keras.layers.Dense(WIDTH)], name="d"),
    )[:2],
    "with a layer of one's own": lambda: (
        Shifted(name="own"),
        keras.layers.Dense(WIDTH, cubed, name="cubes"),
    ),
    "of half precision": lambda: coder(
        keras.layers.Dense(FEATURES, "relu", dtype="bfloat16", name="e"),
        keras.layers.Dense(WIDTH, dtype="mixed_float16", name="d"),
    )[:2],
}


@pytest.mark.parametrize("name", CODERS)
def test_layers_are_saved_with_what_they_learned(name, tmp_path):
    edit = sample[0].set(2.0) | sample[1].add(Trainable("ones"))
    one = sample[...].set(Through(*CODERS[name](), edit))
    check_roundtrip(one)
    edited = edit_model(plain((WIDTH,)), {"h": one}, train="edits")
    x = RNG.normal(size=(6, WIDTH)).astype("float32")
    predict(edited, x)
    for variable in edited.values("h"):
        variable.assign(to_numpy(ops.cast(variable, "float32")) * 0.5 + 0.125)
    loaded, again = check_saved(edited, x, tmp_path)
    assert len(loaded.values("h")) == len(again.values("h")) == len(edited.values("h"))
    config = json.dumps(edited.get_config())
    assert '"weights": null' in config
    assert '"weights": [' not in config


def test_a_model_that_was_not_built_keeps_the_weights_of_layers_in_its_config():
    encode, decode, *_ = coder()
    edits = {"blocks.0": sample[...].set(Through(encode, decode, sample[0].set(0.0)))}
    edited = edit_model(Subclassed(), edits)
    assert '"weights": [{' in json.dumps([edit.get_config() for _, edit in edited.edits])
    found = to_numpy(capture(edited, ["blocks.0"])(ROWS)["blocks.0"])
    base = edited.base
    again = edit_model(base, edits)
    check_close(capture(again, ["blocks.0"])(ROWS)["blocks.0"], found)


def test_layers_are_values():
    def edits():
        encode, decode, *_ = coder()
        return [
            sample[...].set(Through(encode)),
            sample[...].set(Through(encode, decode)),
            sample[...].set(Through(encode, decode, sample[0].set(0.0))),
            sample[...].set(Through(encode, decode, sample[0].set(OtherRun()))),
            sample[...].set(Through(Shifted(name="s")) + Through(Shifted(name="s"))),
            sample[...].set((t := Through(Shifted(name="s"))) + t),
        ]

    ones = edits()
    for one, other in zip(ones, edits(), strict=True):
        for again in (other, check_roundtrip(one), pickle.loads(pickle.dumps(one))):
            assert again == one
            assert hash(again) == hash(one)
            assert repr(again) == repr(one)
    assert len({*ones}) == len(ones)
    encode, decode, *_ = coder()
    decode.bias.assign(np.ones(WIDTH))
    assert sample[...].set(Through(encode, decode)) != ones[1]
    assert repr(ones[2]) == (
        "sample[...].set(Through(<Dense 'encoder'>, <Dense 'decoder'>, sample[0].set(0.0)))"
    )
    with pytest.raises(OperandError, match="edit_model"):
        ones[2](ROWS)


def test_layers_in_the_model_itself_and_compiled():
    encode, decode, encoded, decoded = coder()
    base = plain((WIDTH,))
    edit = sample[...].set(Through(encode, decode, sample[0].set(1.0)))
    edited = edit_model(base, {"h": edit})
    x = RNG.normal(size=(6, WIDTH)).astype("float32")
    z = encoded(x)
    edited_z = z.copy()
    edited_z[:, 0] = 1
    expected = x + decoded(edited_z) - decoded(z)
    with edited.applied():
        check_close(predict(base, x), expected, atol=1e-4)
    check_close(edited(x), expected, atol=1e-4)
    (constant,) = [v for v in edited.values("h") if v.shape == ()]
    constant.assign(0.0)
    edited_z[:, 0] = 0
    check_close(predict(edited, x), x + decoded(edited_z) - decoded(z), atol=1e-4)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda e, d: Through(3), OperandError),
        (lambda e, d: Through(e, np.abs), OperandError),
        (lambda e, d: Through(keras.layers.Lambda(ops.abs)), OperandError),
        (lambda e, d: Through(keras.Sequential([keras.layers.Lambda(ops.abs)])), OperandError),
        (lambda e, d: Through(keras.layers.Dense(2, lambda x: x)), OperandError),
        (lambda e, d: Through(e, edit=sample[0].set(0.0)), OperandError),
        (lambda e, d: Through(e, d, 3), OperandError),
    ],
    ids=["number", "function", "lambda", "lambda inside", "activation", "no decoder", "no edit"],
)
def test_what_is_no_layer(make, error):
    encode, decode, *_ = coder()
    with pytest.raises(error, match="Received"):
        make(encode, decode)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda e, d: sample[...].set(Through(e)), ShapeError),
        (lambda e, d: sample[...].set(Through(d)), ShapeError),
        (lambda e, d: sample[...].set(Through(e, e)), ShapeError),
        (lambda e, d: sample[...].set(Through(keras.layers.Dense(3))), ShapeError),
        (lambda e, d: sample[...].add(Through(e, d, sample[0].set(0.0))), OperandError),
        (lambda e, d: sample[...].set(Through(e, d, sample[9].set(0.0))), PositionError),
        (lambda e, d: sample[...].set(Through(e, d, at[0].set(0.0))), CoordinateError),
        (lambda e, d: sample[...].set(Through(e, d, sample[0].get())), OperandError),
    ],
    ids=["encoder", "decoder", "encoders", "fresh", "added", "position", "rows", "read"],
)
def test_layers_that_do_not_fit(make, error):
    encode, decode, *_ = coder()
    with pytest.raises(error, match="Received"):
        edit_model(plain((WIDTH,)), {"h": make(encode, decode)})


def test_a_functional_model_is_used_but_not_saved(tmp_path):
    inputs = keras.Input((2,))
    doubled = keras.Model(inputs, keras.layers.Rescaling(2.0)(inputs) + 1.0)
    edited = edit_model(plain((2,)), {"h": sample[...].set(Through(doubled))})
    check_close(predict(edited, np.ones((1, 2))), [[3, 3]])
    with pytest.raises(SavingError, match=r"keras\.Sequential.*Received"):
        save_edits(edited, tmp_path / "edits.json")


def test_a_layer_that_is_not_registered_is_used_but_not_saved(tmp_path):
    edited = edit_model(plain((2,)), {"h": sample[...].set(Through(Unregistered()))})
    check_close(predict(edited, np.zeros((1, 2))), [[1, 1]])
    with pytest.raises(SavingError, match=r"Received.*register_keras_serializable"):
        save_edits(edited, tmp_path / "edits.json")
    with pytest.raises(OperandError, match=r"Received.*register_keras_serializable"):
        Through(keras.layers.Dense(2, activation=plus_one))


def keras_data(name, config=None, module="keras.layers", registered=None):
    return {
        "module": module,
        "class_name": name,
        "config": {} if config is None else config,
        "registered_name": registered,
    }


EVIL = {
    "lambda": keras_data("Lambda", {"function": {"class_name": "__lambda__", "config": {}}}),
    "a file": keras_data("StringLookup", {"vocabulary": "/etc/passwd"}),
    "a saved model": keras_data("TFSMLayer", {"filepath": "/tmp/model"}),
    "a pickle": keras_data("TorchModuleWrapper", {"module": "gASV"}),
    "a module": keras_data("system", module="os"),
    "a module of Keras": keras_data("Dense", module="keras.src.layers.core.dense"),
    "a function of Keras": keras_data("get_file", module="keras.utils"),
    "another class of Keras": keras_data("Adam", module="keras.optimizers"),
    "no layer": keras_data("GlorotUniform", module="keras.initializers"),
    "no layer of kedit": keras_data("Edit", registered="kedit>Edit"),
    "not registered": keras_data("Evil", module=None, registered="evil>Evil"),
    "inside": keras_data(
        "Dense", {"units": 3, "kernel_initializer": keras_data("system", "ls", module="os")}
    ),
    "a function": keras_data(
        "Activation",
        {"activation": keras_data("function", "eval", module="builtins", registered="function")},
    ),
    "a lambda inside": keras_data(
        "Activation", {"activation": {"class_name": "__lambda__", "config": {"value": "4wE="}}}
    ),
    "text": keras_data("Dense", "units"),
    "a list": keras_data(["Dense"]),
}


@pytest.mark.parametrize("name", EVIL)
def test_loading_layers_runs_and_imports_nothing(name, tmp_path, monkeypatch):
    edited = edit_model(plain((2,)), {"h": sample[...].set(Through(Shifted()))})
    predict(edited, np.zeros((1, 2)))
    save_edits(edited, tmp_path / "edits.json")
    data = json.loads((tmp_path / "edits.json").read_text())
    config = data["kedit_edits"][0]["edits"][0]["trainables"][0]["config"]
    assert config["layers"][0]["layer"]["registered_name"] == "operands>Shifted"
    config["layers"][0]["layer"] = EVIL[name]
    (tmp_path / "edits.json").write_text(json.dumps(data))

    def imported(*_):
        raise AssertionError

    monkeypatch.setattr(importlib, "import_module", imported)
    with pytest.raises(SavingError, match="Received"):
        load_edits(tmp_path / "edits.json")


# --- The layer's own input -----------------------------------------------------------------------


def blocks(**options):
    """Two layers of one width, with weights that are known."""
    inputs = keras.Input((5, WIDTH))
    h = keras.layers.Dense(WIDTH, name="one", **options)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(WIDTH, name="two", **options)(h))
    rng = np.random.default_rng(4)
    model.set_weights([rng.normal(size=w.shape).astype("float32") for w in model.weights])
    return model


def test_a_layer_is_skipped(tmp_path):
    base = blocks()
    x = RNG.normal(size=(3, 5, WIDTH)).astype("float32")
    (v, c) = base.get_layer("two").get_weights()
    w, b = base.get_layer("one").get_weights()
    h = x @ w + b
    third = np.arange(5)[:, None] == 2
    for edit, expected in (
        (sample[...].set(LayerInput()), x),
        (sample[2].set(LayerInput()), np.where(third, x, h)),
        (sample[..., 1].set(LayerInput()), np.where(np.arange(WIDTH) == 1, x, h)),
        (sample[...].set(X + (LayerInput() - X) * 0.25), 0.75 * h + 0.25 * x),
        (sample[...].subtract(LayerInput()), h - x),
        (sample[...].where(LayerInput() > 0.0).set(7.0), np.where(x > 0, 7, h)),
        (sample[...].multiply(2.0) | sample[2].set(LayerInput()), np.where(third, x, 2 * h)),
    ):
        edited = edit_model(base, {"one": edit})
        for found in (edited(x), predict(edited, x)):
            check_close(found, expected @ v + c, atol=1e-4)
        check_is_value(edit)
    check_saved(edited, x, tmp_path)


def test_what_a_layer_received_is_what_an_edit_left_of_it():
    base = blocks()
    x = RNG.normal(size=(3, 5, WIDTH)).astype("float32")
    edits = [(site("two", "input"), sample[0].set(5.0)), ("two", sample[...].set(LayerInput()))]
    w, b = base.get_layer("one").get_weights()
    h = x @ w + b
    h[:, 0] = 5
    check_close(predict(edit_model(base, edits), x), h, atol=1e-4)


@pytest.mark.gradient
def test_gradients_go_past_a_layer_that_is_skipped():
    base = blocks()
    x, up = RNG.normal(size=(2, 3, 5, WIDTH)).astype("float32")
    w, v = [base.get_layer(name).get_weights()[0] for name in ("one", "two")]
    edit = sample[...].set(X * Trainable(0.5, shape=()) + LayerInput() * 0.25)
    edited = edit_model(base, {"one": edit})
    _, (dx,) = vjp(edited, [x], up)
    check_close(dx, (up @ v.T) @ (0.5 * w + 0.25 * np.eye(WIDTH)).T, atol=1e-4)


class Adding(keras.layers.Layer):
    """A layer of several inputs, one of them by keyword."""

    def call(self, pair, bias=None):
        return pair[0] + 2 * pair[1] + (0 if bias is None else bias)


def test_one_of_several_inputs():
    one, two, three = [keras.Input((WIDTH,)) for _ in range(3)]
    base = keras.Model([one, two, three], Adding(name="sum")([one, two], bias=three))
    given = list(RNG.normal(size=(3, 6, WIDTH)).astype("float32"))
    for leaf, expected in ((0, given[0]), (1, given[1]), ("bias", given[2])):
        edited = edit_model(base, {"sum": sample[...].set(LayerInput(leaf))})
        check_close(predict(edited, given), expected)
        assert repr(LayerInput(leaf)) == f"LayerInput({leaf!r})".replace("(0)", "()")
    for leaf in (2, "other"):
        with pytest.raises(PositionError, match="Received"):
            edit_model(base, {"sum": sample[...].set(LayerInput(leaf))})(given)


def test_a_layer_is_skipped_in_the_model_itself():
    base = blocks()
    x = RNG.normal(size=(3, 5, WIDTH)).astype("float32")
    edited = edit_model(base, {"*": sample[1:3].set(LayerInput())})
    expected = predict(edited, x)
    np.testing.assert_array_equal(expected[:, 1:3], x[:, 1:3])
    with edited.applied():
        check_close(predict(base, x), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_skipped_layer_keeps_its_dtype(dtype):
    base, x = blocks(dtype=f"mixed_{dtype}"), np.ones((2, 5, WIDTH))
    edited = edit_model(base, {"two": sample[...].set(LayerInput())})
    found = edited(x)
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    received = capture(base, "one")(x)["one"]
    check_close(found, to_numpy(ops.cast(received, "float32")))


def test_layers_that_cannot_be_skipped():
    base = sequential()
    for key, edit, error, message in (
        ("dense", sample[...].set(LayerInput()), ShapeError, "the block around it"),
        ("dense", sample[0].set(LayerInput()), ShapeError, "the block around it"),
        (site("dense", "input"), sample[0].set(LayerInput()), OperandError, r"`site\('dense'\)`"),
    ):
        with pytest.raises(error, match=f"Received.*{message}"):
            edit_model(base, {key: edit})
    edited = edit_model(Subclassed(), {"heads.logits": sample[0].set(LayerInput())})
    with pytest.raises(ShapeError, match="the block around it"):
        edited(ROWS)
    for leaf in (None, 1.0, "", True):
        with pytest.raises(OperandError, match="Received"):
            LayerInput(leaf)
    encode, decode, *_ = coder()
    with pytest.raises(OperandError, match="Received"):
        Through(encode, decode, sample[0].set(LayerInput()))
    with pytest.raises(OperandError, match="edit_model"):
        sample[0].set(LayerInput())(ROWS)


# --- Pieces of a sequence ------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 2, 4])
def test_operands_at_positions_in_a_piece_of_a_sequence(start):
    """Positions 4 and 5 are edited in the piece that holds them, and nowhere else."""
    x = RNG.normal(size=(3, 2, WIDTH)).astype("float32")
    edit = (
        sample[4].set(BatchMean())
        | sample[5].set(Rotated(0.0, rank=WIDTH))
        | sample[:, 1].set(0.0)
        | sample[4:6, 2].set(BatchMean())
    )
    layer = SiteEditing(edit)
    layer.build_at((None, None, WIDTH), "float32")
    piece = Piece(ops.convert_to_tensor(start), 2)
    found = to_numpy(layer(ops.convert_to_tensor(x), {}, piece=piece))
    expected = x.copy()
    if start == 4:
        expected[:, 0] = x[:, 0].mean(0)
        expected[:, 1] = 0
    expected[:, :, 1] = 0
    if start == 4:
        expected[:, :, 2] = expected[:, :, 2].mean(0)
    check_close(found, expected)


# --- All of them, from one backend to another ----------------------------------------------------


def every_operand():
    """A model with edits by all of them, none of which holds what it was made with."""
    encode, decode, *_ = coder()
    share = Trainable(0.25, regularizer="l1", name="share")
    heat = Trainable(2.0, trainable=False, name="heat")
    rotated = Rotated(None, 3, np.eye(WIDTH, 3), temperature=5.0, boundary=share)
    soft = X + (OtherRun() - X) * (Trainable("zeros") / heat).sigmoid()
    edits = [
        ("one", sample[0].add(Noise(seed=1)) | sample[0].set(LayerInput())),
        ("one", sample[...].set(Rotated(0.5, initializer=np.eye(WIDTH)[:, :2], trainable=False))),
        ("one", sample[1:].set(rotated)),
        ("one", sample[3].set(soft)),
        ("two", sample[...].set(Through(encode, decode, sample[..., 1].add(Trainable(1.0))))),
        ("two", sample[4].set(Through(Shifted(name="own")))),
    ]
    edited = edit_model(blocks(), edits, train="edits", name="operands")
    rng = np.random.default_rng(8)
    for layer in edited.edit_layers:
        for variable in layer.weights:
            change = rng.normal(size=variable.shape) / 8
            variable.assign(to_numpy(variable) + change.astype("float32"))
    return edited


@pytest.mark.once
@pytest.mark.gradient
def test_example_finds_a_feature(tmp_path, capsys):
    path = pathlib.Path(__file__).parent.parent / "examples" / "sparse_features.py"
    picture = tmp_path / "picture.png"
    found = runpy.run_path(str(path))["main"](["--epochs", "12", "--out", str(picture)])
    assert "of the variance" in capsys.readouterr().out
    digit = found["digit"]
    assert found["after"][digit] < found["before"][digit] - 0.02
    others = np.delete(found["before"] - found["after"], digit)
    assert abs(others).max() < found["before"][digit] - found["after"][digit]
    assert found["read"][-1] > found["read"][0] + 0.2
    assert picture.stat().st_size > 10_000
    assert path.with_suffix(".png").exists()


@pytest.mark.brief
@pytest.mark.gradient
def test_example_briefly(tmp_path):
    path = pathlib.Path(__file__).parent.parent / "examples" / "sparse_features.py"
    picture = tmp_path / "picture.png"
    found = runpy.run_path(str(path))["main"](["--epochs", "2", "--out", str(picture)])
    assert found["read"][-1] > found["read"][0]
    assert picture.stat().st_size > 10_000


def one_of_each():
    encode, decode, *_ = coder()
    return {
        "noise": sample[1].add(Noise(seed=0)),
        "rotated": sample[...].set(Rotated(0.5, 2, np.eye(WIDTH, 2), temperature=2.0)),
        "through": sample[...].set(Through(encode, decode, sample[1].add(Trainable(1.0)))),
    }


@pytest.mark.usefixtures("without_building")
@pytest.mark.parametrize("name", ["noise", "rotated", "through"])
def test_compiled_by_the_compiler_of_the_backend(name):
    """`jit_compile=True`: what is predicted without it, with numbers drawn anew."""
    edit = one_of_each()[name] | sample[0].set(LayerInput() * 2.0)
    x = np.random.default_rng(9).normal(size=(3, WIDTH)).astype("float32")
    found = []
    for jit_compile in (False, True):
        edited = edit_model(plain((WIDTH,)), {"h": edit})
        edited.compile("sgd", "mse", jit_compile=jit_compile)
        first, second = [edited.predict_on_batch(x) for _ in range(2)]
        assert np.allclose(first, second) == (name != "noise")
        # TensorFlow draws other numbers if XLA compiles it.
        found.append(np.delete(first, 1, axis=1) if name == "noise" else first)
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.once
@pytest.mark.gradient
def test_trained_by_the_compiler_of_the_backend():
    x, y = np.random.default_rng(9).normal(size=(2, 3, WIDTH)).astype("float32")
    losses = []
    for jit_compile in (False, True):
        edit = functools.reduce(operator.or_, one_of_each().values())
        edited = edit_model(plain((WIDTH,)), {"h": edit}, train="edits")
        edited.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=jit_compile)
        losses.append([float(edited.train_on_batch(x, y)) for _ in range(3)])
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_models_of_every_backend(tmp_path):
    edited = every_operand()
    rng = np.random.default_rng(9)
    x, other = rng.normal(size=(2, 3, 5, WIDTH)).astype("float32")
    given = {"inputs": x, "other": other}
    expected = predict(edited, given)
    for path in model_files("operands", tmp_path, edited):
        loaded = keras.saving.load_model(path)
        check_close(predict(loaded, given), expected, atol=1e-4)
        assert len(loaded.trainable_variables) == len(edited.trainable_variables)
