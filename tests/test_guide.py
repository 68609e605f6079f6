"""`IndexGuide`, alone: loss and gradient in closed form, ascent, masks, precision, saving."""

import keras
import numpy as np
import pytest
from _backend import tensors, to_numpy, vjp
from keras import ops
from kit import check_close, check_roundtrip, dtype_of, saved_and_loaded

from kedit import at, sample
from kedit.errors import CoordinateError, OperandError, PositionError, ShapeError
from kedit.layers import Editing, IndexGuide

RNG = np.random.default_rng(0)
BATCH = RNG.normal(size=(5, 4)).astype("float32")
DEEP = RNG.normal(size=(5, 2, 3)).astype("float32")
WANTED = {
    "target": ({"target": 0.5}, lambda x: x - 0.5),
    "targets": ({"target": [0.5, -1.0]}, lambda x: x - [0.5, -1.0]),
    "lower": ({"lower": 0.25}, lambda x: np.minimum(x - 0.25, 0)),
    "upper": ({"upper": 0.25}, lambda x: np.maximum(x - 0.25, 0)),
    "both": ({"lower": -0.25, "upper": 0.25}, lambda x: x - np.clip(x, -0.25, 0.25)),
}
every_wanted = pytest.mark.parametrize(("wanted", "r"), WANTED.values(), ids=WANTED.keys())
INDEX = [3, 1]


def guide_of(batch, multiplier=None, **options):
    guide = IndexGuide(**{"index": INDEX, **options})
    guide.build((None, *batch.shape[1:]))
    if multiplier is not None:
        guide.multiplier.assign(np.array(multiplier, "float32"))
    return guide


def formula(x, r, reduce, m, p):
    """The loss of the chosen elements, its gradient, and what is seen."""
    n = len(x)
    if reduce == "each":
        seen = abs(r(x)).mean(axis=0)
        loss = m * seen + p / 2 * (r(x) ** 2).mean(axis=0)
        return loss.sum(), (m * np.sign(r(x)) + p * r(x)) / n, seen
    mean = x.mean(axis=0)
    shifted = r(mean + np.divide(m, p))
    loss = p / 2 * shifted**2 - np.square(m) / (2 * p)
    return loss.sum(), np.tile(p * shifted / n, (n, 1)), mean


def loss_of(guide, x, **options):
    before = len(guide.losses)
    y = guide(x, **options)
    return y, guide.losses[before]


@every_wanted
@pytest.mark.parametrize("reduce", ["each", "mean"])
def test_loss(wanted, r, reduce):
    for m in ([0.0, 0.0], [0.7, -0.4] if reduce == "mean" else [0.7, 0.4]):
        guide = guide_of(BATCH, m, reduce=reduce, penalty=3.0, **wanted)
        y = guide(ops.convert_to_tensor(BATCH))
        np.testing.assert_array_equal(to_numpy(y), BATCH)
        expected, *_ = formula(BATCH[:, INDEX].astype("float64"), r, reduce, np.array(m), 3.0)
        (loss,) = guide.losses
        check_close(loss, expected)
        assert dtype_of(loss) == "float32"


@pytest.mark.gradient
@every_wanted
@pytest.mark.parametrize("reduce", ["each", "mean"])
def test_gradient(wanted, r, reduce):
    m = [0.7, -0.4] if reduce == "mean" else [0.7, 0.4]
    guide = guide_of(BATCH, m, reduce=reduce, penalty=3.0, **wanted)
    _, slope, _ = formula(BATCH[:, INDEX].astype("float64"), r, reduce, np.array(m), 3.0)
    expected = np.full(BATCH.shape, 2.0)
    expected[:, INDEX] += slope

    def total(x):
        y = guide(x)
        return 2.0 * ops.sum(y) + guide.losses[-1]

    _, (found,) = vjp(total, [BATCH], np.float32(1))
    check_close(found, expected)


@pytest.mark.gradient
def test_gradient_where_the_target_is_met_or_free_is_none():
    x = BATCH.copy()
    x[0, 3] = 0.5
    guide = guide_of(x, [0.7, 0.0], target=[0.5, np.nan])
    _, (found,) = vjp(lambda x: (guide(x), guide.losses[-1])[1], [x], np.float32(1))
    assert found[0, 3] == 0
    assert not found[:, :3].any()
    assert found[1:, 3].all()


def test_fixed_point_is_the_multiplier_that_balances_the_other_loss():
    """min x**2 subject to x = 3 or x >= 3: the multiplier is -6, in one ascent a step."""
    for wanted, reduce in (({"target": 3.0}, "mean"), ({"lower": 3.0}, "mean")):
        guide, x, p = (
            guide_of(np.zeros((1, 1)), index=0, reduce=reduce, penalty=2.0, **wanted),
            0.0,
            2.0,
        )
        for _ in range(40):
            m = float(to_numpy(guide.multiplier))
            x = (p * 3 - m) / (2 + p)  # where the slope of both losses together is 0
            guide(np.array([[x]], "float32"), training=True)
            guide.ascend(2.0)
        check_close(guide.multiplier, -6.0, atol=1e-4)
        assert abs(x - 3) < 1e-4


