"""Positions that are computed at run time: bounds, and which of several wins.

Positions out of bounds are moved to a place just past the end of the axis, which
is never read or written. Of equal positions, the last in C order wins. It is found
as the maximum of its segment, so no backend's scatter has to be trusted.
"""

import math
from typing import Any

import numpy as np

from kedit._language.compiler import reads_bytecode
from kedit._language.dtypes import integer_range, kind
from kedit._language.items import Positions, TracedSlot
from kedit._language.types import Tensor
from kedit._plan.bounds import LARGEST, RULES, Rule, from_start
from kedit._plan.layout import Computed, Layout, Part, Pick, has_one_each, with_picks
from kedit._plan.plan import Plan
from kedit._plan.strategy import How
from kedit._run import ops
from kedit._run.axes import (
    check_countable,
    known,
    number_of,
    pad,
    scatter_add,
    sizes,
)
from kedit._run.cast import constant, dtype_of, neutral, seen
from kedit._run.duplicates import scan


class ComputedPositions(Computed):
    """A pick whose positions have been computed.

    Attributes:
        library: What computes positions: `keras.ops`, or NumPy if their values can
            be read.
    """

    def __init__(
        self, pick: Pick, plan: Plan, tensors: Any, sizes: tuple[Any, ...], library: Any
    ) -> None:
        positions = pick.positions
        self.library = library
        self.is_seen = library is np
        self.dims = pick.dims
        self.count = None if pick.count is None else int(pick.count)
        self.has_duplicates = pick.has_duplicates
        self.is_sorted = plan.is_sorted
        flat: Any = None
        inside: Any = None
        total: Any = 1
        row_size: Any = 1
        self.may_be_empty = False
        check_countable(math.prod([sizes[axis] for part in positions.parts for axis in part.axes]))
        for part in positions.parts:
            size = math.prod([sizes[axis] for axis in part.axes])
            known = isinstance(size, int) and size > 0
            self.may_be_empty = self.may_be_empty or not (known or part.kind == "rows")
            place, here = _compute(
                part, tensors, RULES[plan.mode], size, len(positions.shape), library
            )
            flat = place if flat is None else flat * size + place
            row_size = row_size if part.kind == "rows" else row_size * size
            inside = _both(inside, here, library)
            total = total * size
        given = tuple(library.shape(flat))
        self.dim_sizes = tuple(
            [
                given[dim - len(positions.shape)] if size is None else size
                for dim, size in enumerate(positions.shape)
            ]
        )
        if len(given) != len(positions.shape) or not all(
            [
                size is None or size == length
                for size, length in zip(positions.shape, given, strict=True)
            ]
        ):
            flat = library.broadcast_to(flat, self.dim_sizes)
        if inside is not None:
            inside = library.reshape(library.broadcast_to(inside, self.dim_sizes), (-1,))
            if self.is_seen and inside.all():
                inside = None
        flat = library.reshape(flat, (-1,))
        self.row_start: Any = None
        if has_one_each(positions):
            self.row_start = library.arange(sizes[0], dtype="int32") * row_size
        flat = flat if inside is None else library.where(inside, flat, total)
        self.flat = flat.astype("int32") if self.is_seen else flat
        self.inside = inside
        self.size = total
        self._picks: Tensor | None = None
        self._numbers: Tensor | None = None
        self._sorted: Any = None

    def read(self, x: Tensor, axis: int) -> Tensor:
        """The elements at the positions; arbitrary ones at positions out of bounds."""
        if self.inside is None:
            return ops.take(x, self.flat, axis=axis)
        if self.may_be_empty:
            return ops.take(pad(x, axis), self.flat, axis=axis)
        last = self.size - 1  # a size that a compiler leaves open allows only arithmetic
        return ops.take(x, ops.minimum(self.flat - last, 0) + last, axis=axis)

    def winners(self, values: Tensor, axis: int) -> Tensor:
        """For each pick, the value that was given last to its position."""
        return ops.take(values, self.winner(), axis=axis)

    def reduce(self, values: Tensor, axis: int, op: str) -> Tensor:
        """For each pick, the combined value of all that were given to its position."""
        values = _swapped(values, axis)
        winner = ops.convert_to_tensor(self.winner())
        if op == "add":
            start = ops.broadcast_to(neutral("add", dtype_of(values)), ops.shape(values))
            reduced = scatter_add(start, winner, values)
        elif op in ("max", "min"):  # Keras has only the maximum of segments
            numbers = _turned(values) if op == "min" else values
            reduced = ops.segment_max(numbers, winner, sizes(winner)[0])
            reduced = _turned(reduced) if op == "min" else reduced
        else:
            return _swapped(self._scanned(values, op), axis)
        return _swapped(ops.take(reduced, winner, axis=0), axis)

    def _scanned(self, values: Tensor, op: str) -> Tensor:
        """Like `reduce`, along axis 0."""
        library = self.library
        order = self._order()
        ascending = library.take(self.flat, order)
        before = library.concatenate([library.full((1,), -1, dtype="int32"), ascending[:-1]])
        follows = library.equal(before, ascending)
        if self.is_seen:
            starts = np.append(np.flatnonzero(~follows), len(follows))
            longest = int(np.diff(starts).max(initial=1))
        else:
            longest = 2**31 if self.count is None else self.count
        values = ops.take(values, order, axis=0)
        follows = ops.convert_to_tensor(follows)
        values = scan(values, follows, op, (longest - 1).bit_length())
        # The last pick of each run holds the combined value.
        rank = number_of(order, library.shape(order)[0])
        return ops.take(values, library.take(rank, self.winner()), axis=0)

    def number(self) -> Tensor:
        """For each place on the axis, the number of the pick that wins it, else -1."""
        if self.count == 1:
            library = self.library
            return library.where(library.arange(self.size, dtype="int32") == self.flat, 0, -1)
        return self._last()[:-1]

    def _last(self) -> Tensor:
        """For each place on the axis, and the one past it, the last pick that names it, else -1."""
        if self._numbers is None:
            self._numbers = self._find_last()
        return self._numbers

    def _find_last(self) -> Tensor:
        size = self.size + 1
        if self.is_seen or not self.has_duplicates:  # NumPy's last one wins
            return number_of(self.flat, size)
        return ops.maximum(ops.segment_max(self.picks(), self.flat, size), -1)

    def picks(self) -> Any:
        """The numbers of the picks."""
        if self._picks is None:
            count = self.library.shape(self.flat)[0]
            self._picks = self.library.arange(count, dtype="int32")
        return self._picks

    def winner(self) -> Any:
        """For each pick, the number of the last pick that names its position."""
        return self.library.take(self._last(), self.flat)

    def _order(self) -> Any:
        """The picks, sorted by position."""
        if self._sorted is None:
            if self.is_sorted and self.inside is None:  # dropped ones were moved to the end
                self._sorted = self.picks()
            else:
                self._sorted = _argsort(self.flat)
        return self._sorted


