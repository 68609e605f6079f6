"""What happens to positions out of bounds: each mode once, for ints, NumPy arrays and tensors.

A rule uses the functions of a library: `INTS`, NumPy, or the ledger of `keras.ops`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from kedit._language.types import Mode

LARGEST = 2**31 - 1
"""The largest position, since backends count in 32 bits."""


class INTS:
    """The functions that rules call, for Python's ints."""

    minimum, maximum = min, max

    @staticmethod
    def where(condition: bool, x1: int, x2: int) -> int:
        return x1 if condition else x2

    @staticmethod
    def mod(x1: int, x2: int) -> int:
        return x1 % x2

    @staticmethod
    def logical_and(x1: bool, x2: bool) -> bool:
        return x1 and x2


def from_start(position: Any, size: Any, library: Any) -> Any:
    """Positions with negative ones counted from the end, once."""
    return library.where(position < 0, position + size, position)


def _at_least(least: int, size: Any, library: Any) -> Any:
    return max(least, size) if isinstance(size, int) else library.maximum(size, least)


def _exists(here: Any, size: Any) -> Any:
    """Whether positions that were moved exist: all do, unless the axis is empty."""
    return None if isinstance(size, int) and size > 0 else here


def _drop(place: Any, size: Any, library: Any) -> tuple[Any, Any]:
    return place, library.logical_and(place >= 0, place < size)


def _clip(place: Any, size: Any, library: Any) -> tuple[Any, Any]:
    place = library.minimum(library.maximum(place, 0), size - 1)
    return place, _exists(place >= 0, size)


def _wrap(place: Any, size: Any, library: Any) -> tuple[Any, Any]:
    place = library.mod(place, _at_least(1, size, library))
    return place, _exists(place < size, size)


def _stay(start: Any, count: int, size: Any, library: Any) -> Any:
    return start


def _shift(start: Any, count: int, size: Any, library: Any) -> Any:
    return library.minimum(library.maximum(start, 0), _at_least(0, size - count, library))


def _turn(start: Any, count: int, size: Any, library: Any) -> Any:
    """Wrap the start before anything is added to it, which might overflow."""
    return library.mod(start, _at_least(1, size, library))


class Rule(NamedTuple):
    """What a mode does.

    Attributes:
        place: Function of positions counted from the start, the size of the axis, and a library.
            Returns the positions, and whether each exists, or None if all do.
        start: Function of the start of a block, the number of its positions, the size of the axis,
            and a library. Returns the start.
        moves: Whether positions out of bounds are moved to positions that others may name.
        raises: Whether known positions out of bounds raise.
        wraps: Whether a position is taken modulo the size.
    """

    place: Callable[[Any, Any, Any], tuple[Any, Any]]
    start: Callable[[Any, int, Any, Any], Any]
    moves: bool = False
    raises: bool = False
    wraps: bool = False


RULES: dict[Mode | None, Rule] = {
    None: Rule(_drop, _stay, raises=True),
    "drop": Rule(_drop, _stay),
    "fill": Rule(_drop, _stay),
    "clip": Rule(_clip, _shift, moves=True),
    "wrap": Rule(_wrap, _turn, moves=True, wraps=True),
    "promise_in_bounds": Rule(_clip, _shift, moves=True),
    "raise": Rule(_drop, _stay, raises=True),
}


def of_32_bits(number: int, size: int | None, rule: Rule) -> int:
    """A number in 32 bits that stays out of bounds, or wraps to the same position."""
    if rule.wraps and size:
        return number % size
    return max(-LARGEST, min(LARGEST, number))
