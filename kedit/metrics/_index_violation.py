"""A metric of how far chosen elements of the output are from their target."""

from typing import Any

import keras

from kedit._edit import check_one_of
from kedit._guide.target import Target, mask_of, wide
from kedit._language.types import Tensor
from kedit._run import ops
from kedit._show.code import created

_NAMES = {
    "mean": "index_violation",
    "max": "max_index_violation",
    "satisfied": "index_satisfied",
}
REDUCTIONS = tuple(_NAMES)


@keras.saving.register_keras_serializable(package="kedit")
class IndexViolation(keras.metrics.Metric):
    """Measures how far chosen elements of the output miss their target or bounds.

    Formula, over all chosen elements since the last reset, with the residuals `r`
    of `kedit.losses.IndexPenalty`:

    - "mean": `mean(abs(r))`
    - "max": `max(abs(r))`
    - "satisfied": the fraction of elements with `abs(r) <= tolerance`

    It shows whether a target was reached, unlike the loss, which is a sum. Free
    elements (NaN, or masked by Keras) do not count. If all are free, the violation
    is 0 and the fraction is 1.

    Args:
        index: As in `kedit.losses.IndexPenalty`.
        target: As in `kedit.losses.IndexPenalty`.
        lower: As in `kedit.losses.IndexPenalty`.
        upper: As in `kedit.losses.IndexPenalty`.
        reduce: "mean", "max" or "satisfied". Defaults to "mean".
        tolerance: How far an element may miss its target and still be "satisfied".
            Defaults to 1e-3.
        name: Name of the metric in logs. Defaults to "index_violation",
            "max_index_violation" or "index_satisfied".
        dtype: Dtype of the result. Defaults to `keras.config.floatx()`, or to
            float32 if that is narrower.

    Call arguments:
        y_true: As in `kedit.losses.IndexPenalty`.
        y_pred: Tensor of shape `(batch_size, *sample_shape)`.
        sample_weight: As in `kedit.losses.IndexPenalty`; "max" uses the elements
            with positive weight. Keras passes it to `weighted_metrics` only.

    Returns:
        `result()` returns a scalar. With `tf.distribute`, "max" is the mean of the
        maxima of the replicas.

    Raises:
        kedit.errors.EditError: As for `kedit.losses.IndexPenalty`.

    Gradient:
        Metrics have none.

    Example:
    >>> metric = kedit.metrics.IndexViolation(2, 50.0, reduce="max")
    >>> metric.update_state(None, ops.array([[0.0, 0.0, 40.0], [0.0, 0.0, 49.0]]))
    >>> float(metric.result())
    10.0
    """

    def __init__(
        self,
        index: Any,
        target: Any = None,
        *,
        lower: Any = None,
        upper: Any = None,
        reduce: str = "mean",
        tolerance: float = 1e-3,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        check_one_of("reduce", reduce, REDUCTIONS)
        super().__init__(name=name or _NAMES[reduce], dtype=dtype or wide(keras.config.floatx()))
        self.wanted = Target(index, target, lower, upper, reads_y_true=True)
        self.reduce, self.tolerance = reduce, float(tolerance)
        together = "mean" if reduce == "max" else "sum"
        options = {"initializer": "zeros", "dtype": wide(self.dtype)}
        self.total = self.add_variable((), aggregation=together, name="total", **options)
        self.count = self.add_variable((), name="count", **options)

    def __repr__(self) -> str:
        name = None if self.name == _NAMES[self.reduce] else self.name
        dtype = None if self.dtype == wide(keras.config.floatx()) else self.dtype
        return created(self, **self.wanted.arguments(), name=name, dtype=dtype)

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Any = None) -> None:
        """Accumulate the violations of a batch."""
        chosen = self.wanted.choose(y_pred, y_true, dtype=wide(self.dtype))
        residual, known = chosen.residual()
        weights = ops.ones_like(residual)
        for given in (mask_of(y_pred), sample_weight):
            if given is not None:
                weights = weights * chosen.weights(given)
        if known is not None:
            weights = weights * ops.cast(known, weights.dtype)
        size = ops.where(weights > 0, ops.abs(residual), ops.zeros_like(residual))
        if self.reduce == "max":
            largest = ops.cast(ops.max(size), self.total.dtype)
            self.total.assign(ops.maximum(self.total, largest))
            return
        if self.reduce == "satisfied":  # NaN is not satisfied
            size = ops.cast(ops.logical_not(size <= self.tolerance), size.dtype)
        self.total.assign(self.total + ops.cast(ops.sum(weights * size), self.total.dtype))
        self.count.assign(self.count + ops.cast(ops.sum(weights), self.count.dtype))

    def result(self) -> Tensor:
        """Return the metric over all batches since the last reset."""
        total, count = [ops.convert_to_tensor(v) for v in (self.total, self.count)]
        missed = total / ops.where(count == 0, ops.ones_like(count), count)
        found = {"mean": missed, "max": total, "satisfied": 1 - missed}[self.reduce]
        return ops.cast(found, self.dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **self.wanted.get_config(),
            "reduce": self.reduce,
            "tolerance": self.tolerance,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "IndexViolation":
        made: IndexViolation = Target.load(cls, config, "reduce", "tolerance")
        return made
