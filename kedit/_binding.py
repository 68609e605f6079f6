"""Binding an index to a shape, by NumPy's rules: bounds, broadcasting, layout of the result.

Everything here is worked out in plain Python before any tensor is touched.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from kedit._data import SMALL, Array
from kedit._index import Index, Positions, axes_of
from kedit._layout import Layout, Pick
from kedit._types import Shape
from kedit.errors import OperandError, PositionError, ShapeError


def bind(index: Index, shape: Shape, *, per_sample: bool = False) -> Layout:
    """Bind an index to a shape.

    Args:
        index: What stands in the brackets.
        shape: Shape of the tensor; None for a size that is not known.
        per_sample: Whether the index counts inside one sample, that is from
            axis 1 on. The result then starts with the batch axis.

    Raises:
        kedit.errors.PositionError: If the index does not fit the shape.
        kedit.errors.ShapeError: If index arrays do not broadcast together.
    """
    key = (_hashable(index.items), tuple(shape), per_sample)
    # Plans of long index arrays are large, and seldom met twice.
    long = any([isinstance(i, Positions) and len(i.numbers) > SMALL for i in index.items])
    return _plan(*key) if long else _cached(*key)


def _hashable(items: tuple[Any, ...]) -> tuple[Any, ...]:
    """Items with slices as plain tuples: before Python 3.12 a slice cannot be a key."""
    return tuple([(i.start, i.stop, i.step) if isinstance(i, slice) else i for i in items])


@lru_cache(maxsize=1024)
def _cached(items: tuple[Any, ...], shape: Shape, per_sample: bool) -> Layout:
    return _plan(items, shape, per_sample)


def _plan(items: tuple[Any, ...], shape: Shape, per_sample: bool) -> Layout:
    index = Index(tuple([slice(*item) if type(item) is tuple else item for item in items]))
    if per_sample and not shape:
        raise PositionError(
            "`sample[...]` should be given a tensor with a batch axis. Received: a tensor of "
            "shape (). Write `at[...]`."
        )
    layout = _bind(index, shape[1:] if per_sample else shape)
    return _with_batch_axis(layout, shape[0]) if per_sample else layout


def _with_batch_axis(layout: Layout, batch: int | None) -> Layout:
    whole = slice(None) if batch is None else range(batch)
    picks = [Pick(p.size, p.positions, tuple([dim + 1 for dim in p.dims])) for p in layout.picks]
    return Layout(
        shape=(batch, *layout.shape),
        result=(batch, *layout.result),
        order=(0, *[axis + 1 for axis in layout.order]),
        start=layout.start + 1,
        merged=layout.merged,
        picks=(Pick(batch, whole, (0,)), *picks),
    )


def _bind(index: Index, shape: Shape) -> Layout:
    items = _expand(index, shape)
    joint = _joint(index, items, shape)
    # NumPy puts the dimensions of index arrays where the arrays stand, or first where a slice,
    # None or `...` stands between them. An int beside arrays counts as one of them.
    advanced = [n for n, (item, _) in enumerate(items) if isinstance(item, (int, Positions, Array))]
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
        elif isinstance(item, slice):
            size = shape[axis]
            positions: Any = item if size is None else range(*item.indices(size))
            singles[axis] = Pick(size, positions, (len(result),))
            result.append(singles[axis].count)
        elif isinstance(item, int):
            position = _in_bounds(item, axis, shape)
            known = shape[axis] is not None
            positions = range(position, position + 1) if known else (position,)
            singles[axis] = Pick(shape[axis], positions, ())
    if joint is None:
        order = tuple(range(len(shape)))
        return Layout(shape, tuple(result), order, 0, 0, tuple([singles[a] for a in order]))
    return _merge(shape, tuple(result), singles, joint, joint_dims)


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
        # A `...` for no axis stays: in NumPy it still stands between the items beside it.
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
        axes: The axis of each.
        shape: Their common shape.
        numbers: Of each, the positions in C order.
    """

    axes: list[int]
    shape: tuple[int, ...]
    numbers: list[tuple[int, ...]]


def _joint(index: Index, items: list[tuple[Any, int]], shape: Shape) -> _Joint | None:
    axes: list[int | None] = []  # None for a mask without axes, which only adds a dimension
    arrays: list[Positions] = []
    for item, axis in items:
        if isinstance(item, Positions):
            numbers = tuple([_in_bounds(number, axis, shape) for number in item.numbers])
            arrays.append(Positions(item.shape, numbers))
            axes.append(axis)
        elif isinstance(item, Array):
            _check_mask(item, axis, shape)
            arrays.extend(_places(item))
            axes.extend(range(axis, axis + len(item.shape)) if item.shape else [None])
    if not arrays:
        return None
    try:
        joint = np.broadcast_shapes(*[array.shape for array in arrays])
    except ValueError as error:
        raise ShapeError(
            f"Index arrays should broadcast together. Received: {index} with arrays of shapes "
            f"{', '.join([str(array.shape) for array in arrays])}. For all combinations, write "
            "`at(x)[numpy.ix_(rows, columns)]`."
        ) from error
    spread = [_spread(array, joint) for array in arrays]
    placed = [
        (axis, numbers) for axis, numbers in zip(axes, spread, strict=True) if axis is not None
    ]
    return _Joint([axis for axis, _ in placed], joint, [numbers for _, numbers in placed])


