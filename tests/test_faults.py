"""Answers that were wrong once, each with others of its kind."""

import threading

import keras
import numpy as np
import oracle
import pytest
from _backend import BACKEND, FLOATS, INTEGERS, compilers, gradients, tensors, to_numpy, vjp
from keras import ops

from kedit import X, at, block, each, sample
from kedit.errors import PositionError, ShapeError
from kedit.layers import Editing

INF, NAN = np.inf, np.nan


def same(found, wanted):
    """The same numbers of the same dtype, and the same signs of zero."""
    found = to_numpy(found)
    wanted = np.asarray(wanted, found.dtype if isinstance(wanted, list) else None)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(found, wanted)
    if wanted.dtype.kind == "f":
        kept = ~np.isnan(wanted)
        np.testing.assert_array_equal(np.signbit(found)[kept], np.signbit(wanted)[kept])


def check(run, x, pairs):
    """Edits of `x`, run together, give what NumPy's functions give."""
    edits = [edit for edit, _ in pairs]
    found = run(lambda x: [edit(x) for edit in edits])(ops.convert_to_tensor(x))
    with np.errstate(all="ignore"):
        for (edit, wanted), one in zip(pairs, found, strict=True):
            same(one, np.asarray(wanted(x.copy())).astype(x.dtype))
            same(edit(x), np.asarray(wanted(x.copy())).astype(x.dtype))


def affordable(run, is_more):
    """How edits are run together: those that are more, eagerly on torch, which compiles few."""
    return (lambda function: function) if BACKEND == "torch" and is_more else run


# --- Values that are long along one axis, where all axes are of one size ------------------------


def columns(rank):
    """Values with one axis longer than 1, in every place, with axes before it and without."""
    shapes = [(1,) * n + (3,) + (1,) * (rank - n - 1) for n in range(rank)]
    shapes += [shape[n:] for n, shape in enumerate(shapes) if n]
    return [np.arange(1, 4, dtype="float32").reshape(shape) for shape in shapes]


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_one_long_axis(run, rank):
    x = np.arange(3**rank, dtype="float32").reshape((3,) * rank) - 5
    pairs = []
    for v in columns(rank):
        for op in ("add", "subtract", "multiply", "max", "min"):
            ufunc = {"max": "maximum", "min": "minimum"}.get(op, op)
            pairs.append((getattr(at[...], op)(v), lambda x, u=ufunc, v=v: getattr(np, u)(x, v)))
        pairs += [
            (at[...].set(v), lambda x, v=v: np.broadcast_to(v, x.shape)),
            (at[...].set(X + v), lambda x, v=v: x + v),
            (at[...].set(v - X), lambda x, v=v: v - x),
            (at[...].add(v * X), lambda x, v=v: x + v * x),
            (at[...].where(X + v > 2).set(0.0), lambda x, v=v: np.where(x + v > 2, 0, x)),
            (at[...].where(v > X).add(v), lambda x, v=v: np.where(v > x, x + v, x)),
            (at[::-1].add(v), lambda x, v=v: x + np.broadcast_to(v, x.shape)[::-1]),
        ]
    check(affordable(run, rank > 2), x, pairs)


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_one_long_axis_at_duplicates(run, rank):
    x = np.arange(3**rank, dtype="float32").reshape((3,) * rank) - 5
    index = np.array([0, 1, 2, 2, 0])
    pairs = []
    for axis in range(rank):
        where = (slice(None),) * axis + (index,)
        places = oracle.positions_in_bounds(x.shape, where, None)
        for n in range(rank):
            size = places.shape[n]
            v = np.arange(1.0, size + 1, dtype="float32").reshape(-1, *[1] * (rank - n - 1))
            for op in ("add", "subtract", "multiply", "max"):
                edit = getattr(at[where], op)(v)
                pairs.append((edit, lambda x, o=op, p=places, v=v: oracle.update(o, x, p, v)))
    check(affordable(run, rank > 2), x, pairs)


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True])
def test_gradients_of_one_long_axis(compile):
    """Ties of `max` share the gradient; here with a column and a row on a square."""
    x = np.zeros((3, 3), "float32")
    upstream = np.ones((3, 3), "float32")
    for shape in ((3, 1), (1, 3), (3,)):
        v = np.array([0, 0, 5], "float32").reshape(shape)
        _, (dx, dv) = vjp(lambda x, v: at(x)[...].max(v), [x, v], upstream, compile=compile)
        share = np.broadcast_to(np.array([0.5, 0.5, 0], "float32").reshape(shape), (3, 3))
        same(dx, share)
        same(dv, np.array([1.5, 1.5, 3], "float32").reshape(shape))
        _, (dx, dv) = vjp(lambda x, v: at(x)[...].add(v), [x, v], upstream, compile=compile)
        same(dx, upstream)
        same(dv, np.full(shape, 3, "float32"))


