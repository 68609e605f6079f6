"""Bring one output to a target that another loss opposes
======================================================

A linear model has five outputs for eight inputs, and 256 samples in batches of 32. The mean squared
error wants output 2 near 0, where its labels are; the target is 50. Seven recipes are compared by
`kedit.metrics.IndexViolation`, which logs in `fit` by how much an output misses.

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/output_target.py

.. image:: /../examples/output_target.png
   :alt: Distance to the target over the steps, for seven recipes
"""

# sphinx_gallery_thumbnail_path = "../examples/output_target.png"

import argparse
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops
from matplotlib.figure import Figure

import kedit
from kedit.callbacks import DualAscent
from kedit.layers import IndexGuide
from kedit.losses import IndexPenalty
from kedit.metrics import IndexViolation

INDEX, TARGET, REACHED = 2, 50.0, 1e-3
SAMPLES, BATCH, STEPS = 256, 32, 1600
MARKED = 7  # the sample that has a target where only one has
_rng = np.random.default_rng(0)
X = _rng.normal(size=(SAMPLES, 8)).astype("float32")
Y = (X @ _rng.normal(size=(8, 5))).astype("float32")
MARKS = np.full_like(Y, np.nan)  # NaN leaves an element free
MARKS[MARKED, INDEX] = TARGET


@dataclass
class Outcome:
    """What a recipe came to: by how much the target is missed at most, after each epoch."""

    name: str
    misses: list
    steps_per_epoch: int
    others: float  # mean squared error of the outputs that are not guided, in the end

    @property
    def steps(self):
        """After how many steps the miss stayed below `REACHED`, or None."""
        late = [epoch for epoch, miss in enumerate(self.misses, 1) if not miss < REACHED]
        epochs = (late[-1] if late else 0) + 1
        return None if epochs > len(self.misses) else epochs * self.steps_per_epoch


class Misses(keras.callbacks.Callback):
    """Evaluates the model after every epoch; what an epoch logs is of all of its steps."""

    def __init__(self, y):
        super().__init__()
        self.y, self.found = y, []

    def on_epoch_end(self, epoch, logs=None):
        """Note the miss."""
        logs = self.model.evaluate(X, self.y, batch_size=SAMPLES, verbose=0, return_dict=True)
        self.found.append(next(v for k, v in logs.items() if k.endswith("max_index_violation")))


