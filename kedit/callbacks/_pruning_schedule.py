"""A callback that prunes a model step by step while it trains."""

import sys
from typing import Any

import keras
import numpy as np

from kedit._addresses import addresses
from kedit._language.decoding import check_fields, loading
from kedit._run import ops
from kedit._show.code import created
from kedit.errors import OperandError

_FIELDS: dict[str, Any] = {
    "initial_sparsity": (int, float),
    "final_sparsity": (int, float),
    "begin_step": int,
    "end_step": int,
    "power": (int, float),
    "frequency": int,
    "regrow": bool,
}


@keras.saving.register_keras_serializable(package="kedit")
class PruningSchedule(keras.callbacks.Callback):
    """Prunes the weights that `kedit.weights.prune` chose further while a model trains.

    At step `t` from `begin_step` to `end_step`, every `frequency` steps, their sparsity is
    `final + (initial - final) * (1 - (t - begin_step) / (end_step - begin_step)) ** power`,
    and `final_sparsity` from `end_step` on. The weights, the scope, the structure and the
    importance are those of `prune`: the model is `prune(model, "*/kernel", 0.0)`. What was
    frozen before `prune` is ranked by its frozen values, what was frozen after it stays. The
    schedule goes on where it stopped if a model is saved with its optimizer and loaded,
    since steps are counted by `optimizer.iterations`.

    Logs the share of elements that are pruned after each epoch as `"sparsity"`.

    Args:
        initial_sparsity: Sparsity at `begin_step`, from 0 to 1.
        final_sparsity: Sparsity at `end_step`, from 0 to 1.
        begin_step: Step at which pruning begins.
        end_step: Step at which `final_sparsity` is reached.
        power: Exponent. 3 prunes much at first and little at the end, 1 evenly. Defaults
            to 3.
        frequency: Number of steps from one pruning to the next. With
            `compile(steps_per_execution=n)`, Keras calls the callback only every n
            steps, and the pruning that is due comes at the next call. Defaults to 100.
        regrow: Whether elements that were pruned may come back if others are smaller.
            Defaults to False: what is pruned stays pruned.

    Raises:
        kedit.errors.OperandError: If an argument is out of range, or the model has no
            pruned weights.

    Gradient:
        None: which elements are kept is not a trainable weight. Pruned elements receive
        a gradient of exactly 0.

    References:
        M. Zhu and S. Gupta, *To Prune, or Not to Prune: Exploring the Efficacy of Pruning
        for Model Compression*, 2017, equation 1.

    Example:
    >>> schedule = kedit.callbacks.PruningSchedule(0.0, 0.9, begin_step=0, end_step=200)
    >>> [round(schedule.sparsity_at(step), 3) for step in (0, 100, 150, 200, 300)]
    [0.0, 0.787, 0.787, 0.9, 0.9]
    >>> kedit.callbacks.PruningSchedule.constant(0.5, begin_step=100)
    PruningSchedule(0.5, 0.5, 100, 100)
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        power: float = 3,
        frequency: int = 100,
        *,
        regrow: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (
            ("initial_sparsity", initial_sparsity),
            ("final_sparsity", final_sparsity),
        ):
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise OperandError(
                    f"`{name}` should be from 0 to 1. Received: {name}={value!r}. Write "
                    "`PruningSchedule(0.0, 0.9, begin_step=0, end_step=1000)`."
                )
        if initial_sparsity > final_sparsity and not regrow:
            raise OperandError(
                "`final_sparsity` should not be below `initial_sparsity`, since what is pruned "
                f"stays pruned. Received: initial_sparsity={initial_sparsity!r}, "
                f"final_sparsity={final_sparsity!r}. Write `regrow=True` to let elements back."
            )
        for name, step, low in (
            ("begin_step", begin_step, 0),
            ("end_step", end_step, 0),
            ("frequency", frequency, 1),
        ):
            if type(step) is not int or step < low:
                raise OperandError(
                    f"`{name}` should be an int from {low} on. Received: {name}={step!r}. Write "
                    "`PruningSchedule(0.0, 0.9, begin_step=0, end_step=1000, frequency=100)`."
                )
        if end_step < begin_step or (end_step == begin_step and initial_sparsity != final_sparsity):
            raise OperandError(
                "`end_step` should come after `begin_step`. Received: "
                f"begin_step={begin_step}, end_step={end_step}. Write "
                f"`PruningSchedule.constant({final_sparsity}, begin_step={begin_step})` to "
                "prune once."
            )
        if not isinstance(power, (int, float)) or not 0 < power <= sys.float_info.max:
            raise OperandError(
                "`power` should be positive and finite. Received: "
                f"power={power!r}. Write `power=3`."
            )
        self.initial_sparsity, self.final_sparsity = initial_sparsity, final_sparsity
        self.begin_step, self.end_step = begin_step, end_step
        self.power, self.frequency, self.regrow = power, frequency, regrow
        self._step, self._batch, self._pruned_at = 0, -1, -1
        self._owners: list[Any] = []

    @classmethod
    def constant(
        cls, target_sparsity: float, begin_step: int = 0, frequency: int = 100
    ) -> "PruningSchedule":
        """Return a schedule that prunes once, at a step.

        Args:
            target_sparsity: Sparsity from `begin_step` on.
            begin_step: Step at which the model is pruned. Defaults to 0.
            frequency: As above; it makes no difference. Defaults to 100.
        """
        return cls(target_sparsity, target_sparsity, begin_step, begin_step, frequency=frequency)

    def __repr__(self) -> str:
        return created(self)

    def sparsity_at(self, step: int) -> float:
        """Return the sparsity after a number of steps; 0 before `begin_step`."""
        due = self._due(step)
        if due < 0:
            return 0.0
        length = max(self.end_step - self.begin_step, 1)
        left = (1 - (due - self.begin_step) / length) if due < self.end_step else 0.0
        change = (self.initial_sparsity - self.final_sparsity) * left**self.power
        return float(self.final_sparsity + change)

    def _due(self, step: int) -> int:
        """Return the last step up to `step` at which the model is pruned; -1 if none."""
        if step < self.begin_step:
            return -1
        if step >= self.end_step:
            return self.end_step
        return step - (step - self.begin_step) % self.frequency

    def on_train_begin(self, logs: Any = None) -> None:
        """Count on from the step of the optimizer, and prune if a pruning is due."""
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is None:
            raise OperandError(
                "A PruningSchedule should be given to `fit`, whose optimizer counts the steps. "
                "Received: no model that trains. Write `model.fit(x, y, callbacks=[schedule])`."
            )
        self._owners = self._found()
        self._step, self._pruned_at = int(ops.convert_to_numpy(optimizer.iterations)), -1
        self._prune()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start counting the batches of the epoch."""
        self._batch = -1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Prune if a pruning is due."""
        self._step += batch - self._batch
        self._batch = batch
        self._prune()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log the share of the elements that are pruned."""
        if logs is not None:
            assert self.model is not None  # on JAX, this brings the weights up to date
            masks = [mask for model in self._owners for mask in model.masks.values()]
            kept = [ops.convert_to_numpy(mask) for mask in masks]
            total = max(sum([mask.size for mask in kept]), 1)
            logs["sparsity"] = 1 - sum([int(np.sum(mask > 0)) for mask in kept]) / total

    def _prune(self) -> None:
        due = self._due(self._step)
        if due == self._pruned_at:
            return
        assert self.model is not None  # on JAX, this brings the weights up to date
        for model in self._owners:
            model.prune_further(self.sparsity_at(due), regrow=self.regrow)
        self._pruned_at = due

    def _found(self) -> list[Any]:
        """Return the pruned models in the model that trains."""
        model = self.model
        layers = [model, *addresses(model).values()]
        found = [layer for layer in layers if getattr(layer, "rules", ()) and _prunes(layer)]
        if not found:
            raise OperandError(
                "A PruningSchedule should be given to a model that is pruned. Received: "
                f"{model.name!r}, which has no pruned weights. Write `prune(model, '*/kernel', "
                "0.0)`, and train what it returns."
            )
        return found

    def get_config(self) -> dict[str, Any]:
        """Return the callback as JSON data."""
        return {name: getattr(self, name) for name in _FIELDS}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PruningSchedule":
        """Rebuild a callback from `get_config()`."""
        with loading("A saved PruningSchedule", config):
            return cls(**check_fields("A saved PruningSchedule", config, _FIELDS))


def _prunes(layer: Any) -> bool:
    return hasattr(layer, "prune_further")
