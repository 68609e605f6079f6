"""Constants of an edit: how they are frozen, compared, printed and written as JSON.

A constant is a Python scalar or an `Array`. A tensor is not a constant: it is
kept as it is, equals only itself and cannot be saved. A `Slot` takes the place of
a tensor, so that the rest of the edit can be saved.

Shapes, ranges and positions are plain Python, because a compiler that reads
Python's bytecode treats NumPy arrays as tensors, whose contents it cannot know.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kedit._language.compiler import check_not_read
from kedit._language.decoding import (
    DTYPES,
    check_dtype,
    check_entries,
    check_fields,
    check_same,
    check_shape,
    check_whole,
    loading,
    received,
    refused,
)
from kedit._language.pickling import pickled
from kedit._language.types import Shape
from kedit.errors import OperandError, SavingError, ShapeError

SMALL = 1024
"""Arrays with up to this many entries are kept as Python numbers, which every compiler knows."""


class Frozen:
    """Base class of immutable values: `_init` sets the attributes once."""

    __slots__ = ()

    def _init(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed: make a new one.")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed: make a new one.")


@pickled
class Array(Frozen):
    """A constant array, compared by dtype, shape and contents.

    Attributes:
        dtype: Name of its dtype.
        shape: Its shape.
        numbers: Its entries in C order, or None if there are more than `SMALL`.
        low: Its smallest finite entry (the absolute value of complex ones), or 0 if there is none.
        high: Its largest finite entry, likewise.
    """

    __slots__ = ("_array", "dtype", "high", "low", "numbers", "shape")
    dtype: str
    shape: tuple[int, ...]
    numbers: tuple[Any, ...] | None
    low: float
    high: float
    _array: Any

    def __init__(
        self, dtype: str, shape: tuple[int, ...], numbers: tuple[Any, ...] | None, array: Any = None
    ) -> None:
        if numbers is None:
            sizes = np.abs(array) if dtype.startswith("complex") else array
            finite = sizes[np.isfinite(sizes)]
            low, high = (finite.min().item(), finite.max().item()) if finite.size else (0, 0)
        else:
            sizes = [abs(number) if isinstance(number, complex) else number for number in numbers]
            finite = [size for size in sizes if math.isfinite(size)]
            low, high = min(finite, default=0), max(finite, default=0)
        self._init(dtype=dtype, shape=shape, numbers=numbers, _array=array, low=low, high=high)

    @classmethod
    def of(cls, array: Any) -> "Array":
        array = np.asarray(array)
        if array.size <= SMALL:
            return cls(array.dtype.name, array.shape, tuple(array.ravel().tolist()))
        copy = np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)  # read-only
        return cls(array.dtype.name, array.shape, None, copy)

    @property
    def array(self) -> Any:
        """The entries as a NumPy array, which is read-only if there are more than `SMALL`."""
        if self.numbers is None:
            return self._array
        return np.array(self.numbers, self.dtype).reshape(self.shape)

    def key(self) -> Any:
        return ("array", self.dtype, self.shape, self.array.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Array) and self.key() == other.key()

    def __hash__(self) -> int:
        return hash(self.key())

    def __reduce__(self) -> Any:
        return (Array, (self.dtype, self.shape, self.numbers, self._array))


@pickled
class Slot(NamedTuple):
    """Takes the place of tensor number `number` of an edit."""

    number: int


@dataclass(frozen=True, slots=True)
class StandIn:
    """Stands for a tensor of the edit in a plan, with its shape and dtype.

    Attributes:
        number: Its number among the tensors and functions of the edit.
        shape: Its shape.
        dtype: Name of its dtype.
    """

    number: int
    shape: Shape
    dtype: str


@dataclass(frozen=True, slots=True)
class FunctionStandIn:
    """Stands for a function of the edit in a plan; messages call it `name`."""

    number: int
    name: str

    def __call__(self, *given: Any) -> Any:
        raise TypeError(f"{self.name} should be called when the edit is applied.")

    def __repr__(self) -> str:
        return self.name


def stand_ins(signature: tuple[Any, ...]) -> list[Any]:
    """Stand-ins for tensors, given as shape and dtype, and for functions, given as None."""
    return [
        StandIn(number, *form) if form else FunctionStandIn(number, "function")
        for number, form in enumerate(signature)
    ]


class Placeholder(Frozen):
    """Base class of operands that stand for a tensor that another object owns.

    Attributes:
        home: The object that owns it.
        fix: Code that passes an edit to the owner, as a format string with a field `edit`.
        owns_weight: Whether each object is a weight of its own, even if it equals another.
        gives_positions: Whether it can stand for positions, in `each`.
    """

    __slots__ = ()
    owns_weight = False
    gives_positions = False
    home = ""
    fix = ""

    def key(self) -> Any:
        """Hashable stand-in, equal for equal values."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The value as data for JSON."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Placeholder":
        """Create a value from the result of `get_config()`, without running code."""
        what = f"A saved {cls.__name__}"
        with loading(what, config):
            made = cls(**config)
            check_same(what, made.get_config(), config)
            return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Placeholder) and self.key() == other.key()

    def __hash__(self) -> int:
        return hash(self.key())


