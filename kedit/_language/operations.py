"""The operations of an edit: all that is true of one of them is one row of a table. No Keras.

What reads, checks, plans or computes an edit asks its row, and compares no names.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kedit._language.constants import is_scalar


@dataclass(eq=False)
class Operation:
    """One operation.

    Attributes:
        name: As a method of `at[...]`.
        kinds: The kinds of dtypes in which it has an answer, as `dtypes.kind` ranks them: 0 of
            booleans, 1 of integers, 2 of floats, 3 of complex numbers.
        function: Name of the function of old element and value that gives the new element, in the
            ledger of `keras.ops`; "" if the value is the new element, or if nothing is written.
        ufunc: The same function in NumPy.
        infix: How Python writes it, in expressions; "" if it is not written there.
        combines: How several values for one element, which all count, become one: by "add",
            "multiply", "min" or "max"; "" if the last of them wins.
        negates: Whether it is the addition of the negated values.
        neutral: The value that changes nothing, not even a sign: of integers and of floats.
        meets_all: Whether it may meet elements that are not chosen: of all values of the operand
            (True), of finite numbers ("finite"), or of none (False). If not, 0 * inf and 0 * nan
            would be nan, and reach the operand's gradient although the element was not chosen.
        repeats: Whether applied to its own result it changes nothing.
        takes_function: Whether its operand is a function of the elements.
        needs_natural: Whether integers take values that are known beforehand, and not negative.
        writes: Whether values are written as they are, whatever stands there.
    """

    name: str
    kinds: tuple[int, ...] = (0, 1, 2, 3)
    function: str = ""
    ufunc: Any = None
    infix: str = ""
    combines: str = ""
    negates: bool = False
    neutral: tuple[int, float] | None = None
    meets_all: bool | str = True
    repeats: bool = False
    takes_function: bool = False
    needs_natural: bool = False
    writes: bool = field(init=False)

    def __post_init__(self) -> None:
        self.writes = not self.function and self.name != "get"

    def may_meet_all(self, operand: Any) -> bool:
        """Whether the operation with this operand may meet elements that are not chosen."""
        if self.meets_all == "finite":
            return is_scalar(operand) and math.isfinite(abs(operand))
        return bool(self.meets_all)


def _power(x: Any, exponent: Any, out: Any = None) -> Any:
    """NumPy's power, and that of IEEE 754 where NumPy takes the root: for an exponent of 0.5.

    The power of -inf is inf and that of -0.0 is 0.0; the roots are NaN and -0.0.
    """
    if x.dtype.kind not in "iuc" and exponent.dtype.kind != "c":
        x = np.where((exponent == 0.5) & ((x == 0) | (x == -np.inf)), abs(x), x)
    return np.power(x, exponent, out=out)


_NUMBERS, _ORDERED, _FRACTIONS = (1, 2, 3), (0, 1, 2), (2, 3)

OPERATIONS: dict[str, Operation] = {
    row.name: row
    for row in (
        Operation("get"),
        Operation("set", repeats=True),
        Operation("add", _NUMBERS, "add", np.add, infix="+", combines="add", neutral=(0, -0.0)),
        Operation(
            "subtract", _NUMBERS, "subtract", np.subtract, infix="-", combines="add", negates=True
        ),
        Operation(
            "multiply",
            _NUMBERS,
            "multiply",
            np.multiply,
            infix="*",
            combines="multiply",
            neutral=(1, 1.0),
            meets_all="finite",
        ),
        Operation(
            "divide",
            _FRACTIONS,
            "divide",
            np.divide,
            infix="/",
            combines="multiply",
            meets_all=False,
        ),
        Operation(
            "power", _NUMBERS, "power", _power, infix="**", meets_all=False, needs_natural=True
        ),
        Operation("min", _ORDERED, "minimum", np.minimum, combines="min", repeats=True),
        Operation("max", _ORDERED, "maximum", np.maximum, combines="max", repeats=True),
        Operation("apply", repeats=True, takes_function=True),
    )
}
