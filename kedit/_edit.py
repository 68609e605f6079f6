"""`Edit` and `EditSequence`: edits as values. `kedit._run` applies them to tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from inspect import isclass
from typing import Any, ClassVar, NoReturn

import keras

from kedit import _run
from kedit._language.batch import PARTS, STRUCTURES, Part, edit_batch, is_batch, leaf_at
from kedit._language.compiler import as_number, called_when_traced, reads_bytecode
from kedit._language.constants import (
    Frozen,
    Placeholder,
    Slot,
    from_json,
    is_scalar,
    is_tensor,
    stand_ins,
    to_code,
    to_json,
)
from kedit._language.decoding import (
    LONGEST,
    check_fields,
    check_same,
    check_whole,
    loading,
    received,
    refused,
)
from kedit._language.expression import Expression, code_of_part, is_saved_condition
from kedit._language.index import Index
from kedit._language.operations import OPERATIONS
from kedit._language.selection import (
    Selection,
    code_of,
    freeze_operand,
    key_of,
    leaves_in,
    map_tensors,
    stand_in,
)
from kedit._language.spelling import holds_arrays, index_of, value_of
from kedit._language.trainable import Names, describe, described, same_weights, take_out
from kedit._language.types import Casting, Mode
from kedit._plan.bounds import RULES
from kedit._plan.plan import KEPT, KEPT_WITH_ARRAYS, Plan, keep, make
from kedit._show import html, plots
from kedit._show.words import in_words
from kedit.errors import CoordinateError, OperandError, SavingError

CASTINGS = ("same_kind", "unsafe")
_ALLOWED: dict[str, tuple[Any, ...]] = {
    "op": tuple(OPERATIONS),
    "mode": tuple(RULES),
    "casting": CASTINGS,
    "part": PARTS,
}
_OPTIONS = ("mode", "fill_value", "size", "unique_indices", "indices_are_sorted")
_REST = ("casting", "path", "part", *_OPTIONS)


@keras.saving.register_keras_serializable(package="kedit")
@dataclass(frozen=True, eq=False, repr=False, slots=True, weakref_slot=True)
class Edit:
    """A value that says which elements of a tensor to change, and how. Call it to apply it.

    Create one with `kedit.at[...]` or `kedit.sample[...]`. Edits are immutable. Equal
    edits compare equal with `==` and have the same hash. The `repr` of an edit is the
    code that creates it. Edits can be pickled, and `get_config()` returns plain data
    for JSON.

    Args:
        selection: Which elements to edit.
        op: Name of the operation: "set", "add", "subtract", "multiply",
            "divide", "power", "min", "max", "apply", or "get", which reads
            the elements and changes none.
        operand: Number, array, tensor, `kedit.Trainable`, expression over `X`,
            or function of the selected elements.
        casting: "same_kind" raises for values that would lose information in the
            dtype of the tensor; "unsafe" saturates them. Defaults to "same_kind".
        path: Which array of nested data to edit. Defaults to None: the data is a
            single array.
        part: Which part of `(x, y, sample_weight)` to edit. Defaults to "x".
        mode: What happens to positions out of bounds: "drop", "fill", "clip",
            "wrap", "promise_in_bounds" or "raise". Defaults to None: positions in
            constants raise, positions in tensors are dropped.
        fill_value: Number that "get" returns where there is no element. Defaults to
            None: NaN for floats and complex numbers, the smallest signed integer,
            the largest unsigned integer, and True for booleans.
        size: Number of elements that "get" returns for a mask. Defaults to None:
            one for each True.
        unique_indices: Promise that positions in tensors differ. Defaults to False.
        indices_are_sorted: Promise that positions in tensors ascend. Defaults to
            False.

    Call arguments:
        x: Tensor of the running backend, `KerasTensor`, Variable, NumPy array,
            list of numbers, or a batch: a dict or list of these, or a tuple
            `(x, y, sample_weight)`.
        *rest: `y` and `sample_weight`, if the batch comes as separate arguments.

    Returns:
        A new tensor or array with the shape and dtype of `x`; for a batch, a new
        batch with the edited array in place of the old one. `x` is left unchanged.

    Raises:
        kedit.errors.EditError: If the edit does not fit.

    Gradient:
        The gradient of the operation; see its method of `kedit.at[...]`.

    Example:
    >>> edit = kedit.at[0, 2].set(100.0)
    >>> edit
    at[0, 2].set(100.0)
    >>> edit(np.zeros((2, 3))).tolist()
    [[0.0, 0.0, 100.0], [0.0, 0.0, 0.0]]
    >>> edit == kedit.at[0, 2].set(100.0)
    True
    """

    _spelling: ClassVar[tuple[Any, ...]] = ()  # each edit keeps its own plans, so they need no key
    _limit: ClassVar[int] = KEPT

    selection: Selection
    op: str
    operand: Any = None
    casting: Casting = "same_kind"
    path: str | None = None
    part: Part = "x"
    mode: Mode | None = None
    fill_value: Any = None
    size: int | None = None
    unique_indices: bool = False
    indices_are_sorted: bool = False
    _leaves: tuple[Any, ...] = field(init=False)
    _held: tuple[Any, ...] = field(init=False)
    _is_open: bool = field(init=False)
    _plans: dict[Any, Any] = field(init=False)
    _is_traced: bool = field(init=False)

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            check_one_of(name, getattr(self, name), allowed)
        if self.op != "get" and (self.fill_value is not None or self.size is not None):
            raise OperandError(
                "`fill_value` and `size` say what `get` reads. Received: "
                f"fill_value={self.fill_value!r}, size={self.size!r} for `{self.op}`. Drop them."
            )
        for name in ("unique_indices", "indices_are_sorted"):
            if type(getattr(self, name)) is not bool:
                raise OperandError(f"`{name}` should be a bool. Received: {getattr(self, name)!r}.")
        if self.size is not None and (type(self.size) is not int or self.size < 0):
            raise OperandError(f"`size` should be an int, not negative. Received: {self.size!r}.")
        if self.op != "get" and self.operand is None:
            raise OperandError(f"`{self.op}` should be given values. Received: None.")
        in_condition, in_operand = leaves_in(self.selection.condition), leaves_in(self.operand)
        in_index = self.selection.index.leaves()
        found = [*in_index, *in_condition, *in_operand]
        leaves = tuple([leaf for leaf in found if not isinstance(leaf, (Slot, Placeholder))])
        every = in_operand + in_condition + in_index
        held = [leaf for leaf in every if isinstance(leaf, Placeholder)]
        keep = object.__setattr__
        keep(self, "_leaves", leaves)
        keep(self, "_held", tuple(held))
        keep(self, "_is_open", len(leaves) < len(found) or any([is_tensor(n) for n in leaves]))
        keep(self, "_plans", {})
        keep(self, "_is_traced", reads_bytecode())

    def __call__(self, x: Any, *rest: Any) -> Any:
        if rest:
            return self((x, *rest))
        if self._held:
            held = self._held[0]
            raise OperandError(
                f"An edit that holds a {type(held).__name__} should be applied by {held.home}. "
                f"Received: `{self!r}`. Write `{held.fix.format(edit=self)}`."
            )
        is_array = not isinstance(x, STRUCTURES) or not is_batch(x)
        if self.path is None and self.part == "x" and is_array:
            return _run.apply(self, x)
        return edit_batch(lambda leaf: _run.apply(self, leaf), x, self.path, self.part)

    def on(self, path: str | None = None, *, part: Part = "x") -> "Edit":
        """Return the same edit for one array of nested data.

        Args:
            path: Keys of the array in nested dicts and lists, joined by `/`, such
                as `"image/rgb"` or `"0"`. Defaults to None: the part is a single
                array.
            part: Part of the tuple: "x", "y" or "sample_weight". Defaults to "x".

        Example:
        >>> edit = kedit.at[:, 0].set(0.0).on("age")
        >>> edit({"age": np.ones((1, 2)), "name": np.ones((1, 1))})["age"].tolist()
        [[0.0, 1.0]]
        """
        return replace(self, path=path, part=part)

    @property
    def edits(self) -> tuple["Edit", ...]:
        """This edit in a tuple, so that code can loop over an `Edit` like an `EditSequence`."""
        return (self,)

    def __or__(self, other: Any) -> "EditSequence":
        return EditSequence(self, other)

    def __add__(self, other: Any) -> NoReturn:
        joined(self, other)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edit) and self._key() == other._key()

    def __hash__(self) -> int:
        try:
            return hash(self._key())
        except AttributeError:  # torch.compile hashes an edit while it is created
            return object.__hash__(self)

    def _key(self) -> Any:
        operand = key_of(self.operand)
        options = [(name, key_of(value)) for name, value in self._options()]
        where = (self.path, self.part)
        weights = same_weights(self._held)
        return (self.selection.key(), self.op, operand, self.casting, *where, *options, weights)

    def __repr__(self) -> str:
        return self._code(Names(self._held))

    def _code(self, names: Names) -> str:
        """The code that makes the edit."""
        if self._held:  # the condition first, as it is written
            condition = map_tensors(self.selection.condition, names)
            place = Selection(self.selection.coordinates, self.selection.index, condition)
            return self._like(place, map_tensors(self.operand, names))._plain_code()
        return self._plain_code()

    def _plain_code(self) -> str:
        selection, arguments = self.selection, [] if self.op == "get" else [code_of(self.operand)]
        choice = choice_of(self)
        if choice is not None:
            selection = Selection(selection.coordinates, selection.index, choice.args[0])
            values, otherwise = [code_of_part(arg) for arg in choice.args[1:]]
            arguments = [values, f"otherwise={otherwise}"]
        if self.casting != "same_kind":
            arguments.append(f"casting={self.casting!r}")
        arguments += [f"{name}={to_code(value)}" for name, value in self._options()]
        code = f"{selection!r}.{self.op}({', '.join(arguments)})"
        if self.path is None and self.part == "x":
            return code
        where = [repr(self.path)] if self.path is not None else []
        where += [f"part={self.part!r}"] if self.part != "x" else []
        return f"{code}.on({', '.join(where)})"

    def plot(self, x: Any, ax: Any = None) -> Any:
        """Draw a tensor before and after the edit, and what changed.

        A tensor with one axis is drawn as a line, one with two axes as an image. With
        more axes, up to three slices along the last two axes are drawn: the first ones
        that change. Complex numbers are drawn by their absolute value. An element counts
        as changed if its value differs: -0.0 equals 0.0, and a NaN that stays NaN is no
        change. NaN and infinity get a color and a marker of their own.

        Args:
            x: Tensor, array, list or number; with `on(path)`, data that has that path.
                It is left unchanged.
            ax: Three matplotlib axes to draw on, or three for each slice. Defaults to
                None: new axes.

        Returns:
            Array of the axes: before, after and changed, for each slice.

        Raises:
            kedit.errors.OperandError: If the edit is a `get`, or `x` has no values or
                is a batch.
            kedit.errors.EditError: If the edit does not fit.
            ImportError: If matplotlib is not installed.

        Example:
        >>> before, after, changed = kedit.at[0, 2].set(100.0).plot(np.zeros((2, 3)))
        >>> changed.get_title()
        'changed: 1 of 6'
        """
        return _plot(self, x, ax)

    def _repr_html_(self) -> str:
        """The edit in a notebook: its code, and what it does in words."""
        return html.described(repr(self), in_words(self, choice_of(self)))

    def __reduce__(self) -> Any:
        return (Edit, tuple(getattr(self, field.name) for field in fields(self) if field.init))

    def _options(self) -> list[tuple[str, Any]]:
        """The options that differ from their defaults, None and False."""
        options = [(name, getattr(self, name)) for name in _OPTIONS]
        return [
            (name, value) for name, value in options if value is not None and value is not False
        ]

    def tensors(self) -> list[Any]:
        """The tensors in the edit, which `map` replaces. Constants are not included."""
        return [leaf for leaf in self._leaves if is_tensor(leaf)]

    def placeholders(self) -> list[Any]:
        """The placeholders in the edit, such as `Trainable`, in the order of `map`."""
        return list(self._held)

    def map(self, replace_tensor: Callable[[Any], Any]) -> "Edit":
        """Return the same edit with `replace_tensor` applied to its tensors and placeholders."""
        if not self._is_open:
            return self
        operand = map_tensors(self.operand, replace_tensor)
        return self._like(self.selection.map(replace_tensor), operand)

    def _with(self, leaves: list[Any]) -> "Edit":
        """The edit with its tensors and functions replaced, for example by stand-ins."""
        if not self._leaves:
            return self
        given = iter(leaves)

        def replaced(leaf: Any) -> Any:
            return next(given)

        index = self.selection.index.map(replaced)
        condition = stand_in(self.selection.condition, replaced)
        selection = Selection(self.selection.coordinates, index, condition)
        return self._like(selection, stand_in(self.operand, replaced))

    def _edit(self) -> "Edit":
        """The edit itself."""
        return self

    def check_rows(self, rank: int | None = None) -> None:
        """Raise if the edit names particular rows of the batch; see `Selection.check_rows`."""
        self.selection.check_rows(rank)
        self.selection.check_positions(self.operand, rank)

    def _plan_when_traced(self, signature: tuple[Any, ...], bound: Any) -> Plan:
        """The plan, for a compiler that reads bytecode."""
        if self._is_traced:  # made in the compiled function, so it cannot be passed on
            return make(self._with(stand_ins(signature)), *bound, is_traced=True)
        return _plan_of_edit(self, signature, bound)

    def with_index(self, index: Index) -> "Edit":
        """Return the same edit at another index."""
        selection = Selection(self.selection.coordinates, index, self.selection.condition)
        return self._like(selection, self.operand)

    def _like(self, selection: Selection, operand: Any) -> "Edit":
        return Edit(selection, self.op, operand, *[getattr(self, name) for name in _REST])

    def get_config(self) -> dict[str, Any]:
        """Return the edit as plain data for JSON.

        Raises:
            kedit.errors.SavingError: If the edit holds a tensor, or a function
                that is not registered with Keras.
        """
        return self._config(_encode)

    def _config(self, encode: Callable[[Any], Any]) -> dict[str, Any]:
        for value in (self.operand, self.selection.condition):
            if isinstance(value, Expression):  # before anything recurses into it
                value.check_saveable()
        if self.size is not None:
            check_whole("`size` of an edit that is saved", self.size, 0, LONGEST)
        plain, placeholders = take_out(self)
        learned = [describe(placeholder) for placeholder in placeholders]
        return {
            "coordinates": self.selection.coordinates,
            "index": plain.selection.index.to_json(),
            "condition": encode(plain.selection.condition),
            "op": self.op,
            "operand": encode(plain.operand),
            "casting": self.casting,
            "path": self.path,
            "part": self.part,
            **{n: to_json(v) if n == "fill_value" else v for n, v in self._options()},
            **({"trainables": learned} if learned else {}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Edit":
        """Create an edit from the result of `get_config()`, without running code.

        Raises:
            kedit.errors.SavingError: If `config` is not a result of `get_config()`.
        """
        with loading("A saved edit", config):
            edit, learned = cls._decoded(config)
            slots = _slots(edit)
            if list(dict.fromkeys(slots)) != list(range(len(learned))):
                raise refused(
                    f"A saved edit should have slots for each of its {len(learned)} `trainables`, "
                    "numbered in order",
                    slots,
                )
            filled: Edit = _run.fill(edit, learned) if learned else edit
            filled._check_same(config)
            return filled

    @classmethod
    def open_from_config(cls, config: dict[str, Any]) -> "Edit":
        """Like `from_config`, for an edit whose slots are filled with tensors on application."""
        with loading("A saved edit", config):
            edit, learned = cls._decoded(config)
            slots = _slots(edit)
            if learned or slots != list(range(len(slots))):
                raise refused("An edit of a node should have slots numbered in order", slots)
            for value in (edit.operand, edit.selection.condition):
                if isinstance(value, Expression) and value.compares_slots():
                    raise refused("A tensor should stand on the right of a comparison", config)
            edit._check_same(config)
            return edit

    @classmethod
    def _decoded(cls, config: Any) -> tuple["Edit", list[Any]]:
        """The edit with slots, and the placeholders that fill them."""
        fields = check_fields("A saved edit", config, _FIELDS, _OPTIONAL)
        check_one_of("coordinates", fields["coordinates"], ("at", "sample"))
        check_one_of("op", fields["op"], (*OPERATIONS,))
        selection = Selection(
            fields["coordinates"],
            Index.from_json(fields["index"]),
            _condition(fields["op"], fields["condition"]),
        )
        options = {name: fields[name] for name in _OPTIONS if name in fields}
        if "fill_value" in options:
            options["fill_value"] = from_json(options["fill_value"])
            if not is_scalar(options["fill_value"]):
                raise refused("`fill_value` should be a number", fields["fill_value"])
        if "size" in options:
            check_whole("`size`", options["size"], 0, LONGEST)
        operand = _operand(fields["op"], fields["operand"])
        where = (fields["casting"], fields["path"], fields["part"])
        edit = cls(selection, fields["op"], operand, *where, **options)
        return edit, [described(part) for part in fields.get("trainables", [])]

    def _check_same(self, config: dict[str, Any]) -> None:
        """Raise if this edit, which was created from `config`, has a different config."""
        # `custom_objects` may provide a function under another name.
        names = {"operand": self.operand, "condition": self.selection.condition}
        functions = {id(v): config[n] for n, v in names.items() if _is_function(v)}
        again = self._config(lambda v: functions[id(v)] if _is_function(v) else _encode(v))
        if self.op == "get" and self.casting != "same_kind":
            raise refused("`get` should have the casting 'same_kind'", self.casting)
        check_same("A saved edit", again, config)


class Spelled:
    """An edit of one tensor that is applied at once; its plan is looked up without parsing.

    Args:
        spelling: Coordinates, the index from `spell_index`, the condition from `spell_value`, the
            name of the operation, the operand from `spell_value`, and the other fields of `Edit`.
        leaves: The tensors and functions of the edit.
    """

    __slots__ = ("_leaves", "_spelling")
    _kept: ClassVar[dict[int, Any]] = {KEPT: ({}, {}), KEPT_WITH_ARRAYS: ({}, {})}

    def __init__(self, spelling: tuple[Any, ...], leaves: list[Any]) -> None:
        self._spelling = spelling
        self._leaves = leaves

    @property
    def _limit(self) -> int:
        return KEPT_WITH_ARRAYS if holds_arrays(self._spelling) else KEPT

    @property
    def _plans(self) -> dict[Any, Any]:
        plans: dict[Any, Any] = self._kept[self._limit][0]
        return plans

    @classmethod
    def forget(cls) -> None:
        """Drop all plans and edits that are kept."""
        for plans, edits in cls._kept.values():
            plans.clear()
            edits.clear()

    def _with(self, leaves: Any) -> Edit:
        """See `Edit._with`."""
        return edit_of(self._spelling, leaves)

    def _edit(self) -> Edit:
        """The edit itself; without leaves it is cached, and so keeps its plans."""
        if self._leaves:
            return self._with(self._leaves)
        edits = self._kept[self._limit][1]
        edit: Edit | None = edits.get(self._spelling)
        if edit is None:
            edit = self._with(())
            keep(edits, self._spelling, edit, self._limit)
        return edit

    def _plan_when_traced(self, signature: tuple[Any, ...], bound: Any) -> Plan:
        """See `Edit._plan_when_traced`."""
        coordinates, index, *rest = self._spelling
        return _plan_of_spelling((coordinates, as_number(index), *rest), signature, bound)


def edit_of(spelling: tuple[Any, ...], leaves: Any) -> Edit:
    """The edit that a `Spelled` stands for, with its leaves or their stand-ins."""
    coordinates, index, condition, op, operand, *options = spelling
    selection = Selection(coordinates, Index(index_of(index, leaves)), value_of(condition, leaves))
    values = value_of(operand, leaves)
    return Edit(selection, op, None if values is None else freeze_operand(values), *options)


@called_when_traced
def _plan_of_spelling(spelling: tuple[Any, ...], signature: tuple[Any, ...], bound: Any) -> Plan:
    return make(edit_of(spelling, stand_ins(signature)), *bound, is_traced=True)


@called_when_traced
def _plan_of_edit(edit: Edit, signature: tuple[Any, ...], bound: Any) -> Plan:
    return make(edit._with(stand_ins(signature)), *bound, is_traced=True)


@keras.saving.register_keras_serializable(package="kedit")
class EditSequence(Frozen):
    """A sequence of edits that are applied from left to right: `first | second`.

    Like `Edit`, a sequence is immutable and can be compared, printed, pickled and saved.

    Args:
        *edits: Edits and sequences of edits, which are joined into one sequence.

    Call arguments:
        x: As for `Edit`.
        *rest: As for `Edit`.

    Gradient:
        The gradients of the edits, by the chain rule.

    Example:
    >>> both = kedit.at[..., 0].set(0.0) | kedit.at[..., 1].add(1.0)
    >>> both(np.ones(3)).tolist()
    [0.0, 2.0, 1.0]
    """

    __slots__ = ("__weakref__", "edits")
    edits: tuple[Edit, ...]

    def __init__(self, *edits: "Edit | EditSequence") -> None:
        for edit in edits:
            if not isinstance(edit, (Edit, EditSequence)):
                raise OperandError(
                    "A sequence should be made of edits. Received: "
                    f"{edit!r} of type {type(edit).__name__}. Finish it with an operation, as "
                    "in `at[0].set(1.0) | at[1].set(2.0)`."
                )
        flat = tuple(edit for part in edits for edit in part.edits)
        for edit in flat:
            if edit.op == "get":
                raise OperandError(
                    "A sequence should be made of edits that give a whole tensor. Received: "
                    f"`{edit!r}`. Apply the edits first: `at(edits(x))[...].get()`."
                )
        self._init(edits=flat)

    def __call__(self, x: Any, *rest: Any) -> Any:
        batch = (x, *rest) if rest else x
        for edit in self.edits:
            batch = edit(batch)
        return batch

    def on(self, path: str | None = None, *, part: Part = "x") -> "EditSequence":
        """Return the same edits for one array of nested data; see `Edit.on`."""
        return EditSequence(*(edit.on(path, part=part) for edit in self.edits))

    def __or__(self, other: Any) -> "EditSequence":
        return EditSequence(self, other)

    def __add__(self, other: Any) -> NoReturn:
        joined(self, other)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EditSequence) or self.edits != other.edits:
            return False
        return same_weights(self._held()) == same_weights(other._held())

    def __hash__(self) -> int:
        return hash(self.edits)

    def __repr__(self) -> str:
        names = Names(self._held())
        codes = [edit._code(names) for edit in self.edits]
        return " | ".join(codes) if len(codes) > 1 else f"EditSequence({', '.join(codes)})"

    def plot(self, x: Any, ax: Any = None) -> Any:
        """Draw a tensor before the first edit and after the last one; see `Edit.plot`.

        Raises:
            kedit.errors.OperandError: As for `Edit.plot`, or if the edits are on
                different arrays.
        """
        return _plot(self, x, ax)

    def _repr_html_(self) -> str:
        """The edits in a notebook, in the order in which they are applied."""
        return html.ordered([edit._repr_html_() for edit in self.edits])

    def __reduce__(self) -> Any:
        return (EditSequence, self.edits)

    def _held(self) -> list[Any]:
        return [placeholder for edit in self.edits for placeholder in edit._held]

    def get_config(self) -> dict[str, Any]:
        """Return the edits as plain data for JSON; see `Edit.get_config`."""
        held = [placeholder for edit in self.edits for placeholder in take_out(edit)[1]]
        weights = same_weights(held)
        is_shared = len(set(weights)) < len(weights)  # by several edits
        edits = [edit.get_config() for edit in self.edits]
        return {"edits": edits, **({"weights": list(weights)} if is_shared else {})}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "EditSequence":
        """Create a sequence from the result of `get_config()`, without running code."""
        with loading("A saved sequence of edits", config):
            fields = check_fields(
                "A saved sequence of edits", config, {"edits": list}, {"weights": list}
            )
            edits = [Edit.from_config(edit) for edit in fields["edits"]]
            if "weights" not in fields:
                return cls(*edits)
            count = len(same_weights([held for edit in edits for held in take_out(edit)[1]]))
            if len(fields["weights"]) != count:
                raise refused(f"`weights` should have {count} numbers", fields["weights"])
            made = cls(*_joined_weights(edits, fields["weights"]))
            if made.get_config().get("weights") != fields["weights"]:
                raise refused(
                    "`weights` should say which trainables of several edits are one",
                    fields["weights"],
                )
            return made


def _joined_weights(edits: list[Edit], numbers: list[Any]) -> list[Edit]:
    """The edits with one object in place of all placeholders with the same number."""
    left = iter(numbers)
    found: dict[Any, Any] = {}
    joined = []
    for edit in edits:
        plain, held = take_out(edit)
        chosen = []
        for placeholder in held:
            one = found.setdefault(next(left), placeholder) if placeholder.owns_weight else None
            if one is not None and one != placeholder:
                raise refused("Trainables that are one weight should be equal", numbers)
            chosen.append(one or placeholder)
        joined.append(_run.fill(plain, chosen) if chosen else edit)
    return joined


def choice_of(edit: Edit) -> Expression | None:
    """The choice that an edit makes by `set(values, otherwise=...)`, or None."""
    operand = edit.operand
    is_choice = isinstance(operand, Expression) and operand.name == "choose" and edit.op == "set"
    return operand if is_choice and edit.selection.condition is None else None


def condition_of(edit: Edit) -> Any:
    """The condition that narrows an edit, or by which it chooses."""
    choice = choice_of(edit)
    return edit.selection.condition if choice is None else choice.args[0]


def _plot(edits: Edit | EditSequence, x: Any, ax: Any) -> Any:
    """See `Edit.plot`."""
    places = {(edit.path, edit.part) for edit in edits.edits} or {(None, "x")}
    if any([edit.op == "get" for edit in edits.edits]):
        raise OperandError(
            "A plot should be given an edit that changes elements. Received: "
            f"`{edits!r}`, which reads them. Read them from a tensor: `at(x)[...].get()`."
        )
    if len(places) > 1:
        raise OperandError(
            "A plot should be given edits of one array. Received: edits of "
            f"{sorted([path or part for path, part in places])}. Plot them one by one: "
            "`edits.edits[0].plot(x)`."
        )
    ((path, part),) = places
    if path is None and part == "x" and isinstance(x, STRUCTURES) and is_batch(x):
        is_named = isinstance(x, Mapping) and len(x) > 0
        fix = f"edit.on({str(next(iter(x)))!r}).plot(x)" if is_named else "edit.plot(x[0])"
        raise OperandError(
            f"`x` should be one array. Received: a {type(x).__name__} of arrays. Write `{fix}`."
        )
    before = plots.values_of(leaf_at(x, path, part))
    after = plots.values_of(leaf_at(edits(x), path, part))
    return plots.draw_change(before, after, repr(edits), ax)


def joined(edit: Any, other: Any) -> NoReturn:
    """Raise for edits that are joined by `+`."""
    raise OperandError(
        f"Edits should be joined by `|`. Received: `{edit!r} + {other!r}`. Write `first | second`; "
        "the first one is applied first."
    )


def check_is_edit(what: str, edit: Any, fix: str) -> None:
    """Raise if `edit` is not an edit; the message says what takes one, and shows `fix`."""
    if hasattr(edit, "draw"):
        raise OperandError(
            f"{what} should be given one edit for all samples. Received: `{edit!r}`, which draws "
            "one for each. In a model, write `RandomEditing(sample[...].set(0.0), block=(8, 8))`; "
            "on data, `EditedDataset(dataset, random_edit)` or `random_edit(x, index=[0, 1])`."
        )
    if not isinstance(edit, (Edit, EditSequence)):
        raise OperandError(
            f"{what} should be given an edit. Received: {edit!r} of type {type(edit).__name__}. "
            f"Write `{fix}`."
        )


def check_weight_edit(edit: Any) -> None:
    """Raise if `edit` is not an edit of one whole weight."""
    check_is_edit("A weight", edit, "at[0, 1].set(0.0)")
    for part in edit.edits:
        if part.selection.coordinates == "sample":
            place = Selection("at", part.selection.index, part.selection.condition)
            raise CoordinateError(
                "A weight has no batch, so that its edit should be counted by `at`. Received: "
                f"`{part!r}`. Write `{place!r}.{part.op}(...)`."
            )
        if part.op == "get" or part.path is not None or part.part != "x" or part.placeholders():
            raise OperandError(
                "A weight should be given an edit of one whole tensor, without a Trainable. "
                f"Received: `{part!r}`. Drop `.get()` or `.on(...)`, or write a number."
            )


def check_one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise if `value` is not one of those allowed."""
    if value not in allowed:
        raise OperandError(f"`{name}` should be one of {allowed}. Received: {name}={value!r}.")


