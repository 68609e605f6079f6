"""A layer that edits randomly chosen positions of each sample."""

from dataclasses import replace
from typing import Any

import keras

from kedit import _run
from kedit._draws import Draw, check_narrows, check_whole, narrow
from kedit._edit import Edit, choice_of, edit_from_json
from kedit._language.constants import is_array
from kedit._language.decoding import check_same, loading
from kedit._language.operations import OPERATIONS
from kedit._language.selection import Selection
from kedit._language.types import Shape, Tensor, When
from kedit._plan.bind import BindOptions, bind
from kedit._run import ops
from kedit.errors import CoordinateError, OperandError
from kedit.layers import _gradient
from kedit.layers._editing import Editing
from kedit.layers._words import name_of

_FIX = "RandomEditing(sample[...].set(0.0), block=(8, 8))"


@keras.saving.register_keras_serializable(package="kedit")
class RandomEditing(Editing):
    """Applies an edit at randomly chosen positions of each sample, during training.

    Each sample gets its own draw, and each call draws again. For example,
    `RandomEditing(sample[...].set(0.0), block=((2, 8), (2, 8)))` is random erasing, and
    `RandomEditing(sample[...].set(0.0), count=1, axes=-1)` drops one feature.

    With the same `seed`, the layer draws the same positions on the same backend. As in all
    Keras layers, other backends draw other positions, and a loaded layer starts again from
    its `seed`. `kedit.inputs.RandomEdit` draws the same on every backend, from data.

    Args:
        edit: `kedit.Edit` in `sample[...]`. Its values are fixed; only the positions are
            drawn. For several edits, use several layers.
        count: Number of positions to choose. Give one of `count`, `rate` and `block`.
        rate: Probability of choosing each position, from 0 to 1.
        block: Size of a block of neighbors to choose along each of `axes`, such as
            `(8, 8)`. A pair `(low, high)` in place of a size draws it, both included.
        axes: Int or tuple: the axes of the selection along which to choose, counted
            inside a sample. `-1` chooses whole features. Defaults to None: all axes,
            or the first `len(block)` for a block.
        probability: Probability of editing a sample at all. Defaults to 1.
        seed: Non-negative integer. Defaults to None: a random seed, which
            `keras.utils.set_random_seed` determines.
        when: "training", "inference" or "always". Defaults to "training".
        **kwargs: Keyword arguments of `kedit.layers.Editing`, such as `gradient` and
            `switch`, and base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of shape `(batch_size, *sample_shape)`.
        training: Whether the model is being trained; Keras passes it.

    Input shape:
        `(batch_size, *sample_shape)`. Axes may have unknown size; on such an axis, a
        block that is longer takes all of it, and so does a larger `count`.

    Output shape:
        Same shape and dtype as the input.

    Raises:
        kedit.errors.CoordinateError: If the edit counts axes with `at[...]`.
        kedit.errors.OperandError: If the arguments do not say what to choose.
        kedit.errors.ShapeError: When the layer is built, if there are fewer positions
            than should be chosen.

    Gradient:
        The gradient of the edit that was drawn; see `kedit.layers.Editing`. Where
        nothing was drawn, the input receives the upstream gradient.

    References:
        Z. Zhong et al., *Random Erasing Data Augmentation*, 2017, arXiv:1708.04896;
        T. DeVries and G. W. Taylor, *Improved Regularization of Convolutional Neural
        Networks with Cutout*, 2017, arXiv:1708.04552.

    Example:
    >>> erase = kedit.layers.RandomEditing(kedit.sample[...].set(0.0), block=(2, 2), seed=0)
    >>> y = erase(ops.ones((3, 4, 4)), training=True)
    >>> ops.convert_to_numpy(ops.sum(y, axis=(1, 2))).tolist()
    [12.0, 12.0, 12.0]
    >>> ops.convert_to_numpy(ops.sum(erase(ops.ones((3, 4, 4))), axis=(1, 2))).tolist()
    [16.0, 16.0, 16.0]
    """

    def __init__(
        self,
        edit: Edit,
        *,
        count: int | None = None,
        rate: float | None = None,
        block: Any = None,
        axes: int | tuple[int, ...] | None = None,
        probability: float = 1.0,
        seed: int | None = None,
        when: When = "training",
        **kwargs: Any,
    ) -> None:
        check_narrows(edit, _FIX)
        edit.check_rows()
        if edit.selection.coordinates == "at":
            raise CoordinateError(
                "A random edit in a layer should be counted inside one sample, which has a draw of "
                f"its own. Received: `{edit!r}`. Write `sample[...]` for `at[...]`, without axis 0."
            )
        self._draw = Draw(count, rate, block, axes, probability)
        if seed is not None:
            check_whole("seed", seed)
        name = kwargs.pop("name", None) or f"random_{name_of(edit)}"
        super().__init__(edit, when=when, name=name, **kwargs)
        if self.gradient == "sigmoid" and choice_of(edit) is not None:
            raise OperandError(
                "A random edit with a surrogate gradient should leave other elements alone. "
                f"Received: `{edit!r}`. Drop `otherwise=`."
            )
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        (edit,) = self.edit.edits
        layout = bind(edit.selection, self._shape, BindOptions(edit.mode, edit.unique_indices))
        self._draw.check(layout.result[1:])
        if layout.has_duplicates and not OPERATIONS[edit.op].combines:
            raise OperandError(
                "A random edit should not have an index that names an element twice. Received: "
                f"`{edit!r}`. Drop the repeated positions."
            )

    def _stand_in(self) -> Edit:
        """The edit, with numbers in place of its `Trainable`s."""
        (_, trainables), *_ = self._plain
        (edit,) = self._filled([1] * len(trainables))
        return edit

    def _edited(self, x: Tensor) -> Tensor:
        (edit,) = self._filled(self._learned)
        mask, shape = self._mask(x), self._shape
        if is_array(mask):  # on Keras's NumPy backend, where it looks like a constant
            shape = tuple(x.shape)
            if None in self._shape[1:] and edit.mode is None:
                edit = replace(edit, mode="drop")
        edit = narrow(edit, mask)
        return _gradient.apply(edit, x, shape, self.gradient, self.temperature)

    def _mask(self, x: Tensor) -> Tensor:
        """The positions drawn for a batch."""
        edit = self._stand_in()
        sizes: Any = bind(edit.selection, self._shape, BindOptions(edit.mode)).result[1:]
        if None in sizes:
            place = Selection("sample", edit.selection.index)
            read = replace(edit, op="get", operand=None, casting="same_kind", selection=place)
            sizes = tuple(ops.shape(_run.apply(read, x, self._shape)))[1:]
        batch_size = ops.shape(x)[0]

        def uniform(shape: Any) -> Tensor:
            shape = (batch_size, *shape)
            return keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)

        return self._draw.mask(sizes, uniform, ops)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._draw.get_config(), "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "RandomEditing":
        with loading("A saved RandomEditing", config):
            made = cls(**{**config, "edit": edit_from_json(config["edit"])})
            names = (*made._draw.get_config(), "seed", "when", "gradient", "temperature", "switch")
            check_same("A saved RandomEditing", made.get_config(), config, names)
            return made