@pytest.mark.tensors
def test_one_long_axis_in_layers():
    x = np.arange(9, dtype="float32").reshape(1, 3, 3)
    column = np.array([[1], [2], [3]], "float32")
    for edit in (sample[...].add(column), sample[...].set(X + column)):
        inputs = keras.Input(x.shape[1:])
        same(keras.Model(inputs, Editing(edit)(inputs))(x), x + column)
        same(Editing(edit)(x), x + column)
    zeroed = Editing(sample.where(X + column > 5.0).set(0.0))(x)
    same(zeroed, np.where(x + column > 5, 0, x).astype("float32"))


COLUMNS = np.array([2, 0, 1])
REPEATED = np.array([1, 2, 0, 1, 2])[:, None] * 3 + COLUMNS
"""Where `block(1, 5)` wraps to on the first axis of a square of 3 by 3, beside these columns."""


def test_an_array_in_no_order_beside_a_block_that_repeats(run):
    x = np.array([[0.0, 1, 2], [-3, 4, -5], [6, -7, 8]], "float32")
    v = np.arange(1.0, 16.0, dtype="float32").reshape(5, 3)
    place, wrap = at[block(1, 5), COLUMNS], {"mode": "wrap"}
    chosen = np.where(x.ravel()[REPEATED] > 0, REPEATED, -1)
    pairs = [
        (getattr(place, op)(v, **wrap), lambda x, op=op: oracle.update(op, x, REPEATED, v))
        for op in ("set", "add", "subtract", "multiply", "min", "max", "power")
    ]
    pairs += [
        (
            getattr(place.where(X > 0), op)(v, **wrap),
            lambda x, op=op: oracle.update(op, x, chosen, v),
        )
        for op in ("set", "add", "max")
    ]
    check(run, x / 8, pairs)


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True])
def test_gradients_of_an_array_in_no_order_beside_a_block_that_repeats(compile):
    x = np.array([[0.0, 1, 2], [-3, 4, -5], [6, -7, 8]], "float32")
    v = np.arange(1.0, 16.0, dtype="float32").reshape(5, 3)
    v[3, 1] = v[0, 1]  # a tie
    upstream = np.arange(1.0, 10.0, dtype="float32").reshape(3, 3)
    names = ("set", "add", "multiply", "max")

    def edits(*given):
        place = at[block(1, 5), [2, 0, 1]]
        both = zip(names, given[:4], given[4:], strict=True)
        return ops.stack([getattr(place, op)(v, mode="wrap")(x) for op, x, v in both])

    _, found = vjp(edits, [x] * 4 + [v] * 4, np.stack([upstream] * 4), compile=compile)
    for n, op in enumerate(names):
        wanted = oracle.update_vjp(op, x, REPEATED, v, upstream)
        for gradient, expected in zip((found[n], found[4 + n]), wanted, strict=True):
            np.testing.assert_allclose(gradient, expected, rtol=1e-4, err_msg=op)


# --- Numbers that a default dtype does not hold ------------------------------------------------


