"""What a check has found: one outcome for each case, and a table of them by kind."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import keras

from kedit._language.pickling import pickled
from kedit.errors import OperandError

_MOST_SHOWN = 3


@pickled
class Outcome(NamedTuple):
    """What one case of a check has found.

    Attributes:
        kind: What was checked.
        case: Which case of it.
        compiled: Whether a compiler of the backend ran it.
        status: "passes", "fails" if the result is wrong, or "raises" if there is none.
        message: What was expected and received. Empty if it passes.
    """

    kind: str
    case: str
    compiled: bool
    status: str
    message: str = ""


class Report:
    """What a check has found, as a table with a row for each kind of case.

    Attributes:
        subject: What was checked.
        outcomes: List of `Outcome`, one for each case: a named tuple `(kind, case,
            compiled, status, message)`.

    Example:
    >>> report = kedit.testing.check_edit_function(
    ...     lambda x, i, v: kedit.at(x)[i].set(v), only=("integers", "steps"), compile=False)
    >>> print(report)
    check_edit_function(<lambda>, op='set')
    kind      eager
    integers  14 pass
    steps     16 pass
    """

    def __init__(self, subject: str, outcomes: Sequence[Outcome]) -> None:
        self.subject, self.outcomes = subject, list(outcomes)

    @property
    def passes(self) -> bool:
        """Whether every case passes."""
        return not self.failed_kinds

    @property
    def kinds(self) -> list[str]:
        """The kinds that were checked, in order."""
        return list(dict.fromkeys([outcome.kind for outcome in self.outcomes]))

    @property
    def failed_kinds(self) -> list[str]:
        """The kinds of which a case fails or raises, in order."""
        return list(dict.fromkeys([o.kind for o in self.outcomes if o.status != "passes"]))

    def count(self, kind: str, *, compiled: bool = False) -> dict[str, int]:
        """Return how many cases of a kind pass, fail and raise.

        Args:
            kind: The kind.
            compiled: Whether to count the compiled cases, not the eager ones.

        Returns:
            Dict from "passes", "fails" and "raises" to numbers; those that are 0 are left out.
        """
        found: dict[str, int] = {}
        for outcome in self.outcomes:
            if (outcome.kind, outcome.compiled) == (kind, compiled):
                found[outcome.status] = found.get(outcome.status, 0) + 1
        return {
            status: found[status] for status in ("passes", "fails", "raises") if status in found
        }

    def assert_passes(self) -> None:
        """Raise an error that lists what fails, if anything does.

        Raises:
            AssertionError: If a case fails or raises; it says for each kind which case,
                what was expected and what was received.
        """
        if self.passes:
            return
        lines = [str(self), ""]
        for kind in self.failed_kinds:
            bad = [o for o in self.outcomes if o.kind == kind and o.status != "passes"]
            for outcome in bad[:_MOST_SHOWN]:
                way = "compiled" if outcome.compiled else "eager"
                lines.append(f"{kind}, {outcome.case}, {way}: {outcome.message}")
            if len(bad) > _MOST_SHOWN:
                lines.append(f"{kind}: {len(bad) - _MOST_SHOWN} more, in `report.outcomes`")
        raise AssertionError("\n".join(lines))

    def __str__(self) -> str:
        ways = [way for way in (False, True) if any([o.compiled == way for o in self.outcomes])]
        rows = [["kind", *["compiled" if way else "eager" for way in ways]]]
        for kind in self.kinds:
            rows.append([kind, *[_counted(self.count(kind, compiled=way)) for way in ways]])
        widths = [max([len(row[n]) for row in rows]) for n in range(len(rows[0]))]
        lines = [
            "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=True)]).rstrip()
            for row in rows
        ]
        return "\n".join([self.subject, *lines])

    def __repr__(self) -> str:
        return str(self)


def _counted(found: dict[str, int]) -> str:
    words = {"passes": "pass", "fails": "fail", "raises": "raise"}
    return ", ".join([f"{number} {words[status]}" for status, number in found.items()]) or "-"


def check_assertions_run() -> None:
    """Raise if Python leaves assertions out, with which every check would pass."""
    if not __debug__:
        raise OperandError(
            "Checks should be run by a Python that runs assertions. Received: one that leaves them "
            "out, as `python -O` does. Write `python`, and drop `PYTHONOPTIMIZE`."
        )


class Checks:
    """Runs the checks of the kinds that are wanted, and collects what they find."""

    def __init__(self, kinds: Sequence[str], only: Any, skip: Any) -> None:
        check_assertions_run()
        self.wanted = chosen_kinds(kinds, only, skip)
        self.outcomes: list[Outcome] = []

    def wants(self, kind: str) -> bool:
        return kind in self.wanted

    def run(
        self, kind: str, case: Any, check: Callable[[], Any], *, compiled: bool = False
    ) -> None:
        """Run a check, which raises an `AssertionError` where it fails."""
        if self.wants(kind):
            self.outcomes.append(outcome_of(kind, case, check, compiled))

    def report(self, subject: str, raises: bool) -> Report:
        order = {kind: place for place, kind in enumerate(self.wanted)}
        found = Report(subject, sorted(self.outcomes, key=lambda o: order[o.kind]))
        if raises:
            found.assert_passes()
        return found


def outcome_of(kind: str, case: Any, check: Callable[[], Any], compiled: bool) -> Outcome:
    """What a check finds, whatever it raises."""
    status, message = "passes", ""
    try:
        check()
    except AssertionError as error:
        status, message = "fails", str(error).strip() or "an assertion of its own fails"
    except Exception as error:  # whatever a function of somebody else raises
        status, message = "raises", f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Outcome(kind, str(case), compiled, status, message)


def chosen_kinds(kinds: Sequence[str], only: Any, skip: Any) -> list[str]:
    """The kinds in `only`, without those in `skip`, in the order of `kinds`."""
    given = []
    for name, names in (("only", only), ("skip", skip)):
        listed = list(_as_list(names)) if names is not None else None
        unknown = [kind for kind in listed or [] if kind not in kinds]
        if unknown:
            raise OperandError(
                f"`{name}` should name kinds of checks: {', '.join(map(repr, kinds))}. Received: "
                f'{unknown[0]!r}. Write `{name}=("{kinds[0]}",)`.'
            )
        given.append(listed)
    wanted, unwanted = given
    return [
        kind
        for kind in kinds
        if (wanted is None or kind in wanted) and kind not in (unwanted or [])
    ]


def _as_list(names: Any) -> Collection[str]:
    return [names] if isinstance(names, str) else names


def name_of(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def dtype_of(x: Any) -> str:
    return str(keras.backend.standardize_dtype(x.dtype))
