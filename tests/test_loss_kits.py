"""The kits for losses and metrics find each planted fault, under its kind; and kedit passes."""

import keras
import numpy as np
import pytest
from keras import ops

from kedit.errors import OperandError
from kedit.losses import IndexPenalty, MaskedLoss
from kedit.metrics import IndexViolation
from kedit.testing import check_loss, check_metric

RNG = np.random.default_rng(0)
TRUE, PRED = RNG.normal(size=(2, 4, 3)).astype("float32")
DEEP_TRUE, DEEP_PRED = RNG.normal(size=(2, 4, 2, 3)).astype("float32")
CHOSEN = np.array([False, True, False])
registered = keras.saving.register_keras_serializable("checked_losses")
# What NumPy cannot train it is not asked to, and what trains is trained by one way in most tests.
ONE_WAY = {"jit_compile": (False,)}


# --- Losses ------------------------------------------------------------------------------------


@registered
class Distance(keras.losses.Loss):
    """Squared distance of one element of each sample to a target: as a loss should be."""

    def __init__(self, index=1, name="distance", reduction="sum_over_batch_size", dtype=None):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.index = index

    def call(self, y_true, y_pred):
        return ops.square(y_true[:, self.index] - y_pred[:, self.index])

    def get_config(self):
        return {**super().get_config(), "index": self.index}


@registered
class ForgetsName(Distance):
    def __init__(self, index=1, name=None, **options):
        super().__init__(index, **options)


@registered
class IsInfinite(Distance):
    def call(self, y_true, y_pred):
        return super().call(y_true, y_pred) + np.inf


@registered
class ComputesInFloat32(Distance):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return ops.cast(super().__call__(y_true, y_pred, sample_weight), "float32")


@registered
class TakesTheDtypeOfPredictions(Distance):
    def __call__(self, y_true, y_pred, sample_weight=None):
        given = keras.backend.standardize_dtype(y_pred.dtype)
        found = super().__call__(y_true, y_pred, sample_weight)
        return ops.cast(found, given) if given != "float32" else found


@registered
class IgnoresReduction(Distance):
    def __init__(self, *args, reduction=None, **options):
        super().__init__(*args, **options)


@registered
class AlwaysMeans(Distance):
    def call(self, y_true, y_pred):
        return ops.mean(super().call(y_true, y_pred))


@registered
class IgnoresWeights(Distance):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return super().__call__(y_true, y_pred)


@registered
class DependsOnTheBatch(Distance):
    def call(self, y_true, y_pred):
        each = super().call(y_true, y_pred)
        return each / (1.0 + ops.sum(each))


@registered
class IgnoresTheMask(Distance):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return super().__call__(y_true, y_pred + 0.0, sample_weight)


@registered
class HasNoGradient(Distance):
    def call(self, y_true, y_pred):
        return super().call(y_true, ops.stop_gradient(y_pred))


@registered
class HasHalfOfIt(Distance):
    def call(self, y_true, y_pred):
        return super().call(y_true, (y_pred + ops.stop_gradient(y_pred)) / 2)


@registered
class HasGradientOfNaN(Distance):
    def call(self, y_true, y_pred):
        zero = y_pred[:, 0] - y_pred[:, 0]
        return super().call(y_true, y_pred) + ops.where(zero > 0, 1.0 / zero, 0.0)


@registered
class ReadsAll(Distance):
    def call(self, y_true, y_pred):
        return super().call(y_true, y_pred) + 0.5 * ops.mean(y_pred, axis=-1)


@registered
class ForgetsArgument(Distance):
    def get_config(self):
        config = super().get_config()
        del config["index"]
        return config


@registered
class KeepsArray(Distance):
    def get_config(self):
        return {**super().get_config(), "index": np.int64(self.index)}


class IsNotRegistered(Distance):
    pass


LOSS_FAULTS = {
    ForgetsName: {"values"},
    ComputesInFloat32: {"dtypes"},
    TakesTheDtypeOfPredictions: {"mixed precision"},
    IgnoresReduction: {"reduction", "sample weights", "batch independence", "masks"},
    AlwaysMeans: {"reduction", "sample weights", "batch independence", "masks"},
    IgnoresWeights: {"sample weights"},
    DependsOnTheBatch: {"batch independence"},
    IgnoresTheMask: {"masks"},
    HasNoGradient: {"gradients"},
    HasHalfOfIt: {"gradients"},
    HasGradientOfNaN: {"gradients"},
    ReadsAll: {"chosen elements"},
    ForgetsArgument: {"saving"},
    KeepsArray: {"saving"},
    IsNotRegistered: {"saving"},
}
NEED_GRADIENTS = {HasNoGradient, HasHalfOfIt, HasGradientOfNaN}


def made(loss):
    """A factory; what forgets its argument is given another than the default."""
    return lambda **options: loss(2 if loss is ForgetsArgument else 1, **options)


