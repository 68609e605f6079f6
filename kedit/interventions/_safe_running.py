"""Models that share variables with others, and do not lose them when a run fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kedit._run import ops
from kedit.errors import EditError
from kedit.weights._exporting import Exporting


class SafelyRun(Exporting):
    """Base class of models that keep the values of their variables if a run raises an error.

    An error of kedit is raised as it is, without what Keras writes around it.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except EditError as error:
            raise _unwrapped(error) from None

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        with values_kept(self):
            return super().fit(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with values_kept(self):
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        with values_kept(self):
            return super().predict(*args, **kwargs)


def _unwrapped(error: BaseException) -> BaseException:
    """Return the error of kedit that Keras repeats with more text around it, or that it hides."""
    inner = error.__context__
    while inner is not None:
        is_ours = isinstance(inner, EditError)
        if is_ours and (not isinstance(error, EditError) or str(inner) in str(error)):
            error = inner
        inner = inner.__context__
    return error


@contextmanager
def values_kept(model: Any) -> Iterator[None]:
    """Give the variables of a model their values back if the block fails, with kedit's error.

    On JAX, Keras takes the values out of the variables while a model runs on batches. If
    the first batch fails, the values are lost for all models that share the variables.
    """
    values = [(variable, variable.value) for variable in model.variables]
    try:
        yield
    except BaseException as error:
        for variable, value in values:
            if _is_lost(variable) and _is_readable(value):
                variable.assign(value)
        if any([_is_lost(variable) for variable, _ in values]):
            model.jax_state_sync()  # the values after the previous batches
        plain = _unwrapped(error)
        if plain is error:
            raise
        raise plain from None


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
