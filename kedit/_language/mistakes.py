"""First mistakes: what people type before they have read anything, and what to write."""

from typing import Any, NoReturn

from kedit._language.operations import OPERATIONS
from kedit.errors import OperandError, OperationError

_MEANT = {
    "assign": "set",
    "update": "set",
    "put": "set",
    "fill": "set",
    "write": "set",
    "assign_add": "add",
    "increment": "add",
    "sub": "subtract",
    "assign_sub": "subtract",
    "mul": "multiply",
    "scale": "multiply",
    "div": "divide",
    "pow": "power",
    "minimum": "min",
    "maximum": "max",
    "map": "apply",
    "read": "get",
    "value": "get",
    "numpy": "get",
}
"""What other libraries call the operations."""


class Misnamed:
    """What stands in a class for an operation of another name, or for one that needs an index.

    Not `__getattr__`, which PyTorch's compiler cannot read.
    """

    def __init__(self, name: str, *, needs_index: bool) -> None:
        self.name = name
        self.needs_index = needs_index
        self.__doc__ = None  # so that no page lists it

    def __get__(self, selection: Any, owner: Any = None) -> Any:
        if selection is None:
            return self
        meant = _MEANT.get(self.name, self.name)
        code = selection._code() if self.needs_index else repr(selection)
        if self.needs_index:
            raise OperationError(
                f"An operation should follow an index or a condition. Received: `{code}.{self.name}"
                f"`. Write `{code}[0].{meant}(...)`; for all elements, `{code}[...].{meant}(...)`."
            )
        raise OperationError(
            f"An operation should be one of {', '.join(OPERATIONS)}. Received: `{code}.{self.name}"
            f"`. Write `{code}.{meant}({'' if meant == 'get' else '...'})`."
        )


def name_mistakes(of: type, *, needs_index: bool) -> None:
    """Let a class answer to the names of operations that it does not have."""
    for name in (*_MEANT, *(OPERATIONS if needs_index else ())):
        setattr(of, name, Misnamed(name, needs_index=needs_index))


def assigned(code: str) -> NoReturn:
    """Raise for an assignment to elements of a tensor, or to what edits it later."""
    raise OperandError(
        f"A tensor cannot be assigned to. Received: `{code}[index] = values`. Write "
        f"`x = at(x)[index].set(values)`, or `d = draft(x); d[index] = values; x = d.value`."
    )


class NotATensor:
    """What is used as a tensor, and is none: `_used_as_tensor` raises, and says what to write."""

    __slots__ = ()

    def _used_as_tensor(self) -> NoReturn:
        raise NotImplementedError

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        self._used_as_tensor()

    __array__ = __jax_array__ = __tf_tensor__ = __float__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = _refuse
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __abs__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = _refuse


def changed_in_place(op: str) -> Any:
    """A method that refuses `at(x)[index] += values`."""

    def refuse(self: Any, values: Any) -> NoReturn:
        raise OperandError(
            f"A tensor cannot be changed in place. Received: `{self!r}`, changed by {values!r}. "
            f"Write `x = at(x)[index].{op}(values)`, or change a draft: `d = draft(x)`."
        )

    return refuse
