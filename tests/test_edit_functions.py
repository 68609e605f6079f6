"""The kit for edit functions finds each planted fault, under its kind; and kedit passes it."""

import keras
import numpy as np
import pytest
from _backend import RUNS_IN_PIECES, to_numpy
from keras import ops
from kit import in_full_once

import kedit
from kedit import at
from kedit.errors import OperandError
from kedit.testing import Report, check_edit_function, index_cases

S = np.s_
GRADIENTS = ("gradients", "gradients of duplicates")


def by_numpy(change):
    """An edit function of a function that changes an array in place."""

    def edit(x, index, value):
        y = np.array(to_numpy(x))
        change(y, as_numpy(index), value if isinstance(value, (int, float)) else to_numpy(value))
        return ops.cast(ops.convert_to_tensor(y), x.dtype)

    edit.__name__ = change.__name__
    return edit


def as_numpy(index):
    if isinstance(index, tuple):
        return tuple([as_numpy(item) for item in index])
    return to_numpy(index) if ops.is_tensor(index) and not isinstance(index, np.ndarray) else index


def each(change, index):
    """The index with each of its items changed."""
    items = index if isinstance(index, tuple) else (index,)
    found = tuple([change(item) for item in items])
    return found if isinstance(index, tuple) else found[0]


def is_array(item, kind):
    return isinstance(item, np.ndarray) and item.dtype.kind in kind


@by_numpy
def right(y, index, value):
    y[index] = value


def at_once(y, index, value):
    """Flat positions, and for each its value."""
    places = np.arange(y.size).reshape(y.shape)[index]
    return places.ravel(), np.broadcast_to(value, places.shape).ravel()


@by_numpy
def lets_the_first_duplicate_win(y, index, value):
    places, values = at_once(y, index, value)
    y.ravel()[places[::-1]] = values[::-1]


@by_numpy
def takes_negative_positions_for_the_first(y, index, value):
    def change(item):
        if isinstance(item, int) and not isinstance(item, bool):
            return max(item, 0) if item >= -y.ndim - 3 else item
        return np.where(item < 0, 0, item) if is_array(item, "i") and (item > -6).all() else item

    y[each(change, index)] = value


@by_numpy
def forgets_the_sign_of_steps(y, index, value):
    """Writes to the right elements, in the wrong order."""

    def change(item, size):
        if isinstance(item, slice) and (item.step or 1) < 0:
            return np.sort(np.arange(size)[item]) if y.ndim == 1 else slice(None, None, -item.step)
        return item

    try:
        y[each(lambda item: change(item, y.shape[0]), index)] = value
    except (ValueError, IndexError):
        y[index] = value


@by_numpy
def takes_an_ellipsis_for_one_axis(y, index, value):
    y[each(lambda item: slice(None) if item is ... else item, index)] = value


@by_numpy
def refuses_new_axes(y, index, value):
    items = index if isinstance(index, tuple) else (index,)
    assert not any([item is None for item in items]), "None"
    y[index] = value


@by_numpy
def takes_arrays_for_an_open_mesh(y, index, value):
    """`y[[0, 2], [1, 3]]` as NumPy's `y[np.ix_([0, 2], [1, 3])]`."""
    if isinstance(index, tuple) and all([is_array(i, "i") and i.ndim == 1 for i in index]):
        index = np.ix_(*index)
    y[index] = value


@by_numpy
def takes_masks_for_positions(y, index, value):
    def change(item):
        return item.astype(int) if is_array(item, "b") and item.size and item.ndim else item

    y[each(change, index)] = value


@by_numpy
def refuses_to_select_nothing(y, index, value):
    if y[index].size == 0:
        raise RuntimeError("nothing to do")
    y[index] = value


@by_numpy
def cannot_do_without_axes(y, index, value):
    if y.ndim == 0:
        raise RuntimeError("no axes")
    y[index] = value


@by_numpy
def knows_only_pythons_ints(y, index, value):
    items = index if isinstance(index, tuple) else (index,)
    for item in items:
        if isinstance(item, (np.integer, np.ndarray)) and np.ndim(item) == 0:
            raise TypeError("no int")
        if isinstance(item, np.ndarray) and item.dtype not in ("int64", "int32", "bool"):
            raise TypeError("no int64")
    y[index] = value


