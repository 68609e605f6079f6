"""Items of an index, which are separated by commas, in canonical form. No Keras."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from kedit._language.compiler import check_not_read
from kedit._language.constants import (
    SMALL,
    Array,
    Frozen,
    Placeholder,
    Slot,
    flatten,
    from_json,
    is_array,
    is_tensor,
    to_code,
    to_json,
    to_key,
)
from kedit._language.decoding import (
    LONGEST,
    check_entries,
    check_fields,
    check_shape,
    check_whole,
    refused,
)
from kedit._language.pickling import pickled
from kedit._language.types import Shape
from kedit.errors import PositionError, SliceError

Item: TypeAlias = Any
"""int, slice, `...`, None, `Positions`, a boolean `Array`, `Traced`, `TracedSlot`, `Each`, `Block`,
or a `Slot`."""


@pickled
class Positions(NamedTuple):
    """An integer array: its shape, and its numbers in C order."""

    shape: tuple[int, ...]
    numbers: tuple[int, ...]

    def nested(self) -> Any:
        """The numbers as nested lists."""
        return np.array(self.numbers, object).reshape(self.shape).tolist()


@pickled
class Traced(Frozen):
    """A tensor as an index: positions or a mask whose values are known only at run time."""

    __slots__ = ("tensor",)
    tensor: Any

    def __init__(self, tensor: Any) -> None:
        dtype = str(tensor.dtype)
        if "int" not in dtype and "bool" not in dtype:
            raise PositionError(
                "A tensor that is an index should hold integers or booleans. Received: "
                f"{to_code(tensor)} of dtype {dtype}. Cast it first, as in "
                "`at(x)[keras.ops.cast(index, 'int32')]`."
            )
        self._init(tensor=tensor)

    def __reduce__(self) -> Any:
        return (Traced, (self.tensor,))


class TracedSlot(NamedTuple):
    """What planning knows about a tensor in an index.

    Attributes:
        number: Its number among the tensors of the index.
        shape: Its shape.
        is_mask: Whether it holds booleans.
    """

    number: int
    shape: Shape
    is_mask: bool


@pickled
@dataclass(frozen=True, slots=True)
class Each:
    """Different positions for each sample; created by `each`.

    Attributes:
        positions: Integers, a tensor, a `Slot`, or a placeholder for positions.
    """

    positions: Item

    def __repr__(self) -> str:
        return item_code(self)


@pickled
@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive positions from a start that may be a tensor; created by `block`."""

    start: Item
    size: int

    def __repr__(self) -> str:
        return item_code(self)


def each(positions: Any) -> Each:
    """Select different positions in each sample, as an item of `sample[...]`.

    In sample `b`, `sample[each(i)]` selects what the index `i[b]` selects:

        axes of x                  (batch, time, channels)
        sample[2]                          2                     the same for every sample
        sample[each(i)]                    i[b]                  i of shape (batch,)
        sample[each(i), 0]                 i[b]  0
        sample[:, each(i)]                 :     i[b]
        sample[each(i)]                    i[b, 0], i[b, 1]      i of shape (batch, 2)

    Args:
        positions: Integer tensor or array whose first axis is the batch. With shape
            `(batch_size,)` it gives one position per sample and removes the axis,
            as an integer does. With shape `(batch_size, *shape)` it gives an array
            of positions per sample. With size 1 on the first axis, the positions
            are the same for all samples. In an edited model also `Fed("name")`.

    Returns:
        An item for `sample[...]`, which can be combined with all other items; with
        a mask that is a tensor, only if there is one position for each True.

    Raises:
        kedit.errors.PositionError: If `positions` does not hold integers, or has no
            axis.

    Gradient:
        No gradient flows to the positions.

    Example:
    >>> x = ops.zeros((3, 4))
    >>> y = kedit.sample(x)[kedit.each([0, 3, 1])].set(1.0)
    >>> ops.convert_to_numpy(y).tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]]
    """
    if isinstance(positions, Placeholder) and positions.gives_positions:
        return Each(positions)
    item = canonical(positions)
    if isinstance(item, Slot):  # in a model that is being loaded
        return Each(item)
    integers = isinstance(item, Positions) or (isinstance(item, Traced) and not is_mask(item))
    if not integers or shape_of_item(item) == ():
        raise PositionError(
            "`each` should be given integers whose first axis is the batch. Received: "
            f"{item_code(item)}. For the same position in every sample write `sample[2]`; for a "
            "mask write `sample.where(mask)`."
        )
    return Each(item)


