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
from kedit._language.types import Normalizer, Shape, Tensor
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
# Keras losses with one value for each row (the last axis), computed from the row as a whole.
_OF_ROWS = (
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "categorical_hinge",
    "cosine_similarity",
    "kl_divergence",
)


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

    A loss that is computed from a row as a whole, like "categorical_crossentropy",
    counts as one entry for each row. A row of it is ignored if any entry is NaN or
    selected, or if all entries equal the number to ignore.

    Args:
        base_loss: Keras loss, its name or a function of `(y_true, y_pred)`. It must be
            the mean of an elementwise function over the last axis, like "mse", "mae",
            "huber" or "binary_crossentropy"; return one value for each label, like
            "sparse_categorical_crossentropy"; or be one of Keras's with one value for
            each row: "categorical_crossentropy", "categorical_focal_crossentropy",
            "categorical_hinge", "cosine_similarity" or "kl_divergence". The reduction
            of a loss object is not used.
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
        kedit.errors.OperandError: If the base loss mixes rows, as "dice" does, or
            needs whole rows and only parts of them are selected to be ignored.
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
        self._kind = _kind_of(self._base)
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
        labels = self._kind in ("labels", "unknown") and _are_labels(y_true, y_pred)
        if self._kind == "labels" and not labels:
            raise ShapeError(
                "`y_true` should hold one label for each row of `y_pred`. Received: shapes "
                f"{tuple(y_true.shape)} and {tuple(y_pred.shape)}."
            )
        y_true = in_shape_of(y_true, y_pred[..., :1] if labels else y_pred)
        keep = (_kept_rows if self._kind == "rows" else _kept)(y_true, self._ignored)
        if mask is not None:
            per_entry = y_pred[..., :1] if self._kind == "rows" else y_pred
            keep = ops.logical_and(keep, spread(mask, per_entry) > 0)
        # Replace ignored entries by 1: 0 * NaN would be NaN in the gradient of the base loss.
        safe_true = ops.where(keep, y_true, ops.ones_like(y_true))
        safe_pred = ops.where(keep, y_pred, ops.ones_like(y_pred))
        if self._kind == "rows":
            each = ops.expand_dims(self._base.call(safe_true, safe_pred), -1)
        elif labels:
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


def _kept_rows(y_true: Tensor, ignored: list[Any]) -> Tensor:
    """Which rows count, with a last axis of size 1."""
    keep = ops.ones_like(y_true[..., :1], dtype="bool")
    for one in ignored:
        here = ops.logical_not(_kept(y_true, [one]))
        if isinstance(one, Selection):
            _check_whole_rows(one, tuple(y_true.shape))
        if isinstance(one, (str, Selection)):
            gone = ops.any(here, axis=-1, keepdims=True)
        else:
            gone = ops.logical_not(ops.any(ops.logical_not(here), axis=-1, keepdims=True))
        keep = ops.logical_and(keep, ops.logical_not(gone))
    return keep


def _check_whole_rows(selection: Selection, shape: Shape) -> None:
    """Raise if a selection that a loss of rows should ignore selects parts of them."""
    if None in shape[1:]:
        return
    chosen = Edit(selection.inside_sample(), "set", True)(np.zeros((1, *shape[1:]), bool))
    if (chosen.any(-1) != chosen.all(-1)).any():
        raise OperandError(
            "A loss that is computed from a row as a whole should ignore whole rows. Received: "
            f"`{selection!r}` for samples of shape {shape[1:]}, whose last axis is the row. Select "
            "along the other axes, or take a loss of single elements, such as "
            '"binary_crossentropy".'
        )


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


def _kind_of(base: Any) -> str:
    """What a loss is a function of: "elements", "labels", "rows" or "unknown"."""
    formula = base.function if isinstance(base, FunctionLoss) else type(base)
    if not formula.__module__.startswith(("keras.", "kedit.")):
        return "unknown"
    names = {"elements": _ELEMENTWISE, "labels": (_OF_LABELS,), "rows": _OF_ROWS}
    for kind, known in names.items():
        classes = [_CLASSES.get(name, name.title().replace("_", "")) for name in known]
        if any([formula is getattr(keras.losses, name) for name in (*known, *classes)]):
            _check_axis(base)
            return kind
    raise OperandError(
        "A loss that leaves elements out should be computed from single elements, labels or rows. "
        f"Received: {formula.__name__}, which mixes rows. Take one of "
        f"{(*_ELEMENTWISE, _OF_LABELS, *_OF_ROWS)}, or a function of your own."
    )


_CLASSES = {"kl_divergence": "KLDivergence"}


def _check_axis(base: Any) -> None:
    config = {} if isinstance(base, FunctionLoss) else base.get_config()
    if config.get("axis", -1) != -1:
        raise OperandError(
            "A loss that leaves elements out should be computed along the last axis. Received: "
            f"axis={config['axis']}. Drop `axis`, and move the axis to the end: "
            "`keras.ops.moveaxis(y, axis, -1)`."
        )
