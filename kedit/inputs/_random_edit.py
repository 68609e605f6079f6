"""An edit of randomly chosen positions, with a separate key for each sample."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import keras
import numpy as np

from kedit._edit import Edit, edit_from_json
from kedit._language.batch import edit_batch
from kedit._language.constants import Array, as_array, freeze
from kedit._language.decoding import check_same, loading
from kedit._language.expression import Expression
from kedit._language.selection import Selection
from kedit._language.types import Shape
from kedit._plan.bind import BindOptions, bind
from kedit.errors import OperandError, ShapeError


@keras.saving.register_keras_serializable(package="kedit")
@dataclass(frozen=True, slots=True)
class RandomEdit:
    """An edit that changes a random choice of its selected positions.

    The draw depends only on the key `(seed, epoch, index)`. It is the same in every
    process, order and batch, and on every backend. Forked workers share no state.

    Args:
        edit: `kedit.Edit`. In `sample[...]`, each sample of a batch gets its own draw;
            in `at[...]`, the whole array gets one.
        count: Number of positions to choose. Give one of `count`, `rate` and `block`.
        rate: Probability of choosing each position, from 0 to 1.
        block: Size of a block of neighbours to choose, with a number for each of
            `axes`, such as `(3, 3)`.
        axes: Int or tuple: the axes of the selection along which to choose. `-1`
            chooses whole features. In `sample[...]`, axes are counted inside a sample.
            Defaults to None: all axes, or the first `len(block)` for a block.
        probability: Probability of editing at all, from 0 to 1. Defaults to 1.
        seed: Non-negative integer. Defaults to 0.

    Call arguments:
        x: NumPy array, list, tensor or batch, as for `kedit.Edit`.
        index: Number of the element in the dataset; in `sample[...]`, one for each
            sample in the batch.
        epoch: Number of the epoch. Defaults to 0.

    Raises:
        kedit.errors.OperandError: If the arguments do not say what to choose, or
            the index has no value yet, as inside `tf.data`.
        kedit.errors.ShapeError: If there are fewer positions than should be chosen,
            or the number of indices is not the number of samples.

    Gradient:
        The gradient of the edit that was drawn.

    References:
        - Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3": Philox,
          the NumPy generator used here.

    Example:
    >>> erase = kedit.inputs.RandomEdit(kedit.sample[...].set(0.0), block=(2, 2), seed=1)
    >>> x = erase(np.ones((2, 4, 4)), index=[10, 11])
    >>> x.sum(axis=(1, 2)).tolist()
    [12.0, 12.0]
    >>> bool((erase(np.ones((1, 4, 4)), index=[11]) == x[1]).all())
    True
    """

    edit: Edit
    count: int | None = None
    rate: float | None = None
    block: tuple[int, ...] | None = None
    axes: int | tuple[int, ...] | None = None
    probability: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("block", "axes"):  # JSON turns tuples into lists
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if not isinstance(self.edit, Edit) or self.edit.op == "get" or self.edit.tensors():
            raise OperandError(
                "A random edit should be given one edit by numbers, arrays or expressions. "
                f"Received: `{self.edit!r}`. Write `RandomEdit(sample[...].set(0.0), count=1)`."
            )
        if callable(self.edit.selection.condition):
            raise OperandError(
                "A random edit should be given a condition that is an expression or a mask. "
                f"Received: `{self.edit!r}`. Write `.where(X > 0.0)`."
            )
        if [self.count, self.rate, self.block].count(None) != 2:
            raise OperandError(
                "A random edit should be given one of `count`, `rate` and `block`. Received: "
                f"count={self.count!r}, rate={self.rate!r}, block={self.block!r}."
            )
        for name in ("count", "block", "seed"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if value is not None and not all([type(n) is int and n >= 0 for n in numbers]):
                raise OperandError(f"`{name}` should be whole, not negative. Received: {value!r}.")
        for name in ("rate", "probability"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise OperandError(f"`{name}` should lie from 0 to 1. Received: {value!r}.")

    def __call__(self, x: Any, index: Any, epoch: int = 0) -> Any:
        def edit_leaf(leaf: Any) -> Any:
            leaf = as_array(leaf) if isinstance(leaf, (list, tuple)) else leaf
            return self.draw(leaf.shape, index, epoch)(leaf)

        return edit_batch(edit_leaf, x, self.edit.path, self.edit.part)

    def draw(self, shape: Shape, index: Any, epoch: int = 0) -> Edit:
        """Return the edit drawn for a key, for an array or a batch of shape `shape`."""
        selection = self.edit.selection
        selected: Any = bind(selection, tuple(shape), BindOptions(self.edit.mode)).result
        try:
            keys = np.asarray(index).tolist()
        except Exception as error:  # each framework raises its own kind
            raise OperandError(
                "The index of a random edit should be a number, or one for each sample. Received: "
                f"a {type(index).__name__} without values. Where a pipeline has only such, as "
                "`tf.data`, edit before it, or in `kedit.inputs.EditedDataset`."
            ) from error
        if selection.coordinates == "at":
            chosen = self._chosen(selected, keys, epoch)
        elif not isinstance(keys, list) or len(keys) != selected[0]:
            raise ShapeError(
                "A random edit in `sample[...]` should be given an index for each sample of the "
                f"batch. Received: {index!r} for a batch of shape {tuple(shape)}."
            )
        else:
            masks = [self._chosen(selected[1:], key, epoch) for key in keys]
            chosen = np.stack(masks) if masks else np.zeros(selected, bool)
        condition: Any = freeze(chosen)
        if isinstance(selection.condition, Expression):
            condition = Expression("logical_and", selection.condition, condition)
        elif isinstance(selection.condition, Array):
            condition = freeze(chosen & selection.condition.array)
        narrowed = Selection(selection.coordinates, selection.index, condition)
        return replace(self.edit, selection=narrowed, path=None, part="x")

    def _chosen(self, sizes: Any, key: int, epoch: int) -> Any:
        """Choose positions for one key, as booleans that broadcast to `sizes`."""
        # Use only `random`, whose numbers come straight from the bits of Philox.
        entropy = np.random.SeedSequence((self.seed, epoch, key))
        random = np.random.Generator(np.random.Philox(entropy)).random
        axes = self._axes(len(sizes))
        within = [sizes[axis] for axis in axes]
        happens = random() < self.probability
        if self.block is not None:
            chosen = np.array(happens)
            for size, width in zip(within, self.block, strict=True):
                self._check_enough(size, width)
                start = int(random() * (size - width + 1))
                place = np.arange(size)
                chosen = chosen[..., None] & (start <= place) & (place < start + width)
        else:
            drawn = random(math.prod(within))
            if self.count is not None:
                self._check_enough(len(drawn), self.count)
                chosen = np.argsort(np.argsort(drawn, kind="stable")) < self.count
            else:
                chosen = drawn < self.rate
            chosen = chosen & happens
        by_axis = chosen.reshape(within).transpose(np.argsort(axes))
        return by_axis.reshape([size if a in axes else 1 for a, size in enumerate(sizes)])

    def _axes(self, rank: int) -> list[int]:
        if self.axes is None:
            return list(range(rank if self.block is None else len(self.block)))
        given = self.axes if isinstance(self.axes, tuple) else (self.axes,)
        axes = [axis + rank if axis < 0 else axis for axis in given]
        if len(set(axes)) < len(axes) or not all([0 <= axis < rank for axis in axes]):
            raise ShapeError(
                f"`axes` should be different axes of a selection of rank {rank}. Received: "
                f"{self.axes!r}."
            )
        return axes

    def _check_enough(self, size: int, wanted: int) -> None:
        if wanted > size:
            raise ShapeError(
                f"A random edit should choose at most as many places as there are, {size}. "
                f"Received: {self!r}."
            )

    def get_config(self) -> dict[str, Any]:
        """Return the random edit as JSON data."""
        config = {field.name: getattr(self, field.name) for field in fields(self)}
        lists = {name: list(v) if isinstance(v, tuple) else v for name, v in config.items()}
        return {**lists, "edit": keras.saving.serialize_keras_object(self.edit)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "RandomEdit":
        """Rebuild a random edit from `get_config()`. Runs no code."""
        with loading("A saved RandomEdit", config):
            made = cls(**{**config, "edit": edit_from_json(config["edit"])})
            check_same(
                "A saved RandomEdit",
                made.get_config(),
                config,
                ("count", "rate", "block", "axes", "probability", "seed"),
            )
            return made
