"""Any edit against NumPy, as Hypothesis draws them: the same elements, or the right error.

A search is short and always the same, unless KEDIT_EXAMPLES says how many examples to try; then
KEDIT_SEED, by default 0, says which. Half of the shapes have axes of equal size, without which
broadcasting cannot be seen to go wrong.
"""

import math
import os
import warnings
from typing import Any, NamedTuple

import keras
import ml_dtypes
import numpy as np
import oracle
import pytest
from _backend import BACKEND, EAGER_IS_SLOW, FLOATS, INTEGERS, compilers, to_numpy, vjp
from drawing import (
    MODES,
    Place,
    draw_place,
    mask_beside_arrays,
    one_in,
    refusals,
    selected,
    sub_shape,
)
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis import strategies as st
from keras import ops

from kedit import X, position
from kedit.errors import OperandError

# Few shapes, so that a backend that compiles for each of them has met most of them before.
EQUAL = [(3, 3), (3, 3), (3, 3, 3), (1, 1), (3, 3, 1), (1, 3, 3), (3, 1, 3), (2, 2, 2, 2)]
OTHER = [(), (0,), (1,), (4,), (0, 2), (2, 3), (3, 0), (2, 3, 4), (2, 0, 3), (0, 3, 3), (1, 3)]
ALL = ["bool", *INTEGERS, "uint64", "float64", *FLOATS, *FLOATS, "complex64", "complex128"]
# What one rounding may be off by, for operations of which backends order the steps differently.
EPSILONS = {"float16": 2**-8, "bfloat16": 2**-5, "float64": 1e-12}
ACCUMULATING = ("add", "subtract", "multiply", "divide", "min", "max")
REFUSED = {"b": ("add", "subtract", "multiply", "divide", "power"), "i": ("divide",)}
REFUSED |= {"u": REFUSED["i"], "f": (), "c": ("min", "max")}
ARRAYS = ("array", "view", "read-only")
WAYS = (*ARRAYS, "tensor")
FORMS = {
    "X * v": (lambda v: X * v, lambda x, v: x * v, lambda x, v: (v, x)),
    "X + v": (lambda v: X + v, lambda x, v: x + v, lambda x, v: (1 + 0 * v, 1 + 0 * v)),
    "v - X": (lambda v: v - X, lambda x, v: v - x, lambda x, v: (-1 + 0 * v, 1 + 0 * v)),
    "X % v": (lambda v: X % v, np.mod, lambda x, v: (1 + 0 * v, -np.floor(x / v))),
    "X // v": (lambda v: X // v, np.floor_divide, lambda x, v: (0 * v, 0 * v)),
}
REAL_FORMS = ("X % v", "X // v")
COMPARISONS = {
    "X == c": (lambda c: X == c, lambda x, c: x == c),
    "X != c": (lambda c: ~(X == c) & (X != c), lambda x, c: x != c),
    "X > c": (lambda c: X > c, lambda x, c: x > c),
    "X <= c": (lambda c: X <= c, lambda x, c: x <= c),
    "X < c or nan": (lambda c: (X < c) | X.isnan(), lambda x, c: (x < c) | np.isnan(x)),
    "inf": (lambda c: X.isinf() | (X >= c), lambda x, c: (abs(x) == np.inf) | (x >= c)),
    "|X| > c": (lambda c: abs(X) > c, lambda x, c: abs(x) > c),
}
PLACED = {
    "first axis": (lambda: position(0) >= 1, lambda first, last: first >= 1),
    "every other": (lambda: position(-1) % 2 == 1, lambda first, last: last % 2 == 1),
    "off the diagonal": (lambda: position(0) != position(-1), lambda first, last: first != last),
    "triangle": (
        lambda: (position(0) - position(-1) > -0.5) & (X.isfinite() | X.isinf()),
        lambda first, last: first >= last,
    ),
}
"""Conditions on where an element is along the first and the last axis."""
# What is said where sizes that are not known might forbid an edit.
UNSURE = ("unknown size", "names an element twice", "beside index arrays")
PRECISE = "float64" if "float64" in FLOATS else "float32"
FOR_KIND = {"b": 1, "c": 2, "u": 7, "i": 7, "f": 7}


def search(examples, share=1.0):
    """So many examples, or this share of KEDIT_EXAMPLES."""
    unhurried = {"deadline": None, "suppress_health_check": list(HealthCheck)}
    if "KEDIT_EXAMPLES" not in os.environ:
        examples = math.ceil(examples / (3 if EAGER_IS_SLOW else 1))
        return settings(max_examples=examples, derandomize=True, **unhurried)
    examples = math.ceil(int(os.environ["KEDIT_EXAMPLES"]) * share)
    reproducible = seed(int(os.environ.get("KEDIT_SEED", "0")))
    return lambda test: reproducible(settings(max_examples=examples, **unhurried)(test))


# --- Numbers -----------------------------------------------------------------------------------


def kind_of(dtype):
    return "f" if dtype == "bfloat16" else np.dtype(dtype).kind


def tiny_of(dtype):
    """The least number that every backend keeps: some round smaller ones to 0."""
    if kind_of(dtype) not in "fc":
        return 0
    return float(ml_dtypes.finfo("float32" if kind_of(dtype) == "c" else dtype).tiny)


def numbers(dtype, rng, shape, *, plain=False, subnormal=True):
    """Numbers of a dtype, unless `plain` with those that are special, as an array."""
    kind = kind_of(dtype)
    if kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if kind in "iu":
        info = np.iinfo(dtype)
        among = [0, 1, 2, 3, 5, 100] + [-1, -3, -100] * (kind == "i")
        among += [] if plain else [info.max, info.max - 1, info.min, info.min + 1]
        return np.array(
            [int(n) for n in rng.choice(np.array(among, object), shape).ravel()], dtype
        ).reshape(shape)
    quarters = rng.integers(-8, 9, shape) / 4
    if kind == "c":
        other = rng.integers(-8, 9, shape) / 4
        array = (quarters + 1j * other).astype(dtype)
        special = [complex(-0.0, 0.0), complex(0.0, -0.0), complex(-0.0, -0.0)]
    else:
        array = quarters.astype(dtype)
        tiny = tiny_of(dtype)
        special = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, -0.0]
        special += [tiny / 4, -tiny / 4] * subnormal
    chosen = rng.random(shape) < (0 if plain else 0.4)
    with np.errstate(all="ignore"):
        return np.where(chosen, rng.choice(np.array(special), shape).astype(dtype), array)


