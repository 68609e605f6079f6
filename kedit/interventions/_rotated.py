"""An operand that mixes a learned subspace of one activation with the rest of another."""

from typing import Any

import keras

from kedit._edit import Edit
from kedit._language.decoding import check_fields, check_same, loading, refused
from kedit._language.trainable import Trainable, describe, described
from kedit._language.types import Shape, Tensor
from kedit._run import ops
from kedit.errors import OperandError
from kedit.interventions._operands import OtherRun, RunOperand

_ROTATED: dict[str, Any] = {"source": dict, "rank": int, "basis": dict}


@keras.saving.register_keras_serializable(package="kedit")
class Rotated(RunOperand):
    """The activation, with its component in a learned subspace replaced by that of a source.

    For activation `x` and source `s`, it is `x + (s - x) Q Q^T` along the last axis.
    The columns of `Q` are orthonormal; they come from the QR decomposition of a learned
    weight of shape `(features, rank)`. `.set(Rotated(OtherRun(), rank=2))` is a
    distributed interchange intervention.

    Args:
        source: Where the values come from: `OtherRun()` or `BatchMean()`. Defaults to
            None: `OtherRun()`.
        rank: Number of dimensions of the subspace. Defaults to 1.
        initializer: Initial value of the weight: an array of shape `(features, rank)`,
            a Keras initializer or its name. Defaults to "orthogonal".

    Gradient:
        `x`, the source and the weight receive the gradient of the formula, which is
        computed in float32.

    References:
        A. Geiger, Z. Wu, C. Potts, T. Icard and N. D. Goodman, *Finding Alignments
        Between Interpretable Causal Variables and Distributed Neural
        Representations*, 2023, arXiv:2303.02536.

    Example:
    >>> kedit.sample[0].set(kedit.interventions.Rotated(rank=2))
    sample[0].set(Rotated(OtherRun(), rank=2))
    """

    __slots__ = ("basis", "rank", "source")
    owns_weight = True
    source: RunOperand
    rank: int
    basis: Trainable

    def __init__(
        self, source: RunOperand | None = None, rank: int = 1, initializer: Any = "orthogonal"
    ) -> None:
        source = OtherRun() if source is None else source
        if (
            not isinstance(source, RunOperand)
            or not source.is_whole
            or isinstance(source, Rotated)
            or getattr(source, "at", None) is not None
        ):
            raise OperandError(
                f"`source` should be `OtherRun()` or `BatchMean()`. Received: {source!r}."
            )
        if type(rank) is not int or rank < 1:
            raise OperandError(f"`rank` should be a positive int. Received: rank={rank!r}.")
        self._init(source=source, rank=rank, basis=Trainable(initializer, name="rotation"))

    def key(self) -> Any:
        return ("Rotated", self.source.key(), self.rank, self.basis.key())

    def __repr__(self) -> str:
        start = self.basis.initializer
        given = f", initializer={start!r}" if isinstance(start, str) else ", initializer=..."
        return f"Rotated({self.source!r}, rank={self.rank}{given if start != 'orthogonal' else ''})"

    def __reduce__(self) -> Any:
        return (Rotated.from_config, (self.get_config(),))

    def get_config(self) -> dict[str, Any]:
        basis = describe(self.basis)
        return {"source": describe(self.source), "rank": self.rank, "basis": basis}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Rotated":
        with loading("A saved Rotated", config):
            fields = check_fields("A saved Rotated", config, _ROTATED)
            # Check before making it: a Rotated in a Rotated could recurse without end.
            if fields["source"].get("placeholder") == "kedit>Rotated":
                raise refused("`source` should be `OtherRun()` or `BatchMean()`", fields["source"])
            source: Any = described(fields["source"])
            basis: Any = described(fields["basis"])
            made = cls(source, fields["rank"], basis.initializer)
            check_same("A saved Rotated", made.get_config(), config)
            return made

    def check(self, edit: Edit, shape: Shape, dtype: str) -> None:
        if (edit.op, edit.operand) != ("set", self):
            raise OperandError(
                f"A rotation should be written. Received: `{edit!r}`. Write `.set({self!r})`."
            )

    def add_to(self, layer: Any, shape: Shape, part: Any) -> Any:
        return self.basis.add_to(layer, (shape[-1], self.rank), layer.name_for("rotation"))

    def now(self, weight: Any) -> "Rotated":
        return Rotated(self.source, self.rank, ops.convert_to_numpy(weight))

    def names(self) -> tuple[list[str], list[str]]:
        return self.source.names()

    def value(self, x: Tensor, given: dict[str, Tensor], weight: Any) -> Tensor:
        basis, _ = ops.qr(ops.convert_to_tensor(weight))
        change = ops.cast(ops.subtract(self.source.value(x, given, None), x), "float32")
        change = ops.matmul(ops.matmul(change, basis), ops.transpose(basis))
        return ops.add(x, ops.cast(change, x.dtype))
