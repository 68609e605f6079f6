"""The cases of `kedit.testing.index_cases`, most of them with lists, and a few for what is slow."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from _backend import EAGER_IS_SLOW

from kedit.testing import IndexCase as Case
from kedit.testing import index_cases

S = np.s_
_CHECKERS = np.arange(12).reshape(3, 4) % 2 == 0
_AS_ARRAYS = ("integer arrays", "negative positions", "NumPy integers")
"""Kinds of which arrays stay arrays; kedit reads lists another way."""


def _with_lists(case: Case) -> Case:
    items = case.index if isinstance(case.index, tuple) else (case.index,)
    found = tuple([_as_list(item) for item in items])
    index = found if isinstance(case.index, tuple) else found[0]
    return dataclasses.replace(case, index=index)


def _as_list(item: Any) -> Any:
    is_list = isinstance(item, np.ndarray) and item.dtype == "int64" and item.ndim
    return item.tolist() if is_list and item.shape in ((0,), np.shape(item.tolist())) else item


_SPELLED = [
    *[case if case.kind in _AS_ARRAYS else _with_lists(case) for case in index_cases()],
    Case((5,), S[np.zeros(0, "int64")]),
]
CASES = list({repr(case): case for case in _SPELLED}.values())

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

OUT_OF_BOUNDS = [_with_lists(case) for case in index_cases(["out of bounds", "invalid indices"])]


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
