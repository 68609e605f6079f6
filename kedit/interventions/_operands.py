"""Operands that exist only in a run of a model: other runs, extra inputs, means."""

from typing import Any

import keras

from kedit._at import Place
from kedit._edit import Edit, EditSequence
from kedit._language.constants import Placeholder, is_array
from kedit._language.decoding import check_fields, check_same, loading, refused
from kedit._language.expression import Operators
from kedit._language.types import Shape, Tensor
from kedit._run import ops
from kedit.errors import OperandError


class RunOperand(Operators, Placeholder):
    """Base class of operands that get their value in a run of an edited model.

    Attributes:
        is_whole: Whether the value has the shape of the activation. If so, the edit
            reads the elements that it writes from it; if not, it broadcasts to the selection.
    """

    __slots__ = ()
    home = "an edited model"
    fix = "kedit.interventions.edit_model(model, {{address: {edit!r}}})"
    is_whole = True

    def value(self, x: Tensor, given: dict[str, Tensor], weight: Any, piece: Any = None) -> Tensor:
        """Return the value of the operand in a run.

        Args:
            x: The activation.
            given: Inputs of the model, by name; for another run, the same activation
                in that run.
            weight: What `add_to` has returned.
            piece: Which piece of the sequence the activation is; None for all of it.
        """
        raise NotImplementedError

    def part(self) -> Any:
        """Return what the layer of the edit holds for it whatever the activation is, or None.

        It is made with the layer, and tracked by it: a layer, or a generator of seeds.
        """

    def check(self, edit: Edit, shape: Shape, dtype: str) -> None:
        """Raise if it does not fit an edit of activations of a shape and a dtype."""

    def add_to(self, layer: Any, shape: Shape, part: Any) -> Any:
        """Add its weights to the layer of the edit, and return what `value` needs of the layer.

        Args:
            layer: The layer.
            shape: Shape of the activation, with None for the batch.
            part: What `part` has returned.
        """
        return part

    def now(self, weight: Any) -> "RunOperand":
        """Return the operand with the values that its weights have now."""
        return self

    def without_weights(self) -> "RunOperand":
        """Return the operand without values that the file of a model holds apart from it."""
        return self

    def inputs(self) -> list[int | str]:
        """Return the numbers or names of the inputs of the layer that it needs."""
        return []

    def check_input(self, edit: Edit, shape: Shape, given: Shape) -> None:
        """Raise if an input of shape `given` does not fit an edit of the output."""

    def names(self) -> tuple[list[str], list[str]]:
        """Return the names of the other runs and of the extra inputs that it needs."""
        return [], []


class _Named(RunOperand):
    """Base class of operands that a model receives by name."""

    __slots__ = ("name",)
    name: str

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name.isidentifier() or name == "inputs":
            raise OperandError(
                "The name of an extra input should be an identifier, and not 'inputs'. Received: "
                f"name={name!r}."
            )
        self._init(name=name)

    def key(self) -> Any:
        return (type(self).__name__, self.name)

    def __reduce__(self) -> Any:
        return (type(self), (self.name,))

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


