"""A penalty for chosen elements of the output that miss their target."""

from typing import Any

import keras

from kedit._guide.costs import barrier, check_kind, of_residual
from kedit._guide.reduction import by_row, reduced
from kedit._guide.target import Chosen, Target, mask_of, wide
from kedit._language.types import Tensor
from kedit._run import ops
from kedit.errors import OperandError
from kedit.losses._base import added, as_loss, serialized
from kedit.losses._masked_loss import MaskedLoss


@keras.saving.register_keras_serializable(package="kedit")
class IndexPenalty(keras.losses.Loss):
    """Penalises chosen elements of every sample's output for missing a target.

    Formula, for one row, with the residuals `r` of its chosen elements:
        `penalty = weight * mean(f(r))`, where `r = y_pred - target`, or for
        bounds `r = relu(y_pred - upper) - relu(lower - y_pred)`, and `f(r)` is

        - "l2": `r ** 2`
        - "l1": `abs(r)`
        - "huber": `r ** 2 / 2` up to `delta`, then `delta * (abs(r) - delta / 2)`
        - "log_cosh": `log(cosh(r))`
        - "barrier": for bounds only, of every excess `z`, as `y_pred - upper` and
          `lower - y_pred`, `-log(-z) / t` up to `z = -1 / t ** 2`, then its tangent
          `t * z - log(1 / t ** 2) / t + 1 / t`, with `t = barrier_t`

    A row is a sample; or a timestep, if the index leaves the axes before the last
    whole, as `sample[..., 2]` does in `(batch_size, timesteps, channels)`. An element
    is free, and has no part in the penalty, if its target or both of its bounds are
    NaN, or if a Keras mask is False for it. A row in which all elements are free
    does not count: the mean is over the other rows, as in Keras for masks. The base
    loss, if any, is reduced on its own and added.

    Args:
        index: Which elements, counted inside one sample: whatever `sample[...]`
            takes, such as `2`, `(slice(None), 2)` or a mask, or `sample[..., 2]`
            itself.
        target: Number; array that broadcasts to `sample[index]`; or "y_true", for
            the elements of `y_true` at the index. NaN leaves an element free.
            Defaults to None, which asks for bounds.
        lower: Number or array, the least value that is not penalised. Defaults
            to None: no lower bound.
        upper: Number or array, the greatest value that is not penalised. Defaults
            to None: no upper bound.
        kind: "l2", "l1", "huber", "log_cosh" or "barrier". Defaults to "l2".
        delta: Where "huber" becomes linear. Defaults to 1.0.
        barrier_t: How steep "barrier" is. Defaults to 5.0.
        weight: Number by which the penalty is multiplied. Defaults to 1.0.
        base_loss: Keras loss, its name or a function of `(y_true, y_pred)`,
            added to the penalty. Defaults to None: the penalty alone.
        exclude_from_base: Whether the base loss leaves the chosen elements out, as
            `MaskedLoss(base_loss, ignore=index)` does. The base loss has to be a
            mean over the last axis of a function of single elements, as "mse" is.
            With the target "y_true", NaN in `y_true` is always left out. Defaults
            to False.
        reduction: As in `keras.losses.Loss`. Defaults to
            "sum_over_batch_size".
        name: Name of the loss. Defaults to "index_penalty".
        dtype: Dtype of the result. Defaults to `keras.config.floatx()`, or to
            float32 if that is narrower. Losses are computed in float32 or wider.

    Call arguments:
        y_true: What the base loss takes. For the target "y_true" it has the shape
            of `y_pred`; otherwise the penalty does not look at it.
        y_pred: Tensor of shape `(batch_size, *sample_shape)`.
        sample_weight: Weights of samples, timesteps or elements: its shape is a
            beginning of `y_pred.shape`, or has 1 in place of sizes. The base loss
            takes it as in Keras.

    Returns:
        `call` gives the penalty of each row: shape `(batch_size,)` or
        `(batch_size, timesteps)`.

    Raises:
        kedit.errors.CoordinateError: If the index names rows of the batch.
        kedit.errors.PositionError: If it does not fit `y_pred`.
        kedit.errors.ShapeError: If the target does not broadcast, or
            `sample_weight` or `y_true` do not fit.
        kedit.errors.OperandError: If the base loss cannot leave elements out.

    Gradient:
        Before reduction, where `n` elements of a row count, `weight * f'(r) / n`
        for each: `2 * r`, `sign(r)`, `clip(r, -delta, delta)` or `tanh(r)`, all 0 at
        `r = 0`; for "barrier" `-1 / (t * z)` up to `z = -1 / t ** 2`, then `t`, with
        the sign of the excess. Exactly 0 for all other elements, also where
        `y_true` or `y_pred` are NaN; and that of the base loss.

    References:
        The L2 and L1 exterior penalties of J. Nocedal and S. J. Wright,
        *Numerical Optimization*, 2nd ed., 2006, chapter 17. An L1 penalty is
        exact from a certain weight on; below it, and with L2 at any weight, the
        base loss keeps the element off its target by an amount that shrinks as
        the weight grows; unless the element is excluded from it. The log-barrier
        extension of H. Kervadec et al., *Constrained deep networks: Lagrangian
        optimization via log-barrier extensions*, 2019, arXiv:1904.04205.

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
        kind: str = "l2",
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

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Any = None) -> Tensor:
        """The penalty, reduced, and the base loss, reduced, added."""
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
        """The weighted penalty of each row."""
        each, keep, chosen = self._each(y_true, y_pred)
        return ops.cast(by_row(each, chosen.rows, keep, None, False)[0], self.dtype)

    def _each(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor | None, Chosen]:
        """The weighted penalty of each chosen element, which of them count, and they themselves."""
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
