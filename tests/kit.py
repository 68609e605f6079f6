"""Checks of whole objects: a layer, a loss, a saved model.

Each check raises an `AssertionError` that says which part of the contract broke.
"""

import json
import os
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import oracle
import pytest
from _backend import FLOATS, TRAINING, sees_devices, to_numpy
from keras import ops

import kedit
from kedit import Trainable, X, at, each, sample
from kedit.testing._layer import check_holds_no_code, check_roundtrip


def dtype_of(x):
    return keras.backend.standardize_dtype(x.dtype)


def check_close(found, expected, rtol=1e-5, atol=1e-5):
    """Compare in float32, in which every backend can hand out its floats."""
    found = to_numpy(ops.cast(ops.convert_to_tensor(found), "float32"))
    np.testing.assert_allclose(found, np.asarray(expected, "float32"), rtol=rtol, atol=atol)


def check_array(found, expected):
    """Compare numbers, up to rounding, and the dtype."""
    np.testing.assert_allclose(to_numpy(found), expected, rtol=2e-5, atol=2e-6)
    assert to_numpy(found).dtype == expected.dtype


def in_full_once(cases, everywhere):
    """Parameters of a long test: those of `everywhere` on every backend, the others on one."""
    once = pytest.mark.once
    rows = [(case, case if isinstance(case, tuple) else (case,)) for case in cases]
    return [pytest.param(*row, marks=() if case in everywhere else once) for case, row in rows]


# --- All operations, as the oracle has them ----------------------------------------------------


def updated(op, place, x, values, **options):
    """The edit of `place` by name, applied to `x`."""
    given = oracle.cube if op == "apply" else values
    return getattr(place, op)(given, **options)(x)


def let_some_tie(x, values, places):
    """The element with its value, and values with each other."""
    if values.size > 1:
        values.ravel()[:] = np.where(np.arange(values.size) % 2, values.ravel(), 1.25)
        x.ravel()[max(places.ravel()[0], 0)] = 1.25


def check_updates(results, gradients, x, values, places, upstream):
    """Check what each operation gave, and its gradients: first those of `x`, then of `values`."""
    count = len(oracle.UPDATES)
    for n, op in enumerate(oracle.UPDATES):
        check_array(results[n], oracle.update(op, x, places, values))
        dx, dv = oracle.update_vjp(op, x, places, values, upstream[n])
        for what, found, expected in (("x", gradients[n], dx), ("v", gradients[count + n], dv)):
            np.testing.assert_allclose(
                found, expected, rtol=1e-4, atol=1e-5, err_msg=f"{op}: gradient of {what}"
            )


# --- Objects of Keras --------------------------------------------------------------------------


def saved_and_loaded(model, path):
    """The model after a way through a `.keras` file, which must not hold code."""
    model.save(path)
    check_holds_no_code(path)
    return keras.saving.load_model(path)


def check_layer(factory, x, expected, path, *, jit_compile=TRAINING):
    """`kedit.testing.check_layer`, exact in every dtype, as the numbers of these tests are.

    If `path` names the layer, models of several backends meet in a directory of that name.
    """
    shared = os.environ.get("KEDIT_MODELS") if path.stem != "model" else None
    directory = (path.parent if shared is None else pathlib.Path(shared) / "layers") / path.stem
    directory.mkdir(exist_ok=True, parents=True)
    kedit.testing.check_layer(
        factory,
        x,
        expected,
        dtypes=FLOATS,
        jit_compile=jit_compile,
        directory=directory,
        rtol=1e-5,
    )


def check_loss(loss, y_true, y_pred, expected, sample_weight=None):
    """Check what a loss gives, before and after a way through JSON, and that it changes nothing.

    `expected` is what NumPy makes of `y_true` and `y_pred`.
    """
    given = y_true.copy(), y_pred.copy()
    for one in (loss, check_roundtrip(loss)):
        for convert in (np.asarray, ops.convert_to_tensor):
            found = one(convert(y_true), convert(y_pred), sample_weight)
            assert dtype_of(found) == loss.dtype
            check_close(found, expected)
            assert tuple(found.shape) == np.shape(expected)
    np.testing.assert_array_equal(y_true, given[0])
    np.testing.assert_array_equal(y_pred, given[1])


