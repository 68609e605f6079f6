"""A model that computes with edited weights."""

import inspect
from typing import Any

import keras
from keras import ops

from kedit import _lowering
from kedit._casting import kind
from kedit._edit import Edit, EditSequence
from kedit._types import Shape, Tensor
from kedit.constraints._edit_constraint import check_weight_edit
from kedit.errors import OperandError


@keras.saving.register_keras_serializable(package="kedit")
class WeightEditing(keras.Model):
    """Computes what a layer or a model computes, with edits applied to its weights.

    The edits are part of the computation: whatever an optimizer does to a weight
    underneath, be it momentum, weight decay or the averages of `use_ema`, what is
    computed with is the edited weight, and elements that an edit sets receive no
    gradient. The weights are shared with `base`, which is left as it is. It can be
    trained and saved as a model, and stand in another model as a layer.

    Args:
        base: Layer or model of any kind that takes one argument, which may be a
            structure of tensors.
        edits: For each weight to edit its name, and a `kedit.Edit` or
            `kedit.EditSequence`, counted by `at[...]`. A name is the end of
            the weight's `path`, as "kernel" or "dense/kernel".
        **kwargs: Keyword arguments of `keras.Model`, as `name`.

    Call arguments:
        inputs: What `base` takes.
        training: Whether the model is being trained; Keras passes it.

    Input shape:
        That of `base`.

    Output shape:
        That of `base`.

    Raises:
        kedit.errors.OperandError: If there is no such weight, or several; if it is
            quantized, or LoRA is added to it, so that an edit would not hold.
        kedit.errors.EditError: If an edit does not fit its weight.

    Gradient:
        That of `base` at the edited weights, and of the edits. A regularizer sees
        the weights as they are stored.

    Example:
    >>> base = keras.layers.Dense(2, kernel_initializer="ones")
    >>> model = kedit.interventions.WeightEditing(base, {"kernel": kedit.at[0, 1].set(5.0)})
    >>> ops.convert_to_numpy(model(ops.ones((1, 3)))).tolist()
    [[3.0, 7.0]]
    >>> ops.convert_to_numpy(base.kernel).tolist()
    [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """

    def __init__(
        self, base: keras.layers.Layer, edits: dict[str, Edit | EditSequence], **kwargs: Any
    ) -> None:
        if not isinstance(base, keras.layers.Layer):
            raise OperandError(
                "Weights that are edited should be those of a layer or a model. Received: "
                f"{base!r}. Write `WeightEditing(model, {{'dense/kernel': at[0].set(0.0)}})`."
            )
        for edit in edits.values():
            check_weight_edit(edit)
        # What is read of the weights here is handed on as it is.
        super().__init__(**{"dtype": base.dtype_policy, "autocast": False, **kwargs})
        self.base = base
        self.edits = dict(edits)
        self.supports_masking = base.supports_masking
        if base.built:
            self._targets()
            self.built = True
            for variable in base.trainable_variables:
                # After `use_ema` a weight may share its buffer with the average of an optimizer
                # that does not train it any more, and would lose it to the one that does.
                variable.assign(ops.copy(variable))

    def build(self, input_shape: Shape) -> None:
        if not self.base.built:
            self.base.build(input_shape)
        self._targets()

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        targets, variables = self._targets(), self.base.variables
        values = [_edited(v, targets[id(v)]) if id(v) in targets else v for v in variables]
        state = list(zip(variables, values, strict=True))
        takes_training = "training" in inspect.signature(self.base.call).parameters
        options = {"training": training} if takes_training else {}
        with keras.StatelessScope(state, collect_losses=True) as scope:
            before = [scope.get_current_value(v) for v in variables]
            outputs = self.base(inputs, **options)
            after = [scope.get_current_value(v) for v in variables]
        for variable, old, new in zip(variables, before, after, strict=True):
            if new is not old:  # as a moving average
                variable.assign(new)
        for loss in scope.losses:
            self.add_loss(ops.copy(loss))  # Keras knows losses by identity
        return outputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.base.compute_output_shape(input_shape)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        return self.base.compute_output_spec(inputs)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return self.base.compute_mask(inputs, previous_mask)

    def weight(self, name: str) -> Tensor:
        """A weight as the model computes with it, edited if it is one of those edited."""
        variable = find_weight(self.base, name)
        edit = self._targets().get(id(variable))
        return ops.convert_to_tensor(variable) if edit is None else _edited(variable, edit)

    def bake(self) -> keras.layers.Layer:
        """Write the edited weights into `base`, which computes the same from then on.

        Returns:
            `base`.
        """
        for name in self.edits:
            find_weight(self.base, name).assign(self.weight(name))
        return self.base

    def _targets(self) -> dict[int, Any]:
        """The edit of each weight, by identity."""
        targets: dict[int, Any] = {}
        paths = {variable.path for variable in self.base.variables}
        for name, edit in self.edits.items():
            variable = find_weight(self.base, name)
            dtype = keras.backend.standardize_dtype(variable.dtype)
            owner, _, own_name = variable.path.rpartition("/")
            lora = f"{owner}/lora_{own_name}_a".lstrip("/") in paths
            if lora or kind(dtype) < 2:
                raise OperandError(
                    "A weight that is edited should be neither quantized nor added to by LoRA, "
                    f"which go past the edit. Received: {variable.path!r} of dtype {dtype!r}"
                    f"{' with LoRA' if lora else ''}. Write the edit into the layer first: "
                    "`model.bake()`."
                )
            if id(variable) in targets:
                raise OperandError(
                    f"A weight should have one edit. Received: two for {variable.path!r}. Join "
                    "them: `first | second`."
                )
            for part in edit.edits:
                _lowering.check(part, tuple(variable.shape), dtype)
            targets[id(variable)] = edit
        return targets

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        edits = {name: serialize(edit) for name, edit in self.edits.items()}
        return {**super().get_config(), "base": serialize(self.base), "edits": edits}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "WeightEditing":
        deserialize = keras.saving.deserialize_keras_object
        base = deserialize(config["base"], custom_objects=custom_objects)
        edits = {name: deserialize(edit) for name, edit in config["edits"].items()}
        return cls(**{**config, "base": base, "edits": edits})


def _edited(variable: Any, edit: Any) -> Tensor:
    value = ops.convert_to_tensor(variable)
    for part in edit.edits:
        value = _lowering.apply(part, value)
    return value


def find_weight(base: keras.layers.Layer, name: str) -> Any:
    """The one weight of a layer or a model whose path ends in `name`."""
    found = [v for v in base.weights if f"/{v.path}".endswith(f"/{name}")]
    if len(found) != 1:
        paths = [variable.path for variable in base.weights]
        fix = "Build it first: call it once" if not base.built else "Write more of its path"
        raise OperandError(
            f"A name should be the end of one weight's path. Received: {name!r}, which is that of "
            f"{len(found)} among {paths}. {fix}."
        )
    return found[0]
