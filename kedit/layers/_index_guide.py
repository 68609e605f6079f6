"""A layer that drives chosen activations to a target, with a multiplier that it owns."""

from typing import Any

import keras
import numpy as np

from kedit._edit import check_one_of
from kedit._guide.target import Target, wide
from kedit._language.types import Shape, Tensor
from kedit._run import ops
from kedit.errors import OperandError, PositionError

REDUCTIONS = ("each", "mean")


@keras.saving.register_keras_serializable(package="kedit")
class IndexGuide(keras.layers.Layer):
    """Passes its input through, and adds a loss that drives chosen elements to a target.

    The loss is the augmented Lagrangian of one constraint for each chosen position:
    a quadratic penalty, and a multiplier that `kedit.callbacks.DualAscent` raises
    while the constraint is violated. A penalty alone never fully overcomes another
    loss; the multiplier grows until it pulls as hard.

    Formula, with multiplier `m` and penalty `p`, summed over the chosen positions:
        - "each", every sample: `m * mean(abs(r)) + p / 2 * mean(r ** 2)`, where `r`
          is the residual `x - target`, or for bounds
          `r(x) = relu(x - upper) - relu(lower - x)`
        - "mean", the mean of the batch: `p / 2 * r(mean(x) + m / p) ** 2 - m ** 2 / (2 * p)`,
          which for a target is `m * r + p / 2 * r ** 2` with `r = mean(x) - target`

    On PyTorch, leave `compile(jit_compile=...)` at its default, False. With a layer that
    adds a loss, such as this one or an activity regularizer, PyTorch recompiles each of
    the first eight steps and runs the others uncompiled.

    Args:
        index: Elements to guide, counted inside one sample, as in
            `kedit.losses.IndexPenalty`.
        target: Number, or array that broadcasts to `sample[index]`. NaN leaves
            an element free. Defaults to None, which requires bounds.
        lower: Number or array: the smallest allowed value. Defaults to None.
        upper: Number or array: the largest allowed value. Defaults to None.
        reduce: "each": every sample should reach the target. "mean": the mean of
            the batch should; with replicas, the mean on each replica. Defaults
            to "each".
        penalty: Weight of the quadratic penalty; must be positive. Defaults to 1.0.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch_size, *sample_shape)`.
        mask: The Keras mask; masked elements are free.
        training: Whether to record the violations of the constraints for the next
            ascent. Keras passes it; on JAX, a model of your own class has to:
            `self.guide(x, training=training)`.

    Input shape:
        `(batch_size, *sample_shape)`. The chosen positions must lie on axes of known
        size.

    Output shape:
        Same shape and dtype as the input.

    Attributes:
        multiplier: Weight with the shape of `sample[index]`, saved with the model.
        penalty: Weight of shape `()`, saved with the model.

    Raises:
        kedit.errors.CoordinateError: If the index names rows of the batch.
        kedit.errors.EditError: If the index or the target does not fit the input.

    Gradient:
        The input receives the gradient of the output plus the gradient of the loss. In
        a batch of `n`, the latter is `(m * sign(r) + p * r) / n` for "each", and
        `p * r(mean(x) + m / p) / n` for "mean". The multiplier and the penalty receive
        none.

    References:
        J. Nocedal and S. J. Wright, *Numerical Optimization*, 2nd ed., 2006,
        sections 17.2 (exact penalty) and 17.3 (augmented Lagrangian); for
        bounds R. T. Rockafellar, *The multiplier method of Hestenes and Powell
        applied to convex programming*, J. Optim. Theory Appl. 12, 1973.

    Example:
    >>> guide = kedit.layers.IndexGuide(2, 50.0, penalty=0.5)
    >>> y = guide(ops.array([[0.0, 0.0, 40.0], [0.0, 0.0, 60.0]]))
    >>> float(guide.losses[0])
    25.0
    >>> guide.ascend(rate=0.1)
    >>> float(ops.convert_to_numpy(guide.multiplier))
    0.0
    """

    def __init__(
        self,
        index: Any,
        target: Any = None,
        *,
        lower: Any = None,
        upper: Any = None,
        reduce: str = "each",
        penalty: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.wanted = Target(index, target, lower, upper)
        check_one_of("reduce", reduce, REDUCTIONS)
        if not penalty > 0:
            raise OperandError(f"`penalty` should be positive. Received: penalty={penalty!r}.")
        self.reduce = reduce
        self.initial_penalty = self._first_penalty = float(penalty)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        self._built_for: Shape = tuple(input_shape)
        dtype = wide(self.variable_dtype)
        shape = self.wanted.bind(tuple(input_shape), dtype).result[1:]
        if None in shape:
            raise PositionError(
                "An IndexGuide should choose positions on axes of known size, for each of which it "
                f"owns a multiplier. Received: `{self.wanted.selection!r}`, which selects "
                f"{shape} of shape {tuple(input_shape)}. Give the input its shape."
            )

        # A 16-bit multiplier would stop changing.
        fixed = {"dtype": dtype, "trainable": False, "autocast": False}
        start = keras.initializers.Constant(self._first_penalty)
        self.multiplier = self.add_weight(
            name="multiplier", shape=shape, initializer="zeros", **fixed
        )
        self.penalty = self.add_weight(name="penalty", shape=(), initializer=start, **fixed)
        # Violations seen since the last ascent. Each replica has its own sum, as in metrics:
        # synchronized replicas would wait for each other here, and mix their losses.
        # The initializer is a name, because Keras accepts no values while `fit` builds a layer.
        apart = {"aggregation": "sum", "synchronization": "on_read", **fixed}
        self._total = keras.Variable("zeros", shape, name="total", **apart)
        self._count = keras.Variable("zeros", shape, name="count", **apart)
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape))

    def call(self, inputs: Tensor, mask: Any = None, training: Any = False) -> Tensor:
        chosen = self.wanted.choose(inputs, dtype=wide(self.variable_dtype), built=self._built_for)
        x = chosen.elements
        kept = ops.ones_like(x)
        if mask is not None:
            kept = kept * chosen.weights(mask)
        residual, known = chosen.residual()
        if known is not None:
            kept = kept * ops.cast(known, kept.dtype)
        # NaN and infinity are the model's problem; in the multiplier they would stay forever.
        kept = kept * ops.cast(ops.isfinite(residual), kept.dtype)
        count = ops.sum(kept, axis=0)

        def mean(values: Tensor) -> Tensor:
            safe = ops.where(kept > 0, values, ops.zeros_like(values))
            return ops.sum(safe, axis=0) / ops.maximum(count, 1)

        size = residual * ops.stop_gradient(ops.sign(residual))
        multiplier, penalty = [ops.convert_to_tensor(v) for v in (self.multiplier, self.penalty)]
        if self.reduce == "each":
            seen = mean(size)
            loss = multiplier * seen + penalty / 2 * mean(residual * residual)
        else:
            seen = mean(x)
            shifted, _ = self.wanted.residual(seen + multiplier / penalty)
            loss = penalty / 2 * shifted * shifted - multiplier * multiplier / (2 * penalty)
            loss = ops.where(count > 0, loss, ops.zeros_like(loss))
        self.add_loss(ops.sum(loss))
        if training:
            self._total.assign(self._total + ops.stop_gradient(seen * count))
            self._count.assign(self._count + count)
        return inputs

    def ascend(self, rate: float, max_multiplier: float | None = None) -> None:
        """Raise the multipliers by the violations recorded since the last ascent.

        For "each", the multiplier `m` of a position with mean violation `v` becomes
        `m + rate * v`, which never decreases. For "mean", it becomes
        `rate * r(mean(x) + m / rate)`. For a target, this is `m + rate * r`; for
        bounds, it is the same, projected to the sign that the bound allows. A position
        that was not seen keeps its multiplier.

        Args:
            rate: Size of the step; must be positive.
            max_multiplier: Largest absolute value. Defaults to None: no limit.
        """
        count = ops.convert_to_tensor(self._count)
        seen = ops.convert_to_tensor(self._total) / ops.maximum(count, 1)
        old = ops.convert_to_tensor(self.multiplier)
        if self.reduce == "each":
            new = old + rate * seen
        else:
            new = rate * self.wanted.residual(seen + old / rate)[0]
        if max_multiplier is not None:
            new = ops.clip(new, -max_multiplier, max_multiplier)
        self.multiplier.assign(ops.where(count > 0, new, old))
        self.forget()

    def has_recorded(self) -> bool:
        """Return whether violations were recorded since the last ascent."""
        return self.built and bool(np.any(ops.convert_to_numpy(self._count) > 0))

    def forget(self) -> None:
        """Forget the violations recorded since the last ascent."""
        for seen in (self._total, self._count) if self.built else ():
            seen.assign(ops.zeros(seen.shape, seen.dtype))

    def set_penalty(self, penalty: float) -> None:
        """Set the weight of the quadratic penalty, even before the layer is built.

        Args:
            penalty: The weight; must be positive.
        """
        if self.built:
            self.penalty.assign(penalty)
        else:  # `fit` builds it on the first batch, on TensorFlow after the first callbacks
            self._first_penalty = float(penalty)

    def compute_output_spec(self, inputs: Any, **kwargs: Any) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **self.wanted.get_config(),
            "reduce": self.reduce,
            "penalty": self.initial_penalty,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "IndexGuide":
        made: IndexGuide = Target.load(cls, config, "reduce", "penalty")
        return made
