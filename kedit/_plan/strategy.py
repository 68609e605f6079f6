"""Which strategy carries out an edit: the only place where this is decided.

    strategy  what it does                           fits                    cost forward; back
    --------  -------------------------------------  ----------------------  -------------------
    read      takes the selected elements            `get`                   selection; selection
    copy      copies the tensor unchanged            nothing is selected     copy; nothing
    choose    runs on all elements, then chooses     one number, known       one pass; one pass
              by a mask                              places
    whole     returns the new values as the tensor   all, in order           one pass; one pass
    add       adds every value by a scatter          `add`, `subtract` at    copy and values;
                                                     computed positions      values
    scatter   reads, combines, writes at places      places on the first     copy and values;
              that each occur once                   axes                    values
    spread    reads, combines, spreads the values    all that changes        several passes;
              over whole axes, chooses by a mask     elements                several passes

The first one that fits and pays is used; `_is_short` says when a scatter pays. Masks are as long as
the axes, not as large as the tensor. All that fit give the same values and gradients:
`tests/test_strategies.py` forces each of them.

When an edit is carried out, positions in tensors are of one of four kinds: "seen" if their values
were read, in eager mode; "hidden" if they were not, as under a compiler; "split" if they were not,
and a compiler may split tensors among devices, as JAX's does; "traced" if the compiler reads
bytecode, as torch's does, which fuses what others do not. Constants are "known".
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

from kedit._language.constants import is_scalar, shape_of
from kedit._plan.layout import has_one_each

How: TypeAlias = Literal["known", "seen", "hidden", "split", "traced"]
COMPUTED: tuple[How, ...] = ("seen", "hidden", "split", "traced")


class Strategy(NamedTuple):
    """One way to carry out an edit.

    Attributes:
        fits: Whether it can carry out a plan, given the kind of its positions.
        pays: Whether it is better than those that follow.
    """

    fits: Callable[[Any, How], bool]
    pays: Callable[[Any, How], bool] = lambda plan, how: True


def _can_choose(plan: Any, how: How) -> bool:
    """Whether the operation, with one number, may run on elements that are not selected."""
    layout, row = plan.layout, plan.operation
    if not is_scalar(plan.operand) or plan.condition is not None or plan.casting == "unsafe":
        return False
    if layout.is_whole or layout.is_computed or layout.mask is not None:
        return False
    return row.writes or (plan.meets_all and not layout.has_duplicates)


def _are_many(plan: Any, how: How) -> bool:
    """Whether this pays: few places of very many are better written alone."""
    return plan.layout.few_positions is None


def _can_add(plan: Any, how: How) -> bool:
    layout = plan.layout
    if plan.operation.combines != "add" or plan.narrows or plan.wide != plan.dtype:
        return False
    return partial(layout) == [0] and layout.picks[0].is_computed and layout.picks[0].count != 1


def _can_scatter(plan: Any, how: How) -> bool:
    layout = plan.layout
    if how == "known":
        on_first = partial(layout) == [0] and layout.picks[0].is_array
        return layout.few_positions is not None or on_first
    return partial(layout) == [0] and layout.picks[0].is_computed


def _is_short(plan: Any, how: How) -> bool:
    """Whether a scatter pays: if its places are known to differ, and there are several values.

    Otherwise the winners must be found, which costs as much as spreading the values; or, with one
    value for all, a choice by a mask takes one pass. It also pays if a compiler cannot fuse the
    spreading, or if there is one place in each row, since these cannot coincide: unless rows may be
    on several devices.
    """
    layout = plan.layout
    if layout.few_positions is not None or how == "seen":
        return True
    if not _stays_in_rows(plan, how):
        return False
    several = _has_several(plan)
    if how == "known":
        return several
    pick = layout.picks[0]
    one_each = has_one_each(pick.positions)
    if not (several or one_each):
        return False
    differ = not plan.may_drop and not pick.has_duplicates
    return differ or (one_each and not plan.may_be_empty) or (how == "traced" and not one_each)


def _stays_in_rows(plan: Any, how: How) -> bool:
    """Whether a scatter costs no communication where rows are split among devices.

    A compiler cannot see that each row writes to itself, and gathers what all devices hold.
    """
    return how != "split" or not has_one_each(plan.layout.picks[0].positions)


def _has_several(plan: Any) -> bool:
    """Whether there is more than one value to write along the first axis."""
    layout = plan.layout
    pick = layout.picks[0]
    if pick.count == 1:
        return False
    if plan.computes or not plan.operation.writes or plan.narrows:
        return True
    rank, shape = len(layout.result), shape_of(plan.operand)
    given = (1,) * (rank - len(shape)) + tuple(shape)
    return any([given[dim] != 1 for dim in pick.dims])


def partial(layout: Any) -> list[int]:
    """The axes, in canonical form, that are not selected whole and in order."""
    return [axis for axis, pick in enumerate(layout.picks) if not pick.is_whole]


STRATEGIES: dict[str, Strategy] = {
    "read": Strategy(lambda plan, how: plan.operation.name == "get"),
    "copy": Strategy(lambda plan, how: plan.layout.is_empty or 0 in plan.shape),
    "choose": Strategy(_can_choose, _are_many),
    "whole": Strategy(lambda plan, how: plan.layout.is_whole),
    "add": Strategy(_can_add, _stays_in_rows),
    "scatter": Strategy(_can_scatter, _is_short),
    "spread": Strategy(lambda plan, how: not plan.layout.is_whole),
}


def fitting(plan: Any, how: How) -> list[str]:
    """The strategies that can carry out a plan."""
    found = [name for name, strategy in STRATEGIES.items() if strategy.fits(plan, how)]
    return found[:1] if found[0] in ("read", "copy") else found


def choose(plan: Any, how: How) -> str:
    """The strategy that carries out a plan."""
    names = fitting(plan, how)
    return next(name for name in names if STRATEGIES[name].pays(plan, how))
