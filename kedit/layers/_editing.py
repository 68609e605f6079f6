"""A layer that applies an edit."""

from typing import Any

import keras

from kedit import _lowering
from kedit._edit import Edit, EditSequence
from kedit._types import Shape, Tensor
from kedit.errors import OperandError


@keras.saving.register_keras_serializable(package="kedit")
class Editing(keras.layers.Layer):
    """Applies an edit to its input.

    Axis 0 is the batch, whose rows are arbitrary: the edit is counted inside
    one sample, as `sample[2]`, or leaves axis 0 alone, as `at[..., 2]`. The Keras
    mask is passed on.

    Args:
        edit: `kedit.Edit` or `kedit.EditSequence`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch_size, *sample_shape)`. Floats are cast to
            the compute dtype of the layer's dtype policy, as Keras does.

    Input shape:
        `(batch_size, *sample_shape)`; axes may be of unknown size. On such an
        axis a position that turns out not to exist is not edited.

    Output shape:
        Same shape and dtype as the input.

    Raises:
        kedit.errors.CoordinateError: If the edit names rows of the batch.
        kedit.errors.EditError: If the edit does not fit the input, when the
            layer is built into a model.

    Gradient:
        That of the edit; the layer has no weights.

    Example:
    >>> layer = kedit.layers.Editing(kedit.sample[0].set(5.0))
    >>> ops.convert_to_numpy(layer(ops.ones((2, 3)))).tolist()
    [[5.0, 1.0, 1.0], [5.0, 1.0, 1.0]]
    """

    def __init__(self, edit: Edit | EditSequence, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(edit, (Edit, EditSequence)):
            raise OperandError(
                "A layer should be given an edit. Received: "
                f"{edit!r} of type {type(edit).__name__}. Write `Editing(sample[2].set(0.0))`."
            )
        for part in edit.edits:
            if part.op == "get" or part.path is not None or part.part != "x":
                raise OperandError(
                    "A layer should be given an edit of one whole tensor. Received: "
                    f"`{part!r}`. Drop `.get()` or `.on(...)`."
                )
            part.selection.check_rows()
        self.edit = edit
        self.supports_masking = True
        self._shape: Shape = ()

    def build(self, input_shape: Shape) -> None:
        for edit in self.edit.edits:
            edit.selection.check_rows(len(input_shape))
        # A layer sees batches of any size, whatever the first one was.
        self._shape = (None, *input_shape[1:])
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape))

    def call(self, inputs: Tensor) -> Tensor:
        for edit in self.edit.edits:
            inputs = _lowering.apply(edit, inputs, self._shape)
        return inputs

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        for edit in self.edit.edits:
            dtype = keras.backend.standardize_dtype(inputs.dtype)
            _lowering.check(edit, tuple(inputs.shape), dtype)
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "edit": keras.saving.serialize_keras_object(self.edit)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Editing":
        edit = keras.saving.deserialize_keras_object(config["edit"])
        return cls(**{**config, "edit": edit})
