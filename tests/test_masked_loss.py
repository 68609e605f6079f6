"""`MaskedLoss` and `WeightedSum`: values and gradients by NumPy, weights, masks, saving."""

import keras
import numpy as np
import pytest
from _backend import vjp
from keras import ops
from kit import check_close, check_loss, check_roundtrip, dtype_of

from kedit import X, at, sample
from kedit.errors import CoordinateError, OperandError, PositionError, SavingError, ShapeError
from kedit.losses import IndexPenalty, MaskedLoss, WeightedSum

RNG = np.random.default_rng(0)
PRED = RNG.normal(size=(4, 3)).astype("float32")
TRUE = RNG.normal(size=(4, 3)).astype("float32")
KEPT = np.array([[1, 1, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1]], bool)
HOLES = np.where(KEPT, TRUE, np.nan).astype("float32")
SQUARE = np.where(KEPT, (PRED.astype("float64") - TRUE) ** 2, 0)
COUNTS = KEPT.any(axis=1)
WEIGHTS = np.array([1, 2, 3, 5], "float32")
# Of each normalizer the value of each row.
ROWS = {
    "batch": SQUARE.sum(axis=1) * COUNTS.sum() / KEPT.sum(),
    "row": SQUARE.sum(axis=1) / np.maximum(KEPT.sum(axis=1), 1),
    "size": SQUARE.mean(axis=1),
}
every_normalizer = pytest.mark.parametrize("normalizer", ROWS)


@every_normalizer
def test_values(normalizer):
    rows, rows_that_count = ROWS[normalizer], len(PRED) if normalizer == "size" else COUNTS.sum()
    for weights in (None, WEIGHTS, WEIGHTS[:, None]):
        weighed = rows if weights is None else rows * WEIGHTS
        for reduction, expected in (
            (None, weighed),
            ("sum", weighed.sum()),
            ("sum_over_batch_size", weighed.sum() / rows_that_count),
            ("mean", weighed.sum() / rows_that_count),
        ):
            loss = MaskedLoss("mse", normalizer=normalizer, reduction=reduction)
            check_loss(loss, HOLES, PRED, expected, weights)
    check_close(MaskedLoss("mse", normalizer=normalizer).call(HOLES, PRED), rows)


def test_the_mean_over_all_that_is_there():
    check_loss(MaskedLoss("mse"), HOLES, PRED, SQUARE.sum() / KEPT.sum())
    loss = MaskedLoss("mse", reduction="mean_with_sample_weight")
    each = np.broadcast_to(WEIGHTS[:, None], KEPT.shape) * KEPT
    check_loss(loss, HOLES, PRED, (SQUARE * each).sum() / each.sum(), WEIGHTS)
    check_loss(MaskedLoss("mse"), TRUE, PRED, ((PRED - TRUE) ** 2).mean())


def test_a_weight_for_each_element():
    weights = RNG.random((4, 3)).astype("float32")
    expected = (SQUARE * weights).sum() / KEPT.sum()
    check_loss(MaskedLoss("mse"), HOLES, PRED, expected, weights)


@pytest.mark.gradient
@every_normalizer
def test_gradient(normalizer):
    """Exactly 0 where ignored, with NaN in `y_true` and in `y_pred`."""
    y_pred = np.where(KEPT, PRED, np.nan)
    share = {
        "batch": KEPT.sum(),
        "row": np.maximum(KEPT.sum(axis=1, keepdims=True), 1) * COUNTS.sum(),
        "size": KEPT.size,
    }[normalizer]
    expected = np.where(KEPT, 2 * (PRED - TRUE), 0) / share
    loss = MaskedLoss("mse", normalizer=normalizer)
    for compile in (False, True):
        _, (_, found) = vjp(loss, [HOLES, y_pred], np.float32(1), compile=compile)
        check_close(found, expected)
        assert not found[~KEPT].any()


@every_normalizer
def test_nothing_left_is_zero(normalizer):
    empty = np.full_like(TRUE, np.nan)
    check_loss(MaskedLoss("mse", normalizer=normalizer), empty, PRED, 0.0)
    check_loss(MaskedLoss("mse", normalizer=normalizer), empty, PRED, 0.0, WEIGHTS)


