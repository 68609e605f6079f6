"""Index expressions: what stands inside the brackets, before any shape is known. No Keras."""

import operator
from collections.abc import Callable
from types import EllipsisType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from kedit._data import (
    SMALL,
    Array,
    Frozen,
    Slot,
    flatten,
    from_json,
    is_array,
    is_tensor,
    to_code,
    to_json,
    to_key,
)
from kedit.errors import PositionError

Item: TypeAlias = Any
"""int, slice, `...`, None, `Positions`, a boolean `Array` or tensor, or a `Slot`."""


class Positions(NamedTuple):
    """An array of integers: its shape, and its numbers in C order."""

    shape: tuple[int, ...]
    numbers: tuple[int, ...]

    def nested(self) -> Any:
        """The numbers as nested lists."""
        return np.array(self.numbers, "int64").reshape(self.shape).tolist()


class Index(Frozen):
    """One index expression in canonical form; `Index(index.items)` equals `index`.

    Integers are Python ints, arrays of them `Positions`, masks boolean `Array`s.

    Args:
        raw: Integer, slice, `...`, `None`, list or array of integers or
            booleans, boolean tensor, or a tuple of these.

    Raises:
        kedit.errors.PositionError: If an item cannot be an index.
    """

    __slots__ = ("items",)
    items: tuple[Item, ...]

    def __init__(self, raw: Any) -> None:
        several = isinstance(raw, tuple) and not isinstance(raw, (Positions, Slot))
        items = tuple([_canonical(item) for item in (raw if several else (raw,))])
        if [item is ... for item in items].count(True) > 1:
            raise PositionError(
                f"An index should have at most one `...`. Received: [{_code(items)}]."
            )
        self._init(items=items)

    def __repr__(self) -> str:
        return f"[{_code(self.items)}]"

    def __reduce__(self) -> Any:
        return (Index, (self.items,))

    def key(self) -> Any:
        """Hashable stand-in, equal for equal indices."""
        return tuple([i if isinstance(i, Positions) else to_key(i) for i in self.items])

    @property
    def is_whole(self) -> bool:
        """Whether the index is `...` alone, which selects everything at every rank."""
        return len(self.items) == 1 and self.items[0] is ...

    @property
    def mask(self) -> Any:
        """The mask of an index that is one mask and nothing else, or None."""
        item = self.items[0] if len(self.items) == 1 else None
        return item if item is not None and is_mask(item) and len(item.shape) else None

    def names_first_axis(self, rank: int | None) -> bool:
        """Whether the index picks particular positions on axis 0 of a tensor of `rank` axes.

        While the rank is not known, an index behind `...` is taken to lie on later axes.
        """
        if not self.items:
            return False
        item = self.items[0]
        if item is ...:
            named = sum(axes_of(later) for later in self.items[1:])
            covers = rank is not None and named >= rank
            return covers and Index(self.items[1:]).names_first_axis(rank)
        if item is None or (is_mask(item) and not len(item.shape)):
            return Index(self.items[1:]).names_first_axis(rank)
        return not (isinstance(item, slice) and item in (slice(None), slice(None, None, 1)))

    def map(self, replace: Callable[[Any], Any]) -> "Index":
        """The same index with `replace` applied to every tensor and slot."""
        items = [replace(i) if is_tensor(i) or isinstance(i, Slot) else i for i in self.items]
        return Index(tuple(items))

    def to_json(self) -> list[Any]:
        return [_item_to_json(item) for item in self.items]

    @classmethod
    def from_json(cls, data: list[Any]) -> "Index":
        return cls(tuple(_item_from_json(item) for item in data))


def axes_of(item: Item) -> int:
    """How many axes of the tensor an item takes up."""
    if item is None or item is ...:
        return 0
    return len(item.shape) if is_mask(item) else 1


def is_mask(item: Item) -> bool:
    """Whether an item is a boolean array or tensor."""
    if isinstance(item, Array):
        return item.dtype == "bool"
    return is_tensor(item) and "bool" in str(item.dtype)


def _canonical(item: Any) -> Item:
    if item is None or isinstance(item, (EllipsisType, Slot, Array, Positions)):
        return item
    if isinstance(item, slice):
        if item.step is not None and _bound(item.step) == 0:
            raise PositionError(f"A slice should have a step other than 0. Received: {item}.")
        return slice(*[_bound(part) for part in (item.start, item.stop, item.step)])
    if isinstance(item, int) and not isinstance(item, bool):
        return item
    if isinstance(item, (bool, list)):
        return _canonical_list(item)
    if not is_tensor(item):
        return _canonical_array(item)
    if is_mask(item):
        return item
    raise PositionError(
        "An index should be known beforehand or be a boolean tensor; integer tensors are not "
        f"supported as an index. Received: {to_code(item)} of dtype {item.dtype}. Write "
        "`at(x)[keras.ops.convert_to_numpy(index)]`."
    )


def _bound(part: Any) -> int | None:
    if part is None or isinstance(part, int):
        return part
    try:
        return operator.index(part)
    except TypeError as error:
        raise PositionError(
            f"A slice should have integers or None as start, stop and step. Received: {part!r}."
        ) from error


def _canonical_list(entries: Any) -> Any:
    """Nested lists of integers or booleans without a detour over NumPy; others as an array."""
    flat = flatten(entries)
    if flat is None or not flat[1] or len(flat[1]) > SMALL:
        return _canonical_array(entries)
    shape, numbers = flat
    if all([isinstance(number, bool) for number in numbers]):
        return Array("bool", shape, numbers)
    if all([isinstance(number, int) and abs(number) < 2**63 for number in numbers]):
        return Positions(shape, tuple([int(number) for number in numbers]))
    return _canonical_array(entries)


def _canonical_array(item: Any) -> Any:
    try:
        array = np.asarray(item)
    except ValueError:  # a ragged list
        array = np.asarray(None)
    if array.size == 0 and not is_array(item):
        array = array.astype("int64")  # as in NumPy, an empty list selects nothing
    if array.dtype.kind == "b":
        return Array.of(array)
    if array.dtype.kind not in "iu":
        raise PositionError(
            "An index should hold integers, slices, `...`, None, or arrays of integers or "
            f"booleans. Received: {item!r} of type {type(item).__name__}. Cast it first, as in "
            "`at(x)[numpy.asarray(index, int)]`."
        )
    if array.ndim == 0:
        return int(array)
    return Positions(array.shape, tuple(array.ravel().tolist()))


def _code(items: tuple[Item, ...]) -> str:
    return ", ".join(_item_code(item) for item in items) if items else "()"


def _item_code(item: Item) -> str:
    if item is ...:
        return "..."
    if isinstance(item, slice):
        parts = ["" if p is None else str(p) for p in (item.start, item.stop, item.step)]
        return ":".join(parts if parts[2] else parts[:2])
    if isinstance(item, Positions):
        if item.numbers:
            return repr(item.nested())
        return "[]" if item.shape == (0,) else f"np.zeros({item.shape}, int)"
    if isinstance(item, Array) and item.array.size:
        return repr(item.array.tolist())
    return to_code(item)


def _item_to_json(item: Item) -> Any:
    if isinstance(item, Positions):
        return {"positions": list(item.numbers), "shape": list(item.shape)}
    return to_json(item)


def _item_from_json(data: Any) -> Item:
    if isinstance(data, dict) and "positions" in data:
        return Positions(tuple(data["shape"]), tuple([int(n) for n in data["positions"]]))
    return from_json(data)
