"""Check the contract of a Keras layer, from its first call to a trained and saved model.

Keras's own test of this kind is private. Each check raises an `AssertionError` that says which
part of the contract is broken.
"""

import json
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kedit._run import ops
from kedit.testing._report import check_assertions_run

Factory = Callable[..., keras.layers.Layer]


def check_layer(
    factory: Factory,
    x: Any,
    expected: Any = None,
    *,
    unknown_axes: bool = True,
    masks: bool = True,
    dtypes: Sequence[str] = ("float32", "float16", "bfloat16"),
    jit_compile: Sequence[bool | str] = (False, True),
    directory: Any = None,
    rtol: float | None = None,
) -> None:
    """Check that a layer with one input keeps the contract of Keras layers.

    The layer must build and run with batches of any size, and its config must survive
    JSON. The inferred shapes and dtypes must match the outputs, also with axes of
    unknown size. It must compute in every dtype, pure and mixed, and pass the Keras mask
    on. A model that holds it is saved without code, loaded, and trained for one epoch,
    compiled and not; every trainable weight must change. The layer must never change
    its input.

    Args:
        factory: Function that makes the layer. It takes base layer keyword arguments,
            such as `name` and `dtype`.
        x: NumPy array, a batch of at least two samples, with small numbers that all
            the dtypes can hold.
        expected: Output of the layer for `x` in inference. Defaults to None: the
            output of its first call, which all later calls must match.
        unknown_axes: Whether the layer works with axes of unknown size. Defaults to
            True.
        masks: Whether the layer passes the Keras mask on. Defaults to True.
        dtypes: Dtypes to compute in. Defaults to float32, float16 and bfloat16. You
            can add float64 on TensorFlow and PyTorch; on JAX it is float32.
        jit_compile: Values of `jit_compile`; a model is trained with each. Defaults to
            `(False, True)`. For a backend that does not train, use `()`.
        directory: Directory for the saved models. If you run several backends with
            the same directory, each loads the models that the others saved. Defaults
            to None: a temporary directory.
        rtol: Relative and absolute tolerance. Defaults to None: 1e-5, but 2e-3 in
            float16 and 2e-2 in bfloat16.

    Raises:
        AssertionError: If the layer breaks the contract; the message says where.

    Example:
    >>> x = np.array([[-1.0, 2.0], [3.0, -4.0]], "float32")
    >>> kedit.testing.check_layer(keras.layers.ReLU, x, np.maximum(x, 0.0), jit_compile=())
    """
    check_assertions_run()
    layer = factory(name="checked")
    assert layer.name == "checked", "`name` is not handed to the base class"
    first = _called(layer, x)
    expected = first if expected is None else np.asarray(expected)
    check = _Checks(factory, x, expected, layer.get_weights(), rtol)
    check.close(first, "the first call")
    check.batches(layer)
    check.config(layer)
    check.symbolic(x.shape[1:])
    if unknown_axes:
        check.symbolic((None,) * (x.ndim - 1))
    for dtype in dtypes:
        check.dtype(dtype, dtype)
        if dtype in ("float16", "bfloat16"):
            check.dtype(f"mixed_{dtype}", dtype)
    if masks:
        check.mask()
    with tempfile.TemporaryDirectory() as temporary:
        check.saved(Path(temporary if directory is None else directory))
    for jit in jit_compile:
        check.fits(jit)


