"""Names of weights: which weights of a model are meant."""

import difflib
import fnmatch
from typing import Any, NamedTuple

import keras

from kedit._addresses import addresses, children
from kedit._language.dtypes import kind
from kedit.errors import OperandError
from kedit.weights._weight_chains import EditsWeights


class Address(str):
    """The address of a layer with the name of its weight, which is the same in every session."""

    __slots__ = ()


class Named(NamedTuple):
    """A weight of a model, with its layer and the names that it goes by."""

    address: str
    layer: Any
    variable: Any
    names: tuple[str, ...]
    """The path, and then those by the address and by the name of each layer that holds it."""

    @property
    def is_number(self) -> bool:
        """Whether it holds floats, so that a pattern may mean it."""
        return kind(keras.backend.standardize_dtype(self.variable.dtype)) >= 2


def find_weights(base: Any, target: Any, table: list[Named] | None = None) -> list[Named]:
    """Return the weights that are meant, in the order of the model.

    Args:
        base: Layer or model.
        target: The end of a weight's path; the name or address of a layer with the weight, as
            in "dense/kernel", or alone, for all weights of the layer; a pattern of these with
            `*`, `?` or `[]`; a variable or a layer; a function of (layer, variable) that
            returns a bool; or a list of these.
        table: What `weights_in(base)` returns, for whoever looks for several.

    Raises:
        kedit.errors.OperandError: If nothing is meant, or a name stands for several weights.
    """
    table = weights_in(base) if table is None else table
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
    root = base
    while isinstance(root, EditsWeights):
        root = root.base
    found: dict[int, tuple[str, Any, Any, list[str]]] = {}
    names = {"": ""}
    for address, layer in [("", root), *addresses(root).items()]:
        if address:
            above = names.get(address.rpartition("/")[0], "")
            names[address] = f"{above}/{layer.name}".lstrip("/")
        for variable in _own_weights(layer):
            entry = (f"{address}/{variable.name}".lstrip("/"), layer, variable, [variable.path])
            _, _, _, others = found.setdefault(id(variable), entry)
            prefix = names[address] if address else getattr(layer, "name", "")
            others += [f"{address}/{variable.name}".lstrip("/"), f"{prefix}/{variable.name}"]
    for variable in base.weights:
        found.setdefault(id(variable), (variable.path, base, variable, [variable.path]))
    hidden = _masks_in(base)
    counts: dict[str, int] = {}
    for address, *_ in found.values():
        counts[address] = counts.get(address, 0) + 1
    return [
        Named(address if counts[address] == 1 else variable.path, layer, variable, tuple(known))
        for address, layer, variable, known in [found[id(v)] for v in base.weights]
        if id(variable) not in hidden
    ]


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
    if any([sign in name for sign in "*?["]):
        return [
            weight
            for weight in table
            if weight.is_number
            and any([_fits(known, name) for known in (weight.address, *weight.names[1:])])
        ]
    ends = [w for w in table if any([f"/{known}".endswith(f"/{name}") for known in w.names])]
    if len(ends) > 1:  # the whole name of one may be the end of another's
        whole = [w for w in ends if name in w.names]
        ends = whole if len(whole) == 1 else ends
    if len(ends) > 1:
        raise _not_one(base, name, ends)
    if ends:
        return ends
    start = f"{name}/"
    return [w for w in table if w.is_number and any([n.startswith(start) for n in w.names])]


def _fits(known: str, pattern: str) -> bool:
    """Whether a whole name fits; "*/kernel" fits that of a layer alone, too."""
    return fnmatch.fnmatchcase(known, pattern) or fnmatch.fnmatchcase(f"/{known}", pattern)


def _not_one(base: Any, target: Any, found: list[Named]) -> OperandError:
    """Return the error for a name that stands for no weight, or for several."""
    given = getattr(target, "path", None) or target
    names = [weight.address for weight in weights_in(base)]
    if found:
        names = [weight.address for weight in found]
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
        f"of {len(found)} of {len(weights_in(base))} weights. {fix}."
    )
    return error
