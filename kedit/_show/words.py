"""An edit in words, with code between backticks, as in a message."""

from typing import Any

from kedit._language.expression import code_of_part
from kedit._language.selection import Selection, code_of
from kedit._show.code import shortened

_SENTENCES = {
    "set": "sets {which} to {values}",
    "add": "adds {values} to {which}",
    "subtract": "subtracts {values} from {which}",
    "multiply": "multiplies {which} by {values}",
    "divide": "divides {which} by {values}",
    "power": "raises {which} to the power {values}",
    "min": "limits {which} to at most {values}",
    "max": "limits {which} to at least {values}",
    "apply": "applies {values} to {which}",
    "get": "reads {which}",
}
_LONGEST = 80


def in_words(edit: Any, choice: Any = None) -> str:
    """Return a sentence that says which elements an edit changes, and how.

    Args:
        edit: `kedit.Edit`.
        choice: The choice that it makes by `set(values, otherwise=...)`, or None.
    """
    which = _which(edit.selection)
    if choice is None:
        said = _SENTENCES[edit.op].format(which=which, values=_code(code_of(edit.operand)))
    else:
        condition, values, otherwise = [_code(code_of_part(arg)) for arg in choice.args]
        said = f"sets {which} to {values} where {condition}, and to {otherwise} elsewhere"
    where = [_code(edit.path)] if edit.path is not None else []
    where += [_code(edit.part)] if edit.part != "x" else []
    said = f"in {' of '.join(where)}, {said}" if where else said
    return f"{said[0].upper()}{said[1:]}."


def _which(selection: Selection) -> str:
    is_whole = selection.index.is_whole
    which = "all elements" if is_whole and selection.condition is None else "the elements"
    which += "" if is_whole else f" at {_code(repr(selection.index))}"
    which += " of every sample" if selection.coordinates == "sample" else ""
    condition = selection.condition
    return which if condition is None else f"{which} where {_code(code_of(condition))}"


def _code(text: str) -> str:
    return f"`{shortened(text, _LONGEST)}`"
