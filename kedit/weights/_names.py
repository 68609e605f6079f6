"""Names of weights: which weights of a model are meant."""

import difflib
import fnmatch
from typing import Any, NamedTuple

import keras

from kedit._addresses import addresses, children, find_layers, located, spelling, spellings
from kedit._language.dtypes import kind
from kedit.errors import OperandError
from kedit.weights._weight_chains import EditsWeights


class Address(str):
    """The address of a layer with the name of its weight, which is the same in every session."""

    __slots__ = ()


class Named(NamedTuple):
    """A weight of a model, with its layer and the names that it goes by.

    Attributes:
        address: The address of its layer and its own name, the same in every session.
        name: The name of its layer, as `summary()` shows it, and its own name.
        layer: The layer.
        variable: The weight.
        names: The path, and then the addresses and names by each layer that holds it.
    """

    address: str
    name: str
    layer: Any
    variable: Any
    names: tuple[str, ...]

    @property
    def is_number(self) -> bool:
        """Whether it holds floats, so that a pattern may mean it."""
        return kind(keras.backend.standardize_dtype(self.variable.dtype)) >= 2


def find_weights(base: Any, target: Any, table: list[Named] | None = None) -> list[Named]:
    """Return the weights that are meant, in the order of the model.

    Args:
        base: Layer or model.
        target: The name or address of a layer with the weight, as in "dense/kernel", or alone,
            for all weights of the layer; the end of a weight's path; a pattern of these with
            `*`, `?` or `[]`; a variable or a layer; a function of (layer, variable) that
            returns a bool; or a list of these. A name comes before an address.
        table: What `weights_in(base)` returns, for whoever looks for several.

    Raises:
        kedit.errors.OperandError: If nothing is meant, or a name stands for several weights.
    """
    table = weights_in(base) if table is None else table
    target = getattr(target, "address", target)  # of an entry of `sites(model)`
    if isinstance(target, (list, tuple, set, frozenset)) and target:
        parts = [find_weights(base, part, table) for part in target]
        chosen = {id(found.variable) for part in parts for found in part}
    else:
        chosen = {id(found.variable) for found in _matching(base, table, target)}
    return [found for found in table if id(found.variable) in chosen]


def find_weight(base: Any, target: Any, table: list[Named] | None = None) -> Named:
    """Return the one weight that is meant; see `find_weights`."""
    found = find_weights(base, target, table)
    if len(found) != 1:
        raise _not_one(base, target, found)
    return found[0]


def weights_in(base: Any) -> list[Named]:
    """Return the weights of a layer or a model, without the masks of pruned models."""
    root = _root(base)
    found: dict[int, tuple[str, str, Any, Any, list[str]]] = {}
    for address, name, layer in [("", getattr(root, "name", ""), root), *located(root)]:
        for variable in _own_weights(layer):
            names = [f"{address}/{variable.name}".lstrip("/"), f"{name}/{variable.name}"]
            entry = (*names, layer, variable, [variable.path])
            *_, others = found.setdefault(id(variable), entry)
            others += names
    for variable in base.weights:
        path = variable.path
        found.setdefault(id(variable), (path, path, base, variable, [path]))
    hidden = _masks_in(base)
    counts: dict[str, int] = {}
    for address, *_ in found.values():
        counts[address] = counts.get(address, 0) + 1
    return [
        Named(
            address if counts[address] == 1 else variable.path, name, layer, variable, tuple(known)
        )
        for address, name, layer, variable, known in [found[id(v)] for v in base.weights]
        if id(variable) not in hidden
    ]


def _root(base: Any) -> Any:
    """Return the model whose weights are edited, without what edits them."""
    while isinstance(base, EditsWeights):
        base = base.base
    return base


def _own_weights(layer: Any) -> list[Any]:
    """Return the weights that a layer holds itself, not in an inner layer."""
    inner = {id(weight) for _, child in children(layer) for weight in getattr(child, "weights", [])}
    return [weight for weight in getattr(layer, "weights", []) if id(weight) not in inner]


