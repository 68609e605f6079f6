"""Find a feature, remove it, and turn it up
==========================================

A hidden layer of a digit classifier has 32 units, and each of them takes part in several digits.
A sparse autoencoder writes its activations as a sum of a few of 96 directions, of which many go
with one digit. Then the classifier runs with one of these features edited, and all that the
autoencoder does not explain is left as it is:

- without the feature, the classifier no longer reads its digit;
- the more of the feature, the more other digits are read as that one.

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/sparse_features.py

.. image:: /../examples/sparse_features.png
   :alt: What a feature stands for, what is lost without it, and what more of it does
"""

# sphinx_gallery_thumbnail_path = "../examples/sparse_features.png"

import argparse
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from kedit import sample
from kedit.interventions import Through, capture, edit_model

WIDTH, FEATURES = 32, 96
HERE = Path(__file__).parent


def train_reader(x, y, epochs):
    """A network that reads handwritten digits of 8 by 8 pixels."""
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(WIDTH, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="digit"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.003), loss)
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model


def train_autoencoder(activations, epochs):
    """An encoder and a decoder; the features are few because each of them costs a little."""
    cost = keras.regularizers.L1(0.02)
    encoder = keras.layers.Dense(FEATURES, "relu", activity_regularizer=cost, name="encoder")
    # Directions of length 1: otherwise features could be small, and cost nothing.
    length = keras.constraints.UnitNorm(axis=1)
    decoder = keras.layers.Dense(WIDTH, kernel_constraint=length, name="decoder")
    model = keras.Sequential([keras.Input((WIDTH,)), encoder, decoder])
    model.compile(keras.optimizers.Adam(0.003), "mse")
    model.fit(activations, activations, batch_size=64, epochs=epochs, verbose=0)
    return encoder, decoder


def accuracy_by_digit(model, x, y):
    """How often each digit is read right."""
    right = model.predict(x, verbose=0).argmax(axis=1) == y
    return np.array([right[y == digit].mean() for digit in range(10)])


def main(arguments=None):
    """Train both, choose the feature that goes with one digit most, edit it, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=HERE / "sparse_features.png")
    options = parser.parse_args(arguments)
    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    x = x.astype("float32") / 16
    model = train_reader(x[:1200], y[:1200], options.epochs // 2)
    activations = capture(model, "hidden").predict(x, verbose=0)["hidden"]
    scale = activations.std()
    encoder, decoder = train_autoencoder(activations[:1200] / scale, options.epochs)

    # The autoencoder was trained on activations of size 1: let it take them as they are.
    shrink, grow = keras.layers.Rescaling(1 / scale), keras.layers.Rescaling(scale)
    encoder = keras.Sequential([keras.Input((WIDTH,)), shrink, encoder], name="encode")
    decoder = keras.Sequential([keras.Input((FEATURES,)), decoder, grow], name="decode")
    features = encoder.predict(activations, verbose=0)
    lost = activations - decoder.predict(features, verbose=0)
    by_digit = np.array([features[y == digit].mean(axis=0) for digit in range(10)])
    alone = by_digit.max(axis=0) - np.sort(by_digit, axis=0)[-2]
    feature = int(alone.argmax())
    digit = int(by_digit[:, feature].argmax())
    print(f"{(features > 0).sum(axis=1).mean():.0f} of {FEATURES} features are active at a time")
    print(f"They explain {1 - lost.var() / activations.var():.0%} of the variance")
    print(f"Feature {feature} goes with the {digit}")

    x, y = x[1200:], y[1200:]
    removed = edit_model(
        model, {"hidden": sample[...].set(Through(encoder, decoder, sample[feature].set(0.0)))}
    )
    before, after = accuracy_by_digit(model, x, y), accuracy_by_digit(removed, x, y)
    print(f"The {digit} is read right: {before[digit]:.0%} before, {after[digit]:.0%} without it")

    more = edit_model(
        model, {"hidden": sample[...].set(Through(encoder, decoder, sample[feature].add(0.0)))}
    )
    (amount,) = [value for value in more.values("hidden") if value.shape == ()]
    strengths, read = np.linspace(0, 4, 9) * by_digit[digit, feature], []
    for strength in strengths:  # one compiled function, in which the amount is a variable
        amount.assign(strength)
        others = more.predict(x[y != digit], verbose=0).argmax(axis=1)
        read.append((others == digit).mean())
    print(f"Other digits read as a {digit}: {read[0]:.0%} before, {read[-1]:.0%} with more of it")

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    digits = np.arange(10)
    left.bar(digits, by_digit[:, feature], color="tab:gray")
    left.set(title=f"What feature {feature} stands for", ylabel="mean activation")
    middle.bar(digits - 0.2, before * 100, 0.4, color="tab:gray", label="as it is")
    middle.bar(digits + 0.2, after * 100, 0.4, color="tab:orange", label="without the feature")
    middle.set(title="Removed", ylabel="read right (%)", ylim=(0, 125))
    middle.legend(loc="upper center", ncols=2, fontsize="small", frameon=False)
    right.plot(strengths, np.array(read) * 100, "o-", color="tab:orange")
    right.set(title="Turned up", xlabel="added to the feature", ylim=(-3, 103))
    right.set(ylabel=f"other digits read as a {digit} (%)")
    for ax in (left, middle):
        ax.set(xlabel="digit", xticks=digits)
    figure.savefig(options.out, dpi=120)
    return {"digit": digit, "before": before, "after": after, "read": read}


if __name__ == "__main__":
    main()
