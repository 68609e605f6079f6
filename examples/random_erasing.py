"""Erase a random box of each image while training
================================================

A classifier of handwritten digits learns with boxes of random sizes erased, by one layer in front
of it. It then recognises digits of which a part is covered. In inference the layer does nothing.

The boxes of the test come from `RandomEdit`, which draws by the number of the image: both
classifiers see the same ones.

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/random_erasing.py

.. image:: /../examples/random_erasing.png
   :alt: Digits with erased boxes, and accuracy by the size of the box
"""

# sphinx_gallery_thumbnail_path = "../examples/random_erasing.png"

import pathlib
import sys

import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from kedit import sample
from kedit.inputs import RandomEdit
from kedit.layers import RandomEditing

GREY = 0.5
ERASE = sample[...].set(GREY)
BOXES = ((2, 5), (2, 5))
SIZES = range(6)
PICTURE = pathlib.Path(__file__).with_suffix(".png")


def classifier(erases):
    """A small network for images of 8 x 8 pixels."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            *([RandomEditing(ERASE, block=BOXES, probability=0.8, seed=1)] if erases else []),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10),
        ]
    )


def accuracy(model, images, labels, size, draws):
    """Share of images that are recognised with a box of `size` x `size` pixels erased."""
    erase = RandomEdit(ERASE, block=(size, size), seed=2)
    found = [
        model.predict(erase(images, range(len(images)), epoch), verbose=0).argmax(axis=1) == labels
        for epoch in range(draws)
    ]
    return float(np.mean(found))


def main(picture=PICTURE, epochs=40, draws=4):
    """Train with and without erasing, and test on boxes of every size."""
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8, 1).astype("float32") / 16
    x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0, stratify=y)
    rows, models = {}, {}
    for name, erases in (("trained with erasing", True), ("trained without", False)):
        keras.utils.set_random_seed(0)
        model = models[name] = classifier(erases)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-3), loss)
        model.fit(x_train, y_train, 64, epochs, verbose=0)
        rows[name] = [accuracy(model, x_test, y_test, size, draws) for size in SIZES]
    print("box                  " + "  ".join([f"{size} x {size}" for size in SIZES]))
    for name, row in rows.items():
        print(f"{name:20} " + "  ".join([f"{share:5.1%}" for share in row]))
    layer = models["trained with erasing"].layers[0]
    shown = x_test[:8]
    calls = [keras.ops.convert_to_numpy(layer(shown, training=True)) for _ in range(3)]
    draw(shown, calls, rows, picture)
    return rows


def draw(images, calls, rows, picture):
    """Images, what three calls of the layer make of them, and the accuracy."""
    figure = plt.figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    axes = left.subplots(1 + len(calls), len(images))
    names = ["image", *[f"call {number}" for number in range(1, 1 + len(calls))]]
    for line, name, row in zip(axes, names, [images, *calls], strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axis, image, clean in zip(line, row, images, strict=True):
            axis.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            erased = (image != clean)[..., 0]
            if erased.any():
                (top, bottom), (start, end) = [
                    np.flatnonzero(erased.any(axis=other))[[0, -1]] for other in (1, 0)
                ]
                axis.add_patch(
                    plt.Rectangle(
                        (start - 0.5, top - 0.5),
                        end - start + 1,
                        bottom - top + 1,
                        color="tab:orange",
                    )
                )
            axis.set_xticks([])
            axis.set_yticks([])
    axis = right.subplots()
    for (name, row), style, color in zip(
        rows.items(), ("o-", "s--"), ("tab:blue", "tab:gray"), strict=True
    ):
        axis.plot(list(SIZES), [100 * share for share in row], style, color=color, label=name)
    axis.set_xlabel("side of the erased box (pixels)")
    axis.set_ylabel("accuracy on unseen digits (%)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:2])
