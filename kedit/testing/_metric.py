"""Check the contract of a Keras metric, from its values to its place in a saved model."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from kedit._run import ops
from kedit.testing._layer import check_roundtrip
from kedit.testing._loss import (
    HALVES,
    check_unchanged,
    close,
    number,
    predicting,
    saved_and_loaded,
    with_mask,
)
from kedit.testing._report import Checks, Report, dtype_of
from kedit.testing._running import differentiates, forget_compiled

KINDS = (
    "values",
    "purity",
    "dtypes",
    "mixed precision",
    "pieces",
    "reset",
    "merge",
    "stateless",
    "sample weights",
    "masks",
    "saving",
    "training",
)


def check_metric(
    factory: Callable[..., keras.metrics.Metric],
    y_true: Any,
    y_pred: Any,
    expected: Any = None,
    *,
    only: Any = None,
    skip: Any = (),
    jit_compile: Sequence[bool | str] = (False, True),
    raise_on_failure: bool = True,
) -> Report:
    """Check that a metric keeps the contract of Keras metrics.

    The kinds of checks are:

    - "values": arrays and tensors give the same finite result, and `expected`.
    - "purity": `y_true` and `y_pred` are not changed.
    - "dtypes", "mixed precision": the result has the dtype of the metric, which is
      `floatx()` by default, also for predictions of half precision.
    - "pieces": batches of any size and order give what one batch gives.
    - "reset": after `reset_state()` the metric starts anew.
    - "merge": the state of two metrics, each of which has seen a part, merged by the
      `aggregation` of its variables or by its method `merge_state`, is the state of one
      that has seen all. This is what distributed training needs.
    - "stateless": `stateless_update_state` does what `update_state` does, and leaves the
      metric as it is. This is what training on JAX needs.
    - "sample weights": weights of 1 change nothing, a sample of weight 0 does not count,
      and one of weight 2 counts as two.
    - "masks": samples that the Keras mask of `y_pred` leaves out do not count.
    - "saving": the config survives JSON, and the metric a `.keras` file, which holds no
      code.
    - "training": a model reports it, eager and compiled.

    Args:
        factory: Function that makes the metric. It takes base metric keyword arguments,
            `name` and `dtype`.
        y_true: NumPy array, a batch of at least three samples.
        y_pred: NumPy array of float32, a batch of predictions. The samples should differ.
        expected: Result for the batch. Defaults to None: not compared.
        only: Kinds to check, or one. Defaults to None: all.
        skip: Kinds to leave out, or one. Defaults to `()`: none.
        jit_compile: Values of `jit_compile`; a model is trained with each. True calls
            `keras.utils.clear_session()`. Defaults to `(False, True)`. A backend that does
            not train is not asked to.
        raise_on_failure: Whether to raise if a check fails. Defaults to True.

    Returns:
        `Report`, with a row for each kind.

    Raises:
        AssertionError: If a check fails and `raise_on_failure` is True. It says which,
            what was expected and what was received.
        kedit.errors.OperandError: If a kind is unknown.

    Gradient:
        Metrics have none.

    Example:
    >>> y_true, y_pred = np.zeros((3, 2), "float32"), np.array([[1, 2], [3, 4], [5, 6]], "float32")
    >>> report = kedit.testing.check_metric(
    ...     lambda **options: kedit.metrics.IndexViolation(1, 0.0, **options), y_true, y_pred, 4.0,
    ...     jit_compile=())
    >>> report.passes
    True
    """
    checks = Checks(KINDS, only, skip)
    check = _Metric(factory, np.asarray(y_true), np.asarray(y_pred))
    checks.run("values", "arrays and tensors", lambda: check.values(expected))
    checks.run("purity", "y_true and y_pred", check.purity)
    for dtype in ("float32", *HALVES):
        checks.run("dtypes", dtype, lambda dtype=dtype: check.dtype(dtype))  # type: ignore[misc]
    for half in HALVES:
        checks.run("mixed precision", half, lambda half=half: check.mixed(half))  # type: ignore[misc]
    checks.run("pieces", "one sample at a time", check.one_at_a_time)
    checks.run("pieces", "two batches", check.two_batches)
    checks.run("pieces", "another order", check.reordered)
    checks.run("reset", "after other data", check.reset)
    checks.run("merge", "of two parts", check.merged)
    checks.run("stateless", "update and result", check.stateless)
    for name, weights in check.weights().items():
        checks.run("sample weights", name, lambda w=weights: check.weighted(*w))  # type: ignore[misc]
    checks.run("masks", "of samples", check.masked)
    checks.run("saving", "config", check.config)
    checks.run("saving", "file", check.file)
    for jit in jit_compile if differentiates() else ():
        checks.run(
            "training",
            f"jit_compile={jit}",
            lambda jit=jit: check.trained(jit),  # type: ignore[misc]
            compiled=jit is True,
        )
    return checks.report("check_metric", raise_on_failure)


class _Metric:
    """The parts of the contract, for one metric."""

    def __init__(self, factory: Any, y_true: Any, y_pred: Any) -> None:
        self.factory, self.y_true, self.y_pred = factory, y_true, y_pred

    def batch(self, rows: Any = np.s_[:]) -> list[Any]:
        """Return a batch of samples as tensors."""
        return [ops.convert_to_tensor(np.array(y[rows])) for y in (self.y_true, self.y_pred)]

    def of(self, *batches: Any, **options: Any) -> Any:
        """Return the result of a new metric that has seen batches of rows."""
        metric = self.factory(**options)
        for rows in batches:
            metric.update_state(*self.batch(rows))
        return number(metric.result())

    @property
    def at_once(self) -> Any:
        return self.of(np.s_[:])

    def values(self, expected: Any) -> None:
        metric = self.factory(name="checked")
        assert metric.name == "checked", "`name` should be handed to the base class"
        found = self.at_once
        assert np.isfinite(found).all(), f"a finite result is expected. Received: {found}"
        metric.update_state(self.y_true, self.y_pred)
        close(number(metric.result()), found, "arrays in place of tensors")
        if expected is not None:
            close(found, expected, "the result")

    def purity(self) -> None:
        check_unchanged(self.factory().update_state, self.y_true, self.y_pred)

    def dtype(self, dtype: str) -> None:
        metric = self.factory(dtype=dtype)
        assert str(metric.dtype) == dtype, f"{dtype!r} is expected. Received: {metric.dtype!r}"
        metric.update_state(*self.batch())
        found = metric.result()
        assert dtype_of(found) == dtype, f"{dtype!r} is expected. Received: {dtype_of(found)!r}"
        close(number(found), self.at_once, f"a result of {dtype}", HALVES.get(dtype, 1e-5))

    def mixed(self, half: str) -> None:
        metric, (y_true, y_pred) = self.factory(), self.batch()
        metric.update_state(y_true, ops.cast(y_pred, half))
        found, wanted = metric.result(), keras.config.floatx()
        assert dtype_of(found) == wanted, f"{wanted!r} is expected. Received: {dtype_of(found)!r}"
        close(number(found), self.at_once, f"predictions in {half}", 2 * HALVES[half])

    def one_at_a_time(self) -> None:
        rows = [np.s_[n : n + 1] for n in range(len(self.y_pred))]
        close(self.of(*rows), self.at_once, "one sample at a time")

    def two_batches(self) -> None:
        close(self.of(np.s_[:-1], np.s_[-1:]), self.at_once, "two batches of different sizes")

    def reordered(self) -> None:
        order = np.roll(np.arange(len(self.y_pred)), 1)[::-1]
        close(self.of(order), self.at_once, "samples in another order")

    def reset(self) -> None:
        metric = self.factory()
        start = [number(variable) for variable in metric.variables]
        metric.update_state(*self.batch(np.s_[:-1]))
        metric.reset_state()
        for variable, old in zip(metric.variables, start, strict=True):
            close(number(variable), old, f"`{variable.name}` after `reset_state()`")
        metric.update_state(*self.batch())
        close(number(metric.result()), self.at_once, "the result after `reset_state()`")

    def merged(self) -> None:
        parts = [self.factory() for _ in range(2)]
        for metric, rows in zip(parts, (np.s_[:-1], np.s_[-1:]), strict=True):
            metric.update_state(*self.batch(rows))
        merged = self.factory()
        if hasattr(merged, "merge_state"):
            merged.merge_state(parts)
        else:
            variables = [metric.variables for metric in (merged, *parts)]
            for variable, one, other in zip(*variables, strict=True):
                one, other = ops.convert_to_tensor(one), ops.convert_to_tensor(other)  # noqa: PLW2901
                variable.assign(_aggregated(variable.aggregation, one, other))
        found = number(merged.result())
        close(found, self.at_once, "the merged state of two metrics")

    def stateless(self) -> None:
        metric = self.factory()
        state = [ops.convert_to_tensor(variable) for variable in metric.variables]
        before = [number(variable) for variable in metric.variables]
        for rows in (np.s_[:-1], np.s_[-1:]):
            state = metric.stateless_update_state(state, *self.batch(rows))
        found = number(metric.stateless_result(state))
        close(found, self.at_once, "`stateless_update_state`")
        for variable, old in zip(metric.variables, before, strict=True):
            close(number(variable), old, f"`{variable.name}` after `stateless_update_state`")

    def weights(self) -> dict[str, tuple[Any, Any]]:
        """Weights, and the rows, some of them repeated, that should give the same."""
        count = len(self.y_pred)
        without, twice = np.ones(count, "float32"), np.ones(count, "float32")
        without[1], twice[1] = 0, 2
        rows = np.arange(count)
        return {
            "of 1": (np.ones(count, "float32"), rows),
            "a weight of 0": (without, rows[rows != 1]),
            "a weight of 2": (twice, np.append(rows, 1)),
        }

    def weighted(self, weights: Any, rows: Any) -> None:
        metric = self.factory()
        metric.update_state(*self.batch(), sample_weight=ops.convert_to_tensor(weights))
        close(number(metric.result()), self.of(rows), f"weights {weights.tolist()}")

    def masked(self) -> None:
        kept = np.arange(len(self.y_pred)) != 1
        metric, (y_true, y_pred) = self.factory(), self.batch()
        metric.update_state(y_true, with_mask(y_pred, kept))
        close(number(metric.result()), self.of(kept), "with sample 1 masked")

    def config(self) -> None:
        metric = self.factory(name="checked")
        metric.update_state(*self.batch())
        again = check_roundtrip(metric)
        assert again.name == "checked", f"`name` should be 'checked'. Received: {again.name!r}"
        again.update_state(*self.batch())
        close(number(again.result()), self.at_once, "the metric made of its config")

    def file(self) -> None:
        model = predicting(self.y_pred)
        model.compile("sgd", "mse", metrics=[self.factory(name="checked")])
        model.evaluate(self.y_pred, self.y_pred, verbose=0)
        loaded = saved_and_loaded(model)
        logs = loaded.evaluate(*self._data(), verbose=0, return_dict=True)
        assert "checked" in logs, f"the file should hold the metric. Received: {sorted(logs)}"
        close(logs["checked"], self.at_once, "the metric loaded from a file")

    def _data(self) -> tuple[Any, Any]:
        return self.y_pred, self.y_true

    def trained(self, jit: bool | str) -> None:
        if jit is True:
            forget_compiled()
        model = predicting(self.y_pred)
        metric = self.factory(name="checked")
        model.compile(keras.optimizers.SGD(0.0), _squares, metrics=[metric], jit_compile=jit)
        for _ in range(2):  # the second epoch must not count the first
            history = model.fit(*self._data(), batch_size=2, verbose=0, shuffle=False).history
            found = history["checked"][0]
            close(found, self.at_once, "the metric that `fit` reports")
        logs = model.evaluate(*self._data(), batch_size=2, verbose=0, return_dict=True)
        close(logs["checked"], self.at_once, "the metric that `evaluate` reports")


def _squares(y_true: Any, y_pred: Any) -> Any:
    """A loss for any shape of `y_true`."""
    return ops.mean(ops.multiply(y_pred, y_pred), axis=-1)


def _aggregated(aggregation: str, one: Any, other: Any) -> Any:
    """The value of a variable of which each of two replicas has one."""
    if aggregation == "sum":
        return ops.add(one, other)
    if aggregation == "mean":
        return ops.divide(ops.add(one, other), ops.cast(2, one.dtype))
    return one
