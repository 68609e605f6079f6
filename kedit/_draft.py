"""`draft`: assignment, `d[index] = values`, to a tensor that stays as it is."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn

import keras
import numpy as np

from kedit._at import Place, at
from kedit._edit import Edit, EditSequence
from kedit._language.batch import STRUCTURES, is_batch
from kedit._language.constants import is_tensor
from kedit._language.expression import Expression, X
from kedit._language.mistakes import NotATensor
from kedit._language.operations import OPERATIONS
from kedit._language.pickling import pickled
from kedit.errors import OperandError, ShapeError

_IN_PLACE = ("add", "sub", "mul", "truediv", "pow", "and_", "or_")
_BINARY = (*_IN_PLACE, "floordiv", "mod", "matmul", "xor", "lt", "le", "gt", "ge", "eq", "ne")
_SIMPLE = (int, slice, type(None), type(...))  # items of an index that compare by `==`
_UNARY = ("neg", "pos", "abs", "invert")


@pickled
class Draft(NotATensor):
    """A tensor to assign to, as to a NumPy array; the tensor itself stays as it is.

    `kedit.draft(x)` creates one. Each assignment makes a new tensor, as `at(x)[index].set(values)`
    does, so that gradients flow, in eager and compiled functions and in models. `value` is the
    tensor so far.

    `d[index]` can be read, assigned to, and changed in place by `+=`, `-=`, `*=`, `/=`, `**=`, `&=`
    and `|=`. As in NumPy, an element that the index names more than once then changes once. It also
    has the operations of `kedit.at(x)[index]`, such as `d[index].add(v)`, which counts every time
    and takes their options. They change the draft and return None.

    Args:
        x: Tensor, `KerasTensor`, Variable, NumPy array, list or number, as for `kedit.at(x)`.

    Raises:
        kedit.errors.EditError: If the edit does not fit; the draft is then as it was before. The
            errors are those of `kedit.at(x)[index]`.

    Gradient:
        That of the edits, by the chain rule. `x` receives none through elements that have been
        overwritten; values receive that of the elements they were written to, unless something was
        written over them.

    Example:
    >>> d = kedit.draft(ops.zeros((2, 3)))
    >>> d[0, 2] = 100.0
    >>> d[:, 1] += 1.0
    >>> d.where(kedit.X > 5.0).multiply(0.5)
    >>> ops.convert_to_numpy(d.value).tolist()
    [[0.0, 1.0, 50.0], [0.0, 1.0, 0.0]]
    """

    __slots__ = ("__weakref__", "_edits", "_value")

    def __init__(self, x: Any, edits: Sequence[Edit | None] = ()) -> None:
        x = plain(x)
        if isinstance(x, STRUCTURES) and is_batch(x):
            raise OperandError(
                "A draft should be made of one tensor. Received: "
                f"{x!r} of type {type(x).__name__}. Make one of each: `draft(x['image'])`."
            )
        # Arrays, and tensors of PyTorch, can be changed by others: they are copied once.
        self._value = x if isinstance(x, keras.KerasTensor) else at(x)[...].get()
        self._edits = [*edits]  # None for an edit with tensors, which it would keep

    def __reduce__(self) -> Any:
        return (Draft, (self._value, self._edits))

    @property
    def value(self) -> Any:
        """The tensor with all assignments so far. Later ones do not change it."""
        return self._value

    @property
    def edit(self) -> EditSequence:
        """The assignments so far as an `EditSequence`, which can be applied elsewhere.

        Raises:
            kedit.errors.OperandError: If a tensor was used as an index, a condition or values.

        Example:
        >>> d = kedit.draft(np.zeros(3))
        >>> d[0] = 1.0
        >>> d[1:] += 2.0
        >>> d.edit
        at[0].set(1.0) | at[1:].set(X + 2.0)
        """
        edits = [edit for edit in self._edits if edit is not None]
        if len(edits) < len(self._edits):
            number = self._edits.index(None) + 1
            raise OperandError(
                "The edits of a draft should hold no tensors. Received: a tensor in assignment "
                f"{number} of {len(self._edits)}. Take `d.value`, or assign NumPy arrays."
            )
        return EditSequence(*edits)

    def where(self, condition: Any) -> "Drafted":
        """Select the elements that meet a condition; see `kedit.at(x).where`.

        Example:
        >>> d = kedit.draft(np.array([1.0, np.nan]))
        >>> d.where(kedit.X.isnan()).set(0.0)
        >>> d.value.tolist()
        [1.0, 0.0]
        """
        return self[...].where(condition)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of the tensor, with None for sizes that a model does not know."""
        return tuple(self._value.shape)

    @property
    def dtype(self) -> str:
        """The dtype of the tensor, as a string."""
        return str(keras.backend.standardize_dtype(self._value.dtype))

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self._value.shape)

    def __getitem__(self, index: Any) -> "Drafted":
        return Drafted(self, index, self._value)

    def __setitem__(self, index: Any, values: Any) -> None:
        if isinstance(values, Drafted) and values._is_of(self, index):
            self._do(values._edit())
        else:
            self._do(at[index].set(plain(values)))

    def __copy__(self) -> "Draft":
        twin = Draft(self._value)
        twin._edits = list(self._edits)
        return twin

    def _do(self, edit: Edit) -> None:
        self._value = edit(self._value)
        self._edits.append(None if edit.tensors() else edit)

    def __len__(self) -> int:
        if not self.shape or self.shape[0] is None:
            raise ShapeError(
                "`len` needs a first axis of known size. Received: a draft of shape "
                f"{self.shape}. Use `d.shape`."
            )
        return self.shape[0]

    def __iter__(self) -> NoReturn:
        raise OperandError(
            "A draft should not be iterated over: assigning to a row would not change it. Write "
            "`for i in range(len(d)): d[i] += 1.0`, or `for row in d.value` to read."
        )

    __contains__: ClassVar[None] = None

    def __repr__(self) -> str:
        count = len(self._edits)
        return f"<Draft with {count} edit{'s' * (count != 1)}: {self._value!r}>"

    def _used_as_tensor(self) -> NoReturn:
        raise OperandError(
            "A draft should not be used as a tensor. Received: a draft of shape "
            f"{self.shape}. Write `d.value`, or `d[...] += 1.0` to change all elements."
        )

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for arg in args:
            if isinstance(arg, Draft):
                arg._used_as_tensor()
        return NotImplemented


