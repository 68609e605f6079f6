"""What type checkers say of edits: `mypy --strict` and pyright read this file; nothing runs it."""

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from kedit import Edit, EditSequence, X, at, sample
from kedit.layers import ConditionalModifier, Editing
from kedit.losses import IndexPenalty, MaskedLoss


class Tensor:
    """A tensor of some backend."""


def later() -> None:
    assert_type(at[0, 2].set(100.0), Edit)
    assert_type(sample.where(X > 5.0).multiply(2.0), Edit)
    assert_type(at[..., 0].where(X > 5.0).apply(abs), Edit)
    assert_type(at[0].get(), Edit)
    assert_type(at[0].set(1.0) | at[1].set(2.0), EditSequence)
    assert_type(at[0].set(1.0) | at[1].set(2.0) | at[2].set(3.0), EditSequence)


def now(x: Tensor, array: NDArray[np.float32]) -> None:
    assert_type(at(x)[0, 2].set(100.0), Tensor)
    assert_type(at(array)[array > 0].add(1.0, mode="clip"), NDArray[np.float32])
    assert_type(sample(x).where(X.isnan()).set(0.0), Tensor)
    assert_type(at(x)[0].get(), Tensor)
    assert_type(at([1.0, 2.0])[0].set(3.0), NDArray[Any])


def options() -> None:
    at[0].set(1.0, mode="wrap", casting="unsafe")
    at[0].set(1.0, mode="round")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    at[0].set(1.0, casting="no")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Editing(at[..., 0].set(1.0), when="training", gradient="sigmoid")
    Editing(at[..., 0].set(1.0), when="now")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    ConditionalModifier(1.0, comparison="abs>", operation="set")
    ConditionalModifier(1.0, comparison="=")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    IndexPenalty(2, 50.0, kind="huber")
    IndexPenalty(2, 50.0, kind="l3")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    MaskedLoss("mse", normalizer="row")
    MaskedLoss("mse", normalizer="rows")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
