"""The layer that edits one site inside a model."""

from dataclasses import replace
from typing import Any

import keras
import numpy as np

from kedit import _run
from kedit._edit import Edit, EditSequence
from kedit._language.constants import Array, Slot, freeze, is_scalar, to_code
from kedit._language.dtypes import kind
from kedit._language.index import Index
from kedit._language.operations import OPERATIONS
from kedit._language.selection import Selection
from kedit._language.trainable import Trainable
from kedit._language.types import Shape, Tensor
from kedit._plan.bind import bind
from kedit._run import ops
from kedit.errors import PositionError, ShapeError
from kedit.interventions._noise import Draws
from kedit.interventions._operands import Fed, RunOperand, names_in, operands_in
from kedit.interventions._positions import apply_from, read_from
from kedit.layers import Editing


class Value(Trainable):
    """A constant that is kept in a variable, so that a compiled model sees changes to it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return to_code(self.initializer)

    def add_to(self, layer: Any, selected: Shape, name: str) -> Any:
        constant = self.initializer
        return layer.add_weight(
            name=name,
            shape=self.shape_for(selected),
            initializer=keras.initializers.Constant(
                constant.array if isinstance(constant, Array) else constant
            ),
            dtype=layer.site_dtype if kind(layer.site_dtype) != 2 else None,
            trainable=False,
        )


class SiteEditing(Editing):
    """Edits an activation, with operands that exist only in a run of the model.

    Args:
        edit: The edit.
        level: How often the model that is edited was edited before. Other runs of it
            have the edits of lower levels. Defaults to 0.
        **kwargs: Base layer keyword arguments.

    Call arguments:
        inputs: The activation, which keeps its dtype.
        given: Values for the operands of the edit, by name.
        piece: Which piece of the sequence the activation is, if positions are counted in
            the sequence. Defaults to None: all of it.
    """

    placeholders = (Trainable, RunOperand)
    built: bool

    def __init__(self, edit: Edit | EditSequence, level: int = 0, **kwargs: Any) -> None:
        self.original = edit
        self.level = level
        self.runs, self.fed = names_in(edit)
        held = [_with_value(part) for part in edit.edits]
        edit = held[0] if len(held) == 1 else EditSequence(*held)
        super().__init__(edit, autocast=False, **kwargs)
        self.site_dtype = "float32"
        self.site_shape: Shape | None = None
        operands = {id(operand): operand for operand in operands_in(edit)}
        made = [(key, operand.part()) for key, operand in operands.items()]
        self.parts = [part for _, part in made if part is not None]
        self._part_of = dict(made).get  # a function, as Keras copies dicts

    def build_at(self, shape: Shape, dtype: str) -> None:
        """Build the layer for an activation, once."""
        if self.built:
            return
        self.site_shape, self.site_dtype = (None, *shape[1:]), dtype
        if dtype in ("float32", "float64"):  # whatever policy reigns, nothing is rounded
            self.dtype_policy = dtype
        self.build(tuple(shape))
        self.built = True

    def build_as(self, x: Tensor) -> Tensor:
        """Build the layer for what looks like `x`, which is returned."""
        self.build_at(x.shape, keras.backend.standardize_dtype(x.dtype))
        return x

    def build(self, input_shape: Shape) -> None:
        shape = (None, *input_shape[1:])
        for part in self.original.edits:
            part.check_rows(len(shape))
            if not part.placeholders():
                _run.check(part, shape, self.site_dtype)
            for held in part.placeholders():
                if getattr(held, "at", None) is not None:
                    _check_read(part, held.at, shape)
                if isinstance(held, RunOperand):
                    held.check(part, shape, self.site_dtype)
        super().build(input_shape)

    def name_for(self, role: str) -> str:
        """Return a name for a weight of an operand, which no other weight has."""
        return self._name(role)

    def _weight(self, trainable: Any, selected: Shape, role: str, made: Any) -> Any:
        if isinstance(trainable, RunOperand):
            if id(trainable) not in made:
                added = trainable.add_to(self, self._shape, self._part_of(id(trainable)))
                made[id(trainable)] = (trainable, added)
            return made[id(trainable)]
        return super()._weight(trainable, selected, role, made)

    def call(  # type: ignore[override]
        self, inputs: Tensor, given: dict[str, Tensor] | None = None, piece: Any = None
    ) -> Tensor:
        x, learned = inputs, iter(self._learned)
        shape = self._shape_of(x)
        given = given or {}
        for (plain, held), original in zip(self._plain, self.original.edits, strict=True):
            weights = [next(learned) for _ in held]
            places = {
                leaf.number: _positions(weights[leaf.number][0], given)
                for leaf in plain.selection.index.leaves()
                if isinstance(leaf, Slot)
            }
            edit = plain.with_index(_filled(plain.selection.index, places)) if places else plain
            operands = [
                None if number in places else self._operand(edit, x, one, given, piece)
                for number, one in enumerate(weights)
            ]
            operand = original.operand
            is_whole = isinstance(operand, RunOperand) and operand.is_whole
            is_whole = is_whole and getattr(operand, "at", None) is None
            filled = _run.fill(edit, operands) if held else plain
            x = apply_from(filled, x, shape, piece, is_whole)
        return x

    def _shape_of(self, x: Tensor) -> Shape:
        """Return the shape that the layer was built with, for a batch.

        On the NumPy backend, values from a run are arrays, which must fit what they are written to.
        """
        if isinstance(x, np.ndarray) and any([isinstance(held, tuple) for held in self._learned]):
            shape: Shape = x.shape
            return shape
        return (x.shape[0], *self._shape[1:])

    def _operand(
        self, edit: Edit, x: Tensor, held: Any, given: dict[str, Tensor], piece: Any
    ) -> Tensor:
        """Return the tensor for a placeholder in an edit of `x`."""
        if not isinstance(held, tuple):
            return ops.cast(held, x.dtype)
        operand, weight = held
        value = operand.value(x, given, weight, piece)
        shape = self._shape_of(x)
        read: Edit | None = getattr(operand, "at", None)
        if read is not None:
            filled = read.map(lambda it: _positions(it, given) if isinstance(it, Fed) else it)
            return _run.apply(filled, value, shape)
        if not operand.is_whole:
            place = Selection(edit.selection.coordinates, edit.selection.index)
            # One axis at a time: with rematerialization, TensorFlow does not know its sizes.
            for _ in range(len(bind(place, shape).result) - len(value.shape)):
                value = ops.expand_dims(value, 1)
            is_float = kind(keras.backend.standardize_dtype(value.dtype)) == 2
            return ops.cast(value, x.dtype) if is_float else value
        place = read_from(edit.selection, x, piece)
        return _run.apply(Edit(place, "get", mode=edit.mode), value, shape)

    def inputs(self) -> list[int | str]:
        """Return the numbers or names of the inputs of the layer that its operands need."""
        return sorted(
            {leaf for one in operands_in(self.original) for leaf in one.inputs()}, key=str
        )

    def check_inputs(self, shapes: dict[int | str, Shape]) -> None:
        """Raise if inputs of these shapes do not fit the activation."""
        for part in self.original.edits:
            for operand in operands_in(part):
                for leaf in operand.inputs():
                    if leaf in shapes:
                        operand.check_input(part, self._shape, tuple(shapes[leaf]))

    def draws(self) -> list[Draws]:
        """Return where the series of draws of its operands are."""
        return [part for part in self.parts if isinstance(part, Draws)]

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        for number, draws in enumerate(self.draws()):
            store[f"draws_{number}"] = ops.convert_to_numpy(draws.state)

    def load_own_variables(self, store: Any) -> None:
        names = [name for name in store.keys() if not name.startswith("draws_")]  # noqa: SIM118
        super().load_own_variables({name: store[name] for name in names})
        for number, draws in enumerate(self.draws()):
            state = np.asarray(store[f"draws_{number}"])
            draws.state.assign(state.astype(keras.backend.standardize_dtype(draws.state.dtype)))

    def bare(self) -> Edit | EditSequence:
        """Return the edit without numbers that a file of the layer holds apart from it."""
        if not self.built:
            return self.original
        bare: dict[int, Any] = {}  # one object for each weight, as in the edit

        def change(leaf: Any) -> Any:
            if not isinstance(leaf, RunOperand):
                return leaf
            return bare.setdefault(id(leaf), leaf.without_weights())

        edits = [part.map(change) for part in self.original.edits]
        return edits[0] if len(edits) == 1 else EditSequence(*edits)

    def current(self) -> Edit | EditSequence:
        """Return the edit, with the current values of its weights."""
        learned = iter(self._learned)
        now: dict[int, Any] = {}  # one object for each weight, as in the edit
        edits = []
        for part, (plain, held) in zip(self.original.edits, self._plain, strict=True):
            weights = [next(learned) for _ in held]
            if isinstance(part.operand, (Array, bool, int, float, complex)) and held:
                edits.append(replace(part, operand=_constant(part.operand, weights[0])))
                continue
            operands = [
                now.setdefault(id(leaf), _now(leaf, weight))
                for leaf, weight in zip(held, weights, strict=True)
            ]
            edits.append(_run.fill(plain, operands) if held else part)
        return edits[0] if len(edits) == 1 else EditSequence(*edits)


def _positions(fed: Fed, given: dict[str, Tensor]) -> Tensor:
    """Return the positions of each example, which must be integers."""
    positions = given[fed.name]
    dtype = keras.backend.standardize_dtype(positions.dtype)
    if kind(dtype) != 1:
        raise PositionError(
            f"Positions that are fed should be integers. Received: {dtype} in {fed!r}. Write "
            f"`{{..., {fed.name!r}: positions.astype('int32')}}`."
        )
    return positions


def _filled(index: Index, places: dict[int, Tensor]) -> Index:
    """Return the index with tensors put in place of its slots."""
    return index.map(lambda leaf: places[leaf.number] if isinstance(leaf, Slot) else leaf)


def _check_read(edit: Edit, read: Edit, shape: Shape) -> None:
    """Raise if what is read from another run does not fit the activation or the edit."""
    read.check_rows(len(shape))
    if read.placeholders() or edit.selection.index.leaves():
        return  # the number of positions is unknown
    found, selected = [bind(one.selection, shape).result for one in (read, edit)]
    sizes = zip(reversed(found), reversed(selected), strict=False)
    if len(found) > len(selected) or any([n not in (1, m) for n, m in sizes]):
        raise ShapeError(
            "What is read from another run should broadcast to what is written, of shape "
            f"{selected}. Received: shape {found} in `{edit!r}`. Read as many positions as you "
            "write, as in `sample[3:5].set(OtherRun(at=sample[6:8]))`."
        )


def _with_value(edit: Edit) -> Edit:
    """Return the edit with its constant kept in a variable."""
    is_constant = is_scalar(edit.operand) or isinstance(edit.operand, Array)
    # Not an exponent, which decides what is differentiable.
    return (
        replace(edit, operand=Value(edit.operand))
        if is_constant and not OPERATIONS[edit.op].needs_natural
        else edit
    )


def _constant(operand: Any, weight: Any) -> Any:
    """Return the value of a variable as a constant: the original one if it is unchanged."""
    now = ops.convert_to_numpy(weight)
    then = np.asarray(operand.array if isinstance(operand, Array) else operand, now.dtype)
    return operand if np.array_equal(now, then) else freeze(now if now.ndim else now[()])


def _now(leaf: Any, weight: Any) -> Any:
    """Return a placeholder that starts from the current value of its weight."""
    if isinstance(leaf, RunOperand):
        return leaf.now(weight[1])
    return leaf.starting_from(ops.convert_to_numpy(weight))
