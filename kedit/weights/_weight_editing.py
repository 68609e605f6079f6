"""A model that computes with edited weights."""

import inspect
from collections.abc import Collection
from typing import Any

import keras
import numpy as np

from kedit import _run
from kedit._addresses import addresses
from kedit._edit import Edit, EditSequence, check_weight_edit, edit_from_json
from kedit._language.decoding import check_keys, loading, refused
from kedit._language.dtypes import kind
from kedit._language.types import Shape, Tensor
from kedit._run import ops
from kedit.errors import OperandError
from kedit.weights._exporting import Exporting, input_spec
from kedit.weights._importance import Rule
from kedit.weights._names import Address, Named, find_weight, find_weights, weights_in
from kedit.weights._sparsity import Sparsity, row_of
from kedit.weights._weight_chains import (
    EditsWeights,
    Scope,
    Step,
    chains_of,
    edited,
    forget_compiled,
    passed_on,
    passing_on,
)

HELD = 2
"""In a mask: an element that was frozen after the weight was pruned, which no schedule prunes."""


class _Known:
    """What was found for the names of a model; Keras does not look for weights in it."""

    key: Any = None
    found: Any = None
    table: Any = None
    addresses: Any = ()
    is_alone: Any = None


@keras.saving.register_keras_serializable(package="kedit")
class WeightEditing(Exporting, EditsWeights):
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
        edits: Dict that maps each weight to a `kedit.Edit` or `kedit.EditSequence` in
            `at[...]`. A weight is named by the end of its `path`, such as "kernel", by
            its layer and its own name, such as "dense/kernel", or by a pattern, such as
            `"*/kernel"`; see `freeze_elements`.
        rules: Which weights are pruned, and how; `prune` writes them. Defaults to ():
            none.
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
        self,
        base: keras.layers.Layer,
        edits: dict[Any, Edit | EditSequence],
        rules: Any = (),
        **kwargs: Any,
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
        self._known = _Known()
        self.edits = {_name_of(base, target): edit for target, edit in edits.items()}
        self.rules = tuple(rules)
        self.masks: dict[str, Any] = {}
        self.supports_masking = base.supports_masking
        if base.built:
            self._make_masks()
            self._targets()
            self.built = True
            for variable in base.trainable_variables:
                # After `use_ema`, a weight may share its buffer with the average of an optimizer
                # that no longer trains it, and would lose it to the optimizer that does.
                variable.assign(ops.copy(variable))

    def build(self, input_shape: Shape) -> None:
        if not self.base.built:
            if _is_built_by_calls(self.base):
                return  # until the inputs come, whose dtype it may need
            self.base.build(input_shape)
        self._make_masks()
        self._targets()

    def _build_base(self, inputs: Any) -> None:
        """Build a base that is built by its first call, by a call that leaves nothing else."""
        root = self.base
        while isinstance(root, EditsWeights):
            root = root.base
        if not root.built:
            with keras.StatelessScope():
                self.base(keras.tree.map_structure(_detached, inputs))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        self._build_base(inputs)
        targets, variables = self._targets(), self.base.variables
        passed = [passed_on(v, targets.get(id(v))) for v in variables]
        takes_training = "training" in inspect.signature(self.base.call).parameters
        options = {"training": training} if takes_training else {}
        weights = [edited(*p, tuple(v.shape)) for p, v in zip(passed, variables, strict=True)]
        scope = Scope(variables, weights)
        with scope, passing_on(scope, variables, passed):
            outputs = self.base(inputs, **options)
        scope.hand_over(self)
        return outputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.base.compute_output_shape(input_shape)

    def takes(self) -> Any:
        return input_spec(self.base)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        self._build_base(inputs)
        return self.base.compute_output_spec(inputs)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return self.base.compute_mask(inputs, previous_mask)

    def weight(self, name: Any) -> Tensor:
        """Return a weight as the model computes with it, after the edits of all inner models.

        Args:
            name: The weight: the end of its `path`, its layer and its own name, as in
                "dense/kernel", or the variable itself.

        Raises:
            kedit.errors.OperandError: If no weight or several weights match `name`, or
                if layers that share the weight compute with different versions of it.
        """
        self._targets()
        variable = find_weight(self, name, self._known.table).variable
        return ops.convert_to_tensor(edited(variable, self._chains()(variable)))

    def bake(self) -> keras.layers.Layer:
        """Write the edited weights into the underlying model, and remove the edits.

        The model still computes the same, and all its weights train. If it is part of
        another model that is already compiled, compile that model again. LoRA that was
        enabled before is added to the edited weights.

        Returns:
            `base`, or the model underneath if `base` is a `WeightEditing`.

        Raises:
            kedit.errors.OperandError: As for `weight`.
        """
        outer, base = [self], self.base
        while isinstance(base, WeightEditing):
            outer.append(base)
            base = base.base
        chain_of = chains_of(self)
        baked = [(variable, chain_of(variable)) for variable in base.variables]
        for variable, value in [(v, edited(v, chain)) for v, chain in baked if chain]:
            variable.assign(value)
        # Without all edits that were written, or models in between would repeat them.
        for layer in [*outer, *addresses(base).values()]:
            if isinstance(layer, WeightEditing):
                layer.edits = {}
                for mask in layer.masks.values():
                    mask.assign(ops.ones(tuple(mask.shape), "uint8"))
        forget_compiled([self, *addresses(self).values()])
        return base

    def sparsity(self) -> Sparsity:
        """Count the zeros in the weights that the model computes with.

        Returns:
            A tuple with a row `(weight, shape, zeros, total, share)` for each weight that is
            edited or pruned here, and with `zeros`, `total` and `share` of all weights of
            the model. It prints as a table.
        """
        self._targets()
        rows = []
        chain_of = chains_of(self)
        for found in find_weights(self, "*"):
            chain = chain_of(found.variable)
            value = ops.convert_to_tensor(edited(found.variable, chain))
            zeros = int(np.sum(ops.convert_to_numpy(ops.equal(value, ops.zeros_like(value)))))
            rows.append((bool(chain), row_of(found.address, tuple(value.shape), zeros)))
        return Sparsity([row for is_edited, row in rows if is_edited], [row for _, row in rows])

    # Keras calls these at the start of `fit`, `evaluate` and `predict`: before a function that
    # was compiled earlier passes over LoRA, and before JAX takes the values out of variables.

    def make_train_function(self, force: bool = False) -> Any:
        self._check_holds()
        return super().make_train_function(force)

    def make_test_function(self, force: bool = False) -> Any:
        self._check_holds()
        return super().make_test_function(force)

    def make_predict_function(self, force: bool = False) -> Any:
        self._check_holds()
        return super().make_predict_function(force)

    def _check_holds(self) -> None:
        if self.built and self.base.built:
            self._targets()

    def quantize(self, mode: Any = None, **kwargs: Any) -> None:
        """Quantize the model, as Keras does; kernels that are edited should be baked before.

        Args:
            mode: "int8", "int4", "float8" and so on.
            **kwargs: As of `keras.Model.quantize`.

        Raises:
            kedit.errors.OperandError: If a weight with two axes or more is edited or pruned,
                except with "float8", which sees the edited weights.
        """
        steps = {} if mode == "float8" else self.steps()
        for variable in self.base.variables:
            if id(variable) in steps and len(variable.shape) > 1:
                raise OperandError(
                    "A model should be baked before it is quantized, since integers go past the "
                    f"edits. Received: {self.name!r}, with edits of {variable.path!r}. Write "
                    '`model.bake().quantize("int8")`.'
                )
        super().quantize(mode, **kwargs)

    def prune_further(self, sparsity: float, *, regrow: bool = False) -> None:
        """Prune the weights that `prune` chose to another sparsity, in place.

        Compiled functions see the change, so that it may be called while the model
        trains, as `kedit.callbacks.PruningSchedule` does.

        Args:
            sparsity: Fraction of the elements of these weights that should be 0.
            regrow: Whether elements that were pruned may come back, with the values that
                they were pruned at. Defaults to False: what is pruned stays pruned.

        Raises:
            kedit.errors.OperandError: If the model is not pruned, or `sparsity` is out of
                range.
        """
        if not self.rules:
            raise OperandError(
                "A model that is pruned further should be pruned already. Received: "
                f"{self.name!r}, which has no pruned weights. Write `prune(model, '*/kernel', "
                "0.0)` first."
            )
        masks: dict[Any, Any] = {}
        chain_of = self._chains()
        for rule in self.rules:
            weights = {}
            for name in rule.weights:
                found = self._named()[1][name]
                chain = chain_of(found.variable)
                mask = ops.convert_to_numpy(self.masks[name])
                forced = np.where(mask == HELD, np.inf, 0.0)
                if not regrow:
                    forced[mask == 0] = -np.inf
                if regrow:  # the weight before this model prunes it
                    *inner, own = chain
                    chain = (*inner, Step(own.edit))
                value = edited(found.variable, chain)
                weights[name] = (found.layer, as_array(value), forced)
            for name, chosen in rule.chosen(sparsity, weights).items():
                forced = weights[name][2]
                kept = np.where(chosen | (forced < 0), 0, 1)
                masks[name] = np.where(forced > 0, HELD, kept)
        for name, mask in masks.items():
            self.masks[name].assign(mask.astype("uint8"))

    def steps(self) -> dict[int, Step]:
        return self._targets(lora=True)

    def _make_masks(self) -> None:
        """Create the weights that say which elements are kept, once; at first all are."""
        names = [name for rule in self.rules for name in rule.weights]
        if len(self.masks) == len(names):
            return
        masks = {}
        table = weights_in(self.base) if names else []
        for number, name in enumerate(names):
            shape = tuple(find_weight(self.base, name, table).variable.shape)
            masks[name] = self.add_weight(
                shape=shape,
                initializer="ones",
                dtype="uint8",
                trainable=False,
                name=f"mask_{number}",
            )
        self.masks = masks

    def _named(self) -> tuple[list[tuple[str, Any]], dict[str, Named]]:
        """Return the edited weights by their names, which may be patterns."""
        key = (tuple(self.edits), tuple([id(weight) for weight in self.base.weights]))
        if self._known.key != key:
            table = weights_in(self.base)
            for named in table:
                if named.address in self._known.addresses:  # a pattern would pass over integers
                    _check_can_hold(named.variable)
            edited_weights = [
                (name, named)
                for name in self.edits
                for named in find_weights(self.base, name, table)
            ]
            found = [(name, named.variable) for name, named in edited_weights]
            self._known.addresses = {named.address for _, named in edited_weights}
            masked = {name: find_weight(self.base, name, table) for name in self.masks}
            self._known.key, self._known.found, self._known.table = key, (found, masked), table
            self._known.is_alone = None
        return self._known.found  # type: ignore[no-any-return]

    def _chains(self) -> Any:
        """Return `chains_of(self)`, without a search if no other model edits weights inside."""
        targets = self._targets()
        if self._known.is_alone is None:
            inside = [self.base, *addresses(self.base).values()]
            self._known.is_alone = not any([isinstance(one, EditsWeights) for one in inside])
        if not self._known.is_alone:
            return chains_of(self)
        return lambda variable: (targets[id(variable)],) if id(variable) in targets else ()

    def _targets(self, *, lora: bool = False) -> dict[int, Any]:
        """Return the step of each weight, by `id`; with `lora`, also of those that have it."""
        targets: dict[int, Any] = {}
        paths = () if lora else {variable.path for variable in self.base.variables}
        named, masked = self._named()
        for name, variable in named:
            edit = self.edits[name]
            _check_can_hold(variable, paths)
            if id(variable) in targets:
                raise OperandError(
                    f"A weight should have one edit. Received: two for {variable.path!r}. Join "
                    "them: `first | second`."
                )
            for part in edit.edits:
                dtype = keras.backend.standardize_dtype(variable.dtype)
                _run.check(part, tuple(variable.shape), dtype)
            targets[id(variable)] = Step(edit)
        for name, found in masked.items():
            variable = found.variable
            _check_can_hold(variable, paths)
            before = targets.get(id(variable), Step(None))
            targets[id(variable)] = Step(before.edit, self.masks[name])
        return targets

    def get_config(self) -> dict[str, Any]:
        self._check_holds()  # or it could not be loaded
        serialize = keras.saving.serialize_keras_object
        config = {**super().get_config(), "base": serialize(self.base)}
        config["edits"] = {str(name): serialize(edit) for name, edit in self.edits.items()}
        found = [str(name) for name in self.edits if isinstance(name, Address)]
        if found:
            config["addresses"] = found
        if self.rules:
            config["rules"] = [rule.get_config() for rule in self.rules]
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "WeightEditing":
        what = "A saved WeightEditing"
        kinds = {"base": dict, "edits": dict, "addresses": list, "rules": list}
        if isinstance(config, dict):  # version 0.2.0 wrote no `rules`
            config = {"addresses": [], "rules": [], **config}
        check_keys(what, config, kinds)
        deserialize = keras.saving.deserialize_keras_object
        base = deserialize(config["base"], custom_objects=custom_objects)
        own = {name: value for name, value in config.items() if name != "base"}
        with loading(what, own):
            found, saved = own.pop("addresses"), own.pop("edits")
            if any([name not in saved for name in found]):
                raise refused(f"The addresses of {what} should be those of edited weights", found)
            edits = {
                Address(name) if name in found else name: edit_from_json(edit)
                for name, edit in saved.items()
            }
            rules = [Rule.from_config(rule) for rule in own.pop("rules")]
            pruned = [name for rule in rules for name in rule.weights]
            if len(set(pruned)) < len(pruned):
                raise refused(f"The rules of {what} should name each weight once", pruned)
            return cls(base, edits, rules, **own)


