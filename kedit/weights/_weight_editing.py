"""A model that computes with edited weights."""

import inspect
from typing import Any

import keras

from kedit import _run
from kedit._addresses import addresses
from kedit._edit import Edit, EditSequence, check_weight_edit, edit_from_json
from kedit._language.decoding import check_keys
from kedit._language.dtypes import kind
from kedit._language.types import Shape, Tensor
from kedit._run import ops
from kedit.errors import OperandError
from kedit.weights._weight_chains import (
    EditsWeights,
    Scope,
    chain_of,
    edited,
    forget_compiled,
    passed_on,
    passing_on,
)


@keras.saving.register_keras_serializable(package="kedit")
class WeightEditing(keras.Model, EditsWeights):
    """Runs a layer or a model with edits applied to its weights.

    The edits are part of the computation. Whatever an optimizer does to a weight,
    through momentum, weight decay or the averages of `use_ema`, the model computes with
    the edited weight, and elements that an edit sets receive no gradient. The weights are
    shared with `base`, which is left unchanged. The result trains and saves like any
    model, and can be a layer of another model. If models are nested, the edits of the
    inner model are applied first.

    `weights` and `get_weights()` return the stored weights, `weight(name)` returns the
    weight that the model computes with, and `bake()` stores the edited weights.

    Args:
        base: Layer or model of any kind that takes one argument, which may be a
            structure of tensors.
        edits: Dict that maps the name of each weight to a `kedit.Edit` or
            `kedit.EditSequence` in `at[...]`. A name is the end of the weight's
            `path`, such as "kernel" or "dense/kernel".
        **kwargs: Keyword arguments of `keras.Model`, such as `name`.

    Call arguments:
        inputs: The inputs of `base`.
        training: Whether the model is being trained; Keras passes it.

    Input shape:
        Same as `base`.

    Output shape:
        Same as `base`.

    Raises:
        kedit.errors.OperandError: If no weight or several weights match a name, or if a
            weight is quantized or has LoRA, so that an edit would not hold.
        kedit.errors.EditError: If an edit does not fit its weight.

    Gradient:
        The gradient of `base` at the edited weights, and of the edits. A regularizer
        sees the stored weights.

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
        # The weights that are read here are passed on without a cast.
        super().__init__(**{"dtype": base.dtype_policy, "autocast": False, **kwargs})
        self.base = base
        self.edits = dict(edits)
        self.supports_masking = base.supports_masking
        if base.built:
            self._targets()
            self.built = True
            for variable in base.trainable_variables:
                # After `use_ema`, a weight may share its buffer with the average of an optimizer
                # that no longer trains it, and would lose it to the optimizer that does.
                variable.assign(ops.copy(variable))

    def build(self, input_shape: Shape) -> None:
        if not self.base.built:
            self.base.build(input_shape)
        self._targets()

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        targets, variables = self._targets(), self.base.variables
        passed = [passed_on(v, targets.get(id(v))) for v in variables]
        takes_training = "training" in inspect.signature(self.base.call).parameters
        options = {"training": training} if takes_training else {}
        scope = Scope(variables, [edited(*weight) for weight in passed])
        with scope, passing_on(scope, variables, passed):
            outputs = self.base(inputs, **options)
        scope.hand_over(self)
        return outputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.base.compute_output_shape(input_shape)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        return self.base.compute_output_spec(inputs)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return self.base.compute_mask(inputs, previous_mask)

    def weight(self, name: str) -> Tensor:
        """Return a weight as the model computes with it, after the edits of all inner models.

        Args:
            name: End of the weight's `path`.

        Raises:
            kedit.errors.OperandError: If no weight or several weights match `name`, or
                if layers that share the weight compute with different versions of it.
        """
        return weight_of(self, name)

    def bake(self) -> keras.layers.Layer:
        """Write the edited weights into the underlying model, and remove the edits.

        The model still computes the same, and all its weights train. If it is part of
        another model that is already compiled, compile that model again.

        Returns:
            `base`, or the model underneath if `base` is a `WeightEditing`.

        Raises:
            kedit.errors.OperandError: As for `weight`.
        """
        base: Any = self.base
        while isinstance(base, WeightEditing):
            base = base.base
        baked = [(variable, chain_of(self, variable)) for variable in base.variables]
        for variable, value in [(v, edited(v, chain)) for v, chain in baked if chain]:
            variable.assign(value)
        for layer in [base, *addresses(base).values()]:
            if isinstance(layer, WeightEditing):
                layer.edits = {}
        forget_compiled([self, *addresses(self).values()])
        return base

    def edit_of(self, variable: Any) -> Any:
        return self._targets().get(id(variable))

    def _targets(self) -> dict[int, Any]:
        """Return the edit of each weight, by `id`."""
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
                _run.check(part, tuple(variable.shape), dtype)
            targets[id(variable)] = edit
        return targets

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        edits = {name: serialize(edit) for name, edit in self.edits.items()}
        return {**super().get_config(), "base": serialize(self.base), "edits": edits}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "WeightEditing":
        check_keys("A saved WeightEditing", config, {"base": dict, "edits": dict})
        edits = {name: edit_from_json(edit) for name, edit in config["edits"].items()}
        deserialize = keras.saving.deserialize_keras_object
        base = deserialize(config["base"], custom_objects=custom_objects)
        return cls(**{**config, "base": base, "edits": edits})


def find_weight(base: keras.layers.Layer, name: str) -> Any:
    """Return the one weight of a layer or a model whose path ends in `name`."""
    found = [v for v in base.weights if f"/{v.path}".endswith(f"/{name}")]
    if len(found) != 1:
        paths = [variable.path for variable in base.weights]
        fix = "Build it first: call it once" if not base.built else "Write more of its path"
        raise OperandError(
            f"A name should be the end of one weight's path. Received: {name!r}, which is that of "
            f"{len(found)} among {paths}. {fix}."
        )
    return found[0]


def weight_of(base: keras.layers.Layer, name: str) -> Tensor:
    """Return the one weight whose path ends in `name`, as a layer or a model computes with it."""
    variable = find_weight(base, name)
    return ops.convert_to_tensor(edited(variable, chain_of(base, variable)))
