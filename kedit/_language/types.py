"""Names for types that Keras leaves open, and for the options of the API."""

from typing import Any, Literal, TypeAlias

Tensor: TypeAlias = Any
"""A tensor of the running backend, a `KerasTensor` or a NumPy array."""

Shape: TypeAlias = tuple[int | None, ...]
"""Sizes of the axes; `None` for an unknown size."""

Coordinates: TypeAlias = Literal["at", "sample"]
"""Whether axes are counted in the whole array or inside one sample."""

Casting: TypeAlias = Literal["same_kind", "unsafe"]
"""How values may be cast to the dtype of the tensor."""

When: TypeAlias = Literal["always", "training", "inference"]
"""When a layer edits."""

Gradient: TypeAlias = Literal["exact", "straight_through", "blocked", "sigmoid"]
"""By which gradient a layer learns."""

Comparison: TypeAlias = Literal[">", "<", ">=", "<=", "==", "abs>", "abs<", "between"]
"""How a modifier compares elements with its threshold."""

Modification: TypeAlias = Literal["multiply", "add", "set"]
"""What a modifier does to elements that meet its condition."""

Kind: TypeAlias = Literal["l2", "l1", "huber", "log_cosh", "barrier"]
"""How a penalty counts what outputs miss."""

Normalizer: TypeAlias = Literal["batch", "row", "size"]
"""By what number of elements a loss is divided."""

Mode: TypeAlias = Literal["drop", "fill", "clip", "wrap", "promise_in_bounds", "raise"]
"""What happens to positions out of bounds."""
