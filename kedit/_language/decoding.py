"""Checks of data from a file, before anything is created from it. No Keras.

A decoder names the fields that it expects and their types. At the end it compares what the new
object would save with what it was given. So a config is either one that kedit writes, or raises.
"""

import json
import math
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kedit.errors import SavingError

NESTING = 100
"""Maximum nesting depth of expressions that can be saved."""
TERMS = 2**16
"""Maximum number of expressions in a condition or an operand that can be saved."""
LONGEST = 2**24
"""Maximum length of a block, and maximum `size` of `get`, that can be saved."""
_CONTAINERS = 3 * NESTING
_RANK = 32
_SIZE = 2**48
DTYPES = {
    "bool": 1,
    **{f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": bits // 8 for bits in (16, 32, 64)},
    **{f"complex{bits}": bits // 8 for bits in (64, 128)},
}
"""The dtypes of arrays that can be saved, with their sizes in bytes."""

_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxdict, _brief.maxlist, _brief.maxtuple = 3, 4, 4, 4
_brief.maxstring = _brief.maxother = 60
_brief.maxlong = 40


def received(data: Any) -> str:
    """A short form of the data, for messages."""
    try:
        return str(_brief.repr(data))
    except (ValueError, RecursionError):  # an int with more digits than Python prints
        return f"a {type(data).__name__}"


def refused(
    expected: str, data: Any, fix: str = "Save it again by kedit, and leave it as it is."
) -> SavingError:
    """The error that says what a saved edit should hold instead of `data`."""
    error: SavingError = SavingError(f"{expected}. Received: {received(data)}. {fix}")
    return error


@contextmanager
def loading(what: str, data: Any) -> Iterator[None]:
    """Turn any error that occurs while `data` is decoded into a `SavingError`."""
    check_nesting(what, data)
    try:
        yield
    except SavingError:
        raise
    except Exception as error:  # including those of kedit's constructors
        expected = f"{what} should be what `get_config()` gave, not ask for: {_said(error)}"
        raise refused(expected, data) from error


def _said(error: BaseException) -> str:
    """The class of an error, and the start of its message."""
    text = str(error).strip().split("\n")[0]
    text = text if len(text) <= 160 else f"{text[:160]}..."
    return f"{type(error).__name__}: {text}".rstrip(". ")


def check_nesting(what: str, data: Any) -> None:
    """Raise if lists and dicts are nested too deep for a recursive function."""
    level = [data]
    for _ in range(_CONTAINERS):
        holders = [part for part in level if isinstance(part, (dict, list, tuple))]
        if not holders:
            return
        inside = [part.values() if isinstance(part, dict) else part for part in holders]
        level = [entry for entries in inside for entry in entries]
    raise SavingError(
        f"{what} should hold lists and dicts at most {_CONTAINERS} levels deep. Received: more. "
        "Save it again by kedit, and leave it as it is."
    )


Kind = type | tuple[type, ...]
_ABSENT = object()


def check_fields(
    what: str, data: Any, required: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None
) -> dict[str, Any]:
    """Return `data` if it is a dict with the given fields and types, else raise.

    Types are compared exactly: a bool is not an int. `object` stands for any type.
    """
    fields = {**required, **(optional or {})}
    if not isinstance(data, dict):
        raise refused(f"{what} should be a dict with the keys {sorted(required)}", data)
    missing = sorted(required.keys() - data.keys())
    unknown = sorted(map(str, data.keys() - fields.keys()))
    if missing or unknown:
        raise refused(
            f"{what} should have the keys {sorted(required)}"
            + (f" and may have {sorted(optional)}" if optional else "")
            + (f"; missing: {missing}" if missing else "")
            + (f"; unknown: {received(unknown)}" if unknown else ""),
            data,
        )
    for name, kind in fields.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        value = data.get(name, _ABSENT)
        if value is not _ABSENT and object not in kinds and type(value) not in kinds:
            names = " or ".join(["None" if k is type(None) else k.__name__ for k in kinds])
            raise refused(f"{name!r} of {what} should be of type {names}", value)
    return data


def check_keys(what: str, config: Any, kinds: Mapping[str, Kind]) -> None:
    """Check the given fields of a Keras object; Keras knows the others."""
    own = {n: config[n] for n in kinds if n in config} if isinstance(config, dict) else config
    check_fields(what, own, kinds)


def check_whole(what: str, number: Any, least: int, most: int) -> int:
    """Return `number` if it is an int, not a bool, from `least` to `most`, else raise."""
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        raise refused(f"{what} should be an int from {least} to {most}", number)
    return number


def check_shape(what: str, data: Any) -> tuple[int, ...]:
    """Return a list of sizes as a shape, or raise."""
    if not isinstance(data, list) or len(data) > _RANK:
        raise refused(f"The shape of {what} should be a list of at most {_RANK} sizes", data)
    shape = tuple([check_whole(f"A size in the shape of {what}", n, 0, _SIZE) for n in data])
    # Also if an axis is empty: NumPy multiplies the other sizes.
    if math.prod([n or 1 for n in shape]) > _SIZE:
        raise refused(f"{what} should have at most {_SIZE} entries", data)
    return shape


def check_entries(what: str, entries: Any, shape: tuple[int, ...]) -> list[Any]:
    """Return the entries of an array if there are as many as its shape says, else raise."""
    if not isinstance(entries, list) or len(entries) != math.prod(shape):
        count = f"{len(entries)} entries" if isinstance(entries, list) else received(entries)
        raise SavingError(
            f"{what} of shape {received(shape)} should have a list of {math.prod(shape)} entries. "
            f"Received: {count}. Save it again by kedit, and leave it as it is."
        )
    return entries


def check_dtype(dtype: Any) -> str:
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise refused(f"The dtype of an array should be one of {sorted(DTYPES)}", dtype)
    return dtype


def check_same(what: str, made: Any, data: Any, names: Collection[str] | None = None) -> None:
    """Raise if an object would not save the data that it was created from.

    Args:
        what: What was loaded.
        made: The config of the object.
        data: The config that it was created from.
        names: The keys to compare, if both have them. Defaults to None: all keys.
    """
    if names is not None:
        names = [name for name in names if name in made and name in data]
        made, data = {n: made[n] for n in names}, {n: data[n] for n in names}
    made, data = _without_modules(made), _without_modules(data)
    if as_text(made) != as_text(data):
        differs = [
            n for n in sorted({*made, *data}) if as_text(made.get(n)) != as_text(data.get(n))
        ]
        raise refused(
            f"{what} should be what `get_config()` gives of it; it differs in {differs[:4]}",
            {n: data[n] for n in differs[:4] if n in data},
        )


def _without_modules(data: Any) -> Any:
    """Data without the modules of what is found by the name it is registered with: it may move."""
    if isinstance(data, dict):
        name = data.get("registered_name")
        is_named = isinstance(name, str) and ">" in name
        return {k: _without_modules(v) for k, v in data.items() if not (is_named and k == "module")}
    return [_without_modules(part) for part in data] if isinstance(data, (list, tuple)) else data


def as_text(data: Any) -> str:
    """JSON text that is equal for equal data; 1, 1.0 and True are different."""
    return json.dumps(data, sort_keys=True, allow_nan=False)


def read_json(text: str) -> Any:
    """Parse JSON, and raise for duplicate keys, NaN and infinity."""

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is no number of JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            raise ValueError("a key occurs twice")
        return fields

    decode: Callable[..., Any] = json.loads
    return decode(text, parse_constant=no_constant, object_pairs_hook=once)
