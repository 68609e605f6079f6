"""Convert, add and save losses that are part of another loss."""

from collections.abc import Sequence
from typing import Any

import keras

from kedit._language.types import Tensor
from kedit._run import ops
from kedit.errors import SavingError


class FunctionLoss(keras.losses.Loss):
    """A loss object that wraps a function."""

    def __init__(self, function: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function = function

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.function(y_true, y_pred)


def as_loss(loss: Any, reduction: str | None, dtype: Any) -> Any:
    """Return a loss as an object; a function gets the reduction and the dtype."""
    if loss is None or isinstance(loss, keras.losses.Loss):
        return loss
    return FunctionLoss(loss, name="base_loss", reduction=reduction, dtype=dtype)


def added(losses: Sequence[Tensor]) -> Tensor:
    """Return the sum of losses; unreduced ones broadcast over timesteps."""
    rank = max([len(loss.shape) for loss in losses])
    total: Any = 0
    for loss in losses:
        for _ in range(rank - len(loss.shape) if len(loss.shape) else 0):
            loss = ops.expand_dims(loss, -1)  # noqa: PLW2901
        total = total + loss
    return total


def serialized(loss: Any) -> Any:
    """Return a loss as data; a function must be loadable by its name."""
    if callable(loss) and not isinstance(loss, keras.losses.Loss):
        name = keras.saving.get_registered_name(loss)
        registered = keras.saving.get_registered_object(name) is loss
        built_in = getattr(keras.losses, getattr(loss, "__name__", ""), None) is loss
        if not (registered or built_in):
            raise SavingError(
                "A base loss that is saved should be Keras's own or registered with Keras. "
                f"Received: {loss!r}. Write `@keras.saving.register_keras_serializable()` "
                "above it."
            )
    return None if loss is None else keras.losses.serialize(loss)