def test_numbers_keep_their_digits(run):
    wide = [dtype for dtype in ("float64",) if dtype in FLOATS]
    for dtype in ["float32", *wide]:
        numbers = [0.1, 1 / 3, 1e-30, 16777217, 2**63, -(2**63), 2**64 - 1]
        numbers += [1e300, -1e-300] if dtype == "float64" else []
        pairs = []
        for index in (0, slice(1, None), ..., [0, 2], slice(None, None, -2)):
            for number in numbers:
                as_float = np.asarray(float(number), dtype)

                def wanted(x, index=index, number=as_float):
                    x[index] = number
                    return x

                pairs.append((at[index].set(number), wanted))
        for number in (0.1, 1 / 3, 2**63):
            as_float = np.asarray(float(number), dtype)
            pairs.append((at[...].where(X > number).set(0.0), lambda x, n=as_float: x * (x <= n)))
            pairs.append((at[...].max(number), lambda x, n=as_float: np.maximum(x, n)))
            pairs.append((at[1:].set(number), lambda x, n=as_float: np.where([0, 1, 1], n, x)))
        check(run, np.array([0.0, 0.2, 1.0], dtype), pairs)


def test_the_ends_of_integers(run):
    others = {"tensorflow": (), "torch": ("uint16", "uint32")}  # of which tensors are of another
    others = others.get(BACKEND, ("int64",))
    for dtype in (dtype for dtype in INTEGERS if dtype not in others):
        ends = np.iinfo(dtype)
        pairs = []
        for number in (int(ends.max), int(ends.min), int(ends.max) - 1):
            pairs += [
                (at[0].set(number), lambda x, n=number: np.where([1, 0, 0], n, x)),
                (at[[0, 2]].set(number), lambda x, n=number: np.where([1, 0, 1], n, x)),
                (at[1:].max(number), lambda x, n=number: np.where([0, 1, 1], np.maximum(x, n), x)),
                (at[...].where(X == number).set(0), lambda x, n=number: np.where(x == n, 0, x)),
                (at[...].where(X < number).set(1), lambda x, n=number: np.where(x < n, 1, x)),
            ]
        check(run, np.array([1, ends.max, ends.min], dtype), pairs)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "float64", "complex128"])
def test_what_has_64_bits_keeps_them(dtype):
    values = np.array([2**40 + 1, 4, 7], dtype)
    given = [values]
    if BACKEND == "numpy" or (BACKEND != "jax" and dtype in ("int64", "float64")):
        given.append(keras.Variable(values, dtype=dtype, trainable=False))
        given.append(given[-1].value)
    for x in given:
        same(at(x)[1].set(5), [values[0], 5, 7])
        same(at(x)[[1, 1]].add(1), [values[0], 6, 7])
        same(at(x)[np.array([0, 1, 0], bool)].multiply(3), [values[0], 12, 7])
        same(at(x)[1:].get(), values[1:])


# --- What is not selected, and the sign of zero ------------------------------------------------


def test_elements_that_are_not_selected_keep_their_sign_of_zero(run):
    x = np.array([-0.0, 1.0, -0.0, 0.0, NAN], "float32")
    chosen = np.array([0, 1, 0, 0, 0], bool)
    kept = [
        (at[[0, 0, 1]].where(X > 0).add(1.0), np.add),
        (at[[0, 0, 1]].where(X > 0).subtract(1.0), np.subtract),
        (at[[0, 0, 1]].where(X > 0).multiply(2.0), np.multiply),
        (at[[0, 0, 1]].where(X > 0).max(2.0), np.maximum),
        (at[:3].where(X > 0).add(1.0), np.add),
        (at[...].where(X > 0).divide(2.0), np.divide),
        (at[chosen].add(1.0), np.add),
        (at[[True, True, False, True, False]].where(X > 0).power(2.0), np.power),
    ]
    numbers = [1, 1, 2, 2, 1, 2, 1, 2]
    pairs = [
        (edit, lambda x, f=f, n=n: np.where(chosen, f(x, np.float32(n)), x))
        for (edit, f), n in zip(kept, numbers, strict=True)
    ]
    check(run, x, pairs)


