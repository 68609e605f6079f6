"""Edits of a language model that generates: what its cache computes piece by piece.

These tests need KerasHub, which has to be installed beside what it does not need here. They are
marked `carriers`, and run in an environment of their own: `nox -s carriers`.
"""

import keras
import numpy as np
import pytest
from _backend import to_numpy

from kedit import Trainable, X, at, position, sample
from kedit.errors import EditError, OperandError, PositionError
from kedit.interventions import (
    LayerInput,
    Rotated,
    Through,
    capture,
    edit_model,
    load_edits,
    save_edits,
    site,
    sites,
)

pytestmark = pytest.mark.carriers

LENGTH = 10
TOKENS = np.array([[1, 2, 3, 0, 0, 0, 0, 0, 0, 0], [4, 5, 6, 7, 8, 0, 0, 0, 0, 0]], "int32")
BLOCK = "gpt2_backbone/transformer_layer_"
OUTPUT = BLOCK + "1"
HEADS = site(BLOCK + "0/_self_attention_layer/_output_dense", "input")
SCORES = BLOCK + "0/_self_attention_layer/_softmax"
VECTOR = np.random.default_rng(5).normal(size=8).astype("float32") * 3


def language_model():
    """A GPT-2 of random weights, large enough that what it generates goes on changing."""
    import keras_hub

    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=29,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=LENGTH,
        name="gpt2_backbone",
    )
    rng = np.random.default_rng(3)
    for variable in sorted(backbone.weights, key=lambda v: v.path):
        variable.assign(rng.normal(size=variable.shape).astype("float32"))
    model = keras_hub.models.GPT2CausalLM(preprocessor=None, backbone=backbone)
    model.compile(sampler="greedy")
    return model


def generate(model):
    given = {"token_ids": TOKENS.copy(), "padding_mask": (TOKENS > 0).astype("int32")}
    return np.asarray(to_numpy(model.generate(given, stop_token_ids=None)["token_ids"]))


def uncached(model):
    """The same, with the whole sequence run again for every token."""
    tokens = TOKENS.copy()
    for row, count in enumerate((TOKENS > 0).sum(1)):
        for place in range(count, LENGTH):
            mask = (np.arange(LENGTH)[None] < place).astype("int32")
            given = {"token_ids": tokens[row : row + 1], "padding_mask": mask}
            logits = model.predict_on_batch(given)
            tokens[row, place] = np.asarray(logits)[0, place - 1].argmax()
    return tokens


INSIDE = [
    "_self_attention_layer_norm",
    "_self_attention_layer",
    "_self_attention_layer/_query_dense",
    "_self_attention_layer/_key_dense",
    "_self_attention_layer/_value_dense",
    "_self_attention_layer/_softmax",
    "_self_attention_layer/_dropout_layer",
    "_self_attention_layer/_output_dense",
    "_self_attention_dropout",
    "_feedforward_layer_norm",
    "_feedforward_intermediate_dense",
    "_feedforward_output_dense",
    "_feedforward_dropout",
]
OUTSIDE = [
    "token_embedding",
    "position_embedding",
    "embeddings_add",
    "embeddings_dropout",
    "layer_norm",
]
EDITS = {
    "a position": {OUTPUT: sample[5].add(VECTOR)},
    "several": {OUTPUT: sample[[2, 6, 7]].add(VECTOR), BLOCK + "0": sample[4:].multiply(0.5)},
    "every other": {OUTPUT: sample[3::2, 1:4].set(VECTOR[:3])},
    "behind dots": {OUTPUT: sample[..., 5, :].add(VECTOR)},
    "a unit": {OUTPUT: sample[..., 2].set(-9.0)},
    "with a new axis": {OUTPUT: sample[5, None, :2].set(-9.0)},
    "a key of attention": {SCORES: sample[..., 1].set(1.0)},
    "where": {OUTPUT: sample[3:].where(X > 0).multiply(-2.0)},
    "a head": {HEADS: sample[:, 1].set(0.0)},
    "a head at positions": {HEADS: sample[4:7, 1].multiply(-3.0)},
    "both": {HEADS: sample[4, [0, 1]].multiply(-3.0), OUTPUT: sample[[2, 5]].add(VECTOR)},
    "by positions": {OUTPUT: sample.where(position(0) >= 5).add(VECTOR)},
    "positions by at": {OUTPUT: at[:, 2:].where(position(1) >= 5).add(X * position(2))},
    "positions as values": {OUTPUT: sample[2:].set(position(0) * 0.25)},
    "the mean": {OUTPUT: sample[:, 3].multiply(2.0) | sample[6].set(0.0)},
}


