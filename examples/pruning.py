"""Prune a classifier and keep the zeros while it is tuned
=======================================================

The smallest weights of a classifier of handwritten digits are set to 0 and stay 0. AdamW with
weight decay and averaged weights (`use_ema`) would move weights in spite of a mask on gradients;
here the mask is part of what the model computes.

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/pruning.py

.. image:: /../examples/pruning.png
   :alt: Accuracy by the share of pruned weights
"""

# sphinx_gallery_thumbnail_path = "../examples/pruning.png"

import pathlib
import sys

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import ops
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from kedit.interventions import prune

SPARSITIES = (0.5, 0.8, 0.9, 0.95)
SHOWN = 0.9
PICTURE = pathlib.Path(__file__).with_suffix(".png")


def classifier():
    """A classifier of images of 8 x 8 pixels."""
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="digit"),
        ]
    )


def fit(model, data, epochs):
    """Train a model, with all that moves weights."""
    x, y = data
    optimizer = keras.optimizers.AdamW(2e-3, weight_decay=0.02, use_ema=True, ema_momentum=0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    model.fit(x, y, 64, epochs, verbose=0)


def accuracy(model, data):
    """Share of images that are recognised."""
    x, y = data
    return float(np.mean(model.predict(x, verbose=0).argmax(axis=1) == y))


def main(picture=PICTURE, epochs=20, sparsities=SPARSITIES):
    """Prune one trained classifier to each sparsity, and tune it."""
    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x.astype("float32") / 16, y, random_state=0, stratify=y
    )
    train, test = (x_train, y_train), (x_test, y_test)
    dense = classifier()
    fit(dense, train, epochs)
    unpruned = accuracy(dense, test)
    rows, kernels = [(0.0, unpruned, unpruned, 0)], {}
    for sparsity in sparsities:
        copy = keras.models.clone_model(dense)
        copy.set_weights(dense.get_weights())
        model = prune(copy, "hidden/kernel", sparsity)
        kept = ops.convert_to_numpy(model.weight("hidden/kernel")) != 0
        pruned = accuracy(model, test)
        fit(model, train, epochs)
        kernel = ops.convert_to_numpy(model.weight("hidden/kernel"))
        rows.append((sparsity, pruned, accuracy(model, test), int((kernel[~kept] != 0).sum())))
        kernels[sparsity] = kernel
    print("sparsity  pruned   tuned   weights that came back")
    for sparsity, pruned, tuned, moved in rows:
        print(f"{sparsity:8.0%}  {pruned:6.1%}  {tuned:6.1%}   {moved}")
    draw(rows, ops.convert_to_numpy(dense.get_layer("hidden").kernel), kernels, picture)
    return rows


def draw(rows, before, kernels, picture):
    """Accuracy against sparsity, and one kernel before and after."""
    figure, axes = plt.subplots(
        1, 3, figsize=(11, 3.4), layout="constrained", width_ratios=(1.3, 1, 1)
    )
    share = [100 * row[0] for row in rows]
    for column, label, style in ((2, "pruned and tuned", "o-"), (1, "pruned", "s--")):
        axes[0].plot(share, [100 * row[column] for row in rows], style, label=label)
    axes[0].set_xlabel("share of the hidden weights set to 0 (%)")
    axes[0].set_ylabel("accuracy on unseen digits (%)")
    axes[0].spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    sparsity = SHOWN if SHOWN in kernels else list(kernels)[-1]
    limit = np.abs(before).max()
    after = f"{sparsity:.0%} pruned, tuned"
    for axis, kernel, title in (
        (axes[1], before, "trained"),
        (axes[2], kernels[sparsity], after),
    ):
        image = axis.imshow(kernel, cmap="RdBu", vmin=-limit, vmax=limit)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("unit")
        axis.set_ylabel("pixel")
    figure.colorbar(image, ax=axes[2], label="weight")
    figure.savefig(picture, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:2])