def test_signs_of_zero_that_edits_give(run):
    x = np.array([-0.0, 0.0, -1.0, 2.0], "float32")
    minus = np.float32(-0.0)
    where = lambda x, f: np.concatenate([f(x[:1]), x[1:]])  # noqa: E731
    pairs = [
        (at[[0, 0]].add(-0.0), lambda x: x),
        (at[[0, 0]].subtract(0.0), lambda x: x),
        (at[[0, 0]].add(0.5), lambda x: where(x, lambda x: x + 1)),
        (at[:2].subtract(X), lambda x: np.concatenate([x[:2] - x[:2], x[2:]])),
        (at[...].set(-X), lambda x: -x),
        (at[...].set(abs(X)), np.abs),
        (at[...].multiply(-1.0), lambda x: -x),
        (at[:2].set(-0.0), lambda x: np.array([minus, minus, -1, 2])),
        (at[...].where(X == 0).set(-0.0), lambda x: np.where(x == 0, minus, x)),
    ]
    check(run, x, pairs)


def test_powers(run):
    x = np.array([-INF, -0.0, 0.0, INF, 4.0, -4.0, NAN, 1.0], "float32")
    numbers = [0.5, 2.0, 3.0, -0.5, -1.0, 0.0, 1.0, 1 / 3]
    # `np.power` of a number takes the root; of an array it does as IEEE 754 says.
    pairs = [
        (at[...].power(n), lambda x, n=n: np.power(x, np.full(x.shape, n, x.dtype)))
        for n in numbers[:-1]
    ]
    pairs += [(at[...].set(X**n), pairs[k][1]) for k, n in enumerate(numbers[:-1])]
    pairs += [(at[2:6].power(0.5), lambda x: np.concatenate([x[:2], [0, INF, 2, NAN], x[6:]]))]
    check(run, x, pairs)
    close = at[...].power(numbers[-1])
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(
            to_numpy(run(close)(ops.convert_to_tensor(x))), np.power(x, np.float32(1 / 3)), 1e-6
        )


# --- Sums in a fixed order ---------------------------------------------------------------------


@pytest.mark.tensors
@pytest.mark.parametrize("compiler", [None, *compilers()])
def test_sums_at_duplicates_are_reproducible(compiler):
    rng = np.random.default_rng(0)
    x, v = [rng.standard_normal((count, 8)).astype("float32") for count in (50, 20000)]
    i = rng.integers(0, 50, 20000).astype("int32")
    given = tensors([x, v, i])
    forms = [lambda x, v, i: at(x)[i].add(v), lambda x, v, i: at(x)[i].subtract(v)]
    for form in forms:
        sums = compilers()[compiler](form) if compiler else form
        first, *others = [to_numpy(sums(*given)).tobytes() for _ in range(6)]
        assert all([other == first for other in others])


@pytest.mark.tensors
def test_sums_are_reproducible_beside_other_threads():
    rng = np.random.default_rng(0)
    given = tensors([rng.standard_normal((64, 4)).astype("float32") for _ in range(2)])
    index = ops.convert_to_tensor(rng.integers(0, 3, 64).astype("int32"))
    found = []

    def work():
        for _ in range(20):
            found.append(to_numpy(at(given[0])[index].add(given[1])).tobytes())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1


