"""`python -m kedit`: the three strategies on real data, on the running backend.

Trains small models on data that comes with scikit-learn, edits an input, edits an
activation and guides an output, prints the measurements before and after, and draws
them. Exits with status 1 if a strategy did not do what it claims.
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
import kedit_demo
from kedit_demo import STRATEGIES

try:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from sklearn.datasets import load_diabetes, load_digits
except ModuleNotFoundError as missing:
    sys.exit(f'`python -m kedit` needs {missing.name}. Install it: pip install "kedit[demo]"')

ERASE = kedit.sample[3:5, 3:5].set(0.0)  # the centre of an image of 8 by 8 pixels
THRESHOLD, FACTOR = 3.0, 2.0
GUIDED, TARGET = 2, 50.0  # which output is guided, and its target
TOLERANCE = 1.0  # how far it may miss the target; without the penalty it misses by 100
BEFORE, AFTER = "tab:gray", "tab:orange"


@dataclass(frozen=True)
class Outcome:
    """The result of a strategy: measured in `rows`, checked in `claims`, drawn by `draw`."""

    strategy: str
    title: str
    code: str
    rows: list[tuple[str, Any, Any]]  # what was measured, before, after
    claims: list[tuple[bool, str]]  # whether it held, what to say if not
    draw: Callable[[Any], None]  # on the axes of a figure


class Progress(keras.callbacks.Callback):
    """Prints what is trained, a dot for every tenth of the epochs, and the loss."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def on_train_begin(self, logs: Any = None) -> None:
        print(f"Training {self.name} ", end="", flush=True)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if (epoch + 1) % max(1, self.params["epochs"] // 10) == 0:
            print(".", end="", flush=True)

    def on_train_end(self, logs: Any = None) -> None:
        print(f" loss {logs['loss']:.4g}", flush=True)


def split(x: Any, y: Any, seed: int) -> tuple[Any, Any, Any, Any]:
    """Shuffle the data, and split it: four fifths for training, one fifth for measuring."""
    order = np.random.default_rng(seed).permutation(len(x))
    unseen, train = np.split(order, [len(x) // 5])
    return x[train], y[train], x[unseen], y[unseen]


def train_reader(seed: int, quiet: bool) -> tuple[Any, Any, Any]:
    """Train a reader of handwritten digits; return it, unseen images (0.0 to 16.0), and digits."""
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
    reader.fit(x, y, batch_size=128, epochs=12, verbose=0, callbacks=callbacks)
    return reader, images, digits


def predict(model: Any, x: Any) -> Any:
    """Predict in one batch."""
    return model.predict(x, batch_size=len(x), verbose=0)


def edit_inputs(reader: Any, images: Any, digits: Any) -> Outcome:
    """Strategy 1: erase the centre of every image, then predict."""
    original, expected = images.copy(), images.copy()
    expected[:, 3:5, 3:5] = 0.0
    edited = ERASE(images)
    before, after = predict(reader, images), predict(reader, edited)
    read, reread = before.argmax(axis=1), after.argmax(axis=1)
    # Show the image that is misread with the highest probability, of those read right before.
    misread = (read == digits) & (reread != digits)
    shown = int(np.where(misread, after.max(axis=1), 0.0).argmax())
    was, now = int(read[shown]), int(reread[shown])
    return Outcome(
        "inputs",
        "1  Edit the input",
        repr(ERASE),
        [
            (f"read right, of {len(digits)} digits", sum(read == digits), sum(reread == digits)),
            (f"image {shown}, digit {digits[shown]}, is read as", was, now),
        ],
        [
            (np.array_equal(images, original), "the array that was given has changed"),
            (np.array_equal(edited, expected), "not just the centre has become 0"),
            (bool((read != reread).any()), "no prediction has changed"),
        ],
        partial(draw_inputs, images[shown], edited[shown], was, now),
    )


def edit_activations(reader: Any, images: Any, digits: Any) -> Outcome:
    """Strategy 2: put a layer into the trained model that doubles high activations."""
    hidden = reader.get_layer("hidden").output
    modified = kedit.layers.ConditionalModifier(THRESHOLD, FACTOR)(hidden)
    output = reader.get_layer("digit")(modified)
    model = keras.Model(reader.inputs, [hidden, modified, *reader.outputs, output])
    x, y, before, after = predict(model, images)
    read, reread = before.argmax(axis=1), after.argmax(axis=1)
    high = x > THRESHOLD
    above, below = (x[high], y[high]), (x[~high], y[~high])
    return Outcome(
        "activations",
        "2  Edit the activation",
        f"ConditionalModifier({THRESHOLD}, factor={FACTOR})",
        [
            (f"largest of {high.sum()} above {THRESHOLD}", *(a.max(initial=0) for a in above)),
            (f"largest of {(~high).sum()} others", *(a.max(initial=0) for a in below)),
            (f"read right, of {len(digits)} digits", sum(read == digits), sum(reread == digits)),
        ],
        [
            (0 < high.sum() < high.size, f"{high.sum()} of {high.size} lie above the threshold"),
            (np.array_equal(above[1], above[0] * np.float32(FACTOR)), "a product is not exact"),
            (np.array_equal(*below), "an activation below the threshold has changed"),
            (bool((read != reread).any()), "no prediction has changed"),
        ],
        partial(draw_activations, above, below),
    )


def guide_outputs(seed: int, quiet: bool) -> Outcome:
    """Strategy 3: guide one of three outputs to a target that the base loss opposes."""
    x, y = load_diabetes(return_X_y=True, scaled=False)
    # Predict cholesterol, glucose and disease progression after a year from age, sex, body mass
    # index and blood pressure.
    y = np.column_stack([x[:, [4, 9]], y]).astype("float32")
    x = ((x - x.mean(axis=0)) / x.std(axis=0)).astype("float32")[:, :4]
    x, y, patients, truth = split(x, y, seed)
    base = keras.losses.MeanSquaredError()
    # The base loss pulls an output away from the target by 2 / 3 * (y_pred - y_true), at most
    # `pull`. A stronger L1 penalty is exact: the loss is least at the target. A weaker one fails.
    pull = 2 / 3 * np.abs(y[:, GUIDED] - TARGET).max()
    weight = float(np.ceil(1.1 * pull))
    penalty = kedit.losses.IndexPenalty(GUIDED, TARGET, kind="l1", weight=weight, base_loss=base)
    names = ("three outputs, all free", "three outputs, one guided")
    models = [
        train_outputs(x, y, loss, seed, [] if quiet else [Progress(name)])
        for name, loss in zip(names, (base, penalty), strict=True)
    ]
    free, guided = (predict(model, patients) for model in models)
    missed = [np.abs(y_pred[:, GUIDED] - TARGET) for y_pred in (free, guided)]
    errors = [np.abs(y_pred - truth).mean(axis=0) for y_pred in (free, guided)]
    others = [np.delete(error, GUIDED).mean() for error in errors]
    mean, most = missed[0].mean(), missed[1].max()
    return Outcome(
        "outputs",
        "3  Guide the output",
        f'IndexPenalty({GUIDED}, {TARGET}, kind="l1", weight={weight:g})',
        [
            (f"output {GUIDED} misses {TARGET} by, mean", mean, missed[1].mean()),
            (f"most, of {len(truth)} patients", missed[0].max(), most),
            ("mean error of the other outputs", *others),
        ],
        [
            (most < TOLERANCE, f"{TARGET} was missed by {most:.4g}, more than {TOLERANCE}"),
            (mean > 20 * TOLERANCE, f"without it, {TARGET} was missed by {mean:.4g} only"),
            (others[1] < 1.1 * others[0], "the other outputs have become worse"),
        ],
        partial(draw_outputs, free[:, GUIDED], guided[:, GUIDED]),
    )


def train_outputs(x: Any, y: Any, loss: Any, seed: int, callbacks: list[Any]) -> Any:
    """Train a linear model with three outputs."""
    epochs, batch_size = 40, 128
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            keras.layers.Dense(y.shape[1]),
            keras.layers.Rescaling(100.0, 100.0),  # to the size of the data
        ]
    )
    # The slope of an L1 penalty does not flatten near the target, so smaller steps get closer.
    steps = epochs * int(np.ceil(len(x) / batch_size))
    rate = keras.optimizers.schedules.CosineDecay(0.1, steps)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=callbacks)
    return model


