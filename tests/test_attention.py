"""Inside attention layers of models that exist, beside attention that NumPy computes."""

import keras
import numpy as np
import pytest
from _backend import BACKEND, to_numpy
from keras import ops
from kit import check_close, saved_and_loaded

from kedit import Trainable, X, sample
from kedit.errors import OperandError, PositionError
from kedit.interventions import (
    LayerInput,
    OtherRun,
    ablation_study,
    attribution_study,
    capture,
    edit_model,
    load_edits,
    patching_study,
    save_edits,
    site,
    sites,
)

RNG = np.random.default_rng(0)
SEQUENCES, OTHERS = RNG.normal(size=(2, 3, 5, 6)).astype("float32")
KEPT = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], bool)
WORDS = ("query", "key", "value", "scores", "pattern", "heads")


def multi(**options):
    return keras.layers.MultiHeadAttention(4, 3, name="attn", **options)


def grouped(**options):
    return keras.layers.GroupQueryAttention(3, 4, 2, name="attn", **options)


def attending(layer, causal=False, masked=False):
    """A model with one attention layer, and something after it."""
    inputs = [keras.Input((5, 6))]
    given = {"use_causal_mask": True} if causal else {}
    if masked:
        inputs.append(keras.Input((5, 5), dtype="bool"))
        given["attention_mask"] = inputs[1]
    y = keras.layers.Dense(2, name="out")(layer(inputs[0], inputs[0], **given))
    model = keras.Model(inputs if masked else inputs[0], y)
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


def given(masked, x=SEQUENCES):
    return [x, np.repeat(KEPT[:, None], 5, axis=1)] if masked else x


def predict(model, x):
    return model.predict(x, verbose=0)


def weights(layer):
    return [
        [to_numpy(part.kernel), to_numpy(part.bias)]
        for part in (layer._query_dense, layer._key_dense, layer._value_dense, layer._output_dense)
    ]


def by_numpy(layer, x, allowed=None, changed=None):
    """What goes on in an attention layer; `changed` changes one of the values, by its name."""
    found = {}

    def seen(name, value):
        found[name] = (changed or {}).get(name, lambda y: y)(value)
        return found[name]

    *projections, (kernel, bias) = weights(layer)
    for name, (w, b) in zip(("query", "key", "value"), projections, strict=True):
        seen(name, np.einsum("btm,mnh->btnh", x, w) + b)
    groups = found["query"].shape[2] // found["key"].shape[2]
    key, value = [np.repeat(found[name], groups, axis=2) for name in ("key", "value")]
    scores = seen("scores", np.einsum("btnh,bsnh->bnts", found["query"], key) / np.sqrt(3))
    exp = np.exp(scores) if allowed is None else np.where(allowed, np.exp(scores), 0)
    total = exp.sum(axis=-1, keepdims=True)
    pattern = seen("pattern", np.divide(exp, total, out=np.zeros_like(exp), where=total > 0))
    heads = seen("heads", np.einsum("bnts,bsnh->btnh", pattern, value))
    found["output"] = np.einsum("btnh,nhm->btm", heads, kernel) + bias
    return found


def allowed(causal, masked):
    mask = np.ones((3, 1, 5, 5), bool)
    if causal:
        mask &= np.tril(mask)
    return mask & KEPT[:, None, None] if masked else mask


MASKS = pytest.mark.parametrize(
    ("causal", "masked"),
    [(False, False), (True, False), (True, True)],
    ids=["all", "causal", "causal-padded"],
)
LAYERS = pytest.mark.parametrize("make", [multi, grouped], ids=lambda make: make.__name__)


