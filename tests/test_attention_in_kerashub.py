"""Inside the attention layers of KerasHub: each class, beside attention that NumPy computes.

These tests need KerasHub, which has to be installed beside what it does not need here. They are
marked `carriers`, and run in an environment of their own: `nox -s carriers`.
"""

import numpy as np
import pytest
from _backend import to_numpy
from kit import check_close
from test_generation import TOKENS, generate, language_model, uncached

from kedit import sample
from kedit.errors import OperandError, PositionError
from kedit.interventions import capture, edit_model, site, sites

pytestmark = [
    pytest.mark.carriers,
    # KerasHub's layers are given masks that they take by another way.
    pytest.mark.filterwarnings("ignore:Layer '.*' .* was passed an input with a mask:UserWarning"),
]

IDS = np.array([[1, 2, 3, 4, 5, 6], [4, 5, 6, 7, 0, 0]], "int32")
KEPT = (IDS > 0).astype("int32")
TEXT = {"token_ids": IDS, "padding_mask": KEPT}
BOTH = {
    "encoder_token_ids": IDS,
    "encoder_padding_mask": KEPT,
    "decoder_token_ids": IDS[:, :4],
    "decoder_padding_mask": np.ones((2, 4), "int32"),
}
SPEECH = {
    "encoder_features": np.random.default_rng(2).normal(size=(2, 12, 80)).astype("float32"),
    "decoder_token_ids": IDS[:, :4],
    "decoder_padding_mask": np.ones((2, 4), "int32"),
}
IMAGES = np.random.default_rng(2).normal(size=(2, 8, 8, 3)).astype("float32")
SMALL = {"vocabulary_size": 11, "num_layers": 1, "hidden_dim": 8, "intermediate_dim": 12}
MANY = {**SMALL, "num_heads": 4}
SHARED = {**SMALL, "num_query_heads": 4, "num_key_value_heads": 2}
SIDE = {
    **{"hidden_dim": 8, "intermediate_dim": 12, "num_layers": 1, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 2, "layer_types": ["full_attention"]},
}
FAMILIES = {
    "Bert": (MANY, TEXT | {"segment_ids": 0 * IDS}),
    "RoBERTa": ({**MANY, "dropout": 0.0}, TEXT),
    "GPT2": ({**MANY, "dropout": 0.0}, TEXT),
    "OPT": ({**MANY, "dropout": 0.0}, TEXT),
    "Bart": ({**MANY, "dropout": 0.0}, BOTH),
    "Whisper": (MANY | {"max_encoder_sequence_length": 12}, SPEECH),
    "Llama": (SHARED, TEXT),
    "Mistral": ({**SHARED, "sliding_window": 3}, TEXT),
    "Qwen": (SHARED, TEXT),
    "Qwen3": ({**SHARED, "head_dim": 2}, TEXT),
    "QwenMoe": (
        SHARED
        | {"moe_intermediate_dim": 4, "shared_expert_intermediate_dim": 4, "num_experts": 2}
        | {"top_k": 1},
        TEXT,
    ),
    "Qwen3Moe": (
        SHARED | {"moe_intermediate_dim": 4, "num_experts": 2, "head_dim": 2, "top_k": 1},
        TEXT,
    ),
    "Mixtral": ({**SHARED, "num_experts": 2, "sliding_window": 3}, TEXT),
    "Phi3": (SHARED, TEXT),
    "Gemma": ({**SHARED, "head_dim": 2}, TEXT),
    "Gemma with a soft cap": (
        SHARED
        | {"head_dim": 2, "attention_logit_soft_cap": 2.0, "use_sliding_window_attention": True}
        | {"sliding_window_size": 2},
        TEXT,
    ),
    "Gemma3": ({**SHARED, "head_dim": 2, "image_size": 8}, TEXT),
    "Bloom": (MANY, TEXT),
    "Falcon": ({**SMALL, "num_attention_heads": 4}, TEXT),
    "GPTNeoX": ({**MANY, "rotary_percentage": 1.0}, TEXT),
    "T5": (MANY, BOTH),
    "T5Gemma": (
        {
            "vocabulary_size": 11,
            **{f"encoder_{name}": value for name, value in SIDE.items()},
            **{f"decoder_{name}": value for name, value in SIDE.items()},
            "cross_attention_hidden_size": 8,
        },
        BOTH,
    ),
    "DebertaV3": ({**MANY, "bucket_size": 4, "max_sequence_length": 8}, TEXT),
    "SmolLM3": (
        {
            **SMALL,
            **{"num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": False},
            **{"attention_dropout": 0.0, "rope_layer_enabled_list": [True]},
            **{"layer_types": ["full_attention"], "mlp_bias": False, "layer_norm_epsilon": 1e-6},
            **{"max_position_embeddings": 16, "rope_theta": 1e4, "partial_rotary_factor": 1.0},
        },
        TEXT,
    ),
    "DINOV2": (
        {
            **{"patch_size": 4, "num_layers": 1, "hidden_dim": 8, "num_heads": 4},
            **{"intermediate_dim": 12, "image_shape": (8, 8, 3)},
            "position_embedding_shape": (8, 8, 3),
        },
        {"images": IMAGES},
    ),
    "PaliGemma": (
        {
            **{"vocabulary_size": 11, "image_size": 8, "num_layers": 1, "hidden_dim": 8},
            **{"num_query_heads": 4, "num_key_value_heads": 2, "intermediate_dim": 12},
            **{"head_dim": 2, "vit_patch_size": 4, "vit_num_heads": 4, "vit_hidden_dim": 8},
            "vit_num_layers": 1,
        },
        {"images": IMAGES, "response_mask": 0 * IDS, **TEXT},
    ),
    "Gemma3VisionEncoder": (
        {
            **{"image_size": 8, "patch_size": 4, "num_heads": 4, "hidden_dim": 8, "num_layers": 1},
            **{"intermediate_dim": 12, "output_dim": 6, "pool_size": 2},
        },
        IMAGES[:, None],
    ),
    "ViT": (
        {
            **{"image_shape": (8, 8, 3), "patch_size": 4, "num_layers": 1, "num_heads": 4},
            **{"hidden_dim": 8, "mlp_dim": 12},
        },
        IMAGES,
    ),
}
OTHERS = {"GptOss": ({**SHARED, "num_experts": 2, "head_dim": 2}, TEXT)}
SPELLED = {"RoBERTa": "Roberta"}
WITHOUT = {
    "T5": {"scores"},
    "T5Gemma": {"scores"},
    "DebertaV3": {"query", "key"},
    "PaliGemma": {"scores"},
    "Gemma3VisionEncoder": {"scores"},
}
"""What the attention of a family does not show; of PaliGemma that of the part that sees."""
WORDS = {"query", "key", "value", "scores", "pattern", "heads"}


