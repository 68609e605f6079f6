"""Prune weights: set their least important elements to 0, and keep them there."""

from typing import Any

import keras
import numpy as np

from kedit.errors import OperandError
from kedit.weights._extending import extended, mask_of
from kedit.weights._importance import Importance, Rule, Scope, check_sparsity
from kedit.weights._names import Address, Named, find_weights
from kedit.weights._weight_chains import chains_of, edited
from kedit.weights._weight_editing import WeightEditing, as_array


def prune(
    base: keras.layers.Layer,
    name: Any,
    sparsity: float | None = None,
    *,
    scope: Scope = "each",
    structure: Any = None,
    block: tuple[int, ...] | None = None,
    importance: Importance = "magnitude",
) -> WeightEditing:
    """Set the elements of weights with the smallest magnitude to 0, and freeze them.

    If a weight is already pruned or frozen, elements are ranked by their frozen values.
    What is pruned stays pruned. To prune while the model trains, prune it to a sparsity
    of 0.0 and give `kedit.callbacks.PruningSchedule` to `fit`.

    Args:
        base: Layer or model that is built; see `freeze_elements`.
        name: Which weights, as for `freeze_elements`. Of a layer, those with at least two
            axes.
        sparsity: Fraction of the elements to set to 0, from 0 to 1. Equal elements are
            pruned in C order. Defaults to None: what `structure=(n, m)` says.
        scope: "each" prunes this fraction of each weight, "global" of all weights
            together, ranked in one list. Defaults to "each".
        structure: "channels" prunes whole output channels, by their mean score. `(n, m)`
            keeps n of each m neighbors along the input axis, which is the last but one:
            `(2, 4)` is what sparse tensor cores read. Defaults to None: single elements.
        block: Shape of the blocks that are pruned together, by their mean score, counted
            from the last axis. It must divide the weight. Defaults to None.
        importance: "magnitude"; a function that takes a weight as an array and returns a
            score for each element; or a dict from names to such scores. The lowest scores
            are pruned. Defaults to "magnitude".

    Returns:
        As for `freeze_elements`. Which elements are kept is stored in weights of the model
        that are not trained, so that all files keep it. `model.sparsity()` counts zeros.

    Raises:
        kedit.errors.OperandError: As for `freeze_elements`, or if an option is unknown or
            `sparsity` is out of range.
        kedit.errors.ShapeError: If a structure does not divide a weight.

    Gradient:
        As for `freeze_elements`.

    References:
        S. Han, J. Pool, J. Tran and W. J. Dally, *Learning both Weights and
        Connections for Efficient Neural Networks*, NeurIPS 2015.

    Example:
    >>> layer = keras.layers.Dense(3)
    >>> layer.build((None, 1))
    >>> layer.set_weights([np.array([[3.0, -1.0, 2.0]]), np.zeros(3)])
    >>> pruned = kedit.weights.prune(layer, "kernel", 1 / 3)
    >>> ops.convert_to_numpy(pruned.weight("kernel")).tolist()
    [[3.0, 0.0, 2.0]]
    >>> pruned.sparsity()
    weight     shape   zeros  total  share
    kernel     (1, 3)      1      3  33.3%
    the model              4      6  66.7%
    """
    rule = Rule((), scope, structure, block, importance)
    if sparsity is None and not isinstance(structure, (tuple, list)):
        raise OperandError(
            "`sparsity` should be given. Received: sparsity=None. Write "
            "`prune(model, '*/kernel', 0.5)`."
        )
    sparsity = rule.most if sparsity is None else sparsity
    check_sparsity(sparsity, rule.most)
    found = _prunable(base, name)
    if isinstance(importance, dict):
        importance = _scores_by_address(base, importance, found)
    names = tuple([Address(named.address) for named in found])
    rule = Rule(names, scope, structure, block, importance)
    weights, kept = {}, {}
    chain_of = chains_of(base)
    for address, named in zip(names, found, strict=True):
        variable = named.variable
        value = as_array(edited(variable, chain_of(variable)))
        mask = mask_of(base, address)
        kept[address] = np.ones(value.shape, bool) if mask is None else mask
        weights[address] = (named.layer, value, np.where(kept[address], 0.0, -np.inf))
    chosen = rule.chosen(sparsity, weights)
    masks = {address: kept[address] & ~chosen[address] for address in names}
    return extended(base, {}, rule, masks)


def _prunable(base: Any, name: Any) -> list[Named]:
    found = find_weights(base, name)
    if isinstance(name, keras.Operation):
        return [named for named in found if len(named.variable.shape) > 1]
    return found


def _scores_by_address(base: Any, importance: Any, found: list[Named]) -> dict[Any, Any]:
    """Return scores by the address of each weight."""
    scores = {}
    for target, values in importance.items():
        for named in find_weights(base, target):
            scores[Address(named.address)] = values
    missing = [named.address for named in found if named.address not in scores]
    if missing:
        raise OperandError(
            f"`importance` should have scores for each weight. Received: none for {missing}. "
            "Write `importance=np.abs` for all."
        )
    return scores
