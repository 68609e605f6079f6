"""Indices as Hypothesis draws them, which elements they select, and which of them kedit refuses."""

import math
from typing import Any, NamedTuple

import numpy as np
import oracle
from hypothesis import strategies as st
from keras import ops

import kedit
from kedit.errors import OperandError, PositionError, ShapeError

JOINT_SHAPES = [(), (0,), (1,), (2,), (3,), (3,), (2, 1), (2, 3), (2, 2), (3, 3)]
MODES = (None, None, "drop", "fill", "clip", "wrap", "promise_in_bounds", "raise")


class Item(NamedTuple):
    """An item of an index; one whose part is an array or a number may be given as a tensor."""

    part: Any
    traced: bool = False
    kind: str = ""  # "each", or "block" of `size` from `part` on
    size: int = 0

    @property
    def is_mask(self):
        return isinstance(self.part, np.ndarray) and self.part.dtype == bool

    @property
    def width(self):
        """How many axes it takes up."""
        return (
            self.part.ndim if self.is_mask else int(type(self.part) not in (type(None), type(...)))
        )

    def as_index(self, part):
        if self.kind == "each":
            return kedit.each(part)
        return kedit.block(part, self.size) if self.kind == "block" else part


class Place(NamedTuple):
    """An index with the coordinates and the shape that it is counted in."""

    coordinates: str
    shape: tuple[int, ...]
    items: tuple[Item, ...]
    op: str
    mode: str | None

    @property
    def inner(self):
        """Shape of what the index meets."""
        return self.shape[self.coordinates == "sample" :]

    def tensors(self):
        return [ops.convert_to_tensor(item.part) for item in self.items if item.traced]

    def on(self, tensors):
        """What is indexed, `at[...]` or `sample[...]`, with these in place of its tensors."""
        left = list(tensors)
        index = [item.as_index(left.pop(0) if item.traced else item.part) for item in self.items]
        return getattr(kedit, self.coordinates)[tuple(index)]


# --- Drawing -----------------------------------------------------------------------------------


def one_in(draw, count):
    return draw(st.integers(1, count)) == count


def positions(draw, size, shape, traced):
    """Positions on an axis, now and then out of bounds."""
    dtype = draw(st.sampled_from(["int8", "int32", "int64", "uint8"]))
    info = np.iinfo("int32" if traced and dtype == "int64" else dtype)  # JAX has none of 64 bits
    number = st.integers(max(-size, info.min), size - 1) if size else st.just(0)
    if one_in(draw, 6):
        beyond = [size, size + 1, info.max, *([-size - 1, -size - 2, info.min] if info.min else [])]
        number |= st.sampled_from(beyond)
    count = math.prod(shape)
    return np.array(draw(st.lists(number, min_size=count, max_size=count)), dtype).reshape(shape)


def mask(draw, shape, wanted):
    """A mask, most often with as many True as arrays beside it want."""
    size = math.prod(shape)
    entries = st.lists(st.booleans(), min_size=size, max_size=size)
    if wanted is not None and wanted <= size and not one_in(draw, 12):
        entries = st.permutations([place < wanted for place in range(size)])
    return np.array(draw(entries), bool).reshape(shape)


def sub_shape(draw, shape, unfit):
    """A shape that broadcasts to `shape`, or now and then one that does not."""
    if one_in(draw, 20):
        return unfit
    shape = shape[draw(st.integers(0, len(shape))) if one_in(draw, 3) else 0 :]
    return tuple([1 if one_in(draw, 5) else size for size in shape])


