"""The strategy "read": return the selected elements, or a fill value if they do not exist."""

from typing import Any

from kedit._language.dtypes import default_fill
from kedit._language.types import Tensor
from kedit._plan.layout import Layout
from kedit._plan.plan import Plan
from kedit._run import axes, cast, ops


def run(plan: Plan, layout: Layout, x: Tensor, leaves: Any) -> Tensor:
    selected = axes.selected(layout, x)
    exists = axes.inside(layout)
    if exists is None:
        return ops.copy(selected)  # reading may give a view of x
    fill = default_fill(plan.dtype) if plan.fill_value is None else plan.fill_value
    return ops.where(exists, selected, cast.constant(fill, plan.dtype))
