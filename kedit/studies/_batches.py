"""Inputs of a model that come in batches: from a dataset, a loader or an iterator."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kedit._run import ops
from kedit.errors import OperandError


def are_batches(x: Any) -> bool:
    """Whether inputs come in batches, and are not arrays, or structures of these."""
    if isinstance(x, (list, tuple, dict)) or hasattr(x, "shape"):
        return False
    return isinstance(x, keras.utils.PyDataset) or hasattr(x, "__iter__")


def batches_in(x: Any) -> tuple[Iterator[Any], int | None]:
    """Return the inputs of each batch, as NumPy arrays, and how many there are, if known.

    As in `fit`, a batch may be a tuple of inputs and targets, which are left out.
    """
    if not isinstance(x, keras.utils.PyDataset):
        return map(_inputs, x), _length(x)
    if x.num_batches is None:
        raise OperandError(
            "A dataset should end. Received: a PyDataset with num_batches=None. Return the number "
            "of batches from its `num_batches`."
        )
    return (_inputs(x[number]) for number in range(x.num_batches)), x.num_batches


def _length(x: Any) -> int | None:
    try:
        return len(x)
    except TypeError:  # also of what has a length at other times, as a `tf.data.Dataset`
        return None


def _inputs(batch: Any) -> Any:
    inputs, *_ = keras.utils.unpack_x_y_sample_weight(batch)
    return keras.tree.map_structure(as_array, inputs)


def as_array(x: Any) -> Any:
    return ops.convert_to_numpy(x) if ops.is_tensor(x) else np.asarray(x)


def predicted(model: Any, batch: Any) -> Any:
    """Return predictions for a batch, as arrays whose dtypes NumPy has."""
    return keras.tree.map_structure(widened, predict_on_batch(model, batch))


def predict_on_batch(model: Any, batch: Any) -> Any:
    """Return `model.predict_on_batch(batch)`, with each row once.

    With several replicas of TensorFlow's `tf.distribute`, Keras 3.15.1 gives the whole batch to
    each of them, and concatenates what they return. Not reported.
    """
    found = model.predict_on_batch(batch)
    strategy = getattr(model, "distribute_strategy", None)
    replicas = getattr(strategy, "num_replicas_in_sync", 1)
    if replicas == 1:
        return found
    return keras.tree.map_structure(lambda y: y[: len(y) // replicas], found)


def widened(x: Any) -> Any:
    """Return an array of a dtype that NumPy has: bfloat16 becomes float32, which holds it."""
    array = np.asarray(x)
    return array.astype("float32") if array.dtype.kind == "V" else array


def joined(parts: list[Any]) -> Any:
    """Return batches one after the other, as one."""
    return keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *parts)
