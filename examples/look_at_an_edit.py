"""Look at an edit
===============

`edit.plot(x)` draws a tensor before and after an edit, and what changed: a line for one axis, an
image for two. Elements that stay as they are are gray in the last image, others are red where they
grew and blue where they shrank. NaN and infinity have colors of their own.

Here three edits are drawn into one figure: two that are joined by ``|``, one with a condition, and
one that hides another position in every sample.

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/look_at_an_edit.py

.. image:: /../examples/look_at_an_edit.png
   :alt: Three tensors, each before and after an edit, and what changed
"""

# sphinx_gallery_thumbnail_path = "../examples/look_at_an_edit.png"

import pathlib
import sys

import matplotlib.pyplot as plt
import numpy as np
from keras import ops

from kedit import X, at, each, sample

PICTURE = pathlib.Path(__file__).with_suffix(".png")


def signal():
    """Two oscillations, 80 numbers."""
    time = np.linspace(0, 4 * np.pi, 80)
    return np.sin(time) + 0.3 * np.sin(5 * time)


def landscape():
    """Two hills and a valley, 24 by 36 numbers."""
    y, x = np.mgrid[:24, :36]
    hills = [(1.0, 8, 9, 5), (0.8, 15, 26, 6), (-0.7, 5, 24, 4)]
    return sum(h * np.exp(-((y - a) ** 2 + (x - b) ** 2) / c**2) for h, a, b, c in hills)


def sequences():
    """Eight sequences of twelve steps."""
    return np.random.default_rng(0).normal(size=(8, 12))


EDITS = [
    (at[20:32].set(0.0) | at[50::6].subtract(0.8), signal),
    (at[:, 4:32].where(X > 0.4).multiply(0.5), landscape),
    (sample[each([3, 7, 1, 10, 5, 0, 8, 4])].set(np.nan), sequences),
]


def main(picture=PICTURE):
    """Draw each edit in a row of its own, and count the elements that it changes."""
    figure, axes = plt.subplots(len(EDITS), 3, figsize=(11, 8.5), layout="constrained")
    counts = []
    for (edit, data), row in zip(EDITS, axes, strict=True):
        x = ops.convert_to_tensor(data().astype("float32"))
        edit.plot(x, row)
        changed = ops.convert_to_numpy(edit(x) != x)
        counts.append(int(changed.sum()))
        print(f"{edit!r} changes {counts[-1]} of {changed.size} elements")
    figure.savefig(picture, dpi=120)
    plt.close(figure)
    return counts


if __name__ == "__main__":
    main(*sys.argv[1:2])