@pytest.mark.parametrize(
    ("ignore", "y_true", "kept"),
    [
        (-1, np.where(KEPT, TRUE, -1), KEPT),
        (-1.0, np.where(KEPT, TRUE, -1), KEPT),
        (float("nan"), HOLES, KEPT),
        (np.array([True, False, True]), TRUE, np.tile([False, True, False], (4, 1))),
        ([True, False, True], TRUE, np.tile([False, True, False], (4, 1))),
        (sample[-1], TRUE, np.tile([True, True, False], (4, 1))),
        (at[:, 1:], TRUE, np.tile([True, False, False], (4, 1))),
        (("nan", sample[0]), HOLES, KEPT & [False, True, True]),
        (("nan", -1), np.where(KEPT, TRUE, np.where(TRUE > 0, -1, np.nan)), KEPT),
    ],
    ids=str,
)
def test_what_is_ignored(ignore, y_true, kept):
    expected = ((PRED - TRUE) ** 2)[kept].mean()
    check_loss(MaskedLoss("mse", ignore), y_true.astype("float32"), PRED, expected)


TIMES = np.array([[True, True], [True, False], [False, False]])


@every_normalizer
def test_mask(normalizer):
    """What a Keras mask masks is ignored as NaN is."""
    y_true, y_pred = RNG.normal(size=(2, 3, 2, 4)).astype("float32")
    y_true[0, 1, 2] = np.nan
    x = ops.where(ops.convert_to_tensor(TIMES)[..., None], ops.convert_to_tensor(y_pred), 0.0)
    masked = keras.layers.Masking()(x)
    holes = np.where(TIMES[..., None], y_true, np.nan)
    loss = MaskedLoss("mse", normalizer=normalizer)
    check_close(loss(y_true, masked), loss(holes, y_pred))
    if normalizer == "batch":
        check_close(loss(y_true, masked), np.nanmean((holes - y_pred) ** 2))
    weights = RNG.random((3, 2)).astype("float32")
    check_close(loss(y_true, masked, weights), loss(holes, y_pred, weights))


def test_labels():
    """One label a row, as of a classifier of every pixel; some of them void."""
    logits = RNG.normal(size=(2, 3, 4)).astype("float32")
    labels = np.array([[0, 3, 255], [255, 1, 2]], "int32")
    e = np.exp(logits.astype("float64"))
    log = np.log(e / e.sum(axis=-1, keepdims=True))
    each = [-log[b, t, labels[b, t]] for b in range(2) for t in range(3) if labels[b, t] != 255]
    base = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for normalizer in ("batch", "row"):
        loss = MaskedLoss(base, 255, normalizer=normalizer)
        check_loss(loss, labels, logits, np.mean(each))
        check_loss(loss, labels[..., None], logits, np.mean(each))
    check_loss(MaskedLoss(base, 255, normalizer="size"), labels, logits, np.sum(each) / 6)
    with pytest.raises(ShapeError, match="one label for each row"):
        MaskedLoss(base, 255)(logits, logits)


OF_ROWS = {
    "categorical_crossentropy": lambda t, p: -(t * np.log(p)).sum(-1),
    "kl_divergence": lambda t, p: (t * np.log(t / p)).sum(-1),
    "categorical_hinge": lambda t, p: np.maximum(0, ((1 - t) * p).max(-1) - (t * p).sum(-1) + 1),
    "cosine_similarity": lambda t, p: (
        -(t * p).sum(-1) / np.linalg.norm(t, axis=-1) / np.linalg.norm(p, axis=-1)
    ),
    "categorical_focal_crossentropy": lambda t, p: -0.25 * (t * (1 - p) ** 2 * np.log(p)).sum(-1),
}
PIXELS = RNG.dirichlet(np.ones(3), (2, 3, 2))
VOID = np.array([[[1, 0], [0, 1], [1, 1]], [[0, 0], [0, 0], [1, 0]]], bool)


