"""A model that runs another model with edited activations."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from kedit._addresses import addresses
from kedit._edit import Edit, EditSequence, check_is_edit, check_one_of, edit_from_json
from kedit._language.decoding import check_fields, check_keys, loading
from kedit._language.types import Tensor
from kedit.errors import OperandError
from kedit.interventions._applied import Compiled, as_outside, whole_model
from kedit.interventions._hooks import intercepted
from kedit.interventions._layer_input import key_of
from kedit.interventions._look import look
from kedit.interventions._noise import held
from kedit.interventions._operands import names_in
from kedit.interventions._partly_trained import PartlyTrained
from kedit.interventions._recurrent import check_recurrent
from kedit.interventions._run import Placed, Run, check_not_rematerialized, owners_of, unfusing
from kedit.interventions._site import Site, as_site
from kedit.interventions._site_editing import SiteEditing
from kedit.interventions._sites import check_model
from kedit.weights._exporting import input_spec, is_like

TRAIN = ("none", "edits", "all")
_FIELDS: dict[str, Any] = {"site": dict, "edit": dict}
Seen = dict[tuple[str, int, int], Tensor]
"""Activations in other runs, by the name of the run, and the numbers of the edit and the call."""
Edits = Mapping[Any, Any] | Sequence[tuple[Any, Any]]


def edit_model(
    model: keras.Model, edits: Edits, train: str = "none", **kwargs: Any
) -> "EditedModel":
    """Make a model that runs `model` with edited activations.

    `model` is shared, not copied, and left unchanged: it predicts, trains and saves as
    before. The edited model has its own compiled functions. It can be edited again; its
    own edits are applied first.

    Args:
        model: Model of any kind, including subclassed models, or a layer.
        edits: Dict that maps sites to edits, or list of such pairs. A site is a layer,
            its name or its address, which mean its output, a pattern of these, or
            `kedit.interventions.site(...)`. Each layer that matches gets the edit, with
            its own weights. Edits count axes inside one sample, like
            `sample[..., 17].set(0.0)`, or leave axis 0 alone.
        train: What `fit` trains. "edits": each `Trainable`, rotation and layer in the
            edits that does not have `trainable=False`, while the underlying model runs in
            inference mode and keeps its weights. "all": both. "none": nothing, and `fit`
            raises. Defaults to "none".
        **kwargs: Keyword arguments of `keras.Model`, such as `name`.

    Returns:
        `kedit.interventions.EditedModel`.

    Raises:
        kedit.errors.OperandError: If a site is not in the model, if a layer of the
            model is rematerialized, if a site is one call of a layer inside a recurrent
            layer that is not unrolled, or, when the model runs, if an edit was never
            reached.
        kedit.errors.EditError: If an edit does not fit its activation.

    Gradient:
        The gradient of the model and the edits, by the chain rule.

    Example:
    >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(3.0, name="h")])
    >>> edited = kedit.interventions.edit_model(base, {"h": kedit.sample[0].set(0.0)})
    >>> ops.convert_to_numpy(edited(np.ones((1, 2)))).tolist()
    [[0.0, 3.0]]
    >>> ops.convert_to_numpy(base(np.ones((1, 2)))).tolist()
    [[3.0, 3.0]]
    """
    return EditedModel(model, edits, train, **kwargs)


@keras.saving.register_keras_serializable(package="kedit")
class EditedModel(PartlyTrained):
    """The model that `kedit.interventions.edit_model` makes; takes the same arguments.

    Call arguments:
        inputs: The inputs of the underlying model. If an operand is another run or an
            extra input, a dict with these under "inputs" and the others by name.
        training: Whether the model is being trained; used if `train` is "all".

    Attributes:
        base: The underlying model.
        trains: What `fit` trains: "none", "edits" or "all".
        edit_layers: The layers that hold the edits, in order.
    """

    base: Any
    placed: Callable[[], list[tuple[Site, Any, SiteEditing]]]

    def __init__(self, base: Any, edits: Edits, train: str = "none", **kwargs: Any) -> None:
        check_model(base)
        check_one_of("train", train, TRAIN)
        inner: list[Any] = []
        if isinstance(base, EditedModel):  # otherwise the outer edits would come first
            inner, base = base.placed(), base.base
        check_not_rematerialized(base)
        found = []
        for given, edit in edits.items() if isinstance(edits, Mapping) else edits:
            check_is_edit("A site", edit, "edit_model(model, {'dense': sample[2].set(0.0)})")
            found += [(site, layer, edit) for site, layer in as_site(given).find(base)]
        reads = [bool(names_in(edit)[0]) for *_, edit in found]
        check_recurrent(base, [site for site, *_ in found], reads)
        super().__init__(**{"dtype": base.dtype_policy, "autocast": False, **kwargs})
        self.base = base
        self.trains = train
        self.supports_masking = True
        level = 1 + max([layer.level for *_, layer in inner], default=-1)
        placed = inner + [(site, layer, SiteEditing(edit, level)) for site, layer, edit in found]
        self.edit_layers = [layer for *_, layer in placed]
        for site, _, layer in placed:
            if site.where != "output" and layer.inputs():
                raise OperandError(
                    "The input of a layer should take the place of its output. Received: "
                    f"`{layer.original!r}` at `{site}`. Write `site({site._layer()!r})`."
                )
        owners: list[Any] = owners_of(addresses(base), [site for site, *_ in placed])
        self.placed = lambda: placed  # in a function, where Keras does not look for layers
        self._owners: Callable[[], list[Any]] = lambda: owners
        self._compiled = Compiled()
        self._was_run = False
        # By level, as what an edit reads in another run may depend on edits of lower levels.
        others = {(layer.level, name) for layer in self.edit_layers for name in layer.runs}
        self._others = sorted(others)
        self._runs = sorted({name for _, name in others})
        self._fed = sorted({name for layer in self.edit_layers for name in layer.fed})
        if base.built:
            self._build_edits()

    def _build_edits(self) -> None:
        """Build the edits whose shapes are known before the model runs."""
        if not self.edit_layers:
            self.built = True
            return
        seen = look(
            self.base, handlers=unfusing([(site, owner) for site, owner, _ in self.placed()])
        )
        if seen is None:
            return
        for site, owner, layer in self.placed():
            target, inner, view = site.within(owner)
            calls = seen.get(id(target), [])[slice(site.call, None)]
            if calls:
                args, kwargs, output = calls[0]
                if inner.where == "output" or isinstance(inner.leaf, int):
                    view(inner.read(args, kwargs, output), layer.build_as)
                    for leaf in [leaf for leaf in layer.inputs() if isinstance(leaf, int)]:
                        received = Site(site.pattern, "input", leaf).read(args, kwargs, None)
                        layer.check_inputs({leaf: received.shape})
        self.built = all([layer.built for layer in self.edit_layers])

    def build(self, input_shape: Any) -> None:
        """Do nothing: edits are built when they are reached."""

    def get_build_config(self) -> dict[str, Any]:
        return {"edits": [(layer.site_shape, layer.site_dtype) for layer in self.edit_layers]}

    def build_from_config(self, config: dict[str, Any]) -> None:
        for layer, (shape, dtype) in zip(self.edit_layers, config["edits"], strict=True):
            if shape is not None:
                layer.build_at(shape, dtype)
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Any:
        return self.run_with([], inputs, training)

    def run_with(
        self, placed: list[Placed], inputs: Any, training: bool | None, stops: bool = False
    ) -> Any:
        """Call the model; at each site, do what else is placed after the edits.

        Args:
            placed: What else to do.
            inputs: The inputs of the model.
            training: Whether the model is being trained.
            stops: Whether the run may stop, and return None, when all edits were reached
                and all else is done. Defaults to False.
        """
        training = training if self.trains == "all" else False
        inputs, others, fed = self._split(inputs)
        with as_outside(self.base):
            if not self.base.built:  # building calls layers one extra time
                self.base(inputs, training=False)
            seen: Seen = {}
            for level, name in self._others:
                seen |= self._seen(name, others[name], level, seen, fed, training)
            if not (self._was_run or all([layer.built for layer in self.edit_layers])):
                # Build first, then run: if a weight is made while an inner `WeightEditing` runs,
                # TensorFlow sees only its initial value in that run.
                with held(), intercepted(self._run(seen, fed, []).handlers):
                    self.base(inputs, training=False)
            self._was_run = True
            run = self._run(seen, fed, placed)
            outputs = None
            with run.stopping(stops), intercepted(run.handlers):
                outputs = self.base(inputs, training=training)
        run.check_fired()
        return outputs

    def _run(
        self,
        seen: "Seen",
        fed: dict[str, Tensor],
        more: list[Placed],
        whole: Any = None,
        below: float = math.inf,
    ) -> Run:
        """Return a run that applies the edits that are below a level."""

        def acting(index: int, layer: SiteEditing) -> Any:
            def act(x: Tensor, number: int, piece: Any, inputs: Any = None) -> Tensor:
                if not layer.built:
                    layer.build_as(x)
                others = {name: seen[name, index, number] for name in layer.runs}
                if inputs is not None:
                    layer.check_inputs({leaf: tensor.shape for leaf, tensor in inputs.items()})
                    others |= {key_of(leaf): tensor for leaf, tensor in inputs.items()}
                # Not by keyword: with rematerialization, TensorFlow would lose their gradients.
                return layer(x, {**fed, **others}, piece=piece)

            return act

        acts = [
            Placed(site, target, acting(index, layer), layer.inputs())
            for index, (site, target, layer) in enumerate(self.placed())
            if layer.level < below
        ]
        return Run(acts + more, self._owners(), whole)

    def _seen(
        self,
        name: str,
        inputs: Any,
        level: int,
        seen: "Seen",
        fed: dict[str, Tensor],
        training: bool | None,
    ) -> "Seen":
        """Return the activations for other inputs that the edits of a level need.

        The edits below that level are applied, since these are edits of the same model.
        """
        found: Seen = {}

        def noting(index: int) -> Any:
            def act(x: Tensor, number: int, piece: Any) -> Tensor:
                found[name, index, number] = x
                return x

            return act

        acts = [
            Placed(site, target, noting(index))
            for index, (site, target, layer) in enumerate(self.placed())
            if layer.level == level and name in layer.runs
        ]
        with intercepted(self._run(seen, fed, acts, below=level).handlers):
            self.base(inputs, training=training)
        return found

    def _split(self, inputs: Any) -> tuple[Any, dict[str, Any], dict[str, Tensor]]:
        names = {"inputs", *self._runs, *self._fed}
        if len(names) == 1:
            return inputs, {}, {}
        if not isinstance(inputs, dict) or set(inputs) != names:
            given = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
            raise OperandError(
                f"An edited model with operands from elsewhere should be given a dict of "
                f"{sorted(names)}. Received: {given}. Write "
                f"`model.predict({{{', '.join([f'{name!r}: ...' for name in sorted(names)])}}})`."
            )
        fed = {name: inputs[name] for name in self._fed}
        return inputs["inputs"], {name: inputs[name] for name in self._runs}, fed

    def was_built_for(self, inputs: Any) -> bool:
        """Whether the underlying model was built for inputs of this structure and these sizes.

        If not, it may call other layers, and others more often, than were seen.
        """
        return is_like(self._split(inputs)[0], input_spec(self.base))

    def takes(self) -> Any:
        inputs = input_spec(self.base)
        if inputs is None or self._fed:
            return None  # nobody knows the shape of an extra input
        return {"inputs": inputs, **dict.fromkeys(self._runs, inputs)} if self._runs else inputs

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return None  # the underlying model has set it on its outputs

    def make_train_function(self, force: bool = False) -> Any:
        if self.trains == "none" or (self.built and not self.trainable_variables):
            fix = "edits" if self.trains == "none" else "all"
            raise OperandError(
                f"A model should have something to train. Received: train={self.trains!r}"
                f"{'' if self.trains == 'none' else ', and edits without a `Trainable`'}. "
                f"Write `edit_model(model, edits, train={fix!r})`."
            )
        return super().make_train_function(force)

    def trains_variable(self, variable: Any) -> bool:
        own = {id(v) for layer in self.edit_layers for v in layer.variables}
        return self.trains == "all" or (self.trains == "edits" and id(variable) in own)

    # --- What the edits hold ---------------------------------------------------------------

    def values(self, site: str | Site) -> list[Any]:
        """Return the variables of the edits at a site: constants, each `Trainable`, and others.

        For each edit of the site, those that are trained come first, and those of layers last.
        A compiled model sees the values that you assign to them.

        Example:
        >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(3.0, name="h")])
        >>> edited = kedit.interventions.edit_model(base, {"h": kedit.sample[0].set(0.0)})
        >>> edited.values("h")[0].assign(7.0) is None
        False
        >>> ops.convert_to_numpy(edited(np.ones((1, 2)))).tolist()
        [[7.0, 3.0]]
        """
        sites = [found for found, _ in as_site(site).find(self.base)]
        return [
            variable
            for found, _, layer in self.placed()
            if found in sites
            for variable in layer.weights
        ]

    @property
    def edits(self) -> list[tuple[Site, Edit | EditSequence]]:
        """Pairs of the site of a layer and its edit, with the values that it holds now."""
        return [
            (site, layer.current() if layer.built else layer.original)
            for site, _, layer in self.placed()
        ]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Apply the edits to the underlying model itself, inside a `with` block.

        Use it for other methods of the model, such as `generate()` of KerasHub, where
        positions are counted in the whole sequence. Afterwards the model gets its own
        compiled functions back. Edits are applied in the task or thread that enters the
        block; elsewhere, methods such as `predict` raise until it ends.

        Raises:
            kedit.errors.OperandError: If an operand is another run or an extra
                input, which other methods do not take, if edits are applied to the
                model already, or if an edit was never reached.
        """
        if self._runs or self._fed:
            raise OperandError(
                "Edits that are applied to a whole model should need nothing but it. Received: "
                f"operands from {[*self._runs, *self._fed]}. Call the edited model."
            )
        variables = [v for layer in self.edit_layers for v in layer.variables]
        run = self._run({}, {}, [], self.base)
        try:
            with held(), whole_model(self.base, run, self._compiled, variables):
                yield
        finally:
            inside = [[layer, *addresses(layer).values()] for layer in self.edit_layers]
            editing = [one for ones in inside for one in ones if isinstance(one, SiteEditing)]
            for draws in [draws for layer in editing for draws in layer.draws()]:
                draws.next()

    # --- Saving ----------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        edits = [
            {"site": site.get_config(), "edit": serialize(layer.bare()), "level": layer.level}
            for site, _, layer in self.placed()
        ]
        return {
            **super().get_config(),
            "base": serialize(self.base),
            "edits": edits,
            "train": self.trains,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "EditedModel":
        check_keys("A saved edited model", config, {"base": dict, "edits": list, "train": str})
        with loading("A saved edited model", config["edits"]):
            fields = [
                check_fields("An edit of a saved model", part, _FIELDS, {"level": int})
                for part in config["edits"]
            ]
            edits = [(Site.from_config(f["site"]), edit_from_json(f["edit"])) for f in fields]
        deserialize = keras.saving.deserialize_keras_object
        base = deserialize(config["base"], custom_objects=custom_objects)
        levels = [f.get("level", 0) for f in fields]
        *lower, last = sorted({0, *levels})
        for level in lower:
            base = cls(base, [e for e, its in zip(edits, levels, strict=True) if its == level])
        edits = [e for e, its in zip(edits, levels, strict=True) if its == last]
        return cls(**{**config, "base": base, "edits": edits})
