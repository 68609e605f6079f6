"""A loss that ignores entries of `y_true` that carry no information."""

from typing import Any, get_args

import keras
import numpy as np

from kedit import _run
from kedit._at import Place
from kedit._edit import Edit, check_one_of
from kedit._guide.reduction import by_row, reduced
from kedit._guide.target import (
    as_tensor,
    in_shape_of,
    mask_of,
    selection_from_json,
    selection_of,
    selection_to_json,
    spread,
    wide,
)
from kedit._language.constants import Array, freeze, from_json, is_scalar, to_json
from kedit._language.decoding import check_keys, check_same, loading
from kedit._language.selection import Selection
from kedit._language.types import Normalizer, Tensor
from kedit._run import ops
from kedit._show.code import created
from kedit.errors import OperandError, ShapeError
from kedit.losses._base import FunctionLoss, as_loss, serialized

NORMALIZERS = get_args(Normalizer)
# Keras losses that are the mean of an elementwise function over the last axis.
_ELEMENTWISE = (
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "hinge",
    "huber",
    "log_cosh",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "poisson",
    "squared_hinge",
)
_OF_LABELS = "sparse_categorical_crossentropy"


@keras.saving.register_keras_serializable(package="kedit")
class MaskedLoss(keras.losses.Loss):
    """Computes a loss without the entries of `y_true` that should be ignored.

    Formula, for one row (the last axis), with the values `v` of the base loss:
        `sum(v where not ignored) / n`, where `normalizer` chooses `n`:

        - "batch": the number of entries that count, averaged over the rows that
          have any, so that the loss is the mean over all such entries of the batch
        - "row": the number of entries that count in this row, so that all rows
          count equally
        - "size": the size of the row, as if ignored entries were predicted exactly

    Rows in which all entries are ignored do not count, except with "size": the
    mean is over the other rows, as in Keras for masks. If there are none, the loss
    is 0.

    Args:
        base_loss: Keras loss, its name or a function of `(y_true, y_pred)`. It must be
            the mean of an elementwise function over the last axis, like "mse", "mae",
            "huber" or "binary_crossentropy", or return one value for each label,
            like "sparse_categorical_crossentropy". The reduction of a loss object is
            not used.
        ignore: Entries to ignore. "nan": where `y_true` is NaN. A number: where
            `y_true` equals it. A boolean array with the shape of a sample, or
            `sample[...]`: the selected entries. A tuple of these, or a list of numbers:
            all of them.
            Defaults to "nan".
        normalizer: "batch", "row" or "size". Defaults to "batch".
        reduction: As in `keras.losses.Loss`. Defaults to
            "sum_over_batch_size".
        name: Name of the loss. Defaults to "masked_loss".
        dtype: Dtype of the result. Defaults to `keras.config.floatx()`, or to
            float32 if that is narrower. Losses are computed in float32 or wider.

    Call arguments:
        y_true: Tensor with the shape of `y_pred`, or with one label for each row.
        y_pred: Tensor of shape `(batch_size, ..., size)`. Entries for which its Keras
            mask is False are ignored.
        sample_weight: Weights of samples, timesteps or elements. Its shape is the
            start of `y_pred.shape`, in which any size may be 1.

    Returns:
        `call` returns the loss of each row: shape `y_pred.shape[:-1]`.

    Raises:
        kedit.errors.OperandError: If the base loss mixes the elements of a row, as
            "categorical_crossentropy" does.
        kedit.errors.ShapeError: If `y_true` or `sample_weight` does not fit.

    Gradient:
        Before reduction, an entry receives the gradient of the base loss divided by
        `n`. An ignored entry receives exactly 0, even if `y_true` or `y_pred` is NaN.

    Example:
    >>> loss = kedit.losses.MaskedLoss("mse")
    >>> y_true = ops.array([[2.0, np.nan], [2.0, 4.0]])
    >>> float(loss(y_true, ops.zeros((2, 2))))
    8.0
    """

    def __init__(
        self,
        base_loss: Any,
        ignore: Any = "nan",
        *,
        normalizer: Normalizer = "batch",
        reduction: str | None = "sum_over_batch_size",
        name: str = "masked_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype or wide(keras.config.floatx()))
        check_one_of("normalizer", normalizer, NORMALIZERS)
        self.base_loss = keras.losses.get(base_loss)
        self._base = as_loss(self.base_loss, None, self.dtype)
        if self._base is None:
            raise OperandError(
                'A MaskedLoss should be given a loss. Received: None. Write `MaskedLoss("mse")`.'
            )
        self._takes_labels = _takes_labels(self._base)
        self.ignore = ignore
        several = isinstance(ignore, tuple) or (isinstance(ignore, list) and _are_numbers(ignore))
        self._ignored = [_ignored(one) for one in (ignore if several else (ignore,))]
        self.normalizer = normalizer

    def __repr__(self) -> str:
        dtype = None if self.dtype == wide(keras.config.floatx()) else self.dtype
        return created(self, dtype=dtype)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Any = None) -> Tensor:
        """Return the reduced loss."""
        each, keep = self._each(y_true, y_pred, mask_of(y_pred))
        weights = None if sample_weight is None else spread(sample_weight, each)
        keep = None if self.normalizer == "size" else keep
        pooled = self.normalizer == "batch"
        rows = len(each.shape) - 1
        return reduced(self, each, rows, keep=keep, weights=weights, pooled=pooled)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each row."""
        each, keep = self._each(y_true, y_pred, None)
        keep = None if self.normalizer == "size" else keep
        value, weight, _ = by_row(each, len(each.shape) - 1, keep, None, self.normalizer == "batch")
        return ops.cast(value if weight is None else value * weight, self.dtype)

    def _each(self, y_true: Tensor, y_pred: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the value of each entry, 0 where ignored, and which entries are kept."""
        dtype = wide(self.dtype)
        y_true, y_pred = as_tensor(y_true, dtype), as_tensor(y_pred, dtype)
        labels = self._takes_labels is not False and _are_labels(y_true, y_pred)
        if self._takes_labels and not labels:
            raise ShapeError(
                "`y_true` should hold one label for each row of `y_pred`. Received: shapes "
                f"{tuple(y_true.shape)} and {tuple(y_pred.shape)}."
            )
        y_true = in_shape_of(y_true, y_pred[..., :1] if labels else y_pred)
        keep = _kept(y_true, self._ignored)
        if mask is not None:
            keep = ops.logical_and(keep, spread(mask, y_pred) > 0)
        # Replace ignored entries by 1: 0 * NaN would be NaN in the gradient of the base loss.
        safe_true = ops.where(keep, y_true, ops.ones_like(y_true))
        safe_pred = ops.where(keep, y_pred, ops.ones_like(y_pred))
        if labels:
            each = ops.expand_dims(self._base.call(ops.squeeze(safe_true, -1), safe_pred), -1)
        else:
            each = self._base.call(ops.expand_dims(safe_true, -1), ops.expand_dims(safe_pred, -1))
        if len(each.shape) != len(keep.shape):
            raise ShapeError(
                "The base loss of a MaskedLoss should be a mean over the last axis. Received: "
                f"{self.base_loss!r}, which gives shape {tuple(each.shape)} for single elements "
                f"of shape {(*keep.shape, 1)}. Add it by a WeightedSum."
            )
        return ops.where(keep, each, ops.zeros_like(each)), keep

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "base_loss": serialized(self.base_loss),
            "ignore": [_to_json(one) for one in self._ignored],
            "normalizer": self.normalizer,
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MaskedLoss":
        with loading("A saved MaskedLoss", config):
            check_keys("A saved MaskedLoss", config, {"ignore": list})
            ignore = tuple([_from_json(one) for one in config["ignore"]])
            made = cls(**{**config, "ignore": ignore})
            names = ("ignore", "normalizer")
            check_same("A saved MaskedLoss", made.get_config(), config, names)
            return made


