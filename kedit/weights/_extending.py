"""Add edits and masks to a model: one wrapper, however often it is called."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kedit._at import at
from kedit._edit import Edit, EditSequence
from kedit._language.constants import Array
from kedit._run import ops
from kedit.weights._importance import Rule
from kedit.weights._names import Address, find_weights, weights_in
from kedit.weights._weight_editing import HELD, WeightEditing

Edits = Edit | EditSequence


def extended(
    base: Any,
    edits: Mapping[Any, tuple[Edits, Any]],
    rule: Rule | None = None,
    masks: Mapping[Address, Any] | None = None,
) -> WeightEditing:
    """Return a model with more edits and masks; a `WeightEditing` is replaced, not wrapped.

    Args:
        base: Layer or model.
        edits: New edits, by name, each with the boolean mask of what it sets, or None if no
            mask of the model needs to know.
        rule: How the weights of `masks` are pruned from now on.
        masks: Which elements of weights are kept.
    """
    old: dict[Any, Edits] = {}
    rules: list[Rule] = []
    kept: dict[Address, Any] = {}
    options: dict[str, Any] = {}
    inner = base
    if type(base) is WeightEditing:
        inner, old = base.base, own_edits(base)
        rules = [rule for rule in base.rules if isinstance(rule, Rule)]
        kept = {Address(n): ops.convert_to_numpy(mask) for n, mask in base.masks.items()}
        options = {"name": base.name, "dtype": base.dtype_policy}
    for name, (edit, held) in edits.items():
        old[name] = joined(old[name], edit) if name in old else edit
        if name in kept and held is not None:
            kept[name] = np.where(held, HELD, kept[name])
    if rule is not None:
        rules = [*_without(rules, rule.weights), rule]
        kept = {**kept, **(masks or {})}
    model = WeightEditing(inner, old, rules, **options)
    for name, mask in kept.items():
        model.masks[name].assign(mask.astype("uint8"))
    return model


def own_edits(model: WeightEditing) -> dict[Any, Edits]:
    """Return the edits of a model by the address of each weight, once it is built."""
    if not model.base.built:
        return dict(model.edits)
    table = weights_in(model.base) if model.edits else []
    return {
        Address(found.address): edit
        for name, edit in model.edits.items()
        for found in find_weights(model.base, name, table)
    }


def mask_of(model: Any, name: Address) -> Any:
    """Return which elements of a weight a model keeps, as a NumPy mask, or None."""
    mask = model.masks.get(name) if type(model) is WeightEditing else None
    return None if mask is None else ops.convert_to_numpy(mask) > 0


def _without(rules: list[Rule], names: tuple[Address, ...]) -> list[Rule]:
    """Return rules for the other weights."""
    found = []
    for rule in rules:
        left = tuple([name for name in rule.weights if name not in names])
        if left:
            options = (rule.scope, rule.structure, rule.block, rule.importance)
            found.append(Rule(left, *options))
    return found


def joined(first: Edits, second: Edits) -> Edits:
    """Return two edits of one weight as one; two masks of constants become one mask."""
    *before, last = first.edits
    if len(second.edits) == 1 and _is_masked(last) and _is_masked(second.edits[0]):
        (new,) = second.edits
        one, other = [np.asarray(edit.selection.condition.array) for edit in (last, new)]
        if one.shape == other.shape and last.operand == new.operand:
            merged = at.where(one | other).set(new.operand)
            return EditSequence(*before, merged) if before else merged
    return EditSequence(first, second)


def _is_masked(edit: Edit) -> bool:
    """Whether an edit sets one number where a constant mask is True, and nothing else."""
    return (
        edit.op == "set"
        and edit.selection.index.is_whole
        and isinstance(edit.selection.condition, Array)
        and isinstance(edit.operand, (int, float))
        and edit.casting == "same_kind"
        and edit.mode is None
    )
