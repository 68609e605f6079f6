"""An operand that skips a layer."""

from typing import Any

import keras

from kedit._edit import Edit
from kedit._language.types import Shape, Tensor
from kedit._run import ops
from kedit.errors import OperandError, ShapeError
from kedit.interventions._operands import RunOperand


@keras.saving.register_keras_serializable(package="kedit")
class LayerInput(RunOperand):
    """What the layer received whose output is edited.

    `{"block_3": sample[...].set(LayerInput())}` skips a block: its output is its input.
    `sample[2].set(LayerInput())` skips it at position 2 alone, and
    `sample[...].set(X + (LayerInput() - X) * 0.5)` skips half of it. The layer still
    runs.

    Args:
        leaf: Which input, if there are several, as in `kedit.interventions.site`: its
            number, or for a keyword argument its name. Defaults to 0.

    Raises:
        kedit.errors.OperandError: If `leaf` is neither an int nor a str, or the edit is of
            the input of a layer.
        kedit.errors.ShapeError: If the input does not have the shape of the output.

    Gradient:
        Flows to the input, past the layer.

    References:
        A. Veit, M. Wilber and S. Belongie, *Residual Networks Behave Like Ensembles of
        Relatively Shallow Networks*, 2016, arXiv:1605.06431.

    Example:
    >>> kedit.sample[2].set(kedit.interventions.LayerInput())
    sample[2].set(LayerInput())
    >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(3.0, name="h")])
    >>> skipped = kedit.sample[0].set(kedit.interventions.LayerInput())
    >>> edited = kedit.interventions.edit_model(base, {"h": skipped})
    >>> ops.convert_to_numpy(edited(np.ones((1, 2)))).tolist()
    [[1.0, 3.0]]
    """

    __slots__ = ("leaf",)
    leaf: int | str

    def __init__(self, leaf: int | str = 0) -> None:
        if type(leaf) not in (int, str) or leaf == "":
            raise OperandError(
                "`leaf` should be the number or the name of an input. Received: "
                f"leaf={leaf!r}. Write `LayerInput()`."
            )
        self._init(leaf=leaf)

    def key(self) -> Any:
        return ("LayerInput", self.leaf)

    def __repr__(self) -> str:
        return f"LayerInput({'' if self.leaf == 0 else repr(self.leaf)})"

    def __reduce__(self) -> Any:
        return (LayerInput, (self.leaf,))

    def get_config(self) -> dict[str, Any]:
        return {"leaf": self.leaf}

    def inputs(self) -> list[int | str]:
        return [self.leaf]

    def check_input(self, edit: Edit, shape: Shape, given: Shape) -> None:
        if len(shape) != len(given) or any(
            [None not in (n, m) and n != m for n, m in zip(shape[1:], given[1:], strict=True)]
        ):
            raise ShapeError(
                "The input of a layer that is skipped should have the shape of its output, "
                f"{(None, *shape[1:])}. Received: shape {(None, *given[1:])} for `{edit!r}`. Take "
                "the block around it, which adds to its input."
            )

    def value(self, x: Tensor, given: dict[str, Tensor], weight: Any, piece: Any = None) -> Tensor:
        return ops.cast(given[key_of(self.leaf)], x.dtype)


def key_of(leaf: int | str) -> str:
    """Return by which key an operand is given an input of the layer; no name can be it."""
    return f"input {leaf!r}"
