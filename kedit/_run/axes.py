"""Reading from and writing to the axes of a tensor in canonical form.

Slices of an axis of unknown size follow Python's rules for slices, with the
size that is known at run time.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import keras
import numpy as np

from kedit._language.compiler import as_numbers, reads_bytecode
from kedit._language.types import Tensor
from kedit._plan.bounds import LARGEST
from kedit._plan.layout import FEW, Computed, Layout, Pick, Picked, Sequenced, sequence
from kedit._run import ops
from kedit._run.cast import constant, dtype_of, listed
from kedit.errors import OperandError


def check_countable(size: Any) -> None:
    """Raise if positions do not fit in 32 bits, in which backends count."""
    if isinstance(size, int) and size > LARGEST:
        raise OperandError(
            "Positions that are computed or read should be fewer than 2**31 along the axes that "
            f"they address together. Received: {size}. Edit fewer axes at a time."
        )


def sizes(x: Tensor) -> tuple[Any, ...]:
    """Sizes of the axes: ints, or scalar tensors if a graph does not know them."""
    known: Any = tuple(x.shape)  # TensorFlow's and Keras's own functions take longer than an edit
    if reads_bytecode():
        return as_numbers(known)
    return tuple(ops.shape(x)) if any([size is None for size in known]) else known


def length(x: Tensor, axis: int) -> Any:
    """Size of one axis: an int, or a scalar tensor if a graph does not know it.

    What `sizes` takes apart and nobody needs stays in a graph, and some exporters return it.
    """
    given = x.shape[axis]
    if reads_bytecode():
        return as_numbers((given,))[0]
    return ops.shape(x)[axis] if given is None else given


def known(numbers: Sequence[int]) -> Tensor:
    """Convert integers that are known beforehand to a tensor."""
    dtype = "int32" if max(numbers, default=0) < 2**31 else "int64"
    return (
        listed(list(numbers), dtype) if reads_bytecode() else known_array(np.array(numbers, dtype))
    )


def known_array(numbers: Any) -> Tensor:
    """Convert a NumPy array of integers that are known beforehand to a tensor."""
    tensor = ops.convert_to_tensor(numbers, str(numbers.dtype))
    if dtype_of(tensor) != str(numbers.dtype):
        raise OperandError(
            f"Positions should be below 2**31 on the {keras.backend.backend()} backend, which "
            f"keeps integers in 32 bits. Received: {numbers.max()}. Edit fewer axes at a time."
        )
    return tensor


def known_of(pick: Pick, what: Sequenced) -> Tensor:
    """A sequence computed from a tuple of positions, as a tensor; see `sequence`."""
    if reads_bytecode():
        return known(sequence(what, pick.positions))
    return known_array(pick.array(what))


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(axis) for axis in range(len(order)))


# --- Between a tensor and its canonical form ---------------------------------------------------


def merge(layout: Layout, x: Tensor) -> Tensor:
    """Bring a tensor into canonical form."""
    if layout.order != tuple(range(len(layout.order))):
        x = ops.transpose(x, layout.order)
    if len(layout.picks) == len(layout.shape):
        return x
    start, stop, rank = layout.start, layout.start + layout.merged, len(layout.shape)
    joint = layout.picks[start].size
    before, after = [[length(x, a) for a in part] for part in (range(start), range(stop, rank))]
    return ops.reshape(x, (*before, -1 if joint is None else joint, *after))


def merged_length(layout: Layout, x: Tensor, axis: int) -> Any:
    """Size of one axis of a tensor in canonical form; see `length`."""
    start, stop = layout.start, layout.start + layout.merged
    if len(layout.picks) == len(layout.shape) or axis < start:
        return length(x, layout.order[axis])
    if axis == start:
        return math.prod([length(x, joint) for joint in layout.order[start:stop]])
    return length(x, layout.order[axis + layout.merged - 1])


def split(layout: Layout, x: Tensor, like: Tensor) -> Tensor:
    """Undo `merge`; `like` is the tensor before it."""
    if len(layout.picks) != len(layout.shape):
        shape = sizes(like)
        x = ops.reshape(x, [shape[axis] for axis in layout.order])
    if layout.order != tuple(range(len(layout.order))):
        x = ops.transpose(x, _inverse(layout.order))
    return x


def choose(layout: Layout, values: Any, x: Tensor) -> Tensor:
    """`values`, which broadcast to the canonical form, at the picked places; elsewhere `x`.

    If a pick has `rows`, each row has one value.

    It is not `x` that is brought into that form and back, since merging an axis that is split among
    devices would gather the tensor.
    """
    mask = places(layout, x)
    here, there = as_axes(layout, mask, x), as_axes(layout, values, x, by_row=True)
    if here is None or there is None:
        return split(layout, ops.where(mask, values, merge(layout, x)), x)
    return ops.where(here, there, x)


def as_axes(layout: Layout, values: Any, like: Tensor, *, by_row: bool = False) -> Any:
    """Undo `merge` for what broadcasts to the canonical form.

    Args:
        layout: Where an index lands.
        values: What broadcasts.
        like: The tensor.
        by_row: Whether each row has one value, if the pick has `rows`.

    Returns:
        What broadcasts to the tensor; None if it is not known along which axes.
    """
    if not len(values.shape):
        return values
    if len(layout.picks) != len(layout.shape):
        start, stop = layout.start, layout.start + layout.merged
        pick, joined = layout.picks[start], layout.order[start:stop]
        if values.shape[start] is None and pick.is_whole:
            return None
        if values.shape[start] == 1:
            joint: list[Any] = [1] * layout.merged
        elif by_row and isinstance(pick, Computed) and pick.rows is not None:
            joint = [length(like, joined[0]), *[1] * (layout.merged - 1)]
        else:
            joint = [length(like, axis) for axis in joined]
        rest = range(start), range(start + 1, len(values.shape))
        before, after = [[length(values, axis) for axis in part] for part in rest]
        values = ops.reshape(values, (*before, *joint, *after))
    if layout.order == tuple(range(len(layout.order))):
        return values
    inverse = _inverse(layout.order)
    is_array = isinstance(values, np.ndarray)
    return values.transpose(inverse) if is_array else ops.transpose(values, inverse)


# --- Between NumPy's layout of a selection and the canonical one -------------------------------


def to_picks(layout: Layout, values: Tensor) -> Tensor:
    """Bring values that broadcast to the selection into one dimension per pick."""
    rank = len(layout.result)
    if len(values.shape) < rank:
        values = ops.reshape(values, (*[1] * (rank - len(values.shape)), *sizes(values)))
    if layout.dims != tuple(range(rank)):
        values = ops.transpose(values, layout.dims)
    if layout.is_plain:
        return values
    static, start = tuple(values.shape), 0
    written_out = False
    spread: list[Any] = []
    merged: list[Any] = []
    for pick in layout.picks:
        stop = start + len(pick.dims)
        if len(pick.dims) > 1 and any([size != 1 for size in static[start:stop]]):
            # Dimensions that become one must be broadcast first.
            group, written_out = _dim_sizes(layout, pick), True
        else:
            group = tuple([length(values, dim) for dim in range(start, stop)])
        start = stop
        spread.extend(group)
        merged.append(group[0] if len(group) == 1 else math.prod(group))
    if written_out:
        spread.extend([length(values, dim) for dim in range(start, len(static))])
        values = ops.broadcast_to(values, spread)
    return ops.reshape(values, merged)


def _dim_sizes(layout: Layout, pick: Picked) -> tuple[Any, ...]:
    """Sizes of the dimensions of the result that run along a pick."""
    if isinstance(pick, Computed):
        given: tuple[Any, ...] = pick.dim_sizes
        return given
    return tuple([layout.result[dim] for dim in pick.dims])


def from_picks(layout: Layout, picked: Tensor) -> Tensor:
    """Bring picked elements into NumPy's layout of the selection."""
    rank = len(layout.result)
    if not layout.is_plain:
        shape: list[Any] = []
        for axis, pick in enumerate(layout.picks):
            one_for_all = picked.shape[axis] == 1
            several = [1] * len(pick.dims) if one_for_all else _dim_sizes(layout, pick)
            shape.extend([length(picked, axis)] if len(pick.dims) == 1 else several)
        picked = ops.reshape(picked, (*shape, *[1] * (rank - len(shape))))
    if layout.dims != tuple(range(rank)):
        picked = ops.transpose(picked, _inverse(layout.dims))
    return picked