def _places(mask: Array) -> list[Positions]:
    """A mask as the positions of its True entries, along each of its axes."""
    entries = mask.array.ravel().tolist() if mask.numbers is None else mask.numbers
    flat = [place for place, entry in enumerate(entries) if entry]
    if not mask.shape:
        return [Positions((len(flat),), tuple(flat))]
    places, stride = [], math.prod(mask.shape)
    for size in mask.shape:
        stride //= max(size, 1)
        places.append(Positions((len(flat),), tuple([n // stride % size for n in flat])))
    return places


def _spread(array: Positions, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The numbers of an array that is broadcast to `shape`."""
    if array.shape == shape:
        return array.numbers
    sizes = (1,) * (len(shape) - len(array.shape)) + array.shape
    numbers, inner = [0], 1
    for size, wanted in zip(reversed(sizes), reversed(shape), strict=True):
        steps = range(wanted) if size == wanted else (0,) * wanted
        numbers = [step * inner + number for step in steps for number in numbers]
        inner *= size
    return tuple([array.numbers[number] for number in numbers])


def _check_mask(mask: Array, axis: int, shape: Shape) -> None:
    sizes = shape[axis : axis + len(mask.shape)]
    if None in sizes:
        raise OperandError(
            "A mask should lie on axes of known size. Received: a mask of shape "
            f"{mask.shape} for axes of sizes {sizes}. Give the size in `keras.Input(shape=...)` "
            "or use a condition: `at.where(X > 0)`."
        )
    if mask.shape != sizes:
        raise PositionError(
            f"A mask should have the shape of the axes it lies on. Received: a mask of shape "
            f"{mask.shape} for axes of shape {sizes} in a tensor of shape {shape}. For one mask "
            "for every sample write `sample[mask]`; to broadcast write `at.where(mask)`."
        )


def _in_bounds(position: int, axis: int, shape: Shape) -> int:
    """A position counted from the start, where the size of the axis is known."""
    size = shape[axis]
    if size is None:
        return position
    if not -size <= position < size:
        raise PositionError(
            f"An index should lie between {-size} and {size - 1} on axis {axis}. Received: index "
            f"{position}, which is out of bounds for axis {axis} with size {size} in a tensor of "
            f"shape {shape}."
        )
    return position + size if position < 0 else position


def _merge(
    shape: Shape, result: Shape, singles: dict[int, Pick], joint: _Joint, dims: tuple[int, ...]
) -> Layout:
    """Join the axes that index arrays address together into one axis of flat positions."""
    sizes = [shape[axis] for axis in joint.axes]
    if len(sizes) == 1 and sizes[0] is None:
        _check_one_sign(joint.numbers[0], shape)
    elif None in sizes:
        raise OperandError(
            "Index arrays that belong together should lie on axes of known size. Received: "
            f"arrays for axes {tuple(joint.axes)} of a tensor of shape {shape}. Give the size in "
            "`keras.Input(shape=...)`."
        )
    start = joint.axes[0] if joint.axes else 0
    size: int | None
    if not joint.axes:  # only True or False: an axis of length 1 is added, and picked or not
        size, positions = 1, (0,) * math.prod(joint.shape)
    elif len(sizes) == 1:
        size, positions = sizes[0], joint.numbers[0]
    else:
        known = [size for size in sizes if size is not None]
        size, positions = math.prod(known), _flat(joint.numbers, known)
    before = [axis for axis in sorted(singles) if axis < start]
    after = [axis for axis in sorted(singles) if axis >= start]
    picks = (
        *[singles[a] for a in before],
        Pick(size, positions, dims),
        *[singles[a] for a in after],
    )
    order = (*before, *joint.axes, *after)
    return Layout(shape, result, order, len(before), len(joint.axes), picks)


def _flat(numbers: list[tuple[int, ...]], sizes: list[int]) -> tuple[int, ...]:
    flat = list(numbers[0])
    for axis_numbers, size in zip(numbers[1:], sizes[1:], strict=True):
        flat = [a * size + b for a, b in zip(flat, axis_numbers, strict=True)]
    return tuple(flat)


def _check_one_sign(numbers: tuple[int, ...], shape: Shape) -> None:
    if min(numbers, default=0) < 0 <= max(numbers, default=0):
        raise OperandError(
            "Positions on an axis of unknown size should be counted all from its start or all "
            "from its end: else two may turn out to be one. Received: "
            f"{list(numbers)} for a tensor of shape {shape}. Edit twice, `first | second`, or give "
            "the size in `keras.Input(shape=...)`."
        )