@LAYERS
@MASKS
def test_values_are_those_of_numpy(make, causal, masked):
    layer = make()
    model = attending(layer, causal, masked)
    plain = predict(model, given(masked))
    expected = by_numpy(layer, SEQUENCES, allowed(causal, masked))
    acts = capture(model, [site("attn", word) for word in WORDS] + ["attn", "out"])
    found = predict(acts, given(masked))
    for word in WORDS:
        check_close(found[f"attn:{word}"], expected[word], rtol=1e-4)
    check_close(found["attn"], expected["output"], rtol=1e-4, atol=1e-4)
    check_close(found["out"], plain)
    np.testing.assert_array_equal(predict(model, given(masked)), plain)
    assert "_compute_attention" not in vars(layer)


EDITS = {
    "query": sample[:, 1].multiply(2.0),
    "key": sample[2].set(1.0),
    "value": sample[..., 1, 0].add(3.0),
    "scores": sample[1, :, 0].add(4.0),
    "pattern": sample[1].set(np.eye(5)) | sample[0, 3].multiply(0.5),
    "heads": sample[:, 2].set(0.0),
}


@LAYERS
@MASKS
@pytest.mark.parametrize("word", WORDS)
def test_edits_are_those_of_numpy(make, causal, masked, word):
    """A model that computes on with the edited value, and one that is as it was."""
    layer = make()
    model = attending(layer, causal, masked)
    plain = predict(model, given(masked))
    edit = EDITS[word]
    expected = by_numpy(layer, SEQUENCES, allowed(causal, masked), {word: edit})
    edited = edit_model(model, {site("attn", word): edit})
    assert edited.built
    found = predict(capture(edited, [site("attn", word), "attn"]), given(masked))
    check_close(found[f"attn:{word}"], expected[word], rtol=1e-4)
    check_close(found["attn"], expected["output"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(predict(model, given(masked)), plain)


@LAYERS
def test_an_ablated_head_is_a_head_without_output_weights(make):
    layer = make()
    model = attending(layer)
    ablated = predict(edit_model(model, {site("attn", "heads"): sample[:, 2].set(0.0)}), SEQUENCES)
    kernel = to_numpy(layer._output_dense.kernel).copy()
    kernel[2] = 0
    layer._output_dense.kernel.assign(kernel)
    check_close(predict(model, SEQUENCES), ablated)


def test_a_head_that_attends_to_one_position_gives_its_value():
    layer = multi()
    model = attending(layer)
    first = sample[2, :, 0].set(1.0) | sample[2, :, 1:].set(0.0)
    edited = edit_model(model, {site("attn", "pattern"): first})
    found = predict(capture(edited, [site("attn", w) for w in ("heads", "value")]), SEQUENCES)
    expected = np.repeat(found["attn:value"][:, :1, 2], 5, axis=1)
    check_close(found["attn:heads"][:, :, 2], expected)


def test_queries_that_may_attend_to_nothing():
    """Their outputs stay what the fused operation gives, their pattern is zero."""
    inputs = keras.Input((5, 6))
    x = keras.layers.Masking(name="mask")(inputs)
    model = keras.Model(inputs, multi()(x, x))
    padded = SEQUENCES * KEPT[..., None]
    plain = predict(model, padded)
    acts = capture(model, ["attn", site("attn", "pattern")])
    found = predict(acts, padded)
    check_close(found["attn"], plain)
    assert (found["attn:pattern"][1, :, 3:] == 0).all()
    check_close(found["attn:pattern"][1, :, :3].sum(axis=-1), np.ones((4, 3)))
    kept = edit_model(model, {site("attn", "pattern"): sample[1].multiply(1.0)})
    check_close(predict(kept, padded), plain)
    doubled = edit_model(model, {site("attn", "heads"): sample[...].multiply(2.0)})
    assert abs(predict(doubled, padded) - plain).max() > 0.01


def test_the_pattern_of_queries_that_may_attend_to_nothing_is_edited():
    """Then it is what is written, and nothing of the fused operation is added to it."""
    model = attending(multi(), masked=True)
    x, mask = given(True)
    mask = mask & (np.arange(5) != 2)[:, None]
    pattern = np.random.default_rng(5).random((4, 5, 5)).astype("float32")
    edits = {site("attn", "pattern"): sample[...].set(pattern)}
    found = [
        predict(capture(edit_model(model, edits), site("attn", "heads")), [x, allowed])
        for allowed in (mask, np.ones_like(mask))
    ]
    check_close(found[0]["attn:heads"], found[1]["attn:heads"])


@pytest.mark.parametrize("options", [{"dropout": 0.3}, {"use_gate": True}], ids="-".join)
def test_layers_that_are_not_fused_or_have_a_gate(options):
    model = attending(multi(**options))
    plain = predict(model, SEQUENCES)
    found = predict(capture(model, [site("attn", w) for w in WORDS] + ["out"]), SEQUENCES)
    check_close(found["out"], plain)
    check_close(found["attn:pattern"].sum(axis=-1), np.ones((3, 4, 5)))
    kernel, bias = weights(model.get_layer("attn"))[-1]
    expected = np.einsum("btnh,nhm->btm", found["attn:heads"], kernel) + bias
    check_close(predict(capture(model, "attn"), SEQUENCES)["attn"], expected, rtol=1e-4, atol=1e-4)


def test_more_axes_than_one_have_a_pattern_over_all():
    """Attention over two axes, which Keras never fuses."""
    inputs = keras.Input((2, 3, 6))
    layer = keras.layers.MultiHeadAttention(2, 3, attention_axes=(1, 2), name="attn")
    model = keras.Model(inputs, layer(inputs, inputs))
    x = RNG.normal(size=(2, 2, 3, 6)).astype("float32")
    found = predict(capture(model, [site("attn", w) for w in ("pattern", "heads")]), x)
    assert found["attn:pattern"].shape == (2, 2, 2, 3, 2, 3)
    check_close(found["attn:pattern"].sum(axis=(-2, -1)), np.ones((2, 2, 2, 3)))
    assert found["attn:heads"].shape == (2, 2, 3, 2, 3)


def test_attention_across_two_sequences():
    inputs = [keras.Input((4, 6)), keras.Input((5, 6))]
    model = keras.Model(inputs, multi()(*inputs))
    given_ = [SEQUENCES[:, :4], OTHERS]
    plain = predict(model, given_)
    found = predict(capture(model, [site("attn", w) for w in WORDS] + ["attn"]), given_)
    shapes = {name: array.shape[1:] for name, array in found.items()}
    assert shapes["attn:pattern"] == shapes["attn:scores"] == (4, 4, 5)
    assert shapes["attn:query"] == shapes["attn:heads"] == (4, 4, 3)
    assert shapes["attn:key"] == shapes["attn:value"] == (5, 4, 3)
    check_close(found["attn"], plain)


class Block(keras.layers.Layer):
    """Attention added to what it reads, built when it is first called."""

    def __init__(self, **options):
        super().__init__(**options)
        self.attention = keras.layers.MultiHeadAttention(2, 3)

    def call(self, x):
        return x + self.attention(x, x, use_causal_mask=True)


def blocks(count=2):
    inputs = keras.Input((5, 6))
    x = inputs
    for number in range(count):
        x = Block(name=f"block_{number}")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="out")(x))


