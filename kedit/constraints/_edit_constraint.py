"""A constraint that applies an edit to a weight."""

from typing import Any

import keras

from kedit import _run
from kedit._edit import Edit, EditSequence, check_weight_edit, edit_from_json
from kedit._language.decoding import check_fields, loading
from kedit._language.operations import OPERATIONS
from kedit._language.types import Tensor
from kedit._run import ops
from kedit._show.code import created
from kedit.errors import OperandError

_REPEATABLE = tuple([row.name for row in OPERATIONS.values() if row.repeats])


@keras.saving.register_keras_serializable(package="kedit")
class EditConstraint(keras.constraints.Constraint):
    """Applies an edit to a weight after every step of the optimizer.

    Pass it as `kernel_constraint` or a similar argument of a layer.
    `at.where(mask).set(0.0)` holds elements at 0, and `at[:, 0].max(0.0)` keeps a
    column from becoming negative, whatever momentum or weight decay do. A weight has no
    batch axis: write `at[...]`.

    Keras applies a constraint after each step, but not before the first one: choose an
    initializer that satisfies it, or call the constraint once. Keras does not apply it
    to the averages of an optimizer with `use_ema=True`, which replace the weights
    when `fit` ends, on a layer that is already built, or in a training loop without a
    Keras optimizer. `kedit.weights.freeze_elements` works in all three cases.

    Args:
        edit: `kedit.Edit` or `kedit.EditSequence` of `set`, `min`, `max` or
            `apply`. Repeating the edit must change nothing.

    Call arguments:
        w: The weight.

    Returns:
        Tensor with the shape and dtype of the weight.

    Raises:
        kedit.errors.CoordinateError: If the edit is counted inside a sample.
        kedit.errors.OperandError: If the edit holds a `Trainable`, or repeating it
            would change the result.
        kedit.errors.EditError: If the edit does not fit the weight.

    Gradient:
        None: the constraint is applied outside the differentiated computation.

    Example:
    >>> constraint = kedit.constraints.EditConstraint(kedit.at[0, 1].set(0.0))
    >>> layer = keras.layers.Dense(2, kernel_constraint=constraint)
    >>> ops.convert_to_numpy(constraint(ops.ones((2, 2)))).tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    """

    def __init__(self, edit: Edit | EditSequence) -> None:
        check_weight_edit(edit)
        for part in edit.edits:
            if part.op not in _REPEATABLE:
                raise OperandError(
                    "A constraint is applied after every step, so that its edit should give the "
                    f"same when it is repeated: {_REPEATABLE}. Received: `{part!r}`. To hold "
                    "elements at 0, write `.set(0.0)`."
                )
        self.edit = edit

    def __repr__(self) -> str:
        return created(self)

    def __call__(self, w: Tensor) -> Tensor:
        w = ops.convert_to_tensor(w)
        for edit in self.edit.edits:
            w = _run.apply(edit, w)
        return w

    def get_config(self) -> dict[str, Any]:
        return {"edit": keras.saving.serialize_keras_object(self.edit)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "EditConstraint":
        with loading("A saved EditConstraint", config):
            fields = check_fields("A saved EditConstraint", config, {"edit": dict})
            return cls(edit_from_json(fields["edit"]))
