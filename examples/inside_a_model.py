"""Ablate, patch and steer a trained model
=======================================

Three interventions, none of which changes the model:

- Ablation: which channel of a digit classifier matters for which digit?
- Patching: where does a transformer keep the token that it has to remember? And how well do
  gradients estimate what the patches find?
- Steering: a vector added to a hidden layer makes the classifier see threes.

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/inside_a_model.py

.. image:: /../examples/inside_ablation.png
   :alt: How much each digit depends on each channel

.. image:: /../examples/inside_patching.png
   :alt: What patching recovers, by layer and position

.. image:: /../examples/inside_attribution.png
   :alt: What gradients estimate beside what patches recover

.. image:: /../examples/inside_steering.png
   :alt: Predictions as the steering vector grows
"""

# sphinx_gallery_thumbnail_path = "../examples/inside_patching.png"

import argparse
from pathlib import Path

import keras
import numpy as np
from keras import ops
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from kedit import Trainable, sample
from kedit.interventions import (
    ablation_study,
    attribution_study,
    edit_model,
    patching_study,
    sites,
)

LENGTH, TOKENS = 8, 6  # of the sequences that the transformer reads
THREE = 3


def train_reader(epochs):
    """A network with convolutions that reads handwritten digits of 8 by 8 pixels."""
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8, 1).astype("float32") / 16
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu", name="edges"),
            keras.layers.Conv2D(16, 3, activation="relu", name="parts"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="digit"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.005), loss)
    model.fit(x[:1500], y[:1500], batch_size=64, epochs=epochs, verbose=0)
    return model, x[1500:], y[1500:]


class Start(keras.layers.Layer):
    """Tokens, and where they stand, as vectors."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.tokens = keras.layers.Embedding(TOKENS, 32)
        self.places = keras.layers.Embedding(LENGTH, 32)

    def call(self, tokens):
        """Look both up."""
        return self.tokens(tokens) + self.places(ops.arange(LENGTH))


class Block(keras.layers.Layer):
    """Attention and a small network, each added to what it reads."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = keras.layers.MultiHeadAttention(2, 16)
        self.network = keras.layers.Dense(32, activation="relu")

    def call(self, x):
        """Attend, then compute."""
        x = x + self.attention(x, x)
        return x + self.network(x)


def sequences(count, seed=0):
    """Tokens, and the first of them, which is what the transformer has to say at the end."""
    x = np.random.default_rng(seed).integers(0, TOKENS, (count, LENGTH))
    return x, x[:, 0]


def train_transformer(steps):
    """A transformer that reads a sequence, and says its first token at the last position."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = Start(name="embedded")(inputs)
    for number in range(2):
        x = Block(name=f"block_{number}")(x)
    model = keras.Model(inputs, keras.layers.Dense(TOKENS, name="says")(x[:, -1]))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.003), loss, metrics=["accuracy"])
    model.fit(*sequences(64 * steps), batch_size=64, verbose=0)
    return model


def score_of(scores, answers):
    """The score of the right answer."""
    return ops.take_along_axis(scores, answers[:, None], axis=1)[:, 0]


def draw_ablation(model, x, y, path):
    """How much of a digit's own score is lost without one channel."""
    found = ablation_study(model, x, "parts", score_of, targets=y, verbose=0)
    lost = found.by_group(y)
    digit, channel = np.unravel_index(lost.argmax(), lost.shape)
    print(f"Channel {channel} matters most for the {digit}: {lost.max():.1f} of its score is lost")
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = found.plot(y, figure.subplots())
    ax.set(xlabel="channel of `parts` that is set to 0", ylabel="digit", title="Ablation")
    ax.images[0].colorbar.set_label("score of the digit that is lost")
    figure.savefig(path, dpi=120)


def draw_patching(model, path, path_of_estimates):
    """Where the first token is, after each block, and what gradients say about it."""
    clean, first = sequences(64, seed=1)
    corrupted = clean.copy()
    corrupted[:, 0] = (first + 1) % TOKENS
    given = (model, clean, corrupted, ["embedded", "block_0", "block_1"], score_of)
    found = patching_study(*given, targets=first, verbose=0)
    estimated = attribution_study(*given, targets=first, verbose=0)
    print("Recovered by patching the first and the last position, after:")
    for name, recovered in zip(found.sites, found.recovered, strict=True):
        print(f"  {name:8} {recovered[0]:6.0%} {recovered[-1]:6.0%}")
    print(f"Correlation of one gradient with these patches: {estimated.correlation(found):.3f}")
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    ax = found.plot(figure.subplots())
    ax.set(xlabel="position that is patched", ylabel="after", title="Patching")
    figure.savefig(path, dpi=120)
    figure = Figure(figsize=(5, 4), layout="constrained")
    estimated.plot_beside(found, figure.subplots())
    figure.savefig(path_of_estimates, dpi=120)
    return found, estimated


def draw_steering(model, x, y, epochs, path):
    """How often the digits are read as a three, the more the farther they are steered."""
    steered = edit_model(
        model, {"hidden": sample[...].add(Trainable("zeros"))}, train="edits", name="steered"
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    steered.compile(keras.optimizers.Adam(0.05), loss)
    half = len(x) // 2
    steered.fit(x[:half], np.full(half, THREE), batch_size=64, epochs=10 * epochs, verbose=0)
    (vector,) = steered.values("hidden")
    learned = ops.convert_to_numpy(vector)
    strengths, threes = np.linspace(-1, 2, 13), []
    for strength in strengths:  # one compiled function, in which the vector is a variable
        vector.assign(strength * learned)
        read = steered.predict(x[half:], verbose=0).argmax(axis=1)
        threes.append((read == THREE).mean())
    before = (model.predict(x[half:], verbose=0).argmax(axis=1) == y[half:]).mean()
    print(f"Read as a three: {threes[4]:.0%} unsteered, {threes[8]:.0%} with the learned vector")
    print(f"The model itself still reads {before:.0%} of the digits right")
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    ax = figure.subplots()
    ax.plot(strengths, np.array(threes) * 100, "o-", color="tab:orange")
    ax.axvline(0, color="tab:gray", linewidth=0.8)
    ax.set(xlabel="strength of the learned vector at `hidden`", ylabel="read as a three (%)")
    ax.set(title="Steering", ylim=(-3, 103))
    figure.savefig(path, dpi=120)
    return threes


def main(arguments=None):
    """Train both models, intervene, and draw what comes of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--to", type=Path, default=Path(__file__).parent, help="where to draw")
    options = parser.parse_args(arguments)
    model, x, y = train_reader(options.epochs)
    print(sites(model))
    draw_ablation(model, x, y, options.to / "inside_ablation.png")
    threes = draw_steering(model, x, y, options.epochs, options.to / "inside_steering.png")
    paths = [options.to / f"inside_{name}.png" for name in ("patching", "attribution")]
    found, estimated = draw_patching(train_transformer(options.steps), *paths)
    correlation = estimated.correlation(found)
    return {"threes": threes, "recovered": found.recovered, "correlation": correlation}


if __name__ == "__main__":
    main()
