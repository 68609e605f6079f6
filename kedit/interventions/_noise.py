"""An operand that is drawn anew in every run."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras

from kedit._edit import Edit
from kedit._language.dtypes import kind
from kedit._language.types import Shape, Tensor
from kedit._run import ops
from kedit._show.code import created
from kedit.errors import DTypeError, OperandError
from kedit.interventions._operands import RunOperand, plain

_SEEDS = 2**31  # a backend keeps them in 32 bits with a sign
_HELD: ContextVar[bool] = ContextVar("held", default=False)


@keras.saving.register_keras_serializable(package="kedit")
class Noise(RunOperand):
    """Numbers drawn from the normal distribution, anew in every run of the model.

    `sample[3].add(Noise(0.1))` corrupts position 3, as causal tracing does: how much of a
    prediction comes back when other activations are patched from a run without noise?

    The layer of the edit keeps where the series of draws is, and a `.keras` file holds it.
    With the same `seed`, the series is the same on the same backend. As in all Keras
    layers, other backends draw other numbers, and so does TensorFlow in a model that
    XLA compiles. Inside `edited.applied()`, calls with one
    shape draw the same numbers, and each block draws new ones.

    Args:
        stddev: Standard deviation, from 0 on. Defaults to 1.0.
        seed: Int from 0 to `2**31 - 1`. Defaults to None: a random seed, which
            `keras.utils.set_random_seed` determines.

    Raises:
        kedit.errors.OperandError: If an argument is invalid.
        kedit.errors.DTypeError: When the edit is built, if the activation is not of floats.

    Gradient:
        None: the numbers depend on nothing.

    References:
        K. Meng, D. Bau, A. Andonian and Y. Belinkov, *Locating and Editing Factual
        Associations in GPT*, 2022, arXiv:2202.05262.

    Example:
    >>> edit = kedit.sample[3].add(kedit.interventions.Noise(0.1, seed=0))
    >>> edit
    sample[3].add(Noise(stddev=0.1, seed=0))
    >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(1.0, name="h")])
    >>> noise = kedit.sample[0].add(kedit.interventions.Noise(seed=0))
    >>> edited = kedit.interventions.edit_model(base, {"h": noise})
    >>> first, second = [ops.convert_to_numpy(edited(np.zeros((1, 2)))) for _ in range(2)]
    >>> bool(first[0, 0] != second[0, 0]), first[0, 1].tolist()
    (True, 0.0)
    """

    __slots__ = ("seed", "stddev")
    owns_weight = True
    stddev: float
    seed: int | None

    def __init__(self, stddev: float = 1.0, seed: int | None = None) -> None:
        stddev = plain(stddev)
        if type(stddev) not in (int, float) or not 0 <= stddev < math.inf:
            raise OperandError(
                f"`stddev` should be a number from 0 on. Received: stddev={stddev!r}."
            )
        if seed is not None and (type(seed) is not int or not 0 <= seed < _SEEDS):
            raise OperandError(
                f"`seed` should be an int from 0 to {_SEEDS - 1}, or None. Received: seed={seed!r}."
            )
        self._init(stddev=float(stddev), seed=seed)

    def key(self) -> Any:
        return ("Noise", self.stddev, self.seed)

    def __repr__(self) -> str:
        return created(self)

    def __reduce__(self) -> Any:
        return (Noise, (self.stddev, self.seed))

    def get_config(self) -> dict[str, Any]:
        return {"stddev": self.stddev, "seed": self.seed}

    def part(self) -> "Draws":
        return Draws(self.seed)

    def check(self, edit: Edit, shape: Shape, dtype: str) -> None:
        if kind(dtype) != 2:
            raise DTypeError(
                f"Noise should be drawn for floats. Received: an activation of dtype {dtype!r} in "
                f"`{edit!r}`. Edit a layer after this one."
            )

    def value(self, x: Tensor, given: dict[str, Tensor], weight: Any, piece: Any = None) -> Tensor:
        dtype = keras.backend.standardize_dtype(x.dtype)
        drawn = "float64" if dtype == "float64" else "float32"
        noise = keras.random.normal(ops.shape(x), 0.0, self.stddev, drawn, seed=weight)
        return ops.cast(noise, dtype)


class Draws(keras.random.SeedGenerator):
    """Where a series of draws is."""

    def next(self, ordered: bool = True) -> Tensor:
        return self.state.value * 1 if _HELD.get() else super().next(ordered)


@contextmanager
def held() -> Iterator[None]:
    """Draw the next numbers of each series again and again, inside the block."""
    before = _HELD.set(True)
    try:
        yield
    finally:
        _HELD.reset(before)
