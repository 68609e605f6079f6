"""The parts of `at(x)[...]` as plain data, which can be compared and turned back into an edit.

An edit that is applied at once is not parsed if the same edit was planned before. To find that
plan, its parts are spelled as tuples of strings, ints and bytes. The tensors and functions in it
are leaves, which are kept separately. What cannot be spelled, such as a very long array, is parsed
every time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kedit._language.compiler import reads_bytecode
from kedit._language.constants import Array, is_tensor
from kedit._language.decoding import NESTING
from kedit._language.expression import Expression
from kedit._language.items import Block, Each, Traced, block, each

LONGEST = 64
"""Lists of up to this many positions are spelled as they are, longer ones as arrays."""
LARGEST = 2**15
"""Arrays of up to this many bytes are spelled."""
_NUMBERS: dict[str, Any] = {
    "int": int,
    "float": float,
    "complex": complex,
    "bool": lambda text: text == "True",
}


def spell_index(index: Any, leaves: list[Any]) -> tuple[Any, ...] | None:
    """Spell an index, or return None if it should be parsed; append its tensors to `leaves`."""
    spelled: list[Any] = []
    for item in index if type(index) is tuple else (index,):
        kind = type(item)
        if kind is int or item is None:
            spelled.append(item)
        elif kind is slice:
            parts = (item.start, item.stop, item.step)
            if item.step == 0 or not all([p is None or type(p) is int for p in parts]):
                return None
            spelled.append(("slice", *parts))
        elif item is ...:
            if "..." in [part for part in spelled if type(part) is str]:
                return None
            spelled.append("...")
        elif is_tensor(item) and any([name in str(item.dtype) for name in ("int", "bool")]):
            spelled.append(("leaf", len(leaves)))
            leaves.append(item)
        else:
            found = _spell_positions(item, leaves)
            if found is None:
                return None
            spelled.append(found)
    return tuple(spelled)


def _spell_positions(item: Any, leaves: list[Any]) -> tuple[Any, ...] | None:
    """Spell a list, an array, or positions by `each` or `block`, or return None."""
    kind = type(item)
    if kind is list:
        if not item or not all([type(n) is int for n in item]):
            return None
        if len(item) <= LONGEST:
            return ("list", *item)
        return None if reads_bytecode() else _spell_array(np.array(item), "iu")
    if kind is not Each and kind is not Block:
        return _spell_array(item, "iub")
    part = item.positions if kind is Each else item.start
    if not isinstance(part, Traced):
        return None
    leaves.append(part.tensor)
    return ("each" if kind is Each else item.size, len(leaves) - 1)


def _spell_array(array: Any, kinds: str = "iubf") -> tuple[Any, ...] | None:
    """Spell a NumPy array of some kinds of dtypes, or return None."""
    if reads_bytecode() or type(array) is not np.ndarray or array.dtype.kind not in kinds:
        return None
    if array.nbytes > LARGEST:
        return None
    return ("array", array.dtype.str, array.shape, array.tobytes())


def _array_of(dtype: str, shape: tuple[int, ...], data: bytes) -> Any:
    return np.frombuffer(data, dtype).reshape(shape)


def holds_arrays(spelling: tuple[Any, ...]) -> bool:
    """Whether there are arrays in a spelled edit: plans for them may be large."""
    _, index, condition, _, operand, *_ = spelling
    parts = [part for part in (condition, operand, *index) if type(part) is tuple and part]
    return "array" in [part[0] for part in parts]


def index_of(spelled: tuple[Any, ...], leaves: Sequence[Any]) -> Any:
    """The index that `spell_index` spelled."""
    return tuple([_item_of(item, leaves) for item in spelled])


def _item_of(item: Any, leaves: Sequence[Any]) -> Any:
    if item == "...":
        return ...
    if type(item) is not tuple:
        return item
    if item[0] == "leaf":
        return leaves[item[1]]
    if item[0] == "array":
        return _array_of(*item[1:])
    if item[0] == "each":
        return each(leaves[item[1]])
    if type(item[0]) is int:
        return block(leaves[item[1]], item[0])
    return slice(*item[1:]) if item[0] == "slice" else list(item[1:])


def spell_value(value: Any, leaves: list[Any]) -> tuple[Any, ...] | None:
    """Spell an operand or a condition, or return None; append its tensors and functions."""
    if value is None:
        return ()
    kind = type(value).__name__
    if kind in _NUMBERS and type(value) in (int, float, complex, bool):
        return (kind, f"{value}")  # keeps 1 and True apart, and -0.0 and 0.0
    if isinstance(value, Expression):
        if value.depth > NESTING:
            return None
        args = [spell_value(arg, leaves) for arg in value.args]
        arrays = [arg for arg in args if arg and arg[0] == "array"]
        return None if arrays or None in args else ("expression", value.name, *args)
    if is_tensor(value) or callable(value):
        leaves.append(value)
        return ("leaf", len(leaves) - 1)
    return _spell_array(value)


def value_of(spelled: tuple[Any, ...], leaves: Sequence[Any]) -> Any:
    """The operand or condition that `spell_value` spelled."""
    if not spelled:
        return None
    kind, *parts = spelled
    if kind == "leaf":
        return leaves[parts[0]]
    if kind == "array":
        return Array.of(_array_of(*parts))
    if kind == "expression":
        return Expression(parts[0], *[value_of(part, leaves) for part in parts[1:]])
    return _NUMBERS[kind](parts[0])