# --- Numbers of a wider dtype, asked to be cast ------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32"])
def test_unsafe_casting_computes_first(run, dtype):
    x = np.array([100, 7, 0, 127], dtype)
    unsafe = {"casting": "unsafe"}

    def cast(wide):
        ends = np.iinfo(dtype)
        return np.clip(np.trunc(wide), ends.min, ends.max)

    pairs = [
        (at[...].multiply(0.5, **unsafe), lambda x: cast(x * 0.5)),
        (at[...].add(0.75, **unsafe), lambda x: cast(x + 0.75)),
        (at[...].subtract(0.5, **unsafe), lambda x: cast(x - 0.5)),
        (at[...].max(7.5, **unsafe), lambda x: cast(np.maximum(x, 7.5))),
        (at[...].set(X * 0.5, **unsafe), lambda x: cast(x * 0.5)),
        (at[:2].add(X * 0.25, **unsafe), lambda x: np.append(cast(x[:2] * 1.25), x[2:])),
        (at[[0, 0, 1]].add(0.5, **unsafe), lambda x: cast(x + np.array([1, 0.5, 0, 0]))),
        (
            at[...].where(X > 50).multiply(1.5, **unsafe),
            lambda x: cast(x * np.array([1.5, 1, 1, 1.5])),
        ),
        (at[...].multiply(1e9, **unsafe), lambda x: cast(x * 1e9)),
    ]
    check(affordable(run, dtype != "uint8"), x, pairs)


# --- Nothing to edit ---------------------------------------------------------------------------


@pytest.mark.tensors
@pytest.mark.parametrize("compiler", [None, *compilers()])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0,), (0, 3, 3), (3, 0, 3)])
def test_empty_axes(compiler, shape):
    """Values and gradients, in a graph that may not know that there is nothing."""
    wrap = affordable(compilers()[compiler], shape != (0, 3)) if compiler else lambda fn: fn
    # If sizes are unknown, a product at duplicates is a graph of many levels, slow to build.
    few = {"unknown sizes": ("multiply",) if shape == (0,) else ()}
    few |= dict.fromkeys(["compiled"] if BACKEND == "torch" else [], ())
    rest = few.get(compiler, ("subtract", "multiply", "divide", "min"))
    before = (slice(None),) * shape.index(0)
    behind = (slice(None),) * (len(shape) - 1)
    index = np.array([0, 1, 1], "int32")
    x, i = tensors([np.zeros(shape, "float32"), index])

    def updates(x, i):
        positions = [(*before, i), (*before, slice(1, None)), (*before, slice(None, None, -2))]
        positions += [(*before, block(i[0], 1)), (*behind, i), (..., slice(0, 0)), (...,)]
        found = [
            getattr(at(x)[position], op)(2.0)
            for position in positions
            for op in ("set", "add", "max", *rest)
        ]
        found += [at(x)[position].where(X > 0).add(X) for position in positions]
        found += [at(x)[position].apply(ops.negative) for position in positions]
        if len(shape) > 1:
            found += [sample(x)[each(i[: shape[0]])].add(2.0), sample(x)[i].max(2.0)]
        return found

    def reads(x, i):
        return at(x)[(*before, i)].get(), at(x)[(*before, slice(2, None))].get()

    for found in wrap(updates)(x, i):
        assert tuple(found.shape) == shape
    picked, sliced = wrap(reads)(x, i)
    same(picked, np.full((*shape[: len(before)], 3, *shape[len(before) + 1 :]), NAN, "float32"))
    assert tuple(sliced.shape) == shape

    def total(x):
        return sum([ops.sum(found) for found in (*updates(x, i), *reads(x, i))])

    (slope,) = wrap(gradients(total))(x)
    assert tuple(slope.shape) == shape


@pytest.mark.tensors
def test_an_empty_batch_in_models():
    positions = keras.Input((2,), dtype="int32")
    x = keras.Input((3,))
    edits = [sample(x)[each(positions)].add(1.0), sample(x)[each(positions)].max(1.0)]
    edits += [sample(x)[3:].set(1.0), at(x)[5:].multiply(2.0), sample(x)[each(positions)].get()]
    model = keras.Model([x, positions], edits)
    for batch in (0, 1):
        data = [np.zeros((batch, 3), "float32"), np.ones((batch, 2), "int32")]
        shapes = [tuple(found.shape) for found in model(data)]
        assert shapes == [(batch, 3)] * 4 + [(batch, 2)]


