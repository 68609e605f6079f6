"""What a model takes, which Keras asks for when it exports one."""

from typing import Any

import keras


class Exporting(keras.Model):
    """Base class of models that run another one, and take what that takes.

    Keras exports a model of its own kinds by its inputs; of others it wants to know by a call.
    """

    def takes(self) -> Any:
        """Return the inputs as `KerasTensor`s, or None if they are unknown."""
        raise NotImplementedError

    def export(
        self,
        filepath: Any,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """As of any `keras.Model`; it need not be called before."""
        inputs = self.takes() if input_signature is None else None
        given = input_signature if inputs is None else [inputs]
        super().export(filepath, format, verbose, given, **kwargs)


def input_spec(model: Any) -> Any:
    """Return the inputs that a model was built for, as `KerasTensor`s, or None if unknown."""
    if isinstance(model, Exporting):
        return model.takes()
    given = None
    if isinstance(model, keras.Sequential):
        # It has no inputs if Keras could not make a graph of its layers.
        (given,) = getattr(model, "inputs", None) or (None,)
    elif isinstance(model, keras.Function):
        given = model.input
    if model.built and given is not None:
        return keras.tree.map_structure(spec_of, given)
    shape = (model.get_build_config() or {}).get("input_shape") if model.built else None
    return None if shape is None else _of_shapes(shape)


def spec_of(x: Any) -> Any:
    """Return a tensor without its values."""
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        return x
    dtype = keras.backend.standardize_dtype(x.dtype)
    name = x.name if isinstance(x, keras.KerasTensor) else None
    return keras.KerasTensor(tuple(x.shape), dtype=dtype, name=name)


def is_like(inputs: Any, spec: Any) -> bool:
    """Whether inputs have the structure of `KerasTensor`s, and their sizes if these are known."""
    try:
        keras.tree.assert_same_structure(inputs, spec)
        leaves = [keras.tree.flatten(xs) for xs in (inputs, spec)]
        return all([_fits(x.shape, known.shape) for x, known in zip(*leaves, strict=True)])
    except (AttributeError, TypeError, ValueError):  # of leaves that are no tensors of known rank
        return False


def _fits(shape: Any, known: Any) -> bool:
    return len(shape) == len(known) and all(
        [m is None or n == m for n, m in zip(shape[1:], known[1:], strict=True)]
    )


def _of_shapes(shape: Any) -> Any:
    if isinstance(shape, dict):
        return {name: _of_shapes(part) for name, part in shape.items()}
    if all(size is None or isinstance(size, int) for size in shape):
        return keras.KerasTensor((None, *shape[1:]))
    return [_of_shapes(part) for part in shape]
