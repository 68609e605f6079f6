"""Where an index lands in a shape: what is picked from each axis, and the layout of the result.

Every index is brought into one canonical form: axes that several index arrays
address together are merged into one, and then each axis is picked from
independently. So a selection is a product of one-dimensional picks.
`kedit._plan.bind` does this; its result is defined here.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from kedit._language.compiler import called_when_traced
from kedit._language.constants import SMALL
from kedit._language.items import TracedSlot
from kedit._language.types import Shape, Tensor

FEW = 2**16
"""Maximum number of places that a kept plan stores."""


Sequenced: TypeAlias = Literal["positions", "unique", "inverse", "last"]


class Part(NamedTuple):
    """Positions on one axis, or for a mask on several, that are computed at run time.

    Attributes:
        kind: "numbers" for positions, "rows" for the numbers of the samples, "mask"
            for the places where a mask is True, "block" for consecutive positions.
        axes: The axes of the tensor that they are on.
        source: `Positions`, boolean `Array` or int, or a `TracedSlot` for a tensor of
            the index.
        each: Whether the first axis of the source is the batch.
        size: Number of positions of a block or a mask.
    """

    kind: Literal["numbers", "rows", "mask", "block"]
    axes: tuple[int, ...]
    source: Any = None
    each: bool = False
    size: int = 0


class TracedPositions(NamedTuple):
    """Positions on an axis that are computed at run time.

    Attributes:
        parts: What they are computed from; several parts give flat positions.
        shape: Shape of the positions.
        may_repeat: Whether a position may occur more than once.
    """

    parts: tuple[Part, ...]
    shape: Shape
    may_repeat: bool


def has_one_each(positions: TracedPositions) -> bool:
    """Whether there is one position in each row of the batch."""
    return positions.parts[0].kind == "rows" and size_of(positions.shape[1:]) == 1


@dataclass(eq=False)
class Pick:
    """What is picked from one axis.

    Attributes:
        size: Length of the axis, or None.
        positions: `range` or tuple of non-negative positions, in order; a slice if
            `size` is None; or `TracedPositions`.
        dims: The dimensions of the result that run along this pick; none for an int.
        count: Number of picked positions, or None.
        is_whole: Whether the whole axis is picked, in order.
        is_array: Whether `positions` is a tuple.
        is_computed: Whether `positions` is `TracedPositions`.
        unique: The distinct positions: ascending for a tuple, else in order.
        is_ordered: Whether the positions equal `unique`.
        has_duplicates: Whether a position is, or may be, picked more than once.
    """

    size: int | None
    positions: Any
    dims: tuple[int, ...]
    count: int | None = field(init=False)
    is_whole: bool = field(init=False)
    is_array: bool = field(init=False)
    is_computed: bool = field(init=False)
    unique: Any = field(init=False)
    is_ordered: bool = field(init=False)
    has_duplicates: bool = field(init=False)
    _arrays: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        positions = self.positions
        self.is_computed = isinstance(positions, TracedPositions)
        self.is_array = isinstance(positions, tuple) and not self.is_computed
        if self.is_computed:
            self.count = size_of(positions.shape)
            self.is_whole = self.is_ordered = False
            self.unique = None
            self.has_duplicates = positions.may_repeat
            return
        is_slice = isinstance(positions, slice)
        self.count = None if is_slice else len(positions)
        whole = slice(None) if is_slice else range(self.size or 0)
        self.is_whole = not self.is_array and positions == whole
        self.unique = tuple(sorted(set(positions))) if self.is_array else positions
        self.is_ordered = not self.is_array or self.unique == positions
        self.has_duplicates = self.is_array and len(self.unique) < len(positions)

    def array(self, what: Sequenced) -> Any:
        """A sequence computed from a tuple of positions, as a NumPy array kept with the plan."""
        if what not in self._arrays:
            numbers = sequence(what, self.positions)
            dtype = "int32" if max(numbers, default=0) < 2**31 else "int64"
            self._arrays[what] = np.array(numbers, dtype)
        return self._arrays[what]

    @cached_property
    def merging(self) -> "Merging":
        """How to combine the values of equal positions; kept with the plan."""
        return merging(self.array("inverse"))


class Computed:
    """A pick whose positions are computed when the edit runs; `kedit._run.positions` does it.

    Its unique positions are those `named`, if they are seen. Else there is one for each pick, and
    those of equal picks have equal values.

    Attributes:
        dims: See `Pick`.
        dim_sizes: Sizes of these dimensions.
        size: Length of the axis.
        count: Number of picked positions, or None if a graph does not know it.
        flat: The positions, of shape `(count,)`; `size` for those out of bounds.
        inside: Whether each is in bounds, or None if all are.
        named: If they are seen: the positions in bounds, each once.
        row_start: If there is one position in each row of the axis, the first place
            of each row, of shape `(count,)`. Else None.
        rows: Number and size of these rows, if they may be split among devices: then each row
            reads and writes by itself. Else None.
        may_be_empty: Whether the axis may turn out to be empty.
        has_duplicates: Whether a position may occur more than once.
        is_sorted: Whether the user promises that the positions ascend.
        is_seen: Whether the positions are NumPy arrays, whose values can be read.
    """

    is_computed = True
    is_whole = is_array = is_ordered = False

    dims: tuple[int, ...]
    dim_sizes: tuple[Any, ...]
    size: Any
    count: int | None
    flat: Any
    inside: Any
    named: Any
    row_start: Any
    rows: tuple[Any, Any] | None
    may_be_empty: bool
    has_duplicates: bool
    is_sorted: bool
    is_seen: bool

    def read(self, x: Tensor, axis: int, unique: bool = False) -> Tensor:
        """The elements at the positions; arbitrary ones at positions out of bounds."""
        raise NotImplementedError

    def winners(self, values: Tensor, axis: int) -> Tensor:
        """For each unique position, the value that was given last."""
        raise NotImplementedError

    def reduce(self, values: Tensor, axis: int, op: str) -> Tensor:
        """For each unique position, the combined value of all that were given."""
        raise NotImplementedError

    def to_all(self, values_u: Tensor, axis: int) -> Tensor:
        """For each pick, the value of its unique position."""
        raise NotImplementedError

    def is_in_row(self) -> Any:
        """Whether each place on the axis is the one that is picked from its row."""
        raise NotImplementedError

    def number(self) -> Any:
        """For each place on the axis, the number of its unique position, else -1."""
        raise NotImplementedError

    def picks(self) -> Any:
        """The numbers of the picks."""
        raise NotImplementedError

    def winner(self) -> Any:
        """For each pick, the number of the last pick that names its position."""
        raise NotImplementedError


Picked: TypeAlias = Pick | Computed


@called_when_traced
def sequence(what: Sequenced, positions: tuple[int, ...]) -> tuple[int, ...]:
    """A sequence computed from positions.

    Args:
        what: "positions": the positions themselves. "unique": the distinct ones, ascending.
            "inverse": for each position, its number among the unique ones. "last": for each unique
            position, the last pick that names it, which wins a `set`.
        positions: The positions.
    """
    if what == "positions":
        return positions
    unique = sorted(set(positions))
    if what == "unique":
        return tuple(unique)
    if what == "last":
        last = {position: pick for pick, position in enumerate(positions)}
        return tuple([last[position] for position in unique])
    numbers = {position: number for number, position in enumerate(unique)}
    return tuple([numbers[position] for position in positions])


class Merging(NamedTuple):
    """How to combine the values of equal positions into one each, in pairs of neighbours.

    Attributes:
        pairs: Number of pairs in each step.
        orders: How to arrange the values before each step: the first of each pair, then the second
            ones, then those without a partner; and after the last step, one for each position.
    """

    pairs: Sequence[int]
    orders: Sequence[Any]


def merging(numbers: Any) -> Merging:
    """How to combine the values of equal numbers; the numbers are a NumPy array from 0 on.

    With `n` equal numbers at most, there are `log2(n)` steps.
    """
    runs = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers)
    pairs, orders = [], []
    numbers = numbers[runs]
    while counts.max(initial=0) > 1:
        rank = np.arange(len(numbers)) - (np.cumsum(counts) - counts)[numbers]
        is_second = rank % 2 == 1
        is_alone = ~is_second & (rank + 1 == counts[numbers])
        parts = [np.flatnonzero(is_) for is_ in (~is_second & ~is_alone, is_second, is_alone)]
        pairs.append(len(parts[0]))
        orders.append(runs[np.concatenate(parts)])
        left = numbers[np.concatenate([parts[0], parts[2]])]
        runs = np.argsort(left, kind="stable")
        numbers, counts = left[runs], (counts + 1) // 2
    return Merging(pairs, [*orders, runs])


@called_when_traced
def merging_of(positions: tuple[int, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """`merging` of the values of equal positions, as tuples."""
    found = merging(np.array(sequence("inverse", positions)))
    return tuple(found.pairs), tuple([tuple(order.tolist()) for order in found.orders])


@dataclass(eq=False)
class Layout:
    """An index bound to a shape.

    Attributes:
        shape: Shape of the tensor.
        result: NumPy's shape of `x[index]`; with `mask`, it has all places of the
            mask instead of those where it is True.
        order: The tensor's axes in the order that puts merged axes side by side.
        merged: How many axes, from `start` on in that order, are merged into one.
        start: See `merged`.
        picks: One for each axis after merging: a `Pick`, or when the edit runs a `Computed` in
            place of one that is computed.
        mask: The mask, `Array` or `TracedSlot`, whose places are all in the result.
        mask_dim: The dimension of the result that runs along its places.
        like: A layout that differs only in its picks, in what is known about them.
        dims: The result's dimensions in the order of the picks; those of `None` come last.
        is_plain: Whether the result has one dimension for each pick and no other.
        is_whole: Whether the whole tensor is selected, in order.
        is_empty: Whether nothing is selected.
        is_computed: Whether any positions are computed at run time.
        has_duplicates: Whether an element is, or may be, selected more than once.
        is_in_order: Whether the axes are in the tensor's order, and merged ones come first.
        index_tensors: The numbers of the index tensors from which positions are computed.
        few_positions: The places that are picked, in order of the picks, if they are few of very
            many, as positions on the first axes of the canonical form. Else None.
    """

    shape: Shape
    result: Shape
    order: tuple[int, ...]
    start: int
    merged: int
    picks: tuple[Any, ...]
    mask: Any = None
    mask_dim: int = 0
    like: InitVar[Any] = None
    dims: tuple[int, ...] = field(init=False)
    is_plain: bool = field(init=False)
    is_whole: bool = field(init=False)
    is_empty: bool = field(init=False)
    is_computed: bool = field(init=False)
    has_duplicates: bool = field(init=False)
    is_in_order: bool = field(init=False)
    index_tensors: tuple[int, ...] = field(init=False)
    few_positions: list[tuple[int, ...]] | None = field(init=False)

    def __post_init__(self, like: Any) -> None:
        if like is not None:
            self.dims, self.is_plain, self.is_whole = like.dims, like.is_plain, like.is_whole
            self.is_empty, self.is_computed = like.is_empty, like.is_computed
            self.has_duplicates, self.is_in_order = like.has_duplicates, like.is_in_order
            self.index_tensors, self.few_positions = like.index_tensors, like.few_positions
            return
        picked = [dim for pick in self.picks for dim in pick.dims]
        self.dims = (*picked, *[dim for dim in range(len(self.result)) if dim not in picked])
        one_each = all([len(pick.dims) == 1 for pick in self.picks])
        self.is_plain = one_each and len(self.picks) == len(self.result)
        self.is_whole = all([pick.is_whole for pick in self.picks])
        self.is_empty = 0 in self.result
        self.is_computed = any([pick.is_computed for pick in self.picks])
        self.has_duplicates = any([pick.has_duplicates for pick in self.picks])
        self.is_in_order = self.order == tuple(range(len(self.order))) and self.start == 0
        parts = [p for pick in self.picks if pick.is_computed for p in pick.positions.parts]
        sources = [part.source for part in parts if isinstance(part.source, TracedSlot)]
        self.index_tensors = tuple([source.number for source in sources])
        self.few_positions = self._few_of_many()

    def _few_of_many(self) -> list[tuple[int, ...]] | None:
        if self.is_computed or self.is_whole:
            return None
        partial = [pick for pick in self.picks if not pick.is_whole]
        size = size_of(tuple([pick.size for pick in partial]))
        if (
            size is None
            or size <= FEW
            or any([pick.is_whole for pick in self.picks[: len(partial)]])
        ):
            return None
        if math.prod([len(pick.unique) for pick in partial]) > SMALL:
            return None
        return list(itertools.product(*[pick.unique for pick in partial]))

    @cached_property
    def targets(self) -> Any:
        """The picked places, as positions on the first axes of the tensor.

        A NumPy array of integers with a row for each place; None if the places are not on the
        first axes, axes were reordered, or axes were merged where everything is picked.
        """
        named = [pick.unique for pick in self.picks if not pick.is_whole]
        is_joint = len(self.picks) != len(self.shape)
        behind = any([pick.is_whole for pick in self.picks[: len(named)]])
        joins_whole = is_joint and (not self.merged or self.start >= len(named))
        if behind or joins_whole or self.order != tuple(range(len(self.order))):
            return None
        columns = list(np.array(list(itertools.product(*named))).T)
        if is_joint:
            joint: Any = self.shape[self.start : self.start + self.merged]
            columns[self.start : self.start + 1] = np.unravel_index(columns[self.start], joint)
        targets = np.stack(columns, 1)
        return targets.astype("int32") if targets.max(initial=0) < 2**31 else targets

    @cached_property
    def places(self) -> Any:
        """Whether each place is picked, along axes that are not picked whole; None if too many.

        A boolean NumPy array that broadcasts to the canonical form.
        """
        if self.is_computed:
            return None
        sizes = [1 if pick.is_whole else pick.size for pick in self.picks]
        count = size_of(tuple(sizes))
        if count is None or count > FEW:
            return None
        places = np.ones(sizes, bool)
        for axis, pick in enumerate(self.picks):
            if not pick.is_whole:
                here = np.zeros(sizes[axis], bool)
                here[list(pick.positions)] = True
                places &= here.reshape([-1 if a == axis else 1 for a in range(len(sizes))])
        return places


def with_picks(layout: Layout, picks: list[Any]) -> Layout:
    """The same layout, with computed picks in place of the original ones."""
    given = (layout.shape, layout.result, layout.order, layout.start, layout.merged, tuple(picks))
    return Layout(*given, layout.mask, layout.mask_dim, layout)


def size_of(shape: Shape) -> int | None:
    """Number of elements of a shape, or None if it is unknown."""
    size = 1
    for length in shape:
        if length is None:
            return None
        size *= length
    return size
