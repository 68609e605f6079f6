"""The index floor against NumPy: the same positions, or an error where NumPy has one."""

import json
import pickle
import tracemalloc

import keras
import numpy as np
import pytest
from cases import CASES, OUT_OF_BOUNDS, Case
from hypothesis import given, settings
from hypothesis import strategies as st

from kedit import at, sample
from kedit._language.index import Index
from kedit._plan.bind import bind
from kedit.errors import PositionError, ShapeError

pytestmark = pytest.mark.once


def positions_by_layout(index, shape):
    """What `index` selects from an array of flat positions, along the layout's own path."""
    layout = bind(at[index].selection, shape)
    canonical = np.arange(np.prod(shape, dtype=int)).reshape(shape).transpose(layout.order)
    canonical = canonical.reshape([pick.size for pick in layout.picks])
    picked = canonical
    for axis, pick in enumerate(layout.picks):
        picked = np.take(picked, np.array(pick.positions, int), axis=axis)
    sizes = [layout.result[dim] for dim in layout.dims]
    result = picked.reshape(sizes).transpose(np.argsort(layout.dims).astype(int))
    assert result.shape == layout.result
    return result


def check_same(index, shape):
    """Demand NumPy's result, or an error where NumPy raises one.

    Of an empty result NumPy does not always check the bounds; there, too, we may raise.
    """
    whole = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    try:
        expected = whole[index]
    except (IndexError, TypeError) as error:
        with pytest.raises((PositionError, ShapeError)) as raised:
            positions_by_layout(index, shape)
        assert isinstance(raised.value, IndexError | ValueError), error
        return
    try:
        found = positions_by_layout(index, shape)
    except PositionError:
        assert expected.size == 0
    else:
        np.testing.assert_array_equal(found, expected)


def test_table_is_large_enough_and_without_doubles():
    assert len({repr(case) for case in CASES}) == len(CASES) >= 150


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_table(case):
    check_same(case.index, case.shape)


@pytest.mark.parametrize("case", OUT_OF_BOUNDS, ids=repr)
def test_what_does_not_fit_raises(case):
    with pytest.raises(IndexError) if "[0,1,2]" not in repr(case) else pytest.raises(ValueError):
        bind(at[case.index].selection, case.shape)


@st.composite
def arrays_for(draw, size):
    """Integer and boolean arrays for an axis, now and then one that does not fit."""
    if draw(st.integers(0, 3)) == 0:
        wrong = draw(st.integers(0, 9)) == 0
        return draw(
            st.lists(st.booleans(), min_size=size + wrong, max_size=size + wrong).map(
                lambda mask: np.array(mask, bool)
            )
        )
    low, high = (-size, size - 1) if size else (0, 0)
    if draw(st.integers(0, 19)) == 0:
        low, high = low - 1, high + 1
    shape = draw(st.sampled_from([(), (1,), (2,), (3,), (0,), (2, 1), (2, 3), (1, 3)]))
    count = int(np.prod(shape))
    numbers = draw(st.lists(st.integers(low, high), min_size=count, max_size=count))
    dtype = draw(st.sampled_from(["int8", "int32", "int64"]))
    return np.array(numbers, dtype).reshape(shape)


@st.composite
def cases(draw):
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    items, axes = [], 0
    ellipsis_left = True
    while True:
        kinds = ["stop", "none", "bool"] + (["ellipsis"] if ellipsis_left else [])
        if axes < len(shape):
            kinds += ["int", "slice", "slice", "array", "array", "mask2"]
        kind = draw(st.sampled_from(kinds))
        if kind == "stop":
            break
        size = shape[axes] if axes < len(shape) else 0
        if kind == "none":
            items.append(None)
        elif kind == "bool":
            items.append(draw(st.booleans()))
        elif kind == "ellipsis":
            items.append(...)
            ellipsis_left = False
        elif kind == "int":
            items.append(draw(st.integers(-size - (size == 0), max(size - 1, 0))))
            axes += 1
        elif kind == "slice":
            bound = st.none() | st.integers(-size - 2, size + 2)
            step = st.none() | st.integers(-3, 3).filter(bool)
            items.append(slice(draw(bound), draw(bound), draw(step)))
            axes += 1
        elif kind == "array":
            items.append(draw(arrays_for(size)))
            axes += 1
        elif axes + 1 < len(shape):
            wanted = shape[axes : axes + 2]
            bits = draw(st.integers(0, 2 ** min(int(np.prod(wanted)), 16) - 1))
            count = int(np.prod(wanted))
            items.append(np.array([bits >> n & 1 for n in range(count)], bool).reshape(wanted))
            axes += 2
    return Case(shape, tuple(items))


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(cases())
def test_any_index(case):
    check_same(case.index, case.shape)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(cases())
def test_sample_coordinates_are_those_of_each_sample(case):
    """`sample[index]` of a batch is `x[index]` of each of its samples, one after the other."""
    try:
        single = bind(at[case.index].selection, case.shape)
    except (PositionError, ShapeError):
        return
    batched = bind(sample[case.index].selection, (7, *case.shape))
    assert batched.result == (7, *single.result)
    assert bind(sample[case.index].selection, (None, *case.shape)).result[0] is None
    assert [pick.positions for pick in batched.picks[1:]] == [p.positions for p in single.picks]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(cases())
def test_index_survives_json_code_and_pickle(case):
    try:
        index = Index(case.index)
    except PositionError:
        return
    again = Index.from_json(json.loads(json.dumps(index.to_json(), allow_nan=False)))
    assert again.key() == index.key()
    assert pickle.loads(pickle.dumps(index)).key() == index.key()
    assert Index(index.items).key() == index.key()
    code = repr(index)
    assert Index(eval(f"np.s_{code}", {"np": np})).key() == index.key()


def test_index_does_not_change_with_the_array_it_was_made_of():
    mask, numbers = np.array([True, False]), np.array([0, 1])
    index = Index((mask, numbers))
    key = index.key()
    mask[:] = True
    numbers[:] = 1
    assert index.key() == key


def test_few_places_are_named_by_the_axes_of_the_tensor():
    x = np.zeros((2, 3, 4), int)
    for index in ([1, 0], [0, 2]), (slice(None), 1, [3, 0]), (1, [2, 0, 2], 3), (..., [1, 2]):
        targets = bind(at[index].selection, x.shape).targets
        if targets is not None:
            written = x.copy()
            written[tuple(targets.T)] = 1
            expected = x.copy()
            expected[index] = 1
            np.testing.assert_array_equal(written, expected)
    assert bind(at[([1, 0], [0, 2])].selection, x.shape).targets.tolist() == [[0, 2], [1, 0]]


def test_places_beyond_32_bits():
    """More than 2**31 elements: each axis still counts in 32 bits, an axis that is longer in 64."""
    layout = bind(at[([1, -1], [0, 5])].selection, (2**20, 4096))
    assert layout.targets.tolist() == [[1, 0], [2**20 - 1, 5]]
    assert layout.targets.dtype == "int32"
    layout = bind(at[[0, -2]].selection, (2**31 + 8,))
    assert layout.targets.tolist() == [[0], [2**31 + 6]]
    assert layout.targets.dtype == "int64"


def test_a_long_axis_takes_no_memory_to_plan():
    i = keras.KerasTensor((3,), dtype="int32")
    selection = at[i, i].selection
    tracemalloc.start()
    bind(selection, (10**6, 2))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**5
