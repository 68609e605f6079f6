"""The plan of an edit: all that is known before the tensor is there."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

from kedit._language.constants import FunctionStandIn, StandIn
from kedit._language.dtypes import dtype_name, promoted
from kedit._language.operations import OPERATIONS, Operation
from kedit._language.types import Casting, Mode, Shape
from kedit._plan.bounds import RULES
from kedit._plan.check import Edit, check, is_computed, is_one_for_all
from kedit._plan.layout import Layout, TracedPositions
from kedit._plan.strategy import COMPUTED, How, choose

KEPT, KEPT_WITH_ARRAYS = 1024, 64
"""How many plans are kept: as a rule, and with arrays in them, which may be large."""


@dataclass(eq=False)
class Plan:
    """An edit bound to a tensor's shape and dtype, and checked.

    Attributes:
        edit: The edit, with stand-ins for its tensors and functions.
        operation: What happens to the elements.
        operand: Its number, array or expression, or the stand-in for a tensor or a function.
        condition: The condition, of the same kinds, or None.
        casting: See `Edit`.
        mode: See `Edit`.
        fill_value: See `Edit`.
        is_sorted: Whether the user promises that positions ascend.
        shape: Shape of the tensor, with None for an unknown size.
        dtype: Dtype of the tensor.
        layout: Where the index lands.
        is_one_for_all: Whether the condition is the same for all elements.
        may_read: Whether positions in tensors may be read if the backend allows it.
        wide: The dtype to compute in, by NumPy's promotion.
        is_traced: Whether it is for a compiler that reads bytecode, but not NumPy arrays.
        computes: Whether the operand is computed from the selected elements.
        meets_all: Whether the operation may run on elements that are not chosen.
        narrows: Whether some of the selected elements may not be chosen.
        may_drop: Whether computed positions may be out of bounds, or on an empty axis.
        may_be_empty: Whether an axis with computed positions may be empty.
        gains_by_reading: Whether it pays to read positions in tensors, if the host has them.
        mask: Where the strategy "choose" writes a number: a boolean NumPy array, if it is short and
            broadcasts to the tensor as it is. Else None.
        tensors: Tensors made of its arrays; see `kedit._run.kept`.
        strategies: The strategy that carries out the plan, by the kind of its positions.
    """

    edit: Edit
    operation: Operation
    operand: Any
    condition: Any
    casting: Casting
    mode: Mode | None
    fill_value: Any
    is_sorted: bool
    shape: Shape
    dtype: str
    layout: Layout
    is_one_for_all: bool
    may_read: bool
    wide: str
    is_traced: bool
    computes: bool = field(init=False)
    meets_all: bool = field(init=False)
    narrows: bool = field(init=False)
    may_drop: bool = field(init=False)
    may_be_empty: bool = field(init=False)
    gains_by_reading: bool = field(init=False)
    strategies: dict[How, str] = field(init=False)
    mask: Any = field(init=False)
    tensors: dict[Any, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.computes = is_computed(self.operand)
        self.meets_all = self.operation.may_meet_all(self.operand)
        self.narrows = self.condition is not None or self.layout.mask is not None
        computed = [pick for pick in self.layout.picks if pick.is_computed]
        self.may_be_empty = any([self._may_be_empty(pick.positions) for pick in computed])
        drops = not RULES[self.mode].moves
        masks = any([part.kind == "mask" for pick in computed for part in pick.positions.parts])
        self.may_drop = drops or masks or self.may_be_empty
        self.gains_by_reading = any([self._gains(pick) for pick in computed])
        ways: tuple[How, ...] = COMPUTED if computed else ("known",)
        self.strategies = {how: choose(self, how) for how in ways}
        self.mask = None
        layout = self.layout
        as_it_is = layout.is_in_order and len(layout.picks) == len(layout.shape)
        fills = self.strategies.get("known") == "choose" and self.operation.writes
        if fills and as_it_is and not self.is_traced:
            self.mask = layout.places

    def _may_be_empty(self, positions: TracedPositions) -> bool:
        parts = [part for part in positions.parts if part.kind != "rows"]
        return not all([math.prod([self.shape[a] or 0 for a in part.axes]) for part in parts])

    def _gains(self, pick: Any) -> bool:
        """Whether kedit must find out which pick wins, or which picks are out of bounds."""
        if self.operation.name == "get" or self.operation.combines == "add" or pick.count == 1:
            return False
        return pick.has_duplicates or not RULES[self.mode].moves


def make(
    edit: Edit,
    shape: Shape,
    dtype: str,
    already_checked: bool = False,
    *,
    spread_masks: bool = True,
    is_traced: bool = False,
) -> Plan:
    """Plan an edit of a tensor, or raise if it does not fit.

    Args:
        edit: The edit, with stand-ins for its tensors and functions.
        shape: Shape of the tensor, with None for an unknown size.
        dtype: Dtype of the tensor.
        already_checked: Whether the edit was checked when a graph was built; see `check`. The
            positions of a graph are not read, even if the backend would allow it.
        spread_masks: See `check`.
        is_traced: Whether the plan is for a compiler that reads bytecode.
    """
    bound = check(edit, shape, dtype, already_checked=already_checked, spread_masks=spread_masks)
    condition = edit.selection.condition
    return Plan(
        edit=edit,
        operation=copy.copy(OPERATIONS[edit.op]),  # torch's compiler guards shared objects
        operand=edit.operand,
        condition=condition,
        casting=edit.casting,
        mode=edit.mode,
        fill_value=edit.fill_value,
        is_sorted=edit.indices_are_sorted,
        shape=shape,
        dtype=dtype,
        layout=bound.layout,
        is_one_for_all=is_one_for_all(condition),
        may_read=not already_checked,
        wide=promoted(edit, dtype),
        is_traced=is_traced,
    )


def given(part: Any, leaves: Any) -> Any:
    """An operand or a condition of a plan, or the tensor or function that it stands for."""
    return leaves[part.number] if isinstance(part, (StandIn, FunctionStandIn)) else part


def keep(kept: dict[Any, Any], key: Any, value: Any, limit: int = KEPT) -> None:
    """Keep a plan or an edit, and drop all others if there are too many."""
    if len(kept) >= limit:
        kept.clear()
    kept[key] = value


def signature(leaves: Any) -> tuple[Any, ...]:
    """What a plan needs to know about its leaves: shape and dtype of tensors, or None."""
    return tuple(
        [
            (tuple(leaf.shape), dtype_name(leaf)) if hasattr(leaf, "shape") else None
            for leaf in leaves
        ]
    )
