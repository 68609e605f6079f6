"""A layer that multiplies what lies above a threshold."""

from typing import Any

import keras

from kedit._at import at
from kedit._data import freeze, is_scalar
from kedit._expression import X
from kedit.errors import OperandError
from kedit.layers._editing import Editing


def _number(name: str, value: Any) -> Any:
    number = freeze(value)
    if not is_scalar(number) or isinstance(number, complex):
        raise OperandError(
            f"`{name}` should be a number. Received: {name}={value!r}. For one a channel, write "
            "`Editing(at.where(X > thresholds).multiply(factors))`."
        )
    return number


@keras.saving.register_keras_serializable(package="kedit")
class ConditionalModifier(Editing):
    """Multiplies the elements above a threshold by a factor; the others pass unchanged.

    Formula:
        `y = factor * x where x > threshold, else x`

    Args:
        threshold: Number that an element has to exceed.
        factor: Number by which it is multiplied then. Defaults to 2.0.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch_size, *sample_shape)`.

    Input shape:
        Any, with axes of unknown size, too.

    Output shape:
        Same shape and dtype as the input.

    Gradient:
        With upstream gradient `g`: `factor * g` above the threshold, `g` elsewhere.

    Example:
    >>> layer = kedit.layers.ConditionalModifier(threshold=5.0)
    >>> ops.convert_to_numpy(layer(ops.array([[4.0, 5.0, 6.0]]))).tolist()
    [[4.0, 5.0, 12.0]]
    """

    def __init__(self, threshold: float, factor: float = 2.0, **kwargs: Any) -> None:
        threshold, factor = _number("threshold", threshold), _number("factor", factor)
        super().__init__(at.where(X > threshold).multiply(factor), **kwargs)
        self.threshold = threshold
        self.factor = factor

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["edit"]
        return {**config, "threshold": self.threshold, "factor": self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ConditionalModifier":
        return cls(**config)
