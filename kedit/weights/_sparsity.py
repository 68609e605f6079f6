"""A table of the zeros in the weights of a model."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from kedit._language.pickling import pickled
from kedit._show import html


@pickled
class WeightSparsity(NamedTuple):
    """The zeros in one weight.

    Attributes:
        weight: Name of the weight.
        shape: Its shape.
        zeros: How many elements are 0.
        total: How many elements it has.
        share: `zeros / total`.
    """

    weight: str
    shape: tuple[int, ...]
    zeros: int
    total: int
    share: float


@pickled
class Sparsity(tuple[WeightSparsity, ...]):
    """The zeros in the edited weights of a model; prints as a table.

    Attributes:
        zeros: How many elements of all weights of the model are 0.
        total: How many elements they have.
        share: `zeros / total`.
    """

    zeros: int
    total: int
    share: float

    def __new__(cls, rows: Iterable[WeightSparsity], everything: Any) -> "Sparsity":
        made = super().__new__(cls, rows)
        made.zeros = sum([row.zeros for row in everything])
        made.total = sum([row.total for row in everything])
        made.share = made.zeros / max(made.total, 1)
        return made

    def __reduce__(self) -> Any:
        rest = WeightSparsity("", (), self.zeros, self.total, self.share)
        return (Sparsity, (tuple(self), [rest]))

    def __repr__(self) -> str:
        rows = [WeightSparsity._fields, *self._cells()]
        widths = [max([len(row[column]) for row in rows]) for column in range(5)]
        put = (str.ljust, str.ljust, str.rjust, str.rjust, str.rjust)
        lines = ["  ".join([put[n](row[n], widths[n]) for n in range(5)]) for row in rows]
        return "\n".join([line.rstrip() for line in lines])

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        title = f"{self.share:.1%} of the weights of the model are 0"
        return html.table(title, WeightSparsity._fields, self._cells())

    def _cells(self) -> list[tuple[str, ...]]:
        cells = [_cells(row) for row in self]
        if len(self) > 1:
            zeros, total = sum([row.zeros for row in self]), sum([row.total for row in self])
            share = zeros / max(total, 1)
            cells.append(_cells(WeightSparsity("these", "", zeros, total, share)))  # type: ignore[arg-type]
        cells.append(_cells(WeightSparsity("the model", "", self.zeros, self.total, self.share)))  # type: ignore[arg-type]
        return cells


def _cells(row: WeightSparsity) -> tuple[str, ...]:
    return (row.weight, str(row.shape), f"{row.zeros:,}", f"{row.total:,}", f"{row.share:.1%}")


def row_of(weight: str, shape: tuple[int, ...], zeros: int) -> WeightSparsity:
    """Return the row of a weight."""
    total = 1
    for size in shape:
        total *= size
    return WeightSparsity(weight, shape, zeros, total, zeros / max(total, 1))
