"""A penalty for chosen elements of the output that miss their target."""

from typing import Any

import keras

from kedit._guide.costs import barrier, check_kind, of_residual
from kedit._guide.reduction import by_row, reduced
from kedit._guide.target import Chosen, Target, mask_of, wide
from kedit._language.types import Kind, Tensor
from kedit._run import ops
from kedit._show.code import created
from kedit.errors import OperandError
from kedit.losses._base import added, as_loss, serialized
from kedit.losses._masked_loss import MaskedLoss


@keras.saving.register_keras_serializable(package="kedit")
class IndexPenalty(keras.losses.Loss):
    """Penalizes chosen elements of the output for missing a target.

    Formula, for one row, with the residuals `r` of its chosen elements:
        `penalty = weight * mean(f(r))`, where `r = y_pred - target`, or for
        bounds `r = relu(y_pred - upper) - relu(lower - y_pred)`, and `f(r)` is

        - "l2": `r ** 2`
        - "l1": `abs(r)`
        - "huber": `r ** 2 / 2` up to `delta`, then `delta * (abs(r) - delta / 2)`
        - "log_cosh": `log(cosh(r))`
        - "barrier": for bounds only; for each excess `z`, `y_pred - upper` or
          `lower - y_pred`: `-log(-z) / t` up to `z = -1 / t ** 2`, then its tangent
          `t * z - log(1 / t ** 2) / t + 1 / t`, with `t = barrier_t`

    A row is a sample. If the index selects on the last axis only, like
    `sample[..., 2]` in `(batch_size, timesteps, channels)`, a row is a timestep. An
    element is free, and does not contribute to the penalty, if its target or both of
    its bounds are NaN, or if the Keras mask is False for it. Rows in which all elements
    are free do not count: the mean is over the other rows, as in Keras for masks. The
    base loss, if any, is reduced separately and added.

    Args:
        index: Elements to penalize, counted inside one sample: anything that
            `sample[...]` accepts, such as `2`, `(slice(None), 2)` or a mask, or a
            selection like `sample[..., 2]` itself.
        target: Number, array that broadcasts to `sample[index]`, or "y_true" for
            the elements of `y_true` at the index. NaN leaves an element free.
            Defaults to None, which requires bounds.
        lower: Number or array: the smallest value that is not penalized. Defaults
            to None: no lower bound.
        upper: Number or array: the largest value that is not penalized. Defaults
            to None: no upper bound.
        kind: "l2", "l1", "huber", "log_cosh" or "barrier". Defaults to "l2".
        delta: Where "huber" becomes linear. Defaults to 1.0.
        barrier_t: Steepness of "barrier". Defaults to 5.0.
        weight: Number that multiplies the penalty. Defaults to 1.0.
        base_loss: Keras loss, its name or a function of `(y_true, y_pred)`,
            added to the penalty. Defaults to None: the penalty alone.
        exclude_from_base: Whether the base loss ignores the chosen elements, as
            `MaskedLoss(base_loss, ignore=index)` does. With the target "y_true", it
            always ignores NaN in `y_true`. To ignore elements, the base loss must be
            the mean of an elementwise function over the last axis, like "mse".
            Defaults to False.
        reduction: As in `keras.losses.Loss`. Defaults to
            "sum_over_batch_size".
        name: Name of the loss. Defaults to "index_penalty".
        dtype: Dtype of the result. Defaults to `keras.config.floatx()`, or to
            float32 if that is narrower. Losses are computed in float32 or wider.

    Call arguments:
        y_true: Targets for the base loss. With the target "y_true", it must have the
            shape of `y_pred`; otherwise the penalty does not use it.
        y_pred: Tensor of shape `(batch_size, *sample_shape)`.
        sample_weight: Weights of samples, timesteps or elements. Its shape is the
            start of `y_pred.shape`, in which any size may be 1. The base loss uses
            it as in Keras.

    Returns:
        `call` returns the penalty of each row, with shape `(batch_size,)` or
        `(batch_size, timesteps)`.

    Raises:
        kedit.errors.CoordinateError: If the index names rows of the batch.
        kedit.errors.PositionError: If the index does not fit `y_pred`.
        kedit.errors.ShapeError: If the target does not broadcast, or
            `sample_weight` or `y_true` does not fit.
        kedit.errors.OperandError: If the base loss cannot ignore elements.

    Gradient:
        Before reduction, each of the `n` elements of a row that count receives
        `weight * f'(r) / n`, where `f'(r)` is `2 * r`, `sign(r)`,
        `clip(r, -delta, delta)` or `tanh(r)`, all 0 at `r = 0`. For "barrier" it is
        `-1 / (t * z)` up to `z = -1 / t ** 2`, then `t`, with the sign of the excess.
        All other elements receive exactly 0, even where `y_true` or `y_pred` is NaN.
        The gradient of the base loss is added.

    References:
        The L2 and L1 exterior penalties are from J. Nocedal and S. J. Wright,
        *Numerical Optimization*, 2nd ed., 2006, chapter 17. An L1 penalty is
        exact above a certain weight. Below that weight, and with L2 at any weight,
        the base loss keeps the element away from its target, by an amount that
        shrinks as the weight grows, unless the base loss excludes the element. The
        log-barrier extension is from H. Kervadec et al., *Constrained deep
        networks: Lagrangian optimization via log-barrier extensions*, 2019,
        arXiv:1904.04205.

    Example:
    >>> loss = kedit.losses.IndexPenalty(2, 50.0, kind="l1", weight=0.1)
    >>> y_pred = ops.array([[0.0, 0.0, 40.0], [0.0, 0.0, 60.0]])
    >>> round(float(loss(y_pred, y_pred)), 6)
    1.0
    >>> y_true = ops.array([[0.0, 0.0, np.nan], [0.0, 0.0, 50.0]])
    >>> loss = kedit.losses.IndexPenalty(2, "y_true", base_loss="mse", exclude_from_base=True)
    >>> float(loss(y_true, y_pred))
    100.0
    """

    def __init__(
        self,
        index: Any,
        target: Any = None,
        *,
        lower: Any = None,
        upper: Any = None,
        kind: Kind = "l2",
        delta: float = 1.0,
        barrier_t: float = 5.0,
        weight: float = 1.0,
        base_loss: Any = None,
        exclude_from_base: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str = "index_penalty",
        dtype: Any = None,
    ) -> None:
        dtype = dtype or wide(keras.config.floatx())
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.wanted = Target(index, target, lower, upper, reads_y_true=True)
        check_kind(kind, delta, barrier_t, self.wanted.is_interval)
        self.kind, self.delta, self.barrier_t = kind, float(delta), float(barrier_t)
        self.weight = float(weight)
        self.base_loss = keras.losses.get(base_loss)
        self.exclude_from_base = bool(exclude_from_base)
        self._base = as_loss(self.base_loss, reduction, dtype)
        if self._base is None and exclude_from_base:
            raise OperandError(
                "`exclude_from_base` should be given with a base loss. Received: None. "
                'Write `base_loss="mse"`.'
            )
        if self._base is not None and (exclude_from_base or self.wanted.from_y_true):
            ignore = (["nan"] if self.wanted.from_y_true else []) + (
                [self.wanted.selection] if exclude_from_base else []
            )
            self._base = MaskedLoss(
                self._base, tuple(ignore), reduction=self._base.reduction, dtype=self._base.dtype
            )

    def __repr__(self) -> str:
        dtype = None if self.dtype == wide(keras.config.floatx()) else self.dtype
        return created(self, **self.wanted.arguments(), dtype=dtype)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Any = None) -> Tensor:
        """Return the reduced penalty plus the reduced base loss."""
        each, keep, chosen = self._each(y_true, y_pred)
        mask, weights = mask_of(y_pred), None
        if sample_weight is not None:
            weights = chosen.weights(sample_weight)
        if mask is not None:
            valid = chosen.weights(mask) > 0
            keep = valid if keep is None else ops.logical_and(keep, valid)
        penalty = reduced(self, each, chosen.rows, keep=keep, weights=weights)
        if self._base is None:
            return penalty
        return added([ops.cast(self._base(y_true, y_pred, sample_weight), self.dtype), penalty])

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the weighted penalty of each row."""
        each, keep, chosen = self._each(y_true, y_pred)
        return ops.cast(by_row(each, chosen.rows, keep, None, False)[0], self.dtype)

    def _each(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor | None, Chosen]:
        """Return the weighted penalty of the chosen elements, which count, and the elements."""
        chosen = self.wanted.choose(y_pred, y_true, dtype=wide(self.dtype))
        if self.kind == "barrier":
            each, keep = barrier(self.wanted.excesses(chosen.elements), self.barrier_t)
        else:
            residual, keep = chosen.residual()
            each = of_residual(residual, self.kind, self.delta)
        return self.weight * each, keep, chosen

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **self.wanted.get_config(),
            "kind": self.kind,
            "delta": self.delta,
            "barrier_t": self.barrier_t,
            "weight": self.weight,
            "base_loss": serialized(self.base_loss),
            "exclude_from_base": self.exclude_from_base,
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "IndexPenalty":
        made: IndexPenalty = Target.load(
            cls, config, "kind", "delta", "barrier_t", "weight", "exclude_from_base"
        )
        return made
