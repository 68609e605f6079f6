"""An edit in a functional model: one node of the graph, which can be saved and loaded."""

from typing import Any

import keras

from kedit._language.constants import Slot
from kedit._language.decoding import check_fields, loading, refused
from kedit._language.types import Shape, Tensor
from kedit._plan.check import Edit, check
from kedit._plan.plan import keep
from kedit._run import cast, tensors, tf_data
from kedit.errors import OperandError, SavingError


@keras.saving.register_keras_serializable(package="kedit")
class EditOperation(keras.Operation):
    """Operation that applies an edit to a `KerasTensor`; named after the edit's operation.

    Args:
        edit: The edit, with a `Slot` in place of each tensor.
        name: Name of the node. Defaults to the operation and a number.

    Call arguments:
        x: The tensor to edit.
        *tensors: The tensors that the slots stand for.
    """

    def __init__(self, edit: Any, name: str | None = None) -> None:
        super().__init__(name=name or _unique_name(f"edit_{edit.op}"))
        self.edit = edit
        self._shape: Shape | None = None

    def call(self, x: Tensor, *given: Tensor) -> Tensor:
        edit = fill(self.edit, given) if given else self.edit
        return tf_data.run(tensors.apply, (x, *given), edit, x, self._shape, True)

    def compute_output_spec(self, x: Any, *tensors: Any) -> keras.KerasTensor:
        count = _count_slots(self.edit)
        if count != len(tensors):
            raise SavingError(
                "An edit of a model should be given a tensor for each of its slots, "
                f"{count}. Received: {len(tensors)} tensors. Save the model "
                "again, and leave it as it is."
            )
        shape = tuple(x.shape)
        bound: Any = self.edit._plans.get((shape, x.dtype))
        if bound is None:
            edit: Edit = fill(self.edit, tensors) if tensors else self.edit
            bound = check(edit, shape, cast.dtype_of(x))
            if not tensors:
                keep(self.edit._plans, (shape, x.dtype), bound)
        if self._shape is None:  # a model that is called again keeps the meaning it was built with
            self._shape = shape
        shape = bound.selected if self.edit.op == "get" else shape
        return keras.KerasTensor(shape, dtype=x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {"edit": keras.saving.serialize_keras_object(self.edit), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "EditOperation":
        with loading("A saved edit of a model", config):
            fields = check_fields("A saved edit of a model", config, _FIELDS)
            edit = check_fields("A saved edit", fields["edit"], _EDIT, {"shared_object_id": int})
            # By name, because `Edit` is above this file in the import order. Edits hold slots here.
            kind = keras.saving.get_registered_object("kedit>Edit")
            if (edit["registered_name"], edit["class_name"]) != ("kedit>Edit", "Edit"):
                raise refused("A saved edit of a model should hold a `kedit.Edit`", edit)
            return cls(kind.open_from_config(edit["config"]), name=fields["name"])


_FIELDS: dict[str, Any] = {"edit": dict, "name": str}
_EDIT: dict[str, Any] = {
    "module": (str, type(None)),
    "class_name": str,
    "config": dict,
    "registered_name": str,
}


def call_node(edit: Any, x: Any) -> Any:
    """Add a node to the graph that `x` or a tensor of the edit belongs to."""
    tensors: list[Any] = []

    def take_out(tensor: Any) -> Any:
        _check_no_variable(tensor)
        tensors.append(tensor)
        return Slot(len(tensors) - 1)

    _check_no_variable(x)
    operation = EditOperation(edit.map(take_out))
    return operation(x, *tensors)


def _check_no_variable(tensor: Any) -> None:
    if isinstance(tensor, keras.Variable):
        raise OperandError(
            "A model does not keep a Variable that it only meets in an edit. Received: "
            f"{tensor.path!r}. Edit in a layer that owns the weight."
        )


def fill(edit: Any, tensors: Any) -> Any:
    """The edit with tensors put back in place of the slots."""
    return edit.map(lambda slot: tensors[slot.number] if isinstance(slot, Slot) else slot)


def _count_slots(edit: Any) -> int:
    found: list[Any] = []

    def look(leaf: Any) -> Any:
        found.append(leaf)
        return leaf

    edit.map(look)
    return len(found)


def _unique_name(prefix: str) -> str:
    number = keras.backend.get_uid(prefix)
    return prefix if number == 1 else f"{prefix}_{number - 1}"
