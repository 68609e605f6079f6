"""Check any function that claims to do what `x[index] = value` does."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from kedit._edit import check_one_of
from kedit._run import ops
from kedit.testing import _oracle
from kedit.testing._cases import INDEX_KINDS, REFUSED, IndexCase, index_cases
from kedit.testing._report import Checks, Outcome, Report, dtype_of, name_of, outcome_of
from kedit.testing._running import Given, differentiates, gradients, run_compiled

OPERATIONS = tuple([op for op in _oracle.UPDATES if op != "apply"])
_SELECTING = tuple([kind for kind in INDEX_KINDS if kind not in REFUSED])
_GRADIENTS = ("gradients", "gradients of duplicates")
KINDS = (
    *_SELECTING,
    "index tensors",
    "index tensors with duplicates",
    "mask tensors",
    "broadcasting",
    "numbers",
    "dtypes",
    "unselected elements",
    "special values",
    "purity",
    *_GRADIENTS,
    *REFUSED,
    "values that do not fit",
)
_DTYPES = ("float32", "float16", "bfloat16", "int8", "uint8", "int32", "bool")
_EXACT = ("set", "min", "max")
_MOST_COMPILED = 4
"""How many cases of a kind are compiled: all in one function, unless one of them fails."""
S: Any = np.s_


def check_edit_function(
    function: Callable[[Any, Any, Any], Any],
    *,
    op: str = "set",
    only: Any = None,
    skip: Any = (),
    as_index: Callable[[Any], Any] | None = None,
    compile: bool = True,
    raise_on_failure: bool = True,
) -> Report:
    """Check that a function does what `x[index] = value` does in NumPy, on a copy.

    NumPy is the oracle for values, and closed forms are for gradients. Every kind of
    check runs in eager mode, and the first cases of it in a model that the backend
    compiles. The kinds are:

    - those of `index_cases()`: "integers", "negative positions", "slices", "steps",
      "ellipsis", "new axes", "integer arrays", "duplicates", "boolean masks", "mixed",
      "empty selections", "small shapes", "NumPy integers", "boolean scalars" and
      "lists". At duplicates the last value in C order wins, sums add up, and so on.
    - "index tensors", "index tensors with duplicates", "mask tensors": integers, and masks
      with one value for all that is chosen, as tensors of the backend. A compiler cannot
      see their numbers.
    - "broadcasting", "numbers": values of other shapes, and Python numbers.
    - "dtypes": the result has the dtype of `x`: floats, integers and booleans.
    - "unselected elements": stay as they are, bit for bit, also NaN and -0.0.
    - "special values": NaN, infinity and -0.0 among the values.
    - "purity": `x`, `value` and the index are not changed.
    - "gradients": what is overwritten gets none, and its value gets all. For other
      operations see `Gradient`.
    - "gradients of duplicates": for "set", only the last value gets any.
    - "out of bounds", "invalid indices", "values that do not fit": must raise.

    Args:
        function: Function of `(x, index, value)` that returns the new tensor. `x` and
            `value` are tensors; `index` is what stands in NumPy's brackets.
        op: What it does with the selected elements: "set", "add", "subtract",
            "multiply", "divide", "power", "min" or "max". At duplicates all values
            apply, but for "set" and "power". Defaults to "set".
        only: Kinds to check, or one. Defaults to None: all.
        skip: Kinds to leave out, or one. Defaults to `()`: none.
        as_index: Function that makes of NumPy's index what `function` takes as
            `index`. It is called outside of what is compiled, but for tensors. Defaults
            to None: `function` takes NumPy's index.
        compile: Whether to check compiled functions, too. This calls
            `keras.utils.clear_session()`, and on PyTorch it takes minutes. Defaults to
            True. A backend that does not train is not asked for gradients, nor to
            compile.
        raise_on_failure: Whether to raise if a case fails. Defaults to True.

    Returns:
        `Report`, with a row for each kind.

    Raises:
        AssertionError: If a case fails and `raise_on_failure` is True. It says which
            case of which kind, what was expected and what was received.
        kedit.errors.OperandError: If `op` or a kind is unknown.

    Gradient:
        In `set`, `x` gets the upstream gradient `g` with zeros at the index, and `value`
        gets `g[index]`, summed over the axes that it was broadcast on. Of `add`, `x` gets
        `g`. The others have those of `kedit.at(x)[index]`. Ties of `min` and `max` are not
        checked.

    Example:
    >>> def assign(x, index, value):
    ...     y = np.array(ops.convert_to_numpy(x))
    ...     y[index] = value
    ...     return ops.convert_to_tensor(y)
    >>> print(kedit.testing.check_edit_function(assign, only=("steps", "purity"), compile=False))
    check_edit_function(assign, op='set')
    kind    eager
    steps   16 pass
    purity  9 pass
    """
    check_one_of("op", op, OPERATIONS)
    checks = Checks(KINDS, only, skip)
    trains = differentiates()
    runner = _Runner(function, op, as_index, checks)
    for compiled in [False, True] if compile and trains else [False]:
        for kind in checks.wanted:
            if kind in _GRADIENTS:
                if trains:
                    runner.gradients(kind, compiled)
            elif kind == "purity":
                if not compiled:
                    runner.purity()
            elif kind in (*REFUSED, "values that do not fit"):
                runner.refusals(kind, compiled)
            else:
                runner.values(kind, compiled)
    subject = f"check_edit_function({name_of(function)}, op={op!r})"
    return checks.report(subject, raise_on_failure)


class _Trial(NamedTuple):
    """One call, and what NumPy makes of it."""

    name: str
    x: Given
    index: Any
    value: Any  # `Given`, or a Python number
    expected: Any
    places: Any  # flat positions of the selected elements
    selected: Any  # boolean array: which elements are
    traced: tuple[Any, ...] = ()  # arrays that take the place of None in `index`, as tensors

    def arguments(self) -> list[Given]:
        value = [self.value] if isinstance(self.value, Given) else []
        return [self.x, *value, *[Given(array) for array in self.traced]]


class _Runner:
    """Runs what is to be checked, for one function."""

    def __init__(self, function: Any, op: str, as_index: Any, checks: Checks) -> None:
        self.function, self.op, self.checks = function, op, checks
        self.as_index = as_index if as_index is not None else lambda index: index

    def bound(self, trial: _Trial) -> Callable[..., Any]:
        """Return the function of the tensors of a trial."""
        f, as_index, value = self.function, self.as_index, trial.value
        has_value, is_traced = isinstance(value, Given), bool(trial.traced)
        index = trial.index if is_traced else as_index(trial.index)

        def call(x: Any, *given: Any) -> Any:
            v = given[0] if has_value else value
            if is_traced:
                return f(x, as_index(_filled(trial.index, given[1 if has_value else 0 :])), v)
            return f(x, index, v)

        return call

    def values(self, kind: str, compiled: bool) -> None:
        trials = list(_trials(kind, self.op))[: _MOST_COMPILED if compiled else None]
        results: Sequence[Any] = [None] * len(trials)
        if compiled:
            results = self._compiled_at_once(trials)
        for trial, result in zip(trials, results, strict=True):

            def check(trial: _Trial = trial, result: Any = result) -> None:
                if result is None:
                    result = self._alone(trial, compiled)
                _compare(result, trial, self.op)

            self.checks.run(kind, trial.name, check, compiled=compiled)

    def _compiled_at_once(self, trials: Sequence[_Trial]) -> Sequence[Any]:
        """The results of one compilation; of None each must be compiled by itself."""
        try:
            calls = [self.bound(trial) for trial in trials]
            return run_compiled(calls, [trial.arguments() for trial in trials])
        except Exception:  # of one of them, and it is not known which
            return [None] * len(trials)

    def _alone(self, trial: _Trial, compiled: bool) -> Any:
        call = self.bound(trial)
        if compiled:
            return run_compiled([call], [trial.arguments()])[0]
        return call(*[given.tensor() for given in trial.arguments()])

    def purity(self) -> None:
        for trial in _pure_trials(self.op):

            def check(trial: _Trial = trial) -> None:
                tensors = [given.tensor() for given in trial.arguments()]
                before = [np.array(ops.convert_to_numpy(x)) for x in tensors]
                named = _arrays_in(trial.index)
                copies = [array.copy() for array in named]
                self.bound(trial)(*tensors)
                for what, tensor, old in zip(("x", "value"), tensors, before, strict=True):
                    now = ops.convert_to_numpy(tensor)
                    assert now.tobytes() == old.tobytes(), (
                        f"`{what}` should stay {_short(old)}. Received: {_short(now)}"
                    )
                for array, old in zip(named, copies, strict=True):
                    assert array.tobytes() == old.tobytes(), "the index should stay as it is"

            self.checks.run("purity", trial.name, check)

    def refusals(self, kind: str, compiled: bool) -> None:
        works: dict[str, Outcome] = {}
        pairs = list(_refused(kind, self.op))
        for bad, good in pairs[: _MOST_COMPILED if compiled else None]:
            if good is not None and good.name not in works:
                run = partial(self._alone, good, compiled)
                works[good.name] = outcome_of(kind, good.name, run, compiled)
            fits = works[good.name] if good is not None else None
            check = partial(self._refuses, bad, fits, compiled)
            self.checks.run(kind, bad.name, check, compiled=compiled)

    def _refuses(self, bad: _Trial, fits: Outcome | None, compiled: bool) -> None:
        """Check that a call raises, if one of the same sort does not."""
        if fits is not None and fits.status == "raises":
            raise _RaisesAnyway(f"also at {fits.case}: {fits.message}")
        try:
            found = self._alone(bad, compiled)
        except Exception:  # each library has its own
            return
        raise AssertionError(
            f"an error is expected, as in NumPy. Received: {_short(_to_numpy(found))}"
        )

    def gradients(self, kind: str, compiled: bool) -> None:
        trials = list(_gradient_trials(kind, self.op, 1 if compiled else 3))
        rng = np.random.default_rng(7)
        upstreams = [
            rng.uniform(0.5, 2.0, trial.x.array.shape).astype("float32") for trial in trials
        ]

        def found(some: Sequence[_Trial], given: Sequence[Any]) -> list[Any]:
            calls = [self.bound(trial) for trial in some]
            return gradients(calls, [trial.arguments() for trial in some], given, compiled)

        slopes: Sequence[Any]
        try:
            slopes = found(trials, upstreams)
        except Exception:  # of one of them, and it is not known which
            slopes = [None] * len(trials)
        for trial, slope, upstream in zip(trials, slopes, upstreams, strict=True):

            def check(trial: _Trial = trial, slope: Any = slope, upstream: Any = upstream) -> None:
                if slope is None:
                    (slope,) = found([trial], [upstream])
                arrays = trial.x.array, trial.places, trial.value.array
                expected = _oracle.update_vjp(self.op, *arrays, upstream)
                for what, now, wanted in zip(("x", "value"), slope, expected, strict=True):
                    wrong = ~np.isclose(now, wanted, rtol=1e-4, atol=1e-5)
                    if wrong.any():
                        _fail(f"the gradient of {what}", now, wanted, wrong)

            self.checks.run(kind, trial.name, check, compiled=compiled)


class _RaisesAnyway(Exception):  # noqa: N818
    """A function raises where it should, but not only there."""


# --- What is tried -----------------------------------------------------------------------------


def _data(shape: Any, selected: Any, seed: int = 0) -> tuple[Any, Any]:
    """Positive numbers, all of them different: a tensor and values of some shapes."""
    rng = np.random.default_rng(seed)
    count, values = int(np.prod(shape)), int(np.prod(selected))
    numbers = np.linspace(0.5, 2.0, count + values + 2, dtype="float32")[1:-1]
    numbers = rng.permutation(numbers)
    return numbers[:count].reshape(shape), numbers[count:].reshape(selected)


def _trial(
    op: str, x: Any, index: Any, value: Any, dtype: str | None = None, name: str = ""
) -> _Trial:
    """What NumPy makes of arrays, or of an array and a number."""
    places = _oracle.positions(x.shape, index)
    is_number = not isinstance(value, np.ndarray)
    array = np.asarray(value, x.dtype) if is_number else value
    expected = _oracle.update(op, x, places, array)
    selected = np.zeros(x.size, bool)
    selected[places.ravel()] = True
    name = name or str(IndexCase(x.shape, index))
    given = value if is_number else Given(value, dtype)
    selected = selected.reshape(x.shape)
    return _Trial(name, Given(x, dtype), index, given, expected, places, selected)


def _trials(kind: str, op: str) -> Iterator[_Trial]:  # noqa: PLR0912
    """The calls of a kind of which the values are checked."""
    if kind in _SELECTING:
        for case in index_cases(kind):
            yield _trial(op, *_of_case(case))
    elif kind in _TRACED:
        yield from _traced_trials(kind, op)
    elif kind == "broadcasting":
        for index in (S[1:, :4], S[np.array([0, 3, 1]), :4], S[:0:-1, 1:]):
            for shape in ((), (1,), (4,), (1, 4), (3, 1), (3, 4)):
                x, value = _data((4, 5), shape)
                yield _trial(op, x, index, value, name=f"{IndexCase(x.shape, index)}, {shape}")
    elif kind == "numbers":
        for number in (1.25, 3, 0):
            if number == 0 and op == "divide":
                continue
            for index in (S[1], S[:, ::2], S[np.array([0, 2]), np.array([1, 3])]):
                x, _ = _data((3, 4), ())
                name = f"{IndexCase(x.shape, index)}, {number}"
                yield _trial(op, x, index, number, name=name)
    elif kind == "dtypes":
        yield from _dtype_trials(op)
    elif kind == "unselected elements":
        x = _strange()
        for index in (S[1], S[::3], S[np.array([5, 1])], S[np.arange(8) % 4 == 1]):
            _, value = _data((8,), x[index].shape)
            plain = np.where(_selects(x, index), np.float32(1.5), x)
            yield _trial(op, plain, index, value)
    else:
        yield from _special_trials(op)


def _of_case(case: IndexCase) -> tuple[Any, Any, Any]:
    places = _oracle.positions(case.shape, case.index)
    x, value = _data(case.shape, places.shape)
    return x, case.index, value


def _selects(x: Any, index: Any) -> Any:
    selected = np.zeros(x.shape, bool)
    selected[index] = True
    return selected


def _strange() -> Any:
    """Floats that arithmetic changes: NaN with bits of its own, -0.0, a subnormal number."""
    x = np.array([np.nan, 1, np.inf, -np.inf, -0.0, 1, 1e-45, 0], "float32")
    x.view("uint32")[7] = 0x7FC12345
    return x


def _special_trials(op: str) -> Iterator[_Trial]:
    value = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0], "float32")
    if op == "divide":  # by zero, whose sign counts
        value = value[:3]
    x = np.full(7, 2, "float32")
    number = len(value)
    rows = np.arange(number)[::-1].copy()
    mask = np.arange(7) < number
    for index in (S[:number], S[number - 1 :: -1], S[rows], S[mask]):
        yield _trial(op, x, index, value)
    if op == "set":  # what is overwritten does not count
        x = np.array([1, np.nan, np.inf, 0, -np.inf], "float32")
        for index in (S[1:3], S[np.array([1, 4])], S[np.arange(5) % 4 == 1], S[2]):
            _, value = _data((5,), x[index].shape)
            yield _trial(
                op, x, index, value, name=f"{IndexCase((5,), index)} where x is not finite"
            )


def _dtype_trials(op: str) -> Iterator[_Trial]:
    for dtype in _DTYPES:
        if (dtype == "bool" and op != "set") or (
            "float" not in dtype and op in ("divide", "power")
        ):
            continue
        in_numpy = "float32" if dtype == "bfloat16" else dtype
        for index in (S[1:3], S[np.array([2, 0])]):
            x = np.array([5, 6, 7, 8]).astype(in_numpy)
            value = np.array([2, 1]).astype(in_numpy)
            value = ~value if dtype == "bool" else value
            name = f"{dtype}, {IndexCase(x.shape, index)}"
            yield _trial(op, x, index, value, dtype, name)


_TRACED: dict[str, list[tuple[tuple[int, ...], Any]]] = {
    "index tensors": [
        ((5,), S[np.array([2, 0])]),
        ((5,), S[np.array(2)]),
        ((3, 4), S[:, np.array([3, 1])]),
        ((3, 4), S[np.array([[0], [2]]), np.array([1, 3])]),
        ((5,), S[np.array([-1, 1, -3])]),
        ((3, 4), S[np.array([0, 2]), 1:3]),
        ((2, 3, 4), S[np.array([0, 1]), :, np.array([0, 1])]),
    ],
    "index tensors with duplicates": [
        ((5,), S[np.array([3, 3, 3, 1, 3, 3])]),
        ((3, 4), S[np.array([2, 0, 2])]),
        ((3, 4), S[np.array([0, 0, 2]), np.array([1, 1, 3])]),
        ((3, 4), S[:, np.array([3, 1, 3, 0])]),
    ],
    "mask tensors": [
        ((5,), S[np.arange(5) % 2 == 0]),
        ((5,), S[np.zeros(5, bool)]),
        ((3, 4), S[np.arange(12).reshape(3, 4) % 5 == 0]),
        ((3, 4), S[np.array([True, False, True])]),
        ((3, 4), S[:, np.array([True, False, False, True])]),
    ],
}


def _traced_trials(kind: str, op: str) -> Iterator[_Trial]:
    masks = kind == "mask tensors"
    for shape, index in _TRACED[kind]:
        places = _oracle.positions(shape, index)
        x, value = _data(shape, () if masks else places.shape)
        trial = _trial(op, x, index, value)
        items = index if isinstance(index, tuple) else (index,)
        arrays = [
            np.array(i, bool if masks else "int32") for i in items if isinstance(i, np.ndarray)
        ]
        open_items = tuple([_Open() if isinstance(i, np.ndarray) else i for i in items])
        opened = open_items if isinstance(index, tuple) else open_items[0]
        yield trial._replace(index=opened, traced=tuple(arrays))


class _Open:
    """Stands in an index where a tensor will stand."""


def _filled(index: Any, tensors: Sequence[Any]) -> Any:
    left = list(tensors)
    if not isinstance(index, tuple):
        return left[0]
    return tuple([left.pop(0) if isinstance(item, _Open) else item for item in index])


def _pure_trials(op: str) -> Iterator[_Trial]:
    for case in (
        IndexCase((5,), S[2]),
        IndexCase((5,), S[1:4]),
        IndexCase((5,), S[:]),
        IndexCase((5,), S[::-1]),
        IndexCase((5,), S[np.array([4, 1])]),
        IndexCase((5,), S[np.array([3, 3, 1])]),
        IndexCase((5,), S[np.array([True, False, True, True, False])]),
        IndexCase((3, 4), S[:, 1]),
        IndexCase((3, 4), S[np.array([-1, 0]), np.array([0, -1])]),
    ):
        yield _trial(op, *_of_case(case))


def _gradient_trials(kind: str, op: str, of_each: int) -> Iterator[_Trial]:
    if kind == "gradients of duplicates":
        for case in index_cases("duplicates")[: 6 * of_each - 2]:
            yield _trial(op, *_of_case(case))
        return
    for name in _SELECTING:
        if name not in ("duplicates", "lists", "NumPy integers", "boolean scalars"):
            for case in index_cases(name)[:of_each]:
                yield _trial(op, *_of_case(case))
    for index, shape in ((S[1:, ::2], ()), (S[1:, ::2], (2, 1)), (S[np.array([0, 2])], (4,))):
        x, value = _data((3, 4), shape)
        name = f"{IndexCase(x.shape, index)}, values of shape {shape}"
        yield _trial(op, x, index, value, name=name)
    if op == "set":
        x = np.array([1, np.nan, np.inf, 0, -np.inf], "float32")
        for index in (S[1:3], S[np.array([1, 4])], S[np.arange(5) % 4 == 1], S[2]):
            _, value = _data((5,), x[index].shape)
            yield _trial(
                op, x, index, value, name=f"{IndexCase((5,), index)} where x is not finite"
            )


def _refused(kind: str, op: str) -> Iterator[tuple[_Trial, _Trial | None]]:
    """Calls at which NumPy raises, each with one of the same sort at which it does not."""
    if kind not in REFUSED:
        x, one = _data((4, 5), ())
        for index, shape in (
            (S[1:, :4], (5,)),
            (S[1:, :4], (2, 4)),
            (S[0], (4,)),
            (S[np.array([0, 3, 1])], (2, 5)),
            (S[np.array([0, 3, 1]), 2], (2,)),
        ):
            _, value = _data((4, 5), shape)
            good = _trial(op, x, index, one)
            name = f"{IndexCase(x.shape, index)}, values of shape {shape}"
            yield good._replace(name=name, value=Given(value)), good
        return
    for case in index_cases(kind):
        x, value = _data(case.shape, ())
        bad = _Trial(str(case), Given(x), case.index, Given(value), None, None, None)
        good_index = _inside(case.index) if kind == "out of bounds" else 0
        fits = case.shape and case.shape[0]
        yield bad, _trial(op, x, good_index, value) if fits else None


def _inside(index: Any) -> Any:
    """An index of the same sort, at the first element."""
    if isinstance(index, tuple):
        return tuple([_inside(item) for item in index])
    if isinstance(index, np.ndarray):
        return np.zeros(index.shape, "int64")
    return 0 if isinstance(index, int) else index


def _arrays_in(index: Any) -> list[Any]:
    items = index if isinstance(index, tuple) else (index,)
    return [item for item in items if isinstance(item, np.ndarray)]


# --- What is right -----------------------------------------------------------------------------


def _to_numpy(found: Any) -> Any:
    return found if isinstance(found, (np.ndarray, np.generic)) else ops.convert_to_numpy(found)


def _compare(found: Any, trial: _Trial, op: str) -> None:
    """Raise an `AssertionError` if a result is not what NumPy gives."""
    dtype = dtype_of(trial.x.tensor())
    assert hasattr(found, "dtype"), f"a tensor is expected. Received: {type(found).__name__}"
    found_dtype = dtype_of(found)
    assert found_dtype == dtype, f"dtype {dtype!r} is expected. Received: {found_dtype!r}"
    now = np.asarray(_to_numpy(found))
    expected = trial.expected
    assert now.shape == expected.shape, f"shape {expected.shape} is expected. Received: {now.shape}"
    if "float" in dtype:
        now, expected = now.astype("float32"), expected.astype("float32")
        same = now.view("uint32") == expected.view("uint32")
        with np.errstate(invalid="ignore"):
            equal = now == expected
            if op == "set":
                equal &= np.signbit(now) == np.signbit(expected)
            close = equal | (np.isnan(now) & np.isnan(expected))
            if op not in _EXACT:
                close |= np.isclose(now, expected, rtol=2e-5, atol=2e-6)
        right = same | (close & trial.selected)
    else:
        right = now == expected
    if not right.all():
        _fail("the result", now, expected, ~right, trial.selected)


def _fail(what: str, now: Any, expected: Any, wrong: Any, selected: Any = None) -> None:
    """Raise an error about the first element that is wrong."""
    at = tuple([int(axis[0]) for axis in np.nonzero(np.atleast_1d(wrong))])[: wrong.ndim]
    where = f" at {list(at)}" if at else ""
    known = "" if selected is None or selected[at] else ", which is not selected,"
    more = f" ({wrong.sum()} of {wrong.size} elements are wrong)" if wrong.size > 1 else ""
    raise AssertionError(
        f"{what}{where}{known} should be {_number(expected[at])}. "
        f"Received: {_number(now[at])}{more}. All of it should be {_short(expected)}. "
        f"Received: {_short(now)}"
    )


def _number(x: Any) -> str:
    if np.isnan(x) if np.asarray(x).dtype.kind == "f" else False:
        return f"nan (bits {np.asarray(x, 'float32').view('uint32'):#x})"
    return str(x)


def _short(array: Any) -> str:
    array = np.asarray(array)
    text = np.array2string(array, separator=", ", precision=4, threshold=12)
    return " ".join(text.split())
