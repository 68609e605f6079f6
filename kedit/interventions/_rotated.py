"""An operand that mixes a subspace of one activation with the rest of another."""

import math
from typing import Any

import keras

from kedit import _run
from kedit._at import at
from kedit._edit import Edit
from kedit._language.constants import (
    Array,
    freeze,
    from_json,
    is_scalar,
    shape_of,
    to_code,
    to_json,
)
from kedit._language.decoding import check_fields, check_same, loading, refused
from kedit._language.trainable import Trainable, describe, described
from kedit._language.types import Shape, Tensor
from kedit._run import ops
from kedit.constraints import EditConstraint
from kedit.errors import OperandError, ShapeError
from kedit.interventions._operands import OtherRun, RunOperand, plain

_ROTATED: dict[str, Any] = {"source": (dict, int, float), "rank": int, "basis": dict}
_SOFT: dict[str, Any] = {"boundary": dict, "temperature": float}
_FROM_0_TO_1 = EditConstraint(at[...].max(0.0) | at[...].min(1.0))


@keras.saving.register_keras_serializable(package="kedit")
class Rotated(RunOperand):
    """The activation, with its component in a subspace replaced by that of a source.

    For activation `x` and source `s`, it is `x + (s - x) Q Q^T` along the last axis. The
    columns of `Q` are orthonormal; they come from the QR decomposition of a weight of
    shape `(features, rank)`. Some uses:

    - `Rotated(OtherRun(), rank=2)` is a distributed interchange intervention, whose
      subspace is learned.
    - `Rotated(OtherRun(), initializer=basis, trainable=False)` exchanges a subspace that
      is known, such as one of `principal_components`.
    - `Rotated(0.0, initializer=basis, trainable=False)` removes the subspace, and
      `Rotated(mean, ...)` sets it to that of a mean.
    - `Rotated(OtherRun(), rank=64, temperature=50.0)` also learns how many of the 64
      dimensions to exchange: boundless distributed alignment search. It is
      `x + (s - x) Q diag(m) Q^T`, where `m[k] = sigmoid((64 * b - k - 0.5) / t)` for a
      learned `b` from 0 to 1 and a temperature `t`. For `t` towards 0 it exchanges the
      first `round(64 * b)` dimensions. Let `t` sink while the model is trained: the
      variables in `edited.values(site)` are the weight, `b` and `t`, which nothing but
      `assign` changes.

    Args:
        source: Where the values come from: `OtherRun()`, `BatchMean()`, a number, or an
            array that broadcasts to the activation of one sample. Defaults to None:
            `OtherRun()`.
        rank: Number of dimensions of the subspace. Defaults to None: that of the array to
            start from, else 1.
        initializer: Initial value of the weight: an array of shape `(features, rank)`,
            a Keras initializer or its name. Defaults to "orthogonal".
        trainable: Whether the weight is trained. Defaults to True.
        temperature: Initial temperature of a soft boundary, a positive number. Defaults
            to None: all `rank` dimensions are exchanged.
        boundary: Initial share of the dimensions to exchange, from 0 to 1, or a
            `kedit.Trainable` of shape `()`, for example with a regularizer. Used if there
            is a temperature. Defaults to 0.5.

    Raises:
        kedit.errors.OperandError: If an argument is invalid.
        kedit.errors.ShapeError: If `rank` is not that of the array; when the edit is
            built, if there are fewer features than dimensions, or the source does not
            broadcast.

    Gradient:
        `x`, the source, the weight and `b` receive the gradient of the formula, which is
        computed in float32. The temperature receives none.

    References:
        - A. Geiger, Z. Wu, C. Potts, T. Icard and N. D. Goodman, *Finding Alignments
          Between Interpretable Causal Variables and Distributed Neural
          Representations*, 2023, arXiv:2303.02536.
        - Z. Wu, A. Geiger, T. Icard, C. Potts and N. D. Goodman, *Interpretability at
          Scale: Identifying Causal Mechanisms in Alpaca*, 2023, arXiv:2305.08809, for the
          boundary. Here it has one side, and lies between two dimensions.
        - S. Ravfogel, Y. Elazar, H. Gonen, M. Twiton and Y. Goldberg, *Null It Out:
          Guarding Protected Attributes by Iterative Nullspace Projection*, 2020,
          arXiv:2004.07667, for removing a subspace.

    Example:
    >>> kedit.sample[0].set(kedit.interventions.Rotated(rank=2))
    sample[0].set(Rotated(OtherRun(), rank=2))
    >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(1.0, name="h")])
    >>> rotated = kedit.interventions.Rotated(0.0, initializer=[[1.0], [1.0]], trainable=False)
    >>> edited = kedit.interventions.edit_model(base, {"h": kedit.sample[...].set(rotated)})
    >>> ops.convert_to_numpy(edited(np.array([[5.0, 1.0]]))).round(3).tolist()
    [[2.0, -2.0]]
    """

    __slots__ = ("basis", "boundary", "rank", "source", "temperature")
    owns_weight = True
    source: Any
    rank: int
    basis: Trainable
    boundary: Trainable | None
    temperature: float | None

    def __init__(
        self,
        source: Any = None,
        rank: int | None = None,
        initializer: Any = "orthogonal",
        trainable: bool = True,
        temperature: float | None = None,
        boundary: float | Trainable = 0.5,
    ) -> None:
        basis = Trainable(initializer, name="rotation", trainable=trainable)
        start = basis.initializer
        shape = start.shape if isinstance(start, Array) else (0, rank)
        if len(shape) != 2 or rank not in (None, shape[1]):
            raise ShapeError(
                "An array for a rotation should be of shape (features, rank). Received: shape "
                f"{shape}, rank={rank!r}. Write "
                "`Rotated(OtherRun(), initializer=principal_components(activations, rank=2))`."
            )
        if rank is None:
            rank = shape[1] or 1
        if type(rank) is not int or rank < 1:
            raise OperandError(f"`rank` should be a positive int. Received: rank={rank!r}.")
        self._init(
            source=_source(source),
            rank=rank,
            basis=basis,
            boundary=None if temperature is None else _boundary(boundary),
            temperature=None if temperature is None else _temperature(temperature),
        )

    def key(self) -> Any:
        source = self.source.key() if isinstance(self.source, RunOperand) else to_code(self.source)
        boundary = None if self.boundary is None else self.boundary.key()
        return ("Rotated", source, self.rank, self.basis.key(), boundary, self.temperature)

    def __repr__(self) -> str:
        source, start, boundary = self.source, self.basis.initializer, self.boundary
        given = [repr(source) if isinstance(source, RunOperand) else to_code(source)]
        given += [f"rank={self.rank}"]
        if start != "orthogonal":
            given += [f"initializer={start!r}" if isinstance(start, str) else "initializer=..."]
        given += [] if self.basis.trainable else ["trainable=False"]
        given += [] if self.temperature is None else [f"temperature={self.temperature!r}"]
        if boundary is not None and boundary != _share(0.5):
            is_plain = boundary == _share(boundary.initializer)
            given += [f"boundary={boundary.initializer if is_plain else boundary!r}"]
        return f"Rotated({', '.join(given)})"

    def __reduce__(self) -> Any:
        return (Rotated.from_config, (self.get_config(),))

    def get_config(self) -> dict[str, Any]:
        source = self.source
        config = {
            "source": describe(source) if isinstance(source, RunOperand) else to_json(source),
            "rank": self.rank,
            "basis": describe(self.basis),
        }
        if self.boundary is not None:
            config |= {"boundary": describe(self.boundary), "temperature": self.temperature}
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Rotated":
        with loading("A saved Rotated", config):
            fields = check_fields("A saved Rotated", config, _ROTATED, _SOFT)
            source: Any = fields["source"]
            is_operand = isinstance(source, dict) and "placeholder" in source
            # Check before making it: a Rotated in a Rotated could recurse without end.
            if is_operand and source["placeholder"] not in _SOURCES:
                raise refused("`source` should be `OtherRun()` or `BatchMean()`", source)
            basis: Any = described(fields["basis"])
            made = cls(
                described(source) if is_operand else from_json(source),
                fields["rank"],
                basis.initializer,
                basis.trainable,
                fields.get("temperature"),
                described(fields["boundary"]) if "boundary" in fields else 0.5,  # type: ignore[arg-type]
            )
            check_same("A saved Rotated", made.get_config(), config)
            return made

    def check(self, edit: Edit, shape: Shape, dtype: str) -> None:
        if (edit.op, edit.operand) != ("set", self):
            raise OperandError(
                f"A rotation should be written. Received: `{edit!r}`. Write `.set({self!r})`."
            )
        features, start = shape[-1], self.basis.initializer
        known = start.shape[0] if isinstance(start, Array) else features
        if len(shape) < 2 or features is None or self.rank > features or known != features:
            raise ShapeError(
                "A rotation should be of at most as many dimensions as the activation has features "
                f"on its last axis, and an array for it of shape (features, rank). Received: "
                f"`{self!r}` for an activation of shape {shape}"
                f"{f', and {known} features' * isinstance(start, Array)}. Write `rank=1`."
            )
        if not isinstance(self.source, RunOperand):
            sizes = zip(reversed(shape_of(self.source)), reversed(shape[1:]), strict=False)
            if len(shape_of(self.source)) >= len(shape) or any([n not in (1, m) for n, m in sizes]):
                raise ShapeError(
                    "An array to take a subspace from should broadcast to the activation of one "
                    f"sample, of shape {shape[1:]}. Received: shape {shape_of(self.source)}. Write "
                    "`Rotated(activations.mean(axis=0), ...)`."
                )

    def add_to(self, layer: Any, shape: Shape, part: Any) -> Any:
        weight = self.basis.add_to(layer, (shape[-1], self.rank), layer.name_for("rotation"))
        if self.boundary is None:
            return weight, None, None
        boundary = self.boundary.add_to(layer, (), layer.name_for("boundary"))
        temperature = Trainable(self.temperature, trainable=False)
        return weight, boundary, temperature.add_to(layer, (), layer.name_for("temperature"))

    def now(self, weight: Any) -> "Rotated":
        basis, *soft = [ops.convert_to_numpy(part) for part in weight if part is not None]
        known = (self.source, self.rank, basis, self.basis.trainable)
        if self.boundary is None:
            return Rotated(*known)
        boundary, temperature = [part.item() for part in soft]
        return Rotated(*known, temperature, self.boundary.starting_from(boundary))

    def names(self) -> tuple[list[str], list[str]]:
        return self.source.names() if isinstance(self.source, RunOperand) else ([], [])

    def value(self, x: Tensor, given: dict[str, Tensor], weight: Any, piece: Any = None) -> Tensor:
        matrix, boundary, temperature = weight
        basis, _ = ops.qr(ops.cast(ops.convert_to_tensor(matrix), "float32"))
        dtype = keras.backend.standardize_dtype(x.dtype)
        if isinstance(self.source, RunOperand):
            source = self.source.value(x, given, None)
        else:
            source = _run.constant(self.source, dtype)
        # Not in half precision, in which a difference may be infinite.
        wide = "float64" if dtype == "float64" else "float32"
        old = ops.cast(x, wide)
        change = ops.matmul(ops.cast(ops.subtract(ops.cast(source, wide), old), "float32"), basis)
        if boundary is not None:
            # Halfway between two dimensions, so that a whole boundary is at none of them.
            places = ops.add(ops.arange(self.rank, dtype="float32"), 0.5)
            end = ops.multiply(ops.cast(ops.convert_to_tensor(boundary), "float32"), self.rank)
            heat = ops.cast(ops.convert_to_tensor(temperature), "float32")
            soft = ops.sigmoid(ops.divide(ops.subtract(end, places), ops.stop_gradient(heat)))
            change = ops.multiply(change, soft)
        change = ops.matmul(change, ops.transpose(basis))
        return ops.cast(ops.add(old, ops.cast(change, wide)), dtype)