def item_on(draw, kind, sizes, batch, joint, traced):
    """An item of a kind, on the first of the axes of these sizes."""
    size = sizes[0] if sizes else 0
    if kind in (None, ...):
        return Item(kind)
    if kind == "slice":
        bound = st.none() | st.integers(-size - 2, size + 2)
        return Item(slice(draw(bound), draw(bound), draw(st.sampled_from([None, 1, 2, -1, -2]))))
    if kind == "mask":
        fits = sizes[: draw(st.integers(int(not one_in(draw, 6)), len(sizes)))]
        shape = (*fits[:-1], fits[-1] + 1) if fits and one_in(draw, 25) else fits
        if fits and one_in(draw, 25):  # of length 0, which selects nothing on an axis of any length
            shape = (*fits[:-1], 0)
        return Item(mask(draw, shape, joint[-1] if joint else None), traced)
    shape = () if kind in ("number", "block") else sub_shape(draw, joint, (4,))
    if kind == "each":
        shape = (1 if one_in(draw, 5) else batch + 2 * one_in(draw, 25), *shape)
    part = positions(draw, size, shape, traced)
    part = part if traced or shape else int(part)
    return Item(part, traced, kind, draw(st.integers(0, size + 1)) if kind == "block" else 0)


def items_for(draw, shape, batch, traced):
    """The items of an index, now and then too many."""
    joint = draw(st.sampled_from(JOINT_SHAPES))
    on_axis = ["number", "slice", "array", "array", "array", "mask", "block"]
    on_axis += ["each"] * 3 if batch is not None else []
    items, axis = [], 0
    while True:
        free = [...] * all([item.part is not ... for item in items])
        new = [None] * (sum([item.part is None for item in items]) < 3)  # TensorFlow knows 8 axes
        kinds = ["stop", *new, *free, *(on_axis if axis < len(shape) else [])]
        kind = draw(st.sampled_from(kinds if not one_in(draw, 30) else ["number", "array"]))
        if kind == "stop":
            return tuple(items)
        is_traced = traced == "all" or (traced == "some" and draw(st.booleans()))
        items.append(item_on(draw, kind, shape[axis:], batch, joint, is_traced))
        axis += items[-1].width


def draw_place(draw, shape, traced, op, modes=MODES):
    """A place in a tensor of some shape; of its arrays "none", "some" or "all" are tensors."""
    coordinates = "sample" if shape and one_in(draw, 3) else "at"
    place = Place(coordinates, shape, (), op, draw(st.sampled_from(modes)))
    batch = shape[0] if coordinates == "sample" else None
    if place.inner and one_in(draw, 4):  # all, or all of a few rows, of which some occur twice
        size = place.inner[0]
        rows = positions(draw, size, (size,), traced == "all")
        items = draw(st.sampled_from([(Item(...),), (Item(rows, traced == "all", "array"),)]))
    else:
        items = items_for(draw, place.inner, batch, traced)
    place = place._replace(items=items)
    if place.mode == "promise_in_bounds" and any([is_outside(*pair) for pair in with_sizes(place)]):
        return place._replace(mode=None)
    return place


# --- What NumPy says ---------------------------------------------------------------------------


def with_sizes(place):
    """Each item with the sizes of the axes that it lies on."""
    sizes, pairs = place.inner, []
    missing = max(0, len(sizes) - sum([item.width for item in place.items]))
    for item in place.items:
        width = missing if item.part is ... else item.width
        pairs.append((item, sizes[:width]))
        sizes = sizes[width:]
    return pairs


def is_outside(item, sizes):
    """Whether an item names a position that does not exist."""
    if isinstance(item.part, slice) or item.is_mask or not item.width or not sizes:
        return False
    (size,) = sizes
    if item.kind == "block":
        return not 0 <= int(item.part) + size * (item.part < 0) <= size - item.size
    return any([not -size <= number < size for number in np.ravel(item.part).tolist()])


def block_positions(start, count, size, mode):
    """The positions of a block; -1 for those that do not exist."""
    start += size * (start < 0)
    if mode == "clip":
        start = max(0, min(start, size - count))
    start = start % size if size and mode == "wrap" else min(start, size)  # int64 must not overflow
    found = start + np.arange(count)
    if size and mode in ("clip", "wrap"):
        found = np.clip(found, 0, size - 1) if mode == "clip" else found % size
    return np.where((found >= 0) & (found < size), found, -1)


