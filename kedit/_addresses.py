"""Names and addresses of the layers in a model.

An address is the same on every backend and in every session; a name is what Keras shows.
"""

import fnmatch
import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

_DEPTH = 3
"""Maximum nesting depth when searching lists and dicts for layers."""


class Located(NamedTuple):
    """A layer or an operation of a model, and how it is named.

    Attributes:
        address: Its address, which is the same in every session.
        name: The names that `model.summary()` shows, those of nested layers joined by `/`.
        layer: The layer.
    """

    address: str
    name: str
    layer: Any


def located(model: Any) -> list[Located]:
    """Return every layer and operation in a model.

    In a graph of layers, the address is the name of the layer. Keras numbers the
    names that it generates anew in every session, so these are replaced by names
    that count the layers of that class in the model. Elsewhere, the address is the
    attribute that holds the layer, with the index or key in a list or dict. Inside
    other layers, addresses are joined by `/`.
    """
    found: list[Located] = []
    seen = {id(model)}

    def visit(owner: Any, address: str, name: str) -> None:
        for key, layer in children(owner):
            if id(layer) not in seen:
                seen.add(id(layer))
                found.append(Located(f"{address}{key}", f"{name}{layer.name}", layer))
                visit(layer, f"{address}{key}/", f"{name}{layer.name}/")

    visit(model, "", "")
    return found


def addresses(model: Any) -> dict[str, Any]:
    """Return every layer and operation in a model, by its address."""
    return {one.address: one.layer for one in located(model)}


def spellings(found: list[Any]) -> dict[str, list[Any]]:
    """Return what each spelling stands for.

    A name that one layer has comes before the address of another, so no two layers are
    ever mistaken for each other, and each has a spelling of its own.

    Args:
        found: What has a `name` and an `address`: layers, or weights.
    """
    named: dict[str, list[Any]] = {}
    for one in found:
        named.setdefault(one.name, []).append(one)
    known = {name: ones for name, ones in named.items() if len(ones) == 1}
    for one in found:
        known.setdefault(one.address, [one])
    for name, ones in named.items():
        known.setdefault(name, ones)
    for one in found:
        if known[one.address][0] is not one and len(named[one.name]) > 1:
            known[f"/{one.address}"] = [one]
    return known


def spelling(one: Any, known: dict[str, list[Any]]) -> str:
    """Return how something is spelled: by its address, unless that means something else."""
    for text in (one.address, one.name):
        if len(known[text]) == 1 and known[text][0] is one:
            return str(text)
    return f"/{one.address}"


def find_layers(found: list[Located], given: Any) -> list[Located]:
    """Return the layers that are meant, in the order of the model.

    Args:
        found: The layers of the model.
        given: A layer; its name as `summary()` shows it; its address; a pattern of names and
            addresses; or the name of a nested layer alone, for all that have it. The first of
            these that fits decides.
    """
    if not isinstance(given, str):
        return [one for one in found if one.layer is given]
    known = spellings(found)
    if given in known:
        return known[given]
    fitting = [ones for text, ones in known.items() if fnmatch.fnmatchcase(text, given)]
    ids = {id(one) for ones in fitting for one in ones}
    return [one for one in found if id(one) in ids or (not ids and one.layer.name == given)]


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
