"""Learn a threshold, a factor and a steering vector
=================================================

A teacher doubles what lies above 1.3 and adds a vector to one channel. The student has the same
form and starts elsewhere. A layer written by hand is trained beside it: it compares with a weight,
and no gradient reaches that weight on any backend.

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/learned_threshold.py

.. image:: /../examples/learned_threshold.png
   :alt: Threshold and factor over the epochs, learned and by hand
"""

# sphinx_gallery_thumbnail_path = "../examples/learned_threshold.png"

import pathlib
import sys
import warnings

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import ops

from kedit import Trainable, sample
from kedit.layers import ConditionalModifier, Editing

THRESHOLD, FACTOR = 1.3, 2.0
STEERING = np.array([0.5, -1.0, 0.25, 2.0], "float32")
START = 0.4
PICTURE = pathlib.Path(__file__).with_suffix(".png")


class Naive(keras.layers.Layer):
    """The same formula by hand."""

    def build(self, shape):
        """Add a threshold and a factor."""
        constant = keras.initializers.Constant
        self.threshold = self.add_weight(name="threshold", shape=(), initializer=constant(START))
        self.factor = self.add_weight(name="values", shape=(), initializer="ones")

    def call(self, x):
        """Multiply what lies above the threshold."""
        return ops.where(x > self.threshold, x * self.factor, x)


def data(count):
    """Sequences of 4 steps with 3 channels, and what the teacher makes of them."""
    x = np.random.default_rng(0).normal(scale=1.5, size=(count, 4, 3)).astype("float32")
    y = np.where(x > THRESHOLD, FACTOR * x, x)
    y[..., 2] += STEERING
    return x, y


def train(layer, x, y, epochs):
    """Train a layer and a steering vector; return the values of the weights after each epoch."""
    steering = Editing(sample[..., 2].add(Trainable("zeros")), name="steering")
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, steering(layer(inputs)))
    rate = keras.optimizers.schedules.CosineDecay(0.03, epochs * len(x) // 128)
    model.compile(keras.optimizers.Adam(rate), "mse")
    path = []

    def note(*_):
        path.append([ops.convert_to_numpy(weight).tolist() for weight in model.trainable_weights])

    note()
    after_epoch = keras.callbacks.LambdaCallback(on_epoch_end=note)
    with warnings.catch_warnings():  # TensorFlow and PyTorch warn of the naive layer, JAX does not
        warnings.simplefilter("ignore")
        model.fit(x, y, 128, epochs, verbose=0, callbacks=[after_epoch])
    names = [weight.path.split("/")[-1] for weight in model.trainable_weights[:2]]
    by_name = {name: [row[number] for row in path] for number, name in enumerate(names)}
    return by_name["threshold"], by_name["values"], path[-1][2]


def main(picture=PICTURE, epochs=25, count=4096):
    """Train both and show what they found."""
    keras.utils.set_random_seed(1)
    x, y = data(count)
    learned = ConditionalModifier(
        Trainable(START), Trainable(1.0), gradient="sigmoid", temperature=0.1
    )
    found = {"kedit": train(learned, x, y, epochs), "naive": train(Naive(), x, y, epochs)}
    print(f"Planted: threshold {THRESHOLD}, factor {FACTOR}, steering {STEERING.tolist()}")
    for name, (threshold, factor, steering) in found.items():
        print(
            f"{name}: threshold {threshold[-1]:.4f}, factor {factor[-1]:.4f}, "
            f"steering {np.round(steering, 4).tolist()}"
        )
    draw(found, picture)
    return {name: (t[-1], f[-1], s) for name, (t, f, s) in found.items()}


def draw(found, picture):
    """The way of threshold and factor from epoch to epoch."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for number, (axis, name, planted) in enumerate(
        zip(axes, ("threshold", "factor"), (THRESHOLD, FACTOR), strict=True)
    ):
        axis.axhline(planted, color="0.6", linestyle="--", label=f"planted: {planted}")
        axis.plot(found["kedit"][number], label="ConditionalModifier, surrogate gradient")
        axis.plot(found["naive"][number], label="x > weight, by hand")
        axis.set_xlabel("epoch")
        axis.set_ylabel(name)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, loc="center right")
    figure.savefig(picture, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:2])