def edit_from_json(data: Any) -> Edit | EditSequence:
    """Load the edit or sequence that `keras.saving.serialize_keras_object` wrote."""
    with loading("A saved edit", data):
        fields = check_fields(
            "What Keras says of a saved edit",
            data,
            {
                "module": (str, type(None)),
                "class_name": str,
                "config": dict,
                "registered_name": (str, type(None)),
            },
            {"shared_object_id": int},
        )
        made: Any = {"kedit>Edit": Edit, "kedit>EditSequence": EditSequence}.get(
            fields["registered_name"]
        )
        if made is None or made.__name__ != fields["class_name"]:
            raise refused("A saved edit should be a `kedit.Edit` or a `kedit.EditSequence`", data)
        edit: Edit | EditSequence = made.from_config(fields["config"])
        return edit


_FIELDS: dict[str, Any] = {
    "coordinates": str,
    "index": list,
    "condition": object,
    "op": str,
    "operand": object,
    "casting": str,
    "path": (str, type(None)),
    "part": str,
}
_OPTIONAL: dict[str, Any] = {
    "mode": str,
    "fill_value": object,
    "size": int,
    "unique_indices": bool,
    "indices_are_sorted": bool,
    "trainables": list,
}


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, Expression)


def _slots(edit: Edit) -> list[int]:
    """The numbers of the slots, in the order that `map` visits them."""
    found: list[int] = []

    def look(leaf: Any) -> Any:
        if isinstance(leaf, Slot):
            found.append(leaf.number)
        return leaf

    edit.map(look)
    return found