@keras.saving.register_keras_serializable(package="kedit")
class OtherRun(_Named):
    """The activation at the same site when the model runs on other inputs.

    `sample[3].set(OtherRun())` patches position 3 with its activation in the other
    run, `sample[3].set(OtherRun(at=sample[5]))` with that of position 5. The edited
    model takes `{"inputs": ..., "other": ...}` and runs its base once more for each
    name. The other runs do not have the edits that are made with it; those of a model
    that was edited before they do have.

    Args:
        name: Name of the other inputs. Defaults to "other".
        at: Which elements to read, such as `sample[5]` or `sample[each(Fed("source"))]`.
            Their shape must broadcast to that of the elements that are written. Defaults
            to None: the same elements.

    Gradient:
        Also flows into the other run.

    Example:
    >>> kedit.sample[3].set(kedit.interventions.OtherRun(at=kedit.sample[5]))
    sample[3].set(OtherRun(at=sample[5]))
    """

    __slots__ = ("at",)
    at: Edit | None
    """The edit that reads the elements."""

    def __init__(self, name: str = "other", at: Place[Any] | None = None) -> None:
        super().__init__(name)
        has_place = isinstance(at, Place) and at.selection.condition is None
        read: Any = at.get() if at is not None and has_place else None
        if at is not None and not isinstance(read, Edit):
            raise OperandError(
                "`at` should be which elements of the other run to read, without a condition or "
                f"data. Received: at={at!r}. Write `OtherRun(at=sample[3])`."
            )
        self._init(at=read)

    def key(self) -> Any:
        return (*super().key(), None if self.at is None else self.at.selection.key())

    def __reduce__(self) -> Any:
        return (OtherRun, (self.name, self._place()))

    def _place(self) -> Any:
        return None if self.at is None else Place(self.at.selection)

    def __repr__(self) -> str:
        given = [] if self.name == "other" else [repr(self.name)]
        given += [] if self.at is None else [f"at={self.at.selection!r}"]
        return f"OtherRun({', '.join(given)})"

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return config if self.at is None else {**config, "at": self.at.get_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "OtherRun":
        with loading("A saved OtherRun", config):
            fields = check_fields("A saved OtherRun", config, {"name": str}, {"at": dict})
            at = fields.get("at")
            held = [] if at is None else at.get("trainables", [])
            # Check before making it: an OtherRun in an OtherRun could recurse without end.
            if not isinstance(held, list) or any([_kind_of(part) != "kedit>Fed" for part in held]):
                raise refused("`at` should hold no operand but `Fed`", held)
            place: Any = None if at is None else Place(Edit.from_config(at).selection)
            made = cls(fields["name"], place)
            check_same("A saved OtherRun", made.get_config(), config)
            return made

    def value(self, x: Tensor, given: dict[str, Tensor], weight: Any, piece: Any = None) -> Tensor:
        return given[self.name]

    def names(self) -> tuple[list[str], list[str]]:
        fed = [] if self.at is None else [held.name for held in self.at.placeholders()]
        return [self.name], fed


@keras.saving.register_keras_serializable(package="kedit")
class Fed(_Named):
    """An extra input of the edited model, with a value for every example.

    The edited model takes `{"inputs": ..., name: ...}`. The input has the batch axis
    first; its other axes broadcast to the selection in one sample. Floats are cast to
    the dtype of the activation. `sample[each(Fed("pos"))]` takes integers, the positions
    of each example: one each for an input of shape `(batch_size,)`, k each for
    `(batch_size, k)`.

    Args:
        name: Name of the input.

    Gradient:
        The gradient of the operation.

    Example:
    >>> kedit.sample[...].where(kedit.interventions.Fed("gate") > 0.0).set(0.0)
    sample.where(Fed('gate') > 0.0).set(0.0)
    """

    __slots__ = ()
    is_whole = False
    gives_positions = True

    def __repr__(self) -> str:
        return f"Fed({self.name!r})"

    def value(self, x: Tensor, given: dict[str, Tensor], weight: Any, piece: Any = None) -> Tensor:
        return given[self.name]

    def names(self) -> tuple[list[str], list[str]]:
        return [], [self.name]


@keras.saving.register_keras_serializable(package="kedit")
class BatchMean(RunOperand):
    """The mean of the same elements over the examples of the batch.

    `sample[..., 7].set(BatchMean())` replaces a unit by its mean. To use the mean of a
    whole dataset, compute it once and write `.set(mean)`.

    Gradient:
        Flows to every example, divided by the number of examples.

    Example:
    >>> kedit.sample[..., 7].set(kedit.interventions.BatchMean())
    sample[..., 7].set(BatchMean())
    """

    __slots__ = ()

    def key(self) -> Any:
        return ("BatchMean",)

    def __repr__(self) -> str:
        return "BatchMean()"

    def __reduce__(self) -> Any:
        return (BatchMean, ())

    def get_config(self) -> dict[str, Any]:
        return {}

    def value(self, x: Tensor, given: dict[str, Tensor], weight: Any, piece: Any = None) -> Tensor:
        return ops.broadcast_to(ops.mean(x, axis=0, keepdims=True), ops.shape(x))


def operands_in(edit: Edit | EditSequence) -> list[RunOperand]:
    """Return the operands in an edit that get their value in a run, with those that recur."""
    held = [placeholder for part in edit.edits for placeholder in part.placeholders()]
    return [placeholder for placeholder in held if isinstance(placeholder, RunOperand)]


def names_in(edit: Edit | EditSequence) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the other runs and of the extra inputs that an edit needs, sorted."""
    names = [operand.names() for operand in operands_in(edit)]
    runs = {name for of_one, _ in names for name in of_one}
    fed = {name for _, of_one in names for name in of_one}
    return tuple(sorted(runs)), tuple(sorted(fed))


def plain(value: Any) -> Any:
    """Return a number of NumPy, or an array with one number, as a number of Python."""
    return value.item() if is_array(value) and value.size == 1 else value


def _kind_of(data: Any) -> Any:
    return data.get("placeholder") if isinstance(data, dict) else None
