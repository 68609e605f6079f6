"""Several losses for one output."""

from collections.abc import Sequence
from typing import Any

import keras

from kedit._language.types import Tensor
from kedit._run import ops
from kedit._show.code import created
from kedit.errors import OperandError
from kedit.losses._base import added, as_loss, serialized


@keras.saving.register_keras_serializable(package="kedit")
class WeightedSum(keras.losses.Loss):
    """The weighted sum of several losses for one output.

    If the model has one output, Keras uses only `a` of `compile(loss=[a, b])`.

    Formula:
        `weights[0] * losses[0](y_true, y_pred) + ...`

    Args:
        losses: Keras losses, their names or functions of `(y_true, y_pred)`.
        weights: One number for each loss. Defaults to None: 1.0 for all.
        reduction: Reduction for functions and names; loss objects keep their own.
            Defaults to "sum_over_batch_size".
        name: Name of the loss. Defaults to "weighted_sum".
        dtype: Dtype of the result. Defaults to `keras.config.floatx()`.

    Call arguments:
        y_true: Passed to each loss.
        y_pred: Passed to each loss.
        sample_weight: Passed to each loss.

    Returns:
        `call` returns the weighted sum of the `call` results of the losses.

    Raises:
        kedit.errors.OperandError: If there is no loss, or not one weight for each loss.

    Gradient:
        The weighted sum of the gradients of the losses.

    Example:
    >>> loss = kedit.losses.WeightedSum(["mse", kedit.losses.IndexPenalty(2, 50.0)], [1.0, 0.5])
    >>> float(loss(ops.zeros((1, 5)), ops.zeros((1, 5))))
    1250.0
    """

    def __init__(
        self,
        losses: Sequence[Any],
        weights: Sequence[float] | None = None,
        *,
        reduction: str | None = "sum_over_batch_size",
        name: str = "weighted_sum",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        is_sequence = isinstance(losses, (list, tuple))
        self.losses = [keras.losses.get(loss) for loss in losses] if is_sequence else []
        if not self.losses or None in self.losses:
            raise OperandError(
                "A WeightedSum should be given a list of losses. Received: "
                f'losses={losses!r}. Write `WeightedSum(["mse", other])`.'
            )
        self.weights = [1.0] * len(self.losses) if weights is None else [float(w) for w in weights]
        if len(self.weights) != len(self.losses):
            raise OperandError(
                "A WeightedSum should be given a weight for each loss. Received: "
                f"{len(self.weights)} weights for {len(self.losses)} losses."
            )
        self._parts = [as_loss(loss, reduction, dtype) for loss in self.losses]

    def __repr__(self) -> str:
        weights = None if set(self.weights) == {1.0} else self.weights
        dtype = None if self.dtype == keras.config.floatx() else self.dtype
        return created(self, weights=weights, dtype=dtype)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Any = None) -> Tensor:
        """Return the weighted sum of the losses, each reduced separately."""
        return self._sum([part(y_true, y_pred, sample_weight) for part in self._parts])

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the weighted sum of the losses of each row."""
        return self._sum([part.call(y_true, y_pred) for part in self._parts])

    def _sum(self, values: list[Tensor]) -> Tensor:
        terms = zip(self.weights, values, strict=True)
        return added([weight * ops.cast(value, self.dtype) for weight, value in terms])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "losses": [serialized(loss) for loss in self.losses],
            "weights": self.weights,
            "dtype": self.dtype,
        }
