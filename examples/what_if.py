"""What if this element were different?
====================================

Three studies of models that were trained on real data:

- How would a patient's predicted disease progression change with the body mass index alone?
- Which parts of an image make a classifier read the digit?
- What is the least change of an image for it to be read as another digit?

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/what_if.py

.. image:: /../examples/what_if_curve.png
   :alt: Predicted progression by body mass index

.. image:: /../examples/what_if_occlusion.png
   :alt: Which parts of an image matter

.. image:: /../examples/what_if_counterfactual.png
   :alt: A nine that is read as a zero after a change of four pixels
"""

# sphinx_gallery_thumbnail_path = "../examples/what_if_counterfactual.png"

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes, load_digits

from kedit import sample
from kedit.studies import ablate, counterfactual, sweep

BMI = 2  # the column of the body mass index


def train_regressor(epochs):
    """A model of disease progression after a year, of ten measurements in their own units."""
    x, y = load_diabetes(return_X_y=True, scaled=False)
    x = x.astype("float32")
    keras.utils.set_random_seed(0)
    normalization = keras.layers.Normalization()
    normalization.adapt(x)
    hidden = keras.layers.Dense(32, activation="relu")
    scale = keras.layers.Rescaling(float(y.std()), float(y.mean()))
    model = keras.Sequential(
        [keras.Input((10,)), normalization, hidden, keras.layers.Dense(1), scale]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
    return model, x


def train_reader(epochs):
    """A model that reads handwritten digits of 8 by 8 pixels from 0 to 16."""
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8)),
            keras.layers.Rescaling(1 / 16),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x[:1500], y[:1500], batch_size=128, epochs=epochs, verbose=0)
    return model, x[1500:], y[1500:]


def draw_curve(epochs, path):
    """One curve a patient, as the body mass index takes each value and all else stays."""
    model, x = train_regressor(epochs)
    values = np.linspace(x[:, BMI].min(), x[:, BMI].max(), 50)
    x = x[::8]  # so that single curves can be seen
    found = sweep(model, x, sample[BMI], values, verbose=0)
    average = found.average[:, 0]
    print(f"Body mass index {values[0]:.0f} to {values[-1]:.0f} kg/m²: predicted progression")
    print(f"  on average {average[0]:.0f} to {average[-1]:.0f}, of {len(x)} patients")
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = found.plot(ax=figure.subplots())
    ax.set(xlabel="body mass index (kg/m²)", ylabel="predicted progression after a year")
    ax.set_title("What if the body mass index were different?")
    figure.savefig(path, dpi=120)


def draw_occlusion(model, x, y, path):
    """What is lost of the probability of the digit without each window of 2 by 2 pixels."""
    windows = [sample[i : i + 2, j : j + 2] for i in range(7) for j in range(7)]
    found = ablate(model, x, windows, verbose=0)
    read = found.before.argmax(axis=-1)
    lost = found.after.argmax(axis=-1) != y
    right, without = np.mean(read == y), 1 - lost.mean()
    print(f"Read right: {right:.0%} of {len(x)} unseen digits")
    print(f"  {without:.0%} without a window of 2 by 2 pixels, of all windows")
    shown = int(np.where((y == 4) & (read == y), found.effects.max(axis=0)[:, 4], -1).argmax())
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    axes[0].imshow(x[shown], cmap="gray_r")
    axes[0].set_title(f"A {y[shown]}, read as one")
    found.plot(int(y[shown]), axes[1], index=shown)
    axes[1].set_title(f"What makes it a {y[shown]}")
    label_pixels(*axes)
    figure.savefig(path, dpi=120)


def draw_counterfactual(model, x, y, path):
    """The change of few pixels with which digits are read as the next one."""
    x, y = x[:10], y[:10]
    target = (y + 1) % 10
    found = counterfactual(
        model, x, target, free=sample[...], l1=0.003, minimum=0.0, maximum=16.0, verbose=0
    )
    changed = np.count_nonzero(found.delta, axis=(1, 2))
    print(f"Read as the next digit after a change: {found.reached.sum()} of {len(x)}")
    print(f"  by {np.median(changed[found.reached]):.0f} of 64 pixels in the median")
    shown = int(np.where(found.reached, changed, 65).argmin())
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = found.plot(figure.subplots(1, 3), index=shown)
    titles = (f"Read as {found.before[shown].argmax()}", "Change", f"Read as {target[shown]}")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title)
    label_pixels(*axes)
    figure.savefig(path, dpi=120)


def label_pixels(*axes):
    """Name the axes of images."""
    for ax in axes:
        ax.set(xlabel="column (pixel)", ylabel="row (pixel)", xticks=range(8), yticks=range(8))


def main(arguments=None):
    """Train both models, and draw what each study finds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--to", type=Path, default=Path(__file__).parent, help="where to draw")
    options = parser.parse_args(arguments)
    draw_curve(options.epochs, options.to / "what_if_curve.png")
    model, x, y = train_reader(options.epochs // 2 or 1)
    draw_occlusion(model, x, y, options.to / "what_if_occlusion.png")
    draw_counterfactual(model, x, y, options.to / "what_if_counterfactual.png")


if __name__ == "__main__":
    main()
