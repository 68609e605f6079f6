"""The operations of an edit: everything about one of them is a row of a table. No Keras.

Code that reads, checks, plans or computes an edit uses this row instead of comparing names.
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
        kinds: The kinds of dtypes for which it is defined, as ranked by `dtypes.kind`: 0 for
            booleans, 1 for integers, 2 for floats, 3 for complex numbers.
        function: Name, in the ledger of `keras.ops`, of the function that computes the new element
            from the old one and the value; "" if the value is the new element, or if nothing is
            written.
        ufunc: The same function in NumPy.
        infix: Its Python operator in expressions; "" if it has none.
        combines: How several values for one element, which all count, become one: by "add",
            "multiply", "min" or "max"; "" if the last one wins.
        negates: Whether it adds the negated values.
        neutral: The value that changes nothing, not even a sign, for integers and for floats.
        meets_all: Whether it may run on elements that are not chosen: for any operand (True), for
            finite numbers ("finite"), or never (False). Without this limit, 0 * inf and 0 * nan
            would put nan into the operand's gradient, although the element was not chosen.
        repeats: Whether applying it to its own result changes nothing.
        needs_natural: Whether integer tensors need constant, non-negative values.
        writes: Whether values are written as they are, regardless of the old elements.
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
    needs_natural: bool = False
    writes: bool = field(init=False)

    def __post_init__(self) -> None:
        self.writes = not self.function and self.name != "get"

    def may_meet_all(self, operand: Any) -> bool:
        """Whether the operation with this operand may run on elements that are not chosen."""
        if self.meets_all == "finite":
            return is_scalar(operand) and math.isfinite(abs(operand))
        return bool(self.meets_all)


def _power(x: Any, exponent: Any, out: Any = None) -> Any:
    """NumPy's power, but as in IEEE 754 for an exponent of 0.5, where NumPy takes the square root.

    The power of -inf is inf, and that of -0.0 is 0.0. The square roots are NaN and -0.0.
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
        Operation("apply", repeats=True),
    )
}
