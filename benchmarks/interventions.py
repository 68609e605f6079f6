"""Time `predict` of edited models beside that of their base, in turns.

    KERAS_BACKEND=jax python benchmarks/interventions.py

Prints medians of the ratios, and how often a study of 24 points traced its model.
"""

import statistics
import time
from functools import partial

import keras
import numpy as np

from kedit import sample
from kedit.interventions import OtherRun, capture, edit_model, patching_study

RNG = np.random.default_rng(0)


class Counting(keras.layers.Layer):
    """Counts how often it is called by Python."""

    calls = 0

    def call(self, x):
        """Hand on."""
        Counting.calls += 1
        return x


def perceptron():
    """Three hidden layers of 512."""
    inputs = x = keras.Input((256,))
    for number in range(3):
        x = keras.layers.Dense(512, activation="relu", name=f"hidden_{number}")(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x)), RNG.normal(size=(4096, 256))


def convolutional(padding="valid"):
    """Three convolutions with 32 channels."""
    inputs = x = keras.Input((32, 32, 3))
    for number in range(3):
        name = f"hidden_{number}"
        x = keras.layers.Conv2D(32, 3, padding=padding, activation="relu", name=name)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x)), RNG.normal(size=(256, 32, 32, 3))


def padded():
    """The same, with paddings."""
    return convolutional("same")


def digits():
    """What reads digits of 8 by 8 pixels."""
    inputs = x = keras.Input((8, 8, 1))
    for number in range(2):
        x = keras.layers.Conv2D(16, 3, activation="relu", name=f"hidden_{number}")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(32, activation="relu", name="hidden_2")(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x)), RNG.normal(size=(4096, 8, 8, 1))


def ratios(base, others, rounds):
    """Median of the time of each call, by the time of `base` in the same round."""
    for call in (base, *others.values()):
        call()
    found = {name: [] for name in others}
    for _ in range(rounds):
        for name, call in others.items():
            times = []
            for one in (base, call):
                start = time.perf_counter()
                one()
                times.append(time.perf_counter() - start)
            found[name].append(times[1] / times[0])
    return {name: statistics.median(each) for name, each in found.items()}


def compare(make):
    """Print the ratios of one model."""
    base, x = make()
    x, options = x.astype("float32"), {"batch_size": 256, "verbose": 0}
    models = {
        "the base again": base,
        "no edits": edit_model(base, {}),
        "one unit zeroed": edit_model(base, {"hidden_1": sample[..., 3].set(0.0)}),
        "adds at all layers": edit_model(base, {"hidden_*": sample[...].add(0.5)}),
        "one layer captured": capture(base, "hidden_2"),
    }
    calls = {name: partial(model.predict, x, **options) for name, model in models.items()}
    patched = edit_model(base, {"hidden_1": sample[..., :8].set(OtherRun())})
    calls["patched"] = partial(patched.predict, {"inputs": x, "other": x}, **options)
    found = ratios(partial(base.predict, x, **options), calls, rounds=15)
    print(make.__name__, {name: round(ratio, 3) for name, ratio in found.items()})


def main():
    """Print the ratios of all models, and the traces of a study."""
    for make in (perceptron, digits, convolutional, padded):
        compare(make)
    model = keras.Sequential([keras.Input((8, 4)), Counting(name="mix"), keras.layers.Flatten()])
    clean, corrupted = RNG.normal(size=(2, 16, 8, 4)).astype("float32")
    for count in (1, 24):
        before = Counting.calls
        places = [sample[number % 8] for number in range(count)]
        patching_study(
            model,
            clean,
            corrupted,
            "mix",
            lambda y: y[:, 0],
            positions=places,
            batch_size=16,
            verbose=0,
        )
        print(f"a study of {count} points called a layer {Counting.calls - before} times")


if __name__ == "__main__":
    main()
