"""The one file of the project that names backends: compiling and differentiating on each."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"]
"""Dtypes of which tensors can be made; JAX makes the last one narrower."""
if BACKEND == "tensorflow":
    INTEGERS.append("uint64")
FLOATS = ["float32", "float16", "bfloat16"]
"""Dtypes of floats; of float64 JAX and Keras's NumPy backend make narrower ones."""
if BACKEND in ("tensorflow", "torch"):
    FLOATS.append("float64")
EXECUTIONS = [1] if BACKEND == "torch" else [1, 2, 4]
"""What `compile(steps_per_execution=...)` may be: Keras refuses more than 1 on torch."""
EAGER_IS_SLOW = BACKEND == "jax"
"""Whether a function takes longer as it is: XLA then compiles every operation for itself."""
RUNS_IN_PIECES = BACKEND == "torch"
"""Whether a compiled model runs as it is what its compiler cannot read."""
ABSENT = "tensorflow" if BACKEND == "torch" else "torch"
"""A backend that is not installed beside this one."""

IGNORED_WARNINGS = ["ignore:.* encountered in:RuntimeWarning"] if BACKEND == "numpy" else []
"""Those of NumPy's numbers: on it, Keras runs a model of symbols on whatever is in memory."""

DRAWING = [False] if BACKEND == "torch" else [False, True]
"""Whether to compile a function that draws, which torch with `keras.random` can only in pieces."""

TRAINING = [] if BACKEND == "numpy" else [False]
"""What `jit_compile` may be where many models are trained: on NumPy none is."""


def sees_devices(count: int) -> dict[str, str]:
    """Environment variables of a process that sees so many devices, all of them one CPU."""
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


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

        forget_compiled()
        return torch.compile(fn, backend="aot_eager", fullgraph=True)
    return fn


def compilers(*, sizes: bool = False) -> dict[str, Callable[[Callable[..., Any]], Any]]:
    """Every compiler of the backend, and every way to use it, by name.

    With `sizes` only those that know the sizes of tensors.
    """
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def of_unknown_sizes(fn: Callable[..., Any]) -> Callable[..., Any]:
            def call(*given: Any) -> Any:
                specs = [tf.TensorSpec([None] * len(x.shape), x.dtype) for x in given]
                return tf.function(fn, input_signature=specs)(*given)

            return call

        known = {"graph": tf.function, "xla": compiled}
        return known if sizes else {**known, "unknown sizes": of_unknown_sizes}
    return {"compiled": compiled}


def traced_shapes(fn: Callable[..., Any], *given: Any) -> list[Any]:
    """The shapes of what `fn` returns, as a graph knows them where it knows only even sizes.

    Empty if the backend has no graphs that do not know sizes.
    """
    if BACKEND != "tensorflow":
        return []
    import tensorflow as tf

    shapes = [[size if size % 2 == 0 else None for size in np.shape(x)] for x in given]
    specs = [tf.TensorSpec(shape, x.dtype) for shape, x in zip(shapes, given, strict=True)]
    return [x.shape for x in tf.function(fn).get_concrete_function(*specs).structured_outputs]


def compiled_apart(dtypes: Sequence[str]) -> list[str]:
    """Those of some dtypes for which a compiler makes code of their own.

    `compiled` on PyTorch runs the kernels that an eager function runs: there only what is traced
    may differ, and it does so by the kind of a dtype.
    """
    if BACKEND != "torch":
        return list(dtypes)
    kinds = {
        dtype.rstrip("0123456789").replace("bfloat", "float"): dtype for dtype in reversed(dtypes)
    }
    return [dtype for dtype in dtypes if dtype in kinds.values()]


