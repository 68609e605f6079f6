"""A model whose `fit` trains only some variables; elsewhere all of them stay trainable."""

from typing import Any

from kedit.interventions._safe_running import SafelyRun


class PartlyTrained(SafelyRun):
    """Base class of models that share layers with others, and leave their `trainable` alone."""

    def trains_variable(self, variable: Any) -> bool:
        """Whether this model trains a variable that is trainable itself."""
        raise NotImplementedError

    def _is_trained(self, variable: Any) -> bool:
        return bool(self.trainable and variable.trainable and self.trains_variable(variable))

    @property
    def trainable_variables(self) -> list[Any]:
        return [v for v in self.variables if self._is_trained(v)]

    @property
    def trainable_weights(self) -> list[Any]:
        return [v for v in self.weights if self._is_trained(v)]

    @property
    def non_trainable_variables(self) -> list[Any]:
        return [v for v in self.variables if not self._is_trained(v)]

    @property
    def non_trainable_weights(self) -> list[Any]:
        return [v for v in self.weights if not self._is_trained(v)]
