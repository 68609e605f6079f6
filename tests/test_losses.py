"""`IndexPenalty` against its formula in NumPy: values, gradients, weights, masks, saving."""

import keras
import numpy as np
import pytest
from _backend import to_numpy, vjp
from keras import ops
from kit import (
    check_close,
    check_holds_no_code,
    check_loss,
    check_roundtrip,
    dtype_of,
    in_full_once,
)

from kedit import X, at, block, sample
from kedit.errors import (
    CoordinateError,
    DTypeError,
    EditError,
    OperandError,
    PositionError,
    SavingError,
    ShapeError,
)
from kedit.losses import IndexPenalty

S = np.s_
RNG = np.random.default_rng(0)
WIDE = RNG.normal(size=(3, 4)).astype("float32")  # (batch, outputs)
DEEP = RNG.normal(size=(3, 2, 4)).astype("float32")  # (batch, timesteps, outputs)
MASK = np.array([True, False, True, True])

SQUARE = np.stack([DEEP, -DEEP], axis=1)  # (batch, rows, columns, channels)

# index as given, y_pred, what it picks from one sample, how many axes the rows have
CASES = [
    (2, WIDE, S[2], 1),
    (-1, WIDE, S[-1], 1),
    (S[1:3], WIDE, S[1:3], 1),
    (S[::-2], WIDE, S[::-2], 1),
    ([3, 0], WIDE, S[[3, 0]], 1),
    (MASK, WIDE, MASK, 1),
    (sample[2], WIDE, S[2], 1),
    (sample[..., 2], DEEP, S[..., 2], 2),
    (at[:, 2], WIDE, S[2], 1),
    (at[..., 1:], DEEP, S[..., 1:], 2),
    (at[None, ..., 2], WIDE, S[2], 1),
    ((slice(None), 2), DEEP, S[:, 2], 2),
    ((1, [0, 3]), DEEP, S[1, [0, 3]], 1),
    (sample[::-1, 2], DEEP, S[:, 2], 1),
    (([0, 1], [3, 0]), DEEP, S[[0, 1], [3, 0]], 1),
    (np.array([MASK, ~MASK]), DEEP, np.array([MASK, ~MASK]), 1),
    (S[..., None, [3, 0]], DEEP, S[..., [3, 0]], 2),
    (S[None, :, 2], DEEP, S[:, 2], 1),
    (at[:, [0, 1], :, [1, 3]], SQUARE, S[[0, 1], :, [1, 3]], 1),
    (sample[..., MASK], SQUARE, S[..., MASK], 3),
    (sample[:, 1], SQUARE, S[:, 1], 2),
    ((), WIDE, S[()], 1),
    ((), DEEP, S[()], 2),
]
every_case = pytest.mark.parametrize(
    ("index", "y_pred", "picked", "rows"), CASES, ids=lambda v: str(v)[:25]
)
# What a residual costs, and the slope of that.
KINDS = {
    "l2": (lambda r: r**2, lambda r: 2 * r),
    "l1": (abs, np.sign),
    "huber": (
        lambda r: np.where(abs(r) < 0.7, r**2 / 2, 0.7 * (abs(r) - 0.35)),
        lambda r: np.clip(r, -0.7, 0.7),
    ),
    "log_cosh": (lambda r: np.log(np.cosh(r)), np.tanh),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def by_row(y_pred, picked, rows, residual, kind, weight):
    """The penalty of each row, and its gradient for `y_pred`, by the formula."""
    cost, slope = KINDS[kind] if isinstance(kind, str) else kind
    each, slopes = np.full(y_pred.shape, np.nan), np.zeros(y_pred.shape)
    for n, one in enumerate(y_pred.astype("float64")):
        each[n][picked] = cost(residual(one[picked]))
        slopes[n][picked] = slope(residual(one[picked]))
    axes = tuple(range(rows, y_pred.ndim))
    count = (~np.isnan(each)).sum(axis=axes, keepdims=True)
    return weight * np.nanmean(each, axis=axes), weight * slopes / count


def penalties(y_pred, picked, target, kind, weight, rows=1):
    return by_row(y_pred, picked, rows, lambda x: x - target, kind, weight)


@every_case
@every_kind
def test_formula(index, y_pred, picked, rows, kind):
    y_true = np.zeros_like(y_pred)
    each, _ = penalties(y_pred, picked, 0.5, kind, 0.3, rows)
    for reduction, expected in (
        (None, each),
        ("none", each),
        ("sum", each.sum()),
        ("sum_over_batch_size", each.mean()),
        ("mean_with_sample_weight", each.mean()),
    ):
        loss = IndexPenalty(index, 0.5, kind=kind, delta=0.7, weight=0.3, reduction=reduction)
        check_loss(loss, y_true, y_pred, expected)


@pytest.mark.gradient
@every_case
def test_gradient(index, y_pred, picked, rows):
    """Exactly 0 off the index, and 0 where the target is met."""
    y_pred = y_pred.copy()
    y_pred[0][picked] = 0.5
    for kind in KINDS:
        loss = IndexPenalty(index, 0.5, kind=kind, delta=0.7, weight=3.0)
        each, expected = penalties(y_pred, picked, 0.5, kind, 3.0, rows)
        upstream = 1 + np.arange(each.size, dtype="float32").reshape(each.shape)
        value, (found,) = vjp(lambda y, loss=loss: loss.call(y, y), [y_pred], upstream)
        check_close(value, each)
        spread = upstream.reshape(*each.shape, *[1] * (y_pred.ndim - each.ndim))
        check_close(found, expected * spread, rtol=1e-4)
        assert not found[expected == 0].any()


BOUNDS = {
    "lower": (-0.5, None),
    "upper": (None, 0.25),
    "both": (-0.5, 0.25),
    "arrays": (np.array([0.25, np.nan]), [np.inf, -0.25]),
}


def bounded(lower, upper, kind):
    """A penalty for the bounds, predictions in and out of them, and what the formula says."""

    def residual(x):
        low = np.nan_to_num(-np.inf if lower is None else lower, nan=-np.inf, neginf=-np.inf)
        high = np.nan_to_num(np.inf if upper is None else upper, nan=np.inf, posinf=np.inf)
        return x - np.clip(x, low, high)

    y_pred = DEEP.copy()
    y_pred[0, 0, 1:3] = [-0.5, 0.25]  # on the bounds
    y_pred[0, 1, 1:3] = [0.1, -0.1]
    loss = IndexPenalty(sample[..., 1:3], lower=lower, upper=upper, kind=kind, delta=0.7)
    return loss, y_pred, by_row(y_pred, S[..., 1:3], 2, residual, kind, 1.0)


every_bound = pytest.mark.parametrize(("lower", "upper"), BOUNDS.values(), ids=BOUNDS.keys())


@every_bound
@every_kind
def test_bounds(lower, upper, kind):
    loss, y_pred, (each, _) = bounded(lower, upper, kind)
    assert each.max() > 0
    check_loss(loss, y_pred, y_pred, each.mean())


@pytest.mark.gradient
@every_kind
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_gradient_of_bounds(kind, compile):
    """None inside, nor on a bound; infinity and NaN are no bound."""
    losses, y_preds, expected = zip(
        *[bounded(*both, kind) for both in BOUNDS.values()], strict=True
    )

    def of_all(*y_preds):
        return ops.stack([loss(y, y) for loss, y in zip(losses, y_preds, strict=True)])

    _, found = vjp(of_all, y_preds, np.full(len(losses), 6, "float32"), compile=compile)
    for name, gradient, (_, wanted) in zip(BOUNDS, found, expected, strict=True):
        check_close(gradient, wanted)
        assert not gradient[wanted == 0].any(), name


def barrier(z, t):
    """The extension of the logarithmic barrier, and its slope."""
    inside = z <= -1 / t**2
    safe = np.where(inside, z, -1)
    tangent = t * z - np.log(1 / t**2) / t + 1 / t
    return np.where(inside, -np.log(-safe) / t, tangent), np.where(inside, -1 / (t * safe), t)


@pytest.mark.gradient
def test_barrier():
    y_pred = np.array([[-3.0, -0.01, 0.5], [0.99, 1.0, 40.0]], "float32")
    for lower, upper in ((None, 1.0), (0.0, None), (0.0, 1.0), (-np.inf, 1.0)):
        cost, slope = np.zeros((2, 3)), np.zeros((2, 3))
        if upper is not None:
            over, steep = barrier(y_pred.astype("float64") - upper, 3.0)
            cost, slope = cost + over, slope + steep
        if lower == 0.0:
            under, steep = barrier(lower - y_pred.astype("float64"), 3.0)
            cost, slope = cost + under, slope - steep
        loss = IndexPenalty((), lower=lower, upper=upper, kind="barrier", barrier_t=3.0)
        check_loss(loss, y_pred, y_pred, cost.mean())
        # Compiled with the most that there can be.
        for compile in {False, lower == 0.0 and upper == 1.0}:
            _, (found,) = vjp(lambda y: loss(y, y), [y_pred], np.float32(6), compile=compile)  # noqa: B023
            check_close(found, slope)


TABLE = np.array([[1, np.nan, 3, 4], [np.nan] * 4, [np.nan, 2, 2, np.nan]], "float32")
KNOWN = ~np.isnan(TABLE)


def free_where_nan(y_true, kind, weights):
    """Penalty of each sample, how it is weighed, and the gradient of the weighted mean."""
    cost, slope = KINDS[kind]
    r = np.where(np.isnan(y_true), 0, WIDE - y_true).astype("float64")
    known = ~np.isnan(y_true)
    count = np.maximum(known.sum(axis=1), 1)
    each = (cost(r) * known).sum(axis=1) / count
    counts = known.any(axis=1)
    gradient = slope(r) * known * (weights / count / counts.sum())[:, None]
    return each, counts, gradient


@every_kind
def test_nan_leaves_an_element_free(kind):
    """A sample without a target does not count; each of the others is a mean of its own."""
    weights = np.array([3, 5, 0.5], "float32")
    for target, y_true in (("y_true", TABLE), (TABLE[0], np.tile(TABLE[0], (3, 1)))):
        each, counts, _ = free_where_nan(y_true, kind, weights)
        total = (each * weights).sum()
        for reduction, expected in (
            (None, each * weights),
            ("sum", total),
            ("sum_over_batch_size", total / counts.sum()),
            ("mean_with_sample_weight", total / weights[counts].sum()),
        ):
            loss = IndexPenalty(..., target, kind=kind, delta=0.7, reduction=reduction)
            check_loss(loss, y_true, WIDE, expected, weights)


@pytest.mark.gradient
@every_kind
def test_nan_sends_back_no_gradient(kind):
    """Neither of `y_true` nor of `y_pred`, where the element is free."""
    y_pred = np.where(KNOWN, WIDE, np.nan)
    loss = IndexPenalty(..., "y_true", kind=kind, delta=0.7)
    *_, expected = free_where_nan(TABLE, kind, np.ones(3))
    for compile in (False, True):
        _, (_, found) = vjp(loss, [TABLE, y_pred], np.float32(1), compile=compile)
        check_close(found, expected)
        assert not found[~KNOWN].any()


def test_nothing_to_compare_with_is_no_penalty():
    y_true = np.full_like(WIDE, np.nan)
    check_loss(IndexPenalty(2, "y_true"), y_true, WIDE, 0.0)
    check_loss(IndexPenalty(2, "y_true", base_loss="mse"), y_true, WIDE, 0.0)
    check_loss(IndexPenalty(2, lower=-np.inf, upper=np.nan), y_true, WIDE, 0.0)


def test_y_true_may_lack_a_last_axis_of_size_1():
    y_true, y_pred = np.array([1, np.nan, 3], "float32"), np.zeros((3, 1), "float32")
    check_loss(IndexPenalty(0, "y_true"), y_true, y_pred, 5.0)
    with pytest.raises(ShapeError, match="shape of `y_pred`"):
        IndexPenalty(0, "y_true")(y_true, WIDE)


@pytest.mark.gradient
@pytest.mark.parametrize("base", [None, "mse"])
def test_gradient_compiled(base):
    y_true = np.full_like(DEEP, 0.25)
    loss = IndexPenalty((slice(None), 2), [0.5, -0.5], weight=3.0, kind="l1", base_loss=base)
    _, expected = penalties(DEEP, S[:, 2], [0.5, -0.5], "l1", 3.0)
    expected = expected / 3 + (0 if base is None else 2 * (DEEP - y_true) / DEEP.size)
    for compile in (False, True):
        _, (found, _) = vjp(lambda y, t: loss(t, y), [DEEP, y_true], np.float32(1), compile=compile)
        check_close(found, expected)


@pytest.mark.parametrize(
    "target", [50, -0.5, [1.0, 2.0], np.array([[1.0], [2.0]]), np.ones((2, 2))]
)
def test_target_broadcasts_to_what_is_chosen(target):
    loss = IndexPenalty((slice(None), S[1:3]), target, reduction=None)
    each, _ = penalties(DEEP, S[:, 1:3], target, "l2", 1.0, rows=2)
    check_loss(loss, DEEP, DEEP, each)


# Weights of samples, timesteps and elements; those of timesteps twice, for as many samples.
WEIGHTS = [[1, 1, 1], [0, 1, 2], [[0], [1], [2]], [[0, 1], [2, 3], [0, 5]], [[[3]], [[1]], [[0]]]]


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize(
    ("index", "picked", "rows"),
    [(S[..., 2], S[..., 2], 2), ((1, S[:2]), S[1, :2], 1), (([0, 1], [3, 0]), ([0, 1], [3, 0]), 1)],
)
def test_sample_weight(weights, index, picked, rows):
    """Of samples, or of timesteps, of which an index may choose some."""
    weights = np.array(weights, "float32")
    full = np.broadcast_to(weights.reshape(*weights.shape, *[1] * (3 - weights.ndim)), DEEP.shape)
    each = np.full(DEEP.shape, np.nan)
    each[:, *picked if isinstance(picked, tuple) else (picked,)] = 0
    each = (each + (DEEP - 0.5) ** 2).astype("float64")
    axes = tuple(range(rows, 3))
    weighed = np.nanmean(each * full, axis=axes)
    row_weights = np.nanmean(np.where(np.isnan(each), np.nan, full), axis=axes)
    for reduction, expected in (
        (None, weighed),
        ("sum", weighed.sum()),
        ("sum_over_batch_size", weighed.mean()),
        ("mean_with_sample_weight", weighed.sum() / row_weights.sum()),
    ):
        loss = IndexPenalty(index, 0.5, reduction=reduction)
        check_loss(loss, DEEP, DEEP, expected, weights)
        check_loss(loss, DEEP, DEEP, expected, ops.convert_to_tensor(weights))


def test_as_many_samples_as_timesteps_are_not_taken_for_each_other():
    y_pred, weights = DEEP[:2], np.array([1.0, 3.0], "float32")
    each, _ = penalties(y_pred, S[..., 2], 0.5, "l2", 1.0, 2)
    loss = IndexPenalty(sample[..., 2], 0.5)
    check_loss(loss, y_pred, y_pred, (each * weights[:, None]).mean(), weights)


@pytest.mark.parametrize("weights", [[1, 1, 1], [0, 1, 2], [[0], [1], [2]]])
def test_sample_weight_of_the_base_loss(weights):
    weights = np.array(weights, "float32")
    y_true = np.zeros_like(WIDE)
    each, _ = penalties(WIDE, 2, 0.5, "l2", 3.0)
    each = (each + (WIDE**2).mean(axis=1)) * weights.ravel()
    for reduction, expected in (
        (None, each.reshape(weights.shape)),
        ("sum", each.sum()),
        ("sum_over_batch_size", each.mean()),
        ("mean_with_sample_weight", each.sum() / weights.sum()),
    ):
        base = keras.losses.mean_squared_error
        loss = IndexPenalty(2, 0.5, weight=3.0, reduction=reduction, base_loss=base)
        check_loss(loss, y_true, WIDE, expected, weights)


def test_sample_weight_may_be_a_list_as_for_every_keras_loss():
    each, _ = penalties(WIDE, 2, 0.5, "l2", 1.0)
    check_close(IndexPenalty(2, 0.5)(WIDE, WIDE, [0.0, 1.0, 2.0]), (each * [0, 1, 2]).mean())


@pytest.mark.parametrize("shape", [(2,), (3, 3), (3, 2, 3), (3, 2, 4, 1)])
def test_sample_weight_that_does_not_fit_raises(shape):
    with pytest.raises(ShapeError, match="Received: shape"):
        IndexPenalty(sample[..., 2], 0.5)(DEEP, DEEP, np.ones(shape, "float32"))


def masked(y_pred, mask):
    """The prediction with a Keras mask, as a layer gives it."""
    layer = keras.layers.Masking()
    marked = ops.where(ops.convert_to_tensor(mask)[..., None], ops.convert_to_tensor(y_pred), 0.0)
    return layer(marked)


TIMES = np.array([[True, True], [True, False], [False, False]])


@pytest.mark.parametrize(
    ("index", "picked", "rows"),
    [
        (S[..., 2], S[:, :, 2:3], 2),
        ((0, 2), S[:, :1, 2:3], 1),
        ((), S[:], 2),
        (1, S[:, 1:], 1),
    ],
)
def test_mask(index, picked, rows):
    """What is masked is free; timesteps, or samples, of which all is masked do not count."""
    y_pred = masked(DEEP, TIMES)
    chosen = np.zeros(DEEP.shape, bool)
    chosen[picked] = True
    chosen &= TIMES[..., None]
    axes = tuple(range(rows, 3))
    each = ((DEEP - 0.5) ** 2 * chosen).sum(axis=axes) / np.maximum(chosen.sum(axis=axes), 1)
    counts = chosen.any(axis=axes)
    weights = np.array([[2, 3], [5, 7], [1, 1]], "float32")
    full = np.broadcast_to(weights[..., None], DEEP.shape)
    weighed = ((DEEP - 0.5) ** 2 * chosen * full).sum(axis=axes)
    weighed = weighed / np.maximum(chosen.sum(axis=axes), 1)
    for reduction, expected, with_weights in (
        (None, each, weighed),
        ("sum", each.sum(), weighed.sum()),
        ("sum_over_batch_size", each.sum() / counts.sum(), weighed.sum() / counts.sum()),
    ):
        loss = IndexPenalty(index, 0.5, reduction=reduction)
        check_close(loss(DEEP, y_pred), expected)
        check_close(loss(DEEP, y_pred, weights), with_weights)


def test_mask_counts_for_penalty_and_base_alike():
    y_pred = masked(DEEP, TIMES)
    base = keras.losses.MeanSquaredError()
    found = IndexPenalty(sample[..., 2], 0.5, base_loss=base)(DEEP * 0, y_pred)
    penalty = ((DEEP[..., 2] - 0.5) ** 2)[TIMES].mean()
    check_close(found, to_numpy(base(DEEP * 0, y_pred)) + penalty)
    check_close(found, (DEEP**2).mean(axis=-1)[TIMES].mean() + penalty)


def mean_cubed_error(y_true, y_pred):
    return ops.mean(ops.abs(y_true - y_pred) ** 3, axis=-1)


@pytest.mark.parametrize(
    ("base", "value"),
    [
        ("mse", lambda e: (e**2).mean()),
        ("mean_absolute_error", lambda e: abs(e).mean()),
        ("MeanSquaredError", lambda e: (e**2).mean()),
        (keras.losses.MeanAbsoluteError(), lambda e: abs(e).mean()),
        (keras.losses.MeanSquaredError(reduction="sum"), lambda e: (e**2).mean(axis=1).sum()),
        (keras.losses.mean_squared_error, lambda e: (e**2).mean()),
        (IndexPenalty(0, 0.0, kind="l1"), lambda e: abs(e[:, 0]).mean()),
    ],
)
def test_base_loss(base, value):
    each, _ = penalties(WIDE, 2, 0.5, "l2", 3.0)
    loss = IndexPenalty(2, 0.5, weight=3.0, base_loss=base)
    check_loss(loss, np.zeros_like(WIDE), WIDE, each.mean() + value(WIDE))


def test_base_loss_of_ones_own():
    loss = IndexPenalty(2, 0.5, base_loss=mean_cubed_error)
    each, _ = penalties(WIDE, 2, 0.5, "l2", 1.0)
    check_close(loss(WIDE * 0, WIDE), each.mean() + (abs(WIDE) ** 3).mean())


@pytest.mark.once
def test_saving_a_base_loss_that_is_code_raises():
    loss = IndexPenalty(2, 0.5, base_loss=lambda y_true, y_pred: 0 * y_pred[:, 0])
    with pytest.raises(SavingError, match="register_keras_serializable"):
        loss.get_config()


def test_no_reduction_of_a_base_loss_with_timesteps_never_mixes_axes():
    """The base loss has one value a timestep, the penalty one a sample: that sample's."""
    square = DEEP[:2]  # as many samples as timesteps
    loss = IndexPenalty((0, 2), 0.5, base_loss=keras.losses.mean_squared_error, reduction=None)
    each, _ = penalties(square, S[0, 2], 0.5, "l2", 1.0)
    check_close(loss(square * 0, square), (square**2).mean(axis=-1) + each[:, None])


ELEMENTWISE = {
    "mse": lambda t, p: (t - p) ** 2,
    "mae": lambda t, p: abs(t - p),
    "MeanSquaredError": lambda t, p: (t - p) ** 2,
    "poisson": lambda t, p: p - t * np.log(p + 1e-7),
    "binary_crossentropy": lambda t, p: -t * np.log(p) - (1 - t) * np.log(1 - p),
    "msle": lambda t, p: (np.log1p(t) - np.log1p(p)) ** 2,
    "mape": lambda t, p: 100 * abs(t - p) / np.maximum(t, 1e-7),
    "hinge": lambda t, p: np.maximum(1 - t * p, 0),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_exclude_from_base(name):
    """The base loss is the mean over the elements that remain, whatever `y_true` holds there."""
    rng = np.random.default_rng(1)
    y_true, y_pred = rng.uniform(0.1, 0.9, (2, 3, 2, 4)).astype("float32")
    value = ELEMENTWISE[name](y_true.astype("float64"), y_pred.astype("float64"))
    y_true[:, 1, 2] = np.nan
    rest = np.ones((2, 4), bool)
    rest[1, 2] = False
    loss = IndexPenalty((1, 2), 0.5, base_loss=name, exclude_from_base=True)
    each, _ = penalties(y_pred, S[1, 2], 0.5, "l2", 1.0)
    check_loss(loss, y_true, y_pred, each.mean() + value[:, rest].mean())
    weights = np.array([1.0, 0.0, 3.0], "float32")
    expected = (each * weights).mean() + (value[:, rest].mean(axis=1) * weights).mean()
    check_loss(loss, y_true, y_pred, expected, weights[:, None])


@pytest.mark.gradient
def test_gradient_of_what_is_excluded_is_that_of_the_penalty():
    y_true = np.where(np.arange(4) == 2, np.nan, 0.25) * np.ones_like(DEEP)
    loss = IndexPenalty((1, 2), 0.5, base_loss="mse", exclude_from_base=True)
    _, expected = penalties(DEEP, S[1, 2], 0.5, "l2", 1.0)
    expected = expected / 3
    y_true[:, 0, 2] = 0.25
    rest = np.ones(DEEP.shape, bool)
    rest[:, 1, 2] = False
    expected = expected + np.where(rest, 2 * (DEEP - 0.25), 0) / rest.sum()
    for compile in (False, True):
        _, (_, found) = vjp(loss, [y_true, DEEP], np.float32(1), compile=compile)
        check_close(found, expected)


def test_excluding_keeps_the_reduction_of_the_base_loss():
    for reduction in ("sum", "sum_over_batch_size"):
        base = keras.losses.MeanSquaredError(reduction=reduction)
        loss = IndexPenalty(2, 0.5, base_loss=base, exclude_from_base=True)
        each, _ = penalties(WIDE, 2, 0.5, "l2", 1.0)
        rest = np.delete(WIDE**2, 2, axis=1).mean(axis=1)
        check_loss(
            loss,
            WIDE * 0,
            WIDE,
            each.mean() + getattr(rest, "sum" if reduction == "sum" else "mean")(),
        )


def test_with_y_true_the_base_loss_leaves_out_what_is_nan():
    loss = IndexPenalty(S[:2], "y_true", base_loss="mse")
    square = (WIDE - TABLE) ** 2
    of_pair = np.nanmean(square[[0, 2], :2], axis=1).mean()
    check_loss(loss, TABLE, WIDE, np.nanmean(square) + of_pair)
    loss = IndexPenalty(S[:2], "y_true", base_loss="mse", exclude_from_base=True)
    check_loss(loss, TABLE, WIDE, np.nanmean(square[:, 2:]) + of_pair)


def test_the_original_recipe_in_one_line():
    loss = IndexPenalty(2, 50.0, kind="l1", weight=0.1, base_loss="mse")
    y_true, y_pred = 10 * WIDE[::-1], 10 * WIDE
    recipe = np.mean((y_true - y_pred) ** 2) + 0.1 * np.mean(abs(y_pred[:, 2] - 50.0))
    check_loss(loss, y_true, y_pred, recipe)


@pytest.mark.parametrize(
    ("make", "error", "built_in"),
    [
        (lambda: IndexPenalty(at[0, 2], 0.0), CoordinateError, ValueError),
        (lambda: IndexPenalty(at[0], 0.0), CoordinateError, ValueError),
        (lambda: IndexPenalty(at[..., 2], 0.0)(WIDE[0], WIDE[0]), CoordinateError, ValueError),
        (lambda: IndexPenalty(4, 0.0)(WIDE, WIDE), PositionError, IndexError),
        (lambda: IndexPenalty(-5, 0.0)(WIDE, WIDE), PositionError, IndexError),
        (lambda: IndexPenalty((0, 0), 0.0)(WIDE, WIDE), PositionError, IndexError),
        (lambda: IndexPenalty([], 0.0)(WIDE, WIDE), PositionError, IndexError),
        (lambda: IndexPenalty("a", 0.0), PositionError, IndexError),
        (lambda: IndexPenalty(MASK[:3], 0.0)(WIDE, WIDE), PositionError, IndexError),
        (lambda: IndexPenalty(block(3, 2), 0.0)(WIDE, WIDE), PositionError, IndexError),
        (lambda: IndexPenalty(keras.KerasTensor((2,), "int32"), 0.0), OperandError, TypeError),
        (lambda: IndexPenalty([0, 1], [0.0] * 3)(WIDE, WIDE), ShapeError, ValueError),
        (lambda: IndexPenalty(0, [0.0] * 3)(WIDE, WIDE), ShapeError, ValueError),
        (lambda: IndexPenalty(0, 1j)(WIDE, WIDE), DTypeError, TypeError),
        (lambda: IndexPenalty(0, 0.0, kind="l3"), OperandError, TypeError),
        (lambda: IndexPenalty(0, "a"), OperandError, TypeError),
        (lambda: IndexPenalty(0, X), OperandError, TypeError),
        (lambda: IndexPenalty(0, None), OperandError, TypeError),
        (lambda: IndexPenalty(0), OperandError, TypeError),
        (lambda: IndexPenalty(0, 1.0, lower=0.0), OperandError, TypeError),
        (lambda: IndexPenalty(0, 1.0, upper=0.0), OperandError, TypeError),
        (lambda: IndexPenalty(0, lower=1.0, upper=0.0), OperandError, TypeError),
        (lambda: IndexPenalty(0, lower=[0.0, 1.0], upper=[1.0, 0.5]), OperandError, TypeError),
        (lambda: IndexPenalty(0, lower=[0.0, 1.0], upper=[1.0] * 3), ShapeError, ValueError),
        (lambda: IndexPenalty(0, lower=[0.0, 1.0])(WIDE, WIDE), ShapeError, ValueError),
        (lambda: IndexPenalty(0, lower="y_true"), OperandError, TypeError),
        (lambda: IndexPenalty(0, np.inf), OperandError, TypeError),
        (lambda: IndexPenalty(0, 1.0, kind="barrier"), OperandError, TypeError),
        (lambda: IndexPenalty(0, 1.0, kind="huber", delta=0.0), OperandError, TypeError),
        (lambda: IndexPenalty(0, 1.0, exclude_from_base=True), OperandError, TypeError),
        (lambda: excluding("categorical_crossentropy")(WIDE, WIDE), OperandError, TypeError),
        (lambda: excluding(keras.losses.CosineSimilarity())(WIDE, WIDE), OperandError, TypeError),
        (lambda: excluding("dice"), OperandError, TypeError),
        (lambda: excluding(IndexPenalty(0, 1.0)), OperandError, TypeError),
        (lambda: excluding(lambda t, p: ops.sum(p))(WIDE, WIDE), ShapeError, ValueError),
        (lambda: IndexPenalty(0, "y_true")(WIDE[:, 0], WIDE), ShapeError, ValueError),
        (lambda: IndexPenalty(at.where(X > 0), 0.0), OperandError, TypeError),
        (
            lambda: IndexPenalty(sample[keras.KerasTensor((4,), "bool")], 0.0),
            OperandError,
            TypeError,
        ),
        (lambda: IndexPenalty(sample[0].set(1.0), 0.0), EditError, Exception),
    ],
)
def test_errors(make, error, built_in):
    with pytest.raises(built_in, match=r"Received|should be one of") as raised:
        make()
    assert isinstance(raised.value, error)


def excluding(base):
    return IndexPenalty(0, 0.0, base_loss=base, exclude_from_base=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_computes_in_its_dtype(dtype):
    y_pred = np.array([[1.0, 2.0], [0.5, 4.0]], "float32")
    loss = IndexPenalty(1, 1.0, dtype=dtype, base_loss="mse")
    assert loss.dtype == check_roundtrip(loss).dtype == dtype
    found = loss(y_pred, y_pred)
    assert dtype_of(found) == dtype
    check_close(found, 5.0)
    # Under mixed precision the model's output is narrow, the loss is not.
    found = IndexPenalty(1, 500.0)(y_pred, ops.cast(y_pred, dtype))
    assert dtype_of(found) == "float32"
    check_close(found, (498**2 + 496**2) / 2)


@pytest.mark.gradient
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_nothing_overflows_at_a_target_of_300(dtype):
    """Not even the gradient of what is given out in a narrow dtype."""
    y_pred = np.array([[1.0, 2.0]], "float32")
    for kind, slope in (("l2", 2 * -298), ("l1", -1), ("huber", -1), ("log_cosh", -1)):
        for given in (None, dtype):
            loss = IndexPenalty(1, 300.0, kind=kind, dtype=given)
            narrow = lambda y: ops.cast(loss(y, ops.cast(y, dtype)), "float32")  # noqa: B023, E731
            _, (found,) = vjp(narrow, [y_pred], np.float32(1))
            check_close(found, [[0, slope]], rtol=1e-2)
    assert np.isfinite(to_numpy(IndexPenalty(1, 300.0)(y_pred, ops.cast(y_pred, dtype))))


def test_dtype_is_no_narrower_than_float32_unless_asked_for():
    before = keras.config.floatx()
    try:
        keras.config.set_floatx("float16")
        assert IndexPenalty(1, 300.0).dtype == "float32"
        check_close(IndexPenalty(1, 300.0)(WIDE, WIDE * 0), 90000.0)
    finally:
        keras.config.set_floatx(before)


@pytest.mark.gradient
@pytest.mark.parametrize(
    ("kind", "weight"), in_full_once([("l1", 30.0), ("l2", 1e3)], [("l2", 1e3)])
)
def test_training_reaches_the_target_that_the_weight_allows(kind, weight, tmp_path):
    keras.utils.set_random_seed(0)
    x = RNG.normal(size=(64, 4)).astype("float32")
    y = x @ RNG.normal(size=(4, 3)).astype("float32")
    loss = IndexPenalty(2, 5.0, kind=kind, weight=weight, base_loss="mse")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    schedule = keras.optimizers.schedules.CosineDecay(0.3, 200)
    model.compile(keras.optimizers.Adam(schedule), loss)
    model.fit(x, y, epochs=100, batch_size=32, verbose=0)
    found = model.predict(x, verbose=0)
    check_close(found[:, 2], np.full(64, 5.0), atol=0.05)
    assert np.abs(found - y)[:, :2].mean() < 0.5
    model.save(tmp_path / "model.keras")
    check_holds_no_code(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.loss.get_config() == loss.get_config()
    expected = model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(loaded.evaluate(x, y, verbose=0), expected, rtol=1e-4)
