"""A site: the address of a layer of a model, and which of its values."""

import difflib
import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import keras

from kedit._addresses import addresses
from kedit._edit import check_one_of
from kedit._language.decoding import check_fields, check_same, loading
from kedit._show.code import created
from kedit.errors import OperandError, PositionError

_WHERE = ("output", "input")
_FIELDS: dict[str, Any] = {
    "pattern": str,
    "where": str,
    "leaf": (int, str),
    "call": (int, type(None)),
}


@dataclass(frozen=True)
class Site:
    """A value of one or several layers; made with `kedit.interventions.site`.

    Attributes:
        pattern: Address of a layer, or a pattern of addresses.
        where: "output" or "input".
        leaf: Which of several tensors.
        call: Which call of a layer that is called several times; None for each.
        is_found: Whether the pattern is an address that was found in a model, and not
            the name of a layer.
    """

    pattern: str
    where: str = "output"
    leaf: int | str = 0
    call: int | None = None
    is_found: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_one_of("where", self.where, _WHERE)
        if not isinstance(self.pattern, str) or not self.pattern:
            raise OperandError(
                "A site should be the address of a layer, a str. Received: "
                f"{self.pattern!r}. `kedit.interventions.sites(model)` lists them."
            )
        if type(self.leaf) not in (int, str) or not (
            self.call is None or (type(self.call) is int and self.call >= 0)
        ):
            raise OperandError(
                "`leaf` should be an int or a str, and `call` an int from 0 on, or None. Received: "
                f"leaf={self.leaf!r}, call={self.call!r}."
            )

    def __repr__(self) -> str:
        return created(self, "site", is_found=False)

    def __str__(self) -> str:
        """Return the pattern and what differs from the defaults: `dense:input:1#0`."""
        leaf = "" if self.leaf == 0 else f":{self.leaf}"
        where = "" if self.where == "output" and not leaf else f":{self.where}"
        call = "" if self.call is None else f"#{self.call}"
        return f"{self.pattern}{where}{leaf}{call}"

    def get_config(self) -> dict[str, Any]:
        return {
            "pattern": self.pattern,
            "where": self.where,
            "leaf": self.leaf,
            "call": self.call,
        }

    @classmethod
    def from_config(cls, config: Any) -> "Site":
        """Rebuild a site from `get_config()`, at an address that was found in a model."""
        with loading("A saved site", config):
            made = cls(**check_fields("A saved site", config, _FIELDS), is_found=True)
            check_same("A saved site", made.get_config(), config)
            return made

    def find(self, model: Any) -> list[tuple["Site", Any]]:
        """Return the layers of a model that match, each with a site at its own address."""
        found = _find(model, self.pattern, self.is_found)
        return [(replace(self, pattern=a, is_found=True), layer) for a, layer in found]

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Return the tensor at this site."""
        found: list[Any] = []

        def look_at(leaf: Any) -> Any:
            found.append(leaf)
            return leaf

        self.change(args, kwargs, output, look_at)
        return found[0]

    def change(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        change: Callable[[Any], Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """Return the arguments and output of a call, with `change` applied at this site."""
        if self.where == "output":
            return args, kwargs, self._change(output, change)
        if isinstance(self.leaf, int):
            return tuple(self._change(list(args), change)), kwargs, output
        return args, self._change(kwargs, change), output

    def _change(self, values: Any, change: Callable[[Any], Any]) -> Any:
        if isinstance(self.leaf, str):
            return _change_path(values, self.leaf.split("/"), change, self)
        flat = keras.tree.flatten(values)
        if not -len(flat) <= self.leaf < len(flat) or not hasattr(flat[self.leaf], "shape"):
            raise PositionError(
                f"`leaf` should be the number of a tensor among the {len(flat)} of the "
                f"{self.where} of {self.pattern!r}. Received: leaf={self.leaf}."
            )
        flat[self.leaf] = change(flat[self.leaf])
        return keras.tree.pack_sequence_as(values, flat)


def site(pattern: str, where: str = "output", leaf: int | str = 0, call: int | None = None) -> Site:
    """Choose a value of one or several layers of a model.

    Args:
        pattern: Address of a layer, as listed by `kedit.interventions.sites(model)`,
            or a pattern of addresses, in which `*` matches anything and `?` matches
            one character.
        where: "output" or "input" of the layer. Defaults to "output".
        leaf: Which tensor, if there are several: its number in the order of
            `keras.tree.flatten`, or its keys joined by `/`. For an input, the first key
            is the name of a keyword argument. Defaults to 0.
        call: Which call, counted from 0, of a layer that is called several times.
            Defaults to None: each call.

    Returns:
        `Site`: a key of the dict that `edit_model` takes. A plain str means the output
        of that layer.

    Example:
    >>> str(kedit.interventions.site("dense_*", "input"))
    'dense_*:input'
    """
    return Site(pattern, where, leaf, call)


def as_site(given: Any) -> Site:
    return given if isinstance(given, Site) else Site(given)


def _find(model: Any, pattern: str, is_address: bool) -> list[tuple[str, Any]]:
    table = addresses(model)
    by_name = [(a, layer) for a, layer in table.items() if layer.name == pattern and not is_address]
    if pattern in table:
        others = [address for address, layer in by_name if layer is not table[pattern]]
        if others:
            raise OperandError(
                f"{pattern!r} is the address of a layer named {table[pattern].name!r}, and the "
                f"name of the one at {others[0]!r}. Write that address, or name the layers when "
                "you make them: `keras.layers.Dense(8, name='hidden')`."
            )
        return [(pattern, table[pattern])]
    found = [(a, layer) for a, layer in table.items() if fnmatch.fnmatchcase(a, pattern)] or by_name
    if not found:
        close = difflib.get_close_matches(pattern, list(table), 5, 0.4) or list(table)[:10]
        raise OperandError(
            f"A site should be the address of a layer of the model. Received: {pattern!r}. Close "
            f"to it: {close}. `kedit.interventions.sites(model)` lists all."
        )
    return found


def _change_path(values: Any, path: list[str], change: Callable[[Any], Any], site: Site) -> Any:
    if not path:
        return change(values)
    key: Any = path[0]
    is_sequence = isinstance(values, (list, tuple))
    if is_sequence and key.isdecimal():
        key = int(key)
    known = isinstance(values, dict) and key in values
    if not known and not (is_sequence and isinstance(key, int) and key < len(values)):
        kind = list(values) if isinstance(values, dict) else type(values).__name__
        raise PositionError(
            f"`leaf` should lead to a tensor in the {site.where} of {site.pattern!r}. Received: "
            f"leaf={site.leaf!r}, where {key!r} is not in {kind}."
        )
    new = _change_path(values[key], path[1:], change, site)
    if isinstance(values, dict):
        return {**values, key: new}
    items = [*values[:key], new, *values[key + 1 :]]
    is_named = isinstance(values, tuple) and hasattr(values, "_fields")
    return type(values)(*items) if is_named else type(values)(items)