def test_patterns_mean_the_attention_layers_among_what_they_match():
    model = blocks()
    for pattern in ("*", "*attention*", "block_*"):
        acts = capture(model, site(pattern, "pattern"))
        assert [str(one) for one in acts.patterns] == [
            "block_0/attention:pattern",
            "block_1/attention:pattern",
        ]
        assert {array.shape for array in predict(acts, SEQUENCES).values()} == {(3, 2, 5, 5)}
    found = sites(model).attention
    assert [one.address for one in found] == ["block_0/attention", "block_1/attention"]
    assert len(capture(model, [site(one, "heads") for one in found]).patterns) == 2
    assert "block_0/attention" in repr(found)
    assert sites(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])).attention == ()


def test_a_model_of_ones_own_class_that_was_never_called():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.block, self.out = Block(), keras.layers.Dense(1)

        def call(self, x):
            return self.out(self.block(x))

    model = Own()
    edited = edit_model(model, {site("block/attention", "pattern"): sample[0].set(0.0)})
    found = predict(capture(edited, site("*", "pattern")), SEQUENCES)
    assert (found["block/attention:pattern"][:, 0] == 0).all()
    assert (found["block/attention:pattern"][:, 1, :, 0] > 0).all()


def test_what_is_no_attention_layer_is_refused():
    model = blocks()
    edit = sample[0].set(0.0)
    for where in ("pattern", "heads"):
        message = rf"'out', a Dense\. Write `site\('block_0/attention', '{where}'\)`"
        with pytest.raises(OperandError, match=message):
            edit_model(model, {site("out", where): edit})
    with pytest.raises(OperandError, match="the model has none"):
        capture(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), site("*", "heads"))
    with pytest.raises(OperandError, match="'nothing'"):
        capture(model, site("nothing", "heads"))
    with pytest.raises(OperandError, match=r"one tensor.*Write `site\('a', 'pattern'\)`"):
        site("a", "pattern", 1)
    with pytest.raises(OperandError, match="where"):
        site("a", "patterns")
    with pytest.raises(PositionError):
        edit_model(model, {site("block_0/attention", "pattern"): sample[2].set(0.0)})
    with pytest.raises(PositionError):
        edit_model(model, {site("block_0/attention", "heads"): sample[:, 2].set(0.0)})


