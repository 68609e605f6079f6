"""Which elements of weights to prune: groups of elements, their scores, and how many."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from kedit._edit import check_one_of
from kedit._language.decoding import check_fields, check_same, loading, received, refused
from kedit._run import ops
from kedit.errors import OperandError, SavingError, ShapeError
from kedit.weights._names import Address

Array = np.ndarray[Any, Any]
Scope = Literal["each", "global"]
_SCOPES = ("each", "global")
_FIELDS: dict[str, Any] = {
    "weights": list,
    "scope": str,
    "structure": (str, list, type(None)),
    "block": (list, type(None)),
    "importance": (str, dict, type(None)),
}


@dataclass(frozen=True, eq=False)
class Rule:
    """How weights are pruned, so that a model can be pruned further.

    Attributes:
        weights: Addresses of the weights.
        scope: "each" or "global".
        structure: None, "channels", or `(n, m)`.
        block: Shape of the blocks that are pruned together, or None.
        importance: "magnitude", a function of a weight, or a dict of scores; None for one
            that was not saved.
    """

    weights: tuple[Address, ...]
    scope: Scope = "each"
    structure: Any = None
    block: Any = None
    importance: Any = "magnitude"

    def __post_init__(self) -> None:
        check_one_of("scope", self.scope, _SCOPES)
        structure, block = self.structure, self.block
        is_n_of_m = isinstance(structure, (tuple, list))
        if is_n_of_m and not (_are_sizes(structure, 2) and structure[0] < structure[1]):
            raise OperandError(
                "`structure` of two numbers `(n, m)` should keep n of each m neighbors, with n "
                f"below m. Received: structure={structure!r}. Write `structure=(2, 4)`."
            )
        if not is_n_of_m and structure not in (None, "channels"):
            raise OperandError(
                '`structure` should be None, "channels" or `(n, m)`. Received: '
                f"structure={structure!r}. Write `structure=(2, 4)` to keep 2 of each 4 "
                "neighbors, or `block=(4, 4)` for blocks."
            )
        if block is not None and (structure is not None or not _are_sizes(block)):
            raise OperandError(
                "`block` should be the shape of a block, ints from 1 on, without a `structure`. "
                f"Received: block={block!r}, structure={structure!r}. Write `block=(4, 4)`."
            )
        if is_n_of_m and self.scope == "global":
            raise OperandError(
                '`scope="global"` should not be combined with `structure=(n, m)`, which prunes '
                f"each weight alike. Received: structure={structure!r}. Drop `scope`."
            )
        known = self.importance in (None, "magnitude") if _is_name(self.importance) else False
        if not (known or callable(self.importance) or isinstance(self.importance, Mapping)):
            raise OperandError(
                '`importance` should be "magnitude", a function of a weight, or a dict of scores. '
                f"Received: importance={self.importance!r}. Write `importance=np.abs`."
            )

    @property
    def most(self) -> float:
        """The highest sparsity that the structure allows."""
        if isinstance(self.structure, (tuple, list)):
            return 1 - float(self.structure[0]) / float(self.structure[1])
        return 1.0

    def chosen(
        self,
        sparsity: float,
        weights: Mapping[Any, tuple[Any, Array, Array]],
    ) -> dict[Address, Array]:
        """Return which elements of the weights to prune.

        Args:
            sparsity: Fraction of the elements.
            weights: For each weight its layer, its values, and scores that go before its own:
                -inf for what is pruned already, inf for what must be kept, 0 for the rest.
        """
        check_sparsity(sparsity, self.most)
        names = list(weights)
        scores, groups = [], []
        for name in names:
            layer, values, forced = weights[name]
            score = np.where(forced != 0, forced, self._scores(name, values))
            scores.append(score.ravel())
            groups.append(self._groups(name, layer, score))
        if self.scope == "global" and names:
            starts = np.cumsum([0, *[int(group.max(initial=-1)) + 1 for group in groups]])
            joint = [group + start for group, start in zip(groups, starts, strict=False)]
            chosen = _least(np.concatenate(scores), np.concatenate(joint), sparsity)
            parts = np.split(chosen, np.cumsum([score.size for score in scores])[:-1])
        else:
            parts = [_least(*pair, sparsity) for pair in zip(scores, groups, strict=True)]
        return {n: part.reshape(weights[n][1].shape) for n, part in zip(names, parts, strict=True)}

    def _scores(self, name: Address, values: Array) -> Array:
        importance = self.importance
        if importance is None:
            raise OperandError(
                "A model should be pruned further by scores that it knows. Received: a model "
                f"whose `importance` for {name!r} is a function or scores that were not saved. "
                "Prune it again: `prune(model, name, sparsity, importance=function)`."
            )
        if _is_name(importance):
            magnitude: Array = np.abs(values)
            return magnitude
        given = importance(values) if callable(importance) else importance[name]
        scores: Array = np.asarray(ops.convert_to_numpy(given), "float64")
        if scores.shape != values.shape or np.isnan(scores).any():
            raise ShapeError(
                f"`importance` should give a number for each element of {name!r}, of shape "
                f"{values.shape}. Received: shape {scores.shape}"
                f"{' with NaN' * bool(np.isnan(scores).any())}. Write `importance=np.abs`."
            )
        return scores

    def _groups(self, name: Address, layer: Any, scores: Array) -> Array:
        """Return for each element the number of its group; -1 if it is never pruned."""
        shape = scores.shape
        numbers = np.arange(scores.size).reshape(shape)
        if self.structure == "channels":
            axes = _channel_axes(layer, shape)
            sizes = [n if axis in axes else 1 for axis, n in enumerate(shape)]
            return np.broadcast_to(np.arange(math.prod(sizes)).reshape(sizes), shape).ravel()
        if self.block is not None:
            block = (*[1] * (len(shape) - len(self.block)), *self.block)
            if len(block) > len(shape) or any([n % b for n, b in zip(shape, block, strict=True)]):
                raise ShapeError(
                    f"`block` should divide the last axes of {name!r}, of shape {shape}. "
                    f"Received: block={tuple(self.block)}. Write `block={_divisors(shape)}`."
                )
            counts = [n // b for n, b in zip(shape, block, strict=True)]
            where = [np.arange(n) // b for n, b in zip(shape, block, strict=True)]
            grid = np.arange(math.prod(counts)).reshape(counts)
            return grid[np.ix_(*where)].ravel()
        if self.structure is not None:
            keep, of = self.structure
            axis = max(len(shape) - 2, 0)
            if not shape or shape[axis] % of:
                raise ShapeError(
                    f"`structure=({keep}, {of})` should divide axis {axis} of {name!r}, whose "
                    f"neighbors it counts. Received: shape {shape}. Leave the weight out, or "
                    f"write `structure=(1, {_divisors((shape or (1,))[axis : axis + 1])[0]})`."
                )
            rows = np.moveaxis(scores, axis, -1)
            rows = rows.reshape(*rows.shape[:-1], -1, of)
            ranks = np.argsort(np.argsort(rows, axis=-1, kind="stable"), axis=-1, kind="stable")
            free = (ranks < of - keep).reshape(*rows.shape[:-2], shape[axis])
            return np.where(np.moveaxis(free, -1, axis), numbers, -1).ravel()
        single: Array = numbers.ravel()
        return single

    def get_config(self) -> dict[str, Any]:
        importance = self.importance
        if not _is_name(importance):
            name = keras.saving.get_registered_name(importance) if callable(importance) else None
            is_known = name and keras.saving.get_registered_object(name) is importance
            importance = {"function": name} if is_known else None
        listed = [None if n is None else list(n) for n in (self.block,)]
        is_n_of_m = isinstance(self.structure, (tuple, list))
        return {
            "weights": [str(name) for name in self.weights],
            "scope": self.scope,
            "structure": list(self.structure) if is_n_of_m else self.structure,
            "block": listed[0],
            "importance": importance,
        }

    @classmethod
    def from_config(cls, config: Any) -> "Rule":
        with loading("A saved rule of pruning", config):
            fields = check_fields("A saved rule of pruning", config, _FIELDS)
            if isinstance(fields["importance"], dict):
                importance = _registered(fields["importance"])
                fields = {**fields, "importance": importance}
            names = fields["weights"]
            if not names or any([not isinstance(name, str) for name in names]):
                raise refused("A saved rule of pruning should name weights, as strings", names)
            made = cls(**{**fields, "weights": tuple([Address(name) for name in names])})
            check_same("A saved rule of pruning", made.get_config(), config)
            return made


def _registered(data: dict[str, Any]) -> Any:
    """Return the registered function that was saved, without importing anything."""
    name = check_fields("A saved importance", data, {"function": str})["function"]
    function = keras.saving.get_registered_object(name)
    if not callable(function) or isinstance(function, type):
        raise SavingError(
            "A saved importance should be a function, and registered before the model is loaded. "
            f"Received: {received(name)}. Import the module that registers it."
        )
    return function


def check_sparsity(sparsity: Any, most: float = 1.0) -> None:
    is_number = isinstance(sparsity, (int, float, np.number)) and not isinstance(sparsity, bool)
    if not is_number or not 0 <= sparsity <= most + 1e-9:
        raise OperandError(
            f"`sparsity` should be from 0 to {most:g}. Received: sparsity={sparsity!r}. Write "
            f"`sparsity={most / 2:g}`."
        )


def _least(scores: Array, groups: Array, sparsity: float) -> Array:
    """Return the elements of the groups with the lowest mean score, a fraction of all."""
    count = math.floor(sparsity * scores.size + 0.5)
    free = groups >= 0
    chosen = np.zeros(scores.size, bool)
    if not scores.size or not free.any():
        return chosen
    sizes = np.bincount(groups[free])
    if sizes.max() == 1:  # each element is a group of its own
        order = np.flatnonzero(free)[np.argsort(scores[free], kind="stable")]
        chosen[order[:count]] = True
        return chosen
    with np.errstate(invalid="ignore"):
        means = np.bincount(groups[free], scores[free]) / np.maximum(sizes, 1)
    order = np.argsort(means, kind="stable")
    order = order[sizes[order] > 0]
    filled = np.cumsum(sizes[order])
    # The number of groups that comes nearest, from below at a half of the next one.
    take = int(np.searchsorted(filled - sizes[order] / 2, count, side="right"))
    chosen[np.isin(groups, order[:take])] = True
    return chosen & free


def _channel_axes(layer: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes of a kernel that count its output channels."""
    depthwise = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
    transposed = (
        keras.layers.Conv1DTranspose,
        keras.layers.Conv2DTranspose,
        keras.layers.Conv3DTranspose,
    )
    last = len(shape) - 1
    if isinstance(layer, depthwise) and last > 0:
        return (last - 1, last)
    if isinstance(layer, transposed) and last > 0:
        return (last - 1,)
    return (last,)


def _divisors(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the least divisors above 1 of the last two sizes."""
    return tuple([next((d for d in range(2, n + 1) if n % d == 0), 1) for n in shape[-2:]])


def _are_sizes(sizes: Any, count: int | None = None) -> bool:
    is_list = isinstance(sizes, (tuple, list)) and len(sizes) == (count or len(sizes)) > 0
    return is_list and all([type(size) is int and size > 0 for size in sizes])


def _is_name(importance: Any) -> bool:
    return importance is None or isinstance(importance, str)


Importance = str | Callable[[Any], Any] | Mapping[Any, Any]
