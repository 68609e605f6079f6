"""The one file of the project that names backends: compiling and differentiating on each."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()


def tensors(arrays: Sequence[Any]) -> list[Any]:
    return [ops.convert_to_tensor(array) for array in arrays]


def compiled(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` compiled by the backend's compiler; on NumPy, which has none, `fn`."""
    if BACKEND == "jax":
        import jax

        return jax.jit(fn)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(fn, jit_compile=True)
    if BACKEND == "torch":
        import torch

        torch.compiler.reset()
        return torch.compile(fn, backend="aot_eager", fullgraph=True)
    return fn


def vjp(
    fn: Callable[..., Any], primals: Sequence[Any], upstream: Any, *, compile: bool = False
) -> tuple[Any, list[Any]]:
    """Value of `fn` and the gradient of `sum(upstream * fn(*primals))`, as NumPy arrays."""
    wrap = compiled if compile else (lambda function: function)
    given, pulled = tensors(primals), ops.convert_to_tensor(upstream)
    if BACKEND == "jax":
        import jax

        def value_and_gradients(given: Any, pulled: Any) -> Any:
            value, pull = jax.vjp(fn, *given)
            return value, pull(pulled)

        value, gradients = wrap(value_and_gradients)(given, pulled)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        def value_and_gradients(given: Any, pulled: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(given)
                value = fn(*given)
            unconnected = tf.UnconnectedGradients.ZERO
            return value, tape.gradient(value, given, pulled, unconnected_gradients=unconnected)

        value, gradients = wrap(value_and_gradients)(given, pulled)
    elif BACKEND == "torch":
        import torch

        leaves = [tensor.detach().clone().requires_grad_() for tensor in given]
        value = wrap(fn)(*leaves)
        gradients = torch.autograd.grad(
            value, leaves, pulled, allow_unused=True, materialize_grads=True
        )
    else:
        raise RuntimeError(f"The {BACKEND} backend does not differentiate.")
    # A gradient may be sparse on TensorFlow; as a tensor it is dense everywhere.
    dense = [ops.convert_to_tensor(gradient) for gradient in gradients]
    return to_numpy(value), [to_numpy(gradient) for gradient in dense]


def to_numpy(value: Any) -> Any:
    return np.asarray(ops.convert_to_numpy(value))