class _Checks:
    """The parts of the contract, for one layer."""

    def __init__(
        self, factory: Factory, x: Any, expected: Any, weights: Any, rtol: float | None
    ) -> None:
        self.factory, self.x, self.expected, self.weights = factory, x, expected, weights
        self.rtol = rtol

    def layer(self, **kwargs: Any) -> keras.layers.Layer:
        """Return a new layer with the weights of the first."""
        layer = self.factory(**kwargs)
        layer.build((None, *self.x.shape[1:]))
        layer.set_weights(self.weights)
        return layer

    def close(self, found: Any, what: str, dtype: str = "float32") -> None:
        by_dtype = {"float16": 2e-3, "bfloat16": 2e-2}.get(dtype, 1e-5)
        tolerance = by_dtype if self.rtol is None else self.rtol
        message = f"{what} does not give what is expected"
        np.testing.assert_allclose(found, self.expected, tolerance, tolerance, err_msg=message)

    def batches(self, layer: keras.layers.Layer) -> None:
        for count in (1, 2 * len(self.x)):
            batch = np.resize(self.x, (count, *self.x.shape[1:]))
            shape = _called(layer, batch).shape
            assert shape == (count, *self.expected.shape[1:]), f"{count} samples give {shape}"

    def config(self, layer: keras.layers.Layer) -> None:
        again = check_roundtrip(layer)
        if not again.built:
            again.build((None, *self.x.shape[1:]))
        again.set_weights(self.weights)
        self.close(_called(again, self.x), "the layer made of its config")

    def symbolic(self, shape: Any) -> None:
        layer, inputs = self.factory(), keras.Input(shape)
        outputs = layer(inputs)
        # Weights may have other shapes if sizes are unknown.
        same = [w.shape for w in layer.weights] == [np.shape(weight) for weight in self.weights]
        if same:
            layer.set_weights(self.weights)
        real = _called(layer, self.x)
        for claimed in (outputs.shape, layer.compute_output_shape((None, *shape))):
            fits = len(claimed) == real.ndim and all(
                [size in (None, found) for size, found in zip(claimed, real.shape, strict=True)]
            )
            assert fits, f"shape {tuple(claimed)} was inferred, {real.shape} came out"
        assert _dtype(outputs) == "float32", f"dtype {_dtype(outputs)!r} was inferred"
        found = keras.Model(inputs, outputs).predict(self.x, verbose=0)
        if same:
            self.close(found, f"a model of shape {shape}")

    def dtype(self, policy: str, dtype: str) -> None:
        layer = self.layer(dtype=policy)
        outputs = layer(ops.convert_to_tensor(self.x))  # Keras casts it
        for given in (outputs, layer(keras.Input(self.x.shape[1:]))):
            assert _dtype(given) == layer.compute_dtype == dtype, (
                f"with dtype policy {policy!r} the output is {_dtype(given)!r}"
            )
        self.close(_numpy(outputs), f"dtype policy {policy!r}", dtype)

    def mask(self) -> None:
        layer = self.layer()
        mask = ops.convert_to_tensor(np.arange(len(self.x)) > 0)
        assert layer.supports_masking, "`supports_masking` is not set: the mask is lost"
        passed = layer.compute_mask(ops.convert_to_tensor(self.x), mask)
        assert passed is mask, "`compute_mask` does not hand the mask on"

    def saved(self, directory: Path) -> None:
        inputs = keras.Input(self.x.shape[1:])
        model = keras.Model(inputs, self.layer()(inputs))
        path = directory / f"{keras.backend.backend()}.keras"
        model.save(path)
        np.save(path.with_suffix(".npy"), _numpy(model(self.x)))
        for file in sorted(directory.glob("*.keras")):
            check_holds_no_code(file)
            found = keras.saving.load_model(file).predict(self.x, verbose=0)
            saved = np.load(file.with_suffix(".npy"))
            message = f"the model in {file.name} predicts otherwise than before it was saved"
            np.testing.assert_allclose(found, saved, 1e-5, 1e-5, err_msg=message)

    def fits(self, jit_compile: bool | str) -> None:
        inputs, layer = keras.Input(self.x.shape[1:]), self.layer()
        dense = keras.layers.Dense(self.x.shape[-1])
        outputs = keras.layers.Dense(1)(keras.layers.Flatten()(layer(dense(inputs))))
        model = keras.Model(inputs, outputs)
        model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=jit_compile)
        weights = [dense.kernel, *layer.trainable_weights]
        before = [np.array(_numpy(weight)) for weight in weights]
        y = np.ones((len(self.x), 1), "float32")
        history = model.fit(self.x, y, epochs=1, verbose=0).history
        assert np.isfinite(history["loss"]).all(), f"jit_compile={jit_compile}: no finite loss"
        for weight, old in zip(weights, before, strict=True):
            now = _numpy(weight)
            assert np.isfinite(now).all(), f"jit_compile={jit_compile}: {weight.path} is {now}"
            assert (now != old).any(), f"jit_compile={jit_compile}: {weight.path} does not learn"


def check_roundtrip(thing: Any) -> Any:
    """Save an object as JSON and load it, directly and through Keras; return what was loaded."""
    text = _json(thing.get_config())
    again = type(thing).from_config(json.loads(text))
    assert type(again) is type(thing), f"`from_config` gives a {type(again).__name__}"
    assert _json(again.get_config()) == text, "the config is not that of the object made of it"
    by_keras = _json(keras.saving.serialize_keras_object(thing))
    loaded = keras.saving.deserialize_keras_object(json.loads(by_keras))
    assert type(loaded) is type(thing), f"Keras makes a {type(loaded).__name__} of the config"
    assert _json(loaded.get_config()) == text, "Keras changes the config"
    return loaded


def _json(data: Any) -> str:
    return json.dumps(data, allow_nan=False)


def check_holds_no_code(path: Any) -> None:
    """Check that a `.keras` file holds data and no code."""
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json").decode()
    json.loads(config)
    for trace in ("__lambda__", "lambda", "pickle", "base64", "!python"):
        assert trace not in config, f"{trace!r} stands in the config of {path}"


def _called(layer: keras.layers.Layer, x: Any) -> Any:
    given = x.copy()
    tensor = ops.convert_to_tensor(x)
    outputs = _numpy(layer(tensor))
    np.testing.assert_array_equal(_numpy(tensor), given, "the layer changed its input")
    np.testing.assert_array_equal(x, given, "the layer changed its input")
    return outputs


def _numpy(x: Any) -> Any:
    """Return a tensor as a float32 array; not every backend converts every dtype to NumPy."""
    return ops.convert_to_numpy(ops.cast(ops.convert_to_tensor(x), "float32"))


def _dtype(x: Any) -> str:
    return str(keras.backend.standardize_dtype(x.dtype))
