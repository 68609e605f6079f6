"""Which of the selected positions a random edit changes: what may be asked for, and the draw.

`RandomEdit` draws by NumPy from a key, `RandomEditing` by `keras.random` from its state. Both draw
numbers from 0 to 1; what is chosen by these numbers is said here, once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NoReturn

import keras

from kedit._edit import Edit
from kedit._language.constants import Array, freeze, is_array
from kedit._language.expression import Expression
from kedit._language.pickling import pickled
from kedit._language.selection import Selection
from kedit._language.types import Shape
from kedit.errors import OperandError, ShapeError


@pickled
@dataclass(frozen=True, slots=True)
class Draw:
    """How positions are drawn; see `kedit.inputs.RandomEdit` for the attributes."""

    count: int | None = None
    rate: float | None = None
    block: tuple[int | tuple[int, int], ...] | None = None
    axes: int | tuple[int, ...] | None = None
    probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("count", "rate", "probability"):  # which may be numbers of NumPy
            value = getattr(self, name)
            object.__setattr__(self, name, value.item() if is_array(value) else value)
        for name in ("block", "axes"):  # JSON turns tuples into lists
            object.__setattr__(self, name, _as_tuples(getattr(self, name)))
        if [self.count, self.rate, self.block].count(None) != 2:
            raise OperandError(
                "A random edit should be given one of `count`, `rate` and `block`. Received: "
                f"count={self.count!r}, rate={self.rate!r}, block={self.block!r}."
            )
        if self.count is not None:
            check_whole("count", self.count)
        for name in ("rate", "probability"):
            value = getattr(self, name)
            given = value is not None or name == "probability"
            if given and not (type(value) in (int, float) and 0 <= value <= 1):
                raise OperandError(f"`{name}` should lie from 0 to 1. Received: {value!r}.")
        if self.block is not None:
            self._check_block(self.block)
        axes = self.axes if isinstance(self.axes, tuple) else (self.axes,)
        if self.axes is not None and not all([type(axis) is int for axis in axes]):
            raise OperandError(f"`axes` should be ints. Received: axes={self.axes!r}.")

    def _check_block(self, block: Any) -> None:
        if not isinstance(block, tuple) or not all([_is_size(entry) for entry in block]):
            raise OperandError(
                "`block` should have a size for each axis: a whole number, not negative, or a pair "
                f"`(low, high)` to draw it from. Received: block={block!r}. Write `block=(8, 8)` "
                "or `block=((2, 8), (2, 8))`."
            )
        if self.axes is not None and len(block) != (
            len(self.axes) if isinstance(self.axes, tuple) else 1
        ):
            raise OperandError(
                "`block` should have a size for each of `axes`. Received: "
                f"block={block!r}, axes={self.axes!r}."
            )

    def get_config(self) -> dict[str, Any]:
        """Return the draw as JSON data."""
        return {field.name: _as_lists(getattr(self, field.name)) for field in fields(self)}

    def check(self, sizes: Shape) -> None:
        """Raise if a selection has too few axes or positions; None is an unknown size."""
        within: list[Any] = [sizes[axis] for axis in self._axes(len(sizes))]
        for size, entry in zip(within, self.block or (), strict=False):
            most = entry[1] if isinstance(entry, tuple) else entry
            if size is not None and most > size:
                _too_many(size, f"block={self.block!r}")
        if self.count is not None and None not in within:
            total = math.prod(within)
            if self.count > total:
                _too_many(total, f"count={self.count!r}")

    def shape(self, sizes: Shape) -> Shape:
        """Return the shape of a mask: 1 for an axis that is taken whole."""
        axes = self._axes(len(sizes))
        return tuple([size if axis in axes else 1 for axis, size in enumerate(sizes)])

    def mask(self, sizes: Any, uniform: Callable[[Any], Any], library: Any) -> Any:
        """Draw the positions, as booleans of shape `(*batch_shape, *self.shape(sizes))`.

        On an axis whose size was not known to `check`, a block that is longer takes all of it.

        Args:
            sizes: Shape of the selection in one sample: ints, or scalar tensors.
            uniform: Function that draws numbers from [0, 1). For a tuple of sizes it
                returns a tensor of shape `(*batch_shape, *sizes)`.
            library: `numpy` or `keras.ops`. Sorts and counts along the last axis.
        """
        rank = len(sizes)
        axes = self._axes(rank)
        happens = (uniform(()) < self.probability)[(..., *[None] * rank)]
        if self.block is None:
            chosen = self._scattered([sizes[axis] for axis in axes], uniform, library)
            order = sorted(range(len(axes)), key=axes.__getitem__)
            if order != list(range(len(axes))):
                lead = len(chosen.shape) - len(axes)
                moved = (*range(lead), *[lead + number for number in order])
                chosen = library.transpose(chosen, moved)
            return chosen[_along(rank, axes)] & happens
        chosen = happens
        for axis, entry in zip(axes, self.block, strict=True):
            width: Any = entry
            if isinstance(entry, tuple):
                low, high = entry
                width = library.floor(uniform(()) * (high - low + 1)) + low
            drawn = uniform(())
            dtype = keras.backend.standardize_dtype(drawn.dtype)
            size = sizes[axis] if isinstance(sizes[axis], int) else library.cast(sizes[axis], dtype)
            free = size - width + 1
            free = max(free, 1) if isinstance(free, int) else library.maximum(free, 1.0)
            start = library.floor(drawn * free)
            place = library.arange(sizes[axis], dtype=dtype)
            here = (start[..., None] <= place) & (place < (start + width)[..., None])
            chosen = chosen & here[_along(rank, [axis])]
        return chosen

    def _scattered(self, within: Any, uniform: Any, library: Any) -> Any:
        """Positions drawn one by one, along the axes `within`."""
        drawn = uniform(tuple(within))
        if self.rate is not None:
            return drawn < self.rate
        sizes = library.shape(drawn)
        lead = tuple(sizes)[: len(drawn.shape) - len(within)]
        flat = library.reshape(drawn, (*lead, math.prod(within)))
        ranks = library.argsort(library.argsort(flat))
        return library.reshape(ranks < self.count, sizes)

    def _axes(self, rank: int) -> list[int]:
        given: Any = self.axes if isinstance(self.axes, tuple) else (self.axes,)
        if self.axes is None:
            given = tuple(range(rank if self.block is None else len(self.block)))
        axes = [axis + rank if axis < 0 else axis for axis in given]
        if len(set(axes)) < len(axes) or not all([0 <= axis < rank for axis in axes]):
            raise ShapeError(
                f"`axes` should be different axes of a selection of rank {rank}. Received: "
                f"axes={given!r}."
            )
        return axes


def check_whole(name: str, value: Any) -> None:
    """Raise if a value is not a whole number from 0 on."""
    if type(value) is not int or value < 0:
        raise OperandError(f"`{name}` should be whole, not negative. Received: {value!r}.")


def check_narrows(edit: Any, fix: str) -> None:
    """Raise if `edit` is not one edit that a mask can narrow; the message shows `fix`."""
    if not isinstance(edit, Edit) or edit.op == "get" or edit.tensors():
        raise OperandError(
            "A random edit should be given one edit by numbers, arrays or expressions. "
            f"Received: `{edit!r}`. Write `{fix}`."
        )
    if callable(edit.selection.condition):
        raise OperandError(
            "A random edit should be given a condition that is an expression or a mask. "
            f"Received: `{edit!r}`. Write `.where(X > 0.0)`."
        )


def narrow(edit: Edit, mask: Any) -> Edit:
    """Return an edit of one tensor that changes only what a mask chooses."""
    place = edit.selection
    condition = place.condition
    if isinstance(condition, Array) and is_array(mask):
        mask = mask & condition.array
    elif condition is not None:
        mask = Expression("logical_and", condition, mask)
    if is_array(mask):
        mask = freeze(mask)
    narrowed = Selection(place.coordinates, place.index, mask)
    return replace(edit, selection=narrowed, path=None, part="x")


def _along(rank: int, axes: list[int]) -> Any:
    """The index that puts `axes`, in order, among `rank` axes."""
    return (..., *[slice(None) if axis in axes else None for axis in range(rank)])


def _as_tuples(value: Any) -> Any:
    return tuple([_as_tuples(entry) for entry in value]) if isinstance(value, list) else value


def _as_lists(value: Any) -> Any:
    return [_as_lists(entry) for entry in value] if isinstance(value, tuple) else value


def _is_size(entry: Any) -> bool:
    low, high = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, entry)
    return type(low) is type(high) is int and 0 <= low <= high


def _too_many(size: int, received: str) -> NoReturn:
    raise ShapeError(
        f"A random edit should choose at most as many places as there are, {size}. Received: "
        f"{received}."
    )