@pytest.mark.gradient
def test_a_get_that_selects_nothing_has_the_gradient_zero():
    x = np.ones((3, 3), "float32")
    for compile in (False, True):
        for index in (slice(3, None), np.zeros(0, "int32"), np.zeros(3, bool), (slice(0), 1)):
            wanted = x[index]
            read = at[index].get()  # not in the function, of which torch's compiler takes arrays
            found, (dx,) = vjp(lambda x, e=read: e(x), [x], wanted, compile=compile)
            same(found, wanted)
            same(dx, np.zeros_like(x))


@pytest.mark.tensors
@pytest.mark.parametrize("compile", compilers().values(), ids=compilers())
def test_a_condition_compares_a_block_with_a_tensor(compile):
    """A graph that knows the size of the block, but not that of the tensor, keeps the rank."""
    x = np.arange(9, dtype="float32").reshape(3, 3)
    c, start = np.array([[3, 0, 5], [0, 7, 0]], "float32"), np.array(1, "int32")
    for condition, where in ((lambda c: X == c, x[1:] == c), (lambda c: X != c, x[1:] != c)):
        expected = x.copy()
        expected[1:][where] = -1

        def edit(x, c, start, condition=condition):
            return at(x)[block(start, 2)].where(condition(c)).set(-1.0)

        np.testing.assert_array_equal(to_numpy(compile(edit)(*tensors([x, c, start]))), expected)


def test_values_of_unknown_length_may_be_one_for_all():
    """Along slices of axes that graphs do not know, and along masks."""
    x = np.arange(9, dtype="float32").reshape(3, 3)
    mask = np.array([True, False, True])

    def edits(x, v, mask):
        return [
            at(x)[::2].set(v),
            at(x)[:, 1:].set(v),
            at(x)[mask].set(v),
            at(x)[mask].add(v),
            at(x)[:, mask].min(v),
        ]

    def wanted(x, v):
        outcomes = []
        for index, op in zip(
            (np.s_[::2], np.s_[:, 1:], mask, mask, np.s_[:, mask]),
            ("set", "set", "set", "add", "min"),
            strict=True,
        ):
            places = oracle.positions_in_bounds(x.shape, np.index_exp[index], None)
            outcomes.append(oracle.update(op, x, places, v))
        return outcomes

    one = np.array([[-7.0]], "float32")
    for compiled in (lambda function: function, *compilers().values()):
        found = compiled(edits)(*tensors([x, one, mask]))
        for first, second in zip(found, wanted(x, one), strict=True):
            same(first, second)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "float32", "complex64"])
@pytest.mark.parametrize("compiler", [None, *compilers()])
def test_whether_elements_are_finite(dtype, compiler):
    """Of any dtype, in a graph of any sizes."""
    x = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    if dtype == "float32":
        x[0] = [NAN, INF, -INF]
    if dtype == "complex64":
        x[0] = [complex(NAN, 1), complex(1, -INF), complex(INF, NAN)]
    edits = [at[...].where(X.isnan()).set(False), at[...].where(X.isinf()).set(False)]
    edits += [at[1:].where(~X.isnan() & ~X.isinf()).set(True)]
    wrap = compilers()[compiler] if compiler else lambda function: function
    found = wrap(lambda x: [edit(x) for edit in edits])(ops.convert_to_tensor(x))
    ones = np.stack([x[0], np.ones(3, dtype)])
    wanted = [np.where(np.isnan(x), 0, x), np.where(np.isinf(x), 0, x), ones]
    for one, other in zip(found, wanted, strict=True):
        same(one, other.astype(dtype))


