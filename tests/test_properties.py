"""Any edit against NumPy, as Hypothesis draws them: the same elements, or the right error.

A search is short and always the same, unless KEDIT_EXAMPLES says how many examples to try; then
KEDIT_SEED, by default 0, says which.
"""

import math
import os
from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
from _backend import compiled, to_numpy, vjp
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis import strategies as st
from keras import ops

import kedit
from kedit.errors import OperandError, PositionError, ShapeError

# Few shapes, so that a backend that compiles for each of them has met most of them before.
SHAPES = [(), (0,), (4,), (0, 2), (2, 3), (3, 0), (2, 3, 4), (3, 1, 2), (2, 0, 3)]
JOINT_SHAPES = [(), (0,), (1,), (2,), (3,), (2, 1), (2, 3)]
MODES = (None, None, "drop", "fill", "clip", "wrap", "promise_in_bounds", "raise")
FILLS = {"bool": True, "int32": -(2**31), "uint8": 255, "float32": np.nan}
NUMBERS = {
    "bool": [False, True],
    "int32": [-3, -1, 0, 1, 2, 4],
    "uint8": [0, 1, 2, 3, 254, 255],
    "float32": [*np.arange(-8, 9) / 4, np.nan, np.inf],
}


def search(examples, share=1.0):
    """So many examples, or this share of KEDIT_EXAMPLES."""
    unhurried = {"deadline": None, "suppress_health_check": list(HealthCheck)}
    if "KEDIT_EXAMPLES" not in os.environ:
        return settings(max_examples=examples, derandomize=True, **unhurried)
    examples = math.ceil(int(os.environ["KEDIT_EXAMPLES"]) * share)
    reproducible = seed(int(os.environ.get("KEDIT_SEED", "0")))
    return lambda test: reproducible(settings(max_examples=examples, **unhurried)(test))


class Item(NamedTuple):
    """An item of an index; one whose part is an array or a number may be given as a tensor."""

    part: Any
    traced: bool = False
    kind: str = ""  # "each", or "block" of `size` from `part` on
    size: int = 0

    @property
    def is_mask(self):
        return isinstance(self.part, np.ndarray) and self.part.dtype == bool

    @property
    def width(self):
        """How many axes it takes up."""
        return (
            self.part.ndim if self.is_mask else int(type(self.part) not in (type(None), type(...)))
        )

    def as_index(self, part):
        if self.kind == "each":
            return kedit.each(part)
        return kedit.block(part, self.size) if self.kind == "block" else part


class Case(NamedTuple):
    coordinates: str
    shape: tuple[int, ...]
    items: tuple[Item, ...]
    op: str
    dtype: str
    mode: str | None
    seed: int
    values_shape: tuple[int, ...] = ()
    values_as: str = "number"  # or "array", or "tensor"

    @property
    def inner(self):
        """Shape of what the index meets."""
        return self.shape[self.coordinates == "sample" :]

    def tensors(self):
        return [ops.convert_to_tensor(item.part) for item in self.items if item.traced]

    def edit(self, tensors, values):
        left = list(tensors)
        index = [item.as_index(left.pop(0) if item.traced else item.part) for item in self.items]
        place = getattr(kedit, self.coordinates)[tuple(index)]
        if self.op == "get":
            return place.get(mode=self.mode)
        operand = cube if self.op == "apply" else values
        return getattr(place, self.op)(operand, mode=self.mode)


def cube(x):
    return x & x & x if "bool" in str(x.dtype) else x * x * x


# --- Drawing -----------------------------------------------------------------------------------


def one_in(draw, count):
    return draw(st.integers(1, count)) == count


def positions(draw, size, shape, traced):
    """Positions on an axis, now and then out of bounds."""
    dtype = draw(st.sampled_from(["int8", "int32", "int64", "uint8"]))
    info = np.iinfo("int32" if traced and dtype == "int64" else dtype)  # JAX has none of 64 bits
    number = st.integers(max(-size, info.min), size - 1) if size else st.just(0)
    if one_in(draw, 6):
        beyond = [size, size + 1, info.max, *([-size - 1, -size - 2, info.min] if info.min else [])]
        number |= st.sampled_from(beyond)
    count = math.prod(shape)
    return np.array(draw(st.lists(number, min_size=count, max_size=count)), dtype).reshape(shape)


