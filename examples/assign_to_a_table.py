"""Fill a table by assignment
============================

Dynamic programming fills a table, cell by cell, from the cells before it: ``table[i, j] = …``. That
is what a draft is for. Here the table is that of soft dynamic time warping, a distance between two
time series that may run at different speeds, and Keras trains through it: the layer below learns
the series that is nearest to all of a set. The mean of the set blurs its peaks; this one does not.

A draft takes the assignments, in eager mode and in compiled functions, and its value is a tensor
through which gradients flow, on every backend.

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/assign_to_a_table.py

.. image:: /../examples/assign_to_a_table.png
   :alt: Shifted series, their blurred mean, and the learned series with sharp peaks; the table

M. Cuturi and M. Blondel, *Soft-DTW: a Differentiable Loss Function for Time-Series*, ICML 2017.
"""

# sphinx_gallery_thumbnail_path = "../examples/assign_to_a_table.png"

import pathlib
import sys

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import ops

from kedit import at, draft

LENGTH, SOFTNESS, FAR = 18, 0.1, 1e6
PICTURE = pathlib.Path(__file__).with_suffix(".png")


def fill_table(cost):
    """The table of distances, shape (batch, n + 1, m + 1), for costs of shape (batch, n, m).

    Cells on one diagonal do not depend on each other, so each diagonal is one assignment.
    """
    _, n, m = cost.shape
    table = draft(ops.full((ops.shape(cost)[0], n + 1, m + 1), FAR))
    table[:, 0, 0] = 0.0
    for k in range(2, n + m + 1):
        i = np.arange(max(1, k - m), min(n, k - 1) + 1)
        j = k - i
        steps = [table[:, i - 1, j], table[:, i, j - 1], table[:, i - 1, j - 1]]
        before = ops.stack([step.get() for step in steps])
        nearest = -SOFTNESS * ops.logsumexp(-before / SOFTNESS, axis=0)
        table[:, i, j] = at(cost)[:, i - 1, j - 1].get() + nearest
    return table.value


class Nearest(keras.layers.Layer):
    """The distance of each series to one that is learned."""

    def __init__(self, start, **kwargs):
        super().__init__(**kwargs)
        self.start = start

    def build(self, input_shape):
        """Add the series as a weight."""
        start = keras.initializers.Constant(self.start)
        self.series = self.add_weight(name="series", shape=(LENGTH,), initializer=start)

    def call(self, x):
        """Return the distance of each series of a batch."""
        cost = ops.square(ops.expand_dims(x, 2) - ops.convert_to_tensor(self.series))
        return fill_table(cost)[:, -1, -1]


def shifted_series(count=12):
    """Series with two peaks, which come earlier in some and later in others."""
    rng = np.random.default_rng(0)
    time = np.arange(LENGTH)[None, :]
    first, second = rng.uniform(3, 7, (count, 1)), rng.uniform(10, 15, (count, 1))
    series = np.exp(-((time - first) ** 2) / 1.5) - 0.7 * np.exp(-((time - second) ** 2) / 2)
    return (series + 0.03 * rng.normal(size=series.shape)).astype("float32")


def main(picture=PICTURE, epochs=60):
    """Learn the series, and compare its peaks with those of the mean."""
    keras.utils.set_random_seed(0)
    x = shifted_series()
    layer = Nearest(x.mean(0))
    model = keras.Sequential([keras.Input((LENGTH,)), layer])
    model.compile(keras.optimizers.Adam(0.05), loss=lambda _, distance: ops.mean(distance))
    history = model.fit(x, np.zeros(len(x)), len(x), epochs=epochs, verbose=0)
    learned = ops.convert_to_numpy(layer.series)
    mean, heights = x.mean(0), {}
    for name, series in (("the mean", mean), ("the learned series", learned)):
        heights[name] = float(series.max()), float(series.min())
        print(f"{name}: from {heights[name][1]:.2f} to {heights[name][0]:.2f}")
    print(f"distance: {history.history['loss'][0]:.2f}, then {history.history['loss'][-1]:.2f}")
    cost = ops.square(
        ops.expand_dims(ops.convert_to_tensor(x[:1]), 2) - ops.convert_to_tensor(learned)
    )
    draw(x, mean, learned, ops.convert_to_numpy(fill_table(cost))[0], picture)
    return heights, history.history["loss"]


def draw(x, mean, learned, table, picture):
    """The series, what stands for all of them, and the table for the first one."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    axes[0].plot(x.T, color="0.7", linewidth=1)
    axes[0].set_title(f"{len(x)} series")
    axes[1].plot(mean, color="tab:blue", linewidth=2, label="mean")
    axes[1].plot(learned, color="tab:red", linewidth=2, label="learned")
    axes[1].set_title("one series for all")
    axes[1].legend(frameon=False)
    axes[1].sharey(axes[0])
    shown = axes[2].imshow(np.sqrt(np.maximum(table[1:, 1:], 0)), cmap="Blues", origin="lower")
    axes[2].set_title("the table that was filled")
    axes[2].set_xlabel("step of the learned series")
    axes[2].set_ylabel("step of the first series")
    figure.colorbar(shown, ax=axes[2], label="root of the distance so far")
    figure.savefig(picture, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:2])
