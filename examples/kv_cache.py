"""Write into a key-value cache, one step at a time
================================================

A decoder that generates token by token keeps the keys and values of the tokens before. The cache
has a fixed size, so that one compiled function can serve every step, and each step writes one row
of it, at a position that is a tensor. `at(cache)[:, block(step, 1)].set(row)` is that write, on
every backend, with a gradient. The outputs are those of causal attention over the whole sequence.

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/kv_cache.py

.. image:: /../examples/kv_cache.png
   :alt: The keys in the cache after four steps of twelve, and the error of each step
"""

# sphinx_gallery_thumbnail_path = "../examples/kv_cache.png"

import pathlib
import sys

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import ops

from kedit import at, block

BATCH, STEPS, WIDTH = 2, 12, 8
PICTURE = pathlib.Path(__file__).with_suffix(".png")


class Attention(keras.layers.Layer):
    """Causal attention with one head, over a whole sequence or one step at a time."""

    def build(self, shape):
        """Add the three projections."""
        self.query, self.key, self.value = [keras.layers.Dense(shape[-1]) for _ in range(3)]
        for dense in (self.query, self.key, self.value):
            dense.build(shape)

    def attend(self, query, keys, values, seen):
        """Average the values, by how well their keys match, where `seen` is True."""
        scores = ops.matmul(query, ops.transpose(keys, (0, 2, 1))) / WIDTH**0.5
        scores = at(scores).where(ops.logical_not(seen)).set(-np.inf)
        return ops.matmul(ops.softmax(scores), values)

    def call(self, x):
        """The whole sequence at once."""
        places = ops.arange(x.shape[1])
        seen = ops.expand_dims(places, 0) <= ops.expand_dims(places, 1)
        return self.attend(self.query(x), self.key(x), self.value(x), seen)

    def step(self, x, keys, values, number):
        """One step: write its key and value into the cache, then attend to what is there."""
        keys = at(keys)[:, block(number, 1)].set(self.key(x))
        values = at(values)[:, block(number, 1)].set(self.value(x))
        seen = ops.expand_dims(ops.arange(keys.shape[1]) <= number, 0)
        return self.attend(self.query(x), keys, values, seen), keys, values


def main(picture=PICTURE):
    """Run a sequence at once and step by step, and compare."""
    keras.utils.set_random_seed(0)
    x = keras.random.normal((BATCH, STEPS, WIDTH), seed=1)
    attention = Attention()
    at_once = ops.convert_to_numpy(attention(x))
    keys = values = ops.zeros((BATCH, STEPS, WIDTH))
    errors, shown = [], None
    for number in range(STEPS):
        step = ops.convert_to_tensor(number, dtype="int32")
        y, keys, values = attention.step(x[:, number : number + 1], keys, values, step)
        errors.append(float(np.abs(ops.convert_to_numpy(y)[:, 0] - at_once[:, number]).max()))
        if number == STEPS // 3 - 1:
            shown = ops.convert_to_numpy(keys)[0]
    print(f"Largest difference from attention over the whole sequence: {max(errors):.2g}")
    draw(shown, errors, picture)
    return errors


def draw(keys, errors, picture):
    """The cache after a third of the steps, and the error of each step."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    highest = np.abs(keys).max()
    left.imshow(keys.T, cmap="RdBu", vmin=-highest, vmax=highest, aspect="auto")
    left.set_title(f"keys in the cache after {STEPS // 3} steps")
    left.set_xlabel("position")
    left.set_ylabel("feature")
    right.plot(errors, "o", color="tab:orange")
    right.set_ylim(0, 1e-6)
    right.set_title("difference from the whole sequence")
    right.set_xlabel("step")
    right.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:2])
