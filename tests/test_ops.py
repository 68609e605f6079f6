"""Every function of the ledger of `keras.ops` against NumPy, on every backend, in every way to run.

A case is one call, made with the ledger and with `NumPy` below, which says what is right. All cases
of a function are one compiled function. What differs and is known stands in `DIFFERENT`; a test
fails when it no longer does.
"""

import ast
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import ml_dtypes
import numpy as np
import pytest
from _backend import BACKEND, FLOATS, INTEGERS, compilers, to_numpy, traced_shapes, vectorizers, vjp
from keras import ops as keras_ops
from kit import dtype_of

import kedit
from kedit._language.expression import _ARITY as EXPRESSIONS
from kedit._run import ops as ledger

THOROUGH = "KEDIT_EXAMPLES" in os.environ
"""Whether to broadcast every rank, in both orders, for floats and integers, which takes minutes."""

KEDIT = Path(kedit.__file__).parent
LEDGER = KEDIT / "_run" / "ops.py"
EAGER = {"eager": lambda function: function}
WAYS = EAGER | {name: wrap for name, wrap in compilers().items() if wrap(abs) is not abs}
"""Every way to run a function, by name."""


def is_kept(dtype):
    return dtype_of(keras_ops.convert_to_tensor(np.zeros(1, dtype))) == dtype


# kedit computes with TensorFlow itself in uint64, which `keras.ops` makes narrower.
INTEGERS = [dtype for dtype in INTEGERS if is_kept(dtype) and dtype != "uint64"]
REAL = [*INTEGERS, *FLOATS]
NUMBERS = [*REAL, "complex64"]
ALL = ["bool", *NUMBERS]


# --- What is right -----------------------------------------------------------------------------


class NumPy:
    """The functions of the ledger as NumPy has them, in the dtype of what they are given."""

    def __getattr__(self, name):
        return getattr(np, name)

    def argmax(self, x):
        return np.argmax(x).astype("int32")

    def argsort(self, x):
        return np.argsort(x, axis=-1, kind="stable").astype("int32")

    def cast(self, x, dtype):
        return np.asarray(x).astype(dtype)

    def clip(self, x, low, high):
        return np.clip(x, low, high).astype(x.dtype)

    def convert_to_numpy(self, x):
        return np.asarray(x)

    def convert_to_tensor(self, x, dtype=None):
        return np.asarray(x, dtype)

    def cumsum(self, x, axis=None):
        return np.cumsum(x, axis, dtype=x.dtype)

    def is_tensor(self, x):
        return isinstance(x, np.ndarray)

    def extreme(self, op, x1, x2):
        return (np.maximum if op == "max" else np.minimum)(x1, x2)

    def finite(self, x):
        return np.where(np.isinf(x), np.array(1, x.dtype), x)

    def isfinite(self, x):
        return np.isfinite(x)

    def matmul(self, x1, x2):
        return np.matmul(x1.astype("float64"), x2.astype("float64")).astype(x1.dtype)

    def mean(self, x, axis=None, keepdims=False):
        return np.mean(x.astype("float64"), axis, keepdims=keepdims).astype(x.dtype)

    def power(self, x1, x2):
        """As of two arrays: with a number for an exponent NumPy takes the root for 0.5."""
        return np.power(*np.broadcast_arrays(x1, x2))

    def qr(self, x):
        return np.linalg.qr(x)

    def relu(self, x):
        return np.maximum(x, np.zeros((), x.dtype))

    def scatter_add(self, x, places, values):
        x = x.copy()
        np.add.at(x, places, values)
        return x

    def scatter_update(self, x, places, values):
        x = x.copy()
        x[tuple(np.moveaxis(places, -1, 0))] = values
        return x

    def searchsorted(self, x, values):
        return np.searchsorted(x, values).astype("int32")

    def segment_max(self, x, segments, count):
        """The greatest of each segment; of none the least there is, which kedit does not read."""
        found = np.full((count, *x.shape[1:]), least(x.dtype.name))
        np.maximum.at(found, segments, x)
        return found.astype(x.dtype)

    def segment_sum(self, x, segments, count):
        found = np.zeros((count, *x.shape[1:]), x.dtype)
        np.add.at(found, segments, x)
        return found

    def shape(self, x):
        return np.asarray(np.shape(x), "int32")

    def sigmoid(self, x):
        return (1 / (1 + np.exp(-x.astype("float64")))).astype(x.dtype)

    def softplus(self, x):
        return np.logaddexp(0, x.astype("float64")).astype(x.dtype)

    def sort(self, x):
        return np.sort(x)

    def stop_gradient(self, x):
        return x

    def sum(self, x, axis=None):
        return np.sum(x, axis, dtype=x.dtype)

    def take_along_axis(self, x, places):
        return x[np.arange(len(x)), places]

    def where(self, condition, x1, x2):
        """A number is of the dtype of the other one."""
        dtype = [x.dtype for x in (x1, x2) if hasattr(x, "dtype")][:1]
        return np.where(condition, *[np.asarray(x, *dtype) for x in (x1, x2)])


def kind_of(dtype):
    return "f" if dtype == "bfloat16" else np.dtype(dtype).kind


def least(dtype):
    return -np.inf if kind_of(dtype) == "f" else np.iinfo(dtype).min


REFERENCE = NumPy()
LEDGERED = ledger.AS_THEY_ARE | ledger.BY_OPERATORS | ledger.REPLACED | ledger.OWN
"""Every function that kedit may call."""


def epsilon(dtype):
    return float(ml_dtypes.finfo("float32" if kind_of(dtype) == "c" else dtype).eps)


def fault(found, expected, steps, *, any_zero=False):
    """What is wrong, or None; floats may be `steps` roundings off, and not at all if it is 0."""
    found = to_numpy(found)
    expected = np.asarray(expected)
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return f"{found.dtype}{found.shape} for {expected.dtype}{expected.shape}"
    if kind_of(expected.dtype.name) in "biu":
        wrong = found != expected
    elif kind_of(expected.dtype.name) == "c":
        for part in ("real", "imag"):
            pair = [getattr(x, part) for x in (found, expected)]
            wrong = fault(*pair, steps, any_zero=any_zero)
            if wrong:
                return wrong
        return None
    else:
        close = 4 * steps * epsilon(expected.dtype.name)
        with np.errstate(all="ignore"):
            off = (
                abs(found - expected) > close * (1 + abs(expected)) if steps else found != expected
            )
        infinite = np.isinf(found) | np.isinf(expected)
        wrong = np.where(infinite, found != expected, off)
        wrong &= ~(np.isnan(found) & np.isnan(expected))
        wrong |= np.isnan(found) != np.isnan(expected)
        zero = (found == 0) & (expected == 0) & (not any_zero)
        wrong |= zero & (np.signbit(found) != np.signbit(expected))
    if not wrong.any():
        return None
    place = tuple(np.argwhere(wrong)[0])
    return f"{int(wrong.sum())} of {wrong.size}: {found[place]} for {expected[place]} at {place}"


# --- Cases -------------------------------------------------------------------------------------


class Case(NamedTuple):
    """One call, with a library and arrays; its label is what `DIFFERENT` knows it by."""

    label: str
    call: Callable[..., Any]
    arrays: tuple[Any, ...] = ()
    steps: int = 0
    eager: bool = True  # JAX compiles each shape of an eager call, so that few are run so


def special(dtype):
    """Numbers that are the ends of a dtype, its zeros, its infinities, and some plain ones."""
    kind = kind_of(dtype)
    if kind == "b":
        return np.array([False, True])
    if kind in "iu":
        info = np.iinfo(dtype)
        numbers = {info.min, info.min + 1, info.max - 1, info.max, 0, 1, 2, 3, 100}
        return np.array(sorted(numbers | ({-1, -3, -100} if kind == "i" else set())), dtype)
    if kind == "c":
        parts = [0.0, -0.0, 1.0, -2.5]
        return np.array([complex(a, b) for a in parts for b in parts], dtype)
    info = ml_dtypes.finfo(dtype)
    numbers = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 100.0]
    small = 128 * float(info.tiny)  # of which what the others make is no subnormal number
    return np.array([*numbers, float(info.max), float(info.min), small, -small], dtype)


