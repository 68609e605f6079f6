"""Prune a little at a time, and make the model smaller
====================================================

A network for handwritten digits loses most of its weights in four ways, all tuned for the same
number of epochs: the smallest weights of all layers at once or along a schedule, two of each four
neighbors, and whole filters, which `remove_channels` takes out of the model. Up to 95 % either way
loses nothing. From 99 % on the schedule is far better, since the other weights adapt in between.

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/gradual_pruning.py

.. image:: /../examples/gradual_pruning.png
   :alt: Accuracy by sparsity, pruned at once and along a schedule, and the schedule itself
"""

# sphinx_gallery_thumbnail_path = "../examples/gradual_pruning.png"

import pathlib
import sys
import time

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from kedit.callbacks import PruningSchedule
from kedit.weights import prune, remove_channels

SPARSITIES = (0.9, 0.95, 0.98, 0.99, 0.995)
PICTURE = pathlib.Path(__file__).with_suffix(".png")
BATCH = 64


def network():
    """A network with 85,066 weights for images of 8 x 8 pixels."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv_1"),
            layers.Conv2D(64, 3, padding="same", activation="relu", name="conv_2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(10, name="digit"),
        ]
    )


def digits():
    """Images and labels: for training, and unseen ones."""
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8, 1).astype("float32") / 16
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=0.4, random_state=0, stratify=y
    )
    return (x_train, y_train), (x_test, y_test)


def fit(model, data, epochs, rate=1e-3, *callbacks):
    """Train a model, and return the history."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), loss)
    return model.fit(*data, BATCH, epochs, verbose=0, callbacks=list(callbacks)).history


def accuracy(model, data):
    """Share of images that are recognized."""
    x, y = data
    return float(np.mean(model.predict(x, verbose=0).argmax(axis=1) == y))


def copy_of(model):
    """A model with the same weights."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def along_a_schedule(model, train, epochs, sparsity):
    """Prune during the first two thirds of the epochs."""
    steps = -(-len(train[0]) // BATCH) * epochs
    schedule = PruningSchedule(
        0.0, sparsity, begin_step=0, end_step=2 * steps // 3, frequency=max(steps // 30, 1)
    )
    pruned = prune(copy_of(model), "*/kernel", 0.0, scope="global")
    return pruned, fit(pruned, train, epochs, 1e-3, schedule)["sparsity"]


def at_once(model, train, epochs, sparsity, **options):
    """Prune, then tune."""
    pruned = prune(copy_of(model), "*/kernel", sparsity, **options)
    fit(pruned, train, epochs)
    return pruned


def without_half_of_the_units(model, train, epochs):
    """Take out the units with the smallest weights, then tune."""
    weakest = {}
    for name in ("conv_1", "conv_2", "hidden"):
        kernel = ops.convert_to_numpy(model.get_layer(name).kernel)
        scores = np.abs(kernel).mean(axis=tuple(range(kernel.ndim - 1)))
        weakest[name] = np.argsort(scores)[: scores.size // 2]
    small = remove_channels(model, weakest)
    fit(small, train, epochs)
    return small


def seconds(model, x):
    """Shortest time to predict many images."""
    x = np.concatenate([x] * 8)
    model.predict(x, 512, verbose=0)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        model.predict(x, 512, verbose=0)
        times.append(time.perf_counter() - start)
    return min(times)


def main(picture=PICTURE, epochs=30, sparsities=SPARSITIES, seeds=(0, 1, 2)):
    """Prune trained networks in each way, and print the mean accuracies."""
    train, test = digits()
    found = {}
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        model = network()
        fit(model, train, epochs)
        found.setdefault(("trained", 0.0), []).append(accuracy(model, test))
        for sparsity in sparsities:
            pruned = at_once(model, train, epochs, sparsity, scope="global")
            found.setdefault(("at once", sparsity), []).append(accuracy(pruned, test))
            pruned, shares = along_a_schedule(model, train, epochs, sparsity)
            found.setdefault(("schedule", sparsity), []).append(accuracy(pruned, test))
        # The first kernel has one input channel, and no four neighbors.
        wide = ["conv_2/kernel", "hidden/kernel"]
        two_of_four = prune(copy_of(model), wide, structure=(2, 4))
        fit(two_of_four, train, epochs)
        found.setdefault(("2 of 4", 0.5), []).append(accuracy(two_of_four, test))
        small = without_half_of_the_units(model, train, epochs)
        share = 1 - small.count_params() / model.count_params()
        found.setdefault(("half of the units", share), []).append(accuracy(small, test))
    print("way                 sparsity  accuracy  lowest")
    rows = [(way, share, float(np.mean(a)), min(a)) for (way, share), a in found.items()]
    for way, share, mean, least in rows:
        print(f"{way:18}  {share:8.1%}  {mean:8.1%}  {least:6.1%}")
    ratio = seconds(model, test[0]) / seconds(small, test[0])
    print(f"{model.count_params()} weights, {small.count_params()} without half of the units;")
    print(f"the smaller network predicts {ratio:.1f} times as fast")
    draw(rows, shares, picture)
    return rows


def draw(rows, shares, picture):
    """Accuracy against sparsity, and the sparsity after each epoch."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9.5, 3.4), layout="constrained", width_ratios=(1.5, 1)
    )
    trained = rows[0][2]
    left.axhline(100 * trained, color="0.6", linewidth=1, label="trained, not pruned")
    for way, style, label in (
        ("schedule", "o-", "pruned along a schedule"),
        ("at once", "s--", "pruned at once"),
    ):
        points = [(f"{100 * row[1]:g}", 100 * row[2]) for row in rows if row[0] == way]
        left.plot(*zip(*points, strict=True), style, label=label)
    left.set_xlabel("weights set to 0 (%)")
    left.set_ylabel("accuracy on unseen digits (%)")
    left.legend(frameon=False, loc="lower left")
    right.plot(range(1, len(shares) + 1), [100 * share for share in shares], ".-")
    right.set_xlabel("epoch")
    right.set_ylabel("weights set to 0 (%)")
    right.set_ylim(0, 103)
    right.set_title("the schedule", fontsize=10)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:2])