def block(start: Any, size: int) -> Block:
    """Select consecutive positions from a start that may be a tensor, as an item of an index.

    `at(x)[block(i, 3)]` is `at(x)[i : i + 3]` for an `i` that is known only when
    the model runs. A block keeps its axis, as a slice does. Positions out of bounds
    are dropped, or handled by `mode`: "clip" (and "promise_in_bounds") shifts the
    whole block, other modes do not.

    Args:
        start: Integer, or integer tensor of shape `()`. A negative start counts
            from the end.
        size: Number of positions, at most 2 ** 24. On an axis of known size, at most
            65536 more than that size.

    Returns:
        An item for `at[...]` and `sample[...]`.

    Raises:
        kedit.errors.PositionError: If `start` or `size` is not an integer, or the
            block is too long.

    Gradient:
        No gradient flows to the start.

    Example:
    >>> i = ops.convert_to_tensor(2)
    >>> y = kedit.at(ops.zeros(4))[kedit.block(i, 3)].set([1.0, 2.0, 3.0])
    >>> ops.convert_to_numpy(y).tolist()
    [0.0, 0.0, 1.0, 2.0]
    """
    item = canonical(start)
    integer = (isinstance(item, (int, Slot)) and not isinstance(item, bool)) or (
        isinstance(item, Traced) and not is_mask(item) and shape_of_item(item) == ()
    )
    whole = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
    if not integer or not whole or size < 0:
        raise PositionError(
            "`block` should be given an integer to start from, or a tensor of one, and its size "
            f"as an int. Received: start={item_code(item)}, size={size!r}. For a start in each "
            "sample write `sample[each(start[:, None] + keras.ops.arange(size))]`."
        )
    if size > LONGEST:
        raise PositionError(
            f"A block should have at most {LONGEST} positions. Received: size={size}. For a block "
            "whose start is known write a slice, `at(x)[start:stop]`."
        )
    return Block(item, int(size))


def axes_of(item: Item) -> int:
    """Number of axes of the tensor that an item indexes."""
    if item is None or item is ...:
        return 0
    return len(shape_of_item(item)) if is_mask(item) else 1


def is_mask(item: Item) -> bool:
    """Whether an item is a boolean array or tensor."""
    if isinstance(item, Array):
        return item.dtype == "bool"
    if isinstance(item, TracedSlot):
        return item.is_mask
    return isinstance(item, Traced) and "bool" in str(item.tensor.dtype)


def shape_of_item(item: Item) -> Shape:
    """Shape of an array or a tensor."""
    return tuple(item.tensor.shape) if isinstance(item, Traced) else tuple(item.shape)


def leaves_in_item(item: Item) -> list[Any]:
    """The tensors and placeholders in an item, or the slots for them."""
    if isinstance(item, (Each, Block)):
        return leaves_in_item(_first(item))
    if isinstance(item, Traced):
        return [item.tensor]
    return [item] if isinstance(item, (Slot, Placeholder)) else []


def _first(item: Each | Block) -> Item:
    """The part of an item that may be a tensor."""
    return item.positions if isinstance(item, Each) else item.start


def map_item(item: Item, change: Callable[[Any], Item]) -> Item:
    """The item with `change` applied to the tensor, slot or placeholder that it is or holds."""
    if isinstance(item, Each):
        return Each(map_item(item.positions, change))
    if isinstance(item, Block):
        return Block(map_item(item.start, change), item.size)
    return change(item) if isinstance(item, (Traced, Slot, Placeholder)) else item