def _are_numbers(entries: list[Any]) -> bool:
    """Whether a list names several values, and is not a mask."""
    return not any([isinstance(entry, (bool, list, np.bool_)) for entry in entries])


def _ignored(ignore: Any) -> Any:
    """Normalize what to ignore: "nan", a number, or a selection."""
    if isinstance(ignore, (str, float)) and str(ignore) == "nan":
        return "nan"
    if isinstance(ignore, (Place, Selection)):
        return selection_of(ignore)
    constant = None if ignore is None or isinstance(ignore, str) else freeze(ignore)
    if isinstance(constant, Array) and constant.dtype == "bool":
        return selection_of(constant)
    if not is_scalar(constant) or isinstance(constant, (bool, complex)):
        raise OperandError(
            '`ignore` should be "nan", a number, a boolean array of the shape of a sample, '
            f"`sample[...]`, or a tuple of these. Received: ignore={ignore!r}."
        )
    return constant


def _kept(y_true: Tensor, ignored: list[Any]) -> Tensor:
    keep = ops.ones_like(y_true, dtype="bool")
    for one in ignored:
        if isinstance(one, str):
            keep = ops.logical_and(keep, ops.logical_not(ops.isnan(y_true)))
        elif isinstance(one, Selection):
            one.check_rows(len(y_true.shape))
            shape = (None, *y_true.shape[1:])
            keep = _run.apply(Edit(one.inside_sample(), "set", False), keep, shape)
        else:
            keep = ops.logical_and(keep, ops.not_equal(y_true, one))
    return keep


def _to_json(one: Any) -> Any:
    if isinstance(one, Selection):
        return selection_to_json(one)
    return one if isinstance(one, str) else to_json(one)


def _from_json(data: Any) -> Any:
    if isinstance(data, dict) and "items" in data:
        return selection_from_json(data)
    return data if isinstance(data, str) else from_json(data)


def _are_labels(y_true: Tensor, y_pred: Tensor) -> bool:
    """Whether `y_true` has one entry for each row of `y_pred`."""
    if y_pred.shape[-1] == 1:
        return False
    rank = len(y_pred.shape)
    return len(y_true.shape) == rank - 1 or (len(y_true.shape) == rank and y_true.shape[-1] == 1)


def _takes_labels(base: Any) -> bool | None:
    """Whether a loss takes labels, or None if unknown. Raise if it mixes elements."""
    formula = base.function if isinstance(base, FunctionLoss) else type(base)
    if not formula.__module__.startswith(("keras.", "kedit.")):
        return None
    names = (*_ELEMENTWISE, _OF_LABELS)
    classes = ["".join([part.title() for part in name.split("_")]) for name in names]
    known = [getattr(keras.losses, name) for name in (*names, *classes)]
    if formula not in known:
        raise OperandError(
            "A loss that leaves elements out should be a mean over the last axis of a function of "
            f"single elements. Received: {formula.__name__}, which mixes them. Take one of "
            f"{names}, or a function of your own."
        )
    return formula in (known[len(_ELEMENTWISE)], known[-1])
