"""Constants of an edit: how they are frozen, compared, printed and written as JSON.

A constant is a Python scalar or an `Array`. A tensor is not a constant: it is
kept as it is, equals only itself and cannot be saved. A `Slot` stands where a
tensor was taken out, so that the rest of the edit can be written down.

What decides anything about an edit (shapes, ranges, positions) is plain Python:
a compiler that reads Python's bytecode takes NumPy's arrays for tensors, whose
contents it cannot know.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from kedit._types import Shape
from kedit.errors import OperandError, SavingError

SMALL = 1024
"""Arrays of up to so many entries are kept as numbers, too, which every compiler knows."""


class Frozen:
    """Base of values: attributes are set by `_init` once and never again."""

    __slots__ = ()

    def _init(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed: make a new one.")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed: make a new one.")


class Array(Frozen):
    """A constant array: equal to another by dtype, shape and contents.

    Attributes:
        dtype: Name of its dtype.
        shape: Its shape.
        numbers: Its entries in C order, or None if there are more than `SMALL`.
        low: Its least finite entry (for complex numbers, 0), or 0 if there is none.
        high: Its greatest finite entry (of complex numbers, by absolute value), or 0.
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
        """The entries as a NumPy array; if there are many, it is read-only."""
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


class Slot(NamedTuple):
    """Place of the tensor number `number` of an edit."""

    number: int


class Placeholder(Frozen):
    """Base of values that stand, as an operand, for a tensor that somebody else has.

    Attributes:
        home: Who has it.
        fix: How an edit is given to that, as code with a place for the edit.
    """

    __slots__ = ()
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
        """The value that `get_config()` described; no code is run."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Placeholder) and self.key() == other.key()

    def __hash__(self) -> int:
        return hash(self.key())


_NUMBERS = (int, float, bool, complex)
_NO_TENSORS = (bool, int, float, complex, str, slice, list, tuple, np.ndarray, np.generic, Array)


def is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic))


def is_tensor(value: Any) -> bool:
    """Whether `value` looks like a tensor: it has a shape and a dtype, and is no NumPy array."""
    if value is None or isinstance(value, _NO_TENSORS):
        return False
    return hasattr(value, "shape") and hasattr(value, "dtype")


def is_replaced(value: Any) -> bool:
    """Whether `Edit.map` replaces `value`: a tensor, or what stands for one."""
    return isinstance(value, (Slot, Placeholder)) or is_tensor(value)


def is_scalar(value: Any) -> bool:
    return isinstance(value, (bool, int, float, complex))


def shape_of(value: Any) -> Shape:
    return () if is_scalar(value) else tuple(value.shape)


def freeze(value: Any) -> Any:
    """Turn what a user gave into a constant; tensors and slots pass unchanged.

    NumPy scalars become Python scalars, lists and arrays become an `Array`, so
    that nothing the user does later changes the edit.
    """
    if isinstance(value, np.generic):
        return _freeze_array(value)
    if isinstance(value, int) and abs(value) >= 2**64:
        raise OperandError(
            f"A number should fit into 64 bits. Received: one of {value.bit_length()} bits."
        )
    if is_scalar(value) or isinstance(value, (Array, Slot)) or is_tensor(value):
        return value
    if not isinstance(value, (list, tuple)):
        return _freeze_array(value)
    if _holds_tensor(value):
        raise OperandError(
            "Values should be a number, an array of numbers or a tensor. Received: "
            f"a {type(value).__name__} that holds tensors. Write `keras.ops.stack([...])`."
        )
    flat = flatten(value)
    if flat is None or not 0 < len(flat[1]) <= SMALL or any([_is_wide(n) for n in flat[1]]):
        return _freeze_array(value)
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
    """Shape and numbers of nested lists of Python's numbers, or None of anything else."""
    if is_scalar(entries):
        return (), (entries,)
    if not isinstance(entries, (list, tuple)):
        return None
    if entries and all([type(entry) in _NUMBERS for entry in entries]):  # which most are
        return (len(entries),), tuple(entries)
    parts = [flatten(entry) for entry in entries]
    if not parts:
        return (0,), ()
    first = parts[0]
    if first is None or any([part is None or part[0] != first[0] for part in parts]):
        return None
    return (len(parts), *first[0]), tuple([n for part in parts if part for n in part[1]])


def _freeze_array(value: Any) -> Any:
    try:
        array = np.asarray(value)
    except ValueError:  # a ragged list
        array = np.asarray(None)
    # bfloat16 and its like are of kind "V": NumPy alone cannot name them, float32 holds them.
    if array.dtype.kind == "V" and array.dtype.names is None:
        array = array.astype("float32")
    if array.dtype.kind not in "biufc":
        raise OperandError(
            "Values should be a number, an array of numbers or a tensor. "
            f"Received: {value!r} of type {type(value).__name__}. To compute from the selected "
            "elements, write `.apply(function)`."
        )
    return array.item() if isinstance(value, np.generic) else Array.of(array)


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_holds_tensor(entry) for entry in value)
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
    """`to_code` for a message: of many entries only how many."""
    if isinstance(value, Array) and value.array.size > 20:
        return f"an array of shape {value.shape}"
    return to_code(value)


def to_json(value: Any) -> Any:
    """Data for JSON, which knows neither arrays nor infinity; `from_json` reads it."""
    if isinstance(value, Array) and value.numbers is None:
        array = value.array
        data = np.packbits(array) if value.dtype == "bool" else array.astype(_little(array.dtype))
        return {"hex": data.tobytes().hex(), "shape": list(value.shape), "dtype": value.dtype}
    if isinstance(value, Array):
        entries = [to_json(entry) for entry in value.array.ravel().tolist()]
        return {"array": entries, "shape": list(value.shape), "dtype": value.dtype}
    if isinstance(value, Slot):
        return {"slot": value.number}
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    if value is ...:
        return "..."
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


def _little(dtype: Any) -> Any:
    """A dtype in the order of bytes in which arrays are written down."""
    return np.dtype(dtype).newbyteorder("<")


_FORMS = {"array", "hex", "complex", "slice", "slot", "float"}


def from_json(data: Any) -> Any:
    if data == "...":
        return ...
    if is_scalar(data) or data is None:
        return data
    if not isinstance(data, dict) or len(data.keys() & _FORMS) != 1:
        raise SavingError(f"A saved edit should be what `get_config()` gave. Received: {data!r}.")
    if "array" in data:
        entries = [from_json(entry) for entry in data["array"]]
        return Array.of(np.array(entries, data["dtype"]).reshape(data["shape"]))
    if "hex" in data:
        raw, shape, dtype = bytes.fromhex(data["hex"]), data["shape"], data["dtype"]
        if dtype == "bool":
            bits = np.unpackbits(np.frombuffer(raw, "uint8"), count=math.prod(shape))
            return Array.of(bits.astype(bool).reshape(shape))
        return Array.of(np.frombuffer(raw, _little(dtype)).astype(dtype).reshape(shape))
    if "complex" in data:
        return complex(*(from_json(part) for part in data["complex"]))
    if "slice" in data:
        return slice(*data["slice"])
    return Slot(data["slot"]) if "slot" in data else float(data["float"])