def test_a_loss_that_keeps_the_contract_passes():
    expected = np.square(TRUE[:, 1] - PRED[:, 1]).mean()
    report = check_loss(made(Distance), TRUE, PRED, expected, chosen=CHOSEN, **ONE_WAY)
    assert report.passes
    assert set(report.kinds) >= {"values", "dtypes", "masks", "saving", "chosen elements"}


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(loss, marks=pytest.mark.gradient if loss in NEED_GRADIENTS else ())
        for loss in LOSS_FAULTS
    ],
    ids=lambda loss: loss.__name__,
)
def test_a_fault_of_a_loss_is_found_under_its_kind(loss):
    chosen = CHOSEN if loss is ReadsAll else None
    found = check_loss(
        made(loss), TRUE, PRED, chosen=chosen, jit_compile=(), raise_on_failure=False
    )
    assert set(found.failed_kinds) == LOSS_FAULTS[loss]


def test_another_value_is_found():
    with pytest.raises(AssertionError, match=r"the loss: 7.0 is expected. Received: "):
        check_loss(made(Distance), TRUE, PRED, 7.0, only="values")
    with pytest.raises(AssertionError, match=r"a finite loss is expected. Received: inf"):
        check_loss(IsInfinite, TRUE, PRED, only="values")


def test_predictions_that_are_changed_are_found():
    class Sorts(Distance):
        def __call__(self, y_true, y_pred, sample_weight=None):
            if isinstance(y_pred, np.ndarray):
                y_pred.sort()
            return super().__call__(y_true, y_pred, sample_weight)

    report = check_loss(Sorts, TRUE, PRED, only=("purity",), raise_on_failure=False)
    assert report.failed_kinds == ["purity"]
    assert "`y_pred` should stay" in report.outcomes[0].message


@pytest.mark.gradient
def test_a_loss_by_which_nothing_learns_is_found():
    report = check_loss(
        HasNoGradient, TRUE, PRED, only="training", raise_on_failure=False, **ONE_WAY
    )
    (outcome,) = report.outcomes
    assert outcome.status != "passes"


@pytest.mark.parametrize("check", [check_loss, check_metric], ids=["loss", "metric"])
def test_kinds_that_there_are_not_are_refused(check):
    with pytest.raises(OperandError, match="`skip` should name kinds"):
        check(Distance, TRUE, PRED, skip="duplicates")


# --- Losses of kedit ---------------------------------------------------------------------------


def test_index_penalty():
    expected = np.square(PRED[:, 1] - 0.5).mean()
    check_loss(
        lambda **options: IndexPenalty(1, 0.5, **options),
        *(TRUE, PRED, expected),
        chosen=CHOSEN,
        **ONE_WAY,
    )


@pytest.mark.parametrize("kind", ["l2", "l1", "huber", "log_cosh"])
def test_index_penalty_with_a_base_loss(kind):
    check_loss(
        lambda **options: IndexPenalty(1, "y_true", kind=kind, base_loss="mse", **options),
        *(TRUE, PRED),
        skip=("training", "saving"),
        **ONE_WAY,
    )


def test_index_penalty_of_timesteps():
    check_loss(
        lambda **options: IndexPenalty((..., 2), lower=-0.5, upper=0.25, **options),
        *(DEEP_TRUE, DEEP_PRED),
        chosen=[False, False, True],
        **ONE_WAY,
    )


@pytest.mark.parametrize(
    ("normalizer", "skip"),
    [
        ("row", ()),
        ("size", "masks"),  # it counts what is masked as if it were predicted exactly
        ("batch", "batch independence"),  # it counts the entries of all samples
    ],
)
def test_masked_loss(normalizer, skip):
    check_loss(
        lambda **options: MaskedLoss("mse", normalizer=normalizer, **options),
        *(TRUE, PRED, np.square(TRUE - PRED).mean()),
        skip=skip,
        **ONE_WAY,
    )


def test_masked_loss_with_holes():
    """A row with a hole counts as the others do, and the hole has no gradient."""
    holes = TRUE.copy()
    holes[1, 0] = np.nan
    each = np.nanmean(np.square(holes - PRED), axis=1)
    check_loss(
        lambda **options: MaskedLoss("mse", normalizer="row", **options),
        *(holes, PRED, each.mean()),
        chosen=np.isfinite(holes),
        **ONE_WAY,
    )


@pytest.mark.gradient
@pytest.mark.usefixtures("without_building")
def test_index_penalty_compiled():
    report = check_loss(
        lambda **options: IndexPenalty(1, 0.5, **options),
        *(TRUE, PRED),
        only=("gradients", "training"),
    )
    for kind in ("gradients", "training"):
        assert report.count(kind, compiled=True) == {"passes": 1}


# --- Metrics -----------------------------------------------------------------------------------


@registered
class MeanDistance(keras.metrics.MeanMetricWrapper):
    """Mean absolute distance of one element to a target: as a metric should be."""

    def __init__(self, index=1, name="mean_distance", dtype=None):
        super().__init__(self.each, name=name, dtype=dtype)
        self.index = index

    def each(self, y_true, y_pred):
        y_true, y_pred = [ops.cast(y, "float32") for y in (y_true, y_pred)]
        return ops.abs(y_true[:, self.index] - y_pred[:, self.index])

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype, "index": self.index}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@registered
class MetricForgetsName(MeanDistance):
    def __init__(self, index=1, name=None, **options):
        super().__init__(index, **options)


