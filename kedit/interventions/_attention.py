"""Where attention layers keep their queries, patterns and heads."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from kedit._language.types import Tensor
from kedit._run import ops
from kedit.errors import OperandError

OF_PATTERN = ("scores", "pattern")
"""Values of shape `(batch, heads, queries, keys)`, which a fused operation never makes."""
WORDS = ("query", "key", "value", *OF_PATTERN, "heads")
"""What `site` takes for attention layers, beside "output" and "input"."""

Change = Callable[[Any], Any]


class Inner(NamedTuple):
    """Where an attention layer has a value: at one of its inner layers.

    Attributes:
        name: Attribute that holds the inner layer.
        where: "output" or "input" of the inner layer.
        leaf: Which tensor, as in `site`.
        joined: Attribute with the number of heads, if the last axis has all of them.
        grouped: Whether axes 1 and 2 are groups of heads and the heads of a group.
        third: Which third of each head it is; None for all of it.
    """

    name: str
    where: str = "output"
    leaf: int | str = 0
    joined: str | None = None
    grouped: bool = False
    third: int | None = None

    def viewed(self, layer: Any, x: Tensor, change: Change) -> Any:
        """Return the value of the inner layer, with `change` applied to what is meant of it."""
        if self.third is not None:
            size = x.shape[-1] // 3
            parts = list(ops.split(x, [size, 2 * size], axis=len(x.shape) - 1))
            parts[self.third] = change(parts[self.third])
            return ops.concatenate(parts, axis=-1)
        if self.joined is None and not self.grouped:
            return change(x)
        sizes = tuple(ops.shape(x))
        if self.joined is not None:
            heads = getattr(layer, self.joined)
            shown = (*sizes[:-1], heads, x.shape[-1] // heads)
        else:
            shown = (sizes[0], x.shape[1] * x.shape[2], *sizes[3:])
        if isinstance(x, keras.KerasTensor):  # only looked at, and not to be reshaped with None
            return change(keras.KerasTensor(shown, dtype=x.dtype))
        return ops.reshape(change(ops.reshape(x, shown)), sizes)


def _held(query: str, key: str, value: str, softmax: str, output: str) -> dict[str, Inner]:
    return {
        "query": Inner(query),
        "key": Inner(key),
        "value": Inner(value),
        "scores": Inner(softmax, "input"),
        "pattern": Inner(softmax),
        "heads": Inner(output, "input"),
    }


def _joined(word: str, name: str, heads: str) -> dict[str, Inner]:
    return {word: Inner(name, "input" if word == "heads" else "output", joined=heads)}


_KERAS = _held("_query_dense", "_key_dense", "_value_dense", "_softmax", "_output_dense")
_PLAIN = _held("query_dense", "key_dense", "value_dense", "softmax", "output_dense")
_GROUPED = _PLAIN | {
    "scores": Inner("softmax", "input", grouped=True),
    "pattern": Inner("softmax", grouped=True),
}
_VISION = {
    **_joined("query", "query_proj", "num_heads"),
    **_joined("key", "key_proj", "num_heads"),
    **_joined("value", "value_proj", "num_heads"),
    "pattern": Inner("dropout_layer", "input", "inputs"),
    **_joined("heads", "out_proj", "num_heads"),
}
KINDS: dict[str, dict[str, Inner]] = {
    # Keras
    "MultiHeadAttention": _KERAS,
    "GroupedQueryAttention": _KERAS,
    # KerasHub
    "CachedMultiHeadAttention": _KERAS,
    "WhisperCachedMultiHeadAttention": _KERAS,
    "LlamaAttention": _KERAS,
    "CachedMistralAttention": _KERAS,
    "QwenAttention": _KERAS,
    "Qwen3Attention": _KERAS,
    "Qwen3MoeAttention": _KERAS,
    "QwenMoeAttention": _held(
        "query_dense", "key_dense", "value_dense", "_softmax", "_output_dense"
    ),
    "CachedMixtralAttention": _PLAIN,
    "Phi3Attention": _PLAIN,
    "CachedGemmaAttention": _GROUPED,
    "CachedGemma3Attention": _GROUPED,
    "BloomAttention": _KERAS | _joined("heads", "_output_dense", "num_heads"),
    "FalconAttention": _PLAIN | _joined("heads", "output_dense", "num_heads"),
    "GPTNeoXAttention": {
        "query": Inner("_qkv_dense", third=0),
        "key": Inner("_qkv_dense", third=1),
        "value": Inner("_qkv_dense", third=2),
        "scores": _KERAS["scores"],
        "pattern": _KERAS["pattern"],
        **_joined("heads", "_output_dense", "num_heads"),
    },
    "SmolLM3Attention": {
        **_joined("query", "q_proj", "num_attention_heads"),
        **_joined("key", "k_proj", "num_key_value_heads"),
        **_joined("value", "v_proj", "num_key_value_heads"),
        "scores": _KERAS["scores"],
        "pattern": _KERAS["pattern"],
        "heads": Inner("o_proj", "input"),
    },
    "T5MultiHeadAttention": {
        **_joined("query", "query_projector", "num_heads"),
        **_joined("key", "key_projector", "num_heads"),
        **_joined("value", "value_projector", "num_heads"),
        "pattern": Inner("dropout_layer", "input"),
        **_joined("heads", "output_projector", "num_heads"),
    },
    # Its projections of queries and keys also read positions.
    "DisentangledSelfAttention": {
        "value": _KERAS["value"],
        "scores": _KERAS["scores"],
        "pattern": _KERAS["pattern"],
        **_joined("heads", "_output_dense", "num_heads"),
    },
    # Its softmax is an operation, with a sink that takes part of the attention.
    "GptOssAttention": {word: _PLAIN[word] for word in ("query", "key", "value", "heads")},
    # They add their mask to the scores before the softmax.
    "T5GemmaAttention": {word: inner for word, inner in _PLAIN.items() if word != "scores"},
    "T5Gemma2Attention": {word: inner for word, inner in _PLAIN.items() if word != "scores"},
    "PaliGemmaVitAttention": _VISION,
    "Gemma3VisionAttention": _VISION,
}
"""For each class of Keras and KerasHub, also for subclasses elsewhere, where its values are.

Subclasses in KerasHub have rows of their own, as they may compute otherwise.
"""


def kind_of(layer: Any) -> dict[str, Inner]:
    """Return where an attention layer has its values, by word; empty for any other layer."""
    for cls in type(layer).__mro__:
        if cls.__module__.partition(".")[0] in ("keras", "keras_hub"):
            return KINDS.get(cls.__name__, {})
    return {}


def inner_of(layer: Any, word: str) -> tuple[Any, Inner]:
    """Return the inner layer that has a value of an attention layer, and how."""
    inner = kind_of(layer)[word]
    held = getattr(layer, inner.name, None)
    if held is None:
        raise OperandError(
            "An attention layer whose inside is edited should be built. Received: "
            f"{layer.name!r}, without `{inner.name}`. Call the model on inputs first."
        )
    return held, inner
