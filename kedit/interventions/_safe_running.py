"""Models that share their variables with others, and do not lose them when a run fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from kedit._run import ops


class SafelyRun(keras.Model):
    """Base of models whose variables are as they were after a run that raised an error."""

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        with values_kept(self):
            return super().fit(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with values_kept(self):
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        with values_kept(self):
            return super().predict(*args, **kwargs)


@contextmanager
def values_kept(model: Any) -> Iterator[None]:
    """Give the variables of a model their values back if what is run in the block fails.

    On JAX, Keras takes them out of the variables for as long as a model is run on
    batches, and if the first of these fails, they are lost, to all who share them.
    """
    values = [(variable, variable.value) for variable in model.variables]
    try:
        yield
    except BaseException:
        for variable, value in values:
            if _is_lost(variable) and _is_readable(value):
                variable.assign(value)
        if any([_is_lost(variable) for variable, _ in values]):
            model.jax_state_sync()  # what was left by the batches before
        raise


def _is_lost(variable: Any) -> bool:
    try:
        return variable.value is None
    except TypeError:  # without a value, Keras looks for an initializer, which has gone, too
        return True


def _is_readable(value: Any) -> bool:
    try:
        ops.convert_to_numpy(value)
    except RuntimeError:  # its memory was handed on to a compiled function
        return False
    return True