@registered
class ForgetsDtype(MeanDistance):
    def result(self):
        return ops.cast(super().result(), "float32")


@registered
class OverflowsInHalf(MeanDistance):
    def update_state(self, y_true, y_pred, sample_weight=None):
        if keras.backend.standardize_dtype(y_pred.dtype) != "float32":
            y_pred = y_pred * 1000 * 1000 / 1000 / 1000
        super().update_state(y_true, y_pred, sample_weight)


@registered
class KeepsTheLastBatch(MeanDistance):
    def update_state(self, *args, **kwargs):
        self.reset_state()
        super().update_state(*args, **kwargs)


@registered
class MeansTheMeans(MeanDistance):
    def update_state(self, y_true, y_pred, sample_weight=None):
        old = [ops.convert_to_tensor(variable) + 0.0 for variable in self.variables]
        self.reset_state()
        super().update_state(y_true, y_pred, sample_weight)
        mean = super().result()
        for variable, before, more in zip(self.variables, old, (mean, 1.0), strict=True):
            variable.assign(before + more)


@registered
class NeverResets(MeanDistance):
    def reset_state(self):
        self.count.assign(0.0)


@registered
class MergesToTheMean(MeanDistance):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.total = self.add_variable((), "zeros", dtype=self.dtype, aggregation="mean")


@registered
class KeepsStateInPython(MeanDistance):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.seen = []

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_true, y_pred, sample_weight)
        self.seen.append(super().result())

    def reset_state(self):
        super().reset_state()
        self.seen = []

    def result(self):
        return self.seen[-1] if self.seen else ops.zeros(())


@registered
class MetricIgnoresWeights(MeanDistance):
    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_true, y_pred)


@registered
class MetricIgnoresTheMask(MeanDistance):
    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_true, y_pred + 0.0, sample_weight)


@registered
class MetricForgetsArgument(MeanDistance):
    def get_config(self):
        config = super().get_config()
        del config["index"]
        return config


METRIC_FAULTS = {
    MetricForgetsName: {"values", "saving"},
    ForgetsDtype: {"dtypes"},
    OverflowsInHalf: {"mixed precision"},
    KeepsTheLastBatch: {"pieces", "stateless"},
    MeansTheMeans: {"pieces", "merge", "stateless"},
    NeverResets: {"reset"},
    MergesToTheMean: {"merge"},
    MetricIgnoresWeights: {"sample weights"},
    MetricIgnoresTheMask: {"masks"},
    MetricForgetsArgument: {"saving"},
}


def test_a_metric_that_keeps_the_contract_passes():
    expected = np.abs(TRUE[:, 1] - PRED[:, 1]).mean()
    report = check_metric(MeanDistance, TRUE, PRED, expected, **ONE_WAY)
    assert report.passes
    assert set(report.kinds) >= {"pieces", "merge", "stateless", "saving"}


@pytest.mark.parametrize("metric", METRIC_FAULTS, ids=lambda metric: metric.__name__)
def test_a_fault_of_a_metric_is_found_under_its_kind(metric):
    def factory(**options):
        return metric(2 if metric is MetricForgetsArgument else 1, **options)

    found = check_metric(factory, TRUE, PRED, jit_compile=(), raise_on_failure=False)
    assert set(found.failed_kinds) == METRIC_FAULTS[metric]


def test_state_that_is_no_variable_is_found():
    report = check_metric(KeepsStateInPython, TRUE, PRED, only="merge", raise_on_failure=False)
    assert report.failed_kinds == ["merge"]


@pytest.mark.gradient
def test_a_metric_that_counts_the_epoch_before_is_found():
    report = check_metric(
        NeverResets, TRUE, PRED, only="training", raise_on_failure=False, **ONE_WAY
    )
    assert report.failed_kinds == ["training"]
    assert "is expected. Received" in report.outcomes[0].message


@pytest.mark.parametrize("reduce", ["mean", "max", "satisfied"])
def test_index_violation(reduce):
    """The maximum of replicas is the mean of theirs, which the docstring says."""
    check_metric(
        lambda **options: IndexViolation(1, 0.5, reduce=reduce, tolerance=0.6, **options),
        *(TRUE, PRED),
        skip="merge" if reduce == "max" else (),
        **ONE_WAY,
    )


@pytest.mark.once
@pytest.mark.gradient
@pytest.mark.usefixtures("without_building")
def test_index_violation_compiled():
    report = check_metric(
        lambda **options: IndexViolation(1, 0.5, **options),
        *(TRUE, PRED, np.abs(PRED[:, 1] - 0.5).mean()),
        only=("values", "training"),
    )
    assert report.count("training", compiled=True) == {"passes": 1}
