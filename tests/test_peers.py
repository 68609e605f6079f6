"""The same interventions by kedit and by nnsight, in one small transformer with equal weights.

They need nnsight, which works on PyTorch alone: `nox -s peers`.
"""

import keras
import numpy as np
import pytest

from kedit import X, each, sample
from kedit.interventions import (
    BatchMean,
    Fed,
    OtherRun,
    capture,
    edit_model,
    logit_lens_study,
    site,
)

pytestmark = pytest.mark.peers

BATCH, LENGTH, WORDS, WIDTH, HEADS, SIZE, BLOCKS = 3, 6, 11, 8, 2, 4, 2
RNG = np.random.default_rng(0)
TOKENS, OTHERS = RNG.integers(0, WORDS, (2, BATCH, LENGTH))
VECTOR = RNG.normal(size=WIDTH).astype("float32")


def in_torch():
    """A transformer as PyTorch's users write one."""
    import torch
    from torch import nn

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value = [nn.Linear(WIDTH, HEADS * SIZE) for _ in range(3)]
            self.out = nn.Linear(HEADS * SIZE, WIDTH)
            self.heads, self.pattern = nn.Identity(), nn.Softmax(-1)

        def forward(self, x):
            parts = [f(x).unflatten(-1, (HEADS, SIZE)) for f in (self.query, self.key, self.value)]
            query, key, value = [part.transpose(1, 2) for part in parts]
            scores = query @ key.transpose(-1, -2) / SIZE**0.5
            past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
            pattern = self.pattern(scores.masked_fill(~past, -1e9))
            return self.out(self.heads((pattern @ value).transpose(1, 2)).flatten(2))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.attention = Attention()
            self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

        def forward(self, x):
            x = x + self.attention(self.norm_1(x))
            return x + self.down(torch.relu(self.up(self.norm_2(x))))

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
            self.blocks = nn.ModuleList([Block() for _ in range(BLOCKS)])
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS)

        def forward(self, tokens):
            x = self.words(tokens) + self.places(torch.arange(LENGTH))
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    torch.manual_seed(0)
    model = Transformer().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model


class Places(keras.layers.Layer):
    """Adds a vector for each place in a sequence."""

    def build(self, input_shape):
        self.vectors = self.add_weight(shape=input_shape[1:], name="vectors")

    def call(self, x):
        return x + self.vectors


def in_keras(source):
    """The same one as users of Keras write it, with the weights of the other."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = keras.layers.Embedding(WORDS, WIDTH, name="words")(inputs)
    x = Places(name="places")(x)
    for n in range(BLOCKS):
        normal = keras.layers.LayerNormalization(epsilon=1e-5, name=f"norm_1_{n}")(x)
        attention = keras.layers.MultiHeadAttention(HEADS, SIZE, name=f"attention_{n}")
        x = x + attention(normal, normal, use_causal_mask=True)
        normal = keras.layers.LayerNormalization(epsilon=1e-5, name=f"norm_2_{n}")(x)
        up = keras.layers.Dense(2 * WIDTH, "relu", name=f"up_{n}")(normal)
        down = keras.layers.Dense(WIDTH, name=f"down_{n}")(up)
        x = keras.layers.Add(name=f"block_{n}")([x, down])
    x = keras.layers.LayerNormalization(epsilon=1e-5, name="norm")(x)
    model = keras.Model(inputs, keras.layers.Dense(WORDS, name="head")(x))
    weights = {name: p.detach().numpy() for name, p in source.named_parameters()}

    def port(name, *arrays):
        model.get_layer(name).set_weights(arrays)

    def linear(name):
        return weights[f"{name}.weight"].T, weights[f"{name}.bias"]

    port("words", weights["words.weight"])
    port("places", weights["places.weight"])
    for n in range(BLOCKS):
        here = f"blocks.{n}."
        for one in ("norm_1", "norm_2"):
            port(f"{one}_{n}", weights[f"{here}{one}.weight"], weights[f"{here}{one}.bias"])
        split = []
        for one in ("query", "key", "value"):
            kernel, bias = linear(f"{here}attention.{one}")
            split += [kernel.reshape(WIDTH, HEADS, SIZE), bias.reshape(HEADS, SIZE)]
        kernel, bias = linear(f"{here}attention.out")
        port(f"attention_{n}", *split, kernel.reshape(HEADS, SIZE, WIDTH), bias)
        port(f"up_{n}", *linear(f"{here}up"))
        port(f"down_{n}", *linear(f"{here}down"))
    port("norm", weights["norm.weight"], weights["norm.bias"])
    port("head", *linear("head"))
    return model


@pytest.fixture(scope="module")
def both():
    """A model in nnsight's wrapper, and the same one of Keras."""
    from nnsight import NNsight

    source = in_torch()
    return NNsight(source), in_keras(source)


def tensor(x):
    import torch

    return torch.tensor(x)