# --- Reading -----------------------------------------------------------------------------------


def read(layout: Layout, x: Tensor, *, unique: bool = False) -> Tensor:
    """Read the picked elements from `x`, or with `unique`, each position once, ascending.

    Computed positions are read as they come; those that do not exist return an
    arbitrary element.
    """
    return read_picks(layout.picks, x, unique=unique)


def read_picks(picks: tuple[Any, ...], x: Tensor, *, unique: bool = False) -> Tensor:
    """Read from `x`, of which each axis has a pick; see `read`."""
    for axis, pick in enumerate(picks):
        if pick.size is None and _steps_back(pick):
            x = ops.flip(x, axis=axis)
    slices = tuple([_slice(pick) for pick in picks])
    if any([item != slice(None) for item in slices]):
        x = x[slices]
    for axis, pick in enumerate(picks):
        if pick.is_computed:
            x = pick.read(x, axis, unique)
        elif pick.is_array and pick.count:
            check_countable(pick.size)
            x = ops.take(x, known_of(pick, "unique" if unique else "positions"), axis=axis)
        elif pick.size is not None and _steps_back(pick):
            x = ops.flip(x, axis=axis)
    return x


def positions(layout: Layout, x: Tensor, axis: int) -> Tensor:
    """Where each selected element is along an axis of `x`; broadcasts to the selection."""
    number = layout.order.index(axis)
    inner: tuple[int, ...] = ()  # the axes that vary faster in the merged one
    if len(layout.picks) != len(layout.shape):
        stop = layout.start + layout.merged
        if layout.start <= number < stop:
            inner, number = layout.order[number + 1 : stop], layout.start
        elif number >= stop:
            number -= layout.merged - 1
    pick = layout.picks[number]
    total = merged_length(layout, x, number)
    check_countable(total)
    here = ops.arange(total, dtype="int32")
    if len(layout.picks) != len(layout.shape) and number == layout.start:
        stride = math.prod([length(x, a) for a in inner])
        here = here // _at_least_one(stride) % _at_least_one(length(x, axis))
    picked = read_picks((pick,), here)
    return from_picks(layout, along(picked, number, len(layout.picks)))