@every_normalizer
@pytest.mark.parametrize("name", OF_ROWS)
def test_whole_rows_are_ignored(name, normalizer):
    """Void pixels beside one-hot labels, as keras-team/keras#6118 asks for."""
    soft = RNG.dirichlet(np.ones(3), PIXELS.shape[:-1])
    each = np.where(VOID, 0, OF_ROWS[name](soft, PIXELS))
    count = each.size if normalizer == "size" else (~VOID).sum()
    marked = soft.copy()
    marked[VOID, 1] = np.nan  # one entry is enough
    for ignore, y_true in (
        ("nan", marked),
        (-1, np.where(VOID[..., None], -1, soft)),
        (0, np.where(VOID[..., None], 0, soft)),
        ((255, "nan"), np.where(VOID[..., None], 255, soft)),
    ):
        loss = MaskedLoss(name, ignore, normalizer=normalizer)
        check_loss(check_roundtrip(loss), y_true, PIXELS, each.sum() / count)
        weighed = each * np.array([2.0, 5.0])[:, None, None]
        check_loss(loss, y_true, PIXELS, weighed.sum() / count, np.array([2.0, 5.0]))
    class_name = "".join([part.title() for part in name.split("_")]).replace("KlD", "KLD")
    loss = MaskedLoss(getattr(keras.losses, class_name)(), normalizer=normalizer)
    check_loss(loss, marked, PIXELS, each.sum() / count)
    chosen = MaskedLoss(name, sample[1], normalizer=normalizer)
    rest = OF_ROWS[name](soft, PIXELS)[:, [0, 2]]
    check_loss(chosen, soft, PIXELS, rest.sum() / (12 if normalizer == "size" else 8))


@pytest.mark.gradient
def test_gradient_of_whole_rows():
    soft = RNG.dirichlet(np.ones(3), PIXELS.shape[:-1])
    y_true = np.where(VOID[..., None], np.nan, soft)
    y_pred = np.where(VOID[..., None] & (PIXELS < 0.2), np.nan, PIXELS)
    logits = keras.losses.CategoricalCrossentropy(from_logits=True)
    loss = MaskedLoss(logits)
    _, (gradient,) = vjp(lambda y: loss(y_true, y), [y_pred.astype("float32")], np.float32(1))
    exp = np.exp(PIXELS - PIXELS.max(-1, keepdims=True))
    expected = (exp / exp.sum(-1, keepdims=True) - soft) / (~VOID).sum()
    check_close(gradient, np.where(VOID[..., None], 0, expected))


@pytest.mark.gradient
def test_a_row_loss_trains_with_a_mask_and_void_labels():
    x = RNG.normal(size=(8, 5, 2)).astype("float32")
    x[:, 3:] = 0
    y = np.eye(3)[RNG.integers(0, 3, (8, 5))].astype("float32")
    y[:2] = np.nan
    model = keras.Sequential(
        [keras.Input((5, 2)), keras.layers.Masking(), keras.layers.Dense(3, "softmax")]
    )
    model.compile("sgd", MaskedLoss("categorical_crossentropy"))
    found = model.evaluate(x, y, verbose=0)
    p = model.predict(x, verbose=0)
    expected = -np.log(p[2:, :3][y[2:, :3] == 1]).mean()
    np.testing.assert_allclose(found, expected, 1e-5)
    history = model.fit(x, y, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_y_true_may_lack_a_last_axis_of_size_1():
    check_loss(MaskedLoss("mse"), HOLES[:, 0], PRED[:, :1], SQUARE[:, 0].sum() / KEPT[:, 0].sum())


def quartic(y_true, y_pred):
    return ops.mean((y_true - y_pred) ** 4, axis=-1)


def test_base_loss_of_ones_own():
    check_close(MaskedLoss(quartic)(HOLES, PRED), (SQUARE**2).sum() / KEPT.sum())
    with pytest.raises(SavingError, match="register_keras_serializable"):
        MaskedLoss(quartic).get_config()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: MaskedLoss(None), OperandError),
        (lambda: MaskedLoss("mse", None), OperandError),
        (lambda: MaskedLoss("mse", "none"), OperandError),
        (lambda: MaskedLoss("mse", True), OperandError),
        (lambda: MaskedLoss("mse", [0, None]), OperandError),
        (lambda: MaskedLoss("mse", sample.where(X > 0)), OperandError),
        (lambda: MaskedLoss("mse", at[0]), CoordinateError),
        (lambda: MaskedLoss("mse", sample[3])(TRUE, PRED), PositionError),
        (lambda: MaskedLoss("mse", normalizer="mean"), OperandError),
        (lambda: MaskedLoss(keras.losses.CategoricalCrossentropy(axis=1)), OperandError),
        (lambda: MaskedLoss("categorical_crossentropy", sample[0])(TRUE, PRED), OperandError),
        (lambda: MaskedLoss("kl_divergence", np.eye(3, dtype=bool)[0])(TRUE, PRED), OperandError),
        (lambda: MaskedLoss("cosine_similarity")(TRUE, PRED, np.ones((4, 3))), ShapeError),
        (lambda: MaskedLoss(keras.losses.Dice()), OperandError),
        (lambda: MaskedLoss(WeightedSum(["mse"])), OperandError),
        (lambda: MaskedLoss("mse")(TRUE[:, :2], PRED), ShapeError),
        (lambda: MaskedLoss("mse")(TRUE[:, 0], PRED), ShapeError),
        (lambda: MaskedLoss(lambda t, p: ops.sum(p))(TRUE, PRED), ShapeError),
        (lambda: MaskedLoss("mse")(TRUE, PRED, np.ones(3)), ShapeError),
        (lambda: WeightedSum([]), OperandError),
        (lambda: WeightedSum("mse"), OperandError),
        (lambda: WeightedSum([None]), OperandError),
        (lambda: WeightedSum(["mse", "mae"], [1.0]), OperandError),
    ],
)
def test_errors(make, error):
    with pytest.raises(error, match="Received"):
        make()


