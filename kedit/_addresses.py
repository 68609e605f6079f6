"""Addresses of the layers in a model: the same on every backend and in every session."""

import functools
import re
from collections.abc import Iterator
from typing import Any

import keras

_DEPTH = 3
"""Maximum nesting depth when searching lists and dicts for layers."""


def addresses(model: Any) -> dict[str, Any]:
    """Every layer and operation in a model, by its address.

    In a graph of layers, the address is the name of the layer. Keras numbers the
    names that it generates anew in every session, so these are replaced by names
    that count the layers of that class in the model. Elsewhere, the address is the
    attribute that holds the layer, with the index or key in a list or dict. Inside
    other layers, addresses are joined by `/`.
    """
    found: dict[str, Any] = {}
    seen = {id(model)}

    def visit(owner: Any, prefix: str) -> None:
        for key, layer in children(owner):
            if id(layer) not in seen:
                seen.add(id(layer))
                address = f"{prefix}/{key}" if prefix else key
                found[address] = layer
                visit(layer, address)

    visit(model, "")
    return found


def children(owner: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(owner, keras.Sequential):
        yield from _named(owner.layers)
    elif isinstance(owner, keras.Function):
        yield from _named(owner.operations)
    for name in sorted(set(dir(owner)) - _attributes(_kind(owner))):
        if not name.startswith("__"):
            try:
                value = getattr(owner, name)
            except Exception:  # a property that cannot be read now
                continue
            yield from _inside(name, value, 0)


def _inside(key: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, keras.Operation):
        if not isinstance(value, (keras.Metric, keras.layers.InputLayer)):
            yield key, value
    elif isinstance(value, (dict, list, tuple)) and depth < _DEPTH:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, entry in list(items):
            yield from _inside(f"{key}.{name}", entry, depth + 1)


def _named(operations: Any) -> Iterator[tuple[str, Any]]:
    """Operations of a graph with names that are the same in every session."""
    counts: dict[str, int] = {}
    made_up = _made_up(operations)
    taken = {operation.name for operation in operations if id(operation) not in made_up}
    for operation in operations:
        if isinstance(operation, keras.layers.InputLayer):
            continue
        name = operation.name
        if id(operation) in made_up:
            name = base = _snake_case(type(operation).__name__)
            while name in taken:
                counts[base] = counts.get(base, 0) + 1
                name = f"{base}_{counts[base]}"
            taken.add(name)
        yield name, operation


def _made_up(operations: Any) -> set[int]:
    """The ids of operations with names that Keras may have generated: `dense`, `dense_1`."""
    numbers: dict[str, dict[int, str]] = {}
    for operation in operations:
        base = _snake_case(type(operation).__name__)
        match = re.fullmatch(rf"{re.escape(base)}(?:_(\d+))?", operation.name)
        if match is not None:
            numbers.setdefault(base, {})[id(operation)] = match[1] or ""
    # Keras counts from 1: if there is a 0, someone else chose the names.
    return {key for found in numbers.values() if "0" not in found.values() for key in found}


def _snake_case(name: str) -> str:
    """A class name converted to a layer name, as Keras does it."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _kind(owner: Any) -> str:
    if isinstance(owner, keras.Sequential):
        return "sequential"
    if isinstance(owner, keras.Model):
        return "functional" if isinstance(owner, keras.Function) else "model"
    return "layer" if isinstance(owner, keras.layers.Layer) else "operation"


@functools.cache
def _attributes(kind: str) -> frozenset[str]:
    """The attributes of any object of this kind, with those that backends add for children."""
    inputs = keras.Input((1,))
    blank: Any = {
        "operation": keras.Operation,
        "layer": keras.layers.Layer,
        "model": keras.Model,
        "functional": lambda: keras.Model(inputs, keras.layers.Identity()(inputs)),
        "sequential": lambda: keras.Sequential([keras.Input((1,)), keras.layers.Identity()]),
    }[kind]()
    if kind != "operation":
        blank.one_child = keras.layers.Identity()
        blank.children = [keras.layers.Identity()]
    return frozenset(dir(blank))
