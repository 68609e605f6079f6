"""`at` and `sample`: the spelling of edits, as `at(x)[index].set(values)`."""

from collections.abc import Callable
from typing import Any

from kedit._edit import Edit, Spelled
from kedit._language.batch import STRUCTURES
from kedit._language.constants import Array, freeze, is_scalar, to_code
from kedit._language.expression import Expression
from kedit._language.index import Index
from kedit._language.selection import Selection, freeze_operand
from kedit._language.spelling import index_of, spell_index, spell_value, value_of
from kedit._language.types import Casting, Coordinates, Mode, Tensor
from kedit._run import apply
from kedit.errors import DTypeError, OperandError


class _LATER:
    """Stands for the tensor of an edit that is applied later; as a class it survives a copy."""


class At:
    """`at(x)[index]` edits a tensor now; `at[index]` makes an edit to apply later.

    `kedit.at` counts axes from the first axis of the array, as NumPy does.
    `kedit.sample` counts them inside one sample, from the axis after the batch axis.
    `at(x)[i].op(v)` is `at[i].op(v)(x)`.

    An index is whatever NumPy takes: integers, slices of any step, `...`, `None`,
    lists and arrays of integers or booleans, in any mix. If it does not fit, it
    raises. A tensor may stand in place of an integer or an array. Its values are
    known only when the model runs, so its positions that are out of bounds are
    dropped. `kedit.each` gives positions of their own to each sample, and
    `kedit.block` a block that starts where a tensor says.

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

    def __call__(self, x: Any) -> "At":
        """Bind a tensor, so that operations apply at once."""
        return At(self._coordinates, x)

    def __getitem__(self, index: Any) -> "Place":
        if self._x is not _LATER:
            leaves: list[Any] = []
            spelled = spell_index(index, leaves)
            if spelled is not None:
                return Place(None, self._x, (self._coordinates, spelled, ()), leaves)
        return Place(Selection(self._coordinates, Index(index)), self._x)

    def where(self, condition: Any) -> "Place":
        """Select all elements that meet a condition; see `Place.where`."""
        return self[...].where(condition)

    __iter__ = None  # `at[0], at[1], ...` would have no end
    __contains__ = None

    def __repr__(self) -> str:
        return self._coordinates if self._x is _LATER else f"{self._coordinates}({self._x!r})"


class Place:
    """Selected elements, waiting for an operation.

    `at[index]` and `at.where(condition)` give one. With a tensor, `at(x)[index]`, an
    operation returns a new tensor of the shape and dtype of `x`; without one it
    returns an `Edit`. Every operation takes the arguments of `set`, and raises
    `kedit.errors.PositionError` (an `IndexError`) if the index does not fit,
    `kedit.errors.ShapeError` (a `ValueError`) if the values do not, and
    `kedit.errors.DTypeError` (a `TypeError`) if the dtype does not.
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
        """Which elements."""
        if self._selection is None:
            coordinates, index, condition = self._spelled
            items = Index(index_of(index, self._leaves))
            self._selection = Selection(coordinates, items, value_of(condition, self._leaves))
        return self._selection

    def __repr__(self) -> str:
        return repr(self.selection)

    def where(self, condition: Any) -> "Place":
        """Narrow the selection to the elements that meet a condition.

        Args:
            condition: Expression over `X`, such as `X > 5.0`; boolean array or
                tensor that broadcasts to the selection; or function that takes
                the selected elements and returns booleans of the same shape.

        Gradient:
            None flows through the condition. Operations run on chosen elements
            only, so no NaN flows back from the others.

        Example:
        >>> x = np.array([1.0, np.nan, 9.0])
        >>> kedit.at(x).where(kedit.X.isnan()).set(0.0).tolist()
        [1.0, 0.0, 9.0]
        >>> kedit.at(x)[1:].where(kedit.X > 5.0).multiply(2.0).tolist()
        [1.0, nan, 18.0]
        """
        if self.selection.condition is not None:
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
        elif not callable(condition):
            condition = freeze(condition)
            if is_scalar(condition) or (isinstance(condition, Array) and condition.dtype != "bool"):
                raise DTypeError(
                    "A condition should be an expression over `X`, a boolean mask or a function "
                    f"that gives one. Received: {to_code(condition)}. Write `.where(mask != 0)`."
                )
        selection = Selection(self.selection.coordinates, self.selection.index, condition)
        if self._spelled is not None:
            leaves = list(self._leaves)
            spelled = spell_value(condition, leaves)
            if spelled is not None:
                return Place(selection, self._x, (*self._spelled[:2], spelled), leaves)
        return Place(selection, self._x)

    def get(
        self,
        *,
        mode: Mode | None = None,
        fill_value: complex | None = None,
        size: int | None = None,
        unique_indices: bool = False,
        indices_are_sorted: bool = False,
    ) -> Any:
        """Return the selected elements, in NumPy's layout: `x[index]`.

        Args:
            mode: As for `set`; `fill_value` is read where there is no element.
            fill_value: Number that is read where there is no element. Defaults
                to NaN for floats and complex numbers, the least of signed and the
                greatest of unsigned integers, and True for booleans.
            size: Number of elements to return for a mask. Missing ones are
                filled, surplus ones left out. Required for a mask that is a
                tensor under a compiler and in a model, where the shape must be
                known. Defaults to None: as many as are True.
            unique_indices: As for `set`.
            indices_are_sorted: As for `set`.

        Returns:
            Tensor of the shape of `x[index]` and the dtype of `x`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, an `OperandError` (a `TypeError`) for a condition.

        Gradient:
            `x` receives the upstream gradient at the index, summed where the
            index names an element more than once, and 0 elsewhere.

        Example:
        >>> y = kedit.at(ops.arange(6.0))[[4, 0, 4]].get()
        >>> ops.convert_to_numpy(y).tolist()
        [4.0, 0.0, 4.0]
        """
        if self.selection.condition is not None:
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
        casting: Casting = "same_kind",
        mode: Mode | None = None,
        unique_indices: bool = False,
        indices_are_sorted: bool = False,
    ) -> Any:
        """Return a copy with `values` written at the index: `x[index] = values`.

        If the index names an element more than once, the value that comes last
        in C order wins.

        Args:
            values: Number, array or tensor that broadcasts to the shape of the
                selection, with no axis to spare; or an expression over `X`, which
                stands for the selected elements. In `sample[...]` that shape
                starts with the batch axis. Along an axis of unknown size, such as
                the batch in a layer, an array has one entry for all. A mask that
                is a tensor takes one value for all, or one for each True in C
                order; surplus values are ignored.
            casting: Values take the dtype of the tensor. "same_kind" refuses a
                float for integers, a complex number for floats, and a number out
                of range. "unsafe" computes in the dtype that NumPy promotes to
                (at most 32 bits on JAX) and saturates: fractions are cut off
                towards zero, integers stop at the ends of their range, NaN
                becomes 0. Defaults to "same_kind".
            mode: What happens to positions out of bounds. "drop" (or "fill") writes
                nothing there and sends no gradient back. "clip" moves them to the
                nearest end, "wrap" counts on from the other end; both count
                negative positions from the end once. "promise_in_bounds" may be
                faster, and picks any position if the promise is broken. "raise"
                reads tensors, too, and is refused where they have no values yet:
                in a compiled function, in a model, on an axis of unknown size.
                Defaults to None: constants, such as integers and arrays, raise;
                tensors, and constants on an axis of unknown size, are dropped.
            unique_indices: Promise that no two positions in tensors name the same
                element once `mode` has moved them. Nothing has to be found out
                then. If it is broken, any of the values may be lost. Defaults to
                False.
            indices_are_sorted: Promise that they ascend once `mode` has moved
                them. Saves a sort where one is needed. Defaults to False.

        Returns:
            A new tensor of the shape and dtype of `x`; for `at[...]`, an `Edit`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, a `ShapeError` (a `ValueError`) if the values do not,
                a `DTypeError` (a `TypeError`) if the dtype does not.

        Gradient:
            With upstream gradient `g`: `x` receives `g`, with 0 at the index;
            `values` receive `g[index]`, summed over the axes they were
            broadcast on; of values for one element only the last receives any.

        Example:
        >>> y = kedit.at(ops.arange(4.0))[1:3].set(9.0)
        >>> ops.convert_to_numpy(y).tolist()
        [0.0, 9.0, 9.0, 3.0]
        """
        options = (mode, unique_indices, indices_are_sorted)
        return self._edit("set", values, casting, *options)

    def add(
        self,
        values: Any,
        *,
        casting: Casting = "same_kind",
        mode: Mode | None = None,
        unique_indices: bool = False,
        indices_are_sorted: bool = False,
    ) -> Any:
        """Return a copy with `values` added at the index: `x[index] += values`.

        If the index names an element more than once, the sum of its values is
        added: `numpy.add.at`, up to rounding and overflow.

        Args: as for `set`.

        Returns:
            A new tensor of the shape and dtype of `x`; for `at[...]`, an `Edit`.

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
    ) -> Any:
        """Return a copy with `values` subtracted at the index: `x[index] -= values`.

        If the index names an element more than once, every value is subtracted.

        Args: as for `set`.

        Returns:
            A new tensor of the shape and dtype of `x`; for `at[...]`, an `Edit`.

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
    ) -> Any:
        """Return a copy with the index multiplied by `values`: `x[index] *= values`.

        If the index names an element more than once, it is multiplied by the
        product of its values: `numpy.multiply.at`, up to rounding and overflow.

        Args: as for `set`.

        Returns:
            A new tensor of the shape and dtype of `x`; for `at[...]`, an `Edit`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, a `ShapeError` (a `ValueError`) if the values do not,
                a `DTypeError` (a `TypeError`) if the dtype does not.

        Gradient:
            With upstream gradient `g`, where `p` is the product of the values
            for an element: `x` receives `g * p` there; a value receives `g`
            times `x` times the product of the other values, also where a factor
            is 0.

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
    ) -> Any:
        """Return a copy with the index divided by `values`: `x[index] /= values`.

        If the index names an element more than once, it is divided by the
        product of its values. Integers are refused: their quotients are not integers.

        Args: as for `set`.

        Returns:
            A new tensor of the shape and dtype of `x`; for `at[...]`, an `Edit`.

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
    ) -> Any:
        """Return a copy with the index raised to `values`: `x[index] **= values`.

        If the index names an element more than once, it is raised once, to the
        value that comes last in C order. For integers the exponent must be a constant,
        whole and not negative.

        Args: as for `set`.

        Returns:
            A new tensor of the shape and dtype of `x`; for `at[...]`, an `Edit`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, a `ShapeError` (a `ValueError`) if the values do not,
                a `DTypeError` (a `TypeError`) if the dtype does not.

        Gradient:
            With upstream gradient `g`, where `v` is the exponent of an element:
            `x` receives `g * v * x ** (v - 1)`; `v` receives
            `g * x ** v * log(x)`, which exists for positive `x` only.

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
    ) -> Any:
        """Return a copy with the lesser of element and value at the index.

        If the index names an element more than once, it becomes the least of
        itself and all its values. NaN wins, as in `numpy.minimum`.

        Args: as for `set`.

        Returns:
            A new tensor of the shape and dtype of `x`; for `at[...]`, an `Edit`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, a `ShapeError` (a `ValueError`) if the values do not,
                a `DTypeError` (a `TypeError`) if the dtype does not.

        Gradient:
            With upstream gradient `g`: the least receives `g`, the others 0;
            where several tie, the element included, each receives an even share.

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
    ) -> Any:
        """Return a copy with the greater of element and value at the index.

        If the index names an element more than once, it becomes the greatest of
        itself and all its values. NaN wins, as in `numpy.maximum`.

        Args: as for `set`.

        Returns:
            A new tensor of the shape and dtype of `x`; for `at[...]`, an `Edit`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, a `ShapeError` (a `ValueError`) if the values do not,
                a `DTypeError` (a `TypeError`) if the dtype does not.

        Gradient:
            With upstream gradient `g`: the greatest receives `g`, the others
            0; where several tie, the element included, each receives an
            even share.

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
        casting: Casting = "same_kind",
        mode: Mode | None = None,
        unique_indices: bool = False,
        indices_are_sorted: bool = False,
    ) -> Any:
        """Return a copy with `function` applied at the index: `x[index] = f(x[index])`.

        Args:
            function: Takes all selected elements as one tensor and returns one
                of the same shape; it should work element by element. It is
                applied once to each element, and only to selected ones. To save
                an edit, register the function with
                `keras.saving.register_keras_serializable`, or give an expression
                over `X`.
            casting: As for `set`.
            mode: As for `set`.
            unique_indices: As for `set`.
            indices_are_sorted: As for `set`.

        Returns:
            A new tensor of the shape and dtype of `x`; for `at[...]`, an `Edit`.

        Raises:
            kedit.errors.EditError: A `PositionError` (an `IndexError`) if the index
                does not fit, a `ShapeError` (a `ValueError`) if the values do not,
                a `DTypeError` (a `TypeError`) if the dtype does not.

        Gradient:
            With upstream gradient `g`: `x` receives `g * f'(x)` at the index and
            `g` elsewhere; elements that are not selected send nothing through
            `f`.

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
        return self._edit("apply", function, casting, *options)

    def _edit(
        self,
        op: str,
        values: Any,
        casting: Casting,
        mode: Mode | None,
        unique: bool,
        ascending: bool,
    ) -> Any:
        if callable(values) and op != "apply":
            raise OperandError(
                f"`{op}` should be given a number, an array, a tensor or an expression over `X`. "
                f"Received: {values!r}. To apply a function, use `.apply(function)`."
            )
        return self._finish(op, values, casting, (mode, None, None, unique, ascending))

    def _finish(self, op: str, values: Any, casting: Casting, options: tuple[Any, ...]) -> Any:
        """The edit, or what it makes of the tensor; found by its spelling if it has one."""
        if self._spelled is not None and not isinstance(self._x, STRUCTURES):
            leaves = list(self._leaves)
            spelled = spell_value(values, leaves)
            if spelled is not None:
                spelling = (*self._spelled, op, spelled, casting, None, "x", *options)
                return apply(Spelled(spelling, leaves), self._x)
        operand = None if op == "get" else freeze_operand(values)
        edit = Edit(self.selection, op, operand, casting, None, "x", *options)
        return edit if self._x is _LATER else edit(self._x)


at = At("at")
sample = At("sample")