def test_narrow_dtypes_hold_what_is_given_out_only():
    loss = MaskedLoss("mse", dtype="float16")
    assert dtype_of(loss(HOLES, PRED)) == check_roundtrip(loss).dtype == "float16"
    far = ops.cast(ops.convert_to_tensor(PRED * 0 + 300), "float16")
    check_close(MaskedLoss("mse")(TRUE * 0, far), 90000.0)


# --- WeightedSum -------------------------------------------------------------------------------


def test_weighted_sum():
    penalty = IndexPenalty(1, 2.0, kind="l1")
    mse, mae = ((PRED - TRUE) ** 2).mean(axis=1), abs(PRED - TRUE).mean(axis=1)
    l1 = abs(PRED[:, 1] - 2)
    each = 0.5 * mse + 2 * mae + 3 * l1
    parts, weights = ["mse", keras.losses.mean_absolute_error, penalty], [0.5, 2, 3]
    loss = WeightedSum(parts, weights)
    check_loss(loss, TRUE, PRED, each.mean())
    check_loss(loss, TRUE, PRED, (each * WEIGHTS).mean(), WEIGHTS)
    check_close(loss.call(TRUE, PRED), each)
    check_loss(WeightedSum(parts), TRUE, PRED, (mse + mae + l1).mean())
    parts[2] = IndexPenalty(1, 2.0, kind="l1", reduction="sum")  # keeps its own
    summed = (0.5 * mse + 2 * mae).sum() + 3 * l1.sum()
    check_loss(WeightedSum(parts, weights, reduction="sum"), TRUE, PRED, summed)


def test_weighted_sum_of_timesteps_and_samples_does_not_mix_axes():
    y_pred = RNG.normal(size=(2, 2, 3)).astype("float32")
    parts = [
        keras.losses.MeanSquaredError(reduction=None),
        IndexPenalty((0, 1), 0.0, reduction=None),
    ]
    expected = (y_pred**2).mean(axis=-1) + y_pred[:, :1, 1] ** 2
    check_loss(WeightedSum(parts, reduction=None), y_pred * 0, y_pred, expected)


@pytest.mark.gradient
def test_gradient_of_a_weighted_sum():
    loss = WeightedSum(["mse", IndexPenalty(1, 2.0)], [1.0, 0.5])
    expected = 2 * (PRED - TRUE) / PRED.size
    expected[:, 1] += (PRED[:, 1] - 2) / len(PRED)
    for compile in (False, True):
        _, (_, found) = vjp(loss, [TRUE, PRED], np.float32(1), compile=compile)
        check_close(found, expected)