def test_the_input_of_a_layer_is_not_what_is_inside():
    with pytest.raises(OperandError, match=r"place of its output.*`site\('attn'\)`"):
        edit_model(attending(multi()), {site("attn", "heads"): sample[:, 1].set(LayerInput())})


def test_the_layer_is_as_it_was_after_an_error():
    model = blocks()
    layer = model.get_layer("block_1").attention
    plain, attributes = predict(model, SEQUENCES), set(vars(layer))

    def fail(*args, **kwargs):
        raise RuntimeError("on purpose")

    edited = edit_model(model, {site("block_1/attention", "pattern"): sample[0].set(0.0)})
    (_, _, editing), *_ = edited.placed()
    editing.call = fail
    with pytest.raises(RuntimeError, match="on purpose"):
        edited(SEQUENCES)
    assert set(vars(layer)) == attributes
    np.testing.assert_array_equal(predict(model, SEQUENCES), plain)


class Computing(keras.layers.MultiHeadAttention):
    """Attention that computes otherwise than its class, without a softmax."""

    def _compute_attention(self, query, key, value, *args, **kwargs):
        return value, None


def test_attention_without_a_pattern_raises_and_has_heads():
    inputs = keras.Input((5, 6))
    model = keras.Model(inputs, Computing(2, 3, name="attn")(inputs, inputs))
    with pytest.raises(OperandError, match=r"`attn:pattern`.*did not call.*otherwise"):
        predict(capture(model, site("attn", "pattern")), SEQUENCES)
    found = predict(capture(model, site("attn", "heads")), SEQUENCES)
    assert found["attn:heads"].shape == (3, 5, 2, 3)


# --- Other runs, gradients, studies ---------------------------------------------------------------


@pytest.mark.parametrize("word", ["heads", "pattern"])
def test_a_patch_from_another_run(word):
    model = attending(multi())
    place = site("attn", word)
    patched = edit_model(model, {place: sample[...].set(OtherRun())})
    both = {"inputs": SEQUENCES, "other": OTHERS}
    acts = predict(capture(patched, place), both)
    check_close(acts[str(place)], predict(capture(model, place), OTHERS)[str(place)])
    if word == "heads":
        check_close(predict(patched, both), predict(model, OTHERS))


