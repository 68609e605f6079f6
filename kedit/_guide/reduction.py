"""Reduction from values of elements to values of rows, and from there as in Keras."""

import keras

from kedit._language.types import Tensor
from kedit._run import ops


class _Rows(keras.losses.Loss):
    """Reduces the values of rows."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return y_pred


def reduced(
    loss: keras.losses.Loss,
    each: Tensor,
    rows: int,
    *,
    keep: Tensor | None = None,
    weights: Tensor | None = None,
    pooled: bool = False,
) -> Tensor:
    """Reduce the values of elements as `loss` does.

    If no element of a row counts, the other rows take its share, as in Keras for
    masked rows.

    Args:
        loss: Says how rows are reduced, and in which dtype.
        each: A value for each element, which must be finite even if it does not count.
        rows: Number of leading axes that index rows: samples, or timesteps.
        keep: Whether an element counts; broadcasts to `each`. None: all count.
        weights: Weight of each element; broadcasts to `each`. None: 1.
        pooled: Whether all elements count equally, whatever their row.
    """
    values, row_weights, counts = by_row(each, rows, keep, weights, pooled)
    if counts is not None and loss.reduction in ("mean", "sum_over_batch_size"):
        total = ops.sum(ops.ones_like(counts))
        row_weights = row_weights * _ratio(total, ops.sum(counts))
    return _Rows(loss.name, reduction=loss.reduction, dtype=loss.dtype)(values, values, row_weights)


def by_row(
    each: Tensor, rows: int, keep: Tensor | None, weights: Tensor | None, pooled: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The mean of each row, its weight, and whether it counts; None for weights of 1."""
    axes = tuple(range(rows, len(each.shape)))
    if keep is None and weights is None:
        return ops.mean(each, axis=axes), None, None
    ones = ops.ones_like(each)
    kept = ones if keep is None else ops.cast(keep, each.dtype) * ones
    weighed = kept if weights is None else kept * ops.cast(weights, each.dtype)
    number, weight = ops.sum(kept, axis=axes), ops.sum(weighed, axis=axes)
    value = _ratio(ops.sum(weighed * each, axis=axes), weight)
    counts = None if keep is None else ops.cast(number > 0, each.dtype)
    if pooled and counts is not None:
        number = _ratio(ops.sum(number), ops.sum(counts))
    return value, _ratio(weight, number), counts


def _ratio(total: Tensor, count: Tensor) -> Tensor:
    """`total / count`, or 0 for a count of 0, which `ops.divide_no_nan` warns about on NumPy."""
    return total / ops.where(count == 0, ops.ones_like(count), count)