_SOURCES = ("kedit>OtherRun", "kedit>BatchMean")


def _source(given: Any) -> Any:
    given = OtherRun() if given is None else given
    is_operand = keras.saving.get_registered_name(type(given)) in _SOURCES
    if is_operand and getattr(given, "at", None) is None:
        return given
    if not isinstance(given, (RunOperand, str, dict)) and not callable(given):
        source = freeze(given)
        if is_scalar(source) or isinstance(source, Array):
            return source
    raise OperandError(
        "`source` should be `OtherRun()`, `BatchMean()`, a number or an array. Received: "
        f"{given!r}. Write `Rotated(OtherRun(), rank=2)`."
    )


def _boundary(given: Any) -> Trainable:
    if isinstance(given, Trainable) and given.shape_for(()) == ():
        return given
    given = plain(given)
    if type(given) not in (int, float) or not 0 <= given <= 1:
        raise OperandError(
            "`boundary` should be a number from 0 to 1, or a `Trainable` of shape (). Received: "
            f"boundary={given!r}. Write `boundary=0.5`."
        )
    return _share(float(given))


def _share(value: Any) -> Trainable:
    return Trainable(value, constraint=_FROM_0_TO_1, name="boundary")


def _temperature(given: Any) -> float:
    given = plain(given)
    if type(given) not in (int, float) or not 0 < given < math.inf:
        raise OperandError(
            f"`temperature` should be a positive number. Received: temperature={given!r}. Write "
            "`temperature=50.0`."
        )
    return float(given)
