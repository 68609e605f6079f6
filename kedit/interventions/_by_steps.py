"""Attention computed step by step, where a layer computes it by one fused operation."""

from types import FunctionType, ModuleType
from typing import Any

from kedit._language.types import Tensor
from kedit._run import ops
from kedit.interventions._attention import inner_of


def by_steps(layer: Any) -> Any:
    """Return a handler of `_compute_attention` of a layer, which computes it step by step.

    A layer that calls `ops.dot_product_attention` never has the scores and the pattern. The
    handler runs its own function with another operation of that name, which computes the
    same, and passes the scores through the softmax layer. Nothing is changed that others see.
    """
    method = getattr(type(layer), "_compute_attention", None)
    names = getattr(method, "__globals__", {})
    fused = getattr(names.get("ops"), "dot_product_attention", None)
    if not isinstance(method, FunctionType) or fused is None:
        return None
    softmax, _ = inner_of(layer, "pattern")

    def dot_product_attention(*args: Any, **kwargs: Any) -> Tensor:
        return _attend(softmax, fused, *args, **kwargs)

    module: Any = ModuleType("ops")
    vars(module).update(vars(names["ops"]), dot_product_attention=dot_product_attention)
    # Without `__name__`: torch.compile would look up the names in the module that it names.
    changed = {name: value for name, value in names.items() if name != "__name__"}
    unfused = FunctionType(
        method.__code__, {**changed, "ops": module}, method.__name__, method.__defaults__,
        method.__closure__,
    )  # fmt: skip
    unfused.__kwdefaults__ = method.__kwdefaults__

    def handler(call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return unfused(layer, *args, **kwargs)

    return handler


def _attend(
    softmax: Any,
    fused: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Any = None,
    mask: Any = None,
    scale: Any = None,
    is_causal: bool = False,
    attn_logits_soft_cap: Any = None,
    **options: Any,
) -> Tensor:
    """Compute `keras.ops.dot_product_attention` with a softmax that is a layer."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = ops.matmul(
        ops.transpose(ops.multiply(query, ops.cast(scale, query.dtype)), (0, 2, 1, 3)),
        ops.transpose(_for_each_head(key, query), (0, 2, 3, 1)),
    )
    if attn_logits_soft_cap is not None:
        cap = ops.cast(attn_logits_soft_cap, scores.dtype)
        scores = ops.multiply(ops.tanh(ops.divide(scores, cap)), cap)
    if bias is not None:
        scores = ops.add(scores, ops.cast(bias, scores.dtype))
    allowed = None if mask is None else ops.cast(mask, "bool")
    if is_causal:
        *_, queries, keys = ops.shape(scores)
        before = ops.greater_equal(ops.arange(queries)[:, None], ops.arange(keys)[None])[None, None]
        allowed = before if allowed is None else ops.logical_and(allowed, before)
    pattern = ops.cast(softmax(scores, mask=allowed), value.dtype)
    heads = ops.matmul(pattern, ops.transpose(_for_each_head(value, query), (0, 2, 1, 3)))
    heads = ops.transpose(heads, (0, 2, 1, 3))
    if mask is None:
        return heads
    # Where all is masked, the layer gives a pattern of zeros, and each backend something else. An
    # edit of that pattern counts.
    given = {"mask": mask, "scale": scale, "is_causal": is_causal, **options}
    counts = ops.logical_or(allowed, ops.not_equal(pattern, 0))
    masked = ops.logical_not(ops.any(counts, axis=-1, keepdims=True))
    return ops.add(
        heads,
        ops.where(ops.transpose(masked, (0, 2, 1, 3)), fused(query, key, value, **given), 0.0),
    )


def _for_each_head(x: Tensor, query: Tensor) -> Tensor:
    """Repeat keys or values, which several heads of the queries share."""
    times = query.shape[2] // x.shape[2]
    if times == 1:
        return x
    return ops.take(x, [head // times for head in range(query.shape[2])], axis=2)
