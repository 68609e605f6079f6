"""A preprocessing layer that applies an edit: in a model, in front of one, or in a pipeline."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np

from kedit import _run
from kedit._edit import Edit, EditSequence, edit_from_json
from kedit._language.batch import edit_batch
from kedit._language.constants import as_array
from kedit._language.decoding import loading
from kedit._language.types import Shape
from kedit._run import ops
from kedit.errors import OperandError
from kedit.inputs._checks import check_edit


@keras.saving.register_keras_serializable(package="kedit")
class InputEditing(keras.layers.Layer):
    """Applies an edit to the inputs of a model.

    A preprocessing layer. Put it first in a model, or call it on batches in a
    pipeline. There, NumPy arrays stay NumPy arrays, and it also works inside `tf.data`
    while Keras runs on another backend. Nothing is cast, so ids keep all their digits.
    Inputs that the edit does not name, such as text in a dict, pass through untouched.

    Axis 0 is the batch, and its rows are arbitrary. So the edit must count axes inside
    one sample, like `sample[2]`, or leave axis 0 alone, like `at[..., 2]`.

    Args:
        edit: `kedit.Edit` or `kedit.EditSequence`. With several inputs, choose one
            with `edit.on(path)`.
        **kwargs: Base layer keyword arguments, such as `name`.

    Call arguments:
        inputs: Array or tensor of shape `(batch_size, *sample_shape)`, or nested
            dicts and lists of these.

    Input shape:
        `(batch_size, *sample_shape)`. Axes may have unknown size; on such an axis,
        positions that turn out not to exist are not edited.

    Output shape:
        Same shapes and dtypes as the input.

    Raises:
        kedit.errors.CoordinateError: If the edit names rows of the batch.
        kedit.errors.OperandError: If the edit holds a tensor, or edits targets.
        kedit.errors.EditError: If the edit does not fit the input.

    Gradient:
        The gradient of the edit; the layer has no weights.

    Example:
    >>> layer = kedit.inputs.InputEditing(kedit.sample[0].set(0).on("id"))
    >>> y = layer({"id": np.array([[7, 2**40]]), "text": np.array(["a"])})
    >>> y["id"].tolist(), y["text"].tolist()
    ([[0, 1099511627776]], ['a'])
    """

    def __init__(self, edit: Edit | EditSequence, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        check_edit("A preprocessing layer", edit)
        for part in edit.edits:
            if part.part != "x":
                raise OperandError(
                    "A preprocessing layer should be given an edit of inputs. Received: "
                    f"`{part!r}`. Edit targets in the pipeline: `dataset.map(edit)`."
                )
        self.edit = edit
        self.supports_masking = True
        self._shapes: dict[int, Shape] = {}
        self.built = True  # it has no weights

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if any([self._is_keras(leaf) for leaf in keras.tree.flatten(inputs)]):
            return super().__call__(inputs, *args, **kwargs)
        # Keras would convert the others to tensors of its backend, which might change them.
        return self._edited(inputs, lambda _, edit, x: _run.apply_to_rows(edit, _array(x)))

    def _is_keras(self, x: Any) -> bool:
        """Whether Keras can take `x` as it is; on the NumPy backend, also arrays in a model."""
        if isinstance(x, np.ndarray):
            return bool(self._shapes) and ops.is_tensor(x)
        return ops.is_tensor(x) or isinstance(x, (keras.KerasTensor, keras.Variable))

    def call(self, inputs: Any) -> Any:
        def edit_leaf(number: int, edit: Edit, x: Any) -> Any:
            shape = self._shapes.get(number, (None, *tuple(x.shape)[1:]))
            edit.check_rows(len(shape))
            return _run.apply(edit, x, shape)

        return self._edited(inputs, edit_leaf)

    def compute_output_spec(self, inputs: Any) -> Any:
        def check_leaf(number: int, edit: Edit, x: Any) -> Any:
            edit.check_rows(len(x.shape))
            _run.check(edit, tuple(x.shape), keras.backend.standardize_dtype(x.dtype))
            # An axis that the model was built without a size for stays unknown, even where the
            # backend knows its size.
            self._shapes.setdefault(number, (None, *tuple(x.shape)[1:]))
            return x

        specs = self._edited(inputs, check_leaf)
        return keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape, dtype=x.dtype), specs)

    def _edited(self, inputs: Any, edit_leaf: Callable[[int, Edit, Any], Any]) -> Any:
        for number, edit in enumerate(self.edit.edits):
            # In a tuple, so that a tuple of inputs is not mistaken for `(x, y)`.
            (inputs,) = edit_batch(partial(edit_leaf, number, edit), (inputs,), edit.path, "x")
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "edit": keras.saving.serialize_keras_object(self.edit)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "InputEditing":
        with loading("A saved InputEditing", config):
            return cls(**{**config, "edit": edit_from_json(config["edit"])})


def _array(x: Any) -> Any:
    return as_array(x) if isinstance(x, (list, tuple)) else x