def backbone(name):
    """A model of random weights, and inputs for it."""
    import keras_hub

    options, inputs = (FAMILIES | OTHERS)[name]
    family = SPELLED.get(name, name.split()[0])
    family = family if family.endswith("Encoder") else f"{family}Backbone"
    model = getattr(keras_hub.models, family)(**options)
    rng = np.random.default_rng(3)
    for variable in model.weights:
        if "float" in str(variable.dtype):
            variable.assign(rng.normal(size=variable.shape).astype("float32") / 2)
    return model, inputs


def outputs(model, inputs):
    found = model(inputs)
    found = found if isinstance(found, dict) else {"output": found}
    return {name: to_numpy(value) for name, value in found.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_inside_the_attention_of_a_family(name):
    """Patterns that add up, heads that are the pattern of the values, and models as they were."""
    model, inputs = backbone(name)
    plain = outputs(model, inputs)
    found = sites(model).attention
    assert found
    for info in found:
        without = WITHOUT.get(name, set()) if info.layer != "CachedGemmaAttention" else set()
        assert set(info.inside) == WORDS - without
        acts = capture(model, [site(info, word) for word in info.inside])
        values = {
            key.rpartition(":")[2]: value
            for key, value in outputs(acts, inputs).items()
            if "#" not in key
        }
        pattern, heads, value = [values[word] for word in ("pattern", "heads", "value")]
        assert heads.shape[2] == pattern.shape[1] == 4
        assert heads.shape[:2] == (pattern.shape[0], pattern.shape[2])
        sums = pattern.sum(axis=-1)
        np.testing.assert_allclose(sums, np.where(sums > 0.5, 1.0, 0.0), atol=1e-5)
        assert (sums.reshape(2, -1) > 0.5).any(axis=1).all()
        repeated = np.repeat(value, 4 // value.shape[2], axis=2)
        expected = np.einsum("bnts,bsnh->btnh", pattern, repeated)
        real = (sums > 0.5).transpose(0, 2, 1)
        np.testing.assert_allclose(heads[real], expected[real], rtol=1e-3, atol=1e-4)
        if "scores" in values:
            masked = pattern == 0
            exp = np.where(masked, 0, np.exp(values["scores"]))
            with np.errstate(all="ignore"):
                softmax = exp / exp.sum(axis=-1, keepdims=True)
            known = np.isfinite(softmax)
            np.testing.assert_allclose(pattern[known], softmax[known], rtol=1e-3, atol=1e-5)
        same = edit_model(model, {site(info, "pattern"): sample[...].multiply(1.0)})
        for key, expected in outputs(same, inputs).items():
            check_close(expected, plain[key], rtol=1e-3, atol=1e-3)
    for key, expected in outputs(model, inputs).items():
        np.testing.assert_array_equal(expected, plain[key])


@pytest.mark.parametrize("name", FAMILIES)
def test_edits_inside_the_attention_of_a_family(name):
    """A head that attends to one key gives its value; an ablated one has no output weights."""
    model, inputs = backbone(name)
    info = sites(model).attention[0]
    first = sample[1, :, 0].set(1.0) | sample[1, :, 1:].set(0.0)
    edited = edit_model(model, {site(info, "pattern"): first})
    acts = outputs(capture(edited, [site(info, w) for w in ("value", "heads")]), inputs)
    value, heads = [acts[f"{info.address}:{word}"] for word in ("value", "heads")]
    shared = value[:, 0, 1 * value.shape[2] // 4]
    real = abs(heads[:, :, 1]).sum(axis=-1) > 0
    expected = np.broadcast_to(shared[:, None], heads[:, :, 1].shape)
    np.testing.assert_allclose(heads[:, :, 1][real], expected[real], rtol=1e-4, atol=1e-5)
    check_ablated_head(model, inputs, info)


def check_ablated_head(model, inputs, info):
    """Check that a head that is set to zero is one whose output weights are."""
    ablated = edit_model(model, {site(info, "heads"): sample[:, 2].set(0.0)})
    found = outputs(capture(ablated, info), inputs)[info.address]
    ((_, layer),) = site(info).find(model)
    dense, *_ = site(info, "heads").within(layer)
    kernel = to_numpy(dense.kernel).copy()
    rows = kernel.reshape(4, -1, kernel.shape[-1])
    rows[2] = 0
    dense.kernel.assign(rows.reshape(kernel.shape))
    check_close(found, outputs(capture(model, info), inputs)[info.address], rtol=1e-4, atol=1e-4)


def test_attention_with_a_sink_has_heads():
    model, inputs = backbone("GptOss")
    (info,) = sites(model).attention
    assert set(info.inside) == WORDS - {"scores", "pattern"}
    check_ablated_head(model, inputs, info)


def test_a_class_of_kerashub_that_is_not_known_is_no_attention_layer():
    """Although it is a subclass of one that is: it computes otherwise."""
    import keras_hub

    model = keras_hub.models.XLNetBackbone(
        **{"vocabulary_size": 11, "num_layers": 1, "num_heads": 4, "hidden_dim": 8},
        intermediate_dim=12,
    )
    assert sites(model).attention == ()


def test_what_a_family_does_not_show_is_refused():
    model, _ = backbone("T5")
    info = sites(model).attention[0]
    with pytest.raises(OperandError, match="which shows"):
        capture(model, site(info, "scores"))


# --- With a cache ---------------------------------------------------------------------------------

ATTENTION = "gpt2_backbone/transformer_layer_{}/_self_attention_layer"
GENERATING = {
    "a head": {site(ATTENTION.format(0), "heads"): sample[:, 1].set(0.0)},
    "a head at positions": {site(ATTENTION.format(0), "heads"): sample[4:7, 1].multiply(-3.0)},
    "values": {site(ATTENTION.format(1), "value"): sample[3, 0].set(2.0)},
    "a head's pattern": {site(ATTENTION.format(0), "pattern"): sample[1].multiply(2.0)},
    "all heads": {site(ATTENTION.format(1), "pattern"): sample[..., 2].set(0.9)},
    "a key of one head": {site(ATTENTION.format(1), "pattern"): sample[0, :, 1].set(1.0)},
    "scores of a key": {site(ATTENTION.format(0), "scores"): sample[[0, 1], :, 2].add(5.0)},
}


@pytest.fixture(scope="module")
def model():
    return language_model()


@pytest.mark.parametrize("name", GENERATING)
def test_generates_what_an_uncached_loop_does(model, name):
    plain = generate(model)
    edited = edit_model(model, GENERATING[name])
    with edited.applied():
        found = generate(model)
    np.testing.assert_array_equal(found, uncached(edited))
    assert (found != plain).any()
    np.testing.assert_array_equal(generate(model), plain)


@pytest.mark.parametrize(
    "edit",
    [
        sample[1, 3].set(0.0),
        sample[:, 5].set(0.0),
        sample[..., 5, :].set(0.0),
        sample[0, 2:].set(0.0),
        sample[..., [1, 2], [0, 0]].set(0.0),
    ],
    ids=repr,
)
def test_queries_are_not_told_apart_in_generation(model, edit):
    plain = generate(model)
    edited = edit_model(model, {site(ATTENTION.format(0), "pattern"): edit})
    with pytest.raises(PositionError, match=r"all queries.*'heads'"), edited.applied():
        generate(model)
    np.testing.assert_array_equal(generate(model), plain)
    tokens = {"token_ids": TOKENS, "padding_mask": np.ones_like(TOKENS)}
    assert np.isfinite(to_numpy(edited(tokens))).all()


@pytest.mark.parametrize("name", ["Llama", "Gemma"])
def test_models_that_share_keys_generate_without_a_head(name):
    import keras_hub

    backbone_, _ = backbone(name)
    model = getattr(keras_hub.models, f"{name}CausalLM")(preprocessor=None, backbone=backbone_)
    model.compile(sampler="greedy")
    place = site("*/attention" if name == "Gemma" else "*_self_attention_layer", "heads")
    given = {"token_ids": TOKENS % 11, "padding_mask": (TOKENS > 0).astype("int32")}
    for where in (place, site(place.pattern, "pattern")):
        edit = sample[:, 1].set(0.0) if where is place else sample[1].set(0.0)
        edited = edit_model(model, {where: edit})
        with edited.applied():
            found = to_numpy(model.generate(dict(given), stop_token_ids=None)["token_ids"])
        whole = {"token_ids": found, "padding_mask": np.ones_like(found)}
        logits = to_numpy(edited(whole))
        assert (logits[0, 2:-1].argmax(axis=-1) == found[0, 3:]).all()