def _at_least_one(size: Any) -> Any:
    return max(size, 1) if isinstance(size, int) else ops.maximum(size, 1)


def selected(layout: Layout, x: Tensor) -> Tensor:
    """The elements that the index selects, in NumPy's layout."""
    return from_picks(layout, read(layout, merge(layout, x)))


def inside(layout: Layout) -> Tensor | None:
    """Whether the selected elements exist; broadcasts to the selection. None if all exist."""
    exists = None
    for axis, pick in enumerate(layout.picks):
        if pick.is_computed and pick.inside is not None:
            here = from_picks(layout, along(pick.inside, axis, len(layout.picks)))
            exists = here if exists is None else ops.logical_and(exists, here)
    return exists


def _steps_back(pick: Picked) -> bool:
    return not (pick.is_array or isinstance(pick, Computed)) and (pick.positions.step or 1) < 0


def _slice(pick: Picked) -> Any:
    """The slice to read: forward on an axis that is flipped before or after."""
    if pick.is_array and not pick.count:  # TensorFlow has no gradient for taking none from none
        return slice(0, 0)
    if pick.is_array or isinstance(pick, Computed) or pick.is_whole:
        return slice(None)
    positions = pick.positions
    if isinstance(positions, range):
        forward = positions[::-1] if positions.step < 0 else positions
        return slice(forward.start, max(forward.stop, forward.start), forward.step)
    if not _steps_back(pick):
        return positions
    # Counted from the other end, position p is -1 - p.
    start, stop = [None if p is None else -1 - p for p in (positions.start, positions.stop)]
    return slice(start, stop, -positions.step)


# --- Writing -----------------------------------------------------------------------------------


def places(layout: Layout, x: Tensor) -> Tensor:
    """Whether each place of `x` is picked; broadcasts to its canonical form."""
    known = None if reads_bytecode() else layout.places
    if known is not None:
        return known
    mask = None
    for axis, pick in enumerate(layout.picks):
        if not pick.is_whole:
            size = None if pick.is_computed else merged_length(layout, x, axis)  # it knows its own
            here = along(_picked(pick, size), axis, len(layout.picks))
            mask = here if mask is None else ops.logical_and(mask, here)
    return mask


def _picked(pick: Picked, size: Any) -> Tensor:
    """Whether each place on the axis is picked."""
    if isinstance(pick, Computed) and pick.rows is not None:
        return pick.is_in_row()
    if pick.is_array or isinstance(pick, Computed) or pick.size is None:
        return pick_at(pick, size) >= 0
    ascending = pick.positions if pick.positions.step > 0 else pick.positions[::-1]
    first, step, count = ascending.start, ascending.step, len(ascending)
    if pick.size > FEW:
        # Integers to count a long axis may need more memory than the tensor; booleans do not.
        between = ops.zeros((count, step - 1), dtype="bool")
        steps = ops.concatenate([ops.ones((count, 1), dtype="bool"), between], axis=1)
        ends = [ops.zeros((n,), dtype="bool") for n in (first, max(0, size - first - count * step))]
        return ops.concatenate([ends[0], ops.reshape(steps, (-1,)), ends[1]])[:size]
    # A compiler may compute the mask again for every element, so each comparison counts.
    place = ops.arange(size, dtype="int32")
    if count == 1:
        return place == first
    tests = [place % step == first % step] if step > 1 else []
    tests += [place >= first] if first >= step else []
    tests += [place <= ascending[-1]] if ascending[-1] + step < size else []
    return reduce(ops.logical_and, tests or [place >= 0])  # all are picked, if an axis is flipped


