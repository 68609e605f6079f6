"""Which number of a prediction a plot of a study shows."""

from typing import Any

import numpy as np

from kedit.errors import OperandError


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
