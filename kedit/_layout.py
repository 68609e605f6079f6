"""Where an index lands in a shape: positions along each axis, and NumPy's layout of the result.

Everything here is worked out in NumPy and Python before any tensor is touched.
Every index is brought to one canonical form: axes that several index arrays
address together are merged into one, and then each axis is picked from on its
own, so that a selection is a product of one-dimensional picks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kedit._index import Index, axes_of, is_mask
from kedit._types import Shape
from kedit.errors import OperandError, PositionError, ShapeError


@dataclass(frozen=True, eq=False)
class Pick:
    """What is picked from one axis.

    Attributes:
        size: Length of the axis, or None.
        positions: `range` or int64 array of positions, in order, not negative;
            where `size` is None a slice or an int64 array as the user wrote it.
        dims: The dimensions of the result that run along this pick; none for an int.
    """

    size: int | None
    positions: range | slice | np.ndarray[Any, Any]
    dims: tuple[int, ...]

    @cached_property
    def is_whole(self) -> bool:
        """Whether the whole axis is picked, in order."""
        if isinstance(self.positions, slice):
            return self.positions == slice(None)
        return isinstance(self.positions, range) and self.positions == range(self.size or 0)

    @cached_property
    def count(self) -> int | None:
        return None if isinstance(self.positions, slice) else len(self.positions)

    @cached_property
    def unique(self) -> np.ndarray[Any, Any]:
        """The different positions, ascending."""
        return np.unique(np.asarray(self.positions))

    @cached_property
    def has_duplicates(self) -> bool:
        return isinstance(self.positions, np.ndarray) and len(self.unique) < len(self.positions)

    @cached_property
    def inverse(self) -> np.ndarray[Any, Any]:
        """For each pick the number of its position in `unique`."""
        return np.searchsorted(self.unique, np.asarray(self.positions))

    @cached_property
    def last(self) -> np.ndarray[Any, Any]:
        """For each of `unique` its last pick, which wins a `set`."""
        last = np.zeros(len(self.unique), "int64")
        last[self.inverse] = np.arange(len(self.inverse))  # NumPy writes in order
        return last


@dataclass(frozen=True, eq=False)
class Layout:
    """An index bound to a shape.

    Attributes:
        shape: Shape of the tensor.
        result: NumPy's shape of `x[index]`.
        order: The tensor's axes in the order that puts merged axes side by side.
        merged: How many axes, from `start` on in that order, are merged into one.
        start: See `merged`.
        picks: One for each axis after merging.
    """

    shape: Shape
    result: Shape
    order: tuple[int, ...]
    start: int
    merged: int
    picks: tuple[Pick, ...]

    @cached_property
    def is_whole(self) -> bool:
        return all(pick.is_whole for pick in self.picks)

    @cached_property
    def is_empty(self) -> bool:
        return 0 in self.result

    @cached_property
    def has_duplicates(self) -> bool:
        return any(pick.has_duplicates for pick in self.picks)

    @cached_property
    def dims(self) -> tuple[int, ...]:
        """The result's dimensions in the order of the picks; those of `None` come last."""
        picked = [dim for pick in self.picks for dim in pick.dims]
        return (*picked, *(dim for dim in range(len(self.result)) if dim not in picked))


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
    if per_sample and not shape:
        raise PositionError(
            "`sample[...]` should be given a tensor with a batch axis. Received: a tensor of "
            "shape (). Write `at[...]`."
        )
    layout = _bind(index, tuple(shape[1:] if per_sample else shape))
    return _with_batch_axis(layout, shape[0]) if per_sample else layout


def _with_batch_axis(layout: Layout, batch: int | None) -> Layout:
    picks = (
        Pick(pick.size, pick.positions, tuple(dim + 1 for dim in pick.dims))
        for pick in layout.picks
    )
    return Layout(
        shape=(batch, *layout.shape),
        result=(batch, *layout.result),
        order=(0, *(axis + 1 for axis in layout.order)),
        start=layout.start + 1,
        merged=layout.merged,
        picks=(_pick_slice(slice(None), batch, 0), *picks),
    )


def _bind(index: Index, shape: Shape) -> Layout:
    items = _expand(index, shape)
    arrays, array_axes, joint = _joint_arrays(index, items, shape)
    # NumPy puts the dimensions of index arrays where the arrays stand, or first where a slice
    # or None stands between them. An int beside arrays counts as one of them.
    advanced = [n for n, (item, _) in enumerate(items) if not isinstance(item, slice | None)]
    together = advanced == list(range(advanced[0], advanced[-1] + 1)) if advanced else True
    result: list[int | None] = []
    slots: dict[int, tuple[int, ...]] = {}  # first axis of an item -> its dimensions
    joint_at = advanced[0] if together and advanced else 0
    has_arrays = any(hasattr(item, "dtype") for item, _ in items)

    def place_joint() -> None:
        slots[-1] = tuple(range(len(result), len(result) + len(joint)))
        result.extend(joint)

    if has_arrays and not together:
        place_joint()
    for number, (item, axis) in enumerate(items):
        if has_arrays and together and number == joint_at:
            place_joint()
        if item is None:
            result.append(1)
        elif isinstance(item, slice):
            slots[axis] = (len(result),)
            result.append(_slice_length(item, shape[axis]))
    singles = {
        axis: _pick_slice(item, shape[axis], *slots[axis])
        if isinstance(item, slice)
        else _pick_int(item, axis, shape)
        for item, axis in items
        if isinstance(item, slice | int)
    }
    if not has_arrays:
        order = tuple(range(len(shape)))
        return Layout(shape, tuple(result), order, 0, 0, tuple(singles[a] for a in order))
    return _merge(shape, tuple(result), singles, arrays, array_axes, slots[-1])


