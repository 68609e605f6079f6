"""Nested edits of weights: which edits apply to a weight, and in which order."""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras

from kedit import _run
from kedit._addresses import addresses, children
from kedit._edit import Edit, EditSequence
from kedit._run import ops
from kedit.errors import OperandError

_ACTIVE = threading.local()
_FUNCTIONS = ("predict_function", "test_function", "train_function")


class Step:
    """What one model does to a weight: its edit, and then its mask of the elements kept."""

    __slots__ = ("edit", "mask")

    def __init__(self, edit: Edit | EditSequence | None, mask: Any = None) -> None:
        self.edit = edit
        self.mask = mask

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and self.edit == other.edit and self.mask is other.mask

    def __hash__(self) -> int:
        return hash((self.edit, id(self.mask)))

    def apply(self, weight: Any, shape: Any = None) -> Any:
        for part in () if self.edit is None else self.edit.edits:
            weight = _run.apply(part, weight, shape)
        if self.mask is not None:
            weight = ops.convert_to_tensor(weight)
            kept = ops.cast(ops.convert_to_tensor(self.mask), "bool")
            weight = ops.where(kept, weight, ops.zeros_like(weight))
        return weight


Chain = tuple[Step, ...]
"""Steps of one weight, in order: that of the innermost model is applied first."""


class EditsWeights:
    """Base class of models that run another model with edits of its weights."""

    base: Any

    def steps(self) -> dict[int, Step]:
        """Return this model's own step of each weight that it edits, by `id`."""
        raise NotImplementedError


class Scope(keras.StatelessScope):
    """Gives weights values while a model runs. All other variables stay as they are outside.

    The variables of an edit of an activation inside the model are such other variables.
    """

    def __init__(self, weights: list[Any], values: list[Any]) -> None:
        super().__init__(list(zip(weights, values, strict=True)), collect_losses=True)
        self.updated: dict[int, Any] = {}

    def __enter__(self) -> Any:
        super().__enter__()
        if self.original_scope is not None:
            self.collect_losses = self.original_scope.collect_losses
        return self

    def add_loss(self, loss: Any) -> None:
        super().add_loss(loss)
        # Keras recognizes a loss by its `id` in the current scope, which must keep it alive:
        # after it is freed, another loss may get the same `id` and be counted twice.
        if self.original_scope is not None:
            self.original_scope.add_loss(loss)

    def get_current_value(self, variable: Any) -> Any:
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            value = self.original_scope.get_current_value(variable)
        return value

    def add_update(self, update: tuple[Any, Any]) -> None:
        super().add_update(update)
        self.updated[id(update[0])] = update[0]

    def hand_over(self, layer: Any) -> None:
        """Repeat outside the scope what happened inside: variable updates and losses."""
        for variable in self.updated.values():
            variable.assign(self.get_current_value(variable))
        if self.original_scope is None:
            layer.add_loss(self.losses)


class Passed(NamedTuple):
    """A weight as a model passes it to its inner layers: the stored value and its edits."""

    stored: Any
    chain: Chain


class _Frame(NamedTuple):
    """What the running model has passed on and put in place, by `id`."""

    scope: Any
    passed: dict[int, Passed]
    placed: dict[int, Any]


def edited(stored: Any, chain: Chain, shape: Any = None) -> Any:
    """Return a weight after its edits; a tensor that is traced may not know its shape."""
    for step in chain:
        stored = step.apply(stored, shape)
    return stored


def passed_on(variable: Any, own: Step | None) -> Passed:
    """Return a weight as the model that is being called passes it on, given its own edit.

    An outer model may already have edited the weight. Its edit must come after the edits
    of the inner models, which start from the stored value.
    """
    stored = variable
    chain: Chain = ()
    frame: _Frame | None = getattr(_ACTIVE, "frame", None)
    if frame is not None and id(variable) in frame.passed:
        outer = frame.passed[id(variable)]
        chain = outer.chain
        # Unless a layer has written to the weight since, as to a moving average.
        if frame.scope.get_current_value(variable) is frame.placed[id(variable)]:
            stored = outer.stored
    chain = chain if own is None else (own, *chain)
    # Copy it: on TensorFlow, Keras treats a variable as a tensor, and reads it later.
    return Passed(ops.copy(stored) if chain else stored, chain)


@contextmanager
def passing_on(scope: Any, variables: list[Any], passed: list[Passed]) -> Iterator[None]:
    """Record for `passed_on`, in this thread and block, what a model passes on in a scope."""
    edits = [(v, weight) for v, weight in zip(variables, passed, strict=True) if weight.chain]
    before = getattr(_ACTIVE, "frame", None)
    _ACTIVE.frame = _Frame(
        scope,
        {id(v): weight for v, weight in edits},
        {id(v): scope.get_current_value(v) for v, _ in edits},
    )
    try:
        yield
    finally:
        _ACTIVE.frame = before


def chains_of(model: Any) -> Callable[[Any], Chain]:
    """Return `chain_of` for one model, which looks for edited models inside only once."""
    outer, root = [], model
    while isinstance(root, EditsWeights):
        outer.append(root)
        root = root.base
    if any([isinstance(layer, EditsWeights) for layer in addresses(root).values()]):
        return functools.partial(chain_of, model)
    steps = [one.steps() for one in reversed(outer)]
    return lambda variable: tuple([own[id(variable)] for own in steps if id(variable) in own])


def chain_of(model: Any, variable: Any) -> Chain:
    """Return the edits that apply to a weight wherever a model computes with it.

    Raises:
        kedit.errors.OperandError: If other edits apply elsewhere in the model.
    """
    first, *others = _chains(model, variable, {}) or [()]
    if any([other != first for other in others]):
        raise OperandError(
            "A weight that layers share should be edited alike in all of them. Received: "
            f"{variable.path!r}, of which a model computes with several versions. Edit the "
            "outermost model that holds them all: `WeightEditing(model, {...})`."
        )
    return first


def _chains(owner: Any, variable: Any, found: dict[int, list[Chain]]) -> list[Chain]:
    """Return the edits along each path from a layer to a weight."""
    if id(owner) in found:
        return found[id(owner)]
    found[id(owner)] = []  # during the search, in case it holds itself
    if not any([held is variable for held in getattr(owner, "variables", [])]):
        return []
    ways: list[Chain] = []
    for _, child in children(owner):
        ways += [way for way in _chains(child, variable, found) if way not in ways]
    if not ways or _holds(owner, variable):
        ways.append(())
    own = owner.steps().get(id(variable)) if isinstance(owner, EditsWeights) else None
    found[id(owner)] = ways if own is None else [(*way, own) for way in ways]
    return found[id(owner)]


def _holds(owner: Any, variable: Any) -> bool:
    """Whether a layer holds a weight itself, rather than in an inner layer."""
    values = list(vars(owner).values())
    lists = [value for value in values if isinstance(value, (list, tuple))]
    return any([value is variable for some in (values, *lists) for value in some])


def forget_compiled(layers: list[Any]) -> None:
    """Make models recompile their functions with their current edits."""
    for layer in layers:
        for name in _FUNCTIONS:
            if getattr(layer, name, None) is not None:
                setattr(layer, name, None)