def draw_inputs(image: Any, edited: Any, was: int, now: int, axes: Any) -> None:
    """Draw an image before and after the edit, and the digit it is read as."""
    gap = np.full((8, 3), np.nan)  # left blank
    axes.imshow(np.hstack([image, gap, edited]), cmap="gray_r", vmin=0, vmax=16)
    for left, label, color in ((0, was, "black"), (11, now, AFTER)):
        axes.add_patch(Rectangle((left - 0.5, -0.5), 8, 8, fill=False, color=BEFORE))
        axes.add_patch(Rectangle((left + 2.5, 2.5), 2, 2, fill=False, color=AFTER, linewidth=3))
        text = f"read as {label}"
        axes.text(left + 3.5, 8.9, text, ha="center", size=17, weight="bold", color=color)
    arrow = {"arrowstyle": "-|>", "linewidth": 2, "color": AFTER, "mutation_scale": 20}
    axes.annotate("", (10.4, 3.5), (7.6, 3.5), arrowprops=arrow)
    axes.axis("off")


def draw_activations(above: Any, below: Any, axes: Any) -> None:
    """Plot every activation after the layer against its value before."""
    line = {"color": "black", "linestyle": "--", "zorder": 0}
    axes.axvline(THRESHOLD, **line, label=f"threshold {THRESHOLD:g}")
    axes.scatter(*below, s=10, color=BEFORE, label="unchanged")
    axes.scatter(*above, s=10, color=AFTER, label=f"times {FACTOR:g}")
    axes.set(xlabel="before the layer", ylabel="after the layer")
    axes.legend(loc="upper left", markerscale=3, frameon=False)


