"""A layer that applies an edit."""

import itertools
import math
from typing import Any, get_args

import keras

from kedit import _run
from kedit._edit import (
    Edit,
    EditSequence,
    check_is_edit,
    check_one_of,
    condition_of,
    edit_from_json,
)
from kedit._language.constants import Slot
from kedit._language.decoding import check_same, loading
from kedit._language.items import Positions
from kedit._language.selection import placeholders_in
from kedit._language.trainable import Trainable, number_of, take_out
from kedit._language.types import Gradient, Shape, Tensor, When
from kedit._run import ops
from kedit.errors import OperandError, ShapeError
from kedit.layers import _gradient
from kedit.layers._words import name_of

WHEN = get_args(When)


def _stand_ins(plain: Edit, held: list[Any]) -> list[Any]:
    """Return what stands for placeholders while an edit is checked: 1, or the first position."""
    found: list[Any] = [1] * len(held)
    for slot in plain.selection.index.leaves():
        if isinstance(slot, Slot):
            found[slot.number] = Positions((1,), (0,))
    return found


@keras.saving.register_keras_serializable(package="kedit")
class Editing(keras.layers.Layer):
    """Applies an edit to its input.

    Axis 0 is the batch, and its rows are arbitrary. So the edit must count axes inside
    one sample, like `sample[2]`, or leave axis 0 alone, like `at[..., 2]`. The Keras
    mask is passed on. Every `kedit.Trainable` in the edit becomes a weight.

    Args:
        edit: `kedit.Edit` or `kedit.EditSequence`.
        when: "training" edits only while the model is being trained, "inference" only
            otherwise. Defaults to "always".
        gradient: "exact", "straight_through", "blocked" or "sigmoid"; see below.
            Defaults to "exact".
        temperature: Width of the sigmoid, in the units of the compared numbers.
            Defaults to 1.0.
        switch: Whether to add a non-trainable weight that turns the layer on and off:
            `layer.enabled = False`. It also works in compiled models, and is saved.
            Defaults to False: the layer is always on.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`. The
            name defaults to the edit in words.

    Call arguments:
        inputs: Tensor of shape `(batch_size, *sample_shape)`. Floats are cast to
            the compute dtype of the layer, as in other Keras layers.
        training: Whether the model is being trained; Keras passes it.

    Input shape:
        `(batch_size, *sample_shape)`. Axes may have unknown size; on such an axis,
        positions that turn out not to exist are not edited.

    Output shape:
        Same shape and dtype as the input.

    Raises:
        kedit.errors.CoordinateError: If the edit names rows of the batch.
        kedit.errors.OperandError: When the layer is built, if a `Trainable` could
            never learn.
        kedit.errors.EditError: When the layer is built, if the edit does not fit
            the input.

    Gradient:
        `gradient` never changes the output, only what flows back. In a sequence it
        applies to each edit. With upstream gradient `g` and condition `c`:

        - "exact": the gradient of the edit; none flows through `c`.
        - "straight_through": the input receives `g`, as if there were no edit
          (0 where the input is not finite). Operands receive the exact gradient.
        - "blocked": the input receives 0 at the edited elements and `g` elsewhere.
          Operands receive the exact gradient.
        - "sigmoid": the exact gradient, plus a gradient through `c`. A comparison
          `a > b` is differentiated as `s = sigmoid((a - b) / temperature)`: `a`
          receives `g * (edited - x) * s * (1 - s) / temperature`, where `edited`
          is the element after the edit, and `b` receives the negative. `&`, `|` and
          `~` are differentiated as `c1 * c2`, `c1 + c2 - c1 * c2` and `1 - c`, at
          the hard values. Other conditions are constants.

    References:
        Y. Bengio, N. Léonard and A. Courville, *Estimating or Propagating
        Gradients Through Stochastic Neurons for Conditional Computation*, 2013,
        arXiv:1308.3432, for straight-through; E. O. Neftci, H. Mostafa and
        F. Zenke, *Surrogate Gradient Learning in Spiking Neural Networks*, IEEE
        Signal Processing Magazine 36(6), 2019, for hard values with soft gradients.

    Example:
    >>> layer = kedit.layers.Editing(kedit.sample[0].set(5.0))
    >>> ops.convert_to_numpy(layer(ops.ones((2, 3)))).tolist()
    [[5.0, 1.0, 1.0], [5.0, 1.0, 1.0]]
    """

    placeholders: tuple[type, ...] = (Trainable,)
    """Types of placeholders that an edit may hold as operands."""

    def __init__(
        self,
        edit: Edit | EditSequence,
        *,
        when: When = "always",
        gradient: Gradient = "exact",
        temperature: float = 1.0,
        switch: bool = False,
        **kwargs: Any,
    ) -> None:
        check_is_edit("A layer", edit, "Editing(sample[2].set(0.0))")
        super().__init__(**{**kwargs, "name": kwargs.get("name") or name_of(edit)})
        for part in edit.edits:
            if part.op == "get" or part.path is not None or part.part != "x":
                raise OperandError(
                    "A layer should be given an edit of one whole tensor. Received: "
                    f"`{part!r}`. Drop `.get()` or `.on(...)`."
                )
            part.check_rows()
            if any([isinstance(tensor, keras.KerasTensor) for tensor in part.tensors()]):
                raise OperandError(
                    "A layer should be given an edit by numbers, arrays and tensors that have "
                    f"values. Received: `{part!r}`, which holds a KerasTensor. Apply the edit "
                    "itself, as in `at(inputs).where(mask).set(0.0)`, which takes tensors of the "
                    "model."
                )
            for held in part.placeholders():
                if not isinstance(held, self.placeholders):
                    raise OperandError(
                        "A layer should be given an edit whose operands it has itself. Received: "
                        f"`{held!r}`, which {held.home} has. Write `{held.fix.format(edit=edit)}`."
                    )
        check_one_of("when", when, WHEN)
        check_one_of("gradient", gradient, _gradient.GRADIENTS)
        check_one_of("switch", switch, (False, True))
        if not isinstance(temperature, (int, float)) or not 0 < temperature < math.inf:
            raise OperandError(
                f"`temperature` should be a positive number. Received: temperature={temperature!r}."
            )
        if gradient == "sigmoid" and not any(
            [_gradient.compares(condition_of(part)) for part in edit.edits]
        ):
            raise OperandError(
                "A surrogate gradient should have a condition that compares. Received: "
                f'`{edit!r}`. Drop `gradient="sigmoid"`, or narrow the edit by `.where(X > 0.0)`.'
            )
        self.edit = edit
        self.when = when
        self.gradient = gradient
        self.temperature = float(temperature)
        self.switch = bool(switch)
        self.supports_masking = True
        self._shape: Shape = ()
        self._plain = tuple([take_out(part) for part in edit.edits])
        self._enabled: Any = None
        self._learned: list[Any] = []

    def build(self, input_shape: Shape) -> None:
        # Later batches may have another size than the first one.
        self._shape = (None, *input_shape[1:])
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape))
        learned: list[Any] = []
        made: dict[Any, tuple[Any, Any]] = {}  # by name, or by the identity of the Trainable
        for edit, (plain, trainables) in zip(self.edit.edits, self._plain, strict=True):
            edit.check_rows(len(input_shape))
            if trainables:
                _gradient.check_can_learn(edit, self.gradient)
                stand_in = _run.fill(plain, _stand_ins(plain, trainables))
                selected = _run.check(stand_in, self._shape, self.compute_dtype).selected
                in_condition = placeholders_in(condition_of(edit))
                for trainable in trainables:
                    compares = number_of(trainable, in_condition) < len(in_condition)
                    role = "threshold" if compares else "values"
                    learned.append(self._weight(trainable, selected, role, made))
        self._learned = learned
        if self.switch:
            self._enabled = self.add_weight(
                name="enabled", shape=(), dtype="bool", initializer="ones", trainable=False
            )

    def _name(self, role: str) -> str:
        """Return a name for a weight: on PyTorch, Keras would lose one of two of the same name."""
        held = [leaf for _, leaves in self._plain for leaf in leaves if isinstance(leaf, Trainable)]
        taken = {leaf.name for leaf in held} | {weight.name for weight in self.weights}
        numbered = (f"{role}_{number}" if number else role for number in itertools.count())
        return next(name for name in numbered if name not in taken)

    def _weight(self, trainable: Trainable, selected: Shape, role: str, made: Any) -> Any:
        """Return the weight of a `Trainable`: the one that it has already, or a new one."""
        key = trainable.name or id(trainable)
        shape = tuple(made[key][1].shape) if key in made else trainable.shape or ()
        # Checked before memory is allocated for it.
        sizes = zip(reversed(shape), reversed(selected), strict=False)
        if len(shape) > len(selected) or any([w is not None and n not in (1, w) for n, w in sizes]):
            raise ShapeError(
                "The shape of a Trainable should broadcast to the selection, "
                f"{tuple(selected)}. Received: shape {shape} for `{trainable!r}`. Drop `shape`, or "
                "take a Trainable for each place."
            )
        if key not in made:
            name = trainable.name or self._name(role)
            made[key] = (trainable, trainable.add_to(self, selected, name))
        known, weight = made[key]
        if known != trainable:
            raise OperandError(
                "Trainables of one name should be the same. Received: "
                f"`{known!r}` and `{trainable!r}`. Give them names of their own."
            )
        return weight

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if self.when != "always" and bool(training) != (self.when == "training"):
            return inputs
        if self._enabled is None:
            return self._edited(inputs)
        enabled = ops.convert_to_tensor(self._enabled)
        # If the layer is off, edit ones instead: the edit may have no gradient at the input.
        edited = self._edited(ops.where(enabled, inputs, ops.ones_like(inputs)))
        return ops.where(enabled, edited, inputs)

    def _edited(self, x: Tensor) -> Tensor:
        for edit in self._filled(self._learned):
            x = _gradient.apply(edit, x, self._shape, self.gradient, self.temperature)
        return x

    def _filled(self, learned: list[Any]) -> list[Edit]:
        """Return the edits, with `learned` in place of their `Trainable`s."""
        rest = iter(learned)
        return [
            _run.fill(plain, [next(rest) for _ in trainables]) if trainables else plain
            for plain, trainables in self._plain
        ]

    @property
    def enabled(self) -> bool:
        """Whether the layer edits. Can be set if the layer has a switch and is built."""
        return self._enabled is None or bool(ops.convert_to_numpy(self._enabled))

    @enabled.setter
    def enabled(self, value: bool) -> None:
        if self._enabled is None:
            fix = "Build it first: call it once" if self.switch else "Write `switch=True`"
            raise OperandError(
                "A layer that is turned off and on should be built, and have a switch. Received: "
                f"enabled={value!r} for {self.name!r}. {fix}."
            )
        check_one_of("enabled", value, (False, True))
        self._enabled.assign(bool(value))

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> keras.KerasTensor:
        count = sum([len(trainables) for _, trainables in self._plain])
        for edit in self._filled(self._learned if self.built else [1] * count):
            dtype = keras.backend.standardize_dtype(inputs.dtype)
            _run.check(edit, tuple(inputs.shape), dtype)
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "edit": keras.saving.serialize_keras_object(self.edit),
            "when": self.when,
            "gradient": self.gradient,
            "temperature": self.temperature,
            "switch": self.switch,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Editing":
        with loading("A saved Editing", config):
            made = cls(**{**config, "edit": edit_from_json(config["edit"])})
            check_same(
                "A saved Editing",
                made.get_config(),
                config,
                ("when", "gradient", "temperature", "switch"),
            )
            return made