def scatter(x: Tensor, places: Any, values: Tensor) -> Tensor:
    """Write values at places that each occur once.

    Args:
        x: Tensor.
        places: Places on its first axis, of shape `(n,)`, or on its first axes, one
            column for each.
        values: One for each place and along the axes that follow, or one for all.
    """
    indices = places
    if len(places.shape) == 1:  # Keras would make a tensor of an array, and another one later
        is_array = isinstance(places, np.ndarray)
        indices = places[:, None] if is_array else ops.expand_dims(places, 1)
    shape = (places.shape[0], *x.shape[indices.shape[1] :])
    if None in shape or tuple(values.shape) != shape:
        rest = [length(x, axis) for axis in range(indices.shape[1], len(x.shape))]
        shape = (length(places, 0), *rest)
        values = ops.broadcast_to(values, shape)
    if None in tuple(x.shape):
        indices, values = _in_what_exists(x, indices, values)
    return ops.scatter_update(x, indices, values)


def scatter_add(x: Tensor, places: Any, values: Tensor) -> Tensor:
    """Add values at places on the first axis, which may repeat; see `scatter`."""
    rest = [length(x, axis) for axis in range(1, len(x.shape))]
    values = ops.broadcast_to(values, (length(places, 0), *rest))
    if None in tuple(x.shape):
        places, values = _in_what_exists(x, places, values)
    return ops.scatter_add(x, places, values)


def _in_what_exists(x: Tensor, places: Any, values: Tensor) -> tuple[Any, Tensor]:
    """Places and values, or none if a tensor is empty, which a graph may learn only when it runs.

    TensorFlow refuses places in an empty tensor, even if nothing would be written there.
    """
    exists = reduce(ops.minimum, sizes(x), constant(1, "int32"))
    return tuple([given[: length(places, 0) * exists] for given in (places, values)])


def along(values: Any, axis: int, rank: int) -> Tensor:
    shape = [1] * rank
    shape[axis] = -1
    return ops.reshape(values, shape)


def pad(x: Tensor, axis: int, before: int = 0, after: int = 1) -> Tensor:
    """Pad an axis with zeros.

    `ops.pad` creates and names an operation on every call, which breaks torch's
    graph. The reshape makes TensorFlow's gradient dense. Without it, the gradient
    of taking from a concatenation would have a size that XLA does not know.
    """
    shape = sizes(x)
    start, stop = shape[:axis], shape[axis + 1 :]

    def zeros(count: Any) -> list[Tensor]:
        if isinstance(count, int) and not count:
            return []
        return [ops.zeros((*start, count, *stop), dtype=dtype_of(x))]

    padded = ops.concatenate([*zeros(before), x, *zeros(after)], axis=axis)
    return ops.reshape(padded, (*start, shape[axis] + before + after, *stop))


def pick_at(pick: Picked, size: Any) -> Tensor:
    """For each place on the axis, the number of the unique pick that names it, else -1."""
    if isinstance(pick, Computed):
        return pick.number()
    if not pick.is_array:
        return _number_in_slice(pick, ops.arange(size, dtype="int32"), size)
    return number_of(known_of(pick, "unique"), size)


def number_of(places: Tensor, size: Any) -> Tensor:
    """For each place on an axis of `size`, its number in `places`, else -1.

    This is a scatter, because XLA on TensorFlow searches by comparing all with all.
    Each place occurs once, except the last one, for which any number will do.
    """
    if isinstance(places, np.ndarray):
        number = np.full(size, -1, "int32")
        number[places] = np.arange(len(places))
        return number
    nowhere = ops.broadcast_to(constant(-1, "int32"), (size,))
    return scatter(nowhere, places, ops.arange(length(places, 0), dtype="int32"))


def _number_in_slice(pick: Pick, place: Tensor, size: Any) -> Tensor:
    """Rank of each place within a slice, by Python's rules for slices, else -1."""
    item = pick.positions
    step = 1 if item.step is None else item.step
    low, high = (0, size) if step > 0 else (-1, size - 1)

    def bound(value: int | None, default: Any) -> Any:
        if value is None or pick.size is not None:  # the bounds of a range are final
            return default if value is None else value
        value = max(-(2**31) + 1, min(2**31 - 1, value))  # sizes have 32 bits
        counted = value + size if value < 0 else value
        return ops.minimum(ops.maximum(counted, low), high)

    start = bound(item.start, low if step > 0 else high)
    stop = bound(item.stop, high if step > 0 else low)
    inside = ops.logical_and(
        place >= start if step > 0 else place <= start, place < stop if step > 0 else place > stop
    )
    ahead = place - start if step > 0 else start - place
    if abs(step) == 1:
        return ops.where(inside, ahead, -1)
    inside = ops.logical_and(inside, ahead % abs(step) == 0)
    return ops.where(inside, ahead // abs(step), -1)