def mask(draw, shape, wanted):
    """A mask, most often with as many True as arrays beside it want."""
    size = math.prod(shape)
    entries = st.lists(st.booleans(), min_size=size, max_size=size)
    if wanted is not None and wanted <= size and not one_in(draw, 12):
        entries = st.permutations([place < wanted for place in range(size)])
    return np.array(draw(entries), bool).reshape(shape)


def sub_shape(draw, shape, unfit):
    """A shape that broadcasts to `shape`, or now and then one that does not."""
    if one_in(draw, 20):
        return unfit
    shape = shape[draw(st.integers(0, len(shape))) if one_in(draw, 3) else 0 :]
    return tuple([1 if one_in(draw, 5) else size for size in shape])


def item_on(draw, kind, sizes, batch, joint, traced):
    """An item of a kind, on the first of the axes of these sizes."""
    size = sizes[0] if sizes else 0
    if kind in (None, ...):
        return Item(kind)
    if kind == "slice":
        bound = st.none() | st.integers(-size - 2, size + 2)
        return Item(slice(draw(bound), draw(bound), draw(st.sampled_from([None, 1, 2, -1, -2]))))
    if kind == "mask":
        fits = sizes[: draw(st.integers(int(not one_in(draw, 6)), len(sizes)))]
        shape = (*fits[:-1], fits[-1] + 1) if fits and one_in(draw, 25) else fits
        return Item(mask(draw, shape, joint[-1] if joint else None), traced)
    shape = () if kind in ("number", "block") else sub_shape(draw, joint, (4,))
    if kind == "each":
        shape = (1 if one_in(draw, 5) else batch + 2 * one_in(draw, 25), *shape)
    part = positions(draw, size, shape, traced)
    part = part if traced or shape else int(part)
    return Item(part, traced, kind, draw(st.integers(0, size + 1)) if kind == "block" else 0)


def items_for(draw, shape, batch, traced):
    """The items of an index, now and then too many."""
    joint = draw(st.sampled_from(JOINT_SHAPES))
    on_axis = ["number", "slice", "array", "array", "array", "mask", "block"]
    on_axis += ["each"] * 3 if batch is not None else []
    items, axis = [], 0
    while True:
        free = [...] * all([item.part is not ... for item in items])
        new = [None] * (sum([item.part is None for item in items]) < 3)  # TensorFlow knows 8 axes
        kinds = ["stop", *new, *free, *(on_axis if axis < len(shape) else [])]
        kind = draw(st.sampled_from(kinds if not one_in(draw, 30) else ["number", "array"]))
        if kind == "stop":
            return tuple(items)
        is_traced = traced == "all" or (traced == "some" and draw(st.booleans()))
        items.append(item_on(draw, kind, shape[axis:], batch, joint, is_traced))
        axis += items[-1].width


@st.composite
def cases(draw, traced, dtypes=tuple(FILLS), modes=MODES):
    """Edits; of the arrays and numbers in the index "none", "some" or "all" are tensors."""
    coordinates = draw(st.sampled_from(["at", "at", "sample"]))
    shape = draw(st.sampled_from(SHAPES[coordinates == "sample" :]))
    dtype, mode = draw(st.sampled_from(dtypes)), draw(st.sampled_from(modes))
    refused = {"bool": ("add", "subtract", "multiply", "divide", "power"), "float32": ()}
    refused = refused.get(dtype, ("divide",))
    op = draw(st.sampled_from([op for op in ("get", *oracle.UPDATES) if op not in refused]))
    case = Case(coordinates, shape, (), op, dtype, mode, draw(st.integers(0, 30)))
    batch = shape[0] if coordinates == "sample" else None
    case = case._replace(items=items_for(draw, case.inner, batch, traced))
    if mode == "promise_in_bounds" and any([is_outside(*pair) for pair in with_sizes(case)]):
        case = case._replace(mode=None)
    places = selected(case)
    if op in ("get", "apply") or places is None:
        return case
    # Along a mask that is a tensor values may have any length, but they may not have more axes.
    any_length = not places.ndim or any([item.is_mask and item.traced for item in case.items])
    unfit = (2, *places.shape) if any_length else (*places.shape[:-1], places.shape[-1] + 2)
    values_shape = sub_shape(draw, places.shape, unfit)
    ways = {"none": ["array"], "some": ["array", "tensor"], "all": ["tensor"]}[traced]
    ways = ways + ["number"] * (values_shape == ())
    if op == "power" and dtype != "float32":
        ways = ["array"]  # integers take exponents that are known beforehand
    return case._replace(values_shape=values_shape, values_as=draw(st.sampled_from(ways)))