def canonical(item: Any) -> Item:
    """Convert an item to canonical form."""
    if isinstance(item, _CANONICAL) or item is None:
        return item
    if isinstance(item, slice):
        if item.step is not None and _bound(item.step) == 0:
            raise PositionError(f"A slice should have a step other than 0. Received: {item}.")
        return slice(*[_bound(part) for part in (item.start, item.stop, item.step)])
    if isinstance(item, int) and not isinstance(item, bool):
        return item
    if isinstance(item, (bool, list)):
        return _canonical_list(item)
    if is_tensor(item):
        return Traced(item)
    is_integer = hasattr(item, "__index__") and not is_array(item)
    return operator.index(item) if is_integer else _canonical_array(item)


_CANONICAL = (EllipsisType, Slot, Array, Positions, Traced, TracedSlot, Each, Block)


def _bound(part: Any) -> int | None:
    if part is None or isinstance(part, int):
        return part
    try:
        return _integer(part)
    except TypeError as error:
        if is_tensor(part):
            raise SliceError(
                "A slice should have integers or None as start, stop and step. Received: "
                f"{to_code(part)}, whose value is not there to look at. For a block of known size "
                "write `at(x)[block(start, size)]`; for an end that is a tensor write "
                "`at(x).where(position(0) < stop)`, with the number of the axis for 0."
            ) from error
        raise SliceError(
            f"A slice should have integers or None as start, stop and step. Received: {part!r}. "
            "Write `at(x)[int(start):int(stop)]`."
        ) from error


def _integer(value: Any) -> int:
    """Convert what Python accepts as an integer, even a tensor; else raise TypeError."""
    if hasattr(value, "__index__") or not hasattr(value, "numpy"):
        return operator.index(value)
    return operator.index(value.numpy())  # a Keras Variable


def _canonical_list(entries: Any) -> Any:
    """Convert nested lists of integers or booleans without NumPy, others by way of NumPy."""
    flat = flatten(entries)
    if flat is None or len(flat[1]) > SMALL:
        return _canonical_array(entries)
    shape, numbers = flat
    if not numbers:  # as in NumPy, an empty list selects nothing
        return Positions(shape, ())
    kinds = {type(number) for number in numbers}
    if kinds == {bool}:
        return Array("bool", shape, numbers)
    if kinds <= {int, bool} and -(2**63) < min(numbers) and max(numbers) < 2**63:
        return Positions(shape, tuple([int(number) for number in numbers]))
    return _canonical_array(entries)


def _canonical_array(item: Any) -> Any:
    if isinstance(item, Placeholder):
        fix = f"Write `sample[each({item!r})]`" if item.gives_positions else "Write a number"
        raise PositionError(
            "An index should hold positions, which may be given for each sample. Received: "
            f"{item!r}. {fix}."
        )
    check_not_read("An index", item)
    if isinstance(item, np.ma.MaskedArray):
        raise PositionError(
            "An index should not be a masked array. Received: one of shape "
            f"{item.shape}. Write `array.compressed()`."
        )
    if isinstance(item, (list, tuple)) and any([is_tensor(entry) for entry in item]):
        raise PositionError(
            "An index should hold integers, slices, arrays or tensors. Received: a "
            f"{type(item).__name__} that holds tensors. Write `keras.ops.stack([...])`."
        )
    try:
        array = np.asarray(item)
    except ValueError:  # a ragged list
        array = np.asarray(None)
    if array.size == 0 and not is_array(item):
        array = array.astype("int64")  # as in NumPy, an empty list selects nothing
    if array.dtype.kind == "b":
        return Array.of(array)
    if isinstance(item, str):
        raise PositionError(
            "An index should hold integers, slices, `...`, None, or arrays of integers or "
            f"booleans. Received: {item!r}. To edit one array of a dict, write "
            f"`at[...].set(0.0).on({item!r})`."
        )
    if array.dtype.kind not in "iu":
        raise PositionError(
            "An index should hold integers, slices, `...`, None, or arrays of integers or "
            f"booleans. Received: {item!r} of type {type(item).__name__}. Cast it first, as in "
            "`at(x)[numpy.asarray(index, int)]`."
        )
    if array.ndim == 0:
        return int(array)
    return Positions(array.shape, tuple(array.ravel().tolist()))


