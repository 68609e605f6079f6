"""Find the heads that a transformer needs
=========================================

A transformer of two layers, with attention alone, learns to go on with a sequence that has begun
to repeat itself: after `A B ... A` comes `B`. One known way to do that takes two heads. One in the
first layer writes into each position which token stands before it. One in the second looks for
the position behind an earlier `A`, and copies what it finds there: an *induction head*.

Which of the eight heads are these? Two studies over layers and heads answer it:

- Ablation: how much of the score of the right answer is lost without each head?
- Patching: how much of it comes back if one head gives what it gives for `A B ... A`, in a run on
  `Z B ... A`, where nothing says what comes behind `A`?

The attention patterns, which no study has seen, agree: one head looks at the token before, and one
at the token behind an earlier occurrence.

Run it from a clone of the repository::

    KERAS_BACKEND=jax python examples/heads_that_copy.py

.. image:: /../examples/heads_pattern.png
   :alt: Attention patterns of the two heads on one sequence

.. image:: /../examples/heads_study.png
   :alt: What ablating and patching each head does

References: C. Olsson et al., *In-context Learning and Induction Heads*, 2022, arXiv:2209.11895.
"""

# sphinx_gallery_thumbnail_path = "../examples/heads_study.png"

import argparse
from pathlib import Path

import keras
import numpy as np
from keras import ops
from matplotlib.figure import Figure

from kedit.interventions import ablation_study, capture, patching_study, site, sites

LENGTH, TOKENS, HEADS = 20, 16, 4
SHORTEST, LONGEST = 5, 10  # of what is repeated


class Start(keras.layers.Layer):
    """Tokens, and where they stand, as vectors."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        normal = keras.initializers.RandomNormal(stddev=1.0)
        self.tokens = keras.layers.Embedding(TOKENS, 32, embeddings_initializer=normal)
        self.places = keras.layers.Embedding(LENGTH, 32, embeddings_initializer=normal)

    def call(self, tokens):
        """Look both up."""
        return self.tokens(tokens) + self.places(ops.arange(LENGTH))


def sequences(count, seed):
    """Different tokens in random order, again and again, and after how many they repeat."""
    rng = np.random.default_rng(seed)
    order = rng.random((count, TOKENS)).argsort(axis=1)
    period = rng.integers(SHORTEST, LONGEST + 1, count)
    places = np.arange(LENGTH + 1) % period[:, None]
    return np.take_along_axis(order, places, axis=1), period


def train(steps):
    """A transformer of attention alone, trained where the sequences repeat themselves."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = Start(name="embedded")(inputs)
    for number in range(2):
        attention = keras.layers.MultiHeadAttention(
            HEADS,
            8,
            use_bias=False,
            kernel_regularizer=keras.regularizers.L1(0.001),  # so that no head does it by halves
            name=f"attention_{number}",
        )
        x = keras.layers.Add()([x, attention(x, x, use_causal_mask=True)])
    model = keras.Model(inputs, keras.layers.Dense(TOKENS, name="says")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.003), loss, weighted_metrics=["accuracy"])
    tokens, period = sequences(128 * steps, seed=0)
    repeats = (np.arange(LENGTH) >= period[:, None]).astype("float32")
    model.fit(tokens[:, :-1], tokens[:, 1:], batch_size=128, sample_weight=repeats, verbose=0)
    return model


def score(logits, answers):
    """By how much the right token beats the mean of all, at the end."""
    right = ops.take_along_axis(logits[:, -1], answers[:, None], axis=-1)[:, 0]
    return right - ops.mean(logits[:, -1], axis=-1)


def spoiled(tokens):
    """The sequences with another token wherever the last one was before."""
    other = tokens.copy()
    for row in other:
        row[:-1][row[:-1] == row[-1]] = np.setdiff1d(np.arange(TOKENS), row)[0]
    return other


def looks(patterns, period):
    """How much each head looks at the token before, and behind earlier occurrences.

    Both of shape `(layers, heads)`: the first as a mean over the positions where all is new, the
    second over those where the sequences repeat.
    """
    at, to = np.arange(LENGTH)[:, None], np.arange(LENGTH)
    new = at < period[:, None, None]
    is_before = (to == at - 1) & new & (at > 0)
    is_behind = ((at + 1 - to) % period[:, None, None] == 0) & (to <= at) & ~new

    def share(pattern, chosen):
        looked = np.where(chosen[:, None], pattern, 0).sum(axis=(0, 2, 3))
        return looked / chosen.any(axis=2).sum()

    every = list(patterns.values())  # each (batch, heads, queries, keys)
    return [np.array([share(one, chosen) for one in every]) for chosen in (is_before, is_behind)]


def draw_patterns(patterns, heads, tokens, path):
    """Draw the patterns of two heads on the first sequence."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    for ax, (layer, head) in zip(figure.subplots(1, 2), heads, strict=True):
        pattern = patterns[f"attention_{layer}:pattern"][0, head]
        image = ax.imshow(pattern, cmap="Blues", vmin=0, vmax=1)
        ax.set_xticks(range(LENGTH), [chr(65 + token) for token in tokens[0]], fontsize=7)
        ax.set_yticks(range(LENGTH), [chr(65 + token) for token in tokens[0]], fontsize=7)
        ax.set(xlabel="looks at", ylabel="position", title=f"layer {layer}, head {head}")
    figure.colorbar(image, ax=figure.axes, label="attention", shrink=0.8)
    figure.savefig(path, dpi=120)


def draw_studies(lost, recovered, path):
    """Draw both studies, layers by heads."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    for ax, study, title in zip(
        figure.subplots(1, 2), (lost, recovered), ("Ablation", "Patching"), strict=True
    ):
        study.plot(ax=ax)
        ax.set(title=title, xlabel="head", ylabel="layer")
    figure.savefig(path, dpi=120)


def main(arguments=None):
    """Train, ask both studies which heads matter, and look at what these attend to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--count", type=int, default=64, help="sequences that are studied")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent, help="where to draw")
    options = parser.parse_args(arguments)
    model = train(options.steps)
    whole, period = sequences(options.count, seed=2)
    tokens, answers = whole[:, :-1], whole[:, -1]
    accuracy = (model.predict(tokens, verbose=0)[:, -1].argmax(axis=-1) == answers).mean()
    print(sites(model).attention)
    print(f"Right at the end: {accuracy:.1%}")
    heads = site("attention_*", "heads")  # the third axis of (batch, queries, heads, head_size)
    given = {"targets": answers, "axis": -2, "verbose": 0}
    lost = ablation_study(model, tokens, heads, score, **given)
    found = lost.by_site()
    patched = patching_study(model, tokens, spoiled(tokens), heads, score, **given)
    patterns = capture(model, site("attention_*", "pattern")).predict(tokens, verbose=0)
    before, behind = looks(patterns, period)
    for place in np.ndindex(found.shape):
        print(
            f"Layer {place[0]}, head {place[1]}: {found[place]:5.1f} lost, "
            f"{patched.recovered[place]:4.0%} recovered; looks at the token before "
            f"{before[place]:4.0%}, behind earlier ones {behind[place]:4.0%}"
        )
    needed = [(layer, int(found[layer].argmax())) for layer in range(2)]
    draw_patterns(patterns, needed, tokens, options.to / "heads_pattern.png")
    draw_studies(lost, patched, options.to / "heads_study.png")
    return {
        "accuracy": accuracy,
        "lost": found,
        "recovered": patched.recovered,
        "before": before,
        "behind": behind,
    }


if __name__ == "__main__":
    main()
