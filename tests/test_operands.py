"""Operands that draw, that are learned, that run layers, and that skip one."""

import pickle

import keras
import numpy as np
import pytest
from _backend import to_numpy, vjp
from keras import ops
from kit import check_close, check_roundtrip, saved_and_loaded
from networks import ROWS, Subclassed, sequential

from kedit import Trainable, X, sample
from kedit.errors import DTypeError, OperandError
from kedit.interventions import (
    Noise,
    capture,
    edit_model,
    load_edits,
    save_edits,
)

RNG = np.random.default_rng(7)


def predict(model, x, **options):
    return model.predict(x, verbose=0, **options)


def rescaled(shape, dtype="float32", name="h"):
    """A model that returns what it is given, with a site in between."""
    layers = [keras.Input(shape), keras.layers.Rescaling(1.0, name=name, dtype=dtype)]
    return keras.Sequential(layers)


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
    edited = edit_model(rescaled((2000,)), {"h": sample[:1000].add(Noise(0.5, seed=1))})
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
        edited = edit_model(rescaled((4,)), {"h": sample[...].add(Noise(seed=seed))})
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
        edited = edit_model(rescaled((4,)), {"h": edit})
        found = to_numpy(edited(x))
        alone = to_numpy(edit_model(rescaled((4,)), {"h": sample[...].add(one)})(x))
        check_close(found[:, 0], alone[:, 0])
        assert np.allclose(found[:, 1], alone[:, 1]) == is_same


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_noise_takes_the_dtype_of_the_activation(dtype):
    edited = edit_model(rescaled((400,), dtype), {"h": sample[...].add(X * Noise(0.25, seed=0))})
    found = edited(np.ones((5, 400)))
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    drawn = to_numpy(ops.cast(found, "float32")) - 1
    assert abs(drawn.std() - 0.25) < 0.02


@pytest.mark.gradient
def test_no_gradient_flows_to_noise():
    edited = edit_model(
        rescaled((4,)), {"h": sample[0].add(Noise(seed=0)) | sample[1].set(Noise())}
    )
    up = RNG.normal(size=(3, 4)).astype("float32")
    _, (dx,) = vjp(edited, [np.ones((3, 4), "float32")], up)
    check_close(dx, up * [1, 0, 1, 1])


@pytest.mark.gradient
def test_a_vector_is_learned_under_noise():
    """It finds the shift that the targets have, and the draws go on with every batch."""
    edit = sample[...].add(Trainable("zeros")) | sample[...].add(Noise(0.1, seed=5))
    edited = edit_model(rescaled((3,)), {"h": edit}, train="edits")
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
    base, x = rescaled((4,)), np.zeros((3, 4), "float32")
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


def test_noise_is_a_value():
    one = Noise(0.5)
    check_is_value(
        sample[3].add(Noise()),
        sample[3].add(Noise(2)),
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