def linear(guide=None, seed=0):
    """The model, with a guide behind its output if there is one."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((X.shape[1],))
    outputs = keras.layers.Dense(Y.shape[1], name="y")(inputs)
    return keras.Model(inputs, outputs if guide is None else guide(outputs))


def fit(name, model, loss, y, metrics, *, steps, schedule, batch=BATCH, callbacks=()):
    """Train, and measure the largest miss after every epoch."""
    model.compile(keras.optimizers.SGD(schedule), loss, metrics=metrics)
    misses = Misses(y)
    per_epoch = SAMPLES // batch
    model.fit(
        X,
        y,
        batch_size=batch,
        epochs=steps // per_epoch,
        verbose=0,
        callbacks=[*callbacks, misses],
    )
    predicted = model.predict(X, batch_size=SAMPLES, verbose=0)
    predicted = predicted["y"] if isinstance(predicted, dict) else predicted
    others = np.delete((predicted - Y) ** 2, INDEX, axis=1).mean()
    return Outcome(name, misses.found, per_epoch, float(others))


def every(name, loss, *, guide=None, steps=STEPS, rate=0.05, callbacks=()):
    """A recipe for a target that all samples have."""
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    metrics = [IndexViolation(INDEX, TARGET, reduce="max")]
    return fit(
        name, linear(guide), loss, Y, metrics, steps=steps, schedule=schedule, callbacks=callbacks
    )


def naive(y_true, y_pred):
    """The recipe that is often seen: `y_pred[0, 2]` is whichever sample was shuffled first."""
    return ops.mean((y_true - y_pred) ** 2) + 0.1 * ops.abs(y_pred[0, INDEX] - TARGET)


def excluded():
    """The base loss does not look at output 2."""
    loss = IndexPenalty(INDEX, TARGET, base_loss="mse", exclude_from_base=True)
    return every("IndexPenalty, excluded from the base", loss, steps=200, rate=0.1)


def ascended():
    """The base loss looks at it; a multiplier comes to pull as hard as that."""
    guide = IndexGuide(INDEX, TARGET, name="guide")
    return every(
        "IndexGuide with DualAscent", "mse", guide=guide, callbacks=[DualAscent(guide, 0.1)]
    )


def marked(name="one marked sample, full batch", weight=10.0, steps=100):
    """One sample has a target; the base loss of all others opposes it through the weights.

    An L1 penalty that is strong enough is exact, and does not flatten near the target: the
    learning rate decays geometrically, to come as near.
    """
    dense = linear()
    outputs = {"y": dense.output, "marked": keras.layers.Identity(name="marked")(dense.output)}
    model = keras.Model(dense.input, outputs)
    loss = {"y": "mse", "marked": IndexPenalty(INDEX, "y_true", kind="l1", weight=weight)}
    metrics = {"marked": [IndexViolation(INDEX, "y_true", reduce="max")]}
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.9)
    y = {"y": Y, "marked": MARKS}
    return fit(name, model, loss, y, metrics, steps=steps, schedule=schedule, batch=SAMPLES)


def infeasible():
    """Output 2 cannot exceed 40; the metric tells, and a callback ends the run."""
    inputs = keras.Input((X.shape[1],))
    outputs = keras.layers.Dense(Y.shape[1], activation="sigmoid")(inputs)
    model = keras.Model(inputs, keras.layers.Rescaling(80.0, -40.0)(outputs))
    metrics = [IndexViolation(INDEX, TARGET), IndexViolation(INDEX, TARGET, reduce="satisfied")]
    loss = IndexPenalty(INDEX, TARGET, base_loss="mse", exclude_from_base=True)
    model.compile(keras.optimizers.Adam(0.1), loss, metrics=metrics)
    stop = keras.callbacks.EarlyStopping("index_violation", min_delta=0.01, patience=5, mode="min")
    history = model.fit(X, Y, batch_size=BATCH, epochs=200, verbose=0, callbacks=[stop]).history
    return {name: values[-1] for name, values in history.items()} | {"epochs": len(history["loss"])}


def table(outcomes):
    """What was measured, as text."""
    title = f"misses {TARGET:g} by"
    lines = [f"{'recipe':38}{'steps':>6}{title:>15}{'below 1e-3 after':>18}{'others, MSE':>13}"]
    for one in outcomes:
        steps = len(one.misses) * one.steps_per_epoch
        reached = "never" if one.steps is None else f"{one.steps} steps"
        lines.append(f"{one.name:38}{steps:6}{one.misses[-1]:15.2g}{reached:>18}{one.others:13.1e}")
    return "\n".join(lines)


def draw(outcomes, path):
    """The miss of every recipe, step by step."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, one in enumerate(outcomes):
        steps = np.arange(1, len(one.misses) + 1) * one.steps_per_epoch
        style = (0, (3, 3)) if number == 1 else "-"  # it lies on the first
        axes.plot(steps, one.misses, linestyle=style, label=one.name)
    axes.axhline(REACHED, color="black", linewidth=1)
    axes.text(1, REACHED * 1.2, "reached", size=9)
    axes.set(xscale="log", yscale="log", xlabel="gradient steps")
    axes.set_ylabel(f"largest miss of the target {TARGET:g}")
    figure.legend(loc="outside right center", fontsize=9)
    figure.savefig(path, dpi=130)


def main(arguments=None):
    """Run all recipes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    parser.add_argument("--steps", type=int, default=STEPS, help="of the recipes that fail")
    options = parser.parse_args(arguments)
    strong = IndexPenalty(INDEX, TARGET, weight=10.0, base_loss="mse")
    weak = IndexPenalty(INDEX, TARGET, kind="l1", weight=0.1, base_loss="mse")
    outcomes = [
        every("naive: mse + 0.1 * |y[0, 2] - 50|", naive, steps=options.steps),
        every("IndexPenalty, l1, weight 0.1", weak, steps=options.steps),
        every("IndexPenalty, l2, weight 10", strong, steps=options.steps, rate=0.02),
        excluded(),
        ascended(),
        marked("one marked sample, l1, weight 0.1", 0.1),
        marked("one marked sample, l1, weight 10"),
    ]
    print(f"kedit {kedit.__version__} with Keras {keras.__version__} on {keras.backend.backend()}")
    print(table(outcomes))
    cannot = infeasible()
    print(
        f"A target that cannot be reached, as output {INDEX} ends at 40: misses it by "
        f"{cannot['index_violation']:.3g} in the mean, {cannot['index_satisfied']:.0%} of the "
        f"samples satisfied, stopped after {cannot['epochs']} of 200 epochs."
    )
    draw(outcomes, options.out)
    print(f"Picture: {options.out}")
    return outcomes, cannot


if __name__ == "__main__":
    main()