def _expand(index: Index, shape: Shape) -> list[tuple[Any, int]]:
    """Pair each item with its first axis; `...` and missing axes become slices."""
    needed = sum(axes_of(item) for item in index.items)
    if needed > len(shape):
        raise PositionError(
            f"An index should name at most as many axes as the tensor has. Received: {index} "
            f"for a tensor of shape {shape}: {needed} axes for {len(shape)}."
        )
    items: list[Any] = []
    missing = [slice(None)] * (len(shape) - needed)
    for item in index.items:
        items.extend(missing if item is ... else [item])
    if not any(item is ... for item in index.items):
        items.extend(missing)
    axes = np.cumsum([0, *(axes_of(item) for item in items)]).tolist()
    return list(zip(items, axes, strict=False))


def _joint_arrays(
    index: Index, items: Sequence[tuple[Any, int]], shape: Shape
) -> tuple[list[Any], list[int], tuple[int, ...]]:
    """The index arrays broadcast together, the axis of each, and their common shape."""
    arrays: list[Any] = []
    axes: list[int] = []
    shapes: list[tuple[int, ...]] = []
    for item, axis in items:
        if not hasattr(item, "dtype"):
            continue
        if not is_mask(item):
            arrays.append(_checked(item, axis, shape))
            axes.append(axis)
            shapes.append(item.shape)
            continue
        _check_mask(item, axis, shape)
        # A mask is the positions of its True entries; one without axes adds a dimension.
        places = np.nonzero(item) if item.ndim else ()
        arrays.extend(places)
        axes.extend(range(axis, axis + item.ndim))
        shapes.append((int(np.count_nonzero(item)),))
    try:
        joint = np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise ShapeError(
            f"Index arrays should broadcast together. Received: {index} with arrays of shapes "
            f"{', '.join(map(str, shapes))}. For all combinations, write "
            "`at(x)[numpy.ix_(rows, columns)]`."
        ) from error
    return [np.broadcast_to(array, joint).ravel() for array in arrays], axes, joint


def _check_mask(mask: Any, axis: int, shape: Shape) -> None:
    sizes = shape[axis : axis + mask.ndim]
    if None in sizes and mask.ndim:
        raise OperandError(
            "A mask should lie on axes of known size. Received: a mask of shape "
            f"{mask.shape} for the axes of sizes {sizes}. Give the size in `keras.Input(shape=...)`"
            " or use a condition: `at.where(X > 0)`."
        )
    if tuple(mask.shape) != tuple(sizes):
        raise PositionError(
            f"A mask should have the shape of the axes it lies on. Received: a mask of shape "
            f"{mask.shape} for axes of shape {sizes} in a tensor of shape {shape}. For one row "
            "per sample write `sample[mask]`; to broadcast write `at.where(mask)`."
        )


def _checked(positions: Any, axis: int, shape: Shape) -> Any:
    """Positions on a known axis: in bounds, and counted from the start."""
    size = shape[axis]
    if size is None:
        return positions
    array = np.asarray(positions)
    wrong = array[(array < -size) | (array >= size)] if array.size else array
    if wrong.size:
        raise PositionError(
            f"An index should lie between {-size} and {size - 1} on axis {axis}. Received: index "
            f"{wrong.flat[0]}, which is out of bounds for axis {axis} with size {size} in a "
            f"tensor of shape {shape}."
        )
    return np.where(array < 0, array + size, array) if array.size else array


def _pick_int(position: int, axis: int, shape: Shape) -> Pick:
    size = shape[axis]
    if size is None:
        return Pick(None, np.array([position]), ())
    # Checked as a Python int, which may be too large for any array.
    if not -size <= position < size:
        raise PositionError(
            f"An index should lie between {-size} and {size - 1} on axis {axis}. Received: index "
            f"{position}, which is out of bounds for axis {axis} with size {size} in a tensor of "
            f"shape {shape}."
        )
    position += size if position < 0 else 0
    return Pick(size, range(position, position + 1), ())


def _pick_slice(item: slice, size: int | None, dim: int) -> Pick:
    return Pick(size, item if size is None else range(*item.indices(size)), (dim,))


def _slice_length(item: slice, size: int | None) -> int | None:
    return None if size is None else len(range(*item.indices(size)))


def _merge(
    shape: Shape,
    result: Shape,
    singles: dict[int, Pick],
    arrays: Sequence[Any],
    axes: Sequence[int],
    dims: tuple[int, ...],
) -> Layout:
    """Join the axes that index arrays address together into one axis of flat positions."""
    sizes = [shape[axis] for axis in axes]
    if len(axes) > 1 and None in sizes:
        raise OperandError(
            "Index arrays that belong together should lie on axes of known size. Received: "
            f"arrays for axes {tuple(axes)} of a tensor of shape {shape}. Give the size in "
            "`keras.Input(shape=...)`."
        )
    if not axes:  # only True or False: a new axis of length 1 or 0
        joint = Pick(1, range(math.prod(result[dim] or 0 for dim in dims)), dims)
        order = tuple(range(len(shape)))
        return Layout(shape, result, order, 0, 0, (joint, *(singles[a] for a in order)))
    if len(axes) == 1:
        joint = Pick(sizes[0], arrays[0], dims)
    else:
        known = tuple(size or 0 for size in sizes)
        flat = np.ravel_multi_index(tuple(arrays), known) if arrays[0].size else arrays[0]
        joint = Pick(math.prod(known), flat.astype("int64"), dims)
    start = sum(axis < axes[0] for axis in singles)
    before, after = sorted(singles)[:start], sorted(singles)[start:]
    picks = (*(singles[a] for a in before), joint, *(singles[a] for a in after))
    return Layout(shape, result, (*before, *axes, *after), start, len(axes), picks)
