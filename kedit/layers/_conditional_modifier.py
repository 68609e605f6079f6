"""A layer that changes the elements that satisfy a comparison."""

import operator
from typing import Any, get_args

import keras

from kedit._at import at
from kedit._edit import check_one_of
from kedit._language.constants import Array, freeze, from_json, is_scalar, to_json
from kedit._language.decoding import check_fields, check_same, check_whole, loading
from kedit._language.expression import X
from kedit._language.trainable import Trainable, number_of
from kedit._language.types import Comparison, Modification
from kedit.errors import OperandError
from kedit.layers._editing import Editing

COMPARISONS = get_args(Comparison)
OPERATIONS = get_args(Modification)


@keras.saving.register_keras_serializable(package="kedit")
class ConditionalModifier(Editing):
    """Multiplies the elements above a threshold by a factor; the others pass unchanged.

    Use `comparison` and `operation` to compare or change elements in other ways.

    Formula:
        `y = factor * x where x > threshold, else x`

    Args:
        threshold: Number, array that broadcasts to a sample, such as one number
            for each channel, or `kedit.Trainable`. For "between", a pair of these.
        factor: Number, array or `kedit.Trainable`, as for `threshold`. Defaults to 2.0.
        comparison: ">", "<", ">=", "<=", "==", "abs>" (`abs(x) > threshold`), "abs<", or
            "between" (`threshold[0] < x < threshold[1]`). Defaults to ">".
        operation: "multiply", "add", or "set", which replaces `x` with `factor`.
            Defaults to "multiply".
        otherwise: Number, array or `kedit.Trainable` for the other elements. Defaults
            to None: they pass unchanged.
        **kwargs: Keyword arguments of `kedit.layers.Editing`, such as `gradient`
            and `when`, and base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch_size, *sample_shape)`.
        training: Whether the model is being trained; Keras passes it.

    Input shape:
        Any. Axes may have unknown size.

    Output shape:
        Same shape and dtype as the input.

    Raises:
        kedit.errors.OperandError: If an argument is invalid, or if a threshold is
            trainable without `gradient="sigmoid"`.

    Gradient:
        With upstream gradient `g`: where the comparison is true, the input receives
        `factor * g`, `g` or 0, and `factor` receives `g * x`, `g` or `g`, for
        "multiply", "add" and "set". Elsewhere the input receives `g`. A threshold
        receives a gradient only with `gradient="sigmoid"`; see `kedit.layers.Editing`.
        With `otherwise`, elements elsewhere send 0 to the input and `g` to `otherwise`.

    Example:
    >>> layer = kedit.layers.ConditionalModifier(threshold=5.0)
    >>> ops.convert_to_numpy(layer(ops.array([[4.0, 5.0, 6.0]]))).tolist()
    [[4.0, 5.0, 12.0]]
    >>> layer = kedit.layers.ConditionalModifier(0.5, 0.0, comparison="abs<", operation="set")
    >>> ops.convert_to_numpy(layer(ops.array([[-0.25, 0.25, 2.0]]))).tolist()
    [[0.0, 0.0, 2.0]]
    """

    def __init__(
        self,
        threshold: Any,
        factor: Any = 2.0,
        *,
        comparison: Comparison = ">",
        operation: Modification = "multiply",
        otherwise: Any = None,
        **kwargs: Any,
    ) -> None:
        check_one_of("comparison", comparison, COMPARISONS)
        check_one_of("operation", operation, OPERATIONS)
        if comparison == "between":
            if not isinstance(threshold, (list, tuple)) or len(threshold) != 2:
                raise OperandError(
                    '`threshold` should be a pair where `comparison="between"`. Received: '
                    f"threshold={threshold!r}. Write `(low, high)`."
                )
            self.threshold = tuple([_operand("threshold", bound) for bound in threshold])
        else:
            self.threshold = _operand("threshold", threshold)
        self.factor = _operand("factor", factor)
        self.comparison = comparison
        self.operation = operation
        place = at.where(_condition(comparison, self.threshold))
        self.otherwise = None if otherwise is None else _operand("otherwise", otherwise)
        if otherwise is None:
            edit = getattr(place, operation)(self.factor)
        else:
            changed = {"multiply": X * self.factor, "add": X + self.factor, "set": self.factor}
            edit = place.set(changed[operation], otherwise=self.otherwise)
        super().__init__(edit, **kwargs)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["edit"]
        pair = self.comparison == "between"
        seen: list[Trainable] = []
        threshold = [_encode(t, seen) for t in (self.threshold if pair else (self.threshold,))]
        return {
            **config,
            "threshold": threshold if pair else threshold[0],
            "factor": _encode(self.factor, seen),
            "comparison": self.comparison,
            "operation": self.operation,
            **({} if self.otherwise is None else {"otherwise": _encode(self.otherwise, seen)}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ConditionalModifier":
        with loading("A saved ConditionalModifier", config):
            threshold = config["threshold"]
            pair = isinstance(threshold, list)
            seen: list[Trainable] = []
            bounds = [_decode(t, seen) for t in (threshold if pair else [threshold])]
            operands = {
                "threshold": bounds if pair else bounds[0],
                "factor": _decode(config["factor"], seen),
            }
            if "otherwise" in config:
                operands["otherwise"] = _decode(config["otherwise"], seen)
            made = cls(**{**config, **operands})
            check_same("A saved ConditionalModifier", made.get_config(), config, _OWN)
            return made


_OWN = (
    "threshold",
    "factor",
    "otherwise",
    "comparison",
    "operation",
    "when",
    "gradient",
    "temperature",
    "switch",
)


def _operand(name: str, value: Any) -> Any:
    operand = value if isinstance(value, Trainable) else freeze(value)
    known = isinstance(operand, Array | Trainable) or is_scalar(operand)
    if not known or isinstance(operand, complex):
        raise OperandError(
            f"`{name}` should be a number, an array of numbers or a Trainable. Received: "
            f"{name}={value!r}. For more, write `Editing(at.where(X > 0.0).multiply(2.0))`."
        )
    return operand


_COMPARE: dict[str, Any] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
}


def _condition(comparison: str, threshold: Any) -> Any:
    if comparison == "between":
        return (X > threshold[0]) & (X < threshold[1])
    left = abs(X) if comparison.startswith("abs") else X
    return _COMPARE[comparison.removeprefix("abs")](left, threshold)


def _encode(operand: Any, seen: list[Trainable]) -> Any:
    """An operand as data; a Trainable that was met before as its number."""
    if not isinstance(operand, Trainable):
        return to_json(operand)
    number = number_of(operand, seen)
    if number < len(seen):
        return {"trainable": number}
    seen.append(operand)
    return {"trainable": operand.get_config()}


def _decode(data: Any, seen: list[Trainable]) -> Any:
    if not isinstance(data, dict) or "trainable" not in data:
        return from_json(data)
    saved = check_fields("A saved operand", data, {"trainable": (dict, int)})["trainable"]
    if isinstance(saved, int):
        return seen[check_whole("The number of a trainable", saved, 0, len(seen) - 1)]
    seen.append(Trainable.from_config(saved))
    return seen[-1]
