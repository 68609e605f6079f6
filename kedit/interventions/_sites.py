"""A table of what can be edited inside a model."""

import weakref
from typing import Any, NamedTuple

import keras
import numpy as np

from kedit._addresses import addresses, located, spelling, spellings
from kedit._run import ops
from kedit._show import html
from kedit.errors import OperandError
from kedit.interventions._hooks import intercepted
from kedit.weights._weight_chains import EditsWeights


class SiteInfo(NamedTuple):
    """A layer that can be edited; `site` takes it.

    Attributes:
        address: The address that `site` takes. It is the same in every session, unless
            another layer has it for a name: then it is the name of the layer.
        layer: Name of the class of the layer.
        name: Name of the layer.
        input: Shapes of its positional inputs at its first call.
        output: Shapes of its outputs at its first call. In both, unknown sizes are None.
            Both are None if the layer was not called.
        calls: How often it is called in one run; None if no run could be traced, or if
            it is called by a recurrent layer in a loop, where it differs by backend.
    """

    address: str
    layer: str
    name: str
    input: Any
    output: Any
    calls: int | None

    def __hash__(self) -> int:
        return hash(self.address)


class Sites(tuple[SiteInfo, ...]):
    """The layers of a model that can be edited; prints as a table."""

    __slots__ = ()

    def __repr__(self) -> str:
        rows = [SiteInfo._fields, *map(_cells, self)]
        widths = [max([len(row[column]) for row in rows]) for column in range(6)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        count = f"{len(self)} layer{'s' * (len(self) != 1)} that can be edited"
        return html.table(count, SiteInfo._fields, [*map(_cells, self)])


def _cells(info: SiteInfo) -> tuple[str, ...]:
    """Return the row of a layer in the table."""
    name = "" if info.name == info.address else info.name
    shapes = [_text(info.input), _text(info.output)]
    calls = "?" if info.calls is None else str(info.calls)
    return (info.address, info.layer, name, *shapes, calls)


def sites(model: keras.Model, inputs: Any = None) -> Sites:
    """List the layers of a model that can be edited, nested ones included.

    Args:
        model: Model of any kind, or a layer.
        inputs: Inputs of the model, a batch of any size. Only shapes and dtypes are
            used. A model that is not built yet is built for them. Defaults to None:
            the inputs that the model was built for.

    Returns:
        A tuple of `SiteInfo`, in the order in which the layers are called. Layers
        that are not called come last. It prints as a table.

    Raises:
        kedit.errors.OperandError: If `model` is not a model or a layer.

    Example:
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="hidden")])
    >>> [(info.address, info.output, info.calls) for info in kedit.interventions.sites(model)]
    [('hidden', (None, 2), 1)]
    """
    check_model(model)
    seen = look(model, inputs)
    found = located(model)
    known = spellings(found)
    order = {key: number for number, key in enumerate(seen or {})}
    loops = tuple([f"{one.address}/" for one in found if is_looped(one.layer)])
    infos = []
    for one in sorted(found, key=lambda one: order.get(id(one.layer), len(order))):
        calls = None if seen is None else seen.get(id(one.layer), [])
        first: Any = calls[0] if calls else (None, None)
        given, gave = _shapes(first[0]), _shapes(first[1])
        count = None if calls is None or one.address.startswith(loops) else len(calls)
        named = (spelling(one, known), type(one.layer).__name__, one.layer.name)
        infos.append(SiteInfo(*named, given, gave, count))
    return Sites(infos)


def is_looped(layer: Any) -> bool:
    """Whether a layer calls its cell in a loop, where some backends call it only once."""
    return isinstance(layer, keras.layers.RNN) and not layer.unroll


def check_model(model: Any) -> None:
    """Raise if `model` is not a model or a layer."""
    if not isinstance(model, keras.layers.Layer):
        raise OperandError(
            f"A model should be a `keras.Model`. Received: {model!r} of type "
            f"{type(model).__name__}."
        )


def look(model: Any, inputs: Any = None) -> dict[int, list[Any]] | None:
    """Run a model without values, and record the inputs and outputs of every layer call.

    Returns:
        Dict from the `id` of each layer, in the order of first calls, to a list of pairs
        of positional arguments and output, as `KerasTensor`s. None if the inputs of the
        model are unknown.
    """
    if inputs is not None:
        if not model.built:  # a run without values cannot build it
            model(keras.tree.map_structure(ops.convert_to_tensor, inputs))
        return _look(model, [_sized(inputs, 0), _sized(inputs, 1)])
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

    def note(layer: Any) -> Any:
        def handler(call: Any, args: Any, kwargs: Any) -> Any:
            calls = runs[-1].setdefault(id(layer), [])
            calls.append((keras.tree.map_structure(_spec, args), None))
            number = len(calls) - 1
            output = call(*args, **kwargs)
            calls[number] = (calls[number][0], keras.tree.map_structure(_spec, output))
            return output

        return handler

    def run(inputs: Any) -> Any:
        runs.append({})
        with intercepted([(layer, note(layer)) for layer in addresses(model).values()]):
            return model(inputs)

    with np.errstate(all="ignore"):  # the NumPy backend runs it with arbitrary numbers
        for spec in specs:
            # If a backend has no axes of unknown size, Keras runs it with two sizes.
            _Probe(run).compute_output_spec(spec)
    return {key: _joined(*[seen[key] for seen in runs]) for key in runs[0]}


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


def input_spec(model: Any) -> Any:
    """Return the inputs that a model was built for, or None if unknown."""
    if isinstance(model, EditsWeights):
        return input_spec(model.base)
    if isinstance(model, (keras.Sequential, keras.Function)) and model.built:
        given = model.inputs if isinstance(model, keras.Sequential) else model.input
        given = given[0] if isinstance(model, keras.Sequential) else given
        return keras.tree.map_structure(_spec, given)
    shape = (model.get_build_config() or {}).get("input_shape") if model.built else None
    return None if shape is None else _of_shapes(shape)


def _of_shapes(shape: Any) -> Any:
    if isinstance(shape, dict):
        return {name: _of_shapes(part) for name, part in shape.items()}
    if all(size is None or isinstance(size, int) for size in shape):
        return keras.KerasTensor((None, *shape[1:]))
    return [_of_shapes(part) for part in shape]


def _spec(x: Any) -> Any:
    """Return a tensor without its values."""
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        return x
    return keras.KerasTensor(tuple(x.shape), dtype=keras.backend.standardize_dtype(x.dtype))


def _sized(spec: Any, size: int) -> Any:
    """Return tensors without values, with `size` for unknown sizes and with longer batches."""

    def sized(x: Any) -> Any:
        shape = [size if n is None else n for n in x.shape]
        shape[:1] = [n + size + 1 if x.shape[0] is not None else n + 1 for n in shape[:1]]
        return keras.KerasTensor(shape, dtype=keras.backend.standardize_dtype(x.dtype))

    return keras.tree.map_structure(sized, spec)


def _shapes(values: Any) -> Any:
    """Return the shapes of tensors: one alone, or several in a list."""
    if values is None:
        return None
    found = [tuple(leaf.shape) for leaf in keras.tree.flatten(values) if hasattr(leaf, "shape")]
    return found[0] if len(found) == 1 else found


def _text(shapes: Any) -> str:
    if shapes is None:
        return "-"
    return ", ".join(map(str, shapes)) if isinstance(shapes, list) else str(shapes)