def draw_outputs(free: Any, guided: Any, axes: Any) -> None:
    """Draw the guided output for every patient, without and with the penalty."""
    order = free.argsort()
    axes.axhline(TARGET, color="black", linestyle="--", zorder=0, label=f"target {TARGET:g}")
    for y_pred, color, loss in ((free, BEFORE, "base loss"), (guided, AFTER, "with penalty")):
        label = f"{loss}: misses by {np.abs(y_pred - TARGET).mean():.2f}"
        axes.scatter(range(len(y_pred)), y_pred[order], s=20, color=color, label=label)
    axes.set(xlabel="patient, not seen in training", ylabel=f"output {GUIDED}", ylim=(0, None))
    axes.legend(loc="upper left", markerscale=2, frameon=False)


def draw(outcomes: list[Outcome], path: Path) -> None:
    """Write the picture, one panel for each strategy; a bare `Figure` needs no display."""
    figure = Figure(figsize=(5.2 * len(outcomes), 5.2), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)
    panels = figure.subplots(1, len(outcomes), squeeze=False)[0]
    for outcome, axes in zip(outcomes, panels, strict=True):
        outcome.draw(axes)
        axes.set_box_aspect(0.85)
        axes.set_title(outcome.title, loc="left", pad=26, size=15, weight="bold")
        axes.text(0, 1.03, outcome.code, family="monospace", size=9, transform=axes.transAxes)
    figure.savefig(path, dpi=150)


def run(strategy: str, seed: int, quiet: bool) -> list[Outcome]:
    """Run one strategy, or all."""
    chosen = STRATEGIES if strategy == "all" else (strategy,)
    reader = train_reader(seed, quiet) if set(chosen) != {"outputs"} else ()
    steps = {
        "inputs": lambda: edit_inputs(*reader),
        "activations": lambda: edit_activations(*reader),
        "outputs": lambda: guide_outputs(seed, quiet),
    }
    return [steps[name]() for name in chosen]


def table(outcomes: list[Outcome]) -> str:
    """Return the measurements as text."""
    lines = [f"{'strategy':14}{'on data the models have not seen':44}{'before':>9}{'after':>9}"]
    for outcome in outcomes:
        lines.append(f"{outcome.strategy:14}{outcome.code}")
        lines += [f"{'':16}{what:42}{old:9.4g}{new:9.4g}" for what, old, new in outcome.rows]
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options; report errors now, not after training."""
    parser = kedit_demo.parser("python -m kedit")
    options = parser.parse_args(arguments)
    if not 0 <= options.seed < 2**32:
        parser.error(f"--seed should be from 0 to 2**32 - 1. Received: {options.seed}")
    formats = Figure().canvas.get_supported_filetypes()
    if options.out.suffix.lower()[1:] not in formats:
        parser.error(f"--out should end in .{', .'.join(formats)}. Received: {options.out}")
    if not options.out.parent.is_dir():
        parser.error(f"--out should be in a folder that exists. Received: {options.out}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration, and return the exit status."""
    options = parse(arguments)
    backend = keras.backend.backend()
    print(f"kedit {kedit.__version__} with Keras {keras.__version__} on {backend}")
    try:
        outcomes = run(options.strategy, options.seed, options.quiet)
    except NotImplementedError as error:
        print(f"Set KERAS_BACKEND to another than {backend}: {error}", file=sys.stderr)
        return 1
    print(table(outcomes))
    draw(outcomes, options.out)
    print(f"Picture: {options.out.resolve()}")
    failures = [(o.strategy, text) for o in outcomes for held, text in o.claims if not held]
    for strategy, text in failures:
        print(f"Strategy {strategy!r} did not do what it claims: {text}.", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
