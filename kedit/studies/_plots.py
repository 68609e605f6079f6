"""Shared code for the plots of the studies. Matplotlib is imported when something is drawn."""

from importlib import import_module
from typing import Any

import numpy as np

from kedit.errors import OperandError


def axes(ax: Any = None, count: int = 1) -> Any:
    """Return an array of axes to draw on: those given, or `count` new ones."""
    try:
        pyplot = import_module("matplotlib.pyplot")
    except ModuleNotFoundError as error:
        raise ImportError('A plot needs matplotlib: pip install "kedit[plot]"') from error
    if ax is None:
        ax = pyplot.subplots(1, count, figsize=(4 * count + 1, 3.5), layout="constrained")[1]
    given = np.ravel(np.asarray(ax, object))
    if len(given) != count:
        raise OperandError(f"`ax` should be {count} axes. Received: {len(given)}.")
    return given


def of_output(outputs: Any, output: int | tuple[int, ...] | None, batch_axes: int) -> Any:
    """Choose one number of each prediction, and keep the first `batch_axes` axes."""
    if not isinstance(outputs, np.ndarray):
        raise OperandError(
            "One output of a model with several should be chosen. Received: a "
            f"{type(outputs).__name__}. Make a model of it: `keras.Model(model.input, output)`."
        )
    shape = outputs.shape[batch_axes:]
    if output is None and np.prod(shape, dtype=int) == 1:
        return outputs.reshape(outputs.shape[:batch_axes])
    index = output if isinstance(output, tuple) else (output,)
    if output is None or len(index) != len(shape):
        raise OperandError(
            f"`output` should say which number of a prediction of shape {shape} is meant. "
            f"Received: output={output!r}. Write `output={(0,) * len(shape) if shape[1:] else 0}`."
        )
    return outputs[(*[slice(None)] * batch_axes, *index)]