class Drafted:
    """Elements of a draft: `d[index]`, or `d.where(condition)`.

    Reading gives the elements as they were when `d[index]` was written. `get()` returns them as a
    tensor. Operators, functions of NumPy, JAX and TensorFlow, and Keras do so by themselves; on
    PyTorch, Keras's functions need `get()` where a gradient is wanted, and say so.
    """

    __slots__ = ("_changed", "_condition", "_draft", "_index", "_x")

    def __init__(
        self, draft: Draft, index: Any, x: Any, condition: Any = None, changed: Any = None
    ) -> None:
        self._draft = draft
        self._index = index
        self._x = x
        self._condition = condition
        self._changed = changed  # an expression, after `+=` and the like

    def where(self, condition: Any) -> "Drafted":
        """Narrow the selection to the elements that meet a condition; see `kedit.at(x).where`."""
        if self._condition is not None:
            self._place(at).where(condition)  # raises
        return Drafted(self._draft, self._index, self._x, plain(condition))

    def get(self, **options: Any) -> Any:
        """Return the elements as a tensor, with the options of `kedit.at(x)[index].get`."""
        elements = self._place(at(self._x)).get(**options)
        return elements if self._changed is None else at(elements)[...].set(self._changed)

    def _place(self, of: Any) -> Place[Any]:
        """The selection, of `at` or of `at(x)`."""
        place: Place[Any] = of[self._index]
        return place if self._condition is None else place.where(self._condition)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of the elements."""
        return tuple(self.get().shape)

    @property
    def dtype(self) -> str:
        """The dtype of the elements, as a string."""
        return self._draft.dtype

    def _is_of(self, draft: Draft, index: Any) -> bool:
        """Whether it is what `+=` has made of elements of a draft that still are as they were."""
        is_whole = self._changed is not None and self._draft is draft and self._x is draft._value
        return is_whole and _are_same(self._index, index)

    def _so_far(self) -> Expression:
        """What has become of the elements, which are `X`."""
        return X if self._changed is None else self._changed

    def _with(self, changed: Expression) -> "Drafted":
        return Drafted(self._draft, self._index, self._x, self._condition, changed)

    def _edit(self) -> Edit:
        """The change of the elements, which each count once, as an edit."""
        changed = self._so_far()
        if self._is_mask() and changed.name in OPERATIONS:  # each True takes its own value
            elements, values = changed.args
            if changed.name in ("add", "multiply") and _is_x(values):  # as PyTorch's compiler says
                elements, values = values, elements
            if _is_x(elements):
                edit: Edit = getattr(at[self._index], changed.name)(values)
                return edit
        return at[self._index].set(changed)

    def _items(self) -> tuple[Any, ...]:
        return self._index if isinstance(self._index, tuple) else (self._index,)

    def _is_masked(self) -> bool:
        """Whether the index has a mask that is a tensor, which compiled functions cannot read."""
        return any([_is_mask(item) for item in self._items()])

    def _is_mask(self) -> bool:
        """Whether the index is such a mask, beside nothing that may name an element twice."""
        simple = [_is_mask(item) or isinstance(item, _SIMPLE) for item in self._items()]
        return self._is_masked() and all(simple)

    def __getitem__(self, index: Any) -> Any:
        return at(self.get())[index].get()

    def __setitem__(self, index: Any, values: Any) -> NoReturn:
        raise OperandError(
            "An assignment to elements of a draft should give the whole index at once. Received: "
            f"`d[{self._index!r}][{index!r}] = ...`. Write it as in `d[0, 1] = 5.0`."
        )

    def __iter__(self) -> Any:
        return iter(self.get())

    def __len__(self) -> int:
        return len(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        elements = self.get()
        try:
            return elements.__array__() if dtype is None else elements.__array__(dtype)
        except Exception as error:
            raise OperandError(
                "Elements of a draft should be converted to a tensor first. Received: "
                f"{elements!r}. Write `d[index].get()`."
            ) from error

    def __jax_array__(self) -> Any:
        return self.get()

    def __tf_tensor__(self, dtype: Any = None, name: Any = None) -> Any:
        return self.get()

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """A function of PyTorch, whose compiler calls this for `d[index] += tensor`, too."""
        has_arrays = any([isinstance(arg, np.ndarray) for arg in args])  # which edits refuse there
        for elements in args:
            if isinstance(elements, Drafted) and (has_arrays or elements._is_masked()):
                used = [arg._so_far() if arg is elements else plain(arg) for arg in args]
                changed = Expression.__torch_function__(function, (), used)
                return elements._with(changed)
        return function(*[plain(arg) for arg in args], **(kwargs or {}))

    def __repr__(self) -> str:
        if self._condition is not None:
            return f"<elements of a draft where {self._condition!r}>"
        return repr(self.get())

    __hash__ = None  # type: ignore[assignment]  # `==` compares elements


def _writing(name: str) -> Callable[..., None]:
    """An operation of a place, that changes the draft."""

    @functools.wraps(getattr(Place, name))
    def write(self: Drafted, values: Any, **options: Any) -> None:
        self._draft._do(getattr(self._place(at), name)(plain(values), **options))

    write.__doc__ = f"Change the draft as `kedit.at(x)[index].{name}` does; return None."
    return write


def _binary(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    compute = getattr(operator, name)
    return (
        lambda self, other: compute(self.get(), plain(other)),
        lambda self, other: compute(plain(other), self.get()),
    )


def _unary(name: str) -> Callable[..., Any]:
    compute = getattr(operator, name)
    return lambda self: compute(self.get())


def _in_place(name: str) -> Callable[..., Any]:
    compute = getattr(operator, name)
    return lambda self, other: self._with(compute(self._so_far(), plain(other)))


for _name in OPERATIONS:
    if _name != "get":
        setattr(Drafted, _name, _writing(_name))
for _name in _BINARY:
    _plain, _reflected = _binary(_name)
    setattr(Drafted, f"__{_name.strip('_')}__", _plain)
    setattr(Drafted, f"__r{_name.strip('_')}__", _reflected)
for _name in _UNARY:
    setattr(Drafted, f"__{_name}__", _unary(_name))
for _name in _IN_PLACE:
    setattr(Drafted, f"__i{_name.strip('_')}__", _in_place(_name))


def draft(x: Any) -> Draft:
    """Return a draft of a tensor, to assign to; see `Draft`."""
    return Draft(x)


def _is_mask(item: Any) -> bool:
    return is_tensor(item) and "bool" in str(item.dtype)


def _is_x(value: Any) -> bool:
    return isinstance(value, Expression) and value.name == "X"


def plain(value: Any) -> Any:
    """What stands for a tensor as that tensor."""
    if isinstance(value, Drafted):
        return value.get()
    return value.value if isinstance(value, Draft) else value


def _are_same(left: Any, right: Any) -> bool:
    """Whether two indices are one object, or are made of the same objects."""
    if left is right:
        return True
    if is_tensor(left) or type(left) is not type(right):
        return False
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(_are_same, left, right))
    return isinstance(left, _SIMPLE) and left == right
