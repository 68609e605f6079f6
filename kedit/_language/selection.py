"""Which elements: coordinates, an index, and a condition on what the index selects."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kedit._language.constants import (
    Placeholder,
    freeze,
    is_replaced,
    is_scalar,
    is_tensor,
    to_code,
    to_key,
)
from kedit._language.expression import Expression, per_sample
from kedit._language.index import Index
from kedit._language.items import Each
from kedit._language.pickling import pickled
from kedit._language.types import Coordinates
from kedit.errors import CoordinateError


@pickled
@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Selection:
    """The elements that an edit changes.

    Attributes:
        coordinates: "at" counts axes from the first one, "sample" from the one
            after the batch axis.
        index: The index inside the brackets.
        condition: Expression over `X`, boolean mask, or callable that returns one.
            It narrows what the index selects. None selects all of it.
    """

    coordinates: Coordinates
    index: Index
    condition: Any = None

    def __reduce__(self) -> Any:
        return (Selection, (self.coordinates, self.index, self.condition))

    def key(self) -> Any:
        """Hashable stand-in, equal for equal selections."""
        return (self.coordinates, self.index.key(), key_of(self.condition))

    def __repr__(self) -> str:
        index = "" if self.index.is_whole and self.condition is not None else repr(self.index)
        where = "" if self.condition is None else f".where({code_of(self.condition)})"
        return f"{self.coordinates}{index}{where}"

    def inside_sample(self) -> "Selection":
        """The same elements in sample coordinates; the selection must not name rows."""
        if self.coordinates == "sample":
            return self
        items = list(self.index.items)
        for number, item in enumerate(items):
            if isinstance(item, slice):  # the whole batch axis
                del items[number]
                break
            if item is ...:
                break
        condition = self.condition
        if isinstance(condition, Expression):
            condition = condition.with_positions(after_batch)
        return Selection("sample", Index(tuple(items) or ...), condition)

    def tensors(self) -> list[Any]:
        """The tensors in the index and the condition."""
        return self.index.tensors() + tensors_in(self.condition)

    def map(self, replace: Callable[[Any], Any]) -> "Selection":
        """The same selection with `replace` applied to every tensor, slot and placeholder."""
        condition = map_tensors(self.condition, replace)
        return Selection(self.coordinates, self.index.map(replace), condition)

    def check_rows(self, rank: int | None = None) -> None:
        """Raise if the selection names particular rows of the batch.

        Args:
            rank: Number of axes of the tensor, or None if it is not known. Then
                only an index that certainly starts on axis 0 raises.
        """
        if self.coordinates == "sample":
            return
        self.check_positions(self.condition, rank)
        if not self.index.names_first_axis(rank):
            return
        rest = Index(self.index.items[1:] or (...,))
        raise CoordinateError(
            "An edit in a layer, a loss or a data pipeline should not name rows of the batch, "
            "which are arbitrary there: axis 0 is the batch. "
            f"Received: {self!r}. To edit every sample, count inside one sample: "
            f"`{Selection('sample', rest, self.condition)!r}` for the remaining axes, or "
            f"`{Selection('sample', self.index, self.condition)!r}` if axis 0 was meant to be the "
            "first axis of a sample."
        )

    def check_positions(self, value: Any, rank: int | None = None) -> None:
        """Raise if a condition or an operand depends on the number of the row in the batch."""
        if self.coordinates == "sample" or not isinstance(value, Expression):
            return
        for part in value.parts("position"):
            axis = part.args[0]
            if axis in (0, -(rank or 0)):
                raise CoordinateError(
                    "An edit in a layer, a loss or a data pipeline should not depend on the number "
                    f"of a row in the batch, which is arbitrary there. Received: `{part!r}` in an "
                    "edit by `at`. Count inside one sample: `sample.where(position(0) > 0)`."
                )


def after_batch(part: Expression) -> Expression:
    """`position(axis)` in sample coordinates, from one that is counted by `at`."""
    axis = part.args[0]
    return part if axis < 0 else Expression("position", axis - 1)


def freeze_operand(value: Any) -> Any:
    """Return an expression, placeholder or function as it is, anything else as a constant."""
    if isinstance(value, Each):
        return per_sample(value)
    keep = isinstance(value, (Expression, Placeholder)) or callable(value)
    return value if keep else freeze(value)


def leaves_in(value: Any) -> list[Any]:
    """The tensors, placeholders, slots and functions in an operand or a condition."""
    if isinstance(value, Expression):
        return list(value.leaves)
    if value is None or is_scalar(value):
        return []
    return [value] if is_replaced(value) or callable(value) else []


def stand_in(value: Any, replace: Callable[[Any], Any]) -> Any:
    """`value` with `replace` applied to every tensor in it, or to `value` if it is a function."""
    if not leaves_in(value):
        return value
    return value.map(replace, True) if isinstance(value, Expression) else replace(value)


def tensors_in(value: Any) -> list[Any]:
    """The tensors in an operand or a condition."""
    return [leaf for leaf in leaves_in(value) if is_tensor(leaf)]


def placeholders_in(value: Any) -> list[Any]:
    """The placeholders in an operand or a condition."""
    return [leaf for leaf in leaves_in(value) if isinstance(leaf, Placeholder)]


def map_tensors(value: Any, replace: Callable[[Any], Any]) -> Any:
    """`value` with `replace` applied to every tensor, slot and placeholder in it."""
    if isinstance(value, Expression):
        return value.map(replace)
    return replace(value) if is_replaced(value) else value


def key_of(value: Any) -> Any:
    return value.key() if isinstance(value, Expression) else to_key(value)


def code_of(value: Any) -> str:
    return repr(value) if isinstance(value, Expression) else to_code(value)