def given_as(array, way):
    """An array as an edit is given it."""
    if way == "tensor":
        return ops.convert_to_tensor(array)
    if way == "Variable":
        return keras.Variable(array, dtype=array.dtype.name, trainable=False)
    if way == "number":
        return array.item() if array.dtype.kind != "V" else float(array)
    if way == "view":
        doubled = np.repeat(array[..., None], 2, axis=-1)
        return doubled[..., 1]
    array = np.array(array)
    array.flags.writeable = way != "read-only"
    return array


def bits(array):
    """An array's bits, in which -0.0 is not 0.0, and NaN equals itself."""
    flat = np.frombuffer(array.tobytes(), "uint8")
    return flat.reshape(*array.shape, array.dtype.itemsize)


# --- Drawing -----------------------------------------------------------------------------------


class Operand(NamedTuple):
    """Values or a constant: of a shape, given in some way."""

    shape: tuple[int, ...] = ()
    way: str = "number"
    dtype: str = ""


class Case(NamedTuple):
    place: Place
    dtype: str
    seed: int
    x_as: str
    values: Operand = Operand()
    form: str = ""  # of `FORMS`, or "" for the values as they are
    condition: str = ""  # of `COMPARISONS`, "mask" or ""
    constant: Operand = Operand()
    otherwise: Operand | None = None  # of the elements that do not meet the condition
    casting: str = "same_kind"
    promises: tuple[str, ...] = ()

    @property
    def op(self):
        return self.place.op

    @property
    def operands(self):
        return [self.values, self.constant, self.otherwise or Operand()]

    def edit(self, tensors, values, constant, otherwise):
        place = self.place.on(tensors)
        options = {"mode": self.place.mode, **dict.fromkeys(self.promises, True)}
        if self.condition:
            condition = constant
            if self.condition in PLACED:
                condition = PLACED[self.condition][0]()
            elif self.condition != "mask":
                condition = COMPARISONS[self.condition][0](constant)
            place = place.where(condition)
        if self.op == "get":
            return place.get(**options)
        if self.op == "apply":
            return place.apply(cube, **options)
        if self.casting != "same_kind":
            options["casting"] = self.casting
        operand = FORMS[self.form][0](values) if self.form else values
        if self.otherwise is not None:
            options["otherwise"] = otherwise
        return getattr(place, self.op)(operand, **options)


