"""`IndexViolation`: by NumPy, over batches, in `fit`, saved."""

import keras
import numpy as np
import pytest
from keras import ops
from kit import check_close, check_roundtrip, dtype_of, in_full_once

from kedit import at, sample
from kedit.errors import CoordinateError, OperandError, PositionError, ShapeError
from kedit.metrics import IndexViolation

RNG = np.random.default_rng(0)
DEEP = RNG.normal(size=(4, 2, 3)).astype("float32")
TRUE = np.where(RNG.random(DEEP.shape) < 0.5, RNG.normal(size=DEEP.shape), np.nan)
TRUE = TRUE.astype("float32")
REDUCE = {
    "mean": lambda r, w: (abs(r) * w).sum() / w.sum(),
    "max": lambda r, w: abs(r)[w > 0].max(),
    "satisfied": lambda r, w: ((abs(r) <= 0.5) * w).sum() / w.sum(),
}
every_reduction = pytest.mark.parametrize("reduce", REDUCE)


def found(reduce, batches, *arguments, **options):
    metric = IndexViolation(*arguments, reduce=reduce, tolerance=0.5, **options)
    results = []
    for one in (metric, check_roundtrip(metric)):
        for _ in range(2):
            one.reset_state()
            for batch in batches:
                one.update_state(*batch)
        results.append(one.result())
    np.testing.assert_array_equal(*[ops.convert_to_numpy(result) for result in results])
    return results[0]


def test_names_say_what_is_logged():
    names = [IndexViolation(2, 0.0, reduce=reduce).name for reduce in REDUCE]
    assert names == ["index_violation", "max_index_violation", "index_satisfied"]
    assert IndexViolation(2, 0.0, name="gap").name == "gap"


@every_reduction
def test_target(reduce):
    batches = [(DEEP[:3], DEEP[:3]), (DEEP[3:], DEEP[3:])]
    r = DEEP[..., 1] - 0.25
    check_close(found(reduce, batches, sample[..., 1], 0.25), REDUCE[reduce](r, np.ones(r.shape)))


@every_reduction
def test_bounds(reduce):
    r = DEEP[:, 1] - np.clip(DEEP[:, 1], -0.3, 0.3)
    batches = [(None, DEEP)]
    expected = REDUCE[reduce](r, np.ones(r.shape))
    check_close(found(reduce, batches, 1, lower=-0.3, upper=0.3), expected)


@every_reduction
@pytest.mark.parametrize(
    "weights", [[1, 0, 2, 3], [[1], [0], [2], [3]], [[1, 2], [0, 1], [3, 0], [0, 0]]], ids=str
)
def test_what_is_free_and_what_weighs(reduce, weights):
    """NaN is free; a weight is of a sample or of a timestep."""
    weights = np.array(weights, "float32")
    full = weights.reshape(*weights.shape, *[1] * (3 - weights.ndim)) * np.ones(DEEP.shape)
    for index, picked in ((..., np.s_[:]), ((0, [0, 2]), np.s_[:, 0, [0, 2]])):
        r, w = (DEEP - TRUE)[picked], full[picked]
        w = w * ~np.isnan(r)
        expected = REDUCE[reduce](np.nan_to_num(r), w)
        check_close(found(reduce, [(TRUE, DEEP, weights)], index, "y_true"), expected)


@every_reduction
def test_mask(reduce):
    times = np.array([[True, True], [True, False], [False, False], [False, True]])
    x = ops.where(ops.convert_to_tensor(times)[..., None], ops.convert_to_tensor(DEEP), 0.0)
    masked = keras.layers.Masking()(x)
    metric = IndexViolation(sample[..., 1], 0.25, reduce=reduce, tolerance=0.5)
    metric.update_state(DEEP, masked)
    r = (DEEP[..., 1] - 0.25)[times]
    check_close(metric.result(), REDUCE[reduce](r, np.ones(r.shape)))


def test_nothing_to_compare_with_is_satisfied():
    free = np.full_like(DEEP, np.nan)
    for reduce, expected in (("mean", 0), ("max", 0), ("satisfied", 1)):
        check_close(found(reduce, [(free, DEEP)], 1, "y_true"), expected)
        check_close(found(reduce, [], 1, "y_true"), expected)


def test_nan_of_the_model_is_no_success():
    for reduce in REDUCE:
        value = float(found(reduce, [(None, DEEP * np.nan)], 1, 0.0))
        assert value == 0.0 if reduce == "satisfied" else np.isnan(value)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_predictions_do_not_overflow(dtype):
    metric = IndexViolation(1, 300.0)
    metric.update_state(None, ops.cast(ops.convert_to_tensor(DEEP * 0), dtype))
    assert dtype_of(metric.result()) == "float32"
    check_close(metric.result(), 300.0)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: IndexViolation(1, 0.0, reduce="sum"), OperandError),
        (lambda: IndexViolation(1), OperandError),
        (lambda: IndexViolation(1, "target"), OperandError),
        (lambda: IndexViolation(at[0], 0.0), CoordinateError),
        (lambda: IndexViolation(2, 0.0).update_state(None, DEEP), PositionError),
        (lambda: IndexViolation(1, [0.0] * 2).update_state(None, DEEP), ShapeError),
        (lambda: IndexViolation(1, 0.0).update_state(None, DEEP, np.ones(3)), ShapeError),
    ],
)
def test_errors(make, error):
    with pytest.raises(error, match=r"Received|named|should"):
        make()


@pytest.mark.usefixtures("without_building")
@pytest.mark.gradient
@pytest.mark.parametrize("jit_compile", in_full_once([False, True], [False]))
def test_logs_in_fit_and_ends_a_run_that_cannot_reach_its_target(jit_compile, tmp_path):
    """Output 1 lies in (-1, 1): the target 3 is missed by 2, which is what the metric says."""
    x = RNG.normal(size=(64, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="tanh")])
    metrics = [IndexViolation(1, 3.0), IndexViolation(1, 3.0, reduce="satisfied")]
    weighted = [IndexViolation(1, 3.0, reduce="max", name="gap")]
    model.compile(
        keras.optimizers.SGD(1.0),
        lambda t, p: ops.mean((p[:, 1:] - 3.0) ** 2, axis=-1),
        metrics=metrics,
        weighted_metrics=weighted,
        jit_compile=jit_compile,
    )
    stop = keras.callbacks.EarlyStopping("index_violation", min_delta=0.05, patience=2, mode="min")
    logs = model.fit(
        x, x[:, :2], sample_weight=np.ones(64), epochs=60, verbose=0, callbacks=[stop]
    ).history
    assert len(logs["index_violation"]) < 60
    assert 2 <= logs["index_violation"][-1] < 2.2
    assert 2 <= logs["gap"][-1] < 2.5
    assert logs["index_satisfied"][-1] == 0