@every_wanted
@pytest.mark.parametrize("reduce", ["each", "mean"])
def test_ascent(wanted, r, reduce):
    """By what was seen in training, of all batches, since the last one."""
    m = np.array([0.7, -0.4] if reduce == "mean" else [0.7, 0.4])
    guide = guide_of(BATCH, m, reduce=reduce, **wanted)
    for batch, training in ((BATCH[:3], True), (BATCH + 9, False), (BATCH[3:], True)):
        guide(ops.convert_to_tensor(batch), training=training)
    _, _, seen = formula(BATCH[:, INDEX].astype("float64"), r, reduce, m, 1.0)
    expected = m + 0.5 * seen if reduce == "each" else 0.5 * r(seen + m / 0.5)
    guide.ascend(0.5)
    check_close(guide.multiplier, expected)
    guide.ascend(0.5)  # nothing was seen
    check_close(guide.multiplier, expected)
    guide(ops.convert_to_tensor(BATCH), training=True)
    guide.ascend(1e9, max_multiplier=2.0)
    assert np.abs(to_numpy(guide.multiplier)).max() <= 2


def test_multipliers_of_bounds_keep_their_sign():
    """An upper bound pushes down only; far inside the multiplier comes back to 0 exactly."""
    guide = guide_of(BATCH, [0.5, 0.5], reduce="mean", upper=0.0)
    guide(np.full((2, 4), -100.0, "float32"), training=True)
    guide.ascend(1.0)
    assert to_numpy(guide.multiplier).tolist() == [0, 0]


def test_what_is_not_finite_is_not_seen():
    x = BATCH.copy()
    x[0, 3], x[1, 1] = np.nan, np.inf
    guide = guide_of(x, target=0.5)
    guide(x, training=True)
    guide.ascend(1.0)
    expected = [abs(x[1:, 3] - 0.5).mean(), abs(np.delete(x[:, 1], 1) - 0.5).mean()]
    check_close(guide.multiplier, expected)


def test_mask():
    times = np.array([[True, True], [True, False], [False, False], [False, True], [False, False]])
    guide = guide_of(DEEP, [[2.0], [3.0]], index=sample[:, 1:2], target=0.5)
    loss_of(guide, ops.convert_to_tensor(DEEP), mask=ops.convert_to_tensor(times), training=True)
    r = DEEP[:, :, 1] - 0.5
    expected = 0
    for n, m in ((0, 2.0), (1, 3.0)):
        one = r[times[:, n], n]
        expected += m * abs(one).mean() + (one**2).mean() / 2
    check_close(guide.losses[0], expected)
    guide.ascend(1.0)
    expected = [[m + abs(r[times[:, n], n]).mean()] for n, m in ((0, 2.0), (1, 3.0))]
    check_close(guide.multiplier, expected)
    assert guide.supports_masking


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_narrow_dtypes(dtype):
    """The output is narrow, the state and the loss are not: 300 squared is no infinity."""
    guide = IndexGuide(2, 300.0, dtype=dtype)
    y = guide(ops.convert_to_tensor(BATCH))
    assert dtype_of(y) == guide.compute_dtype == dtype.removeprefix("mixed_")
    assert dtype_of(guide.losses[0]) == dtype_of(guide.multiplier) == "float32"
    x = to_numpy(ops.cast(y, "float32")).astype("float64")[:, 2]
    check_close(guide.losses[0], ((x - 300) ** 2).mean() / 2)
    assert dtype_of(guide(keras.Input((4,)))) == guide.compute_dtype


def test_symbolic_shapes_and_config(tmp_path):
    inputs = keras.Input((None, 3))
    guide = IndexGuide(sample[0, 1], 0.5, reduce="mean", penalty=2.0, name="guide")
    outputs = guide(inputs)
    assert outputs.shape == (None, None, 3)
    model = keras.Model(inputs, outputs)
    assert guide.count_params() == 4
    guide.multiplier.assign(-19.5)
    guide.penalty.assign(7.0)
    loaded = saved_and_loaded(model, tmp_path / "model.keras").get_layer("guide")
    assert float(to_numpy(loaded.multiplier)) == -19.5
    assert float(to_numpy(loaded.penalty)) == 7.0
    assert loaded.get_config() == guide.get_config() == check_roundtrip(guide).get_config()
    np.testing.assert_array_equal(model.predict(DEEP, verbose=0), DEEP)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: IndexGuide(at[0], 0.0), CoordinateError),
        (lambda: IndexGuide(0), OperandError),
        (lambda: IndexGuide(0, "y_true"), OperandError),
        (lambda: IndexGuide(0, 0.0, reduce="sum"), OperandError),
        (lambda: IndexGuide(0, 0.0, penalty=0.0), OperandError),
        (lambda: IndexGuide(0, 0.0, penalty=float("nan")), OperandError),
        (lambda: IndexGuide(4, 0.0)(keras.Input((4,))), PositionError),
        (lambda: IndexGuide(4, 0.0)(BATCH), PositionError),
        (lambda: IndexGuide(sample[..., 1], 0.0)(keras.Input((None, 3))), PositionError),
        (lambda: IndexGuide(0, [0.0, 1.0])(keras.Input((4,))), ShapeError),
    ],
)
def test_errors(make, error):
    with pytest.raises(error, match=r"Received|should"):
        make()


@pytest.mark.gradient
def test_projection_onto_a_box_by_editing():
    """`max` of the lower bound, then `min` of the upper: exact, with no gradient outside."""
    low, high = np.array([-0.5, 0.0], "float32"), np.array([0.5, 0.25], "float32")
    project = Editing(sample[INDEX].max(low) | sample[INDEX].min(high))
    expected = BATCH.copy()
    expected[:, INDEX] = np.clip(BATCH[:, INDEX], low, high)
    for compile in (False, True):
        value, (found,) = vjp(project, [BATCH], np.ones_like(BATCH), compile=compile)
        np.testing.assert_array_equal(value, expected)
        np.testing.assert_array_equal(found, expected == BATCH)
    (again,) = tensors([expected])
    np.testing.assert_array_equal(to_numpy(project(again)), expected)