def cube(x):
    return x & x & x if "bool" in str(x.dtype) else x * x * x


def draw_operand(draw, places, traced, dtype, *, any_length=False):
    """A shape that broadcasts to the selection: one of each kind, or now and then one too many."""
    shape, rank = places.shape, places.ndim
    unfit = (2, *shape) if any_length or not rank else (*shape[:-1], shape[-1] + 2)
    how = draw(st.sampled_from(["full", "one", "one", "one", "none", "any"]))
    if how == "one" and rank:  # one long axis, in any place, with all axes or those behind it alone
        axis = draw(st.integers(0, rank - 1))
        shape = tuple([size if a == axis else 1 for a, size in enumerate(shape)])
        shape = shape[draw(st.sampled_from([0, 0, axis])) :]
    elif how == "any":
        shape = sub_shape(draw, shape, unfit)
    elif how == "none":
        shape = (1,) * draw(st.integers(0, rank))
    ways = {"none": ARRAYS, "some": WAYS, "all": ("tensor",)}[traced]
    ways = [*ways, *["number"] * 2 * (shape == ())]
    return Operand(shape, draw(st.sampled_from(ways)), dtype)


def kept(way):
    """The dtypes of arrays that are not changed by being given in some way."""
    return [dtype for dtype in ALL if dtype_given(way, dtype) == dtype]