def pairs(dtype):
    """Every pair of special numbers, as two arrays."""
    numbers = special(dtype)
    return np.repeat(numbers, len(numbers)), np.tile(numbers, len(numbers))


def plain(dtype, shape, seed=0):
    """Small numbers of a dtype, none of them zero."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    numbers = rng.integers(1, 6, shape)
    if kind_of(dtype) in "if":
        numbers = numbers * rng.choice([-1, 1], shape)
    if kind_of(dtype) == "c":
        numbers = numbers + 1j * rng.integers(-5, 6, shape)
    return np.asarray(numbers).astype(dtype)


def others(rank, size):
    """Shapes that broadcast to one whose axes all have one size."""
    full = (size,) * rank
    shapes = [full, ()]
    for axis in range(rank):
        shapes.append((*[1] * axis, size, *[1] * (rank - axis - 1)))
        shapes.append((*full[:axis], 1, *full[axis + 1 :]))
    shapes += [full[axis:] for axis in range(rank)]
    return list(dict.fromkeys(shapes))


def broadcasts(ranks=(0, 1, 2, 3, 5)):
    """Every two shapes to broadcast, of which one is full; of high ranks in one order."""
    for rank in range(6) if THOROUGH else ranks:
        size = 2 if rank == 5 else 3
        for number, other in enumerate(others(rank, size)):
            pair = [(size,) * rank, other]
            orders = [pair, pair[::-1]] if other != pair[0] else [pair]
            yield from orders if rank < 4 or THOROUGH else [orders[number % len(orders)]]


SOME = (0, 1, 2, 5)
"""Ranks of which functions are broadcast that are many and alike."""


def binary(name, dtypes, *, steps=0, values=pairs, ranks=(0, 1, 2, 3, 5)):
    """Cases of a function of two operands: special values, all shapes, and what holds nothing."""

    def call(ops, x1, x2):
        return getattr(ops, name)(x1, x2)

    made = [Case(f"{dtype} special", call, values(dtype), steps) for dtype in dtypes]
    empty = [((0,), ()), ((3, 0), (1,)), ((3, 0), (3, 1)), ((0, 3), (1, 3))]
    for dtype in [dtype for dtype in ("float32", "int32") if dtype in dtypes]:
        main = dtype == "float32" or "float32" not in dtypes or THOROUGH
        for one, two in [*broadcasts(ranks), *empty] if main else broadcasts([2]):
            arrays = (plain(dtype, one), abs(plain(dtype, two, 1)))
            eager = THOROUGH or (main and max(len(one), len(two)) in (0, 2, 5))
            made.append(Case(f"{dtype} {one} {two}", call, arrays, steps, eager))
    return made


def of_logic(name):
    call = lambda ops, x1, x2: getattr(ops, name)(x1, x2)  # noqa: E731
    made = [Case("special", call, pairs("bool"))]
    for one, two in broadcasts(SOME):
        made.append(Case(f"{one} {two}", call, (plain("bool", one), plain("bool", two, 1))))
    return made


def exponents(dtype):
    """Bases and exponents: every pair of floats, and what integers can be raised to."""
    if kind_of(dtype) == "f":
        return pairs(dtype)
    bases = special(dtype)
    if kind_of(dtype) == "c":
        bases = bases[abs(bases) > 0]
    few = np.array([0, 1, 2, 3], dtype)
    return np.repeat(bases, len(few)), np.tile(few, len(bases))


def not_nan(dtype):
    one, two = pairs(dtype)
    kept = ~(np.isnan(one) | np.isnan(two))
    return one[kept], two[kept]


def divisors(dtype):
    numerators, by = pairs(dtype)
    return numerators[by != 0], by[by != 0]


def quotients(dtype):
    return pairs(dtype) if kind_of(dtype) == "f" else divisors(dtype)


def of_where():
    def call(ops, condition, x1, x2):
        return ops.where(condition, x1, x2)

    made = []
    for dtype in ALL:
        x1, x2 = pairs(dtype)
        made.append(Case(f"{dtype} special", call, (np.arange(len(x1)) % 3 > 0, x1, x2)))
    for dtype in ("float32", "int32"):
        main = dtype == "float32" or THOROUGH
        for number, (one, two) in enumerate(broadcasts() if main else broadcasts([2])):
            x1, x2 = plain(dtype, one), plain(dtype, two, 1)
            condition = plain("bool", (one, two)[number % 2], 2)
            eager = THOROUGH or (main and max(len(one), len(two)) in (0, 2, 5))
            made.append(Case(f"{dtype} {one} {two}", call, (condition, x1, x2), eager=eager))
    return made


def unary(name, dtypes, *, steps=0, values=special, call=None):
    """Cases of a function of one operand: special values, a number, and nothing."""
    call = call or (lambda ops, x: getattr(ops, name)(x))
    made = [Case(f"{dtype} special", call, (values(dtype),), steps) for dtype in dtypes]
    made += [Case(f"{dtype} ()", call, (plain(dtype, ()),), steps) for dtype in dtypes]
    nothing = [
        Case(f"{dtype} (3, 0)", call, (plain(dtype, (3, 0)),), steps) for dtype in dtypes[-1:]
    ]
    return made + nothing


SHAPES = [(), (0,), (3,), (3, 3), (3, 0), (3, 1, 3), (2, 2, 2, 2)]


def moving(call, dtypes=ALL, shapes=SHAPES, label=""):
    """Cases of a function that only moves elements, of shapes, dtypes, and every special number."""
    made = []
    for dtype in dtypes:
        numbers = special(dtype)
        for shape in shapes if dtype in ("float32", "int32") else [(3, 3)]:
            array = np.resize(numbers, shape) if 0 not in shape else np.zeros(shape, dtype)
            made.append(Case(f"{label}{dtype} {shape}", call, (array.astype(dtype),)))
    return made


def along(name, dtypes=ALL, *, steps=0, shapes=((3,), (3, 3), (2, 3, 3)), **options):
    """Cases of a function of an axis: each one, and the same counted from the end."""
    made = []
    for dtype in dtypes:
        for shape in shapes if dtype == "float32" else [(3, 3)]:
            for axis in range(-len(shape), len(shape)):
                call = functools.partial(call_along, name=name, axis=axis, options=options)
                arrays = (plain(dtype, shape),)
                made.append(Case(f"{dtype} {shape} axis {axis}", call, arrays, steps))
    return made


def call_along(ops, x, *, name, axis, options):
    return getattr(ops, name)(x, axis=axis, **options)


def positive(dtype):
    numbers = special(dtype)
    return numbers[~(numbers < 0)]


def ordered(dtype):
    """Numbers with some that are equal, in no order."""
    return np.array([3, 1, 2, 1, 3, 0, 2, 2, 1] * 30, dtype)


def of_take():
    def call(ops, x, places, axis):
        return ops.take(x, places, axis=axis)

    made = []
    for dtype in ALL:
        array = np.resize(special(dtype), (3, 3))
        for axis in (0, 1):
            places = np.array([2, 0, 2, 1], "int32")
            on_axis = functools.partial(call, axis=axis)
            made.append(Case(f"{dtype} axis {axis}", on_axis, (array, places)))
    cube = plain("float32", (2, 3, 4))
    for axis in (0, 1, 2):
        for places in (np.array(1), np.array([], int), np.array([[1, 0], [0, 0]])):
            on_axis = functools.partial(call, axis=axis)
            made.append(
                Case(f"{places.shape} axis {axis}", on_axis, (cube, places.astype("int32")))
            )
    nothing = (plain("float32", (0, 3)), np.zeros(0, "int32"))
    return [*made, Case("of nothing", functools.partial(call, axis=0), nothing)]


def of_take_along_axis():
    def call(ops, x, places):
        return ops.take_along_axis(x, places)

    places = np.array([2, 0, 2], "int32")
    arrays = {dtype: np.resize(special(dtype), (3, 3)) for dtype in ALL}
    arrays |= {str(shape): plain(F, shape) for shape in [(3, 3, 3), (3, 4, 1, 2)]}
    made = [Case(name, call, (array, places)) for name, array in arrays.items()]
    return [*made, Case("no rows", call, (plain(F, (0, 3)), places[:0]))]


def of_scatter(name, dtypes):
    """Writing, or adding, at places on the first axis; where they add, some occur twice."""
    adds = name == "scatter_add"

    def call(ops, x, places, values):
        return getattr(ops, name)(x, places, values)

    made = []
    for dtype in dtypes:
        for shape in [(4,), (4, 4), (4, 2, 3)] if dtype == "float32" else [(4, 4)]:
            places = np.array([2, 0, 2] if adds else [2, 0], "int32")
            values = plain(dtype, (len(places), *shape[1:]), 1)
            places = places if adds else places[:, None]
            made.append(Case(f"{dtype} {shape}", call, (plain(dtype, shape), places, values)))
    nothing = np.zeros(0 if adds else (0, 1), "int32")
    arrays = (plain("float32", (4, 3)), nothing, plain("float32", (0, 3)))
    made.append(Case("nothing", call, arrays))
    if adds:
        made += [Case("beside special", call, (special(F), places[:1] * 0, np.ones(1, F)))]
    else:
        two = np.array([[2, 0], [0, 1]], "int32")
        made.append(Case("of two axes", call, (plain("float32", (3, 3)), two, np.ones(2, "f"))))
        special_ones = special("float32")
        places = np.arange(len(special_ones), dtype="int32")[:, None]
        arrays = (np.ones(len(places), "float32"), places, special_ones)
        made.append(Case("special", call, arrays))
    return made


def of_segments(name, dtypes):
    def call(ops, x, segments):
        return getattr(ops, name)(x, segments, 3)

    segments = np.array([0, 2, 2, 0, 1], "int32")
    made = []
    for dtype in dtypes:
        for shape in [(5,), (5, 5), (5, 2, 2)] if dtype == "float32" else [(5, 5)]:
            made.append(Case(f"{dtype} {shape}", call, (plain(dtype, shape), segments)))
    return made


def casts():
    """From every dtype to every other, of numbers that both have."""
    made = []
    for given in ALL:
        for to in ALL:
            kinds = kind_of(given), kind_of(to)
            if kinds[0] == "c" and to != given:
                continue
            numbers = np.array([0, 1] if "b" in kinds else [0, 1, 2, 100], given)
            if to == "bool" or kinds == ("f", "f") or not set(kinds) - set("iu"):
                numbers = special(given)  # integers wrap
            call = functools.partial(lambda ops, x, to: ops.cast(x, to), to=to)
            made.append(Case(f"{given} {to}", call, (numbers,)))
    return made


def fixed(**calls):
    """Cases that are given nothing, or arrays behind the call, and how many roundings off."""
    made = []
    for label, given in calls.items():
        call, *arrays = given if isinstance(given, tuple) else (given,)
        steps = arrays.pop() if arrays and isinstance(arrays[-1], int) else 0
        made.append(Case(label, call, tuple(arrays), steps))
    return made


def orthonormal(ops, x):
    q, _ = ops.qr(x)
    return ops.matmul(ops.transpose(q), q)


def numbers_of(dtype):
    """Python numbers that are easily rounded, or too large for another dtype.

    Not -0.0, for which TensorFlow gives a 0.0 that it has kept; kedit makes it in another way.
    """
    if kind_of(dtype) in "iu":
        return [int(np.iinfo(dtype).max), int(np.iinfo(dtype).min), 3]
    return [0.1, float(ml_dtypes.finfo(dtype).max), float("nan")]


def numbered(call, dtypes=REAL):
    """Cases of a function that is given a Python number and a dtype."""
    return [
        Case(f"number {dtype} {number}", functools.partial(call, number=number, dtype=dtype))
        for dtype in dtypes
        for number in numbers_of(dtype)
    ]


def beside(name, numbers, dtypes, call=None):
    """Cases of a tensor beside a Python number, or beside an array that the call holds."""

    def by_name(ops, x, other):
        if ops is REFERENCE:  # NumPy 2.0 makes bfloat16 wider beside an int
            other = np.asarray(other, x.dtype)
        return getattr(ops, name)(x, other)

    call = call or by_name
    made = []
    for dtype in dtypes:
        x = special(dtype)
        for number in numbers if numbers is not None else numbers_of(dtype):
            made.append(
                Case(f"number {dtype} {number}", functools.partial(call, other=number), (x,))
            )
    return made


def beside_arrays(name, dtypes, call=None):
    call = call or (lambda ops, x, other: getattr(ops, name)(x, other))
    return [
        Case(f"array {dtype}", functools.partial(call, other=plain(dtype, (3, 1), 1)), (x,))
        for dtype in dtypes
        for x in [plain(dtype, (3, 3))]
    ]


def where_nan(ops, x, other):
    """`where` beside a number or an array: of the tensor what is NaN, or none if `x` has none."""
    return ops.where(ops.not_equal(x, x), x, other)


def creating(call, dtypes=ALL):
    return [
        Case(f"{dtype} {shape}", functools.partial(call, shape=shape, dtype=dtype))
        for dtype in dtypes
        for shape in [(), (0, 3), (2, 3)]
    ]


I = "int32"  # noqa: E741
F = "float32"
ROW = plain(F, (3,))
SQUARE = plain(F, (3, 3))
CUBE = plain(F, (2, 3, 3))
MASK = plain("bool", (3, 3))

CASES = {
    "abs": unary("abs", REAL),
    "add": binary("add", NUMBERS) + beside("add", [2], NUMBERS) + beside_arrays("add", NUMBERS),
    "any": along("any", ["bool"]),
    "arange": fixed(
        stop=lambda ops: ops.arange(5, dtype=I),
        none=lambda ops: ops.arange(0, dtype=I),
        start=lambda ops: ops.arange(1, 5, dtype=I),
        floats=lambda ops: ops.arange(5, dtype=F),
    ),
    "argmax": [
        Case(f"{shape}", lambda ops, x: ops.argmax(x), (np.resize([0, 1, 1], shape).astype(I),))
        for shape in [(1,), (3,), (9,)]
    ],
    "argsort": unary("argsort", [I], values=ordered)[:1]
    + fixed(rows=(lambda ops, x: ops.argsort(x), np.random.default_rng(0).random((3, 50), F))),
    "array": fixed(
        number=lambda ops: ops.array(3, dtype=I),
        numbers=lambda ops: ops.array([1, -2], dtype=I),
        bools=(lambda ops, x: ops.array(x, dtype=I), MASK),
        same=(lambda ops, x: ops.array(x, dtype=I), plain(I, (3, 3))),
    ),
    "broadcast_to": [
        Case(
            f"{dtype} {shape}",
            lambda ops, x: ops.broadcast_to(x, (3, 3, 3)),
            (plain(dtype, shape),),
        )
        for dtype in ALL
        for shape in (others(3, 3) if dtype == F else [(3, 1)])
    ],
    "cast": casts(),
    "clip": [
        *unary("clip", REAL, call=lambda ops, x: ops.clip(x, 1, 100)),
        *fixed(
            floats=(lambda ops, x: ops.clip(x, -0.5, 0.5), special(F)),
            tensors=(lambda ops, *xs: ops.clip(*xs), SQUARE, -abs(ROW), abs(ROW)),
        ),
    ],
    "concatenate": [
        case
        for axis in (0, 1, -1)
        for case in moving(
            functools.partial(
                lambda ops, x, axis: ops.concatenate(
                    [x, x[:0], x[:, :]][:: 2 if axis else 1], axis=axis
                ),
                axis=axis,
            ),
            shapes=[(3, 3), (3, 0), (3, 1, 3)],
            label=f"axis {axis} ",
        )
    ],
    "convert_to_numpy": [],  # see `test_convert_to_numpy`
    "convert_to_tensor": moving(lambda ops, x: ops.convert_to_tensor(x))
    + numbered(lambda ops, number, dtype: ops.convert_to_tensor(number, dtype=dtype)),
    "copy": moving(lambda ops, x: ops.copy(x)),
    "cumsum": along("cumsum", [I, F]),
    "divide": binary("divide", [*FLOATS, "complex64"], steps=1, values=quotients),
    "equal": binary("equal", ALL, ranks=SOME) + beside("equal", [0], REAL),
    "expand_dims": along("expand_dims"),
    "flip": along("flip"),
    "full": creating(lambda ops, shape, dtype: ops.full(shape, 1, dtype=dtype))
    + numbered(lambda ops, number, dtype: ops.full((2,), number, dtype=dtype)),
    "full_like": unary("full_like", ALL, call=lambda ops, x: ops.full_like(x, 1)),
    "greater": binary("greater", REAL, ranks=SOME) + beside("greater", [0], REAL),
    "greater_equal": binary("greater_equal", REAL, ranks=SOME),
    "imag": unary("imag", ["complex64"]),
    "is_tensor": [],  # see `test_is_tensor`
    "isfinite": unary("isfinite", ALL),
    "isinf": unary("isinf", ALL),
    "isnan": unary("isnan", ALL),
    "less": binary("less", REAL, ranks=SOME),
    "less_equal": binary("less_equal", REAL, ranks=SOME),
    "log": unary("log", FLOATS, steps=1),
    "exp": unary("exp", FLOATS, steps=4),
    "sort": fixed(
        equal=(lambda ops, x: ops.sort(x), np.array([5, 0, 5, -3, 2**31 - 1], I)),
        nothing=(lambda ops, x: ops.sort(x), np.zeros(0, I)),
        one=(lambda ops, x: ops.sort(x), np.zeros(1, I)),
    ),
    "split": [
        Case(
            f"{part} of {dtype} along {axis}",
            functools.partial(
                lambda ops, x, part, axis: ops.split(x, [2, 4], axis=axis)[part],
                part=part,
                axis=axis,
            ),
            (plain(dtype, (5, 5)),),
        )
        for axis in (0, 1)
        for dtype in (ALL if axis == 0 else [F])
        for part in range(3)
    ]
    + fixed(nothing=(lambda ops, x: ops.split(x, [1, 2], axis=0)[2], plain(F, (2, 3)))),
    "sqrt": unary("sqrt", FLOATS, steps=1),
    "tanh": unary("tanh", FLOATS, steps=2),
    "round": unary("round", FLOATS),
    "floor": unary("floor", FLOATS),
    "ceil": unary("ceil", FLOATS),
    "logical_and": of_logic("logical_and"),
    "logical_not": unary("logical_not", ["bool"]),
    "logical_or": of_logic("logical_or"),
    "matmul": [
        Case(f"{dtype} {one} {two}", lambda ops, *xs: ops.matmul(*xs), arrays, 2)
        for dtype in FLOATS
        for one, two in [((3, 3), (3, 3)), ((2, 3, 3), (3, 3)), ((0, 3), (3, 3)), ((3, 1), (1, 3))]
        for arrays in [(plain(dtype, one), plain(dtype, two, 1))]
    ],
    "max": unary("max", REAL)[: 2 * len(REAL)],
    "extreme": [
        Case(
            f"{dtype} {op}",
            functools.partial(lambda ops, x1, x2, op: ops.extreme(op, x1, x2), op=op),
            not_nan(dtype),
        )
        for dtype in REAL
        for op in ("min", "max")
    ],
    "finite": unary("finite", FLOATS, call=lambda ops, x: ops.isinf(ops.finite(x)))
    + unary("", FLOATS, call=lambda ops, x: ops.where(ops.isinf(x), 0, ops.finite(x))),
    "maximum": binary("maximum", REAL)
    + beside("maximum", [0, 1], ["int32", *FLOATS])
    + beside("maximum", [-1.0, 1e-30], ["float32"]),
    "mean": along("mean", FLOATS, steps=2) + along("mean", [F], steps=2, keepdims=True),
    "minimum": binary("minimum", REAL) + beside("minimum", [0], ["int32"]),
    "floor_divide": binary("floor_divide", REAL)
    + fixed(
        halves=(
            lambda ops, *xs: ops.floor_divide(*xs),
            np.array([10000.0, -7.0, 1000.0], "float16"),
            np.array([3.0, 0.001, 0.1], "float16"),
        )
    ),
    "mod": binary("mod", REAL)
    + beside("mod", [3], ["int32"])
    + fixed(
        multiples=(
            lambda ops, x: 1 / ops.mod(x, ops.convert_to_tensor(3.0, F)),
            np.array([3.0, -6.0, 0.0, -0.0], F),
        ),
        negative=(
            lambda ops, x: 1 / ops.mod(x, ops.convert_to_tensor(-3.0, F)),
            np.array([3.0, -6.0, 0.0, -0.0], F),
        ),
    ),
    "multiply": binary("multiply", NUMBERS),
    "negative": unary("negative", NUMBERS),
    "not_equal": binary("not_equal", ALL, ranks=SOME) + beside("not_equal", [0], NUMBERS),
    "ones": creating(lambda ops, shape, dtype: ops.ones(shape, dtype=dtype)),
    "ones_like": unary("ones_like", ALL),
    "power": binary("power", NUMBERS, steps=2, values=exponents),
    "qr": fixed(
        product=(lambda ops, x: ops.matmul(*ops.qr(x)), SQUARE, 8),
        tall=(lambda ops, x: ops.matmul(*ops.qr(x)), plain(F, (4, 2)), 8),
        orthonormal=(orthonormal, SQUARE, 8),
    ),
    "real": unary("real", ["complex64", F]),
    "relu": unary("relu", FLOATS),
    "reshape": moving(lambda ops, x: ops.reshape(x, (-1, 1)), shapes=SHAPES[2:4])
    + moving(lambda ops, x: ops.reshape(x, (0, 5)), [F], [(3, 0)], "to ")
    + moving(lambda ops, x: ops.reshape(x, ()), [F], [(1, 1)], "to "),
    "scatter_add": of_scatter("scatter_add", NUMBERS),
    "scatter_update": of_scatter("scatter_update", ALL),
    "searchsorted": fixed(
        counted=(
            lambda ops, *xs: ops.cast(ops.searchsorted(*xs), I),
            np.array([0, 1, 1, 2, 2, 3], I),
            np.arange(1, 6, dtype=I),
        ),
        nothing=(
            lambda ops, *xs: ops.cast(ops.searchsorted(*xs), I),
            np.zeros(0, I),
            np.arange(3, dtype=I),
        ),
    ),
    "segment_max": of_segments("segment_max", REAL),
    "segment_sum": of_segments("segment_sum", NUMBERS),
    "shape": [
        Case(
            f"{shape}",
            lambda ops, x: ops.convert_to_tensor(ops.shape(x), "int32"),
            (np.ones(shape, F),),
        )
        for shape in SHAPES
    ],
    "sigmoid": unary("sigmoid", FLOATS, steps=1),
    "sign": unary("sign", FLOATS),
    "softplus": unary("softplus", FLOATS, steps=1),
    "squeeze": fixed(
        last=(lambda ops, x: ops.squeeze(x, -1), CUBE[..., None]),
        middle=(lambda ops, x: ops.squeeze(x, 1), CUBE[:, None]),
    ),
    "stack": fixed(
        **{
            f"axis {axis} {dtype}": (
                functools.partial(lambda ops, x, y, axis: ops.stack([x, y], axis=axis), axis=axis),
                plain(dtype, (3, 3)),
                plain(dtype, (3, 3), 1),
            )
            for axis in (0, 1, -1)
            for dtype in (ALL if axis == 1 else [F])
        }
    ),
    "stop_gradient": unary("stop_gradient", ALL),
    "subtract": binary("subtract", NUMBERS) + beside_arrays("subtract", NUMBERS),
    "sum": along("sum", [I, *FLOATS], steps=1) + unary("sum", [I, F])[2:],
    "take": of_take(),
    "take_along_axis": of_take_along_axis(),
    "transpose": moving(lambda ops, x: ops.transpose(x), shapes=[(3, 3), (3, 0)])
    + moving(lambda ops, x: ops.transpose(x, (2, 0, 1)), [F, I], [(3, 1, 3), (2, 3, 0)], "moved "),
    "where": of_where()
    + beside("where", None, REAL, where_nan)
    + beside_arrays("where", ALL, where_nan)
    + fixed(numbers=(lambda ops, x: ops.cast(ops.where(x, 0, -1), I), MASK)),
    "zeros": creating(lambda ops, shape, dtype: ops.zeros(shape, dtype=dtype)),
    "zeros_like": unary("zeros_like", ALL),
}

ANY_ZERO = (
    "extreme",
    "maximum",
    "minimum",
    "max",
    "relu",
    "sign",
    "segment_max",
    "matmul",
    "qr",
    "sum",
    "mean",
)
"""Functions of which the sign of a zero is not defined; kedit does not ask for it."""

ARRAY = "refused: torch's compiler takes arrays for tensors; kedit gives it lists"
FAST = "inf for NaN: the XLA of TensorFlow takes the fast way; kedit compares and chooses"
DIFFERENT = {
    ("numpy", "argsort", "", ""): "not stable: kedit sorts arrays of NumPy itself",
    ("numpy", "segment_max", "int", ""): "float64: kedit casts it",
    ("numpy", "segment_max", "bfloat16", ""): "float32: kedit casts it",
    ("torch", "add", "complex64 special", ""): "0.0 for -0.0: torch multiplies by 1 + 0j",
    ("torch", "subtract", "complex64 special", ""): "0.0 for -0.0: torch multiplies by 1 + 0j",
    ("torch", "negative", "complex64 special", ""): "0.0 for -0.0: torch multiplies by -1 + 0j",
    ("torch", "mod", "float32 special", ""): "NaN for 0.0, if the quotient overflows",
    ("torch", "mod", "float64 special", ""): "NaN for 0.0, if the quotient overflows",
    ("torch", "mod", "bfloat16 special", ""): "NaN for 0.0, if the quotient overflows",
    ("torch", "segment_sum", "complex64", ""): "wrong: kedit adds with torch itself",
    ("torch", "power", "complex64 special", ""): "0.0 for -0.0: computed by logarithms",
    ("jax", "power", "complex64 special", ""): "0.0 for -0.0: computed by logarithms",
    ("torch", "max", "", "compiled"): "refused: Keras asks for `.values`, which torch cannot trace",
    ("torch", "add", "array", "compiled"): ARRAY,
    ("torch", "subtract", "array", "compiled"): ARRAY,
    ("torch", "where", "array", "compiled"): ARRAY,
    ("tensorflow", "power", "complex64 special", ""): "0.0 for -0.0: computed by logarithms",
    ("tensorflow", "divide", "complex64 special", "eager"): "0.0 for -0.0",
    ("tensorflow", "divide", "complex64 special", "graph"): "0.0 for -0.0",
    ("tensorflow", "divide", "complex64 special", "unknown sizes"): "0.0 for -0.0",
    ("tensorflow", "max", "special", "xla"): FAST,
    ("tensorflow", "convert_to_numpy", "bfloat16 ()", "eager"): "fails: kedit casts it first",
    ("tensorflow", "negative", "uint", ""): "refused: kedit subtracts from 0",
    ("tensorflow", "split", "", "unknown sizes"): "fails: kedit knows the size of the axis",
    ("tensorflow", "squeeze", "", "unknown sizes"): "refused: kedit knows the axis",
}
"""Why what differs is left so, by backend, function, part of the label, and way if it is one."""


def different(name, case, way):
    """Whether a case is known to differ."""
    return any(
        (BACKEND, name) == (backend, function) and what in case.label and how in ("", way)
        for backend, function, what, how in DIFFERENT
    )


def results(cases, wrap):
    """What the ledger gives for cases, all as one function."""
    arrays = [array for case in cases for array in case.arrays]

    def calls(*tensors):
        given = iter(tensors)
        return [case.call(ledger, *[next(given) for _ in case.arrays]) for case in cases]

    return wrap(calls)(*[keras_ops.convert_to_tensor(array) for array in arrays])


def faults(name, cases, wrap):
    """What is wrong with the results, by the label of the case."""
    found = {}
    with np.errstate(all="ignore"):
        for case, value in zip(cases, results(cases, wrap), strict=True):
            expected = case.call(REFERENCE, *case.arrays)
            wrong = fault(value, expected, case.steps, any_zero=name in ANY_ZERO)
            if wrong:
                found[case.label] = wrong
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [name for name, cases in CASES.items() if cases])
def test_values(name, way):
    cases = [case for case in CASES[name] if case.eager or way != "eager"]
    cases = [case for case in cases if not different(name, case, way)]
    found = faults(name, cases, WAYS[way])
    assert not found, "\n".join([f"{label}: {wrong}" for label, wrong in found.items()])


@pytest.mark.parametrize("way", WAYS)
def test_scatter_add_before_keras_could_add(way, monkeypatch):
    monkeypatch.setattr(ledger, "_CAN_ADD", False)
    assert faults("scatter_add", CASES["scatter_add"], WAYS[way]) == {}


def differs(name, case, way):
    try:
        return bool(faults(name, [case], WAYS[way]))
    except Exception:
        return True


@pytest.mark.parametrize(
    ("name", "what", "way"),
    [
        (name, what, way)
        for backend, name, what, how in DIFFERENT
        for way in WAYS
        if backend == BACKEND and how in ("", way) and CASES[name]
    ],
)
def test_what_is_said_to_differ_differs(name, what, way):
    assert any(differs(name, case, way) for case in CASES[name] if what in case.label)


COMPARISONS = ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", COMPARISONS)
def test_shapes_that_do_not_broadcast_are_refused(name, way):
    numbers = [keras_ops.convert_to_tensor(np.ones(size, "int32")) for size in (2, 3)]
    with pytest.raises(Exception, match=r"(?i)shape|size|dimension|broadcast"):
        WAYS[way](getattr(ledger, name))(*numbers)


def test_graphs_keep_the_rank_of_what_they_compare():
    arrays = [np.ones(shape, "int32") for shape in ((2, 3), (3, 3), (3, 2), (3,), (2,), ())]
    pairs = [(left, right) for left in arrays for right in arrays]
    for name in COMPARISONS:
        for pair in pairs:
            for found in traced_shapes(lambda *x, name=name: [getattr(ledger, name)(*x)], *pair):
                assert found.rank == max(np.ndim(x) for x in pair), (name, pair)


# --- The ledger ---------------------------------------------------------------------------------


def files():
    return {path: ast.parse(path.read_text("utf-8")) for path in sorted(KEDIT.rglob("*.py"))}


def nodes(tree, kind):
    return [node for node in ast.walk(tree) if isinstance(node, kind)]


def used_names():
    """What kedit asks the ledger for, by name: as attributes, and as the names of operations."""
    names = set(EXPRESSIONS) - {"X", "position", "each", "apply", "choose"}
    for tree in files().values():
        for node in nodes(tree, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id in ("ops", "_ops", "library"):
                names.add(node.attr)
    return {name.removeprefix("keras_") for name in names} - {
        "using",
        "is_used_otherwise",
        "may_split",
    }


def test_every_function_is_tested():
    assert set(CASES) == LEDGERED
    kinds = (ledger.AS_THEY_ARE, ledger.BY_OPERATORS, ledger.REPLACED, ledger.OWN)
    assert len(LEDGERED) == sum([len(names) for names in kinds])


def test_every_function_that_is_called_is_in_the_ledger_and_none_besides():
    assert used_names() == LEDGERED


def test_what_is_not_in_the_ledger_cannot_be_called():
    with pytest.raises(AttributeError, match="not in the ledger"):
        ledger.tensordot  # noqa: B018
    with pytest.raises(AttributeError, match="not in the ledger"):
        ledger.keras_abs  # noqa: B018
    for name in ledger.REPLACED:
        assert getattr(ledger, f"keras_{name}") is getattr(keras_ops, name)


def test_only_the_ledger_imports_keras_ops():
    for path, tree in files().items():
        imports = {
            f"{node.module}.{alias.name}"
            for node in nodes(tree, ast.ImportFrom)
            for alias in node.names
        } | {alias.name for node in nodes(tree, ast.Import) for alias in node.names}
        attributes = {ast.unparse(node) for node in nodes(tree, ast.Attribute)}
        found = [name for name in imports | attributes if f"{name}.".startswith("keras.ops.")]
        assert bool(found) == (path == LEDGER), path


# --- What cannot be compiled --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ALL)
def test_convert_to_numpy(dtype):
    for array in (special(dtype), plain(dtype, (3, 3)), plain(dtype, (0, 3)), plain(dtype, ())):
        if different("convert_to_numpy", Case(f"{dtype} {array.shape}", abs), "eager"):
            continue
        found = ledger.convert_to_numpy(keras_ops.convert_to_tensor(array))
        assert fault(found, array, 0) is None
        assert isinstance(found, np.ndarray)


def test_is_tensor():
    assert ledger.is_tensor(ledger.ones((3,)))
    for other in (3, 1.0, [1.0], None):  # a Variable is one on some backends: kedit asks for it
        assert not ledger.is_tensor(other)


@pytest.mark.tensors
def test_an_array_is_no_tensor():
    assert not ledger.is_tensor(SQUARE)


@pytest.mark.parametrize("name", ["add", "subtract", "where"])
def test_variables(name):
    for dtype in FLOATS:
        variable, x = keras.Variable(plain(dtype, (3, 1)), dtype=dtype), plain(dtype, (3, 3), 1)
        first = [keras_ops.convert_to_tensor(MASK)] * (name == "where")
        tensor = keras_ops.convert_to_tensor(x)
        expected = getattr(REFERENCE, name)(*[MASK] * len(first), x, plain(dtype, (3, 1)))
        assert fault(getattr(ledger, name)(*first, tensor, variable), expected, 0) is None
        expected = getattr(REFERENCE, name)(*[MASK] * len(first), plain(dtype, (3, 1)), x)
        assert fault(getattr(ledger, name)(*first, variable, tensor), expected, 0) is None


# --- Subnormal numbers --------------------------------------------------------------------------


def bits(array):
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), "uint8").tolist()


MOVING = {
    "broadcast_to": lambda ops, x: ops.broadcast_to(x, (2, 2)),
    "concatenate": lambda ops, x: ops.concatenate([x, x]),
    "convert_to_tensor": lambda ops, x: ops.convert_to_tensor(x),
    "copy": lambda ops, x: ops.copy(x),
    "expand_dims": lambda ops, x: ops.expand_dims(x, 0),
    "flip": lambda ops, x: ops.flip(x, axis=0),
    "reshape": lambda ops, x: ops.reshape(x, (2, 1)),
    "scatter_update": lambda ops, x: ops.scatter_update(
        ops.zeros_like(x), ops.convert_to_tensor([[0], [1]], I), x
    ),
    "squeeze": lambda ops, x: ops.squeeze(ops.expand_dims(x, 0), 0),
    "stack": lambda ops, x: ops.stack([x, x]),
    "stop_gradient": lambda ops, x: ops.stop_gradient(x),
    "take": lambda ops, x: ops.take(x, ops.convert_to_tensor([1, 0, 1], I), axis=0),
    "take_along_axis": lambda ops, x: ops.take_along_axis(
        ops.stack([x, x], axis=1), ops.convert_to_tensor([1, 0], I)
    ),
    "transpose": lambda ops, x: ops.transpose(ops.reshape(x, (2, 1)), (1, 0)),
    "where": lambda ops, x: ops.where(ops.equal(x, x), x, ops.zeros_like(x)),
}
FLUSHING = ("jax", "tensorflow")
"""The backends that take subnormal numbers for 0 when they compute, though not of float16."""

FLUSHED = {
    *("add", "cast", "cumsum", "divide", "greater", "maximum", "multiply"),
    *("not_equal", "power", "relu", "sign", "subtract", "sum"),
}
COMPUTING = {
    "abs": lambda ops, x, one, zero: ops.abs(x),
    "add": lambda ops, x, one, zero: ops.add(x, zero),
    "cast": lambda ops, x, one, zero: ops.cast(ops.cast(x, "float32") * 2.0**30, "float32"),
    "cumsum": lambda ops, x, one, zero: ops.cumsum(x, axis=0),
    "divide": lambda ops, x, one, zero: ops.divide(x, one),
    "greater": lambda ops, x, one, zero: ops.greater(x, zero),
    "maximum": lambda ops, x, one, zero: ops.maximum(x, zero),
    "multiply": lambda ops, x, one, zero: ops.multiply(x, one),
    "negative": lambda ops, x, one, zero: ops.negative(x),
    "not_equal": lambda ops, x, one, zero: ops.not_equal(x, zero),
    "power": lambda ops, x, one, zero: ops.power(x, one),
    "relu": lambda ops, x, one, zero: ops.relu(x),
    "sign": lambda ops, x, one, zero: ops.sign(x),
    "subtract": lambda ops, x, one, zero: ops.subtract(x, zero),
    "sum": lambda ops, x, one, zero: ops.sum(x),
}


def subnormal(dtype):
    tiny = float(ml_dtypes.finfo(dtype).tiny)
    return np.array([tiny / 4, -tiny / 8], dtype)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_moved_keeps_its_bits(way):
    for dtype in FLOATS:
        x = subnormal(dtype)
        moved = WAYS[way](lambda x: [call(ledger, x) for call in MOVING.values()])
        for (name, call), found in zip(
            MOVING.items(), moved(keras_ops.convert_to_tensor(x)), strict=True
        ):
            assert bits(to_numpy(found)) == bits(call(REFERENCE, x)), name


def flushing(dtype, way):
    """The functions that take subnormal numbers for 0."""
    x = subnormal(dtype)
    given = [x, np.ones_like(x), np.zeros_like(x)]
    computed = WAYS[way](lambda *given: [call(ledger, *given) for call in COMPUTING.values()])
    found = computed(*[keras_ops.convert_to_tensor(array) for array in given])
    return [
        name
        for (name, call), value in zip(COMPUTING.items(), found, strict=True)
        if fault(value, call(REFERENCE, *given), 0)
    ]


@pytest.mark.parametrize("way", WAYS)
def test_subnormal_numbers(way):
    flushed = FLUSHED if BACKEND in FLUSHING else set()
    for dtype in FLOATS:
        narrowed = {"cumsum"} if BACKEND == "torch" else flushed - {"cast"}
        expected = {"float16": set(), "float64": narrowed}.get(dtype, flushed)
        assert set(flushing(dtype, way)) == expected, dtype


# --- Gradients ----------------------------------------------------------------------------------


def summed_to(gradient, shape):
    """A gradient of what was broadcast, as one of what it was broadcast from."""
    gradient = gradient.sum(tuple(range(gradient.ndim - len(shape))))
    spread = tuple([n for n, size in enumerate(shape) if size == 1 and gradient.shape[n] != 1])
    return gradient.sum(spread, keepdims=True)


def pulled(calls, compile):
    """The gradients of calls, each with arrays, all as one function; and what was pulled back."""
    arrays = [array for _, arrays in calls for array in arrays]
    shapes = [np.shape(call(REFERENCE, *arrays)) for call, arrays in calls]
    sizes = [int(np.prod(shape)) for shape in shapes]
    upstream = (np.arange(sum(sizes)) % 7 + 1).astype(F)

    def joined(*tensors):
        given = iter(tensors)
        values = [call(ledger, *[next(given) for _ in arrays]) for call, arrays in calls]
        return keras_ops.concatenate([keras_ops.reshape(value, (-1,)) for value in values])

    _, gradients = vjp(joined, arrays, upstream, compile=compile)
    given, parts = iter(gradients), np.split(upstream, np.cumsum(sizes)[:-1])
    return [
        ([next(given) for _ in arrays], part.reshape(shape))
        for (_, arrays), part, shape in zip(calls, parts, shapes, strict=True)
    ]


SLOPES = {
    "add": lambda a, b: (1, 1),
    "subtract": lambda a, b: (1, -1),
    "multiply": lambda a, b: (b, a),
    "divide": lambda a, b: (1 / b, -a / b**2),
    "power": lambda a, b: (b * a ** (b - 1), a**b * np.log(a)),
    "mod": lambda a, b: (np.ones_like(a), -np.floor(a / b)),
    "floor_divide": lambda a, b: (np.ones_like(a), np.ones_like(b)),
    "maximum": lambda a, b: (a > b, b > a),
    "minimum": lambda a, b: (a < b, b < a),
    "extreme": lambda a, b: (a > b, b > a),
    "where": lambda a, b: (BY_SIZE[a.shape] > 0, BY_SIZE[a.shape] < 0),
}
"""Of functions of two operands, how fast the result grows with each."""

BY_SIZE = {shape: plain(F, shape, 5) for pair in broadcasts() for shape in pair}
LISTS = {shape: array.tolist() for shape, array in BY_SIZE.items()}


def of_two(name):
    def call(ops, a, b):
        if name == "floor_divide":  # which has no gradient: beside one that has
            return ops.add(ops.floor_divide(a, b), ops.add(a, b))
        if name == "extreme":
            return ops.extreme("max", a, b)
        if name != "where":
            return getattr(ops, name)(a, b)
        shape = np.broadcast_shapes(tuple(a.shape), tuple(b.shape))
        return ops.where(ops.greater(ops.convert_to_tensor(LISTS[shape]), 0), a, b)

    return call


def apart(shape, seed):
    """Positive numbers of which none of another seed is the same."""
    return (abs(plain(F, shape, seed)) + seed / 4).astype(F)


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", SLOPES)
def test_gradients_of_two(name, compile):
    calls = [
        (of_two(name), (apart(one, 0), apart(two, 1)))
        for one, two in broadcasts((0, 1, 2, 3) if name == "add" else (0, 2))
    ]
    for (_, arrays), (gradients, upstream) in zip(calls, pulled(calls, compile), strict=True):
        slopes = SLOPES[name](*np.broadcast_arrays(*arrays))
        for array, slope, gradient in zip(arrays, slopes, gradients, strict=True):
            expected = summed_to(upstream * slope, array.shape)
            np.testing.assert_allclose(gradient, expected, rtol=1e-5, err_msg=f"{arrays}")
            assert gradient.shape == array.shape


X = np.array([-2.0, -0.5, 0.75, 3.0], F)
UNARY = {
    "abs": (lambda ops, x: ops.abs(x), np.sign),
    "cast": (lambda ops, x: ops.cast(ops.cast(x, "float16"), F), np.ones_like),
    "clip": (lambda ops, x: ops.clip(x, -1, 1), lambda x: abs(x) < 1),
    "log": (lambda ops, x: ops.log(ops.abs(x)), lambda x: 1 / x),
    "exp": (lambda ops, x: ops.exp(x), np.exp),
    "finite": (lambda ops, x: ops.finite(x), np.ones_like),
    "sqrt": (lambda ops, x: ops.sqrt(ops.abs(x)), lambda x: np.sign(x) / 2 / np.sqrt(abs(x))),
    "tanh": (lambda ops, x: ops.tanh(x), lambda x: 1 - np.tanh(x) ** 2),
    "round": (lambda ops, x: ops.round(x), np.zeros_like),
    "floor": (lambda ops, x: ops.floor(x), np.zeros_like),
    "ceil": (lambda ops, x: ops.ceil(x), np.zeros_like),
    "max": (lambda ops, x: ops.max(x), lambda x: x == x.max()),
    "relu": (lambda ops, x: ops.relu(x), lambda x: x > 0),
    "sigmoid": (lambda ops, x: ops.sigmoid(x), lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2),
    "sign": (lambda ops, x: ops.sign(x), np.zeros_like),
    "softplus": (lambda ops, x: ops.softplus(x), lambda x: 1 / (1 + np.exp(-x))),
    "stop_gradient": (lambda ops, x: ops.stop_gradient(x), np.zeros_like),
    "segment_max": (
        lambda ops, x: ops.segment_max(x, ops.convert_to_tensor([0, 1, 0, 1], I), 2),
        lambda x: x > 0,
    ),
    "ones_like": (lambda ops, x: ops.ones_like(x), np.zeros_like),
    "zeros_like": (lambda ops, x: ops.zeros_like(x), np.zeros_like),
    "full_like": (lambda ops, x: ops.full_like(x, 2), np.zeros_like),
}
"""Functions of one tensor, and how fast the result grows."""


def traced(names, compile):
    """Those that every backend can compile: see `DIFFERENT` for `max`."""
    return [name for name in names if name != "max" or not compile]


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True])
def test_gradients_of_one(compile):
    names = traced(UNARY, compile)
    reached = pulled([(UNARY[name][0], (X,)) for name in names], compile)
    for name, ([gradient], upstream) in zip(names, reached, strict=True):
        slope = UNARY[name][1]
        spread = upstream[[0, 1, 0, 1]] if name == "segment_max" else upstream
        np.testing.assert_allclose(gradient, spread * slope(X), rtol=2e-5, err_msg=name)


LINEAR = {
    "broadcast_to": (lambda ops, x: ops.broadcast_to(x, (3, 3, 3)), plain(F, (3, 1))),
    "concatenate": (lambda ops, x, y: ops.concatenate([x, y, x], axis=1), SQUARE, SQUARE + 1),
    "convert_to_tensor": (lambda ops, x: ops.convert_to_tensor(x), SQUARE),
    "copy": (lambda ops, x: ops.copy(x), SQUARE),
    "cumsum": (lambda ops, x: ops.cumsum(x, axis=0), SQUARE),
    "expand_dims": (lambda ops, x: ops.expand_dims(x, 1), SQUARE),
    "flip": (lambda ops, x: ops.flip(x, axis=1), SQUARE),
    "mean": (lambda ops, x: ops.mean(x, axis=0, keepdims=True), SQUARE),
    "mean all": (lambda ops, x: ops.mean(x), SQUARE),
    "negative": (lambda ops, x: ops.negative(x), SQUARE),
    "reshape": (lambda ops, x: ops.reshape(x, (1, 9)), SQUARE),
    "scatter_add": (
        lambda ops, x, v: ops.scatter_add(x, ops.convert_to_tensor([2, 0, 2], I), v),
        SQUARE,
        SQUARE + 1,
    ),
    "scatter_update": (
        lambda ops, x, v: ops.scatter_update(x, ops.convert_to_tensor([[2], [0]], I), v),
        SQUARE,
        SQUARE[:2],
    ),
    "segment_sum": (
        lambda ops, x: ops.segment_sum(x, ops.convert_to_tensor([2, 0, 2], I), 3),
        SQUARE,
    ),
    "split": (
        lambda ops, x: ops.concatenate(ops.split(x, [1, 2], axis=1)[::2], axis=0),
        SQUARE,
    ),
    "squeeze": (lambda ops, x: ops.squeeze(x, -1), SQUARE[..., None]),
    "stack": (lambda ops, x, y: ops.stack([x, y], axis=1), SQUARE, SQUARE + 1),
    "sum": (lambda ops, x: ops.sum(x, axis=0), SQUARE),
    "sum all": (lambda ops, x: ops.sum(x), SQUARE),
    "take": (lambda ops, x: ops.take(x, ops.convert_to_tensor([2, 0, 2], I), axis=1), SQUARE),
    "take_along_axis": (
        lambda ops, x: ops.take_along_axis(x, ops.convert_to_tensor([2, 0], I)),
        CUBE,
    ),
    "transpose": (lambda ops, x: ops.transpose(x, (2, 0, 1)), CUBE),
}
"""Linear functions and what they are given; how they grow, NumPy says of unit vectors."""


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True])
def test_gradients_of_linear_functions(compile):
    calls = [(call, tuple(arrays)) for call, *arrays in LINEAR.values()]
    reached = pulled(calls, compile)
    for name, (call, arrays), (gradients, upstream) in zip(LINEAR, calls, reached, strict=True):
        for place, gradient in enumerate(gradients):
            expected = np.zeros(arrays[place].size)
            for number in range(len(expected)):
                given = [np.zeros_like(array) for array in arrays]
                given[place].flat[number] = 1
                expected[number] = (call(REFERENCE, *given) * upstream).sum()
            np.testing.assert_allclose(gradient.ravel(), expected, rtol=1e-5, err_msg=name)
            assert gradient.shape == arrays[place].shape


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True])
def test_gradients_of_scatter_add_before_keras_could_add(compile, monkeypatch):
    monkeypatch.setattr(ledger, "_CAN_ADD", False)
    call, *arrays = LINEAR["scatter_add"]
    [([of_x, of_values], upstream)] = pulled([(call, arrays)], compile)
    np.testing.assert_array_equal(of_x, upstream)
    np.testing.assert_array_equal(of_values, upstream[[2, 0, 2]])


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True])
def test_gradients_of_matmul(compile):
    [(found, upstream)] = pulled([(lambda ops, *xs: ops.matmul(*xs), (CUBE, SQUARE))], compile)
    np.testing.assert_allclose(found[0], upstream @ SQUARE.T, rtol=1e-5)
    np.testing.assert_allclose(found[1], np.einsum("bij,bik->jk", CUBE, upstream), rtol=1e-5)


TIES = {
    "abs": lambda ops, x: ops.abs(x),
    "clip": lambda ops, x: ops.clip(x, 0, 9),
    "max": lambda ops, x: ops.max(x),
    "relu": lambda ops, x: ops.relu(x),
    "maximum": lambda ops, x: ops.maximum(x, ops.stop_gradient(x)),
    "maximum, second": lambda ops, x: ops.maximum(ops.stop_gradient(x), x),
    "minimum": lambda ops, x: ops.minimum(x, ops.stop_gradient(x)),
    "minimum, second": lambda ops, x: ops.minimum(ops.stop_gradient(x), x),
}
SHARES = {
    "jax": [1, 0.5, 0.5, 0, 0, 1, 0, 1],
    "tensorflow": [0, 1, 0.5, 0, 0, 1, 0, 1],
    "torch": [0, 1, 0.5, 0, 0, 1, 0, 1],
}
"""The gradient at ties, and at 0, on which backends do not agree, so that kedit states its own."""


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True])
def test_gradients_at_ties(compile):
    names = traced(TIES, compile)
    reached = pulled([(TIES[name], (np.zeros(2, F),)) for name in names], compile)
    shares = dict(zip(TIES, SHARES[BACKEND], strict=True))
    for name, ([gradient], upstream) in zip(names, reached, strict=True):
        assert (gradient / upstream).tolist() == [shares[name]] * 2, name


# --- Whether Keras is right by now --------------------------------------------------------------


def raw(name, *arrays, way="eager"):
    function = getattr(keras_ops, name)
    return WAYS[way](function)(*[keras_ops.convert_to_tensor(x) for x in arrays])


def column():
    x, y = np.zeros((3, 3), F), np.array([[1.0], [2.0], [3.0]], F)
    return not np.array_equal(to_numpy(raw("add", x, y)), x + y)


def narrowed(name, *others):
    """Whether float64 is computed in fewer bits, where the backend has it."""
    x = np.full((2, 2), 0.1)
    found = to_numpy(raw(name, x, *others))
    return is_kept("float64") and not np.allclose(found, 0.1 * (found != 0), rtol=1e-12, atol=0)


def halved(name):
    """Whether the result is of fewer bits than float64, where the backend has it."""
    return is_kept("float64") and to_numpy(raw(name, np.zeros(2))).dtype != "float64"


def numbers():
    """Whether a number is rounded, or refused, beside a tensor."""
    mask = keras_ops.convert_to_tensor(np.array([True, False]))
    for dtype, number in (("uint32", 2**32 - 1), (FLOATS[-1], 0.1)):
        x = np.zeros(2, dtype)
        try:
            found = to_numpy(keras_ops.where(mask, number, keras_ops.convert_to_tensor(x)))
        except OverflowError:
            return True
        if found.dtype != dtype or found[0] != np.asarray(number, dtype):
            return True
    return False


def roots():
    """Whether the power of -inf is a root in any way to run it; NumPy's own is one, too."""
    for wrap in WAYS.values():
        root = wrap(lambda x: keras_ops.power(x, keras_ops.convert_to_tensor(0.5, F)))
        if not np.array_equal(to_numpy(root(keras_ops.convert_to_tensor([-np.inf]))), [np.inf]):
            return True
    return False