@pytest.mark.gradient
def test_gradients_in_closed_form():
    """The gradient of one output in the heads, their pattern and the scores."""
    layer = multi()
    model = attending(layer, causal=True)
    acts = capture(model, [site("attn", w) for w in ("heads", "pattern", "scores")])
    found = acts.gradients(SEQUENCES, lambda y: y[:, 4, 0])
    values = by_numpy(layer, SEQUENCES, allowed(True, False))
    into = to_numpy(layer._output_dense.kernel) @ to_numpy(model.get_layer("out").kernel)[:, 0]
    heads = np.zeros((3, 5, 4, 3))
    heads[:, 4] = into
    check_close(found["attn:heads"], heads, rtol=1e-4)
    pattern = np.einsum("btnh,bsnh->bnts", heads, values["value"])
    check_close(found["attn:pattern"], pattern, rtol=1e-4, atol=1e-4)
    weighted = values["pattern"] * pattern
    scores = weighted - values["pattern"] * weighted.sum(axis=-1, keepdims=True)
    check_close(found["attn:scores"], scores, rtol=1e-4, atol=1e-4)


@pytest.mark.gradient
def test_an_edit_of_a_pattern_is_trained():
    """Scores get a bias that moves all attention of a head to one key."""
    model = attending(multi())
    edit = {site("attn", "scores"): sample[0].add(Trainable("zeros"))}
    edited = edit_model(model, edit, train="edits")
    assert [tuple(w.shape) for w in edited.trainable_weights] == [(5, 5)]
    target = edit_model(model, {site("attn", "scores"): sample[0, :, 3].add(4.0)})
    edited.compile(keras.optimizers.Adam(0.3), "mse")
    y = predict(target, SEQUENCES)
    losses = edited.fit(SEQUENCES, y, epochs=60, batch_size=3, verbose=0).history["loss"]
    assert losses[-1] < 0.1 * losses[0]
    learned = to_numpy(edited.values(site("attn", "scores"))[0])
    assert (learned.argmax(axis=1) == 3).all()


HEADS = [site(f"block_{number}/attention", "heads") for number in range(2)]


def first(outputs):
    return outputs[:, -1, 0]


def test_a_study_of_layers_and_heads_by_ablation():
    model = blocks()
    found = ablation_study(model, SEQUENCES, HEADS, first, axis=-2, verbose=0)
    assert found.units == [f"block_{n}/attention:heads[{h}]" for n in range(2) for h in range(2)]
    for unit, (place, head) in enumerate([(p, h) for p in HEADS for h in range(2)]):
        alone = predict(edit_model(model, {place: sample[:, head].set(0.0)}), SEQUENCES)
        check_close(found.after[unit], first(alone))
    assert found.sites == [str(place) for place in HEADS]
    check_close(found.by_site(), found.effects.mean(axis=1).reshape(2, 2))
    same = ablation_study(model, SEQUENCES, HEADS, first, axis=2, verbose=0, baseline="mean")
    assert same.units == found.units


@pytest.mark.gradient
def test_studies_of_layers_and_heads_by_patches_and_gradients():
    model = blocks()
    given_ = (model, SEQUENCES, OTHERS, HEADS, first)
    found = patching_study(*given_, axis=-2, verbose=0)
    assert (found.sites, found.positions) == ([str(place) for place in HEADS], ["0", "1"])
    for row, place in enumerate(HEADS):
        for head in range(2):
            alone = edit_model(model, {place: sample[:, head].set(OtherRun())})
            expected = first(predict(alone, {"inputs": OTHERS, "other": SEQUENCES}))
            check_close(found.values[row, head], expected)
    estimated = attribution_study(*given_, axis=2, verbose=0)
    assert estimated.positions == found.positions
    check_close(estimated.effects[1], found.effects[1], rtol=1e-3, atol=1e-4)  # linear from there
    patterns = patching_study(
        model, SEQUENCES, OTHERS, site("*", "pattern"), first, axis=1, verbose=0
    )
    assert patterns.values.shape == (2, 2, 3)