@pytest.fixture(scope="module")
def model():
    return language_model()


def test_what_is_generated_goes_on_changing(model):
    plain = generate(model)
    np.testing.assert_array_equal(plain, uncached(model))
    assert all(len(set(row[5:])) > 2 for row in plain)


@pytest.mark.parametrize("name", EDITS)
def test_generates_what_an_uncached_loop_does(model, name):
    plain = generate(model)
    edited = edit_model(model, EDITS[name])
    with edited.applied():
        found = generate(model)
    np.testing.assert_array_equal(found, uncached(edited))
    assert (found != plain).any()
    np.testing.assert_array_equal(generate(model), plain)


def test_values_that_change_between_two_blocks(model, tmp_path):
    edited = edit_model(model, {OUTPUT: sample[4:, 1].set(4.0)})
    found = []
    for value in (4.0, 4.0, -30.0):
        edited.values(OUTPUT)[0].assign(value)
        with edited.applied():
            found.append(generate(model))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2], uncached(edited))
    assert (found[2] != found[0]).any()
    save_edits(edited, tmp_path / "edits.json")
    other = language_model()
    with edit_model(other, load_edits(tmp_path / "edits.json")).applied():
        np.testing.assert_array_equal(generate(other), found[2])


def test_another_sampler_is_not_the_old_one(model):
    edited = edit_model(model, {OUTPUT: sample[5].add(VECTOR)})
    with edited.applied():
        greedy = generate(model)
    import keras_hub

    class Constant(keras_hub.samplers.GreedySampler):
        def get_next_token(self, probabilities):
            return super().get_next_token(probabilities) * 0 + 9

    model.compile(sampler=Constant())
    try:
        with edited.applied():
            assert (generate(model)[:, 5:] == 9).all()
    finally:
        model.compile(sampler="greedy")
    with edited.applied():
        np.testing.assert_array_equal(generate(model), greedy)


@pytest.mark.parametrize(
    ("edits", "error"),
    [
        ({OUTPUT: sample[-1].add(VECTOR)}, PositionError),
        ({OUTPUT: sample[2:-1].add(VECTOR)}, PositionError),
        ({OUTPUT: sample[np.arange(LENGTH) > 5].add(VECTOR)}, EditError),
        ({OUTPUT: sample[[2, 5], [0, 1]].set(0.0)}, PositionError),
        ({OUTPUT: sample[2:4].add(np.ones((2, 8)))}, EditError),
        ({"gpt2_backbone/token_embedding": sample[0].set(0.0)}, PositionError),
        ({site("gpt2_backbone/token_embedding", call=0): sample[..., 0].set(0.0)}, OperandError),
        ({SCORES: sample[0].set(0.0)}, PositionError),
        ({SCORES: sample[:, 5].set(0.0)}, PositionError),
        ({SCORES: sample[..., 5, :].set(0.0)}, PositionError),
    ],
    ids=lambda given: str(given)[:60],
)
def test_what_has_no_meaning_in_generation_is_refused(model, edits, error):
    plain = generate(model)
    with pytest.raises(error, match="Received"), edit_model(model, edits).applied():
        generate(model)
    np.testing.assert_array_equal(generate(model), plain)


def test_a_backbone_is_not_edited_while_its_owner_generates(model):
    """Who would keep what is compiled then."""
    owner = language_model()
    address = OUTPUT.removeprefix("gpt2_backbone/")
    edited = edit_model(owner.backbone, {address: sample[:, 1].set(4.0)})
    with pytest.raises(OperandError, match="Edit that model"), edited.applied():
        generate(owner)
    np.testing.assert_array_equal(generate(owner), generate(model))


def test_addresses_of_the_layers_of_a_backbone(model):
    found = [info.address for info in sites(model)]
    inside = [a.removeprefix(BLOCK + "0/") for a in found if a.startswith(BLOCK + "0/")]
    assert inside == INSIDE
    outside = [a for a in found if BLOCK not in a]
    assert outside == ["gpt2_backbone", *["gpt2_backbone/" + name for name in OUTSIDE]]
    assert found.index(BLOCK + "0") < found.index(BLOCK + "1")