def activation(traced, tokens, block=0):
    """What a block gives, by nnsight."""
    with traced.trace(tensor(tokens)):
        found = traced.blocks[block].output.save()
    return found.detach()


def traced_with(traced, change):
    """Predictions by nnsight, with a change that is made while the model is traced."""
    with traced.trace(tensor(TOKENS)):
        change(traced)
        found = traced.output.save()
    return found.detach().numpy()


def zero_units(traced):
    traced.blocks[0].up.output[..., :8] = 0.0


def zero_head(traced):
    traced.blocks[0].attention.heads.output[:, :, 1] = 0.0


def write_position(traced):
    traced.blocks[0].output[:, 2] = tensor(VECTOR)


def steer(traced):
    traced.blocks[0].output[:] = traced.blocks[0].output + tensor(VECTOR)


def write_the_mean(traced):
    found = traced.blocks[0].output
    found[..., 5] = found[..., 5].mean(0, keepdim=True)


def double_what_is_positive(traced):
    found = traced.blocks[0].output
    found[:] = found.where(found <= 0, 2 * found)


def zero_own_positions(traced):
    traced.blocks[0].output[np.arange(BATCH), PLACES] = 0.0


def attend_to_the_first(traced):
    pattern = traced.blocks[1].attention.pattern.output
    pattern[:, 0] = 0.0
    pattern[:, 0, :, 0] = 1.0


def edit_twice(traced):
    traced.blocks[0].output[:, 2] = 0.0
    traced.blocks[1].output[..., 4] *= 3.0


PLACES = np.array([0, 5, 2])
FIRST = np.zeros((LENGTH, LENGTH), "float32")
FIRST[:, 0] = 1.0
SAME = {
    "units": (zero_units, {"up_0": sample[..., :8].set(0.0)}),
    "a head": (zero_head, {site("attention_0", "heads"): sample[:, 1].set(0.0)}),
    "a position": (write_position, {"block_0": sample[2].set(VECTOR)}),
    "steered": (steer, {"block_0": sample[...].add(VECTOR)}),
    "the mean": (write_the_mean, {"block_0": sample[..., 5].set(BatchMean())}),
    "a condition": (double_what_is_positive, {"block_0": sample.where(X > 0).multiply(2.0)}),
    "a pattern": (attend_to_the_first, {site("attention_1", "pattern"): sample[0].set(FIRST)}),
    "two edits": (
        edit_twice,
        [("block_0", sample[2].set(0.0)), ("block_1", sample[..., 4].multiply(3.0))],
    ),
}


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_models_are_the_same(both):
    traced, model = both
    close(model.predict(TOKENS, verbose=0), traced_with(traced, lambda traced: None))


@pytest.mark.parametrize("name", SAME)
def test_edits(both, name):
    traced, model = both
    change, edits = SAME[name]
    expected = traced_with(traced, change)
    edited = edit_model(model, edits)
    found = edited.predict(TOKENS, verbose=0)
    close(found, expected)
    assert np.abs(found - model.predict(TOKENS, verbose=0)).max() > 1e-2


@pytest.mark.parametrize(("to", "at"), [(4, 4), (4, 1)], ids=["same", "another"])
def test_patches_from_another_run(both, to, at):
    traced, model = both
    other = activation(traced, OTHERS)
    with traced.trace(tensor(TOKENS)):
        traced.blocks[0].output[:, to] = other[:, at]
        expected = traced.output.save()
    edited = edit_model(model, {"block_0": sample[to].set(OtherRun(at=sample[at]))})
    close(edited.predict({"inputs": TOKENS, "other": OTHERS}, verbose=0), expected.detach())


def test_positions_of_their_own(both):
    traced, model = both
    edited = edit_model(model, {"block_0": sample[each(Fed("places"))].set(0.0)})
    found = edited.predict({"inputs": TOKENS, "places": PLACES}, verbose=0)
    close(found, traced_with(traced, zero_own_positions))


def test_captures(both):
    traced, model = both
    found = capture(model, ["block_0", "block_1"]).predict(TOKENS, verbose=0)
    for block in range(BLOCKS):
        close(found[f"block_{block}"], activation(traced, TOKENS, block))


def test_gradients_of_activations(both):
    traced, model = both
    with traced.trace(tensor(TOKENS)):
        hidden = traced.blocks[0].output
        score = traced.output[:, -1, 3].sum()
        with score.backward():
            expected = hidden.grad.save()
    found = capture(model, "block_0").gradients(TOKENS, lambda y: y[:, -1, 3])
    close(found["block_0"], expected)


def test_the_logit_lens(both):
    traced, model = both
    hidden = activation(traced, TOKENS)
    with traced.trace(tensor(TOKENS)):
        traced.norm.input = hidden
        expected = traced.output.save()
    found = logit_lens_study(
        model, TOKENS, "block_0", site("norm", "input"), lambda y: y[..., 3], verbose=0
    )
    close(found.values[0].T, expected.detach()[..., 3])