@by_numpy
def takes_booleans_for_ints(y, index, value):
    y[each(lambda item: int(item) if isinstance(item, bool) else item, index)] = value


@by_numpy
def refuses_lists(y, index, value):
    items = index if isinstance(index, tuple) else (index,)
    if any([isinstance(item, list) for item in items]):
        raise TypeError("arrays only")
    y[index] = value


@by_numpy
def repeats_values_to_fill(y, index, value):
    """As `np.put` and `np.place` do."""
    shape = y[index].shape
    y[index] = np.resize(value, shape) if np.size(value) else value


@by_numpy
def cuts_numbers_off(y, index, value):
    y[index] = int(value) if isinstance(value, float) else value


@by_numpy
def makes_nan_a_number(y, index, value):
    y[index] = np.nan_to_num(value) if np.asarray(value).dtype == "float32" else value


@by_numpy
def clips_positions(y, index, value):
    def change(item):
        if is_array(item, "iu") or (isinstance(item, int) and not isinstance(item, bool)):
            return np.clip(np.array(item, object), -5, 3).astype("int64")
        return item

    try:
        y[index] = value
    except IndexError as error:
        if "out of bounds" not in str(error) or y.size == 0:
            raise
        y[each(change, index)] = value


@by_numpy
def ignores_what_is_no_index(y, index, value):
    try:
        y[index] = value
    except IndexError as error:
        if "bounds" in str(error) or index == 2**70:
            raise


def widens(x, index, value):
    return ops.cast(right(x, index, value), "float32")


def blends_by_a_mask(x, index, value):
    """NaN and infinity that are overwritten leave NaN, and -0.0 beside them becomes 0."""
    if "float" not in keras.backend.standardize_dtype(x.dtype):
        return right(x, index, value)
    selected = np.zeros(x.shape, "float32")
    selected[as_numpy(index)] = 1
    mask = ops.cast(ops.convert_to_tensor(selected), x.dtype)
    return x * (1 - mask) + right(ops.zeros_like(x), index, value) * mask


def changes_the_index(x, index, value):
    found = right(x, index, value)
    if is_array(index, "i") and index.ndim:
        index.sort()
    return found


# The faults, the kind that each is of, and the others in whose cases such an index occurs.
FAULTS = {
    lets_the_first_duplicate_win: (
        "duplicates",
        ["index tensors with duplicates"],
    ),
    takes_negative_positions_for_the_first: ("negative positions", ["index tensors"]),
    forgets_the_sign_of_steps: (
        "steps",
        [
            *("negative positions", "ellipsis", "duplicates", "mixed", "broadcasting"),
            "special values",
        ],
    ),
    takes_an_ellipsis_for_one_axis: (
        "ellipsis",
        [
            *("negative positions", "new axes", "integer arrays", "duplicates", "boolean masks"),
            *("mixed", "small shapes", "boolean scalars"),
        ],
    ),
    refuses_new_axes: (
        "new axes",
        ["mixed", "empty selections", "small shapes", "boolean scalars"],
    ),
    takes_arrays_for_an_open_mesh: (
        "integer arrays",
        [
            *("negative positions", "duplicates", "index tensors with duplicates"),
            *("empty selections", "numbers", "invalid indices"),
        ],
    ),
    takes_masks_for_positions: (
        "boolean masks",
        [
            *("mixed", "empty selections", "small shapes", "mask tensors", "unselected elements"),
            *("special values", "purity", "invalid indices"),
        ],
    ),
    refuses_to_select_nothing: ("empty selections", ["boolean scalars", "mask tensors"]),
    cannot_do_without_axes: ("small shapes", ["boolean scalars"]),
    knows_only_pythons_ints: ("NumPy integers", ["negative positions", "index tensors"]),
    takes_booleans_for_ints: ("boolean scalars", []),
    refuses_lists: ("lists", []),
    repeats_values_to_fill: ("broadcasting", ["values that do not fit"]),
    cuts_numbers_off: ("numbers", []),
    widens: ("dtypes", []),
    blends_by_a_mask: ("unselected elements", ["special values"]),
    makes_nan_a_number: ("special values", []),
    changes_the_index: ("purity", []),
    clips_positions: ("out of bounds", []),
    ignores_what_is_no_index: ("invalid indices", []),
}