def unknown(name):
    """Whether it fails of integers whose number is not known, or of complex numbers."""
    for x in (np.ones(3, I), np.ones(3, "complex64")):
        for way in WAYS:
            try:
                found = to_numpy(raw(name, x, way=way))
            except Exception:
                return True
            if not np.array_equal(found, getattr(np, name)(x)):
                return True
    return False


def from_zero():
    """Whether unsigned integers cannot be taken from zeros that are known."""
    for wrap in WAYS.values():
        less = wrap(lambda x: keras_ops.subtract(keras_ops.zeros((2,), "uint8"), x))
        try:
            found = to_numpy(less(keras_ops.convert_to_tensor(np.array([1, 2], "uint8"))))
        except Exception:
            return True
        if found.tolist() != [255, 254]:
            return True
    return False


def in_segments():
    """Whether the greatest of float64 is rounded, where the backend has it."""
    x = keras_ops.convert_to_tensor(np.array([0.1]))
    found = keras_ops.segment_max(x, keras_ops.convert_to_tensor(np.array([0], I)), 1)
    return is_kept("float64") and to_numpy(found)[0] != 0.1


def clipped():
    """Whether an integer changes its dtype."""
    x = keras_ops.convert_to_tensor(np.array(5, "int8"))
    return dtype_of(keras_ops.clip(x, 1, 3)) != "int8"


