"""An edit of randomly chosen positions, with a separate key for each sample."""

from dataclasses import dataclass
from typing import Any, NoReturn

import keras
import numpy as np

from kedit._draws import Draw, check_narrows, check_whole, narrow
from kedit._edit import Edit, edit_from_json
from kedit._language.batch import edit_batch
from kedit._language.constants import as_array
from kedit._language.decoding import check_same, loading
from kedit._language.types import Shape
from kedit._plan.bind import BindOptions, bind
from kedit._run import tf_data
from kedit._run.dense import check_dense
from kedit.errors import OperandError, ShapeError

_DRAWN = ("count", "rate", "block", "axes", "probability")


class _NumPy:
    """NumPy's functions, as a draw calls them."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def argsort(self, x: Any) -> Any:
        return np.argsort(x, kind="stable")


@keras.saving.register_keras_serializable(package="kedit")
@dataclass(frozen=True, slots=True, weakref_slot=True)
class RandomEdit:
    """An edit that changes a random choice of its selected positions.

    The draw depends only on the key `(seed, epoch, index)`. It is the same in every
    process, order and batch, and on every backend. Forked workers share no state. Inside
    `tf.data` the index is a tensor without a value; the draw is the same there. A layer
    that draws during training is `kedit.layers.RandomEditing`.

    Args:
        edit: `kedit.Edit`. In `sample[...]`, each sample of a batch gets its own draw;
            in `at[...]`, the whole array gets one.
        count: Number of positions to choose. Give one of `count`, `rate` and `block`.
        rate: Probability of choosing each position, from 0 to 1.
        block: Size of a block of neighbors to choose along each of `axes`, such as
            `(8, 8)`. A pair `(low, high)` in place of a size draws it, both included.
        axes: Int or tuple: the axes of the selection along which to choose. `-1`
            chooses whole features. In `sample[...]`, axes are counted inside a sample.
            Defaults to None: all axes, or the first `len(block)` for a block.
        probability: Probability of editing at all, from 0 to 1. Defaults to 1.
        seed: Non-negative integer. Defaults to 0.

    Call arguments:
        x: NumPy array, list, tensor or batch, as for `kedit.Edit`.
        index: Number of the element in the dataset; in `sample[...]`, one for each
            sample in the batch. Numbers, an array or a tensor.
        epoch: Number of the epoch. Defaults to 0.

    Raises:
        kedit.errors.OperandError: If the arguments do not say what to choose, there is no
            index, or a compiler other than TensorFlow's hides its value.
        kedit.errors.ShapeError: If there are fewer positions than should be chosen,
            or the number of indices is not the number of samples.

    Gradient:
        The gradient of the edit that was drawn.

    References:
        - Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3": Philox,
          the NumPy generator used here.
        - Zhong et al., 2017, "Random Erasing Data Augmentation", arXiv:1708.04896.

    Example:
    >>> erase = kedit.inputs.RandomEdit(kedit.sample[...].set(0.0), block=(2, 2), seed=1)
    >>> x = erase(np.ones((2, 4, 4)), index=[10, 11])
    >>> x.sum(axis=(1, 2)).tolist()
    [12.0, 12.0]
    >>> bool((erase(np.ones((1, 4, 4)), index=[11]) == x[1]).all())
    True
    >>> boxes = kedit.inputs.RandomEdit(kedit.sample[...].set(0.0), block=((1, 3), (1, 3)))
    >>> boxes(np.ones((3, 4, 4)), index=[0, 1, 2]).sum(axis=(1, 2)).tolist()
    [15.0, 10.0, 15.0]
    """

    edit: Edit
    count: int | None = None
    rate: float | None = None
    block: tuple[int | tuple[int, int], ...] | None = None
    axes: int | tuple[int, ...] | None = None
    probability: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_narrows(self.edit, "RandomEdit(sample[...].set(0.0), count=1)")
        if self.edit.placeholders():
            raise OperandError(
                "A random edit of data should be given numbers, arrays or expressions. Received: "
                f"`{self.edit!r}`. What is learned belongs into a layer: "
                "`kedit.layers.RandomEditing(edit, rate=0.1)`."
            )
        check_whole("seed", self.seed)
        draw = self._draw
        for name in _DRAWN:  # JSON turned tuples into lists
            object.__setattr__(self, name, getattr(draw, name))

    @property
    def _draw(self) -> Draw:
        return Draw(*[getattr(self, name) for name in _DRAWN])

    def __call__(self, x: Any, index: Any = None, epoch: Any = 0) -> Any:
        if index is None:
            raise OperandError(
                "A random edit should be given the number of the sample, from which it draws. "
                "Received: no index. Write `erase(x, index)`; in `tf.data`, write "
                "`dataset.enumerate().map(lambda number, x: erase(x, number))`."
            )
        if tf_data.in_graph((index, epoch)):
            return tf_data.without_autograph(self._apply)(x, index, epoch)
        return self._apply(x, index, epoch)

    def _apply(self, x: Any, index: Any, epoch: Any) -> Any:
        def edit_leaf(leaf: Any) -> Any:
            leaf = as_array(leaf) if isinstance(leaf, (list, tuple)) else leaf
            check_dense(leaf)
            return self.draw(tf_data.sizes(leaf), index, epoch)(leaf)

        return edit_batch(edit_leaf, x, self.edit.path, self.edit.part)

    def draw(self, shape: Shape, index: Any, epoch: Any = 0) -> Edit:
        """Return the edit drawn for a key, for an array or a batch of shape `shape`."""
        shape = tuple(shape)
        if tf_data.in_graph((index, epoch, *shape)):
            return narrow(self.edit, self._drawn_in_graph(shape, index, epoch))
        return narrow(self.edit, self._masks(shape, _key(index), _key(epoch), self.edit.mode))

    def _drawn_in_graph(self, shape: Shape, index: Any, epoch: Any) -> Any:
        """The mask as a tensor of TensorFlow, whose key has no value before the graph runs."""
        known = tuple([size if isinstance(size, int) else None for size in shape])
        sizes = bind(self.edit.selection, known, BindOptions(self.edit.mode)).result
        mode = self.edit.mode or ("drop" if None in known else None)  # as the edit does it there
        given = [tf_data.integers(entry) for entry in (index, epoch)]
        for number, tensor in zip((index, epoch), given, strict=True):
            if tensor is None:
                _no_number(number)
        rank = given[0].shape.rank
        self._check_number(None if rank is None else tuple(given[0].shape), sizes, known)
        if self.edit.selection.coordinates == "at":
            self._draw.check(sizes)
            drawn = self._draw.shape(sizes)
        else:
            self._draw.check(sizes[1:])
            drawn = (sizes[0], *self._draw.shape(sizes[1:]))

        def masks(index: Any, epoch: Any, *shape: Any) -> Any:
            whole = tuple([int(size) for size in shape])
            return self._masks(whole, _key(index), _key(epoch), mode)

        return tf_data.drawn(masks, [*given, *map(tf_data.integers, shape)], drawn)

    def _masks(self, shape: Shape, keys: Any, epoch: Any, mode: Any) -> Any:
        """The positions drawn for a key: one mask, or in `sample[...]` one for each sample."""
        sizes: Any = bind(self.edit.selection, shape, BindOptions(mode)).result
        self._check_number(np.shape(keys), sizes, shape)
        if isinstance(epoch, list):
            _no_number(epoch)
        draw = self._draw
        if not isinstance(keys, list):
            draw.check(sizes)
            return self._mask(draw, sizes, keys, epoch)
        sizes = sizes[1:]
        draw.check(sizes)
        masks = [self._mask(draw, sizes, key, epoch) for key in keys]
        return np.stack(masks) if masks else np.zeros((0, *draw.shape(sizes)), bool)

    def _mask(self, draw: Draw, sizes: Shape, key: int, epoch: int) -> Any:
        # Use only `random`, whose numbers come straight from the bits of Philox.
        entropy = np.random.SeedSequence((self.seed, epoch, key))
        random = np.random.Generator(np.random.Philox(entropy)).random
        return np.asarray(draw.mask(sizes, random, _NumPy()))

    def _check_number(self, given: Shape | None, sizes: Shape, shape: Shape) -> None:
        """Raise if indices of shape `given`, or None, are not one for each sample or array."""
        of_samples = self.edit.selection.coordinates == "sample"
        wanted = sizes[:1] if of_samples else ()
        if given is None or (
            len(given) == len(wanted)
            and all([None in pair or len({*pair}) == 1 for pair in zip(given, wanted, strict=True)])
        ):
            return
        if of_samples:
            raise ShapeError(
                "A random edit in `sample[...]` should be given an index for each sample of the "
                f"batch. Received: an index of shape {given} for a batch of shape {shape}."
            )
        raise ShapeError(
            "A random edit in `at[...]` should be given one index, for the whole array. Received: "
            f"an index of shape {given}. To draw for each sample of a batch, write `sample[...]`."
        )

    def get_config(self) -> dict[str, Any]:
        """Return the random edit as JSON data."""
        edit = keras.saving.serialize_keras_object(self.edit)
        return {"edit": edit, **self._draw.get_config(), "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "RandomEdit":
        """Rebuild a random edit from `get_config()`. Runs no code."""
        with loading("A saved RandomEdit", config):
            made = cls(**{**config, "edit": edit_from_json(config["edit"])})
            check_same("A saved RandomEdit", made.get_config(), config, (*_DRAWN, "seed"))
            return made


def _key(value: Any) -> Any:
    """A number, or a list of numbers, of which a key is made."""
    try:
        array = np.asarray(value)
    except Exception as error:  # each framework raises its own kind
        raise OperandError(
            "The index of a random edit should have a value, unless it is a tensor of "
            f"TensorFlow, as inside `tf.data`. Received: a {type(value).__name__} without values. "
            "Draw before the function is compiled, or draw in a layer: "
            "`RandomEditing(sample[...].set(0.0), block=(8, 8))`."
        ) from error
    if not all([type(number) is int and number >= 0 for number in array.ravel().tolist()]):
        _no_number(value)
    return array.tolist()


def _no_number(value: Any) -> NoReturn:
    raise OperandError(
        "The index and the epoch of a random edit should be whole numbers, not negative. Received: "
        f"{value!r}. In `tf.data`, `dataset.enumerate()` gives the number of each element."
    )