def test_numpy_passes():
    report = check_edit_function(right, compile=False, skip=GRADIENTS)
    assert report.passes
    assert len(report.kinds) == 27
    assert {outcome.status for outcome in report.outcomes} == {"passes"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found_under_its_kind(fault):
    report = check_edit_function(fault, compile=False, skip=GRADIENTS, raise_on_failure=False)
    kind, others = FAULTS[fault]
    assert kind in report.failed_kinds
    assert set(report.failed_kinds) == {kind, *others}


# --- Faults that are no fault of the values ----------------------------------------------------


def edit(x, index, value):
    return at(x)[index].set(value)


def keeps_the_gradient_of_what_is_overwritten(x, index, value):
    return x + ops.stop_gradient(edit(x, index, value) - x)


def gives_values_no_gradient(x, index, value):
    return edit(x, index, ops.stop_gradient(value))


def gives_every_duplicate_the_gradient(x, index, value):
    summed = at(ops.zeros_like(x))[index].add(value)
    y = edit(x, index, ops.stop_gradient(value))
    return y + summed - ops.stop_gradient(summed)


GRADIENT_FAULTS = {
    keeps_the_gradient_of_what_is_overwritten: ["gradients", "gradients of duplicates"],
    gives_values_no_gradient: ["gradients", "gradients of duplicates"],
    gives_every_duplicate_the_gradient: ["gradients of duplicates"],
}


@pytest.mark.gradient
@pytest.mark.parametrize("fault", GRADIENT_FAULTS, ids=lambda fault: fault.__name__)
def test_a_wrong_gradient_is_found(fault):
    report = check_edit_function(fault, compile=False, only=GRADIENTS, raise_on_failure=False)
    assert report.failed_kinds == GRADIENT_FAULTS[fault]
    assert "raises" not in {outcome.status for outcome in report.outcomes}


@pytest.mark.gradient
@pytest.mark.usefixtures("without_building")
def test_what_no_compiler_can_run_is_found():
    def looks_at_numbers(x, place, value):
        return x if float(ops.max(x)) > 1e9 else place.set(value)(x)

    report = check_edit_function(
        looks_at_numbers,
        as_index=lambda index: at[index],
        only="duplicates",
        raise_on_failure=False,
    )
    assert report.count("duplicates") == {"passes": 18}
    found = report.count("duplicates", compiled=True)
    assert found == ({"passes": 4} if RUNS_IN_PIECES else {"raises": 4})


def test_sums_and_the_other_operations_have_duplicates_of_their_own():
    def adds_once(x, index, value):
        return right(x, index, at(x)[index].get() + value)

    report = check_edit_function(
        adds_once, op="add", compile=False, only=("duplicates", "steps"), raise_on_failure=False
    )
    assert report.failed_kinds == ["duplicates"]


def test_what_raises_everywhere_refuses_nothing():
    def later(x, index, value):
        raise NotImplementedError("later")

    report = check_edit_function(later, compile=False, skip=GRADIENTS, raise_on_failure=False)
    assert report.failed_kinds == report.kinds
    # There are indices for which no other is right: those of a shape without elements.
    assert report.count("out of bounds") == {"passes": 1, "raises": 8}


def test_numbers_in_place_of_a_tensor_are_found():
    def to_list(x, index, value):
        return to_numpy(right(x, index, value)).tolist()

    with pytest.raises(AssertionError, match=r"a tensor is expected\. Received: list"):
        check_edit_function(to_list, compile=False, only="integers")


# --- The report --------------------------------------------------------------------------------


def test_the_error_says_which_case_what_was_expected_and_received():
    def shifts(x, index, value):
        return right(x, index, value + 1)

    with pytest.raises(AssertionError) as raised:
        check_edit_function(shifts, compile=False, only=("slices", "out of bounds"))
    text = str(raised.value)
    assert "slices         11 fail" in text
    assert "out of bounds  9 pass" in text
    assert "slices, (5,)[1:3], eager: the result at [1] should be 0.6875. Received: 1.6875" in text
    assert "slices: 8 more, in `report.outcomes`" in text


def test_a_report_counts_and_its_assertion_can_wait():
    report = check_edit_function(
        lambda x, i, v: right(x, i, v) if x.ndim < 3 else None,
        only=("integers", "lists"),
        compile=False,
        raise_on_failure=False,
    )
    assert isinstance(report, Report)
    assert report.kinds == ["integers", "lists"]
    assert report.failed_kinds == ["integers"]
    assert not report.passes
    assert report.count("integers") == {"passes": 6, "fails": 8}
    assert report.count("integers", compiled=True) == {}
    assert str(report).splitlines()[1:] == [
        "kind      eager",
        "integers  6 pass, 8 fail",
        "lists     6 pass",
    ]
    with pytest.raises(AssertionError, match="a tensor is expected"):
        report.assert_passes()


@pytest.mark.parametrize("name", ["only", "skip"])
def test_kinds_that_there_are_not_are_refused(name):
    with pytest.raises(OperandError, match=f"`{name}` should name kinds"):
        check_edit_function(right, **{name: ("integers", "numbres")})
    with pytest.raises(OperandError, match=f"`{name}` should name kinds"):
        index_cases(**{name: "broadcasting"})


def test_operations_that_there_are_not_are_refused():
    with pytest.raises(OperandError, match="op"):
        check_edit_function(right, op="append")


# --- The cases ---------------------------------------------------------------------------------


def test_cases_have_stable_names_and_arrays_of_their_own():
    cases = index_cases()
    assert len({str(case) for case in cases}) == len(cases) == 214
    assert [str(case) for case in cases] == [str(case) for case in index_cases()]
    assert str(cases[-1]) == "(3,4)[[[1],[2]],[2,0]]"
    assert all([case.kind and case.why for case in cases])
    changed = index_cases("duplicates")[0]
    changed.index[:] = 9
    assert str(index_cases("duplicates")[0]) == "(5,)[int64[0,0,2]]"


def test_numpy_takes_the_cases_but_for_two_kinds():
    for case in index_cases():
        np.zeros(case.shape)[case.index] = 1
    refused = index_cases(("out of bounds", "invalid indices"))
    assert len(refused) == 22
    for case in refused:
        with pytest.raises((IndexError, TypeError)):
            np.zeros(case.shape)[case.index] = 1
    assert {case.kind for case in index_cases(skip="mixed")} == {
        case.kind for case in cases_but("mixed")
    }


def cases_but(kind):
    return [case for case in index_cases() if case.kind != kind]


# --- kedit -------------------------------------------------------------------------------------


def test_kedit_passes():
    assert check_edit_function(edit, compile=False).passes


@pytest.mark.parametrize("op", ["add", "subtract", "multiply", "divide", "power", "min", "max"])
def test_other_operations_of_kedit_pass(op):
    kinds = ["duplicates", "unselected elements", "special values", "gradients of duplicates"]
    check_edit_function(
        lambda x, index, value: getattr(at(x)[index], op)(value), op=op, compile=False, only=kinds
    )


@pytest.mark.gradient
@pytest.mark.usefixtures("without_building")
@pytest.mark.parametrize("op", in_full_once(["set", "add"], ["set"]))
def test_edits_of_kedit_pass_compiled(op):
    """An edit is made outside of the function, since `torch.compile` cannot read arrays."""
    kinds = ["index tensors with duplicates", "gradients of duplicates", "unselected elements"]
    report = check_edit_function(
        lambda x, place, value: getattr(place, op)(value)(x),
        op=op,
        as_index=lambda index: kedit.at[index],
        only=kinds,
    )
    for kind in kinds:
        assert report.count(kind, compiled=True) == {"passes": 4}
