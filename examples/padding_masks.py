"""Keep padding at zero between convolutions
=========================================

Sequences of different lengths are padded with zeros to one length. A convolution with a bias fills
the padding, and the next one mixes it into the last steps of the sequence. So the padding is set
to zero again after each layer, by where each step stands beside another input of the model, the
lengths. The number of steps need not be known. Then each sequence gives what it gives alone.

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/padding_masks.py

.. image:: /../examples/padding_masks.png
   :alt: How far each step differs from the sequence alone, with and without the edit
"""

# sphinx_gallery_thumbnail_path = "../examples/padding_masks.png"

import pathlib
import sys

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import ops

from kedit import each, position, sample

LENGTH, CHANNELS = 24, 8
LENGTHS = np.array([24, 17, 9, 4])
PICTURE = pathlib.Path(__file__).with_suffix(".png")


def build(keep_zero):
    """Three convolutions; with `keep_zero`, the padding is set to zero after each of them."""
    x = keras.Input((None, CHANNELS), name="x")
    length = keras.Input((), dtype="int32", name="length")
    h = x
    for number in range(3):
        convolve = keras.layers.Conv1D(CHANNELS, 3, padding="same", activation="relu")
        convolve.bias_initializer = keras.initializers.Constant(0.5)
        convolve.kernel_initializer = keras.initializers.GlorotUniform(seed=number)
        h = convolve(h)
        if keep_zero:
            h = sample(h).where(position(0) >= each(length)).set(0.0)
    return keras.Model([x, length], h)


def main(picture=PICTURE):
    """Compare each padded sequence with the sequence alone."""
    x = np.random.default_rng(0).normal(size=(len(LENGTHS), LENGTH, CHANNELS)).astype("float32")
    x[np.arange(LENGTH) >= LENGTHS[:, None]] = 0.0
    alone = build(keep_zero=False)
    differences = {}
    for name, keep_zero in (("padding is filled", False), ("padding is kept at zero", True)):
        found = build(keep_zero).predict([x, LENGTHS], verbose=0)
        difference = np.full((len(LENGTHS), LENGTH), np.nan)
        for row, n in enumerate(LENGTHS):
            expected = ops.convert_to_numpy(alone([x[row : row + 1, :n], LENGTHS[row : row + 1]]))
            difference[row, :n] = np.abs(found[row, :n] - expected[0]).max(-1)
        differences[name] = difference
        print(f"{name}: largest difference from the sequence alone {np.nanmax(difference):.2g}")
    draw(differences, picture)
    return differences


def draw(differences, picture):
    """How far each step differs from the sequence alone."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 2.6), layout="constrained", sharey=True)
    highest = max(np.nanmax(difference) for difference in differences.values())
    for axis, (name, difference) in zip(axes, differences.items(), strict=True):
        axis.set_facecolor("0.93")
        shown = axis.imshow(difference, aspect="auto", cmap="Oranges", vmin=0, vmax=highest)
        axis.set_title(name)
        axis.set_xlabel("step")
        axis.set_yticks(range(len(LENGTHS)), [f"length {n}" for n in LENGTHS])
    figure.colorbar(shown, ax=axes, label="difference")
    figure.savefig(picture, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:2])
