"""A callback that raises multipliers until constraints hold."""

from typing import Any

import keras

from kedit.callbacks._guide_callback import GuideCallback
from kedit.errors import OperandError


@keras.saving.register_keras_serializable(package="kedit")
class DualAscent(GuideCallback):
    """Raises the multiplier of an `IndexGuide` while its constraints are violated.

    After each epoch, or every few batches, `IndexGuide.ascend` raises the multiplier
    by the violation seen since the last step. The multiplier settles when the target
    is reached. If the target cannot be reached, the multiplier grows to its maximum and
    `kedit.metrics.IndexViolation` stays above 0. `evaluate` and validation do not
    change it.

    Logs the largest absolute multiplier after each epoch as
    `"<name of the guide>_multiplier"`.

    Args:
        guide: `kedit.layers.IndexGuide` of the model, or its name.
        rate: Step size, which multiplies the mean violation since the last step; must
            be positive. If it is larger than the penalty of the guide, or steps are
            too frequent, the multiplier oscillates. Defaults to 1.0.
        every: "epoch", or the number of batches between two steps. With
            `compile(steps_per_execution=n)`, Keras calls the callback only every n
            batches. Defaults to "epoch".
        max_multiplier: Largest absolute multiplier. It keeps multipliers from
            growing while an optimizer skips steps, as with loss scaling in
            mixed float16. Defaults to 1000.0.

    Raises:
        kedit.errors.OperandError: If the guide is not an `IndexGuide`, or not in the model.

    Gradient:
        None: the multiplier is not a trainable weight.

    References:
        The method of multipliers: J. Nocedal and S. J. Wright, *Numerical
        Optimization*, 2nd ed., 2006, section 17.3, where `rate` is the penalty.

    Example:
    >>> guide = kedit.layers.IndexGuide(2, 50.0, name="guide")
    >>> callback = kedit.callbacks.DualAscent(guide, rate=0.5)
    >>> callback.get_config()["guide"]
    'guide'
    """

    def __init__(
        self,
        guide: Any,
        rate: float = 1.0,
        *,
        every: Any = "epoch",
        max_multiplier: float = 1000.0,
    ) -> None:
        super().__init__(guide, "multiplier")
        for name, value in (("rate", rate), ("max_multiplier", max_multiplier)):
            if not value > 0:
                raise OperandError(f"`{name}` should be positive. Received: {name}={value!r}.")
        if every != "epoch" and (type(every) is not int or every < 1):
            raise OperandError(
                f'`every` should be "epoch" or a number of batches. Received: every={every!r}.'
            )
        self.rate, self.every, self.max_multiplier = float(rate), every, float(max_multiplier)
        self._last, self._was_recorded = -1, False

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget the violations seen before."""
        self.owner().forget()
        self._was_recorded = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start counting the batches of the epoch."""
        self._last = -1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Take a step if one is due."""
        if self.every != "epoch" and batch - self._last >= self.every:
            self._last = batch
            self._ascend()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Take a step for the remaining batches, and log the multiplier."""
        self._ascend()
        if not self._was_recorded:
            raise OperandError(
                "DualAscent should be given a guide that records in training. Received: "
                f"{self.owner().name!r}, which has recorded nothing in the first epoch. In a model "
                "of your own class, write `self.guide(x, training=training)`; on JAX, Keras tells "
                "inner layers only what `call` passes on. If not so, all elements are masked or "
                "not finite."
            )
        super().on_epoch_end(epoch, logs)

    def _ascend(self) -> None:
        guide = self.owner()
        self._was_recorded = self._was_recorded or guide.has_recorded()
        guide.ascend(self.rate, self.max_multiplier)

    def get_config(self) -> dict[str, Any]:
        options = {"rate": self.rate, "every": self.every, "max_multiplier": self.max_multiplier}
        return {**super().get_config(), **options}
