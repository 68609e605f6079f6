"""Run functions compiled, and differentiate them, by what Keras has on every backend: a model."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from kedit._run import ops

Function = Callable[..., Any]
_NOTHING = np.zeros((1, 1), "float32")


class Given(NamedTuple):
    """An argument: an array, and the dtype of the tensor to make of it if it is another."""

    array: Any
    dtype: str | None = None

    def tensor(self) -> Any:
        """Return a new tensor, which shares no memory with the array."""
        made = ops.convert_to_tensor(np.array(self.array))
        return made if self.dtype is None else ops.cast(made, self.dtype)


class Recorder(keras.optimizers.Optimizer):
    """Puts the gradient of each weight in its place."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        gradient = ops.convert_to_tensor(gradient)  # on TensorFlow it may be sparse
        self.assign(variable, ops.cast(gradient, variable.dtype))


class Caller(keras.Model):
    """Calls functions with its weights as arguments; the loss is `sum(upstream * output)`."""

    def __init__(
        self,
        functions: Sequence[Function],
        arguments: Sequence[Sequence[Given]],
        upstreams: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(name="caller", autocast=False)
        self.functions, self.upstreams = functions, upstreams
        self.held = [[self._hold(x.tensor()) for x in given] for given in arguments]
        self.built = True

    def _hold(self, x: Any) -> Any:
        dtype = keras.backend.standardize_dtype(x.dtype)
        held = self.add_weight(
            shape=tuple(x.shape),
            initializer="zeros",
            dtype=dtype,
            trainable=self.upstreams is not None and "float" in dtype,
            autocast=False,
        )
        held.assign(x)
        return held

    def call(self, inputs: Any) -> Any:
        given = [[ops.convert_to_tensor(x) for x in held] for held in self.held]
        outputs = [f(*xs) for f, xs in zip(self.functions, given, strict=True)]
        if self.upstreams is None:
            return outputs
        # Every argument counts, by nothing, so that one that a function drops has a gradient, of 0.
        total = sum([_nothing(x) for held in self.held for x in held if x.trainable])
        for y, upstream in zip(outputs, self.upstreams, strict=True):
            total = total + ops.sum(
                ops.multiply(ops.convert_to_tensor(y), ops.convert_to_tensor(upstream))
            )
        return total

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return what `call` has returned."""
        return y_pred


def _nothing(held: Any) -> Any:
    x = ops.convert_to_tensor(held)
    return ops.sum(ops.where(ops.zeros(tuple(x.shape), "bool"), x, ops.zeros_like(x)))


def run_compiled(functions: Sequence[Function], arguments: Sequence[Sequence[Given]]) -> list[Any]:
    """Return what functions return, in one function that the backend compiles, as NumPy arrays."""
    forget_compiled()
    model = Caller(functions, arguments)
    model.compile(jit_compile=True)
    found: list[Any] = model.predict_on_batch(_NOTHING)
    return found


def gradients(
    functions: Sequence[Function],
    arguments: Sequence[Sequence[Given]],
    upstreams: Sequence[Any],
    compiled: bool,
) -> list[list[Any]]:
    """Return the gradients of `sum(upstream * function(*arguments))` for floats in `arguments`."""
    if compiled:
        forget_compiled()
    model = Caller(functions, arguments, upstreams)
    model.compile(Recorder(1.0), jit_compile=compiled, run_eagerly=not compiled)
    model.train_on_batch(_NOTHING)
    return [[ops.convert_to_numpy(x) for x in held if x.trainable] for held in model.held]


def differentiates() -> bool:
    """Whether the backend trains models; one that does not has no compiler either."""
    try:
        gradients([lambda x: x], [[Given(np.ones(1, "float32"))]], [_NOTHING[0]], compiled=False)
    except NotImplementedError:
        return False
    return True


def forget_compiled() -> None:
    """Drop what was compiled: PyTorch runs a function uncompiled after eight versions."""
    policy = keras.config.dtype_policy()
    keras.utils.clear_session(free_memory=False)
    if keras.config.dtype_policy() != policy:
        keras.config.set_dtype_policy(policy)