def data(case):
    """The tensor and the values, as arrays, and the values as the edit is given them."""
    rng = np.random.default_rng(case.seed)
    x, values = [
        rng.choice(NUMBERS[case.dtype], shape).astype(case.dtype)
        for shape in (case.shape, case.values_shape)
    ]
    if case.op == "power" and case.dtype != "float32":
        values = abs(values) % 4
    ways = {"array": np.asarray, "tensor": ops.convert_to_tensor, "number": np.ndarray.item}
    return x, values, ways[case.values_as](np.asarray(values))


# --- What NumPy says ---------------------------------------------------------------------------


def with_sizes(case):
    """Each item with the sizes of the axes that it lies on."""
    sizes, pairs = case.inner, []
    missing = max(0, len(sizes) - sum([item.width for item in case.items]))
    for item in case.items:
        width = missing if item.part is ... else item.width
        pairs.append((item, sizes[:width]))
        sizes = sizes[width:]
    return pairs


def is_outside(item, sizes):
    """Whether an item names a position that does not exist."""
    if isinstance(item.part, slice) or item.is_mask or not item.width or not sizes:
        return False
    (size,) = sizes
    if item.kind == "block":
        return not 0 <= int(item.part) + size * (item.part < 0) <= size - item.size
    return any([not -size <= number < size for number in np.ravel(item.part).tolist()])


def block_positions(start, count, size, mode):
    """The positions of a block; -1 for those that do not exist."""
    start += size * (start < 0)
    if mode == "clip":
        start = max(0, min(start, size - count))
    found = start + np.arange(count)
    if size and mode in ("clip", "wrap"):
        found = np.clip(found, 0, size - 1) if mode == "clip" else found % size
    return np.where((found >= 0) & (found < size), found, -1)


def selected(case):
    """Flat position of every selected element, -1 for what is dropped; None where NumPy raises."""
    try:
        if case.coordinates == "at":
            return selected_in_row(case, 0)
        places = np.stack([selected_in_row(case, row) for row in range(max(1, case.shape[0]))])
        first = math.prod(case.inner) * np.arange(len(places))
        first = first.reshape(-1, *[1] * (places.ndim - 1))
        return np.where(places < 0, -1, places + first)[: case.shape[0]]
    except IndexError:
        return None


def selected_in_row(case, row):
    """As `selected`, of one sample. What slices and blocks name is taken beforehand."""
    whole = np.arange(math.prod(case.inner)).reshape(case.inner)
    index, axis = [], 0
    for (part, _, kind, count), sizes in with_sizes(case):
        if kind == "each":
            part = part[row % len(part)] if len(part) else np.zeros(part.shape[1:], int)
        elif sizes and (isinstance(part, slice) or kind == "block"):
            (size,) = sizes
            block = kind == "block" and block_positions(int(part), count, size, case.mode)
            taken = block if kind == "block" else range(size)[part]
            padding = [(0, int(a == axis)) for a in range(whole.ndim)]
            whole = np.pad(whole, padding, constant_values=-1).take(taken, axis)
            part = slice(None)
        index.append(part)
        axis += len(sizes)
    places = oracle.positions_in_bounds(whole.shape, tuple(index), case.mode)
    return np.append(whole.ravel(), -1)[places]


# --- What kedit refuses ------------------------------------------------------------------------


def mask_beside_arrays(case):
    """How a mask that is a tensor, whose True cannot be counted, stands to the arrays beside it.

    It is "refused" if they do not say how many are True, "undefined" if they say it wrongly.
    """
    masks = [item.part for item in case.items if item.is_mask and item.traced]
    rest = [item for item in case.items if not (item.is_mask and item.traced)]
    others = [item for item in rest if item.is_mask or np.ndim(item.part)]
    can_look = case.op == "get" or case.mode == "raise"
    if can_look or not masks or len([*masks, *others]) == 1:
        return "fine"
    shapes = [(i.part.sum(),) if i.is_mask else i.part.shape[i.kind == "each" :] for i in others]
    try:
        count = [1, *np.broadcast_shapes(*shapes)][-1]
    except ValueError:
        return "refused"
    if len(masks) > 1 or count == 1:
        return "refused"
    return "fine" if count == masks[0].sum() else "undefined"


