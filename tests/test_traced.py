"""Indices whose values are known only when the model runs: tensors, eager and compiled."""

import numpy as np
import oracle
import pytest
from _backend import tensors, to_numpy
from cases import CASES
from keras import ops

from kedit import at

pytestmark = pytest.mark.tensors

S = np.s_
MODES = [None, "drop", "fill", "clip", "wrap"]


def cube(x):
    return x * x * x


def check_close(found, expected):
    np.testing.assert_allclose(to_numpy(found), expected, rtol=2e-5, atol=2e-6)
    assert to_numpy(found).dtype == expected.dtype


def is_static(item):
    return item is None or item is ... or isinstance(item, (slice, bool))


def parted(index):
    """The items of an index, and the arrays among them that a tensor can stand for."""
    items = index if isinstance(index, tuple) else (index,)
    items = [item if is_static(item) else np.asarray(item) for item in items]
    items = [
        i.astype("int64") if not is_static(i) and i.size == 0 and i.dtype == float else i
        for i in items
    ]
    return items, [item for item in items if not is_static(item)]


def put_together(items, given):
    """The index with `given` in place of its arrays."""
    given = iter(given)
    return tuple([item if is_static(item) else next(given) for item in items])


def data(shape, places, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.5, 2.0, shape).astype("float32")
    values = rng.uniform(0.5, 2.0, places.shape).astype("float32")
    return x, values


def updated(op, place, x, values, **options):
    edit = place.apply(cube, **options) if op == "apply" else getattr(place, op)(values, **options)
    return edit(x)


def masks_of(index):
    return [a for a in parted(index)[1] if a.dtype == bool]


def is_possible(case):
    """Whether an index may be given as tensors: several masks may not."""
    arrays = parted(case.index)[1]
    masks = [array for array in arrays if array.dtype == bool]
    others = [a for a in arrays if a.dtype != bool and a.ndim]
    return bool(arrays) and (not masks or (len(masks) == 1 and not others))


TRACED = [case for case in CASES if is_possible(case)]


def test_table_has_enough_cases():
    assert len(TRACED) > 120


@pytest.mark.parametrize("case", TRACED, ids=repr)
def test_a_tensor_means_what_the_array_does(case):
    places = oracle.positions(case.shape, case.index)
    x, values = data(case.shape, places)
    items, arrays = parted(case.index)
    index = put_together(items, tensors(arrays))
    tensor = ops.convert_to_tensor(x)
    check_close(at(tensor)[index].get(), x[case.index])
    for op in oracle.UPDATES:
        expected = oracle.update(op, x, places, values)
        check_close(updated(op, at[index], tensor, values), expected)
        check_close(updated(op, at[index], tensor, ops.convert_to_tensor(values)), expected)
        if places.size and not masks_of(case.index):
            value = values.ravel()[0]
            check_close(updated(op, at[index], tensor, value), oracle.update(op, x, places, value))
    np.testing.assert_array_equal(to_numpy(tensor), x)
    for array, given in zip(arrays, index_tensors(index), strict=True):
        np.testing.assert_array_equal(to_numpy(given), array)


def index_tensors(index):
    return [item for item in index if not is_static(item)]
