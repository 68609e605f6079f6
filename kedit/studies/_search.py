"""The goal of a counterfactual, and the smallest change that reaches it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kedit._run import ops
from kedit.errors import OperandError, ShapeError


def _unlikelihood(target: Any, outputs: Any) -> Any:
    """Return the negative logarithm of the probability of the class.

    A single output is the probability of class 1 of two. Keras's cross-entropies have no
    gradient where a probability is below 1e-7, so a sample that the model is sure
    belongs to another class would never change.
    """
    if outputs.shape[-1] == 1:
        outputs = ops.concatenate([1.0 - outputs, outputs], axis=-1)
    is_class = ops.cast(ops.reshape(target, (-1, 1)), "int32") == ops.arange(outputs.shape[-1])
    likelihood = ops.sum(ops.where(is_class, outputs, 0.0), axis=-1)
    return -ops.log(ops.maximum(likelihood, 1e-37))


class Goal:
    """The target of each sample, its loss, and whether it is reached."""

    def __init__(self, target: Any, outputs: Any, tolerance: float) -> None:
        target = np.asarray(target)
        self.tolerance, self.is_class = tolerance, target.dtype.kind in "iub"
        classes = outputs.shape[-1] if outputs.ndim == 2 else 0
        self.is_binary = self.is_class and classes == 1
        self.loss: Any = _unlikelihood if self.is_class else "mean_squared_error"
        shape = outputs.shape[:1] if self.is_class else outputs.shape
        fits = target.ndim == 0 or target.shape == shape
        if not self.is_class and target.shape == outputs.shape[:1] and classes == 1:
            target, fits = target[:, None], True
        if not fits or (self.is_class and not classes):
            raise ShapeError(
                "A target should be a class, an integer, for outputs of shape (num_samples, "
                f"num_classes), or numbers of the shape of the outputs, {outputs.shape}; one, or "
                f"one for each sample. Received: {target.dtype.name} of shape {target.shape}."
            )
        last = 1 if self.is_binary else classes - 1
        if self.is_class and not 0 <= target.min() <= target.max() <= last:
            raise OperandError(
                f"A class should lie between 0 and {last}. Received: {target.tolist()}. For "
                "numbers, write floats."
            )
        self.target = np.broadcast_to(target, shape).astype("int32" if self.is_class else "float32")

    def is_reached(self, outputs: Any) -> Any:
        if self.is_binary:
            return (outputs[:, 0] > 0.5) == self.target
        if self.is_class:
            return outputs.argmax(axis=-1) == self.target
        allowed = self.tolerance * np.maximum(1, np.abs(self.target))
        met = np.abs(outputs - self.target) <= allowed
        return met.reshape(len(met), -1).all(axis=1)


class Search:
    """The smallest change of each sample seen so far that reaches the goal."""

    def __init__(self, goal: Goal, x: Any, added: Callable[[Any], Any]) -> None:
        self.goal, self.added = goal, added
        self.delta = np.zeros_like(x)
        self.reached = np.zeros(len(x), bool)
        self.size = np.full(len(x), np.inf)
        self.look_at(self.delta)

    def look_at(self, delta: Any) -> None:
        after = self.added(delta)[1]
        reached = self.goal.is_reached(after)
        size = np.abs(delta).reshape(len(delta), -1).sum(axis=1)
        better = np.where(reached, size < self.size, ~self.reached)
        self.delta[better] = delta[better]
        self.size = np.where(reached & better, size, self.size)
        self.reached |= reached

    def take_back(self) -> None:
        """Set the smallest changes of each sample to 0, as many as bisection allows."""
        flat = np.abs(self.delta).reshape(len(self.delta), -1)
        rank = np.argsort(np.argsort(-flat, axis=1, kind="stable"), axis=1)
        too_few, enough = np.full(len(flat), -1), np.count_nonzero(flat, axis=1)
        while (enough - too_few > 1).any():
            keep = (too_few + enough + 1) // 2
            tried = np.where((rank < keep[:, None]).reshape(self.delta.shape), self.delta, 0)
            reached = self.goal.is_reached(self.added(tried)[1]) & (keep < enough)
            enough = np.where(reached, keep, enough)
            too_few = np.where(reached | (keep >= enough), too_few, keep)
        kept = (rank < enough[:, None]) | ~self.reached[:, None]
        self.delta = np.where(kept.reshape(self.delta.shape), self.delta, 0)
