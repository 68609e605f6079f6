"""`python -m kedit`: the three strategies on real data, on the running backend.

Trains small models on data that scikit-learn ships, edits an input, edits an
activation and guides an output, prints what was measured before and after, and
draws it. Ends with status 1 if a strategy did not do what it claims.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

import kedit

try:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from sklearn.datasets import load_diabetes, load_digits
except ModuleNotFoundError as missing:
    sys.exit(f'`python -m kedit` needs {missing.name}. Install it: pip install "kedit[demo]"')

ERASE = kedit.sample[3:5, 3:5].set(0.0)  # the centre of an image of 8 by 8 pixels
THRESHOLD, FACTOR = 3.0, 2.0
GUIDED, TARGET = 2, 50.0  # the output that is guided, and where to
TOLERANCE = 1.0  # by how much it may miss; without the penalty it misses by 100
UNSEEN = 0.2  # of the data is kept from training; everything is measured there
PLAIN, EDITED = "tab:gray", "tab:orange"


@dataclass(frozen=True)
class Outcome:
    """What a strategy did."""

    strategy: str
    code: str
    rows: list[tuple[str, str, str]]
    """What was measured, before, after."""
    claims: list[tuple[bool, str]]
    """Whether it held, and what to say if it did not."""
    draw: Callable[[Any], None]
    """Draws it on the axes of a figure."""


class Progress(keras.callbacks.Callback):
    """Prints what is trained, a dot for every tenth of it, and the loss."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def on_train_begin(self, logs: Any = None) -> None:
        """Say what is trained."""
        print(f"Training {self.name} ", end="", flush=True)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Print a dot."""
        if (epoch + 1) % (self.params["epochs"] // 10) == 0:
            print(".", end="", flush=True)

    def on_train_end(self, logs: Any = None) -> None:
        """Print the loss."""
        print(f" loss {logs['loss']:.4g}", flush=True)


class Recorder(keras.callbacks.Callback):
    """Keeps what the model predicts for `x` before training and after every epoch."""

    def __init__(self, x: Any) -> None:
        super().__init__()
        self.x = x
        self.predictions: list[Any] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Record the untrained model."""
        self.on_epoch_end(-1)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Record the model as it is now."""
        self.predictions.append(keras.ops.convert_to_numpy(self.model(self.x)))


def split(x: Any, y: Any, seed: int) -> tuple[Any, Any, Any, Any]:
    """Shuffle and part the data: `x` and `y` to train on, `x` and `y` to measure on."""
    order = np.random.default_rng(seed).permutation(len(x))
    measure, train = np.split(order, [int(len(x) * UNSEEN)])
    return x[train], y[train], x[measure], y[measure]


def train_reader(seed: int, quiet: bool) -> tuple[Any, Any, Any]:
    """A model that reads handwritten digits; unseen images, of 0.0 to 16.0; their digits."""
    x, y = load_digits(return_X_y=True)
    x, y, images, digits = split(x.reshape(-1, 8, 8).astype("float32"), y, seed)
    keras.utils.set_random_seed(seed)
    reader = keras.Sequential(
        [
            keras.Input((8, 8)),
            keras.layers.Rescaling(1 / 16),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu", name="hidden"),
            keras.layers.Dense(10, activation="softmax", name="digit"),
        ]
    )
    reader.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    callbacks = [] if quiet else [Progress("a reader of digits")]
    reader.fit(x, y, batch_size=128, epochs=20, verbose=0, callbacks=callbacks)
    return reader, images, digits


def edit_inputs(reader: Any, images: Any, digits: Any) -> Outcome:
    """Strategy 1: erase the centre of every image, then predict."""
    original, expected = images.copy(), images.copy()
    expected[:, 3:5, 3:5] = 0.0
    edited = ERASE(images)
    before, after = predict(reader, images), predict(reader, edited)
    read, reread = before.argmax(axis=1), after.argmax(axis=1)
    # Of the images that were read right, the one of which the model is least sure afterwards.
    loss = np.where(read == digits, confidence(before, digits) - confidence(after, digits), -1.0)
    shown = int(loss.argmax())
    was, now = int(read[shown]), int(reread[shown])
    return Outcome(
        "inputs",
        repr(ERASE),
        [
            (f"digits read right, of {len(digits)}", *counts(read, reread, digits)),
            (f"unseen image {shown}, digit {digits[shown]}, is read as", str(was), str(now)),
        ],
        [
            (np.array_equal(images, original), "the array that was given has changed"),
            (np.array_equal(edited, expected), "other elements than the centre have changed"),
            (bool((read != reread).any()), "no prediction has changed"),
        ],
        partial(draw_inputs, images[shown], edited[shown], was, now),
    )


def edit_activations(reader: Any, images: Any, digits: Any) -> Outcome:
    """Strategy 2: put a layer into the trained model that doubles high activations."""
    hidden = reader.get_layer("hidden").output
    modified = kedit.layers.ConditionalModifier(THRESHOLD, FACTOR)(hidden)
    model = keras.Model(reader.inputs, [hidden, modified, reader.get_layer("digit")(modified)])
    x, y, after = predict(model, images)
    read, reread = predict(reader, images).argmax(axis=1), after.argmax(axis=1)
    high = x > THRESHOLD
    changed = int((x != y).sum())
    return Outcome(
        "activations",
        f"ConditionalModifier({THRESHOLD}, factor={FACTOR})",
        [
            (f"mean of the {high.sum()} above {THRESHOLD}", *means(x[high], y[high])),
            (f"mean of the {(~high).sum()} others", *means(x[~high], y[~high])),
            (f"digits read right, of {len(digits)}", *counts(read, reread, digits)),
        ],
        [
            (0 < high.sum() < high.size, f"{high.sum()} of {high.size} lie above the threshold"),
            (np.array_equal(y[high], x[high] * np.float32(FACTOR)), "a product is not exact"),
            (np.array_equal(y[~high], x[~high]), f"{changed} changed, {high.sum()} should"),
            (bool((read != reread).any()), "no prediction has changed"),
        ],
        partial(draw_activations, x, y),
    )


def guide_outputs(seed: int, quiet: bool) -> Outcome:
    """Strategy 3: guide one of three outputs to a target that the base loss opposes."""
    x, y = load_diabetes(return_X_y=True, scaled=False)
    # From age, sex, body mass index and blood pressure: cholesterol, glucose, and how far the
    # disease has gone a year later.
    y = np.column_stack([x[:, [4, 9]], y]).astype("float32")
    x = ((x - x.mean(axis=0)) / x.std(axis=0)).astype("float32")[:, :4]
    x, y, patients, truth = split(x, y, seed)
    base = keras.losses.MeanSquaredError()
    # Of the three outputs' mean, one has the gradient 2 / 3 * (y_pred - y_true). An L1 penalty
    # whose gradient is greater for every patient is exact: there the loss is least at the target.
    weight = float(np.ceil(1.1 * 2 / 3 * np.abs(y[:, GUIDED] - TARGET).max()))
    penalty = kedit.losses.IndexPenalty(GUIDED, TARGET, kind="l1", weight=weight, base_loss=base)
    free = train_outputs("three outputs, free", x, y, base, patients, seed, quiet)
    guided = train_outputs("the same, one guided", x, y, penalty, patients, seed, quiet)
    missed = [np.abs(run[-1][:, GUIDED] - TARGET) for run in (free, guided)]
    others = [np.delete(np.abs(run[-1] - truth), GUIDED, axis=1) for run in (free, guided)]
    furthest = missed[1].max()
    return Outcome(
        "outputs",
        f'IndexPenalty({GUIDED}, {TARGET}, kind="l1", weight={weight:g})',
        [
            (f"output {GUIDED} misses {TARGET}, mean", *means(*missed)),
            (f"furthest of {len(truth)} patients", *means(missed[0].max(), furthest)),
            ("mean error of the other outputs", *means(*others)),
        ],
        [
            (
                furthest < TOLERANCE,
                f"the target {TARGET} was missed by {furthest:.3g}, more than {TOLERANCE}",
            ),
            (
                missed[0].mean() > 20 * TOLERANCE,
                f"without the penalty it is missed by {missed[0].mean():.3g} only",
            ),
            (
                others[1].mean() < 1.1 * others[0].mean(),
                f"the others' error grew from {others[0].mean():.3g} to {others[1].mean():.3g}",
            ),
        ],
        partial(draw_outputs, free[:, :, GUIDED], guided[:, :, GUIDED]),
    )


def train_outputs(
    name: str, x: Any, y: Any, loss: Any, patients: Any, seed: int, quiet: bool
) -> Any:
    """Train a linear model; what it predicted for `patients` after every epoch."""
    epochs, batch_size = 40, 64
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        # The layer at the end brings the outputs to the size of the data.
        [keras.Input((x.shape[1],)), keras.layers.Dense(3), keras.layers.Rescaling(100.0, 100.0)]
    )
    # The slope of an L1 penalty is the same near the target: only smaller steps come closer.
    steps = epochs * int(np.ceil(len(x) / batch_size))
    rate = keras.optimizers.schedules.CosineDecay(0.1, steps)
    model.compile(keras.optimizers.Adam(rate), loss)
    recorder = Recorder(patients)
    callbacks = [recorder] if quiet else [recorder, Progress(name)]
    model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=callbacks)
    return np.stack(recorder.predictions)


def predict(model: Any, x: Any) -> Any:
    """What the model predicts, in one batch."""
    return model.predict(x, batch_size=len(x), verbose=0)


def confidence(probabilities: Any, digits: Any) -> Any:
    """The probability that each image has of its own digit."""
    return np.take_along_axis(probabilities, digits[:, None], axis=1)[:, 0]


def counts(read: Any, reread: Any, digits: Any) -> tuple[str, str]:
    """How many were read right, before and after."""
    return str((read == digits).sum()), str((reread == digits).sum())


def means(before: Any, after: Any) -> tuple[str, str]:
    """Both means as text."""
    return f"{np.mean(before):.4g}", f"{np.mean(after):.4g}"


def draw_inputs(image: Any, edited: Any, was: int, now: int, axes: Any) -> None:
    """Draw an image before and after, and what it is read as."""
    gap = np.full((8, 3), np.nan)  # drawn as nothing
    axes.imshow(np.hstack([image, gap, edited]), cmap="gray_r", vmin=0, vmax=16)
    for left in (0, 11):
        axes.add_patch(Rectangle((left - 0.5, -0.5), 8, 8, fill=False, color=PLAIN))
        axes.add_patch(Rectangle((left + 2.5, 2.5), 2, 2, fill=False, color=EDITED, linewidth=3))
    arrow = {"arrowstyle": "-|>", "linewidth": 2, "color": EDITED, "mutation_scale": 20}
    axes.annotate("", (10.3, 3.5), (7.7, 3.5), arrowprops=arrow)
    for left, label, color in ((3.5, was, "black"), (14.5, now, EDITED)):
        axes.text(left, 9.1, f"read as {label}", ha="center", size=16, weight="bold", color=color)
    axes.set(title="1  Edit the input", ylim=(10, -0.7))
    axes.axis("off")


def draw_activations(x: Any, y: Any, axes: Any) -> None:
    """Draw every activation after the layer against itself before."""
    high = x > THRESHOLD
    axes.axvline(THRESHOLD, color=PLAIN, linestyle="--")
    axes.scatter(x[~high], y[~high], s=8, color=PLAIN, label="unchanged")
    axes.scatter(x[high], y[high], s=8, color=EDITED, label=f"times {FACTOR:g}")
    axes.set(title="2  Edit the activation", xlabel="before the layer", ylabel="after the layer")
    axes.legend(title=f"threshold {THRESHOLD:g}", loc="upper left", markerscale=3, frameon=False)


def draw_outputs(free: Any, guided: Any, axes: Any) -> None:
    """Draw the chosen output while it was trained, without and with the penalty."""
    for values, color, label in ((free, PLAIN, "base loss"), (guided, EDITED, "with penalty")):
        missed = np.abs(values[-1] - TARGET).mean()
        axes.plot(values.mean(axis=1), color=color, label=f"{label}: misses by {missed:.2g}")
        low, high = values.min(axis=1), values.max(axis=1)
        axes.fill_between(range(len(values)), low, high, color=color, alpha=0.25, linewidth=0)
    axes.axhline(TARGET, color="black", linestyle="--", label=f"target {TARGET:g}")
    axes.set(title="3  Guide the output", xlabel="epoch", ylabel=f"output {GUIDED}")
    axes.legend(frameon=False)


def draw(outcomes: list[Outcome], path: Path) -> None:
    """Write the picture: a panel for each strategy. A bare `Figure` needs no display."""
    figure = Figure(figsize=(5 * len(outcomes), 4.5), layout="constrained")
    for outcome, axes in zip(outcomes, figure.subplots(1, len(outcomes), squeeze=False)[0]):
        outcome.draw(axes)
    figure.savefig(path, dpi=150)


def run(strategy: str, seed: int, quiet: bool) -> list[Outcome]:
    """Run one strategy or all."""
    outcomes = []
    if strategy != "outputs":
        given = train_reader(seed, quiet)
        if strategy in ("inputs", "all"):
            outcomes.append(edit_inputs(*given))
        if strategy in ("activations", "all"):
            outcomes.append(edit_activations(*given))
    if strategy in ("outputs", "all"):
        outcomes.append(guide_outputs(seed, quiet))
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    """What was measured, as text."""
    lines = [f"{'strategy':14}{'measured on unseen data':40}{'before':>9}{'after':>9}"]
    for outcome in outcomes:
        lines.append(f"{outcome.strategy:14}{outcome.code}")
        lines += [f"{'':14}  {what:38}{old:>9}{new:>9}" for what, old, new in outcome.rows]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; the exit status."""
    parser = argparse.ArgumentParser("python -m kedit", description="Three ways to edit a tensor.")
    strategies = ("inputs", "activations", "outputs", "all")
    parser.add_argument("--strategy", choices=strategies, default="all", help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--out", type=Path, default="kedit-demo.png", help="default: %(default)s")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options = parser.parse_args(arguments)
    if not options.out.parent.is_dir():
        parser.error(f"there is no folder {options.out.parent} for the picture")
    backend = keras.backend.backend()
    print(f"kedit {kedit.__version__}, Keras {keras.__version__} on {backend}, seed {options.seed}")
    try:
        outcomes = run(options.strategy, options.seed, options.quiet)
    except NotImplementedError:
        print(f"The backend {backend} cannot train: set KERAS_BACKEND to another.", file=sys.stderr)
        return 1
    print(table(outcomes))
    draw(outcomes, options.out)
    print(f"Picture: {options.out.resolve()}")
    failures = [(o.strategy, text) for o in outcomes for held, text in o.claims if not held]
    for strategy, text in failures:
        print(f"Strategy {strategy} did not do what it claims: {text}.", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
