"""The strategy "choose": run on all elements, then choose by a mask; one pass if fused."""

from typing import Any

from kedit._language.types import Tensor
from kedit._plan.layout import Layout
from kedit._plan.plan import Plan
from kedit._run import axes, cast, ops
from kedit._run.kept import kept
from kedit._run.values import pair


def run(plan: Plan, layout: Layout, x: Tensor, leaves: Any) -> Tensor:
    if plan.mask is not None:
        found = plan.tensors.get((type(x), getattr(x, "device", None)))  # the short way
        if found is None:
            found = kept(plan, x, lambda: _tensors(plan, x), plan.mask)
        mask, number = found
        return ops.where(mask, number, x)
    number = cast.constant_like(plan.operand, x, plan.dtype)
    if not plan.operation.writes:
        number = pair(plan.operation, x, number)
    return ops.where(axes.as_axes(layout, axes.places(layout, x), x), number, x)


def _tensors(plan: Plan, x: Tensor) -> tuple[Tensor, Tensor]:
    is_torch = hasattr(x, "new_tensor")  # whose tensors must be on one device
    mask = x.new_tensor(plan.mask).bool() if is_torch else ops.convert_to_tensor(plan.mask)
    return mask, cast.constant_like(plan.operand, x, plan.dtype)