def _turned(numbers: Tensor) -> Tensor:
    """Numbers in reversed order: the smallest becomes the largest. Its own inverse."""
    dtype = dtype_of(numbers)
    if kind(dtype) > 1:
        return ops.negative(numbers)
    return ops.subtract(constant(sum(integer_range(dtype)), dtype), numbers)


def _swapped(values: Tensor, axis: int) -> Tensor:
    """Swap an axis with the first one. Its own inverse."""
    order = list(range(len(values.shape)))
    order[0], order[axis] = axis, 0
    return ops.transpose(values, order) if axis else values


def resolve(plan: Plan, sizes: tuple[Any, ...], leaves: Any) -> tuple[Layout, How]:
    """The layout with computed positions.

    In eager mode, index tensors are read and computed in NumPy if this saves finding out which
    positions win or are out of bounds. Constants are always computed in NumPy.

    Args:
        plan: The plan.
        sizes: Sizes of the axes.
        leaves: The tensors and functions of the edit, those of the index first.

    Returns:
        The layout, and the kind of its positions; see `kedit._plan.strategy`.
    """
    layout = plan.layout
    tensors = [leaves[number] for number in layout.index_tensors]
    reads = not tensors or (plan.may_read and plan.gains_by_reading)
    if reads and all([isinstance(size, int) for size in sizes]):
        values = seen(tensors)
        if values is not None:
            return computed(
                plan, sizes, dict(zip(layout.index_tensors, values, strict=True)), np
            ), "seen"
    found = computed(plan, sizes, leaves, ops)
    return found, "traced" if reads_bytecode() else "hidden"


