"""Edit weights once: new values now, and the old ones back when they are wanted."""

from collections.abc import Mapping
from typing import Any

import keras

from kedit import _run
from kedit._edit import Edit, EditSequence, check_weight_edit
from kedit._run import ops
from kedit.errors import OperandError
from kedit.weights._names import find_weights, weights_in


class WeightChange:
    """What `edit_weights` changed; in a `with` block, the change lasts as long as the block.

    Attributes:
        weights: The names of the weights that were changed.
    """

    def __init__(self, changes: list[tuple[str, Any, Any]]) -> None:
        self.weights = tuple([name for name, _, _ in changes])
        self._changes = changes

    def undo(self) -> None:
        """Assign the values that the weights had before. A second call does it again."""
        for _, variable, before in self._changes:
            variable.assign(before)

    def __enter__(self) -> "WeightChange":
        return self

    def __exit__(self, *error: Any) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"<WeightChange of {', '.join(self.weights)}>"


def edit_weights(
    model: keras.layers.Layer, edits: Mapping[Any, Edit | EditSequence]
) -> WeightChange:
    """Edit weights once, in place.

    The weights keep training from their new values: use it to initialize, to set the
    rows of new tokens, or to try a change. To hold elements, use `freeze_elements`.

    Args:
        model: Layer or model that is built. Of a `WeightEditing`, the stored weights
            change, and its own edits still apply.
        edits: Dict from weights to a `kedit.Edit` or `kedit.EditSequence` in `at[...]`.
            Weights are named as for `freeze_elements`. If several names mean one weight,
            its edits are applied one after the other.

    Returns:
        `WeightChange`: its method `undo()` assigns the old values. In
        `with edit_weights(model, edits):`, they come back at the end of the block.

    Raises:
        kedit.errors.OperandError: If a name stands for no weight or, without a pattern,
            for several.
        kedit.errors.EditError: If an edit does not fit its weight. Then no weight is
            changed.

    Gradient:
        None: the values are assigned.

    Example:
    >>> layer = keras.layers.Dense(2, kernel_initializer="ones")
    >>> layer.build((None, 2))
    >>> change = kedit.weights.edit_weights(layer, {"kernel": kedit.at[0].set(0.0)})
    >>> ops.convert_to_numpy(layer.kernel).tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    >>> change.undo()
    >>> ops.convert_to_numpy(layer.kernel).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    if not isinstance(model, keras.layers.Layer) or not isinstance(edits, Mapping):
        raise OperandError(
            "`edit_weights` should be given a model and a dict from names to edits. Received: "
            f"{type(model).__name__} and {type(edits).__name__}. Write "
            "`edit_weights(model, {'dense/kernel': at[0].set(0.0)})`."
        )
    for edit in edits.values():
        check_weight_edit(edit)
    table = weights_in(model)
    found = [
        (named, edit) for name, edit in edits.items() for named in find_weights(model, name, table)
    ]
    changed: dict[int, tuple[str, Any, Any]] = {}
    for named, edit in found:
        variable = named.variable
        name, _, value = changed.get(id(variable), (named.address, variable, None))
        value = ops.copy(ops.convert_to_tensor(variable)) if value is None else value
        for part in edit.edits:
            value = _run.apply(part, value)
        changed[id(variable)] = (name, variable, value)
    changes = [
        (name, variable, ops.convert_to_numpy(variable).copy())
        for name, variable, _ in changed.values()
    ]
    for _, variable, value in changed.values():
        variable.assign(value)
    return WeightChange(changes)