# --- One model that every backend builds, and what NumPy says that it predicts -----------------

_rng = np.random.default_rng(3)
REFERENCE_INPUT = _rng.normal(size=(5, 6)).astype("float32")
_KERNEL = _rng.normal(size=(6, 4)).astype("float32")
_BIAS = _rng.normal(size=4).astype("float32")


def reference_model():
    """A model with fixed weights that edits by layers and by nodes of every kind."""
    inputs = keras.Input((6,))
    dense = keras.layers.Dense(4)
    h = dense(at(inputs)[:, [0, -1]].multiply(np.array([2.0, 0.5])))
    h = kedit.layers.Editing(sample[1].set(2.0) | at[..., 2].add(X * X), name="editing")(h)
    h = kedit.layers.ConditionalModifier(0.5, 3.0, name="modifier")(h)
    h = at(h).where(X < 0.0).set(1 - X)
    h = sample(h)[::2].subtract(at(inputs)[:, :2].get())
    h = at(h).where(h > 4.0).min(at(inputs)[:, :1].get() + 4.0)
    dense.set_weights([_KERNEL, _BIAS])
    return keras.Model(inputs, at(h)[..., ::-1].get())


def reference_prediction():
    """What the reference model predicts for `REFERENCE_INPUT`, in NumPy."""
    x = REFERENCE_INPUT
    h = (x * [2, 1, 1, 1, 1, 0.5]) @ _KERNEL + _BIAS
    h[:, 1] = 2
    h[:, 2] += h[:, 2] ** 2
    h = np.where(h > 0.5, 3 * h, h)
    h = np.where(h < 0, 1 - h, h)
    h[:, ::2] -= x[:, :2]
    h = np.where(h > 4, np.minimum(h, x[:, :1] + 4), h)
    return h[:, ::-1]


# --- And one with positions and a mask among its inputs, that can be trained -------------------

INDEXED_INPUT = [
    _rng.normal(size=(32, 4, 3)).astype("float32"),
    _rng.integers(-5, 6, 32).astype("int32"),
    _rng.integers(-9, 9, (32, 2)).astype("int32"),
    _rng.random((32, 4)) < 0.3,
]


def indexed_model():
    """A model of one kernel that edits at positions which are inputs."""
    x, one = keras.Input((4, 3)), keras.Input((), dtype="int32")
    two, mask = keras.Input((2,), dtype="int32"), keras.Input((4,), dtype="bool")
    h = keras.layers.Dense(3, use_bias=False)(x)
    h = sample(h)[each(one)].multiply(2.0)
    h = sample(h)[each(two), -1].add(at(x)[:, :2, 0].get(), mode="clip")
    h = at(h)[mask].set(0.5)
    h = at(h)[:, [0, 5]].max(-1.0, mode="wrap")
    read = sample(h)[each(one)].get(mode="fill", fill_value=-1.0)
    return keras.Model([x, one, two, mask], ops.concatenate([h, read[:, None]], axis=1))


def indexed_prediction(kernel):
    """What it predicts for `INDEXED_INPUT` with a kernel, in NumPy."""
    x, one, two, mask = INDEXED_INPUT
    h, rows, inside = x @ kernel, np.arange(len(x)), (one >= -4) & (one < 4)
    h[rows[inside], one[inside]] *= 2
    clipped = np.clip(np.where(two < 0, two + 4, two), 0, 3)
    np.add.at(h, (rows[:, None], clipped, -1), x[:, :2, 0])
    h[mask] = 0.5
    h[:, :2] = np.maximum(h[:, :2], -1)
    read = np.where(inside[:, None], h[rows, one % 4], -1)
    return np.concatenate([h, read[:, None]], axis=1)


