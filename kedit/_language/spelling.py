"""What stands in `at(x)[...]`, as plain data that can be compared, and made into an edit again.

An edit of one tensor that is applied at once is not parsed when the same was planned before. So its
parts are written down by tuples of strings and ints; a tensor or a function in it is a leaf, which
is given beside them. What is not written down so, as a long array, is parsed every time.
"""

from collections.abc import Sequence
from typing import Any

from kedit._language.constants import is_tensor
from kedit._language.decoding import NESTING
from kedit._language.expression import Expression

LONGEST = 64
"""A list of so many positions, or fewer, is written down."""
_NUMBERS: dict[str, Any] = {
    "int": int,
    "float": float,
    "complex": complex,
    "bool": lambda text: text == "True",
}


def spell_index(index: Any, leaves: list[Any]) -> tuple[Any, ...] | None:
    """What stands in the brackets, or None if it should be parsed; its tensors go to `leaves`."""
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
    """The index that `spell_index` has written down."""
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
    """An operand or a condition, or None if it should be parsed; its leaves go to `leaves`."""
    if value is None:
        return ()
    kind = type(value).__name__
    if kind in _NUMBERS and type(value) in (int, float, complex, bool):
        return (kind, f"{value}")  # 1 is not True, nor -0.0 0.0
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
    """The operand or condition that `spell_value` has written down."""
    if not spelled:
        return None
    kind, *parts = spelled
    if kind == "leaf":
        return leaves[parts[0]]
    if kind == "expression":
        return Expression(parts[0], *[value_of(part, leaves) for part in parts[1:]])
    return _NUMBERS[kind](parts[0])
