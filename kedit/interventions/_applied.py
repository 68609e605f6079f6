"""Edits applied to a model itself, for methods that only it has."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from keras import ops

from kedit.interventions._hooks import intercepted
from kedit.interventions._run import Run

_FUNCTIONS = ("predict_function", "test_function", "train_function", "generate_function")


class Compiled:
    """The functions that a model compiled while its edits were applied, and what these held."""

    def __init__(self) -> None:
        self.functions: dict[str, Any] = {}
        self.values: list[Any] = []


@contextmanager
def whole_model(base: Any, run: Run, compiled: Compiled, variables: list[Any]) -> Iterator[None]:
    """Apply edits to every method of a model, until the block is left.

    Args:
        base: The model.
        run: The edits.
        compiled: What was compiled in earlier blocks; new functions are added.
        variables: Of the edits. A compiler may take them for constants, so that
            functions compiled with other values are dropped.
    """
    values = [ops.convert_to_numpy(variable).copy() for variable in variables]
    same = len(values) == len(compiled.values) and all(
        [np.array_equal(now, then) for now, then in zip(values, compiled.values, strict=True)]
    )
    reused = {name: f for name, f in compiled.functions.items() if same and f is not None}
    outside = {name: getattr(base, name) for name in _FUNCTIONS if hasattr(base, name)}
    for name in outside:
        setattr(base, name, reused.get(name))
    try:
        with intercepted(run.handlers):
            yield
        if not reused:  # which would run without asking anybody
            run.check_fired()
    finally:
        compiled.functions = {name: getattr(base, name) for name in outside}
        compiled.values = values
        for name, function in outside.items():
            setattr(base, name, function)
