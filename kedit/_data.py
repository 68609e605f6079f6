"""Constants of an edit: how they are frozen, compared, printed and written as JSON.

A constant is a Python scalar or a NumPy array. A tensor is not a constant: it
is kept as it is, equals only itself and cannot be saved. A `Slot` stands where
a tensor was taken out, so that the rest of the edit can be written down.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from kedit.errors import OperandError, SavingError


@dataclass(frozen=True, slots=True)
class Slot:
    """Place of the tensor number `number` of an edit."""

    number: int


def is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic)


def is_tensor(value: Any) -> bool:
    """Whether `value` looks like a tensor: it has a shape and a dtype, and is no NumPy array."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and not is_array(value)


def freeze(value: Any) -> Any:
    """Turn what a user gave into a constant; tensors and slots pass unchanged.

    NumPy scalars become Python scalars, lists and arrays become read-only
    copies, so that nothing the user does later changes the edit.
    """
    if isinstance(value, bool | int | float | complex | Slot) or is_tensor(value):
        return value
    array = None if _holds_tensor(value) else _as_array(value)
    # bfloat16 and its like are of kind "V": NumPy alone cannot name them, float32 holds them.
    if array is not None and array.dtype.kind == "V" and array.dtype.names is None:
        array = array.astype("float32")
    if array is None or array.dtype.kind not in "biufc":
        raise OperandError(
            "Values should be a number, an array of numbers or a tensor. "
            f"Received: {value!r} of type {type(value).__name__}. To combine tensors, write "
            "`keras.ops.stack([...])`; to compute from the selected elements, write "
            "`.apply(function)`."
        )
    if isinstance(value, np.generic):
        return array.item()
    array.setflags(write=False)
    return array


def _as_array(value: Any) -> Any:
    try:
        return np.array(value)
    except ValueError:  # a ragged list
        return None


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_tensor(entry) for entry in value)
    return is_tensor(value)


def to_key(value: Any) -> Any:
    """Hashable stand-in: equal keys mean the same constant of the same type."""
    if isinstance(value, np.ndarray):
        return ("array", value.dtype.name, value.shape, value.tobytes())
    if isinstance(value, bool | int | float | complex | str | type(None)):
        return (type(value).__name__, repr(value))
    return value if isinstance(value, Slot) else ("object", id(value))


def to_code(value: Any) -> str:
    """Python source that makes the constant, given `import numpy as np`."""
    if isinstance(value, np.ndarray):
        entries = to_code(value.tolist() if value.size else [])
        reshape = "" if value.size else f".reshape({value.shape})"
        return f"np.array({entries}, {value.dtype.name!r}){reshape}"
    if isinstance(value, list):
        return "[" + ", ".join(to_code(entry) for entry in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if is_tensor(value):
        return f"<tensor of shape {tuple(value.shape)}>"
    return str(getattr(value, "__qualname__", repr(value)))


def to_json(value: Any) -> Any:
    """Data for JSON, which knows neither arrays nor infinity; `from_json` reads it."""
    if isinstance(value, np.ndarray):
        entries = [to_json(entry) for entry in value.ravel().tolist()]
        return {"array": entries, "shape": list(value.shape), "dtype": value.dtype.name}
    if isinstance(value, complex):
        return {"complex": [to_json(value.real), to_json(value.imag)]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, Slot):
        return {"slot": value.number}
    if isinstance(value, bool | int | float | str | type(None)):
        return value
    raise SavingError(
        "An edit that is saved should hold only numbers, arrays and expressions over `X`. "
        f"Received: {to_code(value)}. Write the values as a NumPy array: "
        "`keras.ops.convert_to_numpy(values)`."
    )


def from_json(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    if "array" in data:
        entries = [from_json(entry) for entry in data["array"]]
        array = np.array(entries, dtype=data["dtype"]).reshape(data["shape"])
        array.setflags(write=False)
        return array
    if "complex" in data:
        return complex(*(from_json(part) for part in data["complex"]))
    return Slot(data["slot"]) if "slot" in data else float(data["float"])
