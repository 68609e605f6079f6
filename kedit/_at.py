"""`at` and `sample`: the syntax of edits, `at(x)[index].set(values)`."""

from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from kedit._edit import Edit, Spelled
from kedit._language.batch import STRUCTURES
from kedit._language.compiler import reads_bytecode
from kedit._language.constants import Array, freeze, is_scalar, is_tensor, to_code
from kedit._language.expression import Expression, X, choose
from kedit._language.index import Index
from kedit._language.mistakes import (
    NotATensor,
    assigned,
    changed_in_place,
    name_mistakes,
)
from kedit._language.pickling import pickled
from kedit._language.selection import Selection, freeze_operand
from kedit._language.spelling import index_of, spell_index, spell_value, value_of
from kedit._language.types import Casting, Coordinates, Mode, Tensor
from kedit._run import apply
from kedit.errors import DTypeError, OperandError

Made = TypeVar("Made")
"""What operations return: an `Edit`, or a tensor of the type of the one that is bound."""

Given = TypeVar("Given")


class _LATER:
    """Placeholder for the tensor of an edit that is applied later. A class survives copying."""


@pickled
class At(Generic[Made]):
    """`at(x)[index]` edits a tensor now; `at[index]` makes an edit to apply later.

    `kedit.at` counts axes from the first axis of the array, as NumPy does.
    `kedit.sample` counts axes inside one sample, starting after the batch axis.
    `at(x)[i].op(v)` is the same as `at[i].op(v)(x)`.

    The index can be anything that NumPy accepts: integers, slices with any step,
    `...`, `None`, and lists or arrays of integers or booleans, in any combination.
    An index that does not fit raises an error. A tensor can be used in place of an
    integer or an array. Its values are known only when the model runs, so positions
    in it that are out of bounds are dropped. `kedit.each` selects different
    positions in each sample, and `kedit.block` a block whose start can be a tensor.

    Example:
    >>> x = ops.zeros((2, 3))
    >>> y = kedit.at(x)[0, 2].set(100.0)
    >>> ops.convert_to_numpy(y).tolist()
    [[0.0, 0.0, 100.0], [0.0, 0.0, 0.0]]
    >>> y = kedit.sample[2].set(100.0)(x)
    >>> ops.convert_to_numpy(y).tolist()
    [[0.0, 0.0, 100.0], [0.0, 0.0, 100.0]]
    """

    __slots__ = ("_coordinates", "_x")

    def __init__(self, coordinates: Coordinates, x: Any = _LATER) -> None:
        self._coordinates = coordinates
        self._x = x

    @overload
    def __call__(self, x: list[Any] | complex) -> "At[NDArray[Any]]": ...

    @overload
    def __call__(self, x: Given) -> "At[Given]": ...

    def __call__(self, x: Any) -> "At[Any]":
        """Bind a tensor, so that operations apply at once."""
        return At(self._coordinates, x)

    def __reduce__(self) -> Any:
        return (At, (self._coordinates, *(() if self._x is _LATER else (self._x,))))

    def __getitem__(self, index: Any) -> "Place[Made]":
        if self._x is not _LATER:
            leaves: list[Any] = []
            spelled = spell_index(index, leaves)
            if spelled is not None:
                return Place(None, self._x, (self._coordinates, spelled, ()), leaves)
        return Place(Selection(self._coordinates, Index(index)), self._x)

    def where(self, condition: Any) -> "Place[Made]":
        """Select all elements that meet a condition; see `Place.where`."""
        return self[...].where(condition)

    def __setitem__(self, index: Any, values: Any) -> None:
        assigned(self._code())

    def _code(self) -> str:
        return self._coordinates if self._x is _LATER else f"{self._coordinates}(x)"

    __iter__ = None  # otherwise Python would try `at[0], at[1], ...` forever
    __contains__ = None

    def __repr__(self) -> str:
        return self._coordinates if self._x is _LATER else f"{self._coordinates}({self._x!r})"


