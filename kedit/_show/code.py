"""Objects as code: the call that creates them, without what is a default anyway."""

import inspect
from dataclasses import fields
from typing import Any

import keras
import numpy as np

from kedit._language.constants import Array, freeze, to_code
from kedit._language.items import Positions, item_code
from kedit._language.selection import Selection

_PLACES = ("losses", "initializers", "regularizers", "constraints", "optimizers.schedules")
_MISSING = object()


def shortened(text: str, most: int) -> str:
    """Return the text, with its middle left out if it has more than `most` characters."""
    if len(text) <= most:
        return text
    end = (most - 3) // 3
    return f"{text[: most - 3 - end]} … {text[-end:]}"


def created(made: Any, called: str | None = None, **given: Any) -> str:
    """Return the call that creates an object, with the arguments that differ from the defaults.

    Args:
        made: The object. It keeps each argument of its `__init__` as an attribute.
        called: Name of what is called. Defaults to None: the class.
        **given: Arguments that it keeps under another name or in another form.
    """
    values = {**_attributes(made), **given}
    return f"{called or type(made).__name__}({_arguments(type(made), values)})"


def outline(made: Any) -> str:
    """Return the fields of a result of arrays, with the shapes in place of the numbers."""
    parts = [f"{field.name}={_outlined(getattr(made, field.name))}" for field in fields(made)]
    return f"{type(made).__name__}({', '.join(parts)})"


def _outlined(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"<array of shape {value.shape}>"
    if isinstance(value, dict):
        return "{" + ", ".join([f"{key!r}: {_outlined(v)}" for key, v in value.items()]) + "}"
    if not isinstance(value, list):
        return code_of(value)
    parts = [_outlined(part) for part in value[:3]]
    return f"[{', '.join([*parts, '...'] if len(value) > 3 else parts)}]"


def _parameters(kind: type) -> list[inspect.Parameter]:
    """Return the arguments of a class that have names."""
    found = list(inspect.signature(kind.__init__).parameters.values())[1:]  # type: ignore[misc]
    return [one for one in found if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]


def _attributes(made: Any) -> dict[str, Any]:
    names = [parameter.name for parameter in _parameters(type(made))]
    # A subclass may keep its arguments under other names.
    return {name: getattr(made, name, ...) for name in names}


def _arguments(kind: type, values: dict[str, Any]) -> str:
    arguments, by_place = [], True
    for parameter in _parameters(kind):
        value = values.get(parameter.name, _MISSING)
        if value is _MISSING or _is_default(value, parameter.default):
            by_place = False
            continue
        # What has a default other than None is an option, which reads better with its name.
        is_option = parameter.default not in (parameter.empty, None)
        by_place = by_place and parameter.kind is not parameter.KEYWORD_ONLY and not is_option
        code = code_of(value)
        arguments.append(code if by_place else f"{parameter.name}={code}")
    return ", ".join(arguments)


def _is_default(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def code_of(value: Any) -> str:
    """Return the code of an argument."""
    if isinstance(value, Selection):
        return _code_of_selection(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return to_code(freeze(value))
    if isinstance(value, list):
        return f"[{', '.join([code_of(entry) for entry in value])}]"
    if type(value) is tuple:
        codes = [code_of(entry) for entry in value]
        return f"({codes[0]},)" if len(codes) == 1 else f"({', '.join(codes)})"
    if value is ...:
        return "..."
    name = getattr(value, "__name__", "")
    if name and getattr(keras.losses, name, None) is value:
        return repr(name)
    if type(value).__module__.startswith("keras."):
        return _code_of_keras(value)
    has_repr: Any = type(value).__repr__
    if has_repr is object.__repr__ and not isinstance(value, Array):
        return f"<{type(value).__name__}>"
    return to_code(value)


def _code_of_selection(selection: Selection) -> str:
    """Return the code of positions in a sample: `2` where it says the same as `sample[2]`."""
    items = selection.index.items
    is_short = len(items) == 1 and isinstance(items[0], (int, Positions))
    if selection.coordinates == "sample" and selection.condition is None and is_short:
        return item_code(items[0])
    return repr(selection)


def _code_of_keras(value: Any) -> str:
    """Return the code of a loss, a schedule, a constraint and the like of Keras."""
    kind = type(value)
    for place in _PLACES:
        module = keras
        for part in place.split("."):
            module = getattr(module, part)
        if getattr(module, kind.__name__, None) is kind:
            config = value.get_config()
            names = [parameter.name for parameter in _parameters(kind)]
            is_whole = {*names} <= {*config, "dtype"}  # not that of `keras.losses.Huber`
            code = _arguments(kind, config) if is_whole else "..."
            return f"keras.{place}.{kind.__name__}({code})"
    return f"<{kind.__name__}>"
