"""The cost of a residual: the kinds of penalty, element by element."""

import math
from typing import Any, get_args

from kedit._edit import check_one_of
from kedit._guide.target import either
from kedit._language.types import Kind, Tensor
from kedit._run import ops
from kedit.errors import OperandError

KINDS = get_args(Kind)


def check_kind(kind: str, delta: float, barrier_t: float, is_interval: bool) -> None:
    """Raise if `kind` is unknown, or has no meaning for a target."""
    check_one_of("kind", kind, KINDS)
    for name, value in (("delta", delta), ("barrier_t", barrier_t)):
        if not 0 < value < math.inf:
            raise OperandError(f"`{name}` should be positive. Received: {name}={value!r}.")
    if kind == "barrier" and not is_interval:
        raise OperandError(
            "A barrier should be given bounds, which it keeps elements from. Received: a target. "
            'Write `lower=...`, `upper=...`, or `kind="l2"`.'
        )


def of_residual(r: Tensor, kind: str, delta: float) -> Tensor:
    """The cost of each residual; its slope at 0 is 0 for every kind."""
    if kind == "l2":
        return r * r
    size = r * ops.stop_gradient(ops.sign(r))  # abs(r), whose slope at 0 differs between backends
    if kind == "l1":
        return size
    if kind == "huber":
        inner = ops.clip(size, 0.0, delta)
        return inner * (size - inner / 2)
    return size + ops.softplus(-2 * size) - math.log(2)  # log(cosh(r)), without overflow


def barrier(excesses: tuple[Any, Any], t: float) -> tuple[Tensor, Tensor | None]:
    """The log-barrier extension of each excess, and which elements have a bound at all."""
    sides = [side for side in excesses if side is not None]
    costs = []
    for z, present in sides:
        inside = z <= -1 / t**2
        log = -ops.log(-ops.where(inside, z, -ops.ones_like(z))) / t
        cost = ops.where(inside, log, t * z - math.log(1 / t**2) / t + 1 / t)
        costs.append(cost if present is None else ops.where(present, cost, ops.zeros_like(cost)))
    return sum(costs[1:], costs[0]), either([present for _, present in sides])