def computed(plan: Plan, sizes: tuple[Any, ...], tensors: Any, library: Any) -> Layout:
    """The layout with positions computed by `library`, which is `keras.ops` or NumPy."""
    return with_picks(
        plan.layout,
        [
            ComputedPositions(pick, plan, tensors, sizes, library) if pick.is_computed else pick
            for pick in plan.layout.picks
        ],
    )


def source_of(source: Any, tensors: Any, library: Any) -> Tensor:
    """The source of a part, or a mask, as a tensor or an array."""
    if isinstance(source, TracedSlot):
        return tensors[source.number]
    if isinstance(source, int):
        return library.array(int(source), dtype="int32")
    if isinstance(source, Positions):
        numbers: Any = source.numbers
        numbers = np.array(numbers, "int32") if library is np else known(numbers)
        return library.reshape(numbers, source.shape)
    return source.array if library is np else constant(source, "bool")


def _argsort(x: Any) -> Any:
    """A stable argsort; the argsort of Keras's NumPy backend is not stable."""
    return np.argsort(x, kind="stable") if isinstance(x, np.ndarray) else ops.argsort(x)


def _both(left: Any, right: Any, library: Any) -> Any:
    if left is None or right is None:
        return right if left is None else left
    return library.logical_and(left, right)


def _compute(
    part: Part, tensors: Any, rule: Rule, size: Any, rank: int, library: Any
) -> tuple[Any, Any]:
    """Positions of a part on its axes, and whether each exists; None if all do."""
    if part.kind == "rows":
        return library.reshape(library.arange(size, dtype="int32"), (-1, *[1] * (rank - 1))), None
    source = source_of(part.source, tensors, library)
    if part.kind == "mask":
        counted = library.cumsum(library.array(library.reshape(source, (-1,)), dtype="int32"))
        wanted = library.arange(1, part.size + 1, dtype="int32")
        places = library.array(library.searchsorted(counted, wanted), dtype="int32")
        # Compare with the size of the mask, which may be empty although the axes are not.
        return places, places < library.shape(counted)[0]
    numbers = _of_32_bits(source, size, rule, library)
    if part.kind == "block":
        count = int(part.size)
        start = rule.start(from_start(numbers, size, library), count, size, library)
        return rule.place(start + library.arange(count, dtype="int32"), size, library)
    if part.each and len(numbers.shape) < rank:
        given = tuple(library.shape(numbers))
        numbers = library.reshape(numbers, (given[0], *[1] * (rank - len(given)), *given[1:]))
    return rule.place(from_start(numbers, size, library), size, library)


def _of_32_bits(numbers: Any, size: Any, rule: Rule, library: Any) -> Any:
    """Integers of any width as int32; those out of bounds stay out of bounds.

    In NumPy as int64, which holds all but the largest of uint64.
    """
    if library is np:
        if numbers.dtype == "uint64":
            size = np.uint64(max(1, size))
            numbers = numbers % size if rule.wraps else np.minimum(numbers, np.uint64(2**62))
        return numbers.astype("int64")
    dtype = dtype_of(numbers)
    if dtype == "int32":
        return numbers
    low, high = integer_range(dtype)
    if high > LARGEST:
        if rule.wraps:
            size = ops.cast(max(1, size) if isinstance(size, int) else ops.maximum(size, 1), dtype)
            return ops.cast(ops.mod(numbers, size), "int32")
        numbers = ops.clip(numbers, max(low, -LARGEST), LARGEST)
    return ops.cast(numbers, "int32")