# --- And one that has learned, whose weights are held --------------------------------------------

LEARNED_WEIGHTS = {
    "steering": [np.array([0.5, -1.0, 2.0, 0.25], "float32")],
    "gate": [np.array(3.0, "float32"), np.array([0.5, 0.25, 1.0], "float32")],
    "switched": [np.array(False)],
    "kernel": _rng.normal(size=(3, 2)).astype("float32"),
}
LEARNED_INPUT = _rng.normal(size=(5, 4, 3)).astype("float32")


def learned_model():
    """A model with a `Trainable` of every kind, a switch, and a weight with held elements."""
    inputs = keras.Input((4, 3))
    steering = kedit.layers.Editing(sample[..., 2].add(Trainable("zeros")), name="steering")
    gate = kedit.layers.ConditionalModifier(
        Trainable("ones", shape=(3,)),
        Trainable(1.0, constraint="non_neg"),
        comparison="abs>",
        gradient="sigmoid",
        temperature=0.5,
        name="gate",
    )
    off = kedit.layers.Editing(sample[0].set(9.0), when="inference", switch=True, name="switched")
    held = kedit.interventions.freeze_elements(
        keras.layers.Dense(2, use_bias=False, name="dense"), "kernel", np.eye(3, 2) > 0, 0.5
    )
    model = keras.Model(inputs, held(off(gate(steering(inputs)))))
    for layer in (steering, gate, off):
        layer.set_weights(LEARNED_WEIGHTS[layer.name])
    held.base.set_weights([LEARNED_WEIGHTS["kernel"]])
    return model


def learned_prediction():
    """What it predicts for `LEARNED_INPUT`, in NumPy."""
    h = LEARNED_INPUT.copy()
    h[..., 2] += LEARNED_WEIGHTS["steering"][0]
    factor, thresholds = LEARNED_WEIGHTS["gate"]
    h = np.where(abs(h) > thresholds, factor * h, h)
    return h @ np.where(np.eye(3, 2) > 0, 0.5, LEARNED_WEIGHTS["kernel"])


def model_files(name, tmp_path, model=None, suffix=".keras"):
    """The files of a model that every backend once wrote, and those of this run.

    `KEDIT_MODELS` names a directory that several backends write to, one after the other. There
    `model` is saved, or its weights alone as the suffix says, if it is given, whole from one
    moment to the next. Models that a newer Keras wrote are left out, which Keras does not read.
    """
    directory = pathlib.Path(os.environ.get("KEDIT_MODELS", tmp_path)) / name
    file, part = f"{keras.backend.backend()}{suffix}", directory / "part"
    part.mkdir(exist_ok=True, parents=True)
    if model is not None:
        (model.save if suffix == ".keras" else model.save_weights)(part / file)
        os.replace(part / file, directory / file)
    kept = sorted((pathlib.Path(__file__).parent / "models" / name).glob(f"*{suffix}"))
    assert len(kept) == 3
    files = [*kept, *sorted(directory.glob(f"*{suffix}"))]
    return [path for path in files if suffix != ".keras" or keras_of(path) <= RELEASE]


def keras_of(path):
    """The release of Keras that wrote a model."""
    with zipfile.ZipFile(path) as archive:
        return release(json.loads(archive.read("metadata.json"))["keras_version"])


def release(version):
    return tuple(map(int, version.split(".")[:2]))


RELEASE = release(keras.__version__)


def on_devices(module, name, count):
    """What a function of a test module returns, as data, in a process that has so many devices."""
    code = f"import json, {module} as t; print('FOUND' + json.dumps(t.{name}({count})))"
    path = os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path])
    environment = {**os.environ, **sees_devices(count), "PYTHONPATH": path}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.rpartition("FOUND")[2])
