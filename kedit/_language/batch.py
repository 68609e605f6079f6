"""Where in a batch an edit lands: `(x, y, sample_weight)` tuples, dicts and lists. No Keras."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from kedit._language.constants import is_tensor
from kedit.errors import OperandError

Part: TypeAlias = Literal["x", "y", "sample_weight"]
STRUCTURES = (Mapping, list, tuple)
"""The types of structures of arrays; a list may also be a single array."""
PARTS: tuple[Part, ...] = ("x", "y", "sample_weight")


def is_batch(value: Any) -> bool:
    """Whether a value is a structure of arrays; a list of numbers is one array."""
    if isinstance(value, Mapping):
        return True
    return isinstance(value, (list, tuple)) and any(
        isinstance(entry, np.ndarray) or is_tensor(entry) or entry is None or is_batch(entry)
        for entry in value
    )


def edit_batch(edit: Callable[[Any], Any], batch: Any, path: str | None, part: Part) -> Any:
    """Return the batch with `edit` applied to one leaf; containers are copied, never changed.

    Args:
        edit: Function to apply to the leaf.
        batch: Tuple `(x,)`, `(x, y)` or `(x, y, sample_weight)`, as Keras reads
            a tuple, or `x` alone: a dict, a list or an array.
        path: Keys of the leaf within its part, joined by `/`. None if the part
            is a single array.
        part: "x", "y" or "sample_weight".
    """
    if not isinstance(batch, tuple):
        if part != "x":
            raise OperandError(
                f"An edit on {part!r} should be given a tuple `(x, y)` or `(x, y, "
                f"sample_weight)`. Received: a {type(batch).__name__}."
            )
        return _edit_leaf(edit, batch, path)
    number = PARTS.index(part)
    if len(batch) > len(PARTS) or number >= len(batch):
        raise OperandError(
            f"An edit on {part!r} should be given a tuple `(x, y)` or `(x, y, sample_weight)`. "
            f"Received: a tuple of {len(batch)}."
        )
    return (*batch[:number], _edit_leaf(edit, batch[number], path), *batch[number + 1 :])


def leaf_at(batch: Any, path: str | None, part: Part) -> Any:
    """Return the leaf of a batch that an edit on `path` and `part` changes."""
    found: list[Any] = []

    def look_at(leaf: Any) -> Any:
        found.append(leaf)
        return leaf

    edit_batch(look_at, batch, path, part)
    return found[0]


def _edit_leaf(edit: Callable[[Any], Any], value: Any, path: str | None) -> Any:
    if path is None:
        if is_batch(value):
            raise OperandError(
                "An edit of nested data should say which array it means. Received: arrays at "
                f"{_leaves(value)}. Write `edit.on({_leaves(value)[0]!r})`."
                if _leaves(value)
                else "An edit should be given at least one array. Received: none."
            )
        return edit(value)
    found = _replace(value, path, edit)
    if found is None:
        raise OperandError(
            f"An edit on {path!r} should be given data with that path. Received: arrays at "
            f"{_leaves(value)}."
        )
    return found


def _replace(value: Any, path: str, edit: Callable[[Any], Any]) -> Any:
    """A copy of `value` with the leaf at `path` edited, or None if there is no such path."""
    if not is_batch(value):
        return None
    entries = value if isinstance(value, Mapping) else dict(enumerate(value))
    for key, entry in entries.items():
        name = str(key)
        if path == name and not is_batch(entry):
            edited = edit(entry)
        elif path.startswith(f"{name}/"):
            edited = _replace(entry, path[len(name) + 1 :], edit)
        else:
            continue
        if edited is not None:
            changed = {**entries, key: edited}
            return changed if isinstance(value, Mapping) else type(value)(changed.values())
    return None


def _leaves(value: Any, prefix: str = "") -> list[str]:
    if not is_batch(value):
        return [prefix.rstrip("/")]
    entries = value if isinstance(value, Mapping) else dict(enumerate(value))
    return [leaf for key, entry in entries.items() for leaf in _leaves(entry, f"{prefix}{key}/")]