_NUMBERS = (int, float, bool, complex)
_NO_TENSORS = (bool, int, float, complex, str, slice, list, tuple, np.ndarray, np.generic, Array)


def is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic))


def is_tensor(value: Any) -> bool:
    """Whether `value` looks like a tensor: has a shape and a dtype, and is not a NumPy array."""
    if value is None or isinstance(value, _NO_TENSORS):
        return False
    return hasattr(value, "shape") and hasattr(value, "dtype")


def is_replaced(value: Any) -> bool:
    """Whether `Edit.map` replaces `value`: a tensor, a slot or a placeholder."""
    return isinstance(value, (Slot, Placeholder)) or is_tensor(value)


def is_scalar(value: Any) -> bool:
    return isinstance(value, (bool, int, float, complex))


def shape_of(value: Any) -> Shape:
    return () if is_scalar(value) else tuple(value.shape)


def freeze(value: Any) -> Any:
    """Convert a user's value to a constant; tensors and slots pass unchanged.

    NumPy scalars become Python scalars, and lists and arrays become an `Array`,
    so that nothing the user does later changes the edit.
    """
    if isinstance(value, np.generic):
        return _freeze_array(value)
    if isinstance(value, int) and abs(value) >= 2**64:
        raise OperandError(
            f"A number should fit into 64 bits. Received: one of {value.bit_length()} bits. Write "
            "a float, as 1e20."
        )
    if is_scalar(value) or isinstance(value, (Array, Slot)) or is_tensor(value):
        return value
    if not isinstance(value, (list, tuple)):
        return _freeze_array(value)
    if holds_tensor(value):
        raise OperandError(
            "Values should be a number, an array of numbers or a tensor. Received: "
            f"a {type(value).__name__} that holds tensors. Write `keras.ops.stack([...])`."
        )
    flat = flatten(value)
    if flat is None or len(flat[1]) > SMALL or any([_is_wide(n) for n in flat[1]]):
        return _freeze_array(value)
    if not flat[1]:
        return Array("float64", flat[0], ())
    kinds = [
        isinstance(n, bool) + 2 * isinstance(n, float) + 4 * isinstance(n, complex) for n in flat[1]
    ]
    dtype = {0: "int64", 1: "bool", 2: "float64", 4: "complex128"}[
        1 if min(kinds) == 1 == max(kinds) else max([kind - kind % 2 for kind in kinds])
    ]
    return Array(dtype, flat[0], flat[1])


def _is_wide(number: Any) -> bool:
    return isinstance(number, int) and not -(2**63) <= number < 2**63


def flatten(entries: Any) -> tuple[tuple[int, ...], tuple[Any, ...]] | None:
    """Shape and numbers of nested lists of Python numbers, or None for anything else."""
    if is_scalar(entries):
        return (), (entries,)
    if not isinstance(entries, (list, tuple)):
        return None
    if entries and all([type(entry) in _NUMBERS for entry in entries]):  # the usual case
        return (len(entries),), tuple(entries)
    parts = [flatten(entry) for entry in entries]
    if not parts:
        return (0,), ()
    first = parts[0]
    if first is None or any([part is None or part[0] != first[0] for part in parts]):
        return None
    return (len(parts), *first[0]), tuple([n for part in parts if part for n in part[1]])


