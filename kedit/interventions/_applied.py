"""Apply edits to a model itself, for methods that only it has."""

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
from kedit.interventions._hooks import Call, Handler, intercepted, is_active, set_aside
from kedit.interventions._run import Run
from kedit.interventions._safe_running import values_kept

_LOCK = threading.Lock()
_APPLIED: dict[int, Any] = {}
"""The models to which edits are applied, by `id`: their blocks, or None while these begin."""
_SETTINGS = ("optimizer", "loss", "sampler", "run_eagerly", "jit_compile", "steps_per_execution")
_FUNCTIONS = ("predict_function", "test_function", "train_function", "generate_function")


class Compiled:
    """Functions that a model compiled while edits were applied, and the values of the edits."""

    def __init__(self) -> None:
        self.functions: dict[str, Any] = {}
        self.values: list[Any] = []
        self.settings: list[Any] = []


@contextmanager
def whole_model(base: Any, run: Run, compiled: Compiled, variables: list[Any]) -> Iterator[None]:
    """Apply edits to every method of a model inside the block.

    Args:
        base: The model.
        run: The edits.
        compiled: Functions compiled in earlier blocks; new ones are added.
        variables: Variables of the edits. A compiler may treat them as constants, so
            functions compiled with other values are dropped.
    """
    with _LOCK:
        if id(base) in _APPLIED:
            raise OperandError(
                "Edits should be applied to a model to which none are being applied. Received: a "
                f"block of `applied()` in another one, or beside one in another task or thread, "
                f"for {base.name!r}. Edit the edited model: `edit_model(edited, ...)`."
            )
        _APPLIED[id(base)] = None
    try:
        with _applied(base, run, compiled, variables):
            yield
    finally:
        del _APPLIED[id(base)]


@contextmanager
def _applied(base: Any, run: Run, compiled: Compiled, variables: list[Any]) -> Iterator[None]:
    values = [ops.convert_to_numpy(variable).copy() for variable in variables]
    same = len(values) == len(compiled.values) and all(
        [np.array_equal(now, then) for now, then in zip(values, compiled.values, strict=True)]
    )
    settings = _settings(base)
    same = same and _same(settings, compiled.settings)
    check = _refusing_others(base, len(_frames()) - 6)  # the block itself has 6 frames
    checks = [(layer, check) for layer in {id(p.layer): p.layer for p in run.placed}.values()]
    reused = {name: f for name, f in compiled.functions.items() if same and f is not None}
    outside = {name: getattr(base, name) for name in _FUNCTIONS if hasattr(base, name)}
    for name in outside:
        setattr(base, name, reused.get(name))
    try:
        with (
            values_kept(base),
            intercepted([*checks, *run.handlers]) as frame,
            _kept_from_others(base, frame if run.placed else None),
        ):
            _APPLIED[id(base)] = frame
            yield
        if not reused:  # reused functions run without calling the handlers
            run.check_fired()
    finally:
        compiled.settings = settings if _same(settings, _settings(base)) else []
        compiled.functions = {name: getattr(base, name) for name in outside}
        compiled.values = values
        for name, function in outside.items():
            setattr(base, name, function)


@contextmanager
def as_outside(base: Any) -> Iterator[None]:
    """Undo, in this task or thread and block, what `whole_model` does to a model.

    Inside it, an edited model runs and compiles as it does outside `whole_model`.
    """
    with set_aside([_APPLIED.get(id(base))]):
        yield


@contextmanager
def _kept_from_others(base: Any, frame: Any) -> Iterator[None]:
    """Refuse methods of a model that compile, in tasks and threads where a block is not active.

    They would run what the block has compiled, or leave what they compile to it.
    """

    def guarded(name: str, make: Call) -> Call:
        def call(*args: Any, **kwargs: Any) -> Any:
            if is_active(frame):
                return make(*args, **kwargs)
            method = name.removeprefix("make_").removesuffix("_function")
            raise OperandError(
                "A model to which edits are applied should be used by the task or thread that "
                f"applies them. Received: `{base.name}.{method}` elsewhere. Wait until the block "
                "ends, or call the layers or the edited model: `edited.predict(x)`."
            )

        return call

    names = [f"make_{name}" for name in _FUNCTIONS if hasattr(base, f"make_{name}")]
    for name in names if frame is not None else []:
        object.__setattr__(base, name, guarded(name, getattr(base, name)))
    try:
        yield
    finally:
        for name in names if frame is not None else []:
            object.__delattr__(base, name)


def _refusing_others(base: Any, depth: int) -> Handler:
    """Return a handler of a layer that raises in a method of a model that contains `base`.

    Functions that such a method compiles would keep the edits, and could not be found
    again. The outermost `depth` frames of this thread are outside the block.
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
    """Return the frames of this thread, innermost first, without this function."""
    frames, frame = [], sys._getframe().f_back
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _settings(base: Any) -> list[Any]:
    """Return what `compile()` and `quantize()` change, which makes compiled functions stale."""
    return [*base.variables, *base.metrics, *[getattr(base, name, None) for name in _SETTINGS]]


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all([a is b for a, b in zip(one, other, strict=True)])
