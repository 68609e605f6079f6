"""Binding an index to a shape, by NumPy's rules: bounds, broadcasting, layout of the result.

Everything here is worked out in plain Python before any tensor is touched.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from kedit._language.compiler import as_numbers, called_when_traced, reads_bytecode
from kedit._language.constants import SMALL, Array
from kedit._language.index import Index
from kedit._language.items import Block, Each, Positions, TracedSlot, axes_of, is_mask, item_code
from kedit._language.selection import Selection
from kedit._language.types import Mode, Shape
from kedit._plan.bounds import INTS, RULES, from_start, of_32_bits
from kedit._plan.layout import Layout, Part, Pick, TracedPositions, size_of
from kedit.errors import BroadcastError, CoordinateError, OperandError, PositionError, ShapeError


class BindOptions(NamedTuple):
    """How an index is bound to a shape.

    Attributes:
        mode: What happens to positions out of bounds. None raises for constants
            and drops positions in a tensor.
        unique: Whether the user promises that no position occurs twice.
        masks: What a mask selects: the "positions" where it is True; all of its
            "places"; or, given a number, the positions of that many Trues.
    """

    mode: Mode | None = None
    unique: bool = False
    masks: Literal["positions", "places"] | int = "positions"


def bind(
    selection: Selection,
    shape: Shape,
    options: BindOptions = BindOptions(),  # noqa: B008
) -> Layout:
    """Bind the index of a selection to a shape.

    Args:
        selection: The index, and the axis that it counts from. In sample coordinates it
            counts from axis 1, and the result starts with the batch axis.
        shape: Shape of the tensor, with None for an unknown size.
        options: What happens to positions out of bounds, and to masks.

    Raises:
        kedit.errors.PositionError: If the index does not fit the shape.
        kedit.errors.ShapeError: If index arrays do not broadcast together.
    """
    items = selection.index.outline()
    per_sample = selection.coordinates == "sample"
    plain = tuple([_plain(item) for item in items])
    key = (plain, as_numbers(shape), per_sample, tuple(options))
    if reads_bytecode():
        has_arrays = any([isinstance(item, Array) for item in items])  # these have no plain form
        return _bound(*key) if has_arrays else _bound_when_traced(*key)
    # Layouts of long index arrays are large, and seldom used twice.
    is_long = any([isinstance(i, Positions) and len(i.numbers) > SMALL for i in items])
    return _bound(*key) if is_long else _cached(*key)


def _plain(item: Any) -> Any:
    """An item as a tuple that names its kind; slices are not hashable before Python 3.12."""
    if isinstance(item, slice):
        return ("slice", item.start, item.stop, item.step)
    if isinstance(item, Positions):
        return ("Positions", item.shape, item.numbers)
    if isinstance(item, TracedSlot):
        return ("TracedSlot", item.number, as_numbers(item.shape), item.is_mask)
    if isinstance(item, Each):
        return ("Each", _plain(item.positions))
    return ("Block", _plain(item.start), item.size) if isinstance(item, Block) else item


_KINDS: dict[str, Any] = {
    "slice": slice,
    "Positions": Positions,
    "TracedSlot": TracedSlot,
    "Each": lambda positions: Each(_from_plain(positions)),
    "Block": lambda start, size: Block(_from_plain(start), size),
}


def _from_plain(item: Any) -> Any:
    return _KINDS[item[0]](*item[1:]) if isinstance(item, tuple) else item


def _bound(
    items: tuple[Any, ...], shape: Shape, per_sample: bool, given: tuple[Any, ...]
) -> Layout:
    index, options = Index(tuple([_from_plain(item) for item in items])), BindOptions(*given)
    if per_sample and not shape:
        raise PositionError(
            "`sample[...]` should be given a tensor with a batch axis. Received: a tensor of "
            "shape (). Write `at[...]`."
        )
    if index.counts_samples and not per_sample:
        raise CoordinateError(
            "`each` gives positions inside a sample and should stand in `sample[...]`. Received: "
            f"`at{index}`. Write `sample{index}`, where axes are counted after the batch axis."
        )
    if not per_sample:
        return _with_rows(_bind(index, shape, options, 1))
    if sum([axes_of(item) for item in index.items]) > len(shape) - 1:
        raise PositionError(
            "`sample[...]` should name at most as many axes as a sample has; axis 0 is the "
            f"batch. Received: `sample{index}` for a tensor of shape {shape}, whose samples "
            f"have the shape {shape[1:]}. Write `at[...]` to count the batch axis, too."
        )
    return _with_batch_axis(_bind(index, shape[1:], options, shape[0]), shape[0])


@called_when_traced
def _bound_when_traced(*key: Any) -> Layout:
    return _bound(*key)


_cached = lru_cache(maxsize=1024)(_bound)


def _with_rows(layout: Layout) -> Layout:
    """The layout, with the numbers of all rows, beside positions in each, known to be that."""
    rows: Any = layout.shape[:1]
    for number, pick in enumerate(layout.picks):
        if not pick.is_computed or pick.positions.parts[0].axes != (0,):
            continue
        (first, *others), shape = pick.positions.parts, pick.positions.shape
        if not others or not isinstance(first.source, Positions) or shape[:1] != rows:
            continue
        if first.source == Positions(rows + (1,) * (len(shape) - 1), tuple(range(*rows))):
            parts = (Part("rows", (0,)), *others)
            known = Pick(pick.size, pick.positions._replace(parts=parts), pick.dims)
            picks = (*layout.picks[:number], known, *layout.picks[number + 1 :])
            given = (layout.shape, layout.result, layout.order, layout.start, layout.merged, picks)
            return Layout(*given, layout.mask, layout.mask_dim)
    return layout


def _with_batch_axis(layout: Layout, batch: int | None) -> Layout:
    picks = [_behind_batch_axis(pick) for pick in layout.picks]
    start = layout.start
    order = [axis + 1 for axis in layout.order]
    merged = layout.merged
    for number, pick in enumerate(picks):
        if pick.is_computed and any([part.each for part in pick.positions.parts]):
            # The batch axis is indexed together with these, by the numbers of the samples.
            joint = order[start : start + merged]
            order = [0, *joint, *order[:start], *order[start + merged :]]
            parts = (Part("rows", (0,)), *pick.positions.parts)
            rows = pick.positions._replace(parts=parts, shape=(batch, *pick.positions.shape))
            size = size_of((batch, pick.size))
            picks = [Pick(size, rows, (0, *pick.dims)), *picks[:number], *picks[number + 1 :]]
            start, merged = 0, merged + 1
            break
    else:
        whole = slice(None) if batch is None else range(batch)
        picks.insert(0, Pick(batch, whole, (0,)))
        order, start = [0, *order], start + 1
    return Layout(
        shape=(batch, *layout.shape),
        result=(batch, *layout.result),
        order=tuple(order),
        start=start,
        merged=merged,
        picks=tuple(picks),
        mask=layout.mask,
        mask_dim=layout.mask_dim + 1,
    )


def _behind_batch_axis(pick: Pick) -> Pick:
    positions = pick.positions
    if pick.is_computed:
        parts = [part._replace(axes=tuple([a + 1 for a in part.axes])) for part in positions.parts]
        positions = positions._replace(parts=tuple(parts))
    return Pick(pick.size, positions, tuple([dim + 1 for dim in pick.dims]))


def _bind(index: Index, shape: Shape, options: BindOptions, batch: int | None) -> Layout:
    items = _expand(index, shape)
    joint = _joint(index, items, shape, options, batch)
    # NumPy puts the dimensions of index arrays where the arrays are, or first if a slice, None or
    # `...` is between them. An int next to arrays counts as one of them.
    kinds = (int, Positions, Array, TracedSlot, Each)
    advanced = [n for n, (item, _) in enumerate(items) if isinstance(item, kinds)]
    together = advanced == list(range(advanced[0], advanced[-1] + 1)) if advanced else True
    joint_at = advanced[0] if together and advanced else 0
    result: list[int | None] = []
    singles: dict[int, Pick] = {}
    joint_dims: tuple[int, ...] = ()
    for number, (item, axis) in enumerate(items):
        if joint is not None and number == joint_at:
            joint_dims = tuple(range(len(result), len(result) + len(joint.shape)))
            result.extend(joint.shape)
        if item is None:
            result.append(1)
        elif isinstance(item, (slice, Block)):
            positions = _block(item, axis, shape, options) if isinstance(item, Block) else item
            if isinstance(positions, slice) and shape[axis] is not None:
                positions = range(*positions.indices(shape[axis] or 0))
            singles[axis] = Pick(shape[axis], positions, (len(result),))
            result.append(singles[axis].count)
        elif isinstance(item, int) or _is_number(item):
            singles[axis] = Pick(shape[axis], _one(item, axis, shape, options), ())
    if joint is None:
        order = tuple(range(len(shape)))
        return Layout(shape, tuple(result), order, 0, 0, tuple([singles[a] for a in order]))
    return _merge(shape, tuple(result), singles, joint, joint_dims)


def _is_number(item: Any) -> bool:
    """Whether an item is a tensor that holds a single position."""
    return isinstance(item, TracedSlot) and not item.is_mask and item.shape == ()


def _one(item: Any, axis: int, shape: Shape, options: BindOptions) -> Any:
    """The position of an item that picks only one and removes its axis."""
    if isinstance(item, int):
        position = _normalized(item, axis, shape, options.mode)
        if position is not None:
            return range(position, position + 1)
        item = Positions((), (of_32_bits(item, shape[axis], RULES[options.mode]),))
    return TracedPositions((Part("numbers", (axis,), item),), (), False)


_SPARE = 2**16
"""Maximum number of positions by which a block may exceed its axis; each takes memory."""


def _block(item: Block, axis: int, shape: Shape, options: BindOptions) -> Any:
    """The positions of a block: a range, if it is known to be in bounds."""
    size = shape[axis]
    if size is not None and item.size > size + _SPARE:
        raise PositionError(
            f"A block should be at most {_SPARE} longer than its axis. Received: a block of "
            f"{item.size} on axis {axis} of size {size}."
        )
    if isinstance(item.start, int) and size is not None:
        start = from_start(item.start, size, INTS)
        start = RULES[options.mode].start(start, item.size, size, INTS)
        if 0 <= start and start + item.size <= size:
            return range(start, start + item.size)
        if options.mode == "raise":
            raise PositionError(
                f"A block of {item.size} should lie on axis {axis} of size {size}. Received: start "
                f"{item.start} for a tensor of shape {shape}. To drop what lies outside, leave "
                '`mode` out; to move the block inside, write `mode="clip"`.'
            )
    start = item.start
    if isinstance(start, int):
        start = of_32_bits(start, size, RULES[options.mode])
    part = Part("block", (axis,), start, size=item.size)
    repeats = RULES[options.mode].moves
    fits = size is not None and item.size <= size
    return TracedPositions((part,), (item.size,), repeats and not fits and not options.unique)


def _expand(index: Index, shape: Shape) -> list[tuple[Any, int]]:
    """Pair each item with its first axis; `...` and missing axes become slices."""
    needed = sum([axes_of(item) for item in index.items])
    if needed > len(shape):
        raise PositionError(
            f"An index should name at most as many axes as the tensor has. Received: {index} "
            f"for a tensor of shape {shape}: {needed} axes for {len(shape)}."
        )
    items: list[Any] = []
    missing: list[Any] = [slice(None)] * (len(shape) - needed)
    for item in index.items:
        # Keep a `...` for no axis: in NumPy it still separates the items next to it.
        items.extend((missing or [...]) if item is ... else [item])
    if not any([item is ... for item in index.items]):
        items.extend(missing)
    pairs, axis = [], 0
    for item in items:
        pairs.append((item, axis))
        axis += axes_of(item)
    return pairs


@dataclass(eq=False)
class _Joint:
    """The index arrays of an index, broadcast together.

    Attributes:
        axes: The axes that they index.
        shape: Their common shape.
        numbers: For each axis, the positions in C order, or None if they are computed.
        parts: What positions are computed from, if `numbers` is None.
        may_repeat: Whether computed positions may occur twice.
        mask: The mask whose places are all in the result, or None.
    """

    axes: list[int]
    shape: Shape
    numbers: list[tuple[int, ...]] | None = None
    parts: tuple[Part, ...] = ()
    may_repeat: bool = False
    mask: Any = None


_ARRAYS = (Positions, Array, TracedSlot, Each)


def _joint(
    index: Index,
    items: list[tuple[Any, int]],
    shape: Shape,
    options: BindOptions,
    batch: int | None,
) -> _Joint | None:
    arrays = [
        (item, axis) for item, axis in items if isinstance(item, _ARRAYS) and not _is_number(item)
    ]
    for item, axis in arrays:
        if is_mask(item):
            _check_mask(item, axis, shape)
        elif RULES[options.mode].raises:
            _check_bounds(item.positions if isinstance(item, Each) else item, axis, shape)
    if not arrays:
        return None
    if isinstance(options.masks, str):
        arrays = [entry for item, axis in arrays for entry in _without_empty_mask(item, axis)]
    if options.masks == "places" and is_mask(arrays[0][0]):
        mask: Any
        ((mask, axis),) = arrays
        axes = list(range(axis, axis + len(mask.shape)))
        size = size_of(tuple([shape[a] for a in axes])) if axes else 1
        return _Joint(axes, (size,), mask=mask)
    if isinstance(options.masks, str):
        known = _known_joint(index, arrays, shape, options)
        if known is not None:
            return known
    return _computed_joint(index, arrays, shape, options, batch)


def _known_joint(
    index: Index, arrays: list[tuple[Any, int]], shape: Shape, options: BindOptions
) -> _Joint | None:
    """Join index arrays that are constant, short, and in bounds of axes of known size, or None."""
    axes: list[int | None] = []  # None for a mask without axes, which only adds a dimension
    known: list[Positions] = []
    for item, axis in arrays:
        if isinstance(item, Array):
            for places, on in _without_known_mask(item, axis):
                known.append(places)
                axes.append(on)
            continue
        if not isinstance(item, Positions) or len(item.numbers) > SMALL:
            return None
        numbers = [_normalized(number, axis, shape, options.mode) for number in item.numbers]
        normalized = tuple([number for number in numbers if number is not None])
        if shape[axis] is None or len(normalized) < len(numbers):
            return None
        known.append(Positions(item.shape, normalized))
        axes.append(axis)
    joint = _broadcast(index, [array.shape for array in known])
    spread = [_spread(array, joint) for array in known]
    placed = [
        (axis, numbers) for axis, numbers in zip(axes, spread, strict=True) if axis is not None
    ]
    return _Joint([axis for axis, _ in placed], joint, [numbers for _, numbers in placed])


def _computed_joint(
    index: Index,
    arrays: list[tuple[Any, int]],
    shape: Shape,
    options: BindOptions,
    batch: int | None,
) -> _Joint:
    """Join index arrays whose positions are computed at run time."""
    if isinstance(options.masks, str):
        arrays = [entry for item, axis in arrays for entry in _without_known_mask(item, axis)]
    masks = [item for item, _ in arrays if is_mask(item)]
    shapes = [
        _shape_in_sample(item, batch) if isinstance(item, Each) else item.shape
        for item, _ in arrays
        if not is_mask(item)
    ]
    others = _broadcast(index, shapes)
    count = options.masks if isinstance(options.masks, int) else others[-1] if others else None
    if len(masks) > 1 or (masks and (count is None or (others and count == 1))):
        raise OperandError(
            "A mask beside index arrays should be the only one, and they should hold a position "
            f"for each True. Received: {index} for a tensor of shape {shape}. Write an int in "
            "place of an array of one position, or a condition that broadcasts in place of the "
            "mask: `.where(mask[:, None])`."
        )
    parts: list[Part] = []
    for item, axis in arrays:
        if is_mask(item):
            axes = tuple(range(axis, axis + len(item.shape)))
            parts.append(Part("mask", axes, item, size=count or 0))
        elif isinstance(item, Each):
            parts.append(
                Part(
                    "numbers",
                    (axis,),
                    _positions_32(item.positions, shape[axis], options.mode),
                    each=True,
                )
            )
        elif axis is not None:
            parts.append(Part("numbers", (axis,), _positions_32(item, shape[axis], options.mode)))
    joint = _broadcast(index, [*shapes, *[(count,) for _ in masks]])
    one_for_each_true = bool(masks) and len(joint) == 1  # the positions of a mask are distinct
    may_repeat = not options.unique and not one_for_each_true and size_of(joint) != 1
    if may_repeat and not RULES[options.mode].moves:
        may_repeat = _may_repeat(arrays, shape, joint)
    if any([axis is not None and _differ(item, shape[axis], joint) for item, axis in arrays]):
        may_repeat = False
    axes_all = [axis for part in parts for axis in part.axes]
    return _Joint(axes_all, joint, None, tuple(parts), may_repeat)


def _without_empty_mask(item: Any, axis: int) -> list[tuple[Any, Any]]:
    """Replace a mask that has no elements, and need not fit its axes, with its positions."""
    if not is_mask(item) or 0 not in item.shape:
        return [(item, axis)]
    return [(Positions((0,), ()), axis + n) for n in range(len(item.shape))]


def _without_known_mask(item: Any, axis: int) -> list[tuple[Any, Any]]:
    """Replace a constant mask with its positions, on no axis if the mask has none."""
    if not isinstance(item, Array):
        return [(item, axis)]
    axes = range(axis, axis + len(item.shape)) if item.shape else [None]
    return list(zip(_places(item), axes, strict=True))


def _differ(item: Any, size: int | None, joint: Shape) -> bool:
    """Whether an index array holds a position of its own for each entry of the joint shape."""
    if not isinstance(item, Positions) or size is None or size_of(joint) != len(item.numbers):
        return False
    low, high = min(item.numbers, default=0), max(item.numbers, default=-1)
    return 0 <= low <= high < size and len(set(item.numbers)) == len(item.numbers)


def _may_repeat(arrays: list[tuple[Any, Any]], shape: Shape, joint: Shape) -> bool:
    """Whether index arrays that broadcast together may name a position twice."""
    if not all([isinstance(item, Positions) for item, _ in arrays]):
        return True
    spread = []
    for item, axis in arrays:
        numbers = item.numbers
        if min(numbers, default=0) < 0 <= max(numbers, default=0):
            size = shape[axis]
            if size is None:
                return True
            numbers = tuple([number + size if number < 0 else number for number in numbers])
        spread.append(_spread(Positions(item.shape, numbers), joint))
    return len(set(zip(*spread, strict=True))) < len(spread[0])


def _shape_in_sample(item: Each, batch: int | None) -> Shape:
    """The shape of the positions inside a sample."""
    given = item.positions.shape
    fits = given[0] == 1 or given[0] == batch
    if isinstance(item.positions, TracedSlot):
        fits = fits or None in (given[0], batch)
    if not fits:
        raise ShapeError(
            "`each` should be given positions whose first axis is the batch, or of length 1. "
            f"Received: `{item_code(item)}` of shape {given} for a batch of "
            f"{'unknown size' if batch is None else batch}. For the same positions in every "
            "sample write them without `each`."
        )
    rest: Shape = given[1:]
    return rest


def _broadcast(index: Index, shapes: list[Shape]) -> Shape:
    """The shape that shapes broadcast to; an unknown size fits any other."""
    rank = max([len(shape) for shape in shapes], default=0)
    joint: list[int | None] = [1] * rank
    for shape in shapes:
        for dim, size in enumerate(shape, rank - len(shape)):
            if joint[dim] == 1 or (joint[dim] is None and size != 1):
                joint[dim] = size
            elif size not in (1, None, joint[dim]):
                raise BroadcastError(
                    f"Index arrays should broadcast together. Received: {index} with arrays of "
                    f"shapes {', '.join([str(shape) for shape in shapes])}. For all combinations, "
                    "write `at(x)[numpy.ix_(rows, columns)]`."
                )
    return tuple(joint)


def _places(mask: Array) -> list[Positions]:
    """The positions of a mask's True entries, along each of its axes."""
    entries = mask.array.ravel().tolist() if mask.numbers is None else mask.numbers
    flat = [place for place, entry in enumerate(entries) if entry]
    if not mask.shape:
        return [Positions((len(flat),), tuple(flat))]
    places, stride = [], math.prod(mask.shape)
    for size in mask.shape:
        stride //= max(size, 1)
        places.append(Positions((len(flat),), tuple([n // stride % size for n in flat])))
    return places


def _spread(array: Positions, shape: Shape) -> tuple[int, ...]:
    """The numbers of an array, broadcast to `shape`."""
    if array.shape == shape:
        return array.numbers
    sizes = (1,) * (len(shape) - len(array.shape)) + array.shape
    numbers, inner = [0], 1
    for size, wanted in zip(reversed(sizes), reversed(shape), strict=True):
        steps = range(size) if size == wanted else (0,) * (wanted or 0)
        numbers = [step * inner + number for step in steps for number in numbers]
        inner *= size
    return tuple([array.numbers[number] for number in numbers])


def _check_mask(mask: Any, axis: int, shape: Shape) -> None:
    sizes = shape[axis : axis + len(mask.shape)]
    if None in sizes and isinstance(mask, Array) and 0 not in mask.shape:
        raise OperandError(
            "A mask should lie on axes of known size. Received: a mask of shape "
            f"{mask.shape} for axes of sizes {sizes}. Give the size in `keras.Input(shape=...)` "
            "or use a condition: `at.where(X > 0)`."
        )
    for given, size in zip(mask.shape, sizes, strict=True):
        # As in NumPy, a mask of length 0 selects nothing from an axis of any length.
        if given not in (0, size) and None not in (given, size):
            raise PositionError(
                "A mask should have the shape of the axes it lies on. Received: a mask of shape "
                f"{tuple(mask.shape)} for axes of shape {sizes} in a tensor of shape {shape}. For "
                "one mask for every sample write `sample[mask]`; to broadcast write "
                "`at.where(mask)`."
            )


def _normalized(position: int, axis: int, shape: Shape, mode: Mode | None) -> int | None:
    """A position counted from the start, or None if it has to be computed at run time."""
    size = shape[axis]
    if size is None:
        return None
    place, rule = from_start(position, size, INTS), RULES[mode]
    if 0 <= place < size:
        return int(place)
    if rule.raises:
        raise PositionError(
            f"An index should lie between {-size} and {size - 1} on axis {axis}. Received: index "
            f"{position}, which is out of bounds for axis {axis} with size {size} in a tensor of "
            f"shape {shape}."
        )
    place, exists = rule.place(place, size, INTS)
    return None if exists is False else int(place)


def _check_bounds(item: Any, axis: int, shape: Shape) -> None:
    """Raise if an array names a position that does not exist on an axis of known size."""
    size = shape[axis]
    if not isinstance(item, Positions):
        return
    low, high = min(item.numbers, default=0), max(item.numbers, default=-1)
    if size is not None and not -size <= low <= high < size:
        for number in item.numbers:
            _normalized(number, axis, shape, None)


def _positions_32(item: Any, size: int | None, mode: Mode | None) -> Any:
    if not isinstance(item, Positions):
        return item
    return Positions(item.shape, tuple([of_32_bits(n, size, RULES[mode]) for n in item.numbers]))


def _merge(
    shape: Shape, result: Shape, singles: dict[int, Pick], joint: _Joint, dims: tuple[int, ...]
) -> Layout:
    """Merge the axes that index arrays address together into one axis of flat positions."""
    size = size_of(tuple([shape[axis] for axis in joint.axes]))  # 1 without axes: one is added
    if joint.mask is not None:
        positions: Any = slice(None) if size is None else range(size)
    elif joint.numbers is None:
        positions = TracedPositions(joint.parts, joint.shape, joint.may_repeat)
    elif joint.numbers:
        positions = _flat(joint.numbers, [shape[axis] or 0 for axis in joint.axes])
    else:  # only True or False: an axis of length 1 is added, and picked or not
        positions = (0,) * (size_of(joint.shape) or 0)
    start = joint.axes[0] if joint.axes else 0
    before = [axis for axis in sorted(singles) if axis < start]
    after = [axis for axis in sorted(singles) if axis >= start]
    picks = (
        *[singles[a] for a in before],
        Pick(size, positions, dims),
        *[singles[a] for a in after],
    )
    order = (*before, *joint.axes, *after)
    merged = len(joint.axes)
    mask_dim = dims[0] if joint.mask is not None else 0
    return Layout(shape, result, order, len(before), merged, picks, joint.mask, mask_dim)


def _flat(numbers: list[tuple[int, ...]], sizes: list[int]) -> tuple[int, ...]:
    flat = list(numbers[0])
    for axis_numbers, size in zip(numbers[1:], sizes[1:], strict=True):
        flat = [a * size + b for a, b in zip(flat, axis_numbers, strict=True)]
    return tuple(flat)
