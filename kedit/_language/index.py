"""Index expressions: the contents of the brackets, before any shape is known. No Keras."""

from collections.abc import Callable
from typing import Any

from kedit._language.constants import Array, Frozen, Placeholder, Slot
from kedit._language.decoding import refused
from kedit._language.items import (
    Each,
    Item,
    Positions,
    Traced,
    TracedSlot,
    axes_of,
    canonical,
    is_mask,
    item_code,
    item_from_json,
    item_key,
    item_to_json,
    leaves_in_item,
    map_item,
    shape_of_item,
)
from kedit._language.pickling import pickled
from kedit.errors import PositionError

_SINGLE = (Positions, Slot, TracedSlot)
"""Items that are tuples in Python, but each a single item."""


@pickled
class Index(Frozen):
    """One index expression in canonical form; `Index(index.items)` equals `index`.

    Integers are Python ints, integer arrays are `Positions`, masks are boolean
    `Array`s, and tensors are `Traced`.

    Args:
        raw: Integer, slice, `...`, `None`, list, array or tensor of integers or
            booleans, `each(...)`, `block(...)`, or a tuple of these.

    Raises:
        kedit.errors.PositionError: If an item cannot be an index.
    """

    __slots__ = ("items",)
    items: tuple[Item, ...]

    def __init__(self, raw: Any) -> None:
        several = isinstance(raw, tuple) and not isinstance(raw, _SINGLE)
        items = tuple([canonical(item) for item in (raw if several else (raw,))])
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
        return tuple([item_key(item) for item in self.items])

    @property
    def is_whole(self) -> bool:
        """Whether the index is `...` alone, which selects everything at any rank."""
        return len(self.items) == 1 and self.items[0] is ...

    @property
    def counts_samples(self) -> bool:
        """Whether an item selects different positions in each sample."""
        return any([isinstance(item, Each) for item in self.items])

    @property
    def mask(self) -> Any:
        """The mask, if it is the only array in the index, or None."""
        arrays = [
            item
            for item in self.items
            if isinstance(item, (Positions, Array, Each))
            or (isinstance(item, Traced) and (is_mask(item) or shape_of_item(item)))
        ]
        return arrays[0] if len(arrays) == 1 and is_mask(arrays[0]) else None

    def tensors(self) -> list[Any]:
        """The tensors in the index, in order."""
        return [leaf for leaf in self.leaves() if not isinstance(leaf, (Slot, Placeholder))]

    def leaves(self) -> list[Any]:
        """The tensors and placeholders in the index, and the slots for them, in order."""
        return [leaf for item in self.items for leaf in leaves_in_item(item)]

    def outline(self) -> tuple[Item, ...]:
        """The items, with each tensor replaced by what planning needs to know about it."""
        found: list[Any] = []

        def open_(leaf: Traced) -> TracedSlot:
            found.append(leaf)
            return TracedSlot(len(found) - 1, shape_of_item(leaf), is_mask(leaf))

        return tuple([map_item(item, open_) for item in self.items])

    def names_first_axis(self, rank: int | None) -> bool:
        """Whether the index picks particular positions on axis 0 of a tensor of `rank` axes.

        If the rank is not known, items after `...` are assumed to be on later axes.
        """
        if not self.items:
            return False
        item = self.items[0]
        if item is ...:
            named = sum(axes_of(later) for later in self.items[1:])
            covers = rank is not None and named >= rank
            return covers and Index(self.items[1:]).names_first_axis(rank)
        if item is None or (is_mask(item) and not shape_of_item(item)):
            return Index(self.items[1:]).names_first_axis(rank)
        return not (isinstance(item, slice) and item in (slice(None), slice(None, None, 1)))

    def map(self, replace: Callable[[Any], Any]) -> "Index":
        """The same index with `replace` applied to every tensor, slot and placeholder."""

        def replaced(leaf: Any) -> Item:
            new = replace(leaf.tensor if isinstance(leaf, Traced) else leaf)
            return new if isinstance(new, (Slot, Placeholder, Positions)) else Traced(new)

        return Index(tuple([map_item(item, replaced) for item in self.items]))

    def known(self, convert: Callable[[Any], Any]) -> "Index":
        """The same index with its tensors converted to arrays, numbers or tensors."""
        return Index(
            tuple([map_item(i, lambda leaf: canonical(convert(leaf.tensor))) for i in self.items])
        )

    def to_json(self) -> list[Any]:
        return [item_to_json(item) for item in self.items]

    @classmethod
    def from_json(cls, data: Any) -> "Index":
        """The index that `to_json` wrote."""
        if not isinstance(data, list) or len(data) > 64:  # NumPy's maximum number of axes
            raise refused("An index should be a list of at most 64 items", data)
        return cls(tuple([item_from_json(item) for item in data]))


def _code(items: tuple[Item, ...]) -> str:
    return ", ".join([item_code(item) for item in items]) if items else "()"
