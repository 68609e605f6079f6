"""The layer kit finds what it is for: each of these layers breaks one part of the contract."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from kedit.testing import check_layer

X = np.array([[1, -2, 3], [-0.5, 4, 0]], "float32")
# The NumPy backend multiplies in bfloat16 what comes out as float32.
OPTIONS = {"dtypes": ("float32", "float16"), "jit_compile": ()}


@keras.saving.register_keras_serializable("checked")
class Scale(keras.layers.Layer):
    """Doubles its input, as a layer should."""

    def __init__(self, factor=2.0, **options):
        super().__init__(**options)
        self.factor = factor
        self.supports_masking = True

    def build(self, shape):
        self.gain = self.add_weight(name="gain", shape=(1,), initializer="ones")

    def call(self, inputs):
        return inputs * self.gain * self.factor

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable("checked")
class ForgetsName(Scale):
    def __init__(self, factor=2.0, name=None, **options):
        super().__init__(factor, **options)


@keras.saving.register_keras_serializable("checked")
class ForgetsArgument(Scale):
    def get_config(self):
        config = super().get_config()
        del config["factor"]
        return config


@keras.saving.register_keras_serializable("checked")
class KeepsArray(Scale):
    def get_config(self):
        return {**super().get_config(), "factor": np.float32(self.factor)}


@keras.saving.register_keras_serializable("checked")
class DropsMask(Scale):
    def __init__(self, **options):
        super().__init__(**options)
        self.supports_masking = False


@keras.saving.register_keras_serializable("checked")
class WrongShape(Scale):
    def compute_output_shape(self, shape):
        return (*shape[:-1], 1)


@keras.saving.register_keras_serializable("checked")
class Widens(Scale):
    def call(self, inputs):
        return ops.cast(super().call(inputs), "float32")


@keras.saving.register_keras_serializable("checked")
class RemembersBatch(Scale):
    def call(self, inputs):
        if not hasattr(self, "rows"):
            self.rows = inputs.shape[0]
        return super().call(inputs)[: self.rows]


@keras.saving.register_keras_serializable("checked")
class NeedsSizes(Scale):
    def build(self, shape):
        super().build(shape)
        self.wide = self.add_weight(name="wide", shape=shape[1:], initializer="ones")


@keras.saving.register_keras_serializable("checked")
class NeverLearns(Scale):
    def call(self, inputs):
        return ops.where(inputs > self.gain + 0.0, inputs, 0.0) + 0.0 * inputs


def test_a_layer_that_keeps_the_contract_passes():
    check_layer(Scale, X, 2 * X, **OPTIONS)
    check_layer(lambda **options: Scale(3.0, **options), X, **OPTIONS)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (ForgetsName, "name"),
        (ForgetsArgument, "config|Keras"),
        (KeepsArray, "JSON serializable"),
        (DropsMask, "supports_masking"),
        (WrongShape, "shape"),
        (Widens, "float16"),
        (RemembersBatch, "samples"),
        (NeedsSizes, "None"),
    ],
)
def test_a_layer_that_breaks_it_is_found(layer, message):
    factory = (lambda **options: layer(3.0, **options)) if layer is ForgetsArgument else layer
    with pytest.raises((AssertionError, TypeError, ValueError), match=message):
        check_layer(factory, X, **OPTIONS)


def test_wrong_values_are_found():
    with pytest.raises(AssertionError, match="first call"):
        check_layer(Scale, X, 3 * X, **OPTIONS)


@pytest.mark.gradient
def test_a_weight_that_does_not_learn_is_found():
    check_layer(Scale, X, 2 * X, jit_compile=(False,))
    with pytest.raises((AssertionError, UserWarning, ValueError), match=r"learn|[Gg]radient"):
        check_layer(NeverLearns, X, jit_compile=(False,))


def test_options_leave_parts_out_and_other_backends_files_are_loaded(tmp_path):
    check_layer(NeedsSizes, X, 2 * X, unknown_axes=False, **OPTIONS)
    check_layer(DropsMask, X, 2 * X, masks=False, **OPTIONS)
    inputs = keras.Input((3,))
    keras.Model(inputs, Scale()(inputs)).save(tmp_path / "another.keras")
    np.save(tmp_path / "another.npy", 2 * X)
    check_layer(Scale, X, 2 * X, **OPTIONS, directory=tmp_path)
    np.save(tmp_path / "another.npy", 5 * X)
    with pytest.raises(AssertionError, match="another"):
        check_layer(Scale, X, 2 * X, **OPTIONS, directory=tmp_path)


@pytest.mark.once
@pytest.mark.parametrize(
    "call",
    [
        "check_layer(keras.layers.ReLU, np.ones((2, 3)), np.zeros((2, 3)), jit_compile=())",
        "check_edit_function(lambda x, index, value: x, compile=False)",
    ],
    ids=["layer", "edit_function"],
)
def test_without_assertions_nothing_passes(call):
    code = f"import keras, numpy as np; from kedit.testing import *; {call}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-O", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "OperandError: Checks should be run by a Python that runs assertions." in run.stderr
