"""What the layers of a model receive and return, found without values."""

import weakref
from typing import Any

import keras
import numpy as np

from kedit._addresses import addresses
from kedit._run import ops
from kedit.interventions._hooks import intercepted
from kedit.weights._exporting import input_spec, spec_of


def look(model: Any, inputs: Any = None, handlers: Any = ()) -> dict[int, list[Any]] | None:
    """Run a model without values, and record the inputs and outputs of every layer call.

    Args:
        model: The model.
        inputs: Its inputs. Defaults to None: those that it was built for.
        handlers: What else is intercepted in the run, as `intercepted` takes it.

    Returns:
        Dict from the `id` of each layer, in the order of first calls, to a list of triples
        of positional arguments, keyword arguments and output, as `KerasTensor`s. None if the
        inputs of the model are unknown.
    """
    if handlers:
        with intercepted(handlers):
            return _look_as_built(model)
    if inputs is not None:
        if not model.built:  # a run without values cannot build it
            model(keras.tree.map_structure(ops.convert_to_tensor, inputs))
        try:
            return _look(model, [_sized(inputs, 0), _sized(inputs, 1)])
        except Exception:  # some layers need values, and each raises its own kind
            return _run(model, inputs)
    state, seen = _LOOKED.get(model, (None, None))
    if state is None or not state.describes(model):
        seen = _look_as_built(model)
        _LOOKED[model] = (_State(model), seen)
    found: dict[int, list[Any]] | None = seen
    return found


class _State:
    """What the calls of the layers in a model depend on, without keeping the layers alive."""

    def __init__(self, model: Any) -> None:
        layers = [model, *addresses(model).values()]
        self._layers = [weakref.ref(layer) for layer in layers]
        self._attributes = [_plain_attributes(layer) for layer in layers]

    def describes(self, model: Any) -> bool:
        """Whether the model still has the same layers, with the same settings."""
        layers = [model, *addresses(model).values()]
        same = len(layers) == len(self._layers) and all(
            [ref() is layer for ref, layer in zip(self._layers, layers, strict=True)]
        )
        return same and self._attributes == [_plain_attributes(layer) for layer in layers]


def _plain_attributes(layer: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(layer).items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all([_is_plain(entry) for entry in value])
    return value is None or isinstance(value, (bool, int, float, str))


_LOOKED: Any = weakref.WeakKeyDictionary()
"""What was seen in models, and the state that they were in."""


def _look_as_built(model: Any) -> dict[int, list[Any]] | None:
    spec = input_spec(model)
    if spec is None:
        return None
    # Some layers cannot run with unknown sizes, others cannot run with small ones.
    for specs in ([spec], [_sized(spec, 4), _sized(spec, 6)], [_sized(spec, 64), _sized(spec, 96)]):
        try:
            return _look(model, specs)
        except Exception:  # each backend and each model raises its own kind
            continue
    return None


def _look(model: Any, specs: list[Any]) -> dict[int, list[Any]]:
    """Return the inputs and outputs of layers, with None for sizes that vary."""
    runs: list[dict[int, list[Any]]] = []

    def run(inputs: Any) -> Any:
        output, seen = _noted(model, inputs)
        runs.append(seen)  # not that of a run that failed, after which Keras runs it otherwise
        return output

    with np.errstate(all="ignore"):  # the NumPy backend runs it with arbitrary numbers
        for spec in specs:
            # If a backend has no axes of unknown size, Keras runs it with two sizes.
            _Probe(run).compute_output_spec(spec)
    return {key: _joined(*[seen[key] for seen in runs]) for key in runs[0]}


def _run(model: Any, inputs: Any) -> dict[int, list[Any]]:
    """Run a model that cannot run without values, on one example and on two."""
    arrays = keras.tree.map_structure(ops.convert_to_numpy, inputs)
    runs = [
        _noted(model, keras.tree.map_structure(lambda x, n=n: x[[0] * n], arrays))[1]
        for n in (1, 2)
    ]
    return {key: _joined(*[seen[key] for seen in runs]) for key in runs[0]}


def _noted(model: Any, inputs: Any) -> tuple[Any, dict[int, list[Any]]]:
    """Run a model, and note the inputs and outputs of layers without their values."""
    seen: dict[int, list[Any]] = {}

    def note(layer: Any) -> Any:
        def handler(call: Any, args: Any, kwargs: Any) -> Any:
            calls = seen.setdefault(id(layer), [])
            given = keras.tree.map_structure(spec_of, (args, kwargs))
            calls.append((*given, None))
            number = len(calls) - 1
            output = call(*args, **kwargs)
            calls[number] = (*given, keras.tree.map_structure(spec_of, output))
            return output

        return handler

    with intercepted([(layer, note(layer)) for layer in addresses(model).values()]):
        return model(inputs), seen


class _Probe(keras.layers.Layer):
    """A layer that calls a function."""

    def __init__(self, function: Any) -> None:
        super().__init__(name="probe", autocast=False)
        self.call_function = function

    def call(self, inputs: Any) -> Any:
        return self.call_function(inputs)


def _joined(*runs: Any) -> Any:
    """Return what several runs have in common."""

    def join(*found: Any) -> Any:
        if not isinstance(found[0], keras.KerasTensor):
            return found[0]
        sizes = zip(*[one.shape for one in found], strict=True)
        shape = [size[0] if len(set(size)) == 1 else None for size in sizes]
        return keras.KerasTensor(shape, dtype=found[0].dtype)

    return keras.tree.map_structure(join, *runs)


def _sized(spec: Any, size: int) -> Any:
    """Return tensors without values, with `size` for unknown sizes and with longer batches."""

    def sized(x: Any) -> Any:
        shape = [size if n is None else n for n in x.shape]
        shape[:1] = [n + size + 1 if x.shape[0] is not None else n + 1 for n in shape[:1]]
        return keras.KerasTensor(shape, dtype=keras.backend.standardize_dtype(x.dtype))

    return keras.tree.map_structure(sized, spec)