# --- Compiled, saved, in half precision -----------------------------------------------------------


@pytest.mark.usefixtures("without_building")
@pytest.mark.filterwarnings("ignore:Dynamo does not know:UserWarning")  # of Keras's fused operation
@pytest.mark.parametrize("word", ["scores", "pattern", "heads"])
def test_compiled_models(word):
    model = attending(multi(), causal=True)
    edited = edit_model(model, {site("attn", word): EDITS[word]})
    expected = to_numpy(edited(SEQUENCES))
    edited.compile(jit_compile=BACKEND != "numpy")
    check_close(predict(edited, SEQUENCES), expected, rtol=1e-4)


@pytest.mark.parametrize("word", WORDS)
def test_saved_models_and_edits(word, tmp_path):
    model = attending(grouped(), causal=True)
    place = site("attn", word)
    edited = edit_model(model, {place: EDITS[word]})
    expected = predict(edited, SEQUENCES)
    check_close(predict(saved_and_loaded(edited, tmp_path / "edited.keras"), SEQUENCES), expected)
    save_edits(edited, tmp_path / "edits.json")
    assert f'"where": "{word}"' in (tmp_path / "edits.json").read_text()
    again = edit_model(model, load_edits(tmp_path / "edits.json"))
    assert [str(one) for one, _ in again.edits] == [str(place)]
    check_close(predict(again, SEQUENCES), expected)
    acts = saved_and_loaded(capture(edited, place), tmp_path / "acts.keras")
    assert list(predict(acts, SEQUENCES)) == [f"attn:{word}"]


HALF = [("mixed_bfloat16", 0.0), ("mixed_float16", 0.1)]
"""With dropout nothing is fused: JAX's fused operation has no float16 on a CPU."""


@pytest.mark.parametrize(("dtype", "dropout"), HALF)
def test_half_precision(dtype, dropout):
    model = attending(multi(dtype=dtype, dropout=dropout), causal=True)
    plain = predict(model, SEQUENCES).astype("float32")
    acts = capture(model, [site("attn", "pattern"), "out"])
    found = {name: to_numpy(ops.cast(y, "float32")) for name, y in acts(SEQUENCES).items()}
    scale = abs(plain).max()
    check_close(found["out"] / scale, plain / scale, atol=0.02)
    check_close(found["attn:pattern"].sum(axis=-1), np.ones((3, 4, 5)), atol=0.02)
    assert np.triu(found["attn:pattern"], 1).max() == 0
    edited = edit_model(model, {site("attn", "pattern"): sample[0].where(X < 0.1).set(0.0)})
    assert np.isfinite(to_numpy(ops.cast(edited(SEQUENCES), "float32"))).all()


def test_applied_to_the_model_itself():
    model = blocks()
    plain = predict(model, SEQUENCES)
    for word in ("pattern", "heads"):
        edited = edit_model(model, {site("*", word): sample[..., 0, :].multiply(0.5)})
        expected = predict(edited, SEQUENCES)
        with edited.applied():
            check_close(predict(model, SEQUENCES), expected)
        check_close(predict(model, SEQUENCES), plain)
        assert abs(expected - plain).max() > 1e-3


def test_values_by_call_of_a_layer_that_is_called_twice():
    inputs = keras.Input((5, 6))
    layer = multi()
    model = keras.Model(inputs, layer(layer(inputs, inputs), inputs))
    found = predict(capture(model, site("attn", "pattern")), SEQUENCES)
    assert list(found) == ["attn:pattern", "attn:pattern#1"]
    edited = edit_model(model, {site("attn", "pattern", call=1): sample[0].set(0.0)})
    acts = predict(capture(edited, site("attn", "pattern")), SEQUENCES)
    check_close(acts["attn:pattern"], found["attn:pattern"])
    assert (acts["attn:pattern#1"][:, 0] == 0).all()
    assert (acts["attn:pattern#1"][:, 1] != 0).all()
