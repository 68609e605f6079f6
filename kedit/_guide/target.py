"""Where chosen elements of a batch should be, and by how much they miss it.

Shared by penalties, guides and metrics. An element is free if it has no target,
such as where the target is NaN. Then its residual is 0, and it has no gradient.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from kedit import _run
from kedit._at import Place
from kedit._edit import Edit, check_one_of
from kedit._language.constants import (
    Array,
    Slot,
    as_array,
    freeze,
    from_json,
    holds_tensor,
    is_tensor,
    to_code,
    to_json,
)
from kedit._language.decoding import check_fields, check_same, loading, refused
from kedit._language.index import Index
from kedit._language.selection import Selection
from kedit._language.types import Mode, Shape, Tensor
from kedit._plan.layout import Layout
from kedit._run import ops
from kedit.errors import OperandError, PositionError, ShapeError

Y_TRUE = "y_true"


class Target:
    """Chosen elements of every sample, and the value or the interval they should have.

    Args:
        index: What `sample[...]` takes, or `sample[...]` itself.
        target: Number, array that broadcasts to `sample[index]` or, if
            `reads_y_true`, "y_true"; NaN leaves an element free.
        lower: Lower bound, instead of a target; NaN and -inf mean no bound.
        upper: Upper bound, instead of a target; NaN and inf mean no bound.
        reads_y_true: Whether the target may be "y_true".
    """

    def __init__(
        self,
        index: Any,
        target: Any = None,
        lower: Any = None,
        upper: Any = None,
        *,
        reads_y_true: bool = False,
    ) -> None:
        if (target is None) == (lower is None and upper is None):
            raise OperandError(
                "Chosen elements should be given a `target`, or bounds, `lower` or "
                f"`upper`. Received: target={target!r}, lower={lower!r}, upper={upper!r}."
            )
        self.selection = selection_of(index)
        self.from_y_true = reads_y_true and isinstance(target, str) and target == Y_TRUE
        self.target = target if self.from_y_true else _constant("target", target)
        self.lower = _constant("lower", lower)
        self.upper = _constant("upper", upper)
        self._wanted = None if self.from_y_true else _Part.of(self.target, np.isnan)
        # An infinite bound is no bound.
        self._floor = _Part.of(self.lower, lambda array: ~np.isfinite(array))
        self._ceiling = _Part.of(self.upper, lambda array: ~np.isfinite(array))
        if self._wanted is not None and np.isinf(_array(self._wanted.value)).any():
            raise OperandError(
                f"A target should be finite, or NaN. Received: {to_code(self.target)}."
            )
        if self._floor is not None and self._ceiling is not None:
            self._check_interval()

    def _check_interval(self) -> None:
        try:
            empty = (_array(self.lower) > _array(self.upper)).any()
        except ValueError as error:
            raise ShapeError(
                "`lower` and `upper` should broadcast to each other. Received: "
                f"shapes {np.shape(_array(self.lower))} and {np.shape(_array(self.upper))}."
            ) from error
        if empty:
            raise OperandError(
                "`lower` should not lie above `upper`. Received: "
                f"lower={to_code(self.lower)}, upper={to_code(self.upper)}."
            )

    @property
    def is_interval(self) -> bool:
        """Whether bounds are given instead of a target."""
        return self.lower is not None or self.upper is not None

    def arguments(self) -> dict[str, Any]:
        """Index, target and bounds, from which an equal target can be made."""
        return {
            "index": self.selection,
            "target": self.target,
            "lower": self.lower,
            "upper": self.upper,
        }

    def get_config(self) -> dict[str, Any]:
        """Index, target and bounds as data for JSON."""
        return {
            "index": selection_to_json(self.selection),
            "target": self.target if self.from_y_true else to_json(self.target),
            "lower": to_json(self.lower),
            "upper": to_json(self.upper),
        }

    @staticmethod
    def decoded(config: dict[str, Any]) -> dict[str, Any]:
        """A config with index, target and bounds as they were given."""
        target = config["target"]
        return {
            **config,
            "index": selection_from_json(config["index"]),
            "target": target if target == Y_TRUE else _value(target),
            "lower": _value(config["lower"]),
            "upper": _value(config["upper"]),
        }

    @classmethod
    def load(cls, kind: Callable[..., Any], config: dict[str, Any], *names: str) -> Any:
        """Create an object with a target from its config.

        Args:
            kind: Its class.
            config: The result of its `get_config()`.
            names: Its other arguments that kedit defines.
        """
        with loading(f"A saved {kind.__name__}", config):
            made = kind(**cls.decoded(config))
            own = ("index", "target", "lower", "upper", *names)
            check_same(f"A saved {kind.__name__}", made.get_config(), config, own)
            return made

    def bind(self, shape: Shape, dtype: str) -> Layout:
        """Bind the index to a batch, and raise if it, the target or the bounds do not fit."""
        self.selection.check_rows(len(shape))
        get = self._edit(shape, "get")
        constants = [None if self.from_y_true else self.target, self.lower, self.upper]
        sets = [self._edit(shape, "set", value) for value in constants if value is not None]
        shape = (None, *shape[1:])  # target and bounds are the same for every sample
        bound, *_ = [_run.check(edit, shape, dtype) for edit in (get, *sets)]
        if 0 in bound.selected[1:]:
            raise PositionError(
                "An index should choose at least one element of a sample. Received: "
                f"`{self.selection!r}`, which selects none of shape {shape}."
            )
        return bound.layout

    def _edit(self, shape: Shape, op: str, operand: Any = None) -> Edit:
        mode: Mode | None = None if None in shape[1:] else "raise"
        return Edit(self.selection.inside_sample(), op, operand, mode=mode)

    def choose(
        self, y_pred: Any, y_true: Any = None, *, dtype: str, built: Shape | None = None
    ) -> "Chosen":
        """Choose the elements of a batch, and of `y_true` if that is the target, as `dtype`.

        A tensor that is traced may not know its sizes; `built` is the shape that a layer knows.
        """
        x = as_tensor(y_pred, dtype)
        shape = tuple(x.shape) if built is None else _run.known_shape(x, built)
        layout = self.bind(shape, dtype)
        wanted = None
        if self.from_y_true:
            wanted = self._get(in_shape_of(as_tensor(y_true, dtype), x), shape)
        return Chosen(self, x, self._get(x, shape), wanted, _rows(layout))

    def _get(self, x: Tensor, shape: Shape | None = None) -> Tensor:
        shape = tuple(x.shape) if shape is None else shape
        return _run.apply(self._edit(shape, "get"), x, shape)

    def residual(self, chosen: Tensor, wanted: Tensor | None = None) -> tuple[Tensor, Any]:
        """By how much elements exceed their target; negative if they are below it.

        Args:
            chosen: The elements, with a shape that ends in that of `sample[index]`.
            wanted: The elements of `y_true`, if that is the target.

        Returns:
            The residuals, 0 for free elements; and which elements are not free, as
            a boolean tensor that broadcasts to them, or None for all.
        """
        if self.is_interval:
            sides = [
                (sign, side) for sign, side in zip((1, -1), self.excesses(chosen), strict=True)
            ]
            over = [sign * ops.relu(side[0]) for sign, side in sides if side is not None]
            return sum(over[1:], over[0]), either([side[1] for _, side in sides if side])
        if wanted is None:
            assert self._wanted is not None
            wanted, known = self._wanted.tensors(chosen)
        else:
            known = ops.logical_not(ops.isnan(wanted))
            wanted = ops.where(known, wanted, ops.zeros_like(wanted))
        return _difference(chosen, wanted, known, 0), known

    def excesses(self, chosen: Tensor) -> tuple[Any, Any]:
        """By how much elements are above `upper` and below `lower`; negative inside.

        Each is None without such a bound, or a pair: the excesses, -1 for
        elements without the bound; and which elements have it, or None for all.
        """
        above = below = None
        if self._ceiling is not None:
            ceiling, has_one = self._ceiling.tensors(chosen)
            above = _difference(chosen, ceiling, has_one, -1), has_one
        if self._floor is not None:
            floor, has_one = self._floor.tensors(chosen)
            below = _difference(floor, chosen, has_one, -1), has_one
        return above, below


class _Part(NamedTuple):
    """A constant, with 0 where it is absent; and where it is present, or None for everywhere."""

    value: Any
    present: Array | None

    @classmethod
    def of(cls, value: Any, is_absent: Callable[[Any], Any]) -> "_Part | None":
        if value is None:
            return None
        absent = is_absent(_array(value))
        if not absent.any():
            return cls(value, None)
        return cls(Array.of(np.where(absent, 0, _array(value))), Array.of(~absent))

    def tensors(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
        value = _run.constant(self.value, keras.backend.standardize_dtype(like.dtype))
        return value, None if self.present is None else _run.constant(self.present, "bool")


def either(masks: list[Tensor | None]) -> Tensor | None:
    """Where any of the masks is True; a mask of None is True everywhere."""
    known = [mask for mask in masks if mask is not None]
    if len(known) < len(masks):
        return None
    return known[0] if len(known) == 1 else ops.logical_or(*known)


class Chosen(NamedTuple):
    """The chosen elements of a batch.

    Attributes:
        by: The target that chose them.
        x: The batch.
        elements: The chosen elements, of shape `(batch_size, *sample[index].shape)`.
        wanted: The chosen elements of `y_true`, if that is the target.
        rows: Number of leading axes of `x`, with the batch, that index its rows.
    """

    by: Target
    x: Tensor
    elements: Tensor
    wanted: Tensor | None
    rows: int

    def residual(self) -> tuple[Tensor, Tensor | None]:
        """See `Target.residual`."""
        return self.by.residual(self.elements, self.wanted)

    def weights(self, weights: Any) -> Tensor:
        """Weights for the chosen elements, from those of samples, timesteps or elements.

        They broadcast to the chosen elements.
        """
        weights = spread(weights, self.x)
        if any([size != 1 for size in weights.shape[self.rows :]]):
            return self.by._get(ops.broadcast_to(weights, ops.shape(self.x)))
        ones = [1] * (len(self.elements.shape) - self.rows)
        return ops.reshape(weights, (*ops.shape(weights)[: self.rows], *ones))


def _rows(layout: Layout) -> int:
    """Number of leading axes, except the last, that an index leaves whole and in place.

    The last axis is one row, as in Keras's losses, which return one value for each
    row: with shape `(batch_size, timesteps, channels)`, one for each timestep.
    """
    merged = range(layout.start, layout.start + layout.merged)
    rows = 1
    for axis, pick in enumerate(layout.picks[1 : len(layout.shape) - 1], start=1):
        in_place = axis not in merged and layout.order[axis] == axis and pick.dims == (axis,)
        if not (in_place and pick.is_whole):
            break
        rows += 1
    return rows


def selection_of(index: Any) -> Selection:
    """The elements that an index inside one sample, or `sample[...]` itself, selects."""
    if isinstance(index, Place):
        index = index.selection
    selection = index if isinstance(index, Selection) else Selection("sample", Index(index))
    if selection.condition is not None or selection.index.leaves():
        raise OperandError(
            "Positions should be known beforehand, and the same for every sample. Received: "
            f"`{selection!r}`. Drop `.where(...)`, and write tensors as arrays."
        )
    selection.check_rows()
    return selection


def selection_to_json(selection: Selection) -> dict[str, Any]:
    """A selection as data for JSON."""
    return {"coordinates": selection.coordinates, "items": selection.index.to_json()}


def selection_from_json(data: Any) -> Selection:
    """The selection that `selection_to_json` wrote."""
    fields = check_fields("A saved selection", data, {"coordinates": str, "items": list})
    check_one_of("coordinates", fields["coordinates"], ("at", "sample"))
    return Selection(fields["coordinates"], Index.from_json(fields["items"]))


def _value(data: Any) -> Any:
    """Load a number or an array from a config, or None."""
    value = None if data is None else from_json(data)
    if isinstance(value, Slot):
        raise refused("A target should be a number or an array", data)
    return value


def as_tensor(x: Any, dtype: Any) -> Tensor:
    """Convert an argument of a loss to a tensor, with an error of kedit for a ragged list."""
    if isinstance(x, (list, tuple)) and not holds_tensor(x):
        x = as_array(x)
    return ops.convert_to_tensor(x, dtype=dtype)


def wide(dtype: str) -> str:
    """The dtype to compute in: the square of 300 is too large for float16."""
    return str(keras.backend.result_type(dtype, "float32"))


def in_shape_of(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """`y_true` in the shape of `y_pred`, from which it may differ by a last axis of size 1."""
    given, wanted = tuple(y_true.shape), tuple(y_pred.shape)
    if given == wanted[: len(given)] and wanted[len(given) :] == (1,):
        return ops.expand_dims(y_true, -1)
    if wanted == given[: len(wanted)] and given[len(wanted) :] == (1,):
        return ops.squeeze(y_true, -1)
    fits = len(given) == len(wanted) and all(
        [None in (a, b) or a == b for a, b in zip(given, wanted, strict=False)]
    )
    if not fits:
        raise ShapeError(
            f"`y_true` should have the shape of `y_pred`. Received: {given} and {wanted}."
        )
    return y_true


def spread(weights: Any, x: Tensor) -> Tensor:
    """Weights of samples, timesteps or elements, with as many axes as `x`."""
    weights = as_tensor(weights, x.dtype)
    given, rank = tuple(weights.shape), len(x.shape)
    sizes = zip(given, tuple(x.shape), strict=False)
    if len(given) > rank or any([a not in (1, b) and None not in (a, b) for a, b in sizes]):
        raise ShapeError(
            "`sample_weight` should hold one weight for each sample, shape (batch_size,), each "
            f"timestep or each element. Received: shape {given} for {tuple(x.shape)}."
        )
    for _ in range(rank - len(given)):
        weights = ops.expand_dims(weights, -1)
    return weights


class _Ones(keras.losses.Loss):
    """A loss of 1 for every row, which Keras multiplies by the mask."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        self.ones = ops.ones_like(y_pred[..., :1])
        return self.ones


def mask_of(y_pred: Tensor) -> Tensor | None:
    """The Keras mask of a prediction as numbers, for `spread`; None without one.

    Keras has no public way to ask for a mask, but applies it to a loss.
    """
    probe = _Ones("rows", reduction=None)
    mask = probe(y_pred, y_pred)
    return None if mask is probe.ones else mask


def _constant(name: str, value: Any) -> Any:
    constant = None if value is None else freeze(value)
    if is_tensor(constant):
        raise OperandError(
            f"`{name}` should be a number or an array that is known beforehand. Received: "
            f"{value!r}. Write `keras.ops.convert_to_numpy({name})`."
        )
    return constant


def _array(value: Any) -> Any:
    return value.array if isinstance(value, Array) else np.asarray(value)


def _difference(left: Tensor, right: Tensor, known: Tensor | None, free: int) -> Tensor:
    difference = left - right
    if known is None:
        return difference
    return ops.where(known, difference, ops.full_like(difference, free))
