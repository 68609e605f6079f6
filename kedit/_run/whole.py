"""The strategy "whole": everything is selected in order, so the new values are the tensor."""

from typing import Any

from kedit._language.types import Tensor
from kedit._plan.layout import Layout
from kedit._plan.plan import Plan
from kedit._run import axes, ops
from kedit._run.values import new_values


def run(plan: Plan, layout: Layout, x: Tensor, leaves: Any) -> Tensor:
    values = new_values(plan, layout, x, leaves)
    if plan.operation.writes and not plan.narrows:  # a copy, not a view of the values
        canonical = axes.merge(layout, x)
        values = ops.copy(ops.broadcast_to(values, axes.sizes(canonical)))
    return axes.split(layout, values, x)
