"""`IndexPenalty` against its formula in NumPy: value, gradient, reduction, saving, training."""

import keras
import numpy as np
import pytest
from _backend import to_numpy, vjp
from keras import ops
from kit import check_close, check_holds_no_code, check_loss, check_roundtrip, dtype_of

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

# index as given, y_pred, what it picks from one sample
CASES = [
    (2, WIDE, S[2]),
    (-1, WIDE, S[-1]),
    (S[1:3], WIDE, S[1:3]),
    (S[::-2], WIDE, S[::-2]),
    ([3, 0], WIDE, S[[3, 0]]),
    (MASK, WIDE, MASK),
    (sample[2], WIDE, S[2]),
    (sample[..., 2], DEEP, S[..., 2]),
    (at[:, 2], WIDE, S[2]),
    (at[..., 1:], DEEP, S[..., 1:]),
    (at[None, ..., 2], WIDE, S[2]),
    ((slice(None), 2), DEEP, S[:, 2]),
    ((1, [0, 3]), DEEP, S[1, [0, 3]]),
    (([0, 1], [3, 0]), DEEP, S[[0, 1], [3, 0]]),
    (S[..., None, [3, 0]], DEEP, S[..., [3, 0]]),
    (at[:, [0, 1], :, [1, 3]], np.stack([DEEP, -DEEP], axis=1), S[[0, 1], :, [1, 3]]),
    ((), WIDE, S[()]),
]
every_case = pytest.mark.parametrize(
    ("index", "y_pred", "picked"), CASES, ids=lambda v: str(v)[:25]
)


def penalties(y_pred, picked, target, kind, weight):
    """The penalty of each sample, and its gradient for `y_pred` by the formula."""
    each, gradient = [], np.zeros(y_pred.shape)
    for sample_pred, row in zip(y_pred.astype("float64"), gradient, strict=True):
        r = sample_pred[picked] - target
        each.append(weight * np.mean(r**2 if kind == "l2" else abs(r)))
        row[picked] = weight * (2 * r if kind == "l2" else np.sign(r)) / np.size(r)
    return np.array(each), gradient


@every_case
@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_formula(index, y_pred, picked, kind):
    y_true = np.zeros_like(y_pred)
    each, _ = penalties(y_pred, picked, 0.5, kind, 0.3)
    for reduction, expected in (
        (None, each),
        ("none", each),
        ("sum", each.sum()),
        ("sum_over_batch_size", each.mean()),
        ("mean_with_sample_weight", each.mean()),
    ):
        loss = IndexPenalty(index, 0.5, kind=kind, weight=0.3, reduction=reduction)
        check_loss(loss, y_true, y_pred, expected)


@pytest.mark.gradient
@every_case
def test_gradient(index, y_pred, picked):
    """Exactly 0 off the index, and 0 for "l1" where the target is met."""
    y_pred = y_pred.copy()
    y_pred[0][picked] = 0.5
    upstream = np.array([1, 10, 100], "float32")
    for kind in ("l1", "l2"):
        loss = IndexPenalty(index, 0.5, kind=kind, weight=3.0)
        _, expected = penalties(y_pred, picked, 0.5, kind, 3.0)
        _, (found,) = vjp(lambda y, loss=loss: loss.call(y, y), [y_pred], upstream)
        check_close(found, expected * upstream.reshape(-1, *[1] * (y_pred.ndim - 1)), atol=1e-4)
        assert not found[expected == 0].any()


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
    each, _ = penalties(DEEP, S[:, 1:3], target, "l2", 1.0)
    check_loss(loss, DEEP, DEEP, each)


@pytest.mark.parametrize("weights", [[1, 1, 1], [0, 1, 2], [[0], [1], [2]]])
def test_sample_weight(weights):
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
        check_loss(loss, y_true, WIDE, expected, ops.convert_to_tensor(weights))


def test_sample_weight_may_be_a_list_as_for_every_keras_loss():
    loss = IndexPenalty(2, 0.5)
    each, _ = penalties(WIDE, 2, 0.5, "l2", 1.0)
    expected = keras.losses.MeanSquaredError()(WIDE * 0, WIDE, sample_weight=[0.0, 1.0, 2.0])
    assert np.isfinite(to_numpy(expected))
    check_close(loss(WIDE, WIDE, sample_weight=[0.0, 1.0, 2.0]), (each * [0, 1, 2]).mean())


def test_a_sample_of_weight_zero_has_no_part():
    y_pred = np.array([[0, 0, 999], [0, 0, 40], [0, 0, 60]], "float32")
    loss = IndexPenalty(2, 50.0, kind="l1", reduction="mean_with_sample_weight")
    check_loss(loss, y_pred, y_pred, 10.0, np.array([0.0, 1.0, 1.0], "float32"))
    with pytest.raises(ShapeError, match="one weight for each sample"):
        loss(DEEP, DEEP, np.ones((3, 2), "float32"))


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


def test_saving_a_base_loss_that_is_code_raises():
    loss = IndexPenalty(2, 0.5, base_loss=lambda y_true, y_pred: 0 * y_pred[:, 0])
    with pytest.raises(SavingError, match="register_keras_serializable"):
        loss.get_config()


def test_no_reduction_of_a_base_loss_with_timesteps_never_mixes_axes():
    """The base loss has one value a timestep, the penalty one a sample: that sample's."""
    square = DEEP[:2]  # as many samples as timesteps
    loss = IndexPenalty((0, 2), 0.5, base_loss=keras.losses.mean_squared_error, reduction=None)
    each, _ = penalties(square, S[0, 2], 0.5, "l2", 1.0)
    try:
        found = loss(square * 0, square)
    except EditError:
        return
    check_close(found, (square**2).mean(axis=-1) + each[:, None])


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
@pytest.mark.parametrize(("kind", "weight"), [("l1", 30.0), ("l2", 1e3)])
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
