"""Train only the rows of new tokens
=================================

A trained model gets new tokens. Its embedding grows by a row for each of them, and only these rows
should learn: what the model knows about the old tokens stays as it is, to the last bit, also under
weight decay.

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/new_tokens.py

.. image:: /../examples/new_tokens.png
   :alt: How far each row of the embedding moves, with all rows trained and with the old ones frozen
"""

# sphinx_gallery_thumbnail_path = "../examples/new_tokens.png"

import pathlib
import sys

import keras
import matplotlib.pyplot as plt
import numpy as np

from kedit.weights import freeze_elements

OLD, NEW, WIDTH = 12, 3, 4
PICTURE = pathlib.Path(__file__).with_suffix(".png")
ROWS = "embedding/embeddings"


def build():
    """Mean of the embeddings, and a class."""
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            keras.layers.Embedding(OLD + NEW, WIDTH, name="embedding"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(2, name="out"),
        ]
    )


def data(count, highest):
    """Tokens below `highest`; the class says whether more are even than odd."""
    tokens = np.random.default_rng(highest).integers(0, highest, (count, 6)).astype("int32")
    return tokens, (np.sum(tokens % 2 == 0, 1) > 3).astype("int32")


def train(model, x, y, epochs):
    """Train with weight decay."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.01), loss, metrics=["accuracy"])
    model.fit(x, y, 64, epochs, verbose=0)
    return model.evaluate(x, y, verbose=0)[1]


def main(picture=PICTURE, epochs=20, count=2048):
    """Train on the old tokens, then on all, with and without the old rows frozen."""
    keras.utils.set_random_seed(0)
    trained = build()
    train(trained, *data(count, OLD), epochs)
    before = trained.get_layer("embedding").get_weights()[0]
    moved, accuracy = {}, {}
    for name in ("all rows train", "old rows are frozen"):
        model = build()
        model.set_weights(trained.get_weights())
        if name == "old rows are frozen":
            model = freeze_elements(model, ROWS, np.s_[:OLD])
        accuracy[name] = train(model, *data(count, OLD + NEW), epochs)
        after = keras.ops.convert_to_numpy(
            model.weight(ROWS)
            if name == "old rows are frozen"
            else model.get_layer("embedding").embeddings
        )
        moved[name] = np.abs(after - before).max(1)
        old, new = moved[name][:OLD].max(), moved[name][OLD:].max()
        print(
            f"{name}: old rows move by {old:.2g}, new ones by {new:.2g}; {accuracy[name]:.1%} right"
        )
    draw(moved, picture)
    return moved, accuracy


def draw(moved, picture):
    """How far each row moves."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained", sharey=True)
    for axis, (name, rows) in zip(axes, moved.items(), strict=True):
        axis.bar(range(OLD), rows[:OLD], color="0.6", label="old tokens")
        axis.bar(range(OLD, OLD + NEW), rows[OLD:], color="tab:orange", label="new tokens")
        axis.set_title(name)
        axis.set_xlabel("row of the embedding")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("largest change")
    axes[1].legend(frameon=False)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:2])