def rounded():
    """Whether a quotient is rounded before it becomes whole."""
    return to_numpy(raw("floor_divide", np.array([1.0], F), np.array([0.1], F)))[0] != 9


def of_zero():
    """Whether the rest has the sign of what is divided, if it is 0."""
    return np.signbit(to_numpy(raw("mod", np.array([-2.0], F), np.array([1.0], F)))[0])


def mapped():
    """Whether mapped values cannot be written into a tensor that is not mapped."""
    x, places = keras_ops.zeros(3), keras_ops.convert_to_tensor(np.array([[1]], I))
    write = functools.partial(keras_ops.scatter_update, x, places)
    for map_rows in vectorizers().values():
        try:
            map_rows(write, keras_ops.ones((2, 1)))
        except RuntimeError:
            return True
    return False


ERRS = {
    "add": (column, ["tensorflow"]),
    "ceil": (lambda: halved("ceil"), ["torch"]),
    "clip": (clipped, ["torch"]),
    "floor": (lambda: halved("floor"), ["torch"]),
    "matmul": (lambda: narrowed("matmul", np.eye(2)), ["torch"]),
    "maximum": (lambda: narrowed("maximum", np.zeros((2, 2))), ["torch"]),
    "mean": (lambda: narrowed("mean"), ["torch"]),
    "minimum": (lambda: narrowed("minimum", np.ones((2, 2))), ["torch"]),
    "floor_divide": (rounded, ["tensorflow"]),
    "isfinite": (lambda: unknown("isfinite"), ["tensorflow"]),
    "isinf": (lambda: unknown("isinf"), ["tensorflow"]),
    "isnan": (lambda: unknown("isnan"), ["tensorflow"]),
    "mod": (of_zero, ["jax", "tensorflow", "torch"]),
    "power": (roots, ["numpy", "tensorflow"]),
    "scatter_update": (mapped, ["torch"]),
    "segment_max": (in_segments, ["torch"]),
    "sign": (lambda: not np.isnan(to_numpy(raw("sign", np.full(2, np.nan, F)))).any(), ["torch"]),
    "subtract": (from_zero, ["tensorflow"]),
    "where": (numbers, ["jax", "torch"]),
}
"""What shows that a function of Keras errs, and the backends on which it does."""


@pytest.mark.parametrize("name", ERRS)
def test_keras_still_errs(name):
    """If not, the function of the ledger can go, and its report in `docs/upstream.md`."""
    errs, backends = ERRS[name]
    assert errs() == (BACKEND in backends)


def test_every_replacement_is_justified():
    # Sums by several threads differ from run to run, but not in every run: see the next test.
    are_long = {"broadcast_to", "equal", "expand_dims", "not_equal", "reshape", "split", "take"}
    are_long |= {"take_along_axis"}
    assert ledger.REPLACED == {*ERRS, *are_long} - ledger.BY_OPERATORS


def test_scatter_add_is_reproducible():
    rng = np.random.default_rng(0)
    places = rng.integers(0, 4, 40_000).astype(I)
    given = [np.zeros((4, 8), F), places, rng.normal(size=(40_000, 8)).astype(F)]
    given = [keras_ops.convert_to_tensor(array) for array in given]
    first, *others = [to_numpy(ledger.scatter_add(*given)) for _ in range(4)]
    for other in others:
        np.testing.assert_array_equal(first, other)
