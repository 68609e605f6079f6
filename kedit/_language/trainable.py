"""`Trainable`: an operand that becomes a weight when a layer owns the edit."""

import copy
import json
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from kedit._language.constants import (
    Array,
    Placeholder,
    Slot,
    freeze,
    from_json,
    is_scalar,
    shape_of,
    to_code,
    to_json,
    to_key,
)
from kedit._language.decoding import (
    check_dtype,
    check_fields,
    check_same,
    check_shape,
    loading,
    received,
    refused,
)
from kedit._language.expression import Operators
from kedit._language.types import Shape
from kedit.errors import OperandError, SavingError, ShapeError


@keras.saving.register_keras_serializable(package="kedit")
class Trainable(Operators, Placeholder):
    """An operand of an edit that becomes a weight of the layer that applies the edit.

    Use it wherever a number can be used: as the values; in an expression, such as
    `X * Trainable(1.0)`; or in a condition, such as `X > Trainable(5.0)` or
    `Trainable("zeros") > 0.0`. Like `kedit.Edit`, it is immutable and can be compared,
    printed, pickled and saved.

    One object is one weight, wherever it occurs in the edit of a layer. Two objects are
    two weights, even if they are equal, unless they have the same name.

    Args:
        initializer: Initial value of the weight: a number, an array, or a Keras
            initializer or its name.
        shape: Shape of the weight, which must broadcast to the selection. Defaults
            to None: `()` for a number, and the shape of an array. An initializer
            then creates one value for each selected position inside a sample, with
            size 1 along axes of unknown size; of an object that is used more than once,
            where it is used first.
        constraint: Keras constraint for the weight, or its name. Defaults to None.
        regularizer: Keras regularizer for the weight, or its name. Defaults to None.
        name: Name of the weight. The same name in the edits of one layer means the
            same weight. Defaults to None: "values", or "threshold" in a condition.
        trainable: Whether `fit` trains the weight. If False, it is a variable to assign
            to, such as a temperature that sinks while other weights are trained.
            Defaults to True.

    Raises:
        kedit.errors.OperandError: If an argument is invalid.
        kedit.errors.ShapeError: If an array does not broadcast to `shape`.

    Gradient:
        The gradient that the operation gives its values. No gradient flows through
        a condition, unless the layer has a surrogate gradient; see
        `kedit.layers.Editing`.

    Example:
    >>> edit = kedit.sample[..., 2].add(kedit.Trainable("zeros"))
    >>> edit
    sample[..., 2].add(Trainable('zeros'))
    >>> layer = kedit.layers.Editing(edit)
    >>> layer(ops.ones((8, 5, 3))).shape == (8, 5, 3)
    True
    >>> tuple(layer.weights[0].shape)
    (5,)
    >>> t = kedit.Trainable(0.5)
    >>> kedit.sample.where(X > t).set(t)  # one weight
    sample.where(X > (t := Trainable(0.5))).set(t)
    """

    __slots__ = ("constraint", "initializer", "name", "regularizer", "shape", "trainable")
    home = "a layer, which owns the weight"
    owns_weight = True
    fix = "kedit.layers.Editing({edit!r})(x)"
    initializer: Any
    shape: tuple[int, ...] | None
    constraint: Any
    regularizer: Any
    name: str | None
    trainable: bool

    def __init__(
        self,
        initializer: Any,
        shape: Any = None,
        constraint: Any = None,
        regularizer: Any = None,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        if name is not None and (not isinstance(name, str) or "/" in name or not name):
            raise OperandError(f"`name` should be a str without '/'. Received: name={name!r}.")
        if type(trainable) is not bool:
            raise OperandError(f"`trainable` should be a bool. Received: trainable={trainable!r}.")
        self._init(
            initializer=_start(initializer),
            shape=None if shape is None else _shape(shape),
            constraint=_description("constraint", constraint),
            regularizer=_description("regularizer", regularizer),
            name=name,
            trainable=trainable,
        )
        if isinstance(self.initializer, Array) and self.shape is not None:
            try:
                fits = np.broadcast_shapes(self.initializer.shape, self.shape) == self.shape
            except ValueError:
                fits = False
            if not fits:
                raise ShapeError(
                    f"An array to start from should broadcast to the shape, {self.shape}. "
                    f"Received: shape {self.initializer.shape}. Drop `shape`."
                )

    def key(self) -> Any:
        options = (self.constraint, self.regularizer, self.shape, self.name, self.trainable)
        start = _key(self.initializer)
        return ("trainable", start, *(_key(option) for option in options))

    def __repr__(self) -> str:
        arguments = [_code("initializers", self.initializer)]
        arguments += [f"shape={self.shape}"] if self.shape is not None else []
        for name in ("constraint", "regularizer"):
            value = getattr(self, name)
            arguments += [f"{name}={_code(name + 's', value)}"] if value is not None else []
        arguments += [f"name={self.name!r}"] if self.name is not None else []
        arguments += [] if self.trainable else ["trainable=False"]
        return f"Trainable({', '.join(arguments)})"

    def __reduce__(self) -> Any:
        options = (self.constraint, self.regularizer, self.name, self.trainable)
        return (Trainable, (self.initializer, self.shape, *options))

    def shape_for(self, selected: Shape) -> tuple[int, ...]:
        """Shape of the weight for a selection of shape `selected`, with None for the batch."""
        if self.shape is not None:
            return self.shape
        if is_scalar(self.initializer) or isinstance(self.initializer, Array):
            return tuple(size or 0 for size in shape_of(self.initializer))
        inside = selected[1:] if selected and selected[0] is None else selected
        return tuple(1 if size is None else size for size in inside)

    def add_to(self, layer: Any, selected: Shape, name: str) -> Any:
        """Add the weight to a layer."""
        start = self.initializer
        if is_scalar(start) or isinstance(start, Array):
            array = start.array if isinstance(start, Array) else start
            start = keras.initializers.Constant(array)
        return layer.add_weight(
            name=name,
            shape=self.shape_for(selected),
            initializer=copy.deepcopy(start),  # Keras modifies descriptions
            constraint=keras.constraints.get(copy.deepcopy(self.constraint)),
            regularizer=keras.regularizers.get(copy.deepcopy(self.regularizer)),
            trainable=self.trainable,
        )

    def starting_from(self, value: Any) -> "Trainable":
        """Return the same operand with another initial value: a number or an array."""
        options = (self.constraint, self.regularizer, self.name, self.trainable)
        return Trainable(value, None, *options)

    def get_config(self) -> dict[str, Any]:
        """Return the operand as plain data for JSON."""
        start = self.initializer
        is_value = is_scalar(start) or isinstance(start, Array)
        return {
            "initializer": to_json(start) if is_value else copy.deepcopy(start),
            "shape": None if self.shape is None else list(self.shape),
            "constraint": copy.deepcopy(self.constraint),
            "regularizer": copy.deepcopy(self.regularizer),
            "name": self.name,
            **({} if self.trainable else {"trainable": False}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Trainable":
        """Create an operand from the result of `get_config()`, without running code."""
        with loading("A saved Trainable", config):
            fields = check_fields("A saved Trainable", config, _FIELDS, {"trainable": bool})
            start = fields["initializer"]
            described = isinstance(start, str) or (
                isinstance(start, dict) and "class_name" in start
            )
            if not described:
                start = from_json(start)
            if isinstance(start, Slot):
                raise refused("A saved Trainable should start from numbers", config)
            for kind in ("initializer", "constraint", "regularizer"):
                if kind != "initializer" or described:
                    _check_description(kind, fields[kind])
            if fields["shape"] is not None:
                check_shape("A saved Trainable", fields["shape"])
            made = cls(**{**fields, "initializer": start})
            check_same("A saved Trainable", made.get_config(), config)
            return made


_FIELDS: dict[str, Any] = {
    "initializer": object,
    "shape": (list, type(None)),
    "constraint": (str, dict, type(None)),
    "regularizer": (str, dict, type(None)),
    "name": (str, type(None)),
}


def _check_description(kind: str, data: Any) -> None:
    """Raise for data from which Keras would create something else, or allocate much memory."""
    inside = [data]
    while inside:
        part = inside.pop()
        if isinstance(part, dict):
            inside += part.values()
            name, config = part.get("class_name"), part.get("config")
            if name in ("__numpy__", "__tensor__"):
                check_dtype(config.get("dtype") if isinstance(config, dict) else config)
            elif isinstance(name, str) and (name in _CODE or name.startswith("__lambda")):
                raise refused(f"`{kind}` should hold no code", part)
        elif isinstance(part, (list, tuple)):
            inside += part
    if isinstance(data, dict):
        check_fields(f"`{kind}`", data, {"class_name": str}, _KERAS)
        made = getattr(keras, f"{kind}s").get(copy.deepcopy(data))
        if not isinstance(made, getattr(getattr(keras, f"{kind}s"), kind.title())):
            raise refused(f"`{kind}` should be one of Keras's", data)


_KERAS: dict[str, Any] = {
    "config": dict,
    "module": (str, type(None)),
    "registered_name": (str, type(None)),
    "build_config": dict,
    "shared_object_id": int,
}
_CODE = ("function", "Lambda", "__typespec__")


def take_out(edit: Any) -> tuple[Any, list[Any]]:
    """The edit with a `Slot` in place of each placeholder, and the placeholders in order.

    One object that owns a weight has one slot, even if it occurs more than once.
    """
    found: list[Any] = []

    def slot(leaf: Any) -> Any:
        if not isinstance(leaf, Placeholder):
            return leaf
        number = number_of(leaf, found) if leaf.owns_weight else len(found)
        if number == len(found):
            found.append(leaf)
        return Slot(number)

    plain = edit.map(slot) if edit.placeholders() else edit
    return plain, found


def same_weights(placeholders: Iterable[Placeholder]) -> tuple[int, ...]:
    """For each placeholder that owns a weight, the number of its weight."""
    found: list[Any] = []
    numbers = []
    for placeholder in placeholders:
        if placeholder.owns_weight:
            numbers.append(number_of(placeholder, found))
            if numbers[-1] == len(found):
                found.append(placeholder)
    return tuple(numbers)


class Named(Placeholder):
    """Stands for a placeholder that occurs more than once, and prints as a name for it."""

    __slots__ = ("code",)
    code: str

    def __init__(self, code: str) -> None:
        self._init(code=code)

    def __repr__(self) -> str:
        return self.code


class Names:
    """Names for the weights that occur more than once in code: `(t := Trainable(0.5))`, `t`."""

    def __init__(self, placeholders: Iterable[Placeholder]) -> None:
        owners = [id(placeholder) for placeholder in placeholders if placeholder.owns_weight]
        self._shared = [owner for owner in dict.fromkeys(owners) if owners.count(owner) > 1]
        self._known: dict[int, str] = {}

    def __call__(self, leaf: Any) -> Any:
        """`leaf`, or its name, with its code where it is used first."""
        if id(leaf) not in self._shared:
            return leaf
        if id(leaf) in self._known:
            return Named(self._known[id(leaf)])
        name = self._known[id(leaf)] = f"t{len(self._known) or ''}"
        return Named(f"({name} := {leaf!r})")


def number_of(leaf: Any, found: list[Any]) -> int:
    """The number of an object in a list, or of the next one that the list will have."""
    return next((number for number, known in enumerate(found) if known is leaf), len(found))


def describe(placeholder: Placeholder) -> dict[str, Any]:
    """A placeholder of any kind as data for JSON."""
    config = placeholder.get_config()
    if isinstance(placeholder, Trainable):
        return config
    return {"placeholder": keras.saving.get_registered_name(type(placeholder)), "config": config}


def described(data: dict[str, Any]) -> Placeholder:
    """Load a placeholder from the result of `describe`, without running code."""
    if not isinstance(data, dict) or "placeholder" not in data:
        return Trainable.from_config(data)
    fields = check_fields("A saved operand", data, {"placeholder": str, "config": dict})
    kind = keras.saving.get_registered_object(fields["placeholder"])
    if not (isinstance(kind, type) and issubclass(kind, Placeholder)) or kind is Trainable:
        raise SavingError(
            "A saved edit should hold operands that kedit knows. Received: "
            f"{received(fields['placeholder'])}. Import the module that registers it."
        )
    made: Placeholder = kind.from_config(fields["config"])
    return made


def _start(initializer: Any) -> Any:
    if isinstance(initializer, (str, dict, type, keras.initializers.Initializer)):
        return _description("initializer", initializer)
    if initializer is None or callable(initializer):
        raise OperandError(
            "A Trainable should start from a number, an array or a Keras initializer. Received: "
            f"{initializer!r}. Write `Trainable('zeros')`."
        )
    start = freeze(initializer)
    if not (is_scalar(start) or isinstance(start, Array)):
        raise OperandError(
            "A Trainable should start from what is known beforehand. Received: "
            f"{to_code(start)}. Write `Trainable(keras.ops.convert_to_numpy(values))`."
        )
    return start


def _shape(shape: Any) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not all(type(size) is int and size > 0 for size in sizes):
        raise OperandError(f"`shape` should hold positive ints. Received: shape={shape!r}.")
    return sizes


def _description(kind: str, given: Any) -> Any:
    """A Keras object as data; a name or data that Keras knows is returned as it is."""
    module = getattr(keras, f"{kind}s")
    try:
        made = module.get(copy.deepcopy(given))
        if given is None or isinstance(given, str):
            return given
        return module.serialize(made) if not isinstance(given, dict) else copy.deepcopy(given)
    except (ValueError, TypeError) as error:
        raise OperandError(
            f"`{kind}` should be one of Keras's or its name. Received: {kind}={given!r}."
        ) from error


def _key(value: Any) -> Any:
    if isinstance(value, (dict, tuple)):
        return json.dumps(value, sort_keys=True)
    return to_key(value)


def _code(module: str, value: Any) -> str:
    if not isinstance(value, dict):
        return to_code(value)
    options = [f"{k}={v!r}" for k, v in (value.get("config") or {}).items() if v is not None]
    return f"keras.{module}.{value['class_name']}({', '.join(options)})"