def test_differences_of_unsigned_integers(run):
    x = np.array([0, 1, 200, 255], "uint8")
    pairs = [
        (at[...].set(0 - X), lambda x: 0 - x),
        (at[...].set(3 - X), lambda x: 3 - x),
        (at[:2].subtract(X), lambda x: np.append(x[:2] - x[:2], x[2:])),
        (at[[0, 0]].subtract(3), lambda x: x - np.array([6, 0, 0, 0], "uint8")),
        (at[[1, 1]].subtract(X), lambda x: x - np.array([0, 2, 0, 0], "uint8")),
        (at[...].subtract(255), lambda x: x - np.uint8(255)),
    ]
    check(run, x, pairs)


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True])
def test_gradients_of_reading_nothing(compile):
    places = [at[..., np.zeros(0, int)], at[np.zeros(0, int)], at[:, np.zeros(3, int)]]
    for shape in [(0, 2), (2, 3)]:
        x = np.ones(shape, "float32")
        for place in places:
            edit = place.get()
            upstream = np.ones(edit(x).shape, "float32")
            _, (gradient,) = vjp(edit, [x], upstream, compile=compile)
            assert gradient.shape == shape
            assert gradient.sum() == upstream.sum()


# --- What an index may hold, and its errors ----------------------------------------------------


def test_empty_masks_select_nothing():
    x = np.arange(6, dtype="float32").reshape(2, 3)
    for given in (x, *tensors([x])):
        same(at(given)[np.zeros(0, bool)].set(9.0), x)
        same(at(given)[:, np.zeros(0, bool)].add(9.0), x)
        same(at(given)[np.zeros((0, 3), bool)].add(9.0), x)
        assert tuple(at(given)[np.zeros(0, bool)].get().shape) == (0, 3)
        assert tuple(at(given)[:, []].get().shape) == (2, 0)
        with pytest.raises(PositionError):
            at(given)[np.zeros(1, bool)].set(9.0)


class Two:
    """An integer of a kind that Python knows nothing of but `__index__`."""

    def __index__(self):
        return 2


def test_integers_of_any_kind():
    x = np.arange(12, dtype="float32").reshape(4, 3)
    numbers = [Two(), np.int8(2), np.array(2), np.uint64(2), *tensors([np.array(2, "int32")])]
    numbers.append(keras.Variable(2, dtype="int32", trainable=False))
    for two in numbers:
        for given in (x, *tensors([x])):
            same(at(given)[:two].set(0.0), at(x)[:2].set(0.0))
            same(at(given)[two:].get(), x[2:])
            same(at(given)[::two].add(1.0), at(x)[::2].add(1.0))
            same(at(given)[1, two].set(0.0), at(x)[1, 2].set(0.0))


def test_errors_are_also_those_of_numpy_and_python():
    for x in (np.zeros((3, 3)), ops.zeros((3, 3))):
        with pytest.raises(IndexError) as raised:
            at(x)[[0, 1], [0, 1, 2]].set(0.0)
        assert isinstance(raised.value, (PositionError, ShapeError))
        for wrong in (slice(0.5, None), slice(None, 1.0), slice(None, None, "1")):
            with pytest.raises(TypeError) as raised:
                at(x)[wrong].set(0.0)
            assert isinstance(raised.value, PositionError)
        with pytest.raises(IndexError):
            at(x)[3].set(0.0)


def test_arrays_and_tensors_agree():
    """The same edit of the same numbers, for each operation and most dtypes."""
    rng = np.random.default_rng(0)
    for dtype in ["bool", *INTEGERS, *FLOATS]:
        x = rng.integers(0, 2, (3, 3)).astype(dtype)
        given = ops.convert_to_tensor(x)
        names = ["set", "max", "min", *["add", "subtract", "multiply"] * (dtype != "bool")]
        one = dtype == "bool" or 1
        for place in (at[...], at[[0, 0, 2]], at[:, ::-1], at.where(X == one)):
            for name in names:
                edit = getattr(place, name)(one)
                found, wanted = to_numpy(edit(given)), edit(to_numpy(given))
                assert found.dtype == wanted.dtype
                np.testing.assert_array_equal(found, wanted)