def refusals(case):
    """The errors of which kedit has to raise one; none where it has to give what NumPy gives.

    Beyond NumPy it refuses positions that are known beforehand and do not exist, though nothing
    would be read there, and masks that are tensors beside certain arrays.
    """
    places = selected(case)
    outside = [
        is_outside(item, sizes)
        for item, sizes in with_sizes(case)
        if case.mode == "raise" or (case.mode is None and not item.traced and item.kind != "block")
    ]
    each = [item.part for item in case.items if item.kind == "each"]
    fit = places is not None and fits(case.values_shape, places.shape)
    found = {
        PositionError: places is None or any(outside),
        ShapeError: not fit or not all([fits(part.shape[:1], case.shape[:1]) for part in each]),
        OperandError: mask_beside_arrays(case) == "refused",
    }
    return tuple([error for error, is_due in found.items() if is_due])


def fits(shape, wanted):
    """Whether a shape broadcasts to another, with no axis to spare."""
    pairs = zip(reversed(shape), reversed(wanted), strict=False)
    return len(shape) <= len(wanted) and all([size in (1, other) for size, other in pairs])


# --- The properties ----------------------------------------------------------------------------


def check(case, convert):
    array, values, given_values = data(case)
    x = convert(array.copy())
    errors = refusals(case)
    if errors:
        with pytest.raises(errors):
            case.edit(case.tensors(), given_values)(x)
        return
    found = to_numpy(case.edit(case.tensors(), given_values)(x))
    if case.op == "get":
        expected = oracle.get(array, selected(case), FILLS[case.dtype])
    else:
        expected = oracle.update(case.op, array, selected(case), values)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(to_numpy(x), array)


@search(200)
@given(cases("none"))
def test_arrays_as_indices(case):
    check(case, np.asarray)
    check(case, ops.convert_to_tensor)


@pytest.mark.tensors
@search(200)
@given(cases("some"))
def test_tensors_as_indices(case):
    assume(mask_beside_arrays(case) != "undefined")
    check(case, ops.convert_to_tensor)


@pytest.mark.tensors
@search(30, share=1 / 100)
@given(cases("all", modes=MODES[:-1]))
def test_compiled_is_eager(case):
    assume(not refusals(case) and mask_beside_arrays(case) == "fine")
    assume(case.op != "get" or not any([item.is_mask for item in case.items]))  # has no shape
    assume(case.values_as != "array")
    x, _, values = data(case)
    passed = [values] if case.values_as == "tensor" else []
    arguments = [ops.convert_to_tensor(x), *passed, *case.tensors()]

    def edit(x, *rest):
        [value] = rest[: len(passed)] or [values]
        return case.edit(rest[len(passed) :], value)(x)

    np.testing.assert_array_equal(to_numpy(compiled(edit)(*arguments)), to_numpy(edit(*arguments)))


@pytest.mark.gradient
@search(150, share=1 / 10)
@given(cases("some", dtypes=["float32"]))
def test_gradients(case):
    assume(not refusals(case) and mask_beside_arrays(case) == "fine")
    rng = np.random.default_rng(case.seed)
    x, values = [
        rng.choice([0.5, 1.0, 1.5, 2.0], shape).astype("float32")
        for shape in (case.shape, case.values_shape)
    ]
    places = selected(case)
    upstream = rng.uniform(0.5, 2.0, places.shape if case.op == "get" else x.shape)
    upstream = upstream.astype("float32")
    if case.op == "get":
        expected = oracle.get_vjp(x, places, upstream), np.zeros(values.shape)
    else:
        expected = oracle.update_vjp(case.op, x, places, values, upstream)
    _, found = vjp(lambda x, v: case.edit(case.tensors(), v)(x), [x, values], upstream)
    for gradient, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=2e-4, atol=2e-5)