def _encode(value: Any) -> Any:
    if isinstance(value, Expression):
        return value.to_json(_encode)
    if not _is_function(value):
        return to_json(value)
    name = keras.saving.get_registered_name(value)
    if keras.saving.get_registered_object(name) is not value:
        raise SavingError(
            "A function in an edit that is saved should be registered with Keras. Received: "
            f"{code_of(value)}. Write `@keras.saving.register_keras_serializable()` above it, or "
            "use an expression over `X`."
        )
    return {"function": name}


def _decode(data: Any) -> Any:
    """Load an expression, a registered function, a number, an array or a slot."""
    if isinstance(data, dict) and "expression" in data:
        return Expression.from_json(data, _decode)
    if not isinstance(data, dict) or "function" not in data:
        return from_json(data)
    name = check_fields("A function", data, {"function": str})["function"]
    function = keras.saving.get_registered_object(name)
    if not _is_function(function) or isclass(function):
        raise SavingError(
            "A function in a saved edit should be a function, and registered before the edit is "
            f"loaded. Received: {received(name)}. Import the module that registers it."
        )
    return function


def _operand(op: str, data: Any) -> Any:
    """Load the operand, and raise if the method of the operation does not take it."""
    if op == "get":
        if data is not None:
            raise refused("`get` should have no operand", data)
        return None
    operand = _decode(data)
    if isinstance(operand, Expression) and operand.name == "choose" and op != "set":
        raise refused("A choice should be made by `set`", data)
    fits = isinstance(operand, Expression) or _is_function(operand) == (op == "apply")
    if not fits:
        takes = "a function or an expression" if op == "apply" else "a number, array or expression"
        raise refused(f"`{op}` should be given {takes}", data)
    return operand


def _condition(op: str, data: Any) -> Any:
    """Load the condition, and raise if `where` does not take it."""
    if data is None:
        return None
    condition = _decode(data)
    fits = is_saved_condition(condition) or _is_function(condition)
    if not fits or op == "get":
        expected = "A condition should give booleans" if op != "get" else "`get` has no condition"
        raise refused(expected, data)
    return condition