def test_activations_after_the_fact(model):
    """Those of what was generated, by a run over it."""
    edited = edit_model(model, {OUTPUT: sample[5].set(7.0)})
    given = {"token_ids": generate(model), "padding_mask": np.ones_like(TOKENS)}
    acts = capture(edited, [OUTPUT, HEADS]).predict_on_batch(given)
    assert (np.asarray(acts[OUTPUT])[:, 5] == 7).all()
    assert np.asarray(acts[str(HEADS)]).shape == (2, LENGTH, 2, 4)


def test_what_a_layer_that_fails_without_values_hides_is_seen():
    """The attention of Llama raises on a device without memory, on which PyTorch looks first."""
    import keras_hub

    base = keras_hub.models.LlamaBackbone(
        vocabulary_size=9,
        num_layers=2,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=16,
    )
    missed = {info.address.rpartition("/")[2] for info in sites(base) if not info.calls}
    assert missed <= {"_softmax"}  # where KerasHub computes attention by one fused operation
    gate = "transformer_layer_1/_feedforward_gate_dense"
    edited = edit_model(base, {gate: sample[..., 3].add(Trainable("zeros"))}, train="edits")
    assert edited.built
    assert len(edited.trainable_variables) == 1
    with pytest.raises(PositionError):
        edit_model(base, {gate: sample[..., 16].set(0.0)})


@pytest.mark.parametrize("name", ["a position", "by positions", "a unit"])
def test_what_was_computed_can_be_captured_afterwards(model, name):
    """The last block, of which the norm and the embedding make the tokens that were chosen."""
    edited = edit_model(model, EDITS[name])
    with edited.applied():
        tokens = generate(model)
    given = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    hidden = capture(edited, OUTPUT).predict(given, verbose=0)[OUTPUT]
    backbone = model.backbone
    logits = backbone.token_embedding(backbone.layer_norm(hidden), reverse=True)
    chosen = np.asarray(to_numpy(logits)).argmax(-1)
    for row, count in enumerate((TOKENS > 0).sum(1)):
        np.testing.assert_array_equal(chosen[row, count - 1 : -1], tokens[row, count:])


@pytest.mark.parametrize("step", [0, 2])
def test_an_edit_of_one_step(model, step):
    """The tokens before it stay; what is chosen at the step is what its edit makes of it."""
    prompt = TOKENS[1:, :].copy()
    given = {"token_ids": prompt, "padding_mask": (prompt > 0).astype("int32")}
    plain = np.asarray(to_numpy(model.generate(given, stop_token_ids=None)["token_ids"]))
    place = int((prompt > 0).sum()) + step
    edited = edit_model(model, {OUTPUT: sample[place].set(-VECTOR)})
    with edited.applied():
        found = np.asarray(to_numpy(model.generate(given, stop_token_ids=None)["token_ids"]))
    np.testing.assert_array_equal(found[:, : place + 1], plain[:, : place + 1])
    backbone = model.backbone
    logits = backbone.token_embedding(backbone.layer_norm(-VECTOR[None]), reverse=True)
    assert found[0, place + 1] == np.asarray(to_numpy(logits)).argmax()


def operands():
    rng = np.random.default_rng(6)
    encode, decode = keras.layers.Dense(12, "relu", name="e"), keras.layers.Dense(8, name="d")
    for layer, width in ((encode, 8), (decode, 12)):
        layer.build((None, width))
        layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])
    basis = rng.normal(size=(8, 2))
    return {
        "skipped": sample[4].set(LayerInput()),
        "partly skipped": sample[3:7].set(X * 0.5 + LayerInput() * 0.5),
        "without a subspace": sample[4:].set(Rotated(0.0, initializer=basis, trainable=False)),
        "a feature": sample[...].set(Through(encode, decode, sample[..., 3].set(5.0))),
        "a feature at a position": sample[...].set(Through(encode, decode, sample[5, 3].set(9.0))),
        "features at positions": sample[5:].set(Through(encode, decode, sample[..., 3].set(9.0))),
    }


@pytest.mark.parametrize("name", operands())
def test_operands_by_position(model, name):
    """What is generated piece by piece is what a run of the whole sequence gives."""
    edited = edit_model(model, {OUTPUT: operands()[name]})
    with edited.applied():
        found = generate(model)
    np.testing.assert_array_equal(found, uncached(edited))
    assert (found != generate(model)).any()
