"""Indices of every kind that NumPy knows, alone and mixed: a table that says why each is there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kedit.testing._report import chosen_kinds


@dataclass(frozen=True, eq=False, repr=False)
class IndexCase:
    """An index and the shape of a tensor for it.

    Its `str` is short, the same in every process and different for every case, so that
    it can be the id of a test.

    Attributes:
        shape: Shape of the tensor.
        index: What stands in the brackets.
        kind: Kind of index.
        why: What goes wrong with such an index.
    """

    shape: tuple[int, ...]
    index: Any
    kind: str = ""
    why: str = ""

    def __repr__(self) -> str:
        items = self.index if isinstance(self.index, tuple) else (self.index,)
        return f"{self.shape}[{', '.join(_code(item) for item in items)}]".replace(" ", "")

    __str__ = __repr__


def _code(item: Any) -> str:
    if isinstance(item, slice):
        parts = [item.start, item.stop, *([] if item.step is None else [item.step])]
        return ":".join(["" if part is None else str(part) for part in parts])
    if item is ...:
        return "..."
    if isinstance(item, (np.ndarray, np.generic)) and item.ndim == 0:
        return f"{item.dtype}({item})"
    if isinstance(item, np.ndarray):
        return f"{item.dtype}{item.tolist() if item.size else item.shape}"
    return str(item)


def index_cases(only: Any = None, skip: Any = ()) -> list[IndexCase]:
    """Return indices of every kind that NumPy knows, alone and mixed.

    The list is the same in every process. Use it with `pytest.mark.parametrize("case",
    kedit.testing.index_cases(), ids=str)` and compare with what NumPy does with
    `case.index` and an array of `case.shape`.

    Args:
        only: Kinds to return, or one. Defaults to None: all but "out of bounds" and
            "invalid indices", at which NumPy raises.
        skip: Kinds to leave out, or one. Defaults to `()`: none.

    Returns:
        List of `IndexCase`, with `shape`, `index`, `kind` and `why`.

    Raises:
        kedit.errors.OperandError: If there is no kind of this name.

    Example:
    >>> for case in kedit.testing.index_cases("duplicates")[:2]:
    ...     print(case, "-", case.why)
    (5,)[int64[0,0,2]] - an element that is named twice: the last value wins, sums add up
    (5,)[int64[3,3,3,1,3,3]] - an element that is named twice: the last value wins, sums add up
    """
    refused = [kind for kind in REFUSED if only is None]
    wanted = chosen_kinds(
        INDEX_KINDS, only, [*([skip] if isinstance(skip, str) else skip), *refused]
    )
    return [case for case in _cases() if case.kind in wanted]


S: Any = np.s_
T, F = True, False


def _i(*numbers: Any, dtype: str = "int64") -> Any:
    return np.array(numbers, dtype)


def _mask(*rows: Any) -> Any:
    return np.array(rows, bool)


_CHECKERS = np.arange(12).reshape(3, 4) % 2 == 0
_ZEBRA = np.arange(6).reshape(2, 3) % 2 == 0
_FIFTHS = np.arange(12).reshape(3, 4) % 5 == 0

_Table = dict[tuple[int, ...], list[Any]]
# Kind and reason, and for each shape its indices. Lists stand for arrays of int64, but in "lists".
_GROUPS: list[tuple[str, str, _Table]] = [
    (
        "integers",
        "one element, row, column or channel: an axis less",
        {
            (5,): [S[0], S[4]],
            (3, 4): [S[0, 2], S[0], S[:, 2], S[1, :]],
            (2, 3, 4): [S[1, 2, 3], S[1, 2], S[:, 1], S[0, :, 1], S[1]],
            (2, 2, 2, 2): [S[:, 0, 1], S[0, :, :, 1], S[:, 1]],
        },
    ),
    (
        "negative positions",
        "counted from the end, once",
        {
            (5,): [S[-1], S[-5], S[[-1, 1, -3]], S[_i(-1, -2, dtype="int32")], S[np.array(-2)]],
            (3, 4): [S[-1], S[-1, -1], S[[-1, 0], [0, -1]], S[:, -3]],
            (2, 3, 4): [S[:, ::-2, -1], S[..., -4]],
        },
    ),
    (
        "slices",
        "bounds that are left out, negative, past the end, or cross",
        {
            (5,): [S[1:3], S[:], S[:-1], S[-2:], S[-100:100], S[2:4:1]],
            (3, 4): [S[1:, :2], S[:, 1:3], S[-2:, -3:-1]],
            (2, 3, 4): [S[0, 1:, :2], S[:, 1:, 2]],
        },
    ),
    (
        "steps",
        "every other element, and backwards, where the values meet the elements in reverse",
        {
            (5,): [
                S[::2],
                S[::-1],
                S[1::3],
                S[::-2],
                S[3:0:-1],
                S[-1:-4:-2],
                S[100::-1],
                S[3:-9:-1],
            ],
            (3, 4): [S[::2, ::3], S[::-1, ::-2], S[::-1], S[:, ::-1], S[:, 3:0:-2]],
            (2, 3, 4): [S[:, 1, ::2], S[0, 1:, ::-1]],
            (2, 2, 2, 2): [S[:, 0, 1, ::-1]],
        },
    ),
    (
        "ellipsis",
        "stands for as many axes as are left, also none",
        {
            (5,): [S[..., 2], S[...], S[2, ...], S[..., ::-2]],
            (3, 4): [S[..., 0], S[0, ..., 1]],
            (2, 3, 4): [S[..., 1], S[1, ...], S[0, ..., 1:]],
        },
    ),
    (
        "new axes",
        "the selection, and so the values, have axes that the tensor has not",
        {
            (5,): [S[None], S[:, None], S[None, 1:3, None]],
            (3, 4): [S[None, 1], S[1, None], S[:, None, 2], S[None, :, None, 1:3, None]],
            (2, 3, 4): [S[1, ..., None], S[None, ..., 1, None]],
        },
    ),
    (
        "integer arrays",
        "some elements in the order of the array; several arrays go side by side",
        {
            (5,): [S[[2, 0]], S[[0]], S[_i([0, 1], [2, 3])]],
            (3, 4): [
                S[[0, 2], [1, 3]],
                S[:, [1, 3]],
                S[[0, 2]],
                S[[[0], [2]], [1, 3]],
                S[np.ix_([0, 2], [3, 1])],
                S[[0], [1, 2, 3]],
                S[..., [0, 2], [1, 3]],
            ],
            (2, 3, 4): [
                S[[0, 1], [0, 2], [1, 3]],
                S[[1, 0], [2, 0]],
                S[[1, 0]],
                S[:, [2, 0]],
                S[:, [2, 0], [3, 1]],
                S[:, [[0], [2]], [[0, 1, 3]]],
            ],
        },
    ),
    (
        "duplicates",
        "an element that is named twice: the last value wins, sums add up",
        {
            (5,): [
                S[[0, 0, 2]],
                S[[3, 3, 3, 1, 3, 3]],
                S[[-1, 4, 4, 0, -5]],
                S[_i([0, 1], [1, 0])],
                S[_i([[4], [0], [4]])],
            ],
            (3, 4): [
                S[[0, 0, 2], [1, 1, 3]],
                S[:, [3, 1, 3, 0]],
                S[[2, 0, 2]],
                S[np.ix_([0, 0], [1, 2, 2])],
                S[[[0, 1], [1, 0]], [[2, 3], [3, 2]]],
            ],
            (2, 3, 4): [
                S[:, [2, 2], [3, 3]],
                S[..., [3, 0, 3]],
                S[:, [[0], [2]], [[0, 1, 1]]],
                S[[0, 1], :, [0, 0]],
                S[0, [[0, 1], [1, 2]], ::-2],
            ],
            (1,): [S[[0, 0, 0]]],
            (2, 2, 2, 2): [S[..., [0, 0], [1, 1]], S[[0, 1], [1, 0], :, [1, 1]]],
        },
    ),
    (
        "boolean masks",
        "one value for each True, in C order",
        {
            (5,): [S[_mask(*[T, F, T, F, F])], S[_mask(*[T] * 5)]],
            (3, 4): [
                S[_CHECKERS],
                S[~_CHECKERS],
                S[_mask(*[T, F, T])],
                S[:, _mask(*[T, F, F, T])],
            ],
            (2, 3, 4): [
                S[np.arange(24).reshape(2, 3, 4) % 5 == 0],
                S[_ZEBRA],
                S[:, _FIFTHS],
                S[..., _mask(*[T, F, F, T])],
            ],
        },
    ),
    (
        "mixed",
        "arrays and masks beside ints, slices and new axes: NumPy moves axes to the front if a "
        "slice stands between arrays",
        {
            (5,): [S[None, [1, 2]], S[[1, 2], None], S[None, _mask(*[T, F, T, F, F])]],
            (3, 4): [
                S[1, [0, 2]],
                S[[0, 2], 1],
                S[[0, 2], 1:3],
                S[1:, [0, 3]],
                S[None, [0, 2], [1, 3]],
                S[[0, 2], None, [1, 3]],
                S[[0, 2], None, :],
                S[[0, 2], ..., [1, 3]],
                S[_CHECKERS, None],
                S[_mask(*[T, F, T]), 1:3],
                S[_mask(*[T, F, T]), _mask(*[F, T, F, T])],
                S[_mask(*[T, F, T]), [1, 2]],
                S[1, _mask(*[F, T, F, T])],
                S[None, 1:, None, ::3],
            ],
            (2, 3, 4): [
                S[0, :, [0, 1]],
                S[[0, 1], :, [0, 1]],
                S[[0, 1], :, 2],
                S[:, 0, [1, 2]],
                S[:, [0, 2], 1],
                S[[1, 0], 1:, [3, 0]],
                S[:, None, [0, 2], [1, 3]],
                S[[0, 1], None, [0, 2], [1, 3]],
                S[[0, 1], [0, 2], None, [1, 3]],
                S[[[0], [1]], :, [[0, 1], [2, 3]]],
                S[0, [0, 2], [1, 3]],
                S[[0, 1], 2, [1, 3]],
                S[[0, 1], [0, 2], 3],
                S[0, [[0], [2]], 1:3],
                S[None, [0, 1], 1],
                S[..., [0, 1], None],
                S[_ZEBRA, 1],
                S[_ZEBRA, ::-2],
                S[1, _FIFTHS],
                S[_mask(F, T), :, [0, 1]],
                S[[0, 1], _mask(*[T, F, T])],
            ],
            (2, 2, 2, 2): [
                S[0, :, [1, 0]],
                S[:, [0, 1], :, [1, 0]],
                S[1, ..., [0, 1], :],
                S[[[0, 1]], 1, :, [[1], [0]]],
            ],
        },
    ),
    (
        "empty selections",
        "nothing is selected, or the tensor has no elements",
        {
            (5,): [
                S[2:2],
                S[4:1],
                S[100:],
                S[[]],
                S[np.zeros((0, 3), int)],
                S[_mask(*[F] * 5)],
            ],
            (3, 4): [
                S[1:1, 2],
                S[[], :],
                S[[], []],
                S[:, []],
                S[[], [0]],
                S[np.zeros((3, 4), bool)],
            ],
            (0,): [S[:], S[::-1], S[[]], S[_mask()], S[None]],
            (0, 3): [S[:], S[:, 1], S[..., [0, 2]], S[[], 1], S[np.zeros((0, 3), bool)]],
        },
    ),
    (
        "small shapes",
        "a tensor without axes, or of one element",
        {
            (): [S[()], S[...], S[None], S[..., None], S[None, None]],
            (1,): [S[0], S[-1], S[[0]], S[::-1], S[_mask(T)]],
        },
    ),
    (
        "NumPy integers",
        "scalars and arrays of other dtypes than int64",
        {
            (5,): [
                S[np.int8(2)],
                S[np.uint8(3)],
                S[_i(2).reshape(())],
                S[_i(0, 3, dtype="int8")],
                S[_i(4, 1, dtype="uint16")],
            ],
            (3, 4): [S[np.array(1), np.array([0, 2], "uint8")]],
        },
    ),
    (
        "boolean scalars",
        "select everything or nothing along a new axis",
        {
            (): [S[T], S[F], S[..., T]],
            (5,): [S[T], S[F], S[T, 1:3], S[[1, 3], T]],
            (3, 4): [S[T], S[F], S[T, 0], S[..., T]],
            (2, 3, 4): [S[:, T], S[[0, 1], T], S[:, None, T]],
        },
    ),
    (
        "lists",
        "NumPy takes a list for an array",
        {
            (5,): [S[[3, 1]], S[[T, F, F, F, T]], S[[4, 0]]],
            (3, 4): [S[[2, 1], [0, 3]], S[:, [2, 0]], S[[[1], [2]], [2, 0]]],
        },
    ),
    (
        "out of bounds",
        "no such element: NumPy raises",
        {
            (5,): [
                S[5],
                S[-6],
                S[2**70],
                S[[0, 5]],
                S[_i(0, -6, dtype="int8")],
                S[np.array([2**63 + 1], "uint64")],
            ],
            (3, 4): [S[:, 4], S[[0, 1], [0, 4]]],
            (0, 3): [S[0]],
        },
    ),
    (
        "invalid indices",
        "too many axes, shapes that do not fit, or no index at all: NumPy raises",
        {
            (5,): [
                S[0, 0],
                S[..., 0, 0],
                S[_mask(T, F)],
                S[1.0],
                S[[0.0, 1.0]],
                S["a"],
                S[1.0:3],
                S[..., ...],
            ],
            (): [S[0]],
            (3, 4): [
                S[0, 0, 0],
                S[_mask(*[T] * 4)],
                S[:, np.ones((3, 4), bool)],
                S[[0, 1, 2], [0, 1]],
            ],
        },
    ),
]
INDEX_KINDS = tuple(dict.fromkeys([kind for kind, _, _ in _GROUPS]))
REFUSED = ("out of bounds", "invalid indices")


def _with_arrays(index: Any, lists: bool) -> Any:
    """An index with arrays of its own, also in place of its lists."""
    items = index if isinstance(index, tuple) else (index,)
    found = tuple([_as_array(item, lists) for item in items])
    return found if isinstance(index, tuple) else found[0]


def _as_array(item: Any, lists: bool) -> Any:
    if isinstance(item, list) and lists:
        return np.array(item) if item else np.array(item, "int64")
    return item.copy() if isinstance(item, np.ndarray) else item


def _cases() -> Iterator[IndexCase]:
    for kind, why, table in _GROUPS:
        for shape, indices in table.items():
            for index in indices:
                yield IndexCase(shape, _with_arrays(index, kind != "lists"), kind, why)