@pickled
class Place(NotATensor, Generic[Made]):
    """Selected elements, waiting for an operation.

    Created by `at[index]` and `at.where(condition)`. With a tensor, as in
    `at(x)[index]`, an operation returns a new tensor with the shape and dtype of
    `x` (`get` returns the elements). Without a tensor it returns an `Edit`.
    Operations that write take the options of `set`. Operations raise
    `kedit.errors.PositionError` (an `IndexError`) if the index does not fit,
    `kedit.errors.ShapeError` (a `ValueError`) if the values do not fit, and
    `kedit.errors.DTypeError` (a `TypeError`) if the dtype does not fit.
    """

    __slots__ = ("_leaves", "_selection", "_spelled", "_x")

    def __init__(
        self, selection: Selection | None, x: Any = _LATER, spelled: Any = None, leaves: Any = ()
    ) -> None:
        self._selection = selection
        self._x = x
        self._spelled = spelled
        self._leaves = leaves

    @property
    def selection(self) -> Selection:
        """The coordinates, index and condition that select the elements."""
        if self._selection is None:
            coordinates, index, condition = self._spelled
            items = Index(index_of(index, self._leaves))
            self._selection = Selection(coordinates, items, value_of(condition, self._leaves))
        return self._selection

    def __repr__(self) -> str:
        code = repr(self.selection)
        if self._x is _LATER:
            return code
        coordinates = self.selection.coordinates
        x = to_code(self._x) if is_tensor(self._x) else f"<{_described(self._x)}>"
        return f"{coordinates}({x}){code.removeprefix(coordinates)}"

    def __reduce__(self) -> Any:
        return (Place, (self.selection, *(() if self._x is _LATER else (self._x,))))

    def __setitem__(self, index: Any, values: Any) -> None:
        assigned(self.selection.coordinates)

    def _used_as_tensor(self) -> NoReturn:
        raise OperandError(
            f"A selection should be finished with an operation. Received: `{self!r}`. Read its "
            "elements, `.get()`, or change them, as in `.add(1.0)` or `.set(X + 1.0)`."
        )

    __iter__ = __len__ = NotATensor._refuse
    __iadd__ = changed_in_place("add")
    __isub__ = changed_in_place("subtract")
    __imul__ = changed_in_place("multiply")
    __itruediv__ = changed_in_place("divide")
    __ipow__ = changed_in_place("power")

    def _has_condition(self) -> bool:
        if self._spelled is not None:  # without parsing it
            return bool(self._spelled[2])
        return self.selection.condition is not None

    def where(self, condition: Any) -> "Place[Made]":
        """Narrow the selection to the elements that meet a condition.

        Args:
            condition: Expression over `X`, such as `X > 5.0`; boolean array or
                tensor that broadcasts to the selection; or function that takes
                the selected elements and returns booleans of the same shape.

        Gradient:
            No gradient flows through the condition. Operations run only on the
            elements that meet it, so no NaN flows back from the others.

        Example:
        >>> x = np.array([1.0, np.nan, 9.0])
        >>> kedit.at(x).where(kedit.X.isnan()).set(0.0).tolist()
        [1.0, 0.0, 9.0]
        >>> kedit.at(x)[1:].where(kedit.X > 5.0).multiply(2.0).tolist()
        [1.0, nan, 18.0]
        """
        spelling = self._spelled
        if self._has_condition():
            raise OperandError(
                "A selection should have one condition. Received: a second one, "
                f"{condition!r}, after {self.selection.condition!r}. Join them: "
                "`.where((X > 0) & (X < 1))`."
            )
        if isinstance(condition, Expression):
            if not condition.is_condition and condition.name != "X":
                raise DTypeError(
                    "A condition should give booleans. Received: "
                    f"`{condition!r}`. Compare, as in `.where({condition!r} > 0)`."
                )
        elif not callable(condition) and not _is_mask(condition):
            condition = freeze(condition)
            if is_scalar(condition) or (isinstance(condition, Array) and condition.dtype != "bool"):
                raise DTypeError(
                    "A condition should be an expression over `X`, a boolean mask or a function "
                    f"that gives one. Received: {to_code(condition)}. Write `.where(mask != 0)`."
                )
        if spelling is not None:
            leaves = list(self._leaves)
            spelled = spell_value(condition, leaves)
            if spelled is not None:
                return Place(None, self._x, (*spelling[:2], spelled), leaves)
        place = self.selection
        frozen = freeze(condition) if _is_mask(condition) else condition
        return Place(Selection(place.coordinates, place.index, frozen), self._x)

    def get(
        self,
        *,
        mode: Mode | None = None,
        fill_value: complex | None = None,
        size: int | None = None,
        unique_indices: bool = False,
        indices_are_sorted: bool = False,
    ) -> Made:
        """Return the selected elements, in NumPy's layout: `x[index]`.

        Args:
            mode: As for `set`. Positions that are dropped return `fill_value`.
            fill_value: Number to return where there is no element. Defaults to
                NaN for floats and complex numbers, the smallest value for signed
                integers, the largest value for unsigned integers, and True for
                booleans.
            size: Number of elements to return for a mask. Missing elements are
                filled with `fill_value`, extra ones are left out. Required for a
                mask that is a tensor in a compiled function or a model, where
                the shape must be known. Defaults to None: one for each True.
            unique_indices: As for `set`.
            indices_are_sorted: As for `set`.

        Returns:
            A new tensor with the shape of `x[index]` and the dtype of `x`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, an `OperandError` (a `TypeError`) if there is a
                condition.

        Gradient:
            `x` receives the upstream gradient at the index, summed where the
            index names an element more than once, and 0 elsewhere.

        Example:
        >>> y = kedit.at(ops.arange(6.0))[[4, 0, 4]].get()
        >>> ops.convert_to_numpy(y).tolist()
        [4.0, 0.0, 4.0]
        """
        if self._has_condition():
            raise OperandError(
                "`get` of a condition has no shape that is known beforehand. Received: "
                f"`{self.selection!r}.get()`. Keep the shape instead: "
                "`keras.ops.where(condition, x, 0.0)`."
            )
        fill = None if fill_value is None else freeze(fill_value)
        if fill is not None and not is_scalar(fill):
            raise OperandError(f"`fill_value` should be a number. Received: {to_code(fill)}.")
        options = (mode, fill, size, unique_indices, indices_are_sorted)
        return self._finish("get", None, "same_kind", options)

    def set(
        self,
        values: Any,
        *,
        otherwise: Any = None,
        casting: Casting = "same_kind",
        mode: Mode | None = None,
        unique_indices: bool = False,
        indices_are_sorted: bool = False,
    ) -> Made:
        """Return a copy with `values` written at the index: `x[index] = values`.

        If the index names an element more than once, the last value in C order
        wins.

        Args:
            values: Number, array or tensor that broadcasts to the shape of the
                selection and has no more axes than it; or expression over `X`,
                which stands for the selected elements. In `sample[...]`, the
                shape of the selection starts with the batch axis. Along an axis
                of unknown size, such as the batch in a layer, an array must have
                size 1. For a mask that is a tensor, give one value for all, or
                one for each True in C order; extra values are ignored.
            otherwise: Values for the selected elements that do not meet the condition of
                `.where`, of the same kinds as `values`. `X` stands for the elements as
                they were; each of the two is computed only where it is chosen.
                Defaults to None: these elements stay as they are.
            casting: How to cast the values to the dtype of the tensor. "same_kind"
                raises for a float in an integer tensor, a complex number in a
                float tensor, and a number out of range. "unsafe" computes in the
                dtype that NumPy promotes to (at most 32 bits on JAX) and
                saturates the result: fractions are truncated toward zero,
                integers are clipped to their range, and NaN becomes 0. Defaults
                to "same_kind".
            mode: What happens to positions out of bounds, after negative ones have
                been counted from the end, once. "drop" (or "fill") writes nothing
                there and sends no gradient back. "clip" moves them to the nearest
                end; "wrap" counts on from the other end. "promise_in_bounds" may
                be faster, but picks an arbitrary position if the promise is
                broken. "raise" raises an error, also for positions in tensors. It
                is not allowed where tensors have no values yet: in a compiled
                function, in a model, or on an axis of unknown size. Defaults to
                None: positions in constants, such as integers and arrays, raise;
                positions in tensors, and in constants on an axis of unknown size,
                are dropped.
            unique_indices: Promise that no two positions in tensors name the same
                element after `mode` has moved them. This saves finding the last
                value. If the promise is broken, any of the values may be lost.
                Defaults to False.
            indices_are_sorted: Promise that positions in tensors ascend after
                `mode` has moved them. This saves a sort where one is needed.
                Defaults to False.

        Returns:
            A new tensor with the shape and dtype of `x`; for `at[...]`, an `Edit`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, a `ShapeError` (a `ValueError`) if the values do not,
                a `DTypeError` (a `TypeError`) if the dtype does not.

        Gradient:
            With upstream gradient `g`: `x` receives `g`, with 0 at the index;
            `values` receive `g[index]`, summed over the axes they were
            broadcast on. Of several values for one element, only the last
            receives a gradient. With `otherwise`, each of the two receives `g` where
            it was chosen.

        Example:
        >>> y = kedit.at(ops.arange(4.0))[1:3].set(9.0)
        >>> ops.convert_to_numpy(y).tolist()
        [0.0, 9.0, 9.0, 3.0]
        >>> y = kedit.at(ops.arange(4.0)).where(kedit.X > 1.0).set(1.0, otherwise=0.0)
        >>> ops.convert_to_numpy(y).tolist()
        [0.0, 0.0, 1.0, 1.0]
        """
        options = (mode, unique_indices, indices_are_sorted)
        if otherwise is not None:
            return self._choose(values, otherwise, casting, options)
        return self._edit("set", values, casting, *options)

    def add(
        self,
        values: Any,
        *,
        casting: Casting = "same_kind",
        mode: Mode | None = None,
        unique_indices: bool = False,
        indices_are_sorted: bool = False,
    ) -> Made:
        """Return a copy with `values` added at the index: `x[index] += values`.

        If the index names an element more than once, all its values are added,
        as by `numpy.add.at`, up to rounding and overflow.

        Args: as for `set`.

        Returns:
            A new tensor with the shape and dtype of `x`; for `at[...]`, an `Edit`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, a `ShapeError` (a `ValueError`) if the values do not,
                a `DTypeError` (a `TypeError`) if the dtype does not.

        Gradient:
            With upstream gradient `g`: `x` receives `g`; `values` receive
            `g[index]`, summed over the axes they were broadcast on.

        Example:
        >>> y = kedit.at(ops.zeros(3))[[0, 0, 2]].add([1.0, 2.0, 5.0])
        >>> ops.convert_to_numpy(y).tolist()
        [3.0, 0.0, 5.0]
        """
        options = (mode, unique_indices, indices_are_sorted)
        return self._edit("add", values, casting, *options)

    def subtract(
        self,
        values: Any,
        *,
        casting: Casting = "same_kind",
        mode: Mode | None = None,
        unique_indices: bool = False,
        indices_are_sorted: bool = False,
    ) -> Made:
        """Return a copy with `values` subtracted at the index: `x[index] -= values`.

        If the index names an element more than once, every value is subtracted.

        Args: as for `set`.

        Returns:
            A new tensor with the shape and dtype of `x`; for `at[...]`, an `Edit`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, a `ShapeError` (a `ValueError`) if the values do not,
                a `DTypeError` (a `TypeError`) if the dtype does not.

        Gradient:
            With upstream gradient `g`: `x` receives `g`; `values` receive
            `-g[index]`, summed over the axes they were broadcast on.

        Example:
        >>> y = kedit.at(ops.zeros(3))[-1].subtract(2.0)
        >>> ops.convert_to_numpy(y).tolist()
        [0.0, 0.0, -2.0]
        """
        options = (mode, unique_indices, indices_are_sorted)
        return self._edit("subtract", values, casting, *options)

    def multiply(
        self,
        values: Any,
        *,
        casting: Casting = "same_kind",
        mode: Mode | None = None,
        unique_indices: bool = False,
        indices_are_sorted: bool = False,
    ) -> Made:
        """Return a copy multiplied by `values` at the index: `x[index] *= values`.

        If the index names an element more than once, it is multiplied by all its
        values, as by `numpy.multiply.at`, up to rounding and overflow.

        Args: as for `set`.

        Returns:
            A new tensor with the shape and dtype of `x`; for `at[...]`, an `Edit`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, a `ShapeError` (a `ValueError`) if the values do not,
                a `DTypeError` (a `TypeError`) if the dtype does not.

        Gradient:
            With upstream gradient `g`, where `p` is the product of the values
            for an element: `x` receives `g * p` there; a value receives `g * x`
            times the product of the other values, even if a factor is 0.

        Example:
        >>> y = kedit.at(ops.ones(3))[::2].multiply([2.0, 3.0])
        >>> ops.convert_to_numpy(y).tolist()
        [2.0, 1.0, 3.0]
        """
        options = (mode, unique_indices, indices_are_sorted)
        return self._edit("multiply", values, casting, *options)

    def divide(
        self,
        values: Any,
        *,
        casting: Casting = "same_kind",
        mode: Mode | None = None,
        unique_indices: bool = False,
        indices_are_sorted: bool = False,
    ) -> Made:
        """Return a copy divided by `values` at the index: `x[index] /= values`.

        If the index names an element more than once, it is divided by the
        product of its values. Integer tensors raise, since quotients of integers
        are not integers.

        Args: as for `set`.

        Returns:
            A new tensor with the shape and dtype of `x`; for `at[...]`, an `Edit`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, a `ShapeError` (a `ValueError`) if the values do not,
                a `DTypeError` (a `TypeError`) if the dtype does not.

        Gradient:
            With upstream gradient `g`, where `p` is the product of the values
            for an element: `x` receives `g / p` there; a value `v` receives
            `-g * x / (p * v)`.

        Example:
        >>> y = kedit.at(ops.ones(3))[1:].divide(4.0)
        >>> ops.convert_to_numpy(y).tolist()
        [1.0, 0.25, 0.25]
        """
        options = (mode, unique_indices, indices_are_sorted)
        return self._edit("divide", values, casting, *options)

    def power(
        self,
        values: Any,
        *,
        casting: Casting = "same_kind",
        mode: Mode | None = None,
        unique_indices: bool = False,
        indices_are_sorted: bool = False,
    ) -> Made:
        """Return a copy raised to the power `values` at the index: `x[index] **= values`.

        If the index names an element more than once, it is raised once, to the
        last value in C order. For an integer tensor, the exponent must be a
        constant, whole and non-negative.

        Args: as for `set`.

        Returns:
            A new tensor with the shape and dtype of `x`; for `at[...]`, an `Edit`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, a `ShapeError` (a `ValueError`) if the values do not,
                a `DTypeError` (a `TypeError`) if the dtype does not.

        Gradient:
            With upstream gradient `g`, where `v` is the exponent of an element:
            `x` receives `g * v * x ** (v - 1)`; `v` receives
            `g * x ** v * log(x)`, which exists only for positive `x`.

        Example:
        >>> y = kedit.at(ops.array([2.0, 3.0]))[1].power(2.0)
        >>> ops.convert_to_numpy(y).tolist()
        [2.0, 9.0]
        """
        options = (mode, unique_indices, indices_are_sorted)
        return self._edit("power", values, casting, *options)

    def min(
        self,
        values: Any,
        *,
        casting: Casting = "same_kind",
        mode: Mode | None = None,
        unique_indices: bool = False,
        indices_are_sorted: bool = False,
    ) -> Made:
        """Return a copy with the minimum of element and value at the index.

        If the index names an element more than once, it becomes the minimum of
        itself and all its values. NaN wins, as in `numpy.minimum`.

        Args: as for `set`.

        Returns:
            A new tensor with the shape and dtype of `x`; for `at[...]`, an `Edit`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, a `ShapeError` (a `ValueError`) if the values do not,
                a `DTypeError` (a `TypeError`) if the dtype does not.

        Gradient:
            With upstream gradient `g`: the minimum receives `g`, the others 0.
            If several tie, the element included, each receives an equal share.

        Example:
        >>> y = kedit.at(ops.arange(4.0))[1:].min(2.0)
        >>> ops.convert_to_numpy(y).tolist()
        [0.0, 1.0, 2.0, 2.0]
        """
        options = (mode, unique_indices, indices_are_sorted)
        return self._edit("min", values, casting, *options)

    def max(
        self,
        values: Any,
        *,
        casting: Casting = "same_kind",
        mode: Mode | None = None,
        unique_indices: bool = False,
        indices_are_sorted: bool = False,
    ) -> Made:
        """Return a copy with the maximum of element and value at the index.

        If the index names an element more than once, it becomes the maximum of
        itself and all its values. NaN wins, as in `numpy.maximum`.

        Args: as for `set`.

        Returns:
            A new tensor with the shape and dtype of `x`; for `at[...]`, an `Edit`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, a `ShapeError` (a `ValueError`) if the values do not,
                a `DTypeError` (a `TypeError`) if the dtype does not.

        Gradient:
            With upstream gradient `g`: the maximum receives `g`, the others 0.
            If several tie, the element included, each receives an equal share.

        Example:
        >>> y = kedit.at(ops.arange(4.0))[:2].max(0.5)
        >>> ops.convert_to_numpy(y).tolist()
        [0.5, 1.0, 2.0, 3.0]
        """
        options = (mode, unique_indices, indices_are_sorted)
        return self._edit("max", values, casting, *options)

    def apply(
        self,
        function: Callable[[Tensor], Tensor] | Expression,
        *,
        otherwise: Callable[[Tensor], Tensor] | Expression | None = None,
        casting: Casting = "same_kind",
        mode: Mode | None = None,
        unique_indices: bool = False,
        indices_are_sorted: bool = False,
    ) -> Made:
        """Return a copy with `function` applied at the index: `x[index] = f(x[index])`.

        Args:
            function: Function that takes all selected elements as one tensor and
                returns a tensor of the same shape, or expression over `X`. It
                should work element by element. It is applied once to each
                selected element, and to no others. To save the edit, register the
                function with `keras.saving.register_keras_serializable`, or use
                an expression.
            otherwise: Function or expression for the selected elements that do not meet
                the condition of `.where`, or values as for `set`. Each of the two is
                called with the elements it is chosen for. Defaults to None: these
                elements stay as they are.
            casting: As for `set`.
            mode: As for `set`.
            unique_indices: As for `set`.
            indices_are_sorted: As for `set`.

        Returns:
            A new tensor with the shape and dtype of `x`; for `at[...]`, an `Edit`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, a `ShapeError` (a `ValueError`) if the values do not,
                a `DTypeError` (a `TypeError`) if the dtype does not.

        Gradient:
            With upstream gradient `g`: `x` receives `g * f'(x)` at the index and
            `g` elsewhere. No gradient flows through `f` for elements that are
            not selected.

        Example:
        >>> y = kedit.at(ops.array([0.0, 4.0])).where(kedit.X > 0).apply(ops.sqrt)
        >>> ops.convert_to_numpy(y).tolist()
        [0.0, 2.0]
        """
        if not callable(function) and not isinstance(function, Expression):
            raise OperandError(
                "`apply` should be given a function or an expression over `X`. Received: "
                f"{function!r}. To write values, use `.set({function!r})`."
            )
        options = (mode, unique_indices, indices_are_sorted)
        if otherwise is not None:
            values, other = [
                X.apply(part) if callable(part) else part for part in (function, otherwise)
            ]
            return self._choose(values, other, casting, options)
        return self._edit("apply", function, casting, *options)

    def _edit(
        self,
        op: str,
        values: Any,
        casting: Casting,
        mode: Mode | None,
        unique: bool,
        ascending: bool,
    ) -> Made:
        if callable(values) and op != "apply":
            raise OperandError(
                f"`{op}` should be given a number, an array, a tensor or an expression over `X`. "
                f"Received: {values!r}. To apply a function, use `.apply(function)`."
            )
        return self._finish(op, values, casting, (mode, None, None, unique, ascending))

    def _choose(
        self, values: Any, otherwise: Any, casting: Casting, options: tuple[Any, ...]
    ) -> Made:
        """Return the edit that sets one of two values, by the condition."""
        selection = self.selection
        condition = selection.condition
        if condition is None:
            raise OperandError(
                "`otherwise` should follow a condition. Received: "
                f"`{self!r}.set(..., otherwise={otherwise!r})`. Write "
                "`at.where(X > 0.0).set(1.0, otherwise=0.0)`."
            )
        if callable(condition) or callable(values) or callable(otherwise):
            raise OperandError(
                "`otherwise` should stand beside a condition that is a mask or an expression, and "
                f"values that are not functions. Received: a function in `{selection!r}.set"
                f"({values!r}, otherwise={otherwise!r})`. Write `.set(X.sqrt(), otherwise=0.0)`, "
                "or `.apply(function, otherwise=function)`."
            )
        everywhere = Selection(selection.coordinates, selection.index)
        place: Place[Made] = Place(everywhere, self._x)
        return place._edit("set", choose(condition, values, otherwise), casting, *options)

    def _finish(self, op: str, values: Any, casting: Casting, options: tuple[Any, ...]) -> Made:
        """Return the edit, or apply it if there is a tensor, by its spelling if it has one."""
        if self._spelled is not None and not isinstance(self._x, STRUCTURES):
            leaves = list(self._leaves)
            spelled = spell_value(values, leaves)
            if spelled is not None:
                spelling = (*self._spelled, op, spelled, casting, None, "x", *options)
                made: Made = apply(Spelled(spelling, leaves), self._x)
                return made
        operand = None if op == "get" else freeze_operand(values)
        edit: Any = Edit(self.selection, op, operand, casting, None, "x", *options)
        return edit if self._x is _LATER else edit(self._x)  # type: ignore[no-any-return]


def _is_mask(condition: Any) -> bool:
    """Whether a condition is an array that need not be checked now."""
    is_array = not reads_bytecode() and type(condition) is np.ndarray
    return is_array and condition.dtype.kind == "b"


def _described(x: Any) -> str:
    shape = getattr(x, "shape", None)
    return type(x).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")


name_mistakes(At, needs_index=True)
name_mistakes(Place, needs_index=False)

at: At[Edit] = At("at")
sample: At[Edit] = At("sample")
