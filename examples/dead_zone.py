"""Learn a dead zone that removes noise
====================================

A signal made of few oscillations has few large cosine coefficients; noise has many small ones.
`ConditionalModifier` sits between the transform and its inverse and sets to 0 what lies within a
threshold. The threshold is learned from pairs of noisy and clean signals, and compared with the one
of theory, ``sigma * sqrt(2 * log(n))``: D. L. Donoho and I. M. Johnstone, "Ideal spatial adaptation
by wavelet shrinkage", Biometrika, 1994.

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/dead_zone.py

.. image:: /../examples/dead_zone.png
   :alt: A noisy signal, the clean one and the denoised one; and its coefficients with the dead zone
"""

# sphinx_gallery_thumbnail_path = "../examples/dead_zone.png"

import pathlib
import sys

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import ops

from kedit import Trainable
from kedit.layers import ConditionalModifier

SIZE, NOISE = 128, 0.4
PICTURE = pathlib.Path(__file__).with_suffix(".png")


def cosines():
    """The orthonormal cosine transform (DCT-II) as a matrix."""
    k, n = np.arange(SIZE)[:, None], np.arange(SIZE)
    matrix = np.sqrt(2 / SIZE) * np.cos(np.pi * (n + 0.5) * k / SIZE)
    matrix[0] /= np.sqrt(2)
    return matrix.astype("float32")


def data(count, seed):
    """Noisy signals of 4 oscillations each, and the clean ones."""
    rng = np.random.default_rng(seed)
    coefficients = np.zeros((count, SIZE), "float32")
    for row in coefficients:
        row[rng.integers(1, SIZE // 3, 4)] = rng.uniform(2, 6, 4) * rng.choice([-1, 1], 4)
    clean = coefficients @ cosines()
    return clean + rng.normal(scale=NOISE, size=clean.shape).astype("float32"), clean


def denoiser(threshold, **options):
    """Transform, dead zone, inverse transform."""
    zone = ConditionalModifier(
        threshold, 0.0, comparison="abs<", operation="set", name="dead_zone", **options
    )
    there = keras.layers.Dense(SIZE, use_bias=False, trainable=False, name="cosines")
    back = keras.layers.Dense(SIZE, use_bias=False, trainable=False, name="inverse")
    model = keras.Sequential([keras.Input((SIZE,)), there, zone, back])
    there.set_weights([cosines().T])
    back.set_weights([cosines()])
    return model


def error(model, x, y):
    """Root mean square error of what a model makes of `x`."""
    return float(np.sqrt(np.mean((model.predict(x, verbose=0) - y) ** 2)))


def main(picture=PICTURE, epochs=20, count=1024):
    """Learn the threshold and compare it with that of theory."""
    keras.utils.set_random_seed(0)
    x, y = data(count, seed=1)
    unseen, clean = data(256, seed=2)
    model = denoiser(Trainable(0.1, constraint="non_neg"), gradient="sigmoid", temperature=0.2)
    model.compile(keras.optimizers.Adam(0.05), "mse")
    model.fit(x, y, 64, epochs, verbose=0)
    learned = float(ops.convert_to_numpy(model.get_layer("dead_zone").weights[0]))
    theory = NOISE * np.sqrt(2 * np.log(SIZE))
    errors = {
        "noisy": float(np.sqrt(np.mean((unseen - clean) ** 2))),
        "learned": error(model, unseen, clean),
        "theory": error(denoiser(theory), unseen, clean),
    }
    print(f"Threshold: learned {learned:.3f}, in theory {theory:.3f}")
    print("Error: " + ", ".join(f"{name} {value:.4f}" for name, value in errors.items()))
    draw(model, learned, unseen[0], clean[0], picture)
    return learned, errors


def draw(model, threshold, noisy, clean, picture):
    """One signal that the model has not seen, and its coefficients with the dead zone."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    left.plot(noisy, color="0.75", label="noisy")
    left.plot(clean, color="black", linewidth=2.5, label="clean")
    denoised = model.predict(noisy[None], verbose=0)[0]
    left.plot(denoised, color="tab:orange", linewidth=1.2, label="denoised")
    left.set_xlabel("time (samples)")
    left.set_ylabel("signal")
    left.set_ylim(-2.6, 3.4)
    left.legend(frameon=False, ncols=3, loc="upper center")
    coefficients = cosines() @ noisy
    inside = np.abs(coefficients) < threshold
    right.axhspan(-threshold, threshold, color="0.92", label="dead zone, learned")
    for chosen, color, label in ((inside, "0.6", "set to 0"), (~inside, "tab:orange", "kept")):
        right.vlines(np.nonzero(chosen)[0], 0, coefficients[chosen], color=color, label=label)
    right.set_xlabel("frequency (half cycles in the window)")
    right.set_ylabel("cosine coefficient")
    right.legend(frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:2])