def item_key(item: Item) -> Any:
    """Hashable stand-in, equal for equal items."""
    if isinstance(item, (Each, Block)):
        return (type(item).__name__, item_key(_first(item)), getattr(item, "size", None))
    if isinstance(item, Traced):
        return to_key(item.tensor)
    return item if isinstance(item, Positions) else to_key(item)


def item_code(item: Item) -> str:
    """Python source of the item, as it is inside brackets."""
    if item is ...:
        return "..."
    if isinstance(item, slice):
        parts = ["" if p is None else str(p) for p in (item.start, item.stop, item.step)]
        return ":".join(parts if parts[2] else parts[:2])
    if isinstance(item, Each):
        return f"each({item_code(item.positions)})"
    if isinstance(item, Block):
        return f"block({item_code(item.start)}, {item.size})"
    if isinstance(item, (Traced, TracedSlot)):
        return f"<tensor of shape {shape_of_item(item)}>"
    if isinstance(item, Positions):
        if item.numbers:
            return repr(item.nested())
        return "[]" if item.shape == (0,) else f"np.zeros({item.shape}, int)"
    if isinstance(item, Array) and item.array.size:
        return repr(item.array.tolist())
    return to_code(item)


def item_to_json(item: Item) -> Any:
    if isinstance(item, Positions):
        check_shape("Positions", list(item.shape))
        return {"positions": list(item.numbers), "shape": list(item.shape)}
    if isinstance(item, Each):
        return {"each": item_to_json(item.positions)}
    if isinstance(item, Block):
        return {"block": item_to_json(item.start), "size": item.size}
    if isinstance(item, slice):
        return {"slice": [item.start, item.stop, item.step]}
    if item is ...:
        return "..."
    return to_json(item.tensor if isinstance(item, Traced) else item)


def item_from_json(data: Any) -> Item:
    """The item that `item_to_json` wrote."""
    if data is None or (isinstance(data, int) and not isinstance(data, bool)):
        return data
    if isinstance(data, str) and data == "...":
        return ...
    if not isinstance(data, dict):
        raise refused("An item of an index should be an int, a dict, null or '...'", data)
    if "slice" in data:
        parts = check_fields("A slice", data, {"slice": list})["slice"]
        if len(parts) != 3 or not all([type(part) in (int, type(None)) for part in parts]):
            raise refused("A slice should have three parts that are ints or null", data)
        return canonical(slice(*parts))
    if "each" in data:
        return each(_part_from_json(check_fields("`each`", data, {"each": dict})["each"]))
    if "block" in data:
        fields = check_fields("A block", data, {"block": (int, dict), "size": int})
        return block(_part_from_json(fields["block"]), fields["size"])
    item = _part_from_json(data)
    if isinstance(item, Array) and item.dtype != "bool":
        raise refused("An array in an index should be boolean, or written as positions", data)
    return item


def _part_from_json(data: Any) -> Item:
    """Load an item that is not nested, alone or inside `each` or `block`."""
    if not isinstance(data, dict) or "positions" not in data:
        return from_json(data)
    fields = check_fields("Positions", data, {"positions": list, "shape": list})
    shape = check_shape("Positions", fields["shape"])
    entries = check_entries("Positions", fields["positions"], shape)
    numbers = [check_whole("A position", n, -(2**63), 2**64 - 1) for n in entries]
    if shape == () or (numbers and max(numbers) >= 2**63 and min(numbers) < 0):
        raise refused("Positions should be an array of one dtype, with an axis", data)
    return Positions(shape, tuple(numbers))
