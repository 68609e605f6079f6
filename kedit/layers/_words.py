"""The name of a layer: its edit in words, shown by `summary()` and `plot_model`."""

import re
from typing import Any

import keras

_WORDS = {
    ">=": "ge",
    "<=": "le",
    "==": "eq",
    "!=": "ne",
    ">": "gt",
    "<": "lt",
    "**": "to_the",
    "*": "times",
    "+": "plus",
    "//": "floor_over",
    "%": "mod",
    "/": "over",
    "&": "and",
    " | ": " then ",
    "|": "or",
    "~": "not",
    "...": "",
    "Trainable": "learned",
}
_LONGEST = 48


def name_of(edit: Any) -> str:
    """Return a unique layer name: `at.where(X > 5.0)` gives `where_X_gt_5`."""
    words = re.sub(r"\.0\b", "", repr(edit))  # 5.0 becomes 5
    words = re.sub(r"-(?=\d)", " minus ", words)
    for code, word in _WORDS.items():
        words = words.replace(code, f" {word} ")
    words = re.sub(r"\W+", "_", words).strip("_")
    words = words.removeprefix("at_")[:_LONGEST].strip("_")
    number = keras.backend.get_uid(words)
    return words if number == 1 else f"{words}_{number - 1}"
