"""The strategy "choose": run on all elements, then choose by a mask; one pass if fused."""

from typing import Any

from kedit._language.types import Tensor
from kedit._plan.layout import Layout
from kedit._plan.plan import Plan
from kedit._run import axes, cast, ops
from kedit._run.values import pair


def run(plan: Plan, layout: Layout, x: Tensor, leaves: Any) -> Tensor:
    if plan.mask is not None:
        return ops.where(plan.mask, plan.number, x)
    canonical = axes.merge(layout, x)
    number = cast.constant_like(plan.operand, canonical, plan.dtype)
    if not plan.operation.writes:
        number = pair(plan.operation, canonical, number)
    edited = ops.where(axes.places(layout, canonical), number, canonical)
    return axes.split(layout, edited, x)
