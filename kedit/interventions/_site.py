"""A site: the address of a layer of a model, and which of its values."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import keras

from kedit._addresses import Located, find_layers, located, spelling, spellings
from kedit._edit import check_one_of
from kedit._language.decoding import check_fields, check_same, loading
from kedit._language.pickling import pickled
from kedit._show.code import created
from kedit.errors import OperandError, PositionError, SavingError
from kedit.interventions._attention import WORDS, inner_of, kind_of
from kedit.interventions._sites import SiteInfo

_WHERE = ("output", "input", *WORDS)
_FIELDS: dict[str, Any] = {
    "pattern": str,
    "where": str,
    "leaf": (int, str),
    "call": (int, type(None)),
}


@pickled
@dataclass(frozen=True)
class Site:
    """A value of one or several layers; made with `kedit.interventions.site`.

    Attributes:
        pattern: Name or address of a layer, a pattern of these, or the layer itself.
        where: "output" or "input", or a word for a value inside an attention layer.
        leaf: Which of several tensors.
        call: Which call of a layer that is called several times; None for each.
        spelled: How `sites(model)` spells the layer, once it was found in a model. The
            pattern is then its address, which is the same in every session.
    """

    pattern: Any
    where: str = "output"
    leaf: int | str = 0
    call: int | None = None
    spelled: str | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_one_of("where", self.where, _WHERE)
        if not isinstance(self.pattern, (str, keras.Operation)) or self.pattern == "":
            raise OperandError(
                "A site should be a layer, its name, or its address. Received: "
                f"{self.pattern!r}. `kedit.interventions.sites(model)` lists them."
            )
        if type(self.leaf) not in (int, str) or not (
            self.call is None or (type(self.call) is int and self.call >= 0)
        ):
            raise OperandError(
                "`leaf` should be an int or a str, and `call` an int from 0 on, or None. Received: "
                f"leaf={self.leaf!r}, call={self.call!r}."
            )
        if self.where in WORDS and self.leaf != 0:
            raise OperandError(
                f"`leaf` should be 0 at a value that is one tensor, {self.where!r}. Received: "
                f"leaf={self.leaf!r}. Write `site({self._layer()!r}, {self.where!r})`."
            )

    def __repr__(self) -> str:
        return created(self, "site", pattern=self.spelled or self.pattern, spelled=None)

    def __str__(self) -> str:
        """Return the pattern and what differs from the defaults: `dense:input:1#0`."""
        leaf = "" if self.leaf == 0 else f":{self.leaf}"
        where = "" if self.where == "output" and not leaf else f":{self.where}"
        call = "" if self.call is None else f"#{self.call}"
        return f"{self._layer()}{where}{leaf}{call}"

    def _layer(self) -> str:
        return str(self.spelled or getattr(self.pattern, "name", self.pattern))

    def get_config(self) -> dict[str, Any]:
        if not isinstance(self.pattern, str):
            raise SavingError(
                "A site that is saved should be an address. Received: the layer "
                f"{self.pattern.name!r} itself. Save the edited model, or its edits: "
                "`save_edits(edited, path)`."
            )
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
            made = cls(**check_fields("A saved site", config, _FIELDS))
            check_same("A saved site", made.get_config(), config)
            return replace(made, spelled=made.pattern)

    def find(self, model: Any) -> list[tuple["Site", Any]]:
        """Return the layers of a model that match, each with a site at its own address."""
        layers = located(model)
        known = spellings(layers)
        if self.spelled is None:
            found = find_layers(layers, self.pattern)
        else:
            found = [one for one in layers if one.address == self.pattern]
        if not found:
            raise _nothing_at(self, model, layers)
        if self.where in WORDS:
            fitting = [one for one in found if self.where in kind_of(one.layer)]
            if not fitting:
                raise _no_attention(self, found, layers)
            found = fitting
        return [
            (replace(self, pattern=one.address, spelled=spelling(one, known)), one.layer)
            for one in found
        ]

    def within(self, layer: Any) -> tuple[Any, "Site", Any]:
        """Return which layer has the value, the site of it there, and a view of the value."""
        if self.where not in WORDS:
            return layer, self, lambda x, change: change(x)
        held, inner = inner_of(layer, self.where)
        site = replace(self, where=inner.where, leaf=inner.leaf)
        return held, site, lambda x, change: inner.viewed(layer, x, change)

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
            return tuple(self._change(list(args), change, kwargs)), kwargs, output
        return args, self._change(kwargs, change), output

    def _change(self, values: Any, change: Callable[[Any], Any], named: Any = ()) -> Any:
        """Return values, with `change` applied at the leaf; `named` are others beside them."""
        if isinstance(self.leaf, str):
            return _change_path(values, self.leaf.split("/"), change, self)
        if self.leaf == 0 and hasattr(values, "shape"):  # the usual case, without its overhead
            return change(values)
        flat = keras.tree.flatten(values)
        if not -len(flat) <= self.leaf < len(flat) or not hasattr(flat[self.leaf], "shape"):
            by_name = [name for name, value in dict(named).items() if hasattr(value, "shape")]
            fix = f" Of its keyword arguments, write `leaf={by_name[0]!r}`." if by_name else ""
            raise PositionError(
                f"`leaf` should be the number of a tensor among the {len(flat)} of the "
                f"{self.where} of {self._layer()!r}. Received: leaf={self.leaf}.{fix}"
            )
        flat[self.leaf] = change(flat[self.leaf])
        return keras.tree.pack_sequence_as(values, flat)


def site(pattern: Any, where: str = "output", leaf: int | str = 0, call: int | None = None) -> Site:
    """Choose a value of one or several layers of a model.

    Args:
        pattern: The layer; its name, as `model.summary()` shows it, with those of
            nested layers joined by `/`; its address, as `kedit.interventions.sites(model)`
            lists it, or an entry of that list; or a pattern of these, in which `*` matches
            anything and `?` matches one character. A name that one layer has comes before
            the address of another.
        where: "output" or "input" of the layer, or a value inside an attention layer:

            - "query", "key", "value": what the projections give, `(batch, positions,
              heads, head_size)`, before rotary embeddings and norms.
            - "scores": what the softmax takes, `(batch, heads, queries, keys)`: scaled,
              and not masked yet, so that what is masked stays masked.
            - "pattern": what the softmax gives, of the same shape, before dropout.
            - "heads": what each head gives, `(batch, queries, heads, head_size)`, before
              the output projection, and after a gate if there is one.

            A pattern then means those of the layers that are attention layers: `site("*",
            "pattern")` all in a model. Defaults to "output".
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

    A head of attention, in a model that exists:

    >>> inputs = keras.Input((4, 6))
    >>> attention = keras.layers.MultiHeadAttention(2, 3, name="attn")
    >>> model = keras.Model(inputs, attention(inputs, inputs))
    >>> pattern = kedit.interventions.site("attn", "pattern")
    >>> acts = kedit.interventions.capture(model, pattern).predict(np.ones((1, 4, 6)), verbose=0)
    >>> acts["attn:pattern"].shape, acts["attn:pattern"][0, 0, 3].tolist()
    ((1, 2, 4, 4), [0.25, 0.25, 0.25, 0.25])
    >>> without = {kedit.interventions.site("attn", "heads"): kedit.sample[:, 1].set(0.0)}
    >>> edited = kedit.interventions.edit_model(model, without)
    """
    pattern = pattern.address if isinstance(pattern, SiteInfo) else pattern
    return Site(pattern, where, leaf, call)


def as_site(given: Any) -> Site:
    return given if isinstance(given, Site) else site(given)


def _nothing_at(one: Site, model: Any, layers: list[Located]) -> OperandError:
    """Return the error for a site that is not in a model."""
    given, known = one._layer(), spellings(layers)
    listed = [spelling(layer, known) for layer in layers][:10]
    inputs = [
        layer.name
        for layer in getattr(model, "layers", [])
        if isinstance(layer, keras.layers.InputLayer)
    ]
    if given in inputs:
        what = ", an input of the model"
        first = (listed or ["dense"])[0]
        fix = f"Edit the layer that takes it, as in `site({first!r}, 'input')`, or the data"
    elif isinstance(one.pattern, str):
        what = ""
        fix = f"Close to it: {difflib.get_close_matches(given, known, 5, 0.4) or listed}"
    else:
        what, fix = ", a layer that the model does not hold", f"It holds: {listed}"
    error: OperandError = OperandError(
        "A site should be a layer of the model, its name or its address. Received: "
        f"{given!r}{what}. {fix}. `kedit.interventions.sites(model)` lists all."
    )
    return error


def _no_attention(one: Site, found: list[Located], layers: list[Located]) -> OperandError:
    """Return the error for a value that is only inside attention layers, at other layers."""
    known = spellings(layers)
    having = [spelling(layer, known) for layer in layers if one.where in kind_of(layer.layer)]
    kind = type(found[0].layer).__name__
    words = list(kind_of(found[0].layer))
    given = f"{spelling(found[0], known)!r}, a {kind}"
    if words:
        what, fix = f"{given}, which shows {words}", "Take one of these, or an inner layer"
    elif having:
        what, fix = given, f"Write `site({having[0]!r}, {one.where!r})`; the model has: {having}"
    else:
        what, fix = f"{given}; the model has none", "Name an inner layer of your own attention"
    error: OperandError = OperandError(
        f"A site of {one.where!r} should be an attention layer of Keras or KerasHub that has it. "
        f"Received: {what}. {fix}."
    )
    return error


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
            f"`leaf` should lead to a tensor in the {site.where} of {site._layer()!r}. Received: "
            f"leaf={site.leaf!r}, where {key!r} is not in {kind}."
        )
    new = _change_path(values[key], path[1:], change, site)
    if isinstance(values, dict):
        return {**values, key: new}
    items = [*values[:key], new, *values[key + 1 :]]
    is_named = isinstance(values, tuple) and hasattr(values, "_fields")
    return type(values)(*items) if is_named else type(values)(items)