def _freeze_array(value: Any) -> Any:
    check_not_read("What an edit is given", value)
    try:
        array = np.asarray(value)
    except ValueError:  # a ragged list
        array = np.asarray(None)
    # bfloat16 and the like have kind "V". NumPy alone cannot name them; float32 can hold them.
    if array.dtype.kind == "V" and array.dtype.names is None:
        array = array.astype("float32")
    if array.dtype.kind not in "biufc":
        raise OperandError(
            "Values should be a number, an array of numbers or a tensor. "
            f"Received: {value!r} of type {type(value).__name__}. To compute from the selected "
            "elements, write `.apply(function)`."
        )
    return array.item() if isinstance(value, np.generic) else Array.of(array)


def holds_tensor(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(holds_tensor(entry) for entry in value)
    return is_tensor(value)


def to_key(value: Any) -> Any:
    """Hashable stand-in: equal keys mean the same constant of the same type."""
    if isinstance(value, slice):
        return ("slice", value.start, value.stop, value.step)
    if isinstance(value, (Array, Placeholder)):
        return value.key()
    if isinstance(value, Slot) or value is ...:
        return value
    if is_scalar(value) or isinstance(value, (str, type(None))):
        return (type(value).__name__, repr(value))
    return ("object", id(value))


def to_code(value: Any) -> str:
    """Python source that makes the constant, given `import numpy as np`."""
    if isinstance(value, Array):
        entries = to_code(value.array.tolist() if value.array.size else [])
        reshape = "" if value.array.size else f".reshape({value.shape})"
        return f"np.array({entries}, {value.dtype!r}){reshape}"
    if isinstance(value, list):
        return "[" + ", ".join(to_code(entry) for entry in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, complex):
        return f"complex({to_code(value.real)}, {to_code(value.imag)})"
    if is_tensor(value):
        return f"<tensor of shape {tuple(value.shape)}>"
    return str(getattr(value, "__qualname__", repr(value)))


def brief(value: Any) -> str:
    """`to_code` for a message; of a large array it shows only the shape."""
    if isinstance(value, Array) and value.array.size > 20:
        return f"an array of shape {value.shape}"
    return to_code(value)


def to_json(value: Any) -> Any:
    """Data for JSON, which knows neither arrays nor infinity; `from_json` reads it."""
    if isinstance(value, Array):
        return _array_to_json(value)
    if isinstance(value, Slot):
        return {"slot": value.number}
    if isinstance(value, complex):
        return {"complex": [to_json(value.real), to_json(value.imag)]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if is_scalar(value) or value is None:
        return value
    raise SavingError(
        "An edit that is saved should hold only numbers, arrays and expressions over `X`. "
        f"Received: {to_code(value)}. Write the values as a NumPy array: "
        "`keras.ops.convert_to_numpy(values)`."
    )


def _array_to_json(value: Array) -> dict[str, Any]:
    form = {"shape": list(value.shape), "dtype": value.dtype}
    check_dtype(value.dtype)
    check_shape("An array", form["shape"])
    array = value.array
    if value.numbers is not None:
        return {"array": [to_json(entry) for entry in array.ravel().tolist()], **form}
    data = np.packbits(array) if value.dtype == "bool" else array.astype(_little(array.dtype))
    return {"hex": data.tobytes().hex(), **form}


def _little(dtype: Any) -> Any:
    """A dtype in the byte order in which arrays are saved."""
    return np.dtype(dtype).newbyteorder("<")


def from_json(data: Any) -> Any:
    """The number, array or slot that `to_json` wrote."""
    if isinstance(data, float) and not math.isfinite(data):
        raise refused('A number that is not finite should be written as {"float": "inf"}', data)
    if isinstance(data, int) and abs(data) >= 2**64:
        raise refused("A number should fit into 64 bits", data)
    if isinstance(data, (bool, int, float)):
        return data
    if not isinstance(data, dict):
        raise refused("A value should be a number or a dict that says what it is", data)
    if "array" in data:
        return _listed(check_fields("An array", data, {"array": list, **_ARRAY}))
    if "hex" in data:
        return _unpacked(check_fields("An array", data, {"hex": str, **_ARRAY}))
    if "complex" in data:
        parts = check_fields("A complex number", data, {"complex": list})["complex"]
        return _number(data, "complex128") if len(parts) == 2 else _no_number(data, "complex128")
    if "float" in data:
        return _number(data, "float64")
    number = check_fields("A value", data, {"slot": int})["slot"]
    return Slot(check_whole("The number of a slot", number, 0, 2**31 - 1))


_ARRAY: dict[str, Any] = {"shape": list, "dtype": str}


def _listed(data: dict[str, Any]) -> Array:
    """Load an array that was saved as a list of its entries."""
    dtype, shape = check_dtype(data["dtype"]), check_shape("An array", data["shape"])
    entries = check_entries("An array", data["array"], shape)
    if len(entries) > SMALL:
        raise refused(f"An array of more than {SMALL} entries should be written as `hex`", data)
    numbers = [_number(entry, dtype) for entry in entries]
    with np.errstate(over="ignore"):  # such numbers are refused below
        array = np.array(numbers, dtype).reshape(shape)
    for entry, exact in zip(entries, array.ravel().tolist(), strict=True):
        if to_json(exact) != entry:
            raise refused(f"An entry of an array should be a number of dtype {dtype!r}", entry)
    return Array.of(array)


def _number(entry: Any, dtype: str) -> Any:
    """Load an entry of an array of a given dtype."""
    kind = np.dtype(dtype).kind
    if kind == "b" and isinstance(entry, bool):
        return entry
    if kind in "iu":
        limits = np.iinfo(dtype)
        return check_whole(
            f"An entry of an array of dtype {dtype!r}", entry, int(limits.min), int(limits.max)
        )
    if kind == "f":
        if isinstance(entry, float) and math.isfinite(entry):
            return entry
        if isinstance(entry, dict) and list(entry.items())[1:] == [] and "float" in entry:
            name = entry["float"]
            if isinstance(name, str) and name in ("nan", "inf", "-inf"):
                return float(name)
    if kind == "c" and isinstance(entry, dict) and list(entry) == ["complex"]:
        parts = entry["complex"]
        if isinstance(parts, list) and len(parts) == 2:
            return complex(*[_number(part, "float64") for part in parts])
    return _no_number(entry, dtype)


def _no_number(entry: Any, dtype: str) -> Any:
    raise refused(f"A number of dtype {dtype!r} should be written as kedit does", entry)


def _unpacked(data: dict[str, Any]) -> Array:
    """Load an array that was saved as the bytes of its entries."""
    dtype, shape = check_dtype(data["dtype"]), check_shape("An array", data["shape"])
    count, digits = math.prod(shape), data["hex"]
    size = -(-count // 8) if dtype == "bool" else count * DTYPES[dtype]
    # Check before allocating anything of this size.
    if len(digits) != 2 * size or count <= SMALL:
        raise refused(
            f"An array of shape {received(shape)} and dtype {dtype!r} should have "
            + (f"{2 * size} hexadecimal digits" if count > SMALL else "a list of its entries"),
            digits,
        )
    try:
        raw = bytes.fromhex(digits)
    except ValueError as error:
        raise refused("An array should be written in hexadecimal digits", digits) from error
    if raw.hex() != digits:
        raise refused("An array should be written in lower hexadecimal digits, close up", digits)
    if dtype != "bool":
        return Array.of(np.frombuffer(raw, _little(dtype)).astype(dtype).reshape(shape))
    if count % 8 and raw[-1] & (2 ** (8 - count % 8) - 1):
        raise refused("The bits behind the last entry of an array should be 0", digits[-2:])
    bits = np.unpackbits(np.frombuffer(raw, "uint8"), count=count)
    return Array.of(bits.astype(bool).reshape(shape))


def as_array(x: Any) -> Any:
    """Convert a user's list or array to a NumPy array."""
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ShapeError(
            "Rows of a list that stands for an array should be of one length. Received: "
            f"{received(x)}. Pad the rows, or edit each of them by itself."
        ) from error
