"""Models that share variables with others, and do not lose them when a run fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from kedit._run import ops


class SafelyRun(keras.Model):
    """Base class of models that keep the values of their variables if a run raises an error."""

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
    """Give the variables of a model their values back if the block fails.

    On JAX, Keras takes the values out of the variables while a model runs on batches. If
    the first batch fails, the values are lost for all models that share the variables.
    """
    values = [(variable, variable.value) for variable in model.variables]
    try:
        yield
    except BaseException:
        for variable, value in values:
            if _is_lost(variable) and _is_readable(value):
                variable.assign(value)
        if any([_is_lost(variable) for variable, _ in values]):
            model.jax_state_sync()  # the values after the previous batches
        raise


def _is_lost(variable: Any) -> bool:
    try:
        return variable.value is None
    except TypeError:  # without a value, Keras needs the initializer, which is gone too
        return True


def _is_readable(value: Any) -> bool:
    try:
        ops.convert_to_numpy(value)
    except RuntimeError:  # its memory was donated to a compiled function
        return False
    return True
