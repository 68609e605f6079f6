"""Edits applied to a model itself, for methods that only it has."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import keras
import numpy as np

from kedit._run import ops
from kedit.errors import OperandError
from kedit.interventions._hooks import Call, Handler, intercepted, set_aside
from kedit.interventions._run import Run
from kedit.interventions._safe_running import values_kept

_ACTIVE = threading.local()
_SETTINGS = ("optimizer", "loss", "sampler", "run_eagerly", "jit_compile", "steps_per_execution")
_FUNCTIONS = ("predict_function", "test_function", "train_function", "generate_function")


class Compiled:
    """The functions that a model compiled while its edits were applied, and what these held."""

    def __init__(self) -> None:
        self.functions: dict[str, Any] = {}
        self.values: list[Any] = []
        self.settings: list[Any] = []


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
    active = _active()
    if id(base) in active:
        raise OperandError(
            "Edits should be applied to a model to which none are being applied. Received: a block "
            f"of `applied()` in another one, for {base.name!r}. Edit the edited model: "
            "`edit_model(edited, ...)`."
        )
    values = [ops.convert_to_numpy(variable).copy() for variable in variables]
    same = len(values) == len(compiled.values) and all(
        [np.array_equal(now, then) for now, then in zip(values, compiled.values, strict=True)]
    )
    settings = _settings(base)
    same = same and _same(settings, compiled.settings)
    check = _refusing_others(base, len(_frames()) - 4)  # that many for the block itself
    checks = [(layer, check) for layer in {id(p.layer): p.layer for p in run.placed}.values()]
    reused = {name: f for name, f in compiled.functions.items() if same and f is not None}
    outside = {name: getattr(base, name) for name in _FUNCTIONS if hasattr(base, name)}
    for name in outside:
        setattr(base, name, reused.get(name))
    try:
        with values_kept(base), intercepted([*checks, *run.handlers]) as frame:
            active[id(base)] = frame
            yield
        if not reused:  # which would run without asking anybody
            run.check_fired()
    finally:
        active.pop(id(base), None)
        compiled.settings = settings if _same(settings, _settings(base)) else []
        compiled.functions = {name: getattr(base, name) for name in outside}
        compiled.values = values
        for name, function in outside.items():
            setattr(base, name, function)


@contextmanager
def as_outside(base: Any) -> Iterator[None]:
    """Undo, in this thread, what `whole_model` does to a model, until the block is left.

    An edited model is called in it as everywhere, and compiles what holds everywhere.
    """
    with set_aside([frame for key, frame in _active().items() if key == id(base)]):
        yield


def _active() -> dict[int, Any]:
    """The models whose methods are edited in this thread."""
    if not hasattr(_ACTIVE, "models"):
        _ACTIVE.models = {}
    models: dict[int, Any] = _ACTIVE.models
    return models


def _refusing_others(base: Any, depth: int) -> Handler:
    """What stands before a layer, and refuses methods of a model that has `base` inside of it.

    What they compile would keep the edits, and nobody knows where. Of what runs in
    this thread the outermost `depth` frames are outside of the block.
    """

    def handler(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inside = _frames()
        running = [frame.f_locals.get("self") for frame in inside[: len(inside) - depth]]
        models = [model for model in running if isinstance(model, keras.Model)]
        if models and models[-1] is not base:
            raise OperandError(
                "Edits that are applied to a model should be reached by its own methods. Received: "
                f"a method of {models[-1].name!r}, which has {base.name!r} inside of it. Edit that "
                "model: `edit_model(it, ...)`, by the addresses in `sites(it)`."
            )
        return call(*args, **kwargs)

    return handler


def _frames() -> list[FrameType]:
    """What runs in this thread, the innermost first, without this function."""
    frames, frame = [], sys._getframe().f_back
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _settings(base: Any) -> list[Any]:
    """What `compile()` and `quantize()` change, which make functions that were compiled stale."""
    return [*base.variables, *base.metrics, *[getattr(base, name, None) for name in _SETTINGS]]


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all([a is b for a, b in zip(one, other, strict=True)])