def selected(place):
    """Flat position of every selected element, -1 for what is dropped; None where NumPy raises."""
    try:
        if place.coordinates == "at":
            return selected_in_row(place, 0)
        places = np.stack([selected_in_row(place, row) for row in range(max(1, place.shape[0]))])
        first = math.prod(place.inner) * np.arange(len(places))
        first = first.reshape(-1, *[1] * (places.ndim - 1))
        return np.where(places < 0, -1, places + first)[: place.shape[0]]
    except IndexError:
        return None


def selected_in_row(place, row):
    """As `selected`, of one sample. What slices and blocks name is taken beforehand."""
    whole = np.arange(math.prod(place.inner)).reshape(place.inner)
    index, axis = [], 0
    for (part, _, kind, count), sizes in with_sizes(place):
        if kind == "each":
            part = part[row % len(part)] if len(part) else np.zeros(part.shape[1:], int)
        elif sizes and (isinstance(part, slice) or kind == "block"):
            (size,) = sizes
            block = kind == "block" and block_positions(int(part), count, size, place.mode)
            taken = block if kind == "block" else range(size)[part]
            padding = [(0, int(a == axis)) for a in range(whole.ndim)]
            whole = np.pad(whole, padding, constant_values=-1).take(taken, axis)
            part = slice(None)
        index.append(part)
        axis += len(sizes)
    places = oracle.positions_in_bounds(whole.shape, tuple(index), place.mode)
    return np.append(whole.ravel(), -1)[places]


# --- What kedit refuses ------------------------------------------------------------------------


def mask_beside_arrays(place):
    """How a mask that is a tensor, whose True cannot be counted, stands to the arrays beside it.

    It is "refused" if they do not say how many are True, "undefined" if they say it wrongly.
    """
    unknown = [item for item in place.items if item.is_mask and item.traced and item.part.size]
    masks = [item.part for item in unknown]
    rest = [item for item in place.items if all([item is not mask for mask in unknown])]
    others = [item for item in rest if item.is_mask or np.ndim(item.part)]
    can_look = place.op == "get" or place.mode == "raise"
    if can_look or not masks or len([*masks, *others]) == 1:
        return "fine"
    shapes = [(i.part.sum(),) if i.is_mask else i.part.shape[i.kind == "each" :] for i in others]
    try:
        count = [1, *np.broadcast_shapes(*shapes)][-1]
    except ValueError:
        return "refused"
    if len(masks) > 1 or count == 1:
        return "refused"
    return "fine" if count == masks[0].sum() else "undefined"


def refusals(place, values_shapes):
    """The errors of which kedit has to raise one; none where it has to give what NumPy gives.

    The shapes are those of all that has to broadcast to the selection.

    Beyond NumPy it refuses positions that are known beforehand and do not exist, though nothing
    would be read there, and masks that are tensors beside certain arrays.
    """
    places = selected(place)
    outside = [
        is_outside(item, sizes)
        for item, sizes in with_sizes(place)
        if place.mode == "raise"
        or (place.mode is None and not item.traced and item.kind != "block")
    ]
    each = [item.part for item in place.items if item.kind == "each"]
    fit = places is not None and all([fits(shape, places.shape) for shape in values_shapes])
    found = {
        PositionError: places is None or any(outside),
        ShapeError: not fit or not all([fits(part.shape[:1], place.shape[:1]) for part in each]),
        OperandError: mask_beside_arrays(place) == "refused",
    }
    return tuple([error for error, is_due in found.items() if is_due])


def fits(shape, wanted):
    """Whether a shape broadcasts to another, with no axis to spare."""
    pairs = zip(reversed(shape), reversed(wanted), strict=False)
    return len(shape) <= len(wanted) and all([size in (1, other) for size, other in pairs])
