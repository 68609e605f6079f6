"""Base class of callbacks that update the weights of a guide."""

import difflib
from typing import Any

import keras

from kedit._addresses import addresses
from kedit._language.decoding import loading
from kedit._run import ops
from kedit._show.code import created
from kedit.errors import OperandError


class GuideCallback(keras.callbacks.Callback):
    """Finds the guide, and logs one of its weights at the end of each epoch.

    The state belongs to the layer: it is saved with the model, and compiled steps see
    it change on every backend. The state of a loss would be frozen on JAX. Read
    `self.model` first: on JAX, this brings the weights up to date.

    Args:
        guide: `kedit.layers.IndexGuide` of the model, or its name.
        logged: Name of the weight to log.
    """

    def __init__(self, guide: Any, logged: str) -> None:
        super().__init__()
        if not (_is_guide(guide) or isinstance(guide, str)):
            raise OperandError(
                f"{type(self).__name__} should be given an IndexGuide, or its name. Received: "
                f"{guide!r} of type {type(guide).__name__}. A loss has no state that a compiled "
                "step would see: put `IndexGuide(2, 50.0)` behind the output."
            )
        self.guide = guide
        self._logged = logged

    def __repr__(self) -> str:
        return created(self, guide=self.guide if isinstance(self.guide, str) else self.guide.name)

    def owner(self) -> Any:
        """Return the guide, with its weights up to date if the first batch has built it."""
        model = self.model
        layers = list(addresses(model).values())
        guide = self._named(layers) if isinstance(self.guide, str) else self.guide
        if not (guide.built or model.built):
            return guide
        weights = model.non_trainable_variables if guide.built else []
        if not any(weight is guide.penalty for weight in weights):
            raise OperandError(
                f"{type(self).__name__} should be given a guide of the model that is trained. "
                f"Received: {guide.name!r}, which is not. Give its name, as of a loaded model."
            )
        return guide

    def _named(self, layers: list[Any]) -> Any:
        guides = [layer for layer in layers if _is_guide(layer)]
        names = [guide.name for guide in guides]
        if names.count(self.guide) == 1:
            return guides[names.index(self.guide)]
        is_layer = self.guide in [layer.name for layer in layers]
        what = "another layer" if is_layer else "no layer"
        fix = 'Put `IndexGuide(2, 50.0, name="guide")` behind a layer.'
        if self.guide in names:
            what = f"{names.count(self.guide)} of them"
            fix = f"Give the layer itself, as in `{type(self).__name__}(guide)`."
        elif guides:
            close = difflib.get_close_matches(self.guide, names, n=1, cutoff=0.0)
            fix = f"Write `{type(self).__name__}({close[0]!r})`."
        raise OperandError(
            f"{type(self).__name__} should be given the name of an IndexGuide among the model's "
            f"layers: {names}. Received: {self.guide!r}, which is the name of {what}. {fix}"
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log the largest absolute value of the weight."""
        guide = self.owner()
        if logs is not None:
            weight = ops.convert_to_tensor(getattr(guide, self._logged))
            logs[f"{guide.name}_{self._logged}"] = float(ops.max(ops.abs(weight)))

    def get_config(self) -> dict[str, Any]:
        """Return the callback as JSON data, with the guide by name."""
        return {"guide": self.guide if isinstance(self.guide, str) else self.guide.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "GuideCallback":
        """Rebuild a callback from `get_config()`."""
        with loading(f"A saved {cls.__name__}", config):
            return cls(**config)


def _is_guide(thing: Any) -> bool:
    return hasattr(thing, "ascend") and hasattr(thing, "wanted")