def optimized(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` as the backend's compiler makes it when it is left at its defaults."""
    if BACKEND == "torch":
        import torch

        forget_compiled()
        return torch.compile(fn, backend="inductor", fullgraph=True)
    return compiled(fn)


def compile_without_building(monkeypatch: Any) -> None:
    """Make Keras compile models on PyTorch as `compiled` does: with the kernels that there are.

    To write kernels and build them takes a third of the time; tests of `optimized` do.
    """
    if BACKEND == "torch":
        import torch

        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def forget_compiled() -> None:
    """Drop what was compiled: torch.compile runs a function uncompiled after eight versions."""
    if BACKEND == "torch":
        import torch

        torch.compiler.reset()


def as_raised_by_compiler(error: type[Exception], message: str) -> tuple[type[Exception], Any]:
    """What `pytest.raises` has to look for where a compiled function raises `error`.

    torch.compile puts its own error in the place of every other.
    """
    return (Exception, None) if BACKEND == "torch" else (error, message)


def in_inference(fn: Callable[[], Any]) -> Any:
    """What a function returns where the backend keeps nothing that training needs."""
    if BACKEND != "torch":
        return fn()
    import torch

    with torch.inference_mode():
        return fn()


def vectorizers() -> dict[str, Callable[..., Any]]:
    """Every way to run a function on rows: called with it and tensors whose first axis is rows."""

    def by_keras(fn: Callable[..., Any], *given: Any) -> Any:
        return ops.vectorized_map(lambda row: fn(*row), given)

    if BACKEND == "jax":
        import jax

        return {"keras": by_keras, "vmap": lambda fn, *given: jax.vmap(fn)(*given)}
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def vectorized_map(fn: Callable[..., Any], *given: Any) -> Any:
            # Sums of duplicates are a loop there: it has no converter for a scatter that adds.
            return tf.vectorized_map(lambda row: fn(*row), given)

        return {"keras": by_keras, "vectorized_map": vectorized_map}
    if BACKEND == "torch":
        import torch

        return {"keras": by_keras, "vmap": lambda fn, *given: torch.func.vmap(fn)(*given)}
    return {"keras": by_keras}


def gradients(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function that gives the gradients of a scalar `fn`; may itself be transformed."""
    if BACKEND == "jax":
        import jax

        return lambda *primals: jax.grad(fn, argnums=tuple(range(len(primals))))(*primals)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def gradients_of(*primals: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(primals)
                value = fn(*primals)
            return tape.gradient(value, primals, unconnected_gradients="zero")

        return gradients_of
    if BACKEND == "torch":
        import torch

        return lambda *primals: torch.func.grad(fn, argnums=tuple(range(len(primals))))(*primals)
    raise RuntimeError(f"The {BACKEND} backend does not differentiate.")


def hessian_vector(fn: Callable[..., Any], tangents: Sequence[Any]) -> Callable[..., Any]:
    """The function that gives the Hessian of a scalar `fn` times `tangents`, for every argument."""
    along = tensors(tangents)

    def slope(*primals: Any) -> Any:
        both = zip(gradients(fn)(*primals), along, strict=True)
        return sum([ops.sum(gradient * tangent) for gradient, tangent in both])

    return gradients(slope)


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
    is_half = not is_array(value) and "bfloat16" in str(getattr(value, "dtype", ""))
    if is_half and tuple(value.shape) == ():  # of which TensorFlow makes no array
        return to_numpy(ops.reshape(value, (1,))).reshape(())
    return np.asarray(value if is_array(value) else ops.convert_to_numpy(value))


def is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic))


# --- Loops, recomputation and derivatives, as each framework has them ---------------------------

Step = Callable[[Any, Any], Any]


def loops() -> dict[str, Callable[[Step, Any, int], Any]]:
    """Every way to repeat `state = step(n, state)`, for n from 0 to below a count."""

    def while_loop(step: Step, state: Any, count: int) -> Any:
        start = ops.zeros((), "int32")
        body = lambda n, state: (n + 1, step(n, state))  # noqa: E731
        return ops.while_loop(lambda n, state: n < count, body, (start, state))[1]

    found = {
        "fori_loop": lambda step, state, count: ops.fori_loop(0, count, step, state),
        "while_loop": while_loop,
    }
    if BACKEND != "tensorflow":  # where Keras's `scan` fails, also without edits

        def keras_scan(step: Step, state: Any, count: int) -> Any:
            body = lambda state, n: (step(n, state), n)  # noqa: E731
            return ops.scan(body, state, ops.arange(count))[0]

        found["ops.scan"] = keras_scan
    if BACKEND == "jax":
        import jax

        def scan(step: Step, state: Any, count: int) -> Any:
            body = lambda state, n: (step(n, state), None)  # noqa: E731
            return jax.lax.scan(body, state, ops.arange(count))[0]

        def lax_while_loop(step: Step, state: Any, count: int) -> Any:
            body = lambda both: (both[0] + 1, step(*both))  # noqa: E731
            return jax.lax.while_loop(lambda both: both[0] < count, body, (0, state))[1]

        found |= {"scan": scan, "lax.while_loop": lax_while_loop}
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def tf_loop(step: Step, state: Any, count: int) -> Any:
            body = lambda n, state: (n + 1, step(n, state))  # noqa: E731
            return tf.while_loop(lambda n, state: n < count, body, (0, state), maximum_iterations=9)

        for name, is_xla in (("graph", False), ("xla", True)):
            found[f"tf.while_loop {name}"] = lambda step, state, count, is_xla=is_xla: tf.function(
                lambda state: tf_loop(step, state, count)[1], jit_compile=is_xla
            )(state)
    return found


def differentiable_loops() -> list[tuple[str, bool]]:
    """Those of `loops` that have gradients: their names, and whether to compile them.

    XLA on TensorFlow has none of a loop whose number of steps it does not know, and torch's
    compiler does not follow one that asks a tensor whether to go on.
    """
    without = {
        "jax": {(loop, how) for loop in ("while_loop", "lax.while_loop") for how in (False, True)},
        "tensorflow": {("tf.while_loop xla", False), *[(loop, True) for loop in loops()]},
        "torch": {("while_loop", True)},
    }
    both = [(loop, how) for loop in loops() for how in (False, True)]
    return [one for one in both if one not in without.get(BACKEND, ())]


REMATERIALIZES_KEYWORDS = BACKEND != "tensorflow"
"""Whether layers that are called with keywords, as `Dropout` is, work under `RematScope`."""


def maps() -> dict[str, Callable[..., Any]]:
    """Every way to run a function on rows one after the other; see `vectorizers`."""
    found = {"keras": lambda fn, *given: ops.map(lambda row: fn(*row), given)}
    if BACKEND == "jax":
        import jax

        found["lax.map"] = lambda fn, *given: jax.lax.map(lambda row: fn(*row), given)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def map_fn(fn: Callable[..., Any], *given: Any) -> Any:
            return tf.map_fn(lambda row: fn(*row), given, fn_output_signature=given[0].dtype)

        found["map_fn"] = tf.function(map_fn)
    return found


def recomputed(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, whose backward pass computes it again instead of keeping what it made."""
    if BACKEND == "jax":
        import jax

        return jax.checkpoint(fn)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.recompute_grad(fn)
    import torch

    return lambda *given: torch.utils.checkpoint.checkpoint(fn, *given, use_reentrant=False)


def jacobians() -> dict[str, Callable[..., Any]]:
    """Every way to get the Jacobian of a function of one tensor."""
    if BACKEND == "jax":
        import jax

        return {"jacrev": jax.jacrev, "jacfwd": jax.jacfwd}
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def backward(fn: Callable[..., Any]) -> Callable[..., Any]:
            def jacobian(x: Any) -> Any:
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    y = fn(x)
                return tape.jacobian(y, x)

            return jacobian

        def forward(fn: Callable[..., Any]) -> Callable[..., Any]:
            def jacobian(x: Any) -> Any:
                columns = []
                for unit in np.eye(int(np.prod(x.shape)), dtype="float32"):
                    tangent = ops.reshape(ops.convert_to_tensor(unit), x.shape)
                    with tf.autodiff.ForwardAccumulator(x, tangent) as accumulator:
                        y = fn(x)
                    columns.append(accumulator.jvp(y))
                return ops.reshape(ops.stack(columns, axis=-1), (*y.shape, *x.shape))

            return jacobian

        return {"jacobian": backward, "forward": forward}
    if BACKEND == "torch":
        import torch

        return {"jacrev": torch.func.jacrev, "jacfwd": torch.func.jacfwd}
    return {}
