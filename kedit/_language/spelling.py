"""The parts of `at(x)[...]` as plain data, which can be compared and turned back into an edit.

An edit that is applied at once is not parsed if the same edit was planned before. To find that
plan, its parts are spelled as tuples of strings and ints. The tensors and functions in it are
leaves, which are kept separately. What cannot be spelled, such as a long array, is parsed every
time.
"""

from collections.abc import Sequence
from typing import Any

from kedit._language.constants import is_tensor
from kedit._language.decoding import NESTING
from kedit._language.expression import Expression

LONGEST = 64
"""Lists of up to this many positions are spelled."""
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
        elif kind is list:
            if not 0 < len(item) <= LONGEST or not all([type(n) is int for n in item]):
                return None
            spelled.append(("list", *item))
        elif is_tensor(item) and any([name in str(item.dtype) for name in ("int", "bool")]):
            spelled.append(("leaf", len(leaves)))
            leaves.append(item)
        else:
            return None
    return tuple(spelled)


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
        return None if None in args else ("expression", value.name, *args)
    if is_tensor(value) or callable(value):
        leaves.append(value)
        return ("leaf", len(leaves) - 1)
    return None


def value_of(spelled: tuple[Any, ...], leaves: Sequence[Any]) -> Any:
    """The operand or condition that `spell_value` spelled."""
    if not spelled:
        return None
    kind, *parts = spelled
    if kind == "leaf":
        return leaves[parts[0]]
    if kind == "expression":
        return Expression(parts[0], *[value_of(part, leaves) for part in parts[1:]])
    return _NUMBERS[kind](parts[0])