def _masks_in(base: Any) -> set[int]:
    models = []
    while isinstance(base, EditsWeights):
        models.append(base)
        base = base.base
    models += [layer for layer in addresses(base).values() if isinstance(layer, EditsWeights)]
    return {id(mask) for model in models for mask in getattr(model, "masks", {}).values()}


def _matching(base: Any, table: list[Named], target: Any) -> list[Named]:
    if isinstance(target, str):
        found = _named(base, table, target)
    elif isinstance(target, keras.Variable):
        found = [weight for weight in table if weight.variable is target]
    elif isinstance(target, keras.Operation):
        held = {id(weight) for weight in getattr(target, "weights", [])}
        found = [w for w in table if id(w.variable) in held and w.is_number]
    elif callable(target):
        found = [w for w in table if w.is_number and target(w.layer, w.variable)]
    else:
        raise OperandError(
            "A weight should be given by its name, a pattern of names, a variable, a layer, a "
            f"function of (layer, variable), or a list of these. Received: {target!r} of type "
            f"{type(target).__name__}. Write '*/kernel'."
        )
    if not found:
        raise _not_one(base, target, found)
    return found


def _named(base: Any, table: list[Named], name: str) -> list[Named]:
    if isinstance(name, Address):
        return [weight for weight in table if weight.address == name]
    known = spellings(table)
    if len(known.get(name, [])) == 1:
        return known[name]
    if any([sign in name for sign in "*?["]):
        return [
            weight
            for weight in table
            if weight.is_number and any([_fits(own, name) for own in _own_spellings(weight, known)])
        ]
    for kind_of_name in (_by_name, _by_address):
        ends = [w for w in table if any([f"/{n}".endswith(f"/{name}") for n in kind_of_name(w)])]
        if len(ends) > 1:  # the whole name of one may be the end of another's
            whole = [w for w in ends if name in kind_of_name(w)]
            ends = whole if len(whole) == 1 else ends
        if len(ends) > 1:
            raise _not_one(base, name, ends)
        if ends:
            return ends
    layers = find_layers(located(_root(base)), name)
    held = {id(weight) for one in layers for weight in getattr(one.layer, "weights", [])}
    start = f"{name}/"
    return [
        w
        for w in table
        if w.is_number
        and (id(w.variable) in held if held else any([n.startswith(start) for n in w.names]))
    ]


def _by_name(weight: Named) -> tuple[str, ...]:
    """Return the path of a weight, and its names by the layers that hold it."""
    return (weight.name, weight.names[0], *weight.names[2::2])


def _by_address(weight: Named) -> tuple[str, ...]:
    return (weight.address, *weight.names[1::2])


def _own_spellings(weight: Named, known: dict[str, list[Named]]) -> list[str]:
    """Return the names and addresses of a weight that do not stand for another."""
    every = (weight.address, *weight.names[1:])
    return [text for text in every if any([one is weight for one in known.get(text, [weight])])]


def _fits(known: str, pattern: str) -> bool:
    """Whether a whole name fits; "*/kernel" fits that of a layer alone, too."""
    return fnmatch.fnmatchcase(known, pattern) or fnmatch.fnmatchcase(f"/{known}", pattern)


def _not_one(base: Any, target: Any, found: list[Named]) -> OperandError:
    """Return the error for a name that stands for no weight, or for several."""
    given = getattr(target, "path", None) or target
    table = weights_in(base)
    known = spellings(table)
    kept = {id(weight.variable) for weight in found}
    names = [spelling(w, known) for w in table if not found or id(w.variable) in kept]
    if found:
        pattern = f"*/{str(given).rpartition('/')[2]}"
        fix = f"Write one of {names[:10]!r}, or more of its path, or {pattern!r} for all of them"
    elif not base.built:
        fix = "Build it first: call it once"
    elif not isinstance(target, str):
        fix = f"Write one of {names[:10]!r}"
    else:
        fix = f"Close to it: {difflib.get_close_matches(target, names, 5, 0.4) or names[:10]}"
    error: OperandError = OperandError(
        "A name should be the end of one weight's path, or the name of its layer and its own, as "
        f"in 'dense/kernel', or a pattern such as '*/kernel'. Received: {given!r}, which is that "
        f"of {len(found)} of {len(table)} weights. {fix}."
    )
    return error
