"""A callback that sets the penalty of a guide at every epoch."""

from collections.abc import Callable
from typing import Any

import keras

from kedit._language.decoding import check_fields, loading
from kedit._run import ops
from kedit.callbacks._guide_callback import GuideCallback
from kedit.errors import OperandError, SavingError


@keras.saving.register_keras_serializable(package="kedit")
class PenaltySchedule(GuideCallback):
    """Sets the quadratic penalty of an `IndexGuide` at the start of every epoch.

    Logs it as `"<name of the guide>_penalty"`.

    Args:
        guide: `kedit.layers.IndexGuide` of the model, or its name.
        schedule: Function that takes the number of the epoch, starting at 0, and
            returns the penalty, or a `keras.optimizers.schedules.LearningRateSchedule`
            whose steps are epochs.

    Raises:
        kedit.errors.OperandError: If the guide is not an `IndexGuide`, or not in
            the model, or if a penalty is not positive.
        kedit.errors.SavingError: When the callback is saved, if the function is not
            registered with Keras.

    Gradient:
        None: the penalty is not a trainable weight.

    Example:
    >>> growth = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 10.0)
    >>> callback = kedit.callbacks.PenaltySchedule("guide", growth)
    >>> callback.get_config()["guide"]
    'guide'
    """

    def __init__(self, guide: Any, schedule: Callable[[Any], Any]) -> None:
        super().__init__(guide, "penalty")
        if not callable(schedule):
            raise OperandError(
                "`schedule` should be a function of the epoch. Received: "
                f"{schedule!r}. Write `lambda epoch: 1.1**epoch`."
            )
        self.schedule = schedule

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the penalty for the epoch."""
        penalty = float(ops.convert_to_numpy(self.schedule(epoch)))
        if not penalty > 0:
            raise OperandError(
                f"A penalty should be positive. Received: {penalty} of the schedule."
            )
        self.owner().set_penalty(penalty)

    def get_config(self) -> dict[str, Any]:
        schedule = self.schedule
        if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            name = keras.saving.get_registered_name(schedule)
            if keras.saving.get_registered_object(name) is not schedule:
                raise SavingError(
                    "A saved schedule should be Keras's or registered with Keras. Received: "
                    f"{schedule!r}. Write `@keras.saving.register_keras_serializable()` above it."
                )
        data = keras.saving.serialize_keras_object(schedule)
        return {**super().get_config(), "schedule": data}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PenaltySchedule":
        with loading("A saved PenaltySchedule", config):
            fields = check_fields("A saved PenaltySchedule", config, _FIELDS)
            schedule = keras.saving.deserialize_keras_object(fields["schedule"])
            return cls(fields["guide"], schedule)


_FIELDS: dict[str, Any] = {"guide": str, "schedule": object}
