"""Positions that are computed at run time: bounds, and which of several wins.

Positions out of bounds are moved to a place just past the end of the axis, which
is never read or written. Of equal positions, the last in C order wins. It is found
as the maximum of its segment, so no backend's scatter has to be trusted.
"""

import math
from functools import cached_property
from typing import Any

import numpy as np

from kedit._language.compiler import reads_bytecode
from kedit._language.dtypes import integer_range, kind
from kedit._language.items import Positions, TracedSlot
from kedit._language.types import Tensor
from kedit._plan.bounds import LARGEST, RULES, Rule, from_start
from kedit._plan.layout import Computed, Layout, Part, Pick, has_one_each, merging, with_picks
from kedit._plan.plan import Plan
from kedit._plan.strategy import How
from kedit._run import ops
from kedit._run.axes import (
    check_countable,
    known,
    length,
    number_of,
    pad,
    scatter_add,
    sizes,
)
from kedit._run.cast import constant, dtype_of, neutral, seen
from kedit._run.duplicates import merged, scan


class ComputedPositions(Computed):
    """A pick whose positions have been computed: by `keras.ops`, or by NumPy if they are seen."""

    def __init__(
        self, pick: Pick, plan: Plan, tensors: Any, sizes: tuple[Any, ...], library: Any
    ) -> None:
        positions = pick.positions
        self.is_seen = library is np
        self.dims = pick.dims
        self.count = None if pick.count is None else int(pick.count)
        self.has_duplicates = pick.has_duplicates
        self.is_sorted = plan.is_sorted
        flat: Any = None
        inside: Any = None
        self._sizes: list[Any] = []
        self._size: Any = None
        self._row_start: Any = None
        row_size: Any = 1
        self.may_be_empty = False
        together = [sizes[axis] for part in positions.parts for axis in part.axes]
        check_countable(math.prod([size for size in together if isinstance(size, int)]))
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
            self._sizes.append(size)
        given = tuple(flat.shape)
        self.dim_sizes = tuple(
            [
                library.shape(flat)[dim - len(positions.shape)] if size is None else size
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
        self.rows: Any = None
        if has_one_each(positions) and ops.may_split() and not self.is_seen:
            self.rows = sizes[0], row_size
        self._row: Any = (library, sizes[0], row_size) if has_one_each(positions) else None
        flat = flat if inside is None else library.where(inside, flat, self.size)
        self.flat = flat.astype("int32") if self.is_seen else flat
        self.inside = inside
        self._picks: Tensor | None = None
        self._numbers: Tensor | None = None

    @property
    def size(self) -> Any:
        """See `Computed`; made when it is needed, and once, or it would be left over in a graph."""
        if self._size is None:
            self._size = math.prod(self._sizes)
        return self._size

    @property
    def row_start(self) -> Any:
        """See `Computed`; made as `size` is."""
        if self._row_start is None and self._row is not None:
            library, rows, row_size = self._row
            self._row_start = library.arange(rows, dtype="int32") * row_size
        return self._row_start

    @property
    def named(self) -> Any:
        """The positions in bounds, each once."""
        return self._winning[0]

    @cached_property
    def _winning(self) -> tuple[Any, Any]:
        """The positions in bounds, each once, and the picks that win them, or None if all do."""
        if not self.has_duplicates and self.inside is None:
            return self.flat, None
        if self._is_sparse:
            order = np.argsort(self.flat, kind="stable")
            ascending = self.flat[order]
            is_last = np.append(ascending[1:] != ascending[:-1], True) & (ascending < self.size)
            named, wins = ascending[is_last], order[is_last]
        else:
            last = self._last()[:-1]
            named = np.flatnonzero(last >= 0)
            wins = last[named]
        return (named, wins) if len(named) < len(self.flat) else (self.flat, None)

    @property
    def _is_sparse(self) -> bool:
        """Whether it is faster to sort the positions than to count all places."""
        return bool(self.size > 100 * len(self.flat))

    def read(self, x: Tensor, axis: int, unique: bool = False) -> Tensor:
        """The elements at the positions; arbitrary ones at positions out of bounds."""
        if unique and self.is_seen:
            return ops.take(x, self.named, axis=axis)
        if self.rows is not None and not self.may_be_empty:
            return self._read_rows(x)
        if self.inside is None:
            return ops.take(x, self.flat, axis=axis)
        if self.may_be_empty:
            return ops.take(pad(x, axis), self.flat, axis=axis)
        last = self.size - 1  # a size that a compiler leaves open allows only arithmetic
        return ops.take(x, ops.minimum(self.flat - last, 0) + last, axis=axis)

    def _read_rows(self, x: Tensor) -> Tensor:
        """Read one element of each row from that row, so that rows can be split among devices."""
        by_row = ops.reshape(x, (*self.rows, *sizes(x)[1:]))
        # Some element of the row, also for those out of bounds.
        places = ops.minimum(self.flat - self.row_start, self.rows[1] - 1)
        return ops.take_along_axis(by_row, places)

    def winners(self, values: Tensor, axis: int) -> Tensor:
        """For each unique position, the value that was given last."""
        if self.is_seen:
            _, wins = self._winning
            return values if wins is None else ops.take(values, wins, axis=axis)
        return ops.take(values, self.winner(), axis=axis)

    def to_all(self, values_u: Tensor, axis: int) -> Tensor:
        """For each pick, the value of its unique position; any one if it is out of bounds."""
        if not self.is_seen or self._winning[1] is None:
            return values_u
        return ops.take(values_u, self._segments, axis=axis)

    def reduce(self, values: Tensor, axis: int, op: str) -> Tensor:
        """For each unique position, the combined value of all that were given."""
        if self.is_seen:
            kept, segments = self._kept
            values = values if kept is None else ops.take(values, kept, axis=axis)
            if op == "multiply":
                return merged(values, axis, op, *merging(segments))
            count = len(self.named)
        elif op == "multiply":
            return _swapped(self._products(_swapped(values, axis)), axis)
        else:
            segments = self.winner()
            count = length(segments, 0)
        values = _swapped(values, axis)
        if op == "add":
            shape = (count, *sizes(values)[1:])
            start = ops.broadcast_to(neutral("add", dtype_of(values)), shape)
            reduced = scatter_add(start, segments, values)
        else:  # Keras has only the maximum of segments
            numbers = _turned(values) if op == "min" else values
            reduced = ops.segment_max(numbers, segments, count)
            reduced = _turned(reduced) if op == "min" else reduced
        return _swapped(reduced if self.is_seen else ops.take(reduced, segments, axis=0), axis)

    @cached_property
    def _segments(self) -> Any:
        """For each pick, the number of its position among those named; 0 if out of bounds."""
        named, wins = self._winning
        if self._is_sparse and wins is not None:  # then they ascend
            return np.minimum(np.searchsorted(named, self.flat), len(named) - 1).astype("int32")
        numbers = np.zeros(self.size + 1, "int32")
        numbers[named] = np.arange(len(named))
        return numbers[self.flat]

    @cached_property
    def _kept(self) -> tuple[Any, Any]:
        """The picks in bounds (None if all are), and the numbers of their positions."""
        if self.inside is None:
            return None, self._segments
        kept = np.flatnonzero(self.inside)
        return kept, self._segments[kept]

    def _products(self, values: Tensor) -> Tensor:
        """The products of the values, along axis 0, for positions that are hidden."""
        order, ascending = self._ascending()
        before = ops.concatenate([ops.full((1,), -1, dtype="int32"), ascending[:-1]], axis=0)
        follows = ops.equal(before, ascending)
        longest = 2**31 if self.count is None else self.count
        values = ops.take(values, order, axis=0)
        values = scan(values, follows, (longest - 1).bit_length())
        # The last pick of each run holds the combined value.
        rank = number_of(order, length(order, 0))
        return ops.take(values, ops.take(rank, self.winner()), axis=0)

    def number(self) -> Tensor:
        """For each place on the axis, the number of its unique position, else -1."""
        if self.is_seen:
            return number_of(self.named, self.size)
        if self.count == 1:
            return ops.where(ops.arange(self.size, dtype="int32") == self.flat, 0, -1)
        return self._last()[:-1]

    def is_in_row(self) -> Tensor:
        """Whether each place on the axis is the one that is picked from its row."""
        own = ops.expand_dims(self.flat - self.row_start, 1)  # past the row if out of bounds
        return ops.reshape(own == ops.arange(self.rows[1], dtype="int32"), (self.size,))

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
            self._picks = ops.arange(length(self.flat, 0), dtype="int32")
        return self._picks

    def winner(self) -> Any:
        """For each pick, the number of the last pick that names its position, which is hidden."""
        return ops.take(self._last(), self.flat)

    def _ascending(self) -> tuple[Any, Any]:
        """The picks, sorted by position, and their positions, for positions that are hidden."""
        if self.is_sorted and self.inside is None:  # dropped ones were moved to the end
            return self.picks(), self.flat
        count = self.count
        if isinstance(self.size, int) and count and (self.size + 1) * count <= LARGEST:
            # Numbers that tell both are sorted in a sixth of the time on XLA.
            both = ops.sort(self.flat * count + self.picks())
            return both % count, both // count
        order = ops.argsort(self.flat)
        return order, ops.take(self.flat, order)


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

    In eager mode, index tensors on the host are read and computed in NumPy if this saves finding
    out which positions win or are out of bounds. Constants are always computed in NumPy.

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
        values = seen(tensors, on_host=True)
        if values is not None:
            named = dict(zip(layout.index_tensors, values, strict=True))
            found = computed(plan, sizes, named, np)
            # If none is in bounds, backends may refuse to take values from none.
            if all([not pick.is_computed or len(pick.named) for pick in found.picks]):
                return found, "seen"
    found = computed(plan, sizes, leaves, ops)
    return found, "traced" if reads_bytecode() else "split" if ops.may_split() else "hidden"


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
    if library is np and numbers.size and 0 <= numbers.min() and numbers.max() < size:
        return numbers, None  # the usual case
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
