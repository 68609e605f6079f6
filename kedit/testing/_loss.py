"""Check the contract of a Keras loss, from its values to a trained and saved model."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kedit._run import ops
from kedit.testing._layer import check_holds_no_code, check_roundtrip
from kedit.testing._report import Checks, Report, dtype_of
from kedit.testing._running import Given, differentiates, forget_compiled, gradients

KINDS = (
    "values",
    "purity",
    "dtypes",
    "mixed precision",
    "reduction",
    "sample weights",
    "batch independence",
    "masks",
    "gradients",
    "chosen elements",
    "saving",
    "training",
)
HALVES = {"float16": 5e-3, "bfloat16": 5e-2}
"""Dtypes of half precision, and how far a number may be off in them."""
_STEP = 1e-2


def check_loss(
    factory: Callable[..., keras.losses.Loss],
    y_true: Any,
    y_pred: Any,
    expected: Any = None,
    *,
    chosen: Any = None,
    only: Any = None,
    skip: Any = (),
    jit_compile: Sequence[bool | str] = (False, True),
    raise_on_failure: bool = True,
) -> Report:
    """Check that a loss keeps the contract of Keras losses.

    The kinds of checks are:

    - "values": arrays and tensors give the same finite number, and `expected`.
    - "purity": `y_true` and `y_pred` are not changed.
    - "dtypes", "mixed precision": the result has the dtype of the loss, which is
      `floatx()` by default, also for predictions of half precision.
    - "reduction": "sum" and "sum_over_batch_size" are the sum and the mean of what
      `None` returns, whose first axis is the batch.
    - "sample weights": a weight multiplies the loss of its sample.
    - "batch independence": the loss of a sample does not depend on the others.
    - "masks": samples that the Keras mask of `y_pred` leaves out do not count.
    - "gradients": the gradient in `y_pred` is finite, and is what differences of the
      loss say, eager and compiled.
    - "chosen elements": only those in `chosen` have a gradient, and only they count.
    - "saving": the config survives JSON, and the loss a `.keras` file, which holds no
      code.
    - "training": a model learns with it, eager and compiled, and reports its value.

    Args:
        factory: Function that makes the loss. It takes base loss keyword arguments,
            `name`, `reduction` and `dtype`.
        y_true: NumPy array, a batch of at least three samples.
        y_pred: NumPy array of float32, a batch of predictions at which the loss has a
            derivative. The samples should differ.
        expected: Reduced loss. Defaults to None: not compared.
        chosen: Boolean array that broadcasts to `y_pred`: the elements that the loss
            depends on. Defaults to None: not checked.
        only: Kinds to check, or one. Defaults to None: all.
        skip: Kinds to leave out, or one. Defaults to `()`: none.
        jit_compile: Values of `jit_compile`; a model is trained with each, and the
            gradient is compiled if one is True, which calls
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
        Compared with central differences of the loss, along the gradient and along
        random directions, up to a relative error of 2%.

    References:
        The differences are extrapolated from two step sizes, after L. F. Richardson,
        *The Approximate Arithmetical Solution by Finite Differences*, 1911.

    Example:
    >>> y_true, y_pred = np.zeros((3, 2), "float32"), np.array([[1, 2], [3, 4], [5, 6]], "float32")
    >>> report = kedit.testing.check_loss(
    ...     lambda **options: kedit.losses.IndexPenalty(1, 0.0, **options), y_true, y_pred,
    ...     56 / 3, chosen=[False, True], jit_compile=())
    >>> report.passes
    True
    """
    checks = Checks(KINDS, only, skip)
    check = _Loss(factory, np.asarray(y_true), np.asarray(y_pred), chosen)
    trains = differentiates()
    checks.run("values", "arrays and tensors", lambda: check.values(expected))
    checks.run("purity", "y_true and y_pred", check.purity)
    for dtype in ("float32", *HALVES):
        checks.run("dtypes", dtype, lambda dtype=dtype: check.dtype(dtype))  # type: ignore[misc]
    for half in HALVES:
        checks.run("mixed precision", half, lambda half=half: check.mixed(half))  # type: ignore[misc]
    checks.run("reduction", "none", check.unreduced)
    for reduction in ("sum", "sum_over_batch_size"):
        checks.run("reduction", reduction, lambda r=reduction: check.reduced(r))  # type: ignore[misc]
        checks.run("sample weights", reduction, lambda r=reduction: check.weighted(r))  # type: ignore[misc]
    checks.run("sample weights", "none", lambda: check.weighted(None))
    checks.run("batch independence", "one sample at a time", check.one_at_a_time)
    checks.run("batch independence", "another order", check.reordered)
    checks.run("masks", "of samples", check.masked)
    ways = [False, *[True for jit in jit_compile[:1] if True in jit_compile]]
    if trains:
        for compiled in ways:
            checks.run(
                "gradients",
                "by differences",
                lambda c=compiled: check.gradient(c),  # type: ignore[misc]
                compiled=compiled,
            )
    if chosen is not None:
        checks.run("chosen elements", "values", check.chosen_values)
        if trains:
            checks.run("chosen elements", "gradients", check.chosen_gradient)
    checks.run("saving", "config", check.config)
    checks.run("saving", "file", check.file)
    for jit in jit_compile if trains else ():
        checks.run(
            "training",
            f"jit_compile={jit}",
            lambda jit=jit: check.trained(jit),  # type: ignore[misc]
            compiled=jit is True,
        )
    return checks.report("check_loss", raise_on_failure)


class _Loss:
    """The parts of the contract, for one loss."""

    def __init__(self, factory: Any, y_true: Any, y_pred: Any, chosen: Any) -> None:
        self.factory, self.y_true, self.y_pred = factory, y_true, y_pred
        self.chosen: Any = None if chosen is None else np.broadcast_to(chosen, y_pred.shape)

    def of(self, y_true: Any, y_pred: Any, weight: Any = None, **options: Any) -> Any:
        loss = self.factory(**options)
        given = [ops.convert_to_tensor(np.array(y)) for y in (y_true, y_pred)]
        return number(loss(*given, sample_weight=weight))

    def values(self, expected: Any) -> None:
        loss = self.factory(name="checked")
        assert loss.name == "checked", "`name` should be handed to the base class"
        found = self.of(self.y_true, self.y_pred)
        assert found.shape == (), f"a scalar is expected. Received: shape {found.shape}"
        assert np.isfinite(found), f"a finite loss is expected. Received: {found}"
        by_arrays = number(loss(self.y_true, self.y_pred))
        close(by_arrays, found, "arrays in place of tensors")
        if expected is not None:
            close(found, expected, "the loss")

    def purity(self) -> None:
        check_unchanged(self.factory(), self.y_true, self.y_pred)

    def dtype(self, dtype: str) -> None:
        loss = self.factory(dtype=dtype)
        assert str(loss.dtype) == dtype, f"dtype {dtype!r} is expected. Received: {loss.dtype!r}"
        found = loss(*self._tensors())
        assert dtype_of(found) == dtype, f"{dtype!r} is expected. Received: {dtype_of(found)!r}"
        rtol = HALVES.get(dtype, 1e-5)
        close(number(found), self.of(self.y_true, self.y_pred), f"a loss of {dtype}", rtol)

    def mixed(self, half: str) -> None:
        y_true, y_pred = self._tensors()
        found = self.factory()(y_true, ops.cast(y_pred, half))
        wanted = keras.config.floatx()
        assert dtype_of(found) == wanted, f"{wanted!r} is expected. Received: {dtype_of(found)!r}"
        exact = self.of(self.y_true, self.y_pred)
        close(number(found), exact, f"predictions in {half}", 2 * HALVES[half])

    def _tensors(self) -> list[Any]:
        return [ops.convert_to_tensor(np.array(y)) for y in (self.y_true, self.y_pred)]

    def each(self, rows: Any = np.s_[:], weight: Any = None) -> Any:
        return self.of(self.y_true[rows], self.y_pred[rows], weight, reduction=None)

    def unreduced(self) -> None:
        found = self.each()
        assert found.shape[:1] == self.y_pred.shape[:1], (
            f"with `reduction=None`, the first axis should be the batch, {len(self.y_pred)}. "
            f"Received: shape {found.shape}"
        )

    def reduced(self, reduction: str, weight: Any = None, each: Any = None) -> None:
        each = self.each() if each is None else each
        found = self.of(self.y_true, self.y_pred, weight, reduction=reduction)
        expected = each.sum() if reduction == "sum" else each.mean()
        close(found, expected, f"reduction {reduction!r} of {each.tolist()}")

    def weighted(self, reduction: str | None) -> None:
        count = len(self.y_pred)
        each, weight = self.each(), np.arange(count, dtype="float32") + 0.5
        weight[-1] = 0
        weight = weight.reshape(count, *[1] * (each.ndim - 1))
        expected = each * weight
        if reduction is None:
            close(self.each(weight=weight), expected, "weighted samples")
            close(self.each(weight=np.ones_like(weight)), each, "weights of 1")
        else:
            self.reduced(reduction, weight, expected)

    def one_at_a_time(self) -> None:
        each = self.each()
        for row in range(len(each)):
            rows = np.s_[row : row + 1]
            close(self.each(rows), each[rows], f"sample {row} by itself")

    def reordered(self) -> None:
        order = np.roll(np.arange(len(self.y_pred)), 1)[::-1]
        close(self.each(order), self.each()[order], "samples in another order")

    def masked(self) -> None:
        kept = np.arange(len(self.y_pred)) != 1
        y_true, y_pred = self._tensors()
        shape = self.each().shape  # a mask is for what the loss has a value of, also timesteps
        mask = np.broadcast_to(kept.reshape(-1, *[1] * (len(shape) - 1)), shape).copy()
        found = number(self.factory()(y_true, with_mask(y_pred, mask)))
        close(found, self.of(self.y_true[kept], self.y_pred[kept]), "with sample 1 masked")

    def slope(self, compiled: bool = False, y_pred: Any = None) -> Any:
        loss, y_true = self.factory(), np.array(self.y_true)
        y_pred = np.array(self.y_pred if y_pred is None else y_pred, "float32")

        def of_predictions(y: Any) -> Any:
            return loss(ops.convert_to_tensor(y_true), y)

        given, upstream = [[Given(y_pred)]], [np.float32(1)]
        return gradients([of_predictions], given, upstream, compiled)[0][0]

    def gradient(self, compiled: bool) -> None:
        slope = self.slope(compiled)
        assert np.isfinite(slope).all(), f"a finite gradient is expected. Received: {slope}"
        rng = np.random.default_rng(0)
        along = [slope, *[rng.normal(size=slope.shape) for _ in range(3)]]
        for direction in along:
            longest = np.abs(direction).max()
            step = _STEP * (direction / longest if longest else direction)
            far, near = self.difference(step), 2 * self.difference(step / 2)
            expected, claimed = (4 * near - far) / 3, float((slope * step).sum())
            off = abs(expected - claimed)
            noise = 2e-6 * max(1.0, abs(float(self.of(self.y_true, self.y_pred))))
            assert off <= 0.02 * max(abs(expected), abs(claimed)) + noise, (
                f"by the gradient the loss should change by {claimed:.3g} for a small step. "
                f"Received: {expected:.3g}"
            )

    def difference(self, step: Any) -> float:
        """Return half of what the loss changes by from one side of the predictions to the other."""
        ends = [self.of(self.y_true, self.y_pred + sign * step) for sign in (1, -1)]
        return float(ends[0] - ends[1]) / 2

    def chosen_values(self) -> None:
        other = np.where(self.chosen, self.y_pred, self.y_pred + 3).astype("float32")
        found, expected = self.of(self.y_true, other), self.of(self.y_true, self.y_pred)
        close(found, expected, "other predictions at elements that are not chosen")
        moved = np.where(self.chosen, self.y_pred + 3, self.y_pred).astype("float32")
        found = self.of(self.y_true, moved)
        assert found != expected, "the loss should change with the chosen elements"

    def chosen_gradient(self) -> None:
        slope = self.slope()
        leaks = slope[~self.chosen]
        assert not leaks.any(), f"elements not chosen should get the gradient 0. Received: {leaks}"
        bare = (slope == 0) & self.chosen
        assert not bare.all(), "the chosen elements should get a gradient. Received: 0"

    def config(self) -> keras.losses.Loss:
        loss = self.factory(name="checked", reduction="sum")
        again: keras.losses.Loss = check_roundtrip(loss)
        for what in ("name", "reduction"):
            kept, now = getattr(loss, what), getattr(again, what)
            assert kept == now, f"`{what}` should be {kept!r} after loading. Received: {now!r}"
        given = self._tensors()
        close(number(again(*given)), number(loss(*given)), "the loss made of its config")
        return again

    def file(self) -> None:
        model = predicting(self.y_pred)
        model.compile("sgd", self.factory())
        loaded = saved_and_loaded(model)
        assert type(loaded.loss) is type(model.loss), (
            f"the file should hold a {type(model.loss).__name__}. "
            f"Received: a {type(loaded.loss).__name__}"
        )
        found = number(loaded.loss(*self._tensors()))
        close(found, self.of(self.y_true, self.y_pred), "the loss loaded from a file")

    def trained(self, jit: bool | str) -> None:
        if jit is True:
            forget_compiled()
        model = predicting(self.y_pred)
        model.compile(keras.optimizers.SGD(0.01), self.factory(), jit_compile=jit)
        before = number(model.layers[-1].kernel)
        options = {"batch_size": len(self.y_pred), "verbose": 0}
        history = model.fit(self.y_pred, self.y_true, epochs=2, shuffle=False, **options).history
        losses = history["loss"]
        close(losses[0], self.of(self.y_true, self.y_pred), "the loss that `fit` reports")
        assert np.isfinite(losses).all(), f"finite losses are expected. Received: {losses}"
        now = number(model.layers[-1].kernel)
        assert np.isfinite(now).all(), f"finite weights are expected. Received: {now}"
        assert (now != before).any(), "the model should learn. Received: the same weights"


# --- What is the same for metrics --------------------------------------------------------------


def number(x: Any) -> Any:
    """Return a tensor as an array of float32."""
    return ops.convert_to_numpy(ops.cast(ops.convert_to_tensor(x), "float32"))


def close(found: Any, expected: Any, what: str, rtol: float = 1e-5) -> None:
    found, expected = np.asarray(found, "float32"), np.asarray(expected, "float32")
    fits = found.shape == expected.shape and np.allclose(
        found, expected, rtol, rtol, equal_nan=True
    )
    assert fits, f"{what}: {expected.tolist()} is expected. Received: {found.tolist()}"


def check_unchanged(function: Callable[..., Any], y_true: Any, y_pred: Any) -> None:
    """Check that a function changes neither arrays nor tensors that it is given."""
    for convert in (np.array, lambda y: ops.convert_to_tensor(np.array(y))):
        given = [convert(y) for y in (y_true, y_pred)]
        function(*given)
        for what, old, y in zip(("y_true", "y_pred"), (y_true, y_pred), given, strict=True):
            now = ops.convert_to_numpy(y)
            assert now.tobytes() == ops.convert_to_numpy(convert(old)).tobytes(), (
                f"`{what}` should stay {old.tolist()}. Received: {now.tolist()} after the call"
            )


def predicting(y_pred: Any) -> keras.Model:
    """Return a model that predicts its input, and can learn something else."""
    width = y_pred.shape[-1]
    dense = keras.layers.Dense(width, use_bias=False, kernel_initializer="identity")
    return keras.Sequential([keras.Input(y_pred.shape[1:]), dense])


class _Masked(keras.layers.Layer):
    """Passes its input on with a mask."""

    def __init__(self, mask: Any) -> None:
        super().__init__(autocast=False)
        self.mask, self.supports_masking = mask, True

    def call(self, inputs: Any) -> Any:
        return inputs

    def compute_mask(self, inputs: Any, previous: Any = None) -> Any:
        return self.mask


def with_mask(y_pred: Any, kept: Any) -> Any:
    """Return predictions with a Keras mask."""
    return _Masked(ops.convert_to_tensor(kept))(y_pred)


def saved_and_loaded(model: keras.Model) -> keras.Model:
    """Return a model after a way through a `.keras` file, which must hold no code."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.keras"
        model.save(path)
        check_holds_no_code(path)
        return keras.saving.load_model(path)
