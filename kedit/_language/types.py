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

Mode: TypeAlias = Literal["drop", "fill", "clip", "wrap", "promise_in_bounds", "raise"]
"""What happens to positions out of bounds."""