def dtype_given(way, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that JAX has none of 64 bits
        try:
            x = value_of(given_as(np.zeros(1, dtype), way))
        except ValueError:  # that torch has none like this
            return None
        return keras.backend.standardize_dtype(x.dtype)


def value_of(x):
    return x.value if isinstance(x, keras.Variable) else x


DTYPES = {way: kept(way) for way in (*ARRAYS, "tensor", "Variable")}


@st.composite
def cases(draw, traced, x_as, dtypes=None, modes=MODES):
    """Edits; of the arrays and numbers in them "none", "some" or "all" are tensors."""
    shape = draw(st.sampled_from(EQUAL if draw(st.booleans()) else OTHER))
    x_as = draw(st.sampled_from(x_as))
    dtype = draw(st.sampled_from(dtypes or DTYPES[x_as]))
    kind = kind_of(dtype)
    updates = [op for op in oracle.UPDATES if op not in REFUSED[kind]]
    op = draw(st.sampled_from(["get", *updates, *updates]))
    place = draw_place(draw, shape, traced, op, modes)
    case = Case(place, dtype, draw(st.integers(0, 10**6)), x_as)
    places = selected(place)
    if op == "get" or places is None:
        return case
    any_length = any([item.is_mask and item.traced for item in place.items])
    if one_in(draw, 2):
        names = ["mask", *list(COMPARISONS)[: FOR_KIND[kind]], *(PLACED if place.inner else [])]
        condition = draw(st.sampled_from(names))
        of = "bool" if condition == "mask" else dtype
        constant = draw_operand(draw, places, traced, of)
        if any_length:  # nobody knows what to broadcast to along the mask
            constant = constant._replace(shape=())
        if condition == "mask" and constant.way == "number":
            constant = constant._replace(way="array")
        if condition in PLACED:
            constant = Operand()
        case = case._replace(condition=condition, constant=constant)
    if op != "apply":
        case = case._replace(
            values=draw_operand(draw, places, traced, dtype, any_length=any_length)
        )
    if op == "power" and kind in "iu":  # integers take exponents that are known beforehand
        known = (
            Operand((), "number", dtype) if traced == "all" else case.values._replace(way="array")
        )
        case = case._replace(values=known)
    # As tensors of graphs know no casting, and complex numbers no order, of these no more is tried.
    if op in ("set", "add", "multiply") and kind in "iufc" and not any_length and one_in(draw, 4):
        forms = [name for name in FORMS if kind != "c" or name not in REAL_FORMS]
        case = case._replace(form=draw(st.sampled_from(forms)))
    elif op in (*ACCUMULATING, "set") and kind in "biu" and traced == "none" and one_in(draw, 4):
        of = draw(st.sampled_from(["int16", "int32", "float32"]))
        case = case._replace(casting="unsafe", values=case.values._replace(dtype=of))
        any_length = True  # no more of it
    if op == "set" and case.condition and not any_length and dtypes is None and one_in(draw, 2):
        case = case._replace(otherwise=draw_operand(draw, places, traced, dtype))
    flat = places.ravel()
    if len(set(flat)) == len(flat) and (flat >= 0).all() and one_in(draw, 2):
        is_sorted = list(flat) == sorted(flat)
        promises = ("unique_indices", *["indices_are_sorted"] * is_sorted)
        case = case._replace(promises=promises)
    return case


# --- What NumPy says ---------------------------------------------------------------------------


def data(case):
    """The tensor, the values, the constant of the condition, and the other values, as arrays."""
    rng = np.random.default_rng(case.seed)
    # Products of infinities and of the ends of ranges are not those that are asked for here.
    ordered = case.op in ("get", "set", "add", "subtract", "min", "max") and not case.form
    plain = case.casting == "unsafe" or kind_of(case.dtype) == "c" or not ordered
    # Where subnormal numbers are rounded to 0, as by XLA and TensorFlow, they equal it; powers of
    # them are far off there, by a vectorized logarithm that does not know them; and the remainder
    # is 0 instead of the divisor, where they differ in sign.
    leaps = case.op == "power" or "%" in case.form or "//" in case.form
    options = {"subnormal": case.condition in ("", "mask") and not leaps}
    x = numbers(case.dtype, rng, case.place.shape, **options)
    usual = numbers(case.dtype, rng, x.shape, plain=True)
    if plain and kind_of(case.dtype) in "fc" and not ordered:
        x = np.where(rng.random(x.shape) < 0.8, usual, x)
    if case.op == "power" and kind_of(case.dtype) == "c":
        x = np.where(usual == 0, np.ones_like(x), usual)
    if case.casting == "unsafe" and x.dtype.itemsize > 2:
        x = usual  # JAX promotes to floats of 32 bits, which hold no greater ones
    values = numbers(case.values.dtype or case.dtype, rng, case.values.shape, plain=plain)
    if case.op == "divide" or (case.op == "power" and kind_of(case.dtype) == "c"):
        values = np.where(values == 0, np.ones_like(values), values)
    if case.op == "power" and kind_of(case.dtype) in "iu":
        values = (np.abs(values.astype("int64")) % 4).astype(values.dtype)
    constant = numbers(case.constant.dtype or case.dtype, rng, case.constant.shape, **options)
    other = numbers(case.dtype, rng, (case.otherwise or Operand()).shape, plain=plain)
    return [np.asarray(array) for array in (x, values, constant, other)]


def expected(case, x, values, constant, other):
    """What the edit gives, and which elements it may have changed."""
    places = selected(case.place)
    if case.op == "get":
        return oracle.get(x, places, fill_of(case.dtype)), None
    picked = np.append(x.ravel(), x.dtype.type(1))[places]
    if case.condition and case.otherwise is None:
        places = np.where(chosen(case, picked, constant), places, -1)
    with np.errstate(all="ignore"):
        if case.form:
            values = FORMS[case.form][1](picked, values)
        if case.otherwise is not None:
            values = np.where(chosen(case, picked, constant), values, other.astype(x.dtype))
        if case.casting == "unsafe":
            result = unsafe(case.op, x, places, values, case.values.way == "number")
        else:
            result = oracle.update(case.op, x, places, values.astype(x.dtype))
    touched = np.zeros(x.size + 1, bool)
    touched[places.ravel()] = True
    return result, touched[:-1].reshape(x.shape)


def chosen(case, picked, constant):
    if case.condition == "mask":
        return np.broadcast_to(constant, picked.shape)
    if case.condition in PLACED:
        found = np.maximum(selected(case.place), 0)
        along = np.unravel_index(found, [max(size, 1) for size in case.place.shape])
        met = PLACED[case.condition][1](along[case.place.coordinates == "sample"], along[-1])
        return met & ~np.isnan(picked) if case.condition == "triangle" else met
    with np.errstate(all="ignore"):
        return COMPARISONS[case.condition][1](picked, constant)


def unsafe(op, x, places, values, is_number):
    """In the dtype that NumPy promotes to, then into the dtype of `x`, up to its ends."""
    weak = values.item() if is_number else values
    if is_number and isinstance(weak, int) and x.dtype != bool:
        info = np.iinfo(x.dtype)
        is_weak = info.min <= weak <= info.max
        wide = x.dtype if is_weak else np.result_type(x.dtype, "int64")
    else:
        wide = np.result_type(x.dtype, "float64" if isinstance(weak, float) else values.dtype)
    wide = values.dtype if op == "set" else wide
    result = oracle.update(op, x.astype(wide), places, values.astype(wide)).ravel()
    y = x.ravel().copy()
    for place in set(places[places >= 0].tolist()):
        y[place] = saturated(result[place].item(), x.dtype)
    return y.reshape(x.shape)


def saturated(number, dtype):
    if dtype.kind == "b":
        return number != 0
    info = np.iinfo(dtype)
    return 0 if math.isnan(number) else int(max(info.min, min(number, info.max)))


def fill_of(dtype):
    if kind_of(dtype) in "fc":
        return np.nan
    if dtype == "bool":
        return True
    return np.iinfo(dtype).min or np.iinfo(dtype).max


# --- The properties ----------------------------------------------------------------------------


def check(case, wrap=lambda function: function, *, sizes=True):
    """An edit gives what NumPy says, and leaves all bits of what is not selected, and of `x`.

    Without `sizes` it may also be refused for what only they would tell.
    """
    array, *given_arrays = data(case)
    x = given_as(array, case.x_as)
    array = to_numpy(value_of(x))
    operands = [
        given_as(made, operand.way)
        for made, operand in zip(given_arrays, case.operands, strict=True)
    ]
    shapes = [operand.shape for operand in case.operands]
    passed = [n for n, operand in enumerate(case.operands) if operand.way == "tensor"]

    def edit(x, *rest):
        used = list(operands)
        for n, tensor in zip(passed, rest, strict=False):
            used[n] = tensor
        return case.edit(rest[len(passed) :], *used)(x)

    arguments = [x, *[operands[n] for n in passed], *case.place.tensors()]
    errors = refusals(case.place, shapes)
    if errors:
        with pytest.raises(errors):
            edit(*arguments)
        return
    try:
        found = to_numpy(wrap(edit)(*arguments))
    except Exception as error:  # torch's compiler raises its own, with the text of the other
        if not sizes and any([reason in str(error) for reason in UNSURE]):
            return
        # One answer for each place cannot be had of a condition that differs along the index.
        if "names an element twice" not in str(error):
            raise
        assert math.prod(case.constant.shape) != 1
        assert case.op not in ACCUMULATING
        return
    result, touched = expected(case, array, *given_arrays)
    assert (found.dtype, found.shape) == (array.dtype, result.shape)
    if touched is not None:
        np.testing.assert_array_equal(bits(found)[~touched], bits(array)[~touched])
    elif case.place.mode == "promise_in_bounds" or not (selected(case.place) < 0).any():
        np.testing.assert_array_equal(bits(found), bits(result))
    check_close(case, found, result)
    np.testing.assert_array_equal(bits(to_numpy(value_of(x))), bits(array))


def check_close(case, found, result):
    """The same numbers: exactly where there is one answer, else to the dtype's precision."""
    if kind_of(case.dtype) in "biu":
        np.testing.assert_array_equal(found, result)
        return
    exact = case.op in ("get", "set", "min", "max") and not case.form
    rtol = 0 if exact else EPSILONS.get(case.dtype, 2e-5)
    wide = "complex128" if kind_of(case.dtype) == "c" else "float64"
    atol = max(4 * tiny_of(case.dtype), 0 if exact else rtol / 4)
    np.testing.assert_allclose(found.astype(wide), result.astype(wide), rtol=rtol, atol=atol)
    if exact and case.op == "set" and kind_of(case.dtype) == "f":
        zero = (found == 0) & (result == 0)
        np.testing.assert_array_equal(np.signbit(found)[zero], np.signbit(result)[zero])


@search(200)
@given(cases("none", ARRAYS))
def test_arrays(case):
    check(case)


@search(200)
@given(cases("none", ["tensor", "tensor", "Variable"]))
def test_tensors(case):
    check(case)


@pytest.mark.tensors
@search(200)
@given(cases("some", ["tensor", "tensor", "Variable"]))
def test_tensors_as_indices(case):
    assume(mask_beside_arrays(case.place) != "undefined")
    check(case)


@pytest.mark.tensors
@search(6, share=1 / 100)
@given(cases("all", ["tensor"], modes=[mode for mode in MODES if mode != "raise"]))
def test_compiled(case):
    if BACKEND == "torch":
        case = readable(case)
    assume(not refusals(case.place, [operand.shape for operand in case.operands]))
    assume(mask_beside_arrays(case.place) == "fine")
    if any([item.is_mask for item in case.place.items]) and case.op == "get":
        return  # whose size a compiler cannot know
    fits = all([item.part.size for item in case.place.items if item.is_mask])
    for name, compiled in compilers(sizes=not fits).items():  # as of an empty mask only they tell
        check(case, compiled, sizes=name in compilers(sizes=True))


def readable(case):
    """The case without what torch's compiler cannot read: `~` and arrays."""
    if case.condition == "mask":
        case = case._replace(constant=case.constant._replace(way="tensor"))
    if case.condition not in ("", "mask"):
        case = case._replace(condition="X == c" if case.condition == "X != c" else case.condition)
    return case


@pytest.mark.gradient
@search(150, share=1 / 10)
@given(cases("some", ["tensor"], dtypes=[PRECISE]))
def test_gradients(case):
    assume(not refusals(case.place, [case.values.shape, case.constant.shape]))
    assume(mask_beside_arrays(case.place) == "fine")
    rng = np.random.default_rng(case.seed)
    x, values, constant = [
        rng.choice([0.5, 1.0, 1.5, 2.0], shape).astype(case.dtype)
        for shape in (case.place.shape, case.values.shape, case.constant.shape)
    ]
    if case.condition == "mask":
        constant = constant > 1
    places = selected(case.place)
    upstream = rng.uniform(0.5, 2.0, places.shape if case.op == "get" else x.shape)
    upstream = upstream.astype(case.dtype)
    operand = given_as(constant, case.constant.way)

    def edit(x, v):
        return case.edit(case.place.tensors(), v, operand, None)(x)

    try:
        _, found = vjp(edit, [x, values], upstream)
    except OperandError as error:
        assert "names an element twice" in str(error)
        return
    for gradient, wanted in zip(found, gradients(case, x, values, constant, upstream), strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=2e-4, atol=2e-5)


def gradients(case, x, values, constant, upstream) -> tuple[Any, Any]:
    """In closed form, with the chain rule where the values are computed from the elements."""
    places = selected(case.place)
    if case.op == "get":
        return oracle.get_vjp(x, places, upstream), np.zeros(values.shape)
    picked = np.append(x.ravel(), x.dtype.type(1))[places]
    if case.condition:
        places = np.where(chosen(case, picked, constant), places, -1)
    if not case.form:
        return oracle.update_vjp(case.op, x, places, values, upstream)
    _, form, slopes = FORMS[case.form]
    dx, each = oracle.each_vjp(case.op, x, places, form(picked, values), upstream)
    by_x, by_values = [each * slope for slope in slopes(picked, values)]
    flat = np.append(dx.ravel(), 0.0)
    np.add.at(flat, places.ravel(), by_x.ravel())
    return flat[:-1].reshape(x.shape), oracle.summed(by_values, values.shape)
