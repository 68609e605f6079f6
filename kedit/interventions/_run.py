"""One run of a model in which activations are edited or read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from kedit._addresses import addresses
from kedit.errors import OperandError
from kedit.interventions._attention import OF_PATTERN, WORDS
from kedit.interventions._by_steps import by_steps
from kedit.interventions._hooks import Call, Handler
from kedit.interventions._positions import Piece
from kedit.interventions._site import Site


class _Stopped(BaseException):
    """All that was wanted of a run is done. Not an `Exception`, which Keras would rewrite."""

    def __init__(self, run: "Run") -> None:
        super().__init__()
        self.run = run


class Placed:
    """An edit, or anything else that is done with an activation, at one site of one layer.

    Attributes:
        site: The site, with the address of the layer.
        layer: The layer.
        act: Function that takes the activation, the number of the call and the piece
            of a sequence, and returns what replaces the activation.
        inputs: Numbers or keys of inputs of the layer that `act` takes, too, as a dict.
    """

    def __init__(self, site: Site, layer: Any, act: Any, inputs: Sequence[int | str] = ()) -> None:
        self.site, self.layer, self.act = site, layer, act
        self.inputs = {leaf: Site(site.pattern, "input", leaf) for leaf in inputs}
        self.fired = 0

    def locate(self) -> Any:
        """Find the layer that has the activation, once it is built, and return it."""
        self.target, self.inner, self.view = self.site.within(self.layer)
        return self.target

    def handle(self, number: int, piece: Any, args: Any, kwargs: Any, x: Any) -> Any:
        self.fired += 1
        if piece is not None and self.site.where in OF_PATTERN:
            piece = replace(piece, axis=2)
        inputs = {leaf: one.read(args, kwargs, None) for leaf, one in self.inputs.items()}
        return self.view(x, partial(self._changed, number, piece, inputs))

    def _changed(self, number: int, piece: Any, inputs: Any, x: Any) -> Any:
        given = (number, piece, inputs) if inputs else (number, piece)
        y = self.act(x, *given)
        if tuple(y.shape) != tuple(x.shape):
            raise OperandError(
                f"What takes the place of an activation should have its shape, {tuple(x.shape)}. "
                f"Received: shape {tuple(y.shape)} at `{self.site}`."
            )
        return y


class Run:
    """Handlers that do what is placed, for one run of a model.

    Args:
        placed: What to do; at one site, the first is done first.
        owners: Layers that may receive the position in a sequence of their inner layers.
        whole: The model, if the run is of any of its methods, which may call its layers
            directly. Defaults to None: the run is one call of the model.
    """

    def __init__(self, placed: list[Placed], owners: list[Any], whole: Any = None) -> None:
        self.placed = placed
        self.whole = whole
        self.calls_of_whole = 0
        self.stops = False
        self.pieces: list[Any] = []
        by_layer: dict[int, list[Placed]] = {}
        for one in placed:
            by_layer.setdefault(id(one.locate()), []).append(one)
        self.counts: dict[int, int] = {}
        self.handlers: list[tuple[Any, ...]] = [(owner, self._carrying) for owner in owners]
        for group in by_layer.values():
            self.handlers.append((group[0].target, self._doing(group)))
        self.handlers += unfusing([(one.site, one.layer) for one in placed])
        if whole is not None:
            self.handlers.append((whole, self._counting))

    def _counting(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Restart counting the calls of layers at 0 in each call of the model."""
        self.counts.clear()
        self.calls_of_whole += 1
        try:
            return call(*args, **kwargs)
        finally:
            self.calls_of_whole -= 1

    def _carrying(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record, while a layer runs, which piece of a sequence it receives."""
        piece = _piece(args, kwargs)
        if piece is None:
            return call(*args, **kwargs)
        self.pieces.append(piece)
        try:
            return call(*args, **kwargs)
        finally:
            self.pieces.pop()

    def _piece(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return which piece of a sequence a layer receives; None for all of it."""
        piece = _piece(args, kwargs)
        if piece is None and self.pieces:
            return self.pieces[-1]
        generates = hasattr(self.whole, "generate_function") and not self.calls_of_whole
        return Piece() if piece is None and generates else piece

    def _doing(self, group: list[Placed]) -> Handler:
        def handler(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            layer = group[0].target
            number = self.counts.get(id(layer), 0)
            self.counts[id(layer)] = number + 1
            self._check_counts(group)
            piece = self._piece(args, kwargs)
            due = [one for one in group if one.site.call in (None, number)]
            for one in due:
                if one.inner.where == "input":
                    change = partial(one.handle, number, piece, args, kwargs)
                    args, kwargs, _ = one.inner.change(args, kwargs, None, change)
            output = call(*args, **kwargs)
            for one in due:
                if one.inner.where == "output":
                    change = partial(one.handle, number, piece, args, kwargs)
                    *_, output = one.inner.change(args, kwargs, output, change)
            if self.stops and all([one.fired for one in self.placed]):
                raise _Stopped(self)
            return output

        return handler

    @contextmanager
    def stopping(self, stops: bool) -> Iterator[None]:
        """Run a block; if it `stops`, only until each of what is placed was reached once."""
        self.stops = stops
        try:
            yield
        except _Stopped as stopped:
            if stopped.run is not self:  # but one that this one is a part of
                raise

    def _check_counts(self, group: list[Placed]) -> None:
        counted = [str(one.site) for one in group if one.site.call is not None]
        if counted and self.whole is not None and not self.calls_of_whole:
            raise OperandError(
                "A site that is applied to other methods of a model should be each call of its "
                f"layer, as nobody knows there where a run begins. Received: {counted}. Drop "
                "`call`, or call the edited model."
            )

    def check_fired(self) -> None:
        """Raise if something that was placed was never reached in the run."""
        for one in self.placed:
            if not one.fired:
                again = "" if one.site.call is None else f" {one.site.call + 1} times"
                raise OperandError(
                    f"An edit should be at a layer that is called{again}. Received: "
                    f"`{one.site}`, which this run of the model did not call{again}: {_why(one)}"
                )


def owners_of(table: dict[str, Any], sites: list[Site]) -> list[Any]:
    """Return the layers, by address in the table, that contain the layers at the sites."""
    # Values inside an attention layer belong to inner layers of it.
    parts = [[*site.pattern.split("/"), *["inner"] * (site.where in WORDS)] for site in sites]
    names = {"/".join(part[:count]) for part in parts for count in range(1, len(part))}
    return [table[name] for name in sorted(names & set(table))]


def unfusing(sites: list[tuple[Site, Any]]) -> list[tuple[Any, ...]]:
    """Return handlers by which layers compute their attention step by step, where needed."""
    layers = {id(layer): layer for site, layer in sites if site.where in OF_PATTERN}
    found = [(layer, by_steps(layer), "_compute_attention") for layer in layers.values()]
    return [one for one in found if one[1] is not None]


def _piece(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the piece of a sequence that a layer receives, from the arguments of KerasHub.

    None if there is no cache, and the sequence is whole.
    """
    for name, value in kwargs.items():
        if name.endswith("cache_update_index") and value is not None:
            given = args[0] if args else next(iter(kwargs.values()))
            return Piece(value, given.shape[1])
    return None


def _why(one: Placed) -> str:
    kind = type(one.layer).__name__
    if one.site.where in WORDS:
        return "the layer computes it otherwise. Edit its output."
    if kind == "Softmax" or "Attention" in kind:
        owner = str(one.site.spelled).rpartition("/")[0] or str(one.site.spelled)
        return (
            "attention is computed by one fused operation. Name what you mean of the attention "
            f"layer, which then computes it step by step: `site({owner!r}, 'pattern')`."
        )
    return (
        "it may use the weights of the layer without calling it, or have no use for it. "
        "`kedit.interventions.sites(model)` shows which layers are called."
    )


def check_not_rematerialized(base: Any) -> None:
    """Raise if a model recomputes layers for the gradient, which would skip the handlers.

    Keras has no public way to ask. The wrapper itself may be made under `keras.RematScope`.
    """
    for address, layer in {"": base, **addresses(base)}.items():
        if getattr(layer, "_remat_mode", None) is not None:
            raise OperandError(
                "A model that is edited should not be made under `keras.RematScope`: its gradients "
                f"would be those without the edits. Received: {address or base.name!r}. Load the "
                "weights into one that is made outside of it, and edit that under the scope."
            )
