"""Table of (shape, index) cases: every kind of index that NumPy knows, alone and mixed."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from _backend import EAGER_IS_SLOW


class Case(NamedTuple):
    shape: tuple[int, ...]
    index: Any

    def __repr__(self) -> str:
        items = self.index if isinstance(self.index, tuple) else (self.index,)
        return f"{self.shape}[{', '.join(_code(item) for item in items)}]".replace(" ", "")


def _code(item: Any) -> str:
    if isinstance(item, slice):
        return ":".join("" if p is None else str(p) for p in (item.start, item.stop, item.step))
    if item is ...:
        return "..."
    if isinstance(item, np.ndarray):
        return f"{item.dtype}{item.tolist()}"
    return str(item)


S = np.s_
T, F = True, False


def _i(*numbers: Any, dtype: str = "int64") -> Any:
    return np.array(numbers, dtype)


def _mask(*rows: Any) -> Any:
    return np.array(rows, bool)


_CHECKERS = np.arange(12).reshape(3, 4) % 2 == 0

_TABLE: dict[tuple[int, ...], list[Any]] = {
    (): [S[()], S[...], S[None], S[..., None], S[None, None], S[T], S[F], S[..., T]],
    (5,): [
        # ints
        S[0],
        S[4],
        S[-1],
        S[-5],
        S[np.int8(2)],
        S[np.uint8(3)],
        S[_i(2).reshape(())],
        S[np.array(-2)],
        # slices
        S[:],
        S[1:3],
        S[:-1],
        S[-2:],
        S[::2],
        S[1::3],
        S[::-1],
        S[::-2],
        S[3:0:-1],
        S[-1:-4:-2],
        S[2:2],
        S[4:1],
        S[-100:100],
        S[100:],
        S[100::-1],
        # new axes and ellipsis
        S[...],
        S[None],
        S[:, None],
        S[None, 1:3, None],
        S[..., 2],
        S[2, ...],
        S[..., ::-2],
        # integer arrays
        S[[0]],
        S[[2, 0]],
        S[[-1, 1, -3]],
        S[[0, 0, 2]],
        S[[-1, 4, 4, 0, -5]],
        S[[]],
        S[_i(0, 3, dtype="int8")],
        S[_i(4, 1, dtype="uint16")],
        S[_i(-1, -2, dtype="int32")],
        S[_i([0, 1], [2, 3])],
        S[_i([0, 1], [1, 0])],
        S[_i([[4], [0], [4]])],
        S[np.zeros((0, 3), int)],
        S[None, [1, 2]],
        S[[1, 2], None],
        # masks
        S[_mask(*[T, F, T, F, F])],
        S[_mask(*[F] * 5)],
        S[_mask(*[T] * 5)],
        S[[T, F, F, F, T]],
        S[T],
        S[F],
        S[T, 1:3],
        S[[1, 3], T],
        S[None, _mask(*[T, F, T, F, F])],
    ],
    (1,): [S[0], S[-1], S[[0, 0, 0]], S[::-1], S[_mask(T)]],
    (0,): [S[:], S[::-1], S[[]], S[_mask()], S[None]],
    (3, 4): [
        S[0],
        S[-1],
        S[0, 2],
        S[-1, -1],
        S[:, 2],
        S[1, :],
        S[..., 0],
        S[0, ..., 1],
        S[1:, :2],
        S[::2, ::3],
        S[::-1],
        S[:, ::-1],
        S[::-1, ::-2],
        S[1:1, 2],
        S[:, 3:0:-2],
        S[None, 1],
        S[1, None],
        S[:, None, 2],
        S[None, :, None, 1:3, None],
        S[[0, 2]],
        S[[2, 0, 2]],
        S[:, [1, 3]],
        S[:, [3, 1, 3, 0]],
        S[1, [0, 2]],
        S[[0, 2], 1],
        S[[0, 2], 1:3],
        S[1:, [0, 3]],
        S[[0, 2], [1, 3]],
        S[[0, 0, 2], [1, 1, 3]],
        S[[-1, 0], [0, -1]],
        S[[[0], [2]], [1, 3]],
        S[np.ix_([0, 2], [3, 1])],
        S[np.ix_([0, 0], [1, 2, 2])],
        S[[[0, 1], [1, 0]], [[2, 3], [3, 2]]],
        S[[0], [1, 2, 3]],
        S[None, [0, 2], [1, 3]],
        S[[0, 2], None, [1, 3]],
        S[[0, 2], None, :],
        S[[0, 2], ..., [1, 3]],
        S[..., [0, 2], [1, 3]],
        S[[], :],
        S[[], []],
        S[:, []],
        S[[], [0]],
        S[_CHECKERS],
        S[~_CHECKERS],
        S[np.zeros((3, 4), bool)],
        S[_CHECKERS, None],
        S[_mask(*[T, F, T])],
        S[_mask(*[T, F, T]), 1:3],
        S[:, _mask(*[T, F, F, T])],
        S[_mask(*[T, F, T]), _mask(*[F, T, F, T])],
        S[_mask(*[T, F, T]), [1, 2]],
        S[1, _mask(*[F, T, F, T])],
        S[T],
        S[F],
        S[T, 0],
        S[..., T],
        S[np.array(1), np.array([0, 2], "uint8")],
    ],
    (2, 3, 4): [
        S[1],
        S[1, 2],
        S[1, 2, 3],
        S[..., 1],
        S[:, 1],
        S[:, 1, ::2],
        S[0, :, 1],
        S[0, 1:, ::-1],
        S[:, ::-2, -1],
        S[1, ..., None],
        S[None, ..., 1, None],
        S[[1, 0]],
        S[:, [2, 0]],
        S[..., [3, 0, 3]],
        S[0, :, [0, 1]],
        S[[0, 1], :, [0, 1]],
        S[[0, 1], :, 2],
        S[:, 0, [1, 2]],
        S[:, [0, 2], 1],
        S[[1, 0], 1:, [3, 0]],
        S[[1, 0], [2, 0]],
        S[:, [2, 0], [3, 1]],
        S[:, [2, 2], [3, 3]],
        S[:, None, [0, 2], [1, 3]],
        S[[0, 1], None, [0, 2], [1, 3]],
        S[[0, 1], [0, 2], [1, 3]],
        S[[0, 1], [0, 2], None, [1, 3]],
        S[[[0], [1]], :, [[0, 1], [2, 3]]],
        S[:, [[0], [2]], [[0, 1, 3]]],
        S[0, [0, 2], [1, 3]],
        S[[0, 1], 2, [1, 3]],
        S[[0, 1], [0, 2], 3],
        S[0, [[0, 1], [1, 2]], ::-2],
        S[None, [0, 1], 1],
        S[np.arange(24).reshape(2, 3, 4) % 5 == 0],
        S[np.arange(6).reshape(2, 3) % 2 == 0],
        S[np.arange(6).reshape(2, 3) % 2 == 0, 1],
        S[np.arange(6).reshape(2, 3) % 2 == 0, ::-2],
        S[:, np.arange(12).reshape(3, 4) % 5 == 0],
        S[1, np.arange(12).reshape(3, 4) % 5 == 0],
        S[_mask(F, T), :, [0, 1]],
        S[[0, 1], _mask(*[T, F, T])],
        S[..., _mask(*[T, F, F, T])],
        S[:, T],
        S[[0, 1], T],
        S[:, None, T],
        S[..., [0, 1], None],
    ],
    (2, 2, 2, 2): [
        S[0, :, [1, 0]],
        S[:, [0, 1], :, [1, 0]],
        S[[0, 1], [1, 0], :, [1, 1]],
        S[..., [0, 0], [1, 1]],
        S[1, ..., [0, 1], :],
        S[:, 0, 1, ::-1],
        S[[[0, 1]], 1, :, [[1], [0]]],
    ],
    (0, 3): [S[:], S[:, 1], S[..., [0, 2]], S[[], 1], S[np.zeros((0, 3), bool)]],
}

CASES = [Case(shape, index) for shape, table in _TABLE.items() for index in table]

# A few of every kind, for what is slow: gradients and compilers.
FEW = [
    Case((), S[()]),
    Case((5,), S[-2]),
    Case((5,), S[::-2]),
    Case((5,), S[1:3]),
    Case((5,), S[[0, 0, 2]]),
    Case((5,), S[[3, 3, 3, 1, 3, 3]]),
    Case((5,), S[[]]),
    Case((3, 4), S[0, 2]),
    Case((3, 4), S[:, 2]),
    Case((3, 4), S[:, [3, 1, 3, 0]]),
    Case((3, 4), S[[0, 0, 2], [1, 1, 3]]),
    Case((3, 4), S[np.ix_([0, 0], [1, 2, 2])]),
    Case((3, 4), S[_CHECKERS]),
    Case((3, 4), S[None, 1:, None, ::3]),
    Case((2, 3, 4), S[0, :, [0, 1]]),
    Case((2, 3, 4), S[[0, 1], :, [0, 0]]),
    Case((2, 3, 4), S[:, [[0], [2]], [[0, 1, 1]]]),
]

FEWER = [
    Case((5,), S[::-2]),
    Case((5,), S[[3, 3, 3, 1, 3, 3]]),
    Case((3, 4), S[0, 2]),
    Case((3, 4), S[:, [3, 1]]),
    Case((3, 4), S[_CHECKERS]),
    Case((2, 3, 4), S[:, [[0], [2]], [[0, 1, 1]]]),
]

OUT_OF_BOUNDS = [
    Case((5,), S[5]),
    Case((5,), S[-6]),
    Case((5,), S[2**70]),
    Case((5,), S[[0, 5]]),
    Case((5,), S[_i(0, -6, dtype="int8")]),
    Case((5,), S[np.array([2**63 + 1], "uint64")]),
    Case((5,), S[0, 0]),
    Case((5,), S[..., 0, 0]),
    Case((), S[0]),
    Case((3, 4), S[:, 4]),
    Case((3, 4), S[[0, 1], [0, 4]]),
    Case((3, 4), S[0, 0, 0]),
    Case((0, 3), S[0]),
    Case((5,), S[_mask(T, F)]),
    Case((3, 4), S[_mask(*[T] * 4)]),
    Case((3, 4), S[:, np.ones((3, 4), bool)]),
    Case((3, 4), S[[0, 1, 2], [0, 1]]),
    Case((5,), S[1.0]),
    Case((5,), S[[0.0, 1.0]]),
    Case((5,), S["a"]),
    Case((5,), S[1.0:3]),
    Case((5,), S[..., ...]),
]


def eagerly(cases: list[Any]) -> list[Any]:
    """Cases that are run as they are: every third where each of their shapes is compiled."""
    return cases[:: 3 if EAGER_IS_SLOW else 1]


def eager_and_compiled(cases: Any, few: Any) -> Any:
    """Run a test of `case` and `compile` on cases the faster way, and the other way on a few."""
    rows = [(case, EAGER_IS_SLOW) for case in cases] + [(case, not EAGER_IS_SLOW) for case in few]
    return pytest.mark.parametrize(
        ("case", "compile"),
        rows,
        ids=lambda value: repr(value) if isinstance(value, Case) else ["eager", "compiled"][value],
    )
