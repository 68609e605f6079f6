"""A penalty for chosen elements of the output that miss their target."""

from typing import Any

import keras
from keras import ops

from kedit import _lowering
from kedit._at import Place
from kedit._data import freeze, from_json, is_tensor, to_json
from kedit._edit import Edit
from kedit._index import Index
from kedit._selection import Selection
from kedit._types import Mode, Tensor
from kedit.errors import OperandError, PositionError, SavingError, ShapeError

KINDS = ("l1", "l2")


@keras.saving.register_keras_serializable(package="kedit")
class IndexPenalty(keras.losses.Loss):
    """Penalises chosen elements of every sample's output for missing a target.

    Formula, for one sample with the residuals `r = y_pred[index] - target`:
        `penalty = weight * mean(r ** 2)` for "l2", `weight * mean(abs(r))` for "l1"

    The base loss, if any, is added; each is reduced as Keras reduces losses, so
    that `sample_weight`, `reduction` and replicas work for both.

    Args:
        index: Which elements, counted inside one sample: anything that
            `sample[...]` takes, as `2` or `(slice(None), 2)`, or
            `sample[..., 2]` itself.
        target: Number, or array that broadcasts to `sample[index]`.
        kind: "l2" or "l1". Defaults to "l2".
        weight: Number by which the penalty is multiplied. Defaults to 1.0.
        base_loss: Keras loss, its name or a function of `(y_true, y_pred)`,
            added to the penalty. Defaults to None: the penalty alone.
        reduction: As in `keras.losses.Loss`. Defaults to
            "sum_over_batch_size".
        name: Name of the loss. Defaults to "index_penalty".
        dtype: Dtype of the computation. Defaults to `keras.config.floatx()`.

    Call arguments:
        y_true: As the base loss takes it; the penalty does not look at it.
        y_pred: Tensor of shape `(batch_size, *sample_shape)`.
        sample_weight: Weights of shape `(batch_size,)`. A Keras mask weighs the
            base loss only.

    Returns:
        `call` gives the penalty of each sample, of shape `(batch_size,)`.

    Raises:
        kedit.errors.CoordinateError: If the index names rows of the batch.
        kedit.errors.PositionError: If it does not fit `y_pred`.
        kedit.errors.ShapeError: If the target does not broadcast, or
            `sample_weight` has an axis beside the batch.

    Gradient:
        Before reduction, where `n` elements are chosen: `2 * weight * r / n` for
        "l2", `weight * sign(r) / n` for "l1", which is 0 at `r = 0`; exactly 0
        for all other elements; and that of the base loss.

    References:
        The L2 and L1 exterior penalties of J. Nocedal and S. J. Wright,
        *Numerical Optimization*, 2nd ed., 2006, chapter 17. An L1 penalty is
        exact from a certain weight on; below it, and with L2 at any weight, the
        base loss keeps the element off its target by an amount that shrinks as
        the weight grows.

    Example:
    >>> loss = kedit.losses.IndexPenalty(2, 50.0, kind="l1", weight=0.1)
    >>> y_pred = ops.array([[0.0, 0.0, 40.0], [0.0, 0.0, 60.0]])
    >>> round(float(loss(y_pred, y_pred)), 6)
    1.0
    """

    def __init__(
        self,
        index: Any,
        target: Any,
        *,
        kind: str = "l2",
        weight: float = 1.0,
        base_loss: Any = None,
        reduction: str | None = "sum_over_batch_size",
        name: str = "index_penalty",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if kind not in KINDS:
            raise OperandError(f"`kind` should be one of {KINDS}. Received: kind={kind!r}.")
        self.selection = _selection(index)
        self.target = freeze(target)
        if is_tensor(self.target):
            raise OperandError(
                "A target should be a number or an array that is known beforehand. Received: "
                f"{target!r}. Write `keras.ops.convert_to_numpy(target)`."
            )
        self.kind = kind
        self.weight = float(weight)
        self.base_loss = keras.losses.get(base_loss)
        is_function = callable(self.base_loss) and not isinstance(self.base_loss, keras.losses.Loss)
        self._base = (
            _FunctionLoss(self.base_loss, name="base_loss", reduction=reduction, dtype=dtype)
            if is_function
            else self.base_loss
        )

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Any = None) -> Tensor:
        """The penalty, reduced, and the base loss, reduced, added."""
        # A copy carries no Keras mask, which is per timestep where the penalty is per sample.
        chosen = ops.copy(ops.convert_to_tensor(y_pred))
        penalty = super().__call__(y_true, chosen, _weight_per_sample(sample_weight))
        if self._base is None:
            return penalty
        base = ops.cast(self._base(y_true, y_pred, sample_weight), self.dtype)
        if len(penalty.shape) < len(base.shape):  # not reduced: per sample, and per timestep
            penalty = ops.reshape(penalty, (-1, *[1] * (len(base.shape) - 1)))
        return base + penalty

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The weighted penalty of each sample."""
        self.selection.check_rows(len(y_pred.shape))
        shape = (None, *y_pred.shape[1:])  # the target is the same for every sample
        dtype = keras.backend.standardize_dtype(y_pred.dtype)
        selection = self.selection.inside_sample()
        mode: Mode | None = None if None in shape[1:] else "raise"
        bound = _lowering.check(Edit(selection, "set", self.target, mode=mode), shape, dtype)
        if 0 in bound.selected[1:]:
            raise PositionError(
                "A penalty should have at least one element to look at. Received: "
                f"`{self.selection!r}`, which selects none of shape {shape}."
            )
        chosen = _lowering.apply(Edit(selection, "get", mode=mode), y_pred)
        residual = chosen - _lowering.constant(self.target, dtype)
        if self.kind == "l2":
            each = residual * residual
        else:  # abs(r), whose gradient at 0 differs between backends
            each = residual * ops.stop_gradient(ops.sign(residual))
        return self.weight * ops.mean(each, axis=tuple(range(1, len(each.shape))))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "index": {
                "coordinates": self.selection.coordinates,
                "items": self.selection.index.to_json(),
            },
            "target": to_json(self.target),
            "kind": self.kind,
            "weight": self.weight,
            "base_loss": _serialized(self.base_loss),
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "IndexPenalty":
        index = config["index"]
        selection = Selection(index["coordinates"], Index.from_json(index["items"]))
        return cls(**{**config, "index": selection, "target": from_json(config["target"])})


def _weight_per_sample(sample_weight: Any) -> Any:
    if sample_weight is None:
        return None
    sample_weight = ops.convert_to_tensor(sample_weight)
    if any(size != 1 for size in sample_weight.shape[1:]):
        raise ShapeError(
            "`sample_weight` of an IndexPenalty should hold one weight for each sample, shape "
            f"(batch_size,). Received: shape {tuple(sample_weight.shape)}. Average it over the "
            "other axes: `keras.ops.mean(sample_weight, axis=1)`."
        )
    return sample_weight if len(sample_weight.shape) < 2 else ops.reshape(sample_weight, (-1,))


def _serialized(base_loss: Any) -> Any:
    """A base loss as data; a function only if it can be found again by its name."""
    if base_loss is None:
        return None
    if callable(base_loss) and not isinstance(base_loss, keras.losses.Loss):
        name = keras.saving.get_registered_name(base_loss)
        registered = keras.saving.get_registered_object(name) is base_loss
        built_in = getattr(keras.losses, getattr(base_loss, "__name__", ""), None) is base_loss
        if not (registered or built_in):
            raise SavingError(
                "A base loss that is saved should be Keras's own or registered with Keras. "
                f"Received: {base_loss!r}. Write `@keras.saving.register_keras_serializable()` "
                "above it."
            )
    return keras.losses.serialize(base_loss)


def _selection(index: Any) -> Selection:
    """The elements meant by an index inside one sample, or by `sample[...]` itself."""
    if isinstance(index, Place):
        index = index.selection
    selection = index if isinstance(index, Selection) else Selection("sample", Index(index))
    if selection.condition is not None or selection.tensors():
        raise OperandError(
            "A penalty should be given positions that are known beforehand. Received: "
            f"`{selection!r}`. Drop `.where(...)`, and write tensors as arrays."
        )
    selection.check_rows()
    return selection


class _FunctionLoss(keras.losses.Loss):
    """A loss function, reduced as a loss object is."""

    def __init__(self, function: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function = function

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.function(y_true, y_pred)
