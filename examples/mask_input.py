"""Fill a hole with a mask from another input
==========================================

A network fills in the missing part of an image. Which pixels are missing differs between images,
so the mask is a second input of the model. An edit puts the known pixels back into the output:
there the network cannot be wrong, and only the hole is trained.

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/mask_input.py

.. image:: /../examples/mask_input.png
   :alt: Digits, the same with a hole, and the hole filled in
"""

# sphinx_gallery_thumbnail_path = "../examples/mask_input.png"

import pathlib
import sys

import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from kedit import at

SIZE, HOLE = 8, 4
PICTURE = pathlib.Path(__file__).with_suffix(".png")


def build():
    """A small network from an image and a mask to the image without a hole."""
    image = keras.Input((SIZE, SIZE), name="image")
    is_known = keras.Input((SIZE, SIZE), dtype="bool", name="is_known")
    seen = at(image).where(~is_known).set(0.0)
    x = keras.layers.Flatten()(
        keras.layers.Concatenate()([seen, keras.ops.cast(is_known, "float32")])
    )
    x = keras.layers.Dense(256, "relu")(x)
    x = keras.layers.Dense(256, "relu")(x)
    x = keras.layers.Reshape((SIZE, SIZE))(keras.layers.Dense(SIZE * SIZE, "sigmoid")(x))
    return keras.Model([image, is_known], at(x).where(is_known).set(image))


def holes(count, seed):
    """For each image a square hole, in a place of its own."""
    corners = np.random.default_rng(seed).integers(0, SIZE - HOLE + 1, (count, 2, 1, 1))
    row, column = np.mgrid[:SIZE, :SIZE]
    inside = [
        (axis >= c) & (axis < c + HOLE)
        for axis, c in zip((row, column), corners.swapaxes(0, 1), strict=True)
    ]
    return ~(inside[0] & inside[1])


def main(picture=PICTURE, epochs=60):
    """Train, and fill the holes of images that were not seen."""
    keras.utils.set_random_seed(0)
    images = load_digits().images.astype("float32") / 16
    train, test = images[:1500], images[1500:]
    model = build()
    model.compile("adam", "mse")
    model.fit([train, holes(len(train), 0)], train, 64, epochs, verbose=0)
    is_known = holes(len(test), 1)
    filled = model.predict([test, is_known], verbose=0)
    error = {
        "hole set to 0": np.abs(test[~is_known]).mean(),
        "hole set to the mean image": np.abs(test - train.mean(0))[~is_known].mean(),
        "hole filled by the network": np.abs(test - filled)[~is_known].mean(),
        "known pixels": np.abs(test - filled)[is_known].max(),
    }
    for name, value in error.items():
        print(f"{name}: off by {value:.3f}")
    draw(test, is_known, filled, picture)
    return error


def draw(images, is_known, filled, picture):
    """Eight images, their holes, and what the network puts there."""
    figure, axes = plt.subplots(3, 8, figsize=(9, 3.6), layout="constrained")
    rows = {"image": images, "given": np.where(is_known, images, np.nan), "filled": filled}
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, image in zip(line, row, strict=False):
            axis.set_facecolor("tab:orange")
            axis.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
    figure.savefig(picture, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:2])