def _is_built_by_calls(layer: Any) -> bool:
    """Whether a layer has no `build` of its own, so that Keras builds it when it is called."""
    return type(layer).build in (keras.layers.Layer.build, keras.Model.build)


def _detached(x: Any) -> Any:
    """Return a tensor; if it is one of a graph, another that is in no graph."""
    return keras.KerasTensor(x.shape, dtype=x.dtype) if isinstance(x, keras.KerasTensor) else x


def _name_of(base: Any, target: Any) -> Any:
    """Return a name under which edits are kept; objects get the address of their weight."""
    if isinstance(target, str):
        return target
    return Address(find_weight(base, target).address)


def _check_can_hold(variable: Any, paths: Collection[str] = ()) -> None:
    """Raise if an edit of a weight would not hold."""
    owner, _, own_name = variable.path.rpartition("/")
    if f"{owner}/lora_{own_name}_a".lstrip("/") in paths:
        raise OperandError(
            "A weight that is edited should not have LoRA, which goes past the edit. Received: "
            f"{variable.path!r} with LoRA. Write the edit into the layer: `model = model.bake()`."
        )
    dtype = keras.backend.standardize_dtype(variable.dtype)
    if kind(dtype) < 2:
        raise OperandError(
            "A weight that is edited should hold floats; integers of a quantized layer go past "
            f"the edit. Received: {variable.path!r} of dtype {dtype!r}. Bake a model before it is "
            'quantized: `model.bake().quantize("int8")`.'
        )


def as_array(weight: Any) -> Any:
    """Return a weight as a NumPy array of floats that NumPy can compare."""
    dtype = keras.backend.standardize_dtype(weight.dtype)
    wide = dtype if dtype in ("float32", "float64") else "float32"
    return ops.convert_to_numpy(ops.cast(weight, wide))
