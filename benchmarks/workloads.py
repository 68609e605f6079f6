"""What is timed: edits as kedit spells them, in `keras.ops`, and as each backend would by hand.

Every spelling is a function of the workload's tensors, the one to edit first. Where a backend has
several, the fastest counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from kedit import X, at, block, each, sample

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
Call = Callable[..., Any]


@dataclass
class Workload:
    """One edit.

    Attributes:
        name: Its name in the table.
        arrays: The tensor to edit, and further ones.
        kedit: The edit in kedit.
        by_keras: The same in `keras.ops`, as far as it has it.
        native: The same in the running backend.
        skips: Modes in which kedit refuses it.
    """

    name: str
    arrays: Sequence[Any]
    kedit: Call
    by_keras: Sequence[Call]
    native: Sequence[Call]
    skips: Sequence[str] = ()


def floats(*shape: int) -> Any:
    return RNG.normal(size=shape).astype("float32")


SCATTERED = RNG.choice(4096 * 1024, 1000, replace=False)
SCATTERED_ROWS, SCATTERED_COLUMNS = np.divmod(SCATTERED, 1024)
ROW_LIST, COLUMN_LIST = SCATTERED_ROWS.tolist(), SCATTERED_COLUMNS.tolist()
SPOTS = np.stack([SCATTERED_ROWS, SCATTERED_COLUMNS], 1)
DISTINCT = RNG.permutation(20000)[:4096].astype("int32")
REPEATED = RNG.integers(0, 2000, 4096).astype("int32")
OWN = RNG.integers(0, 1024, 4096).astype("int32")
ROWS = np.arange(4096)
SOME = np.zeros(20000, bool)
SOME[DISTINCT] = True
START = np.array(3000, "int32")


def chain(set_columns: Callable[[Any, int], Any]) -> Call:
    """Ten edits one after the other, of a column each."""

    def ten(x: Any) -> Any:
        for column in range(0, 1000, 100):
            x = set_columns(x, column)
        return x

    return ten


def natives() -> dict[str, list[Call]]:
    """The workloads by hand, in the running backend."""
    if BACKEND == "jax":
        return _jax()
    if BACKEND == "tensorflow":
        return _tensorflow()
    return _torch()


def _jax() -> dict[str, list[Call]]:
    import jax
    import jax.numpy as jnp

    rows = jnp.arange(4096)
    channel, column = jnp.arange(64) == 3, jnp.arange(1024)
    inner = (jnp.arange(56) >= 10) & (jnp.arange(56) < 30)
    return {
        "element": [lambda x: x.at[0, 2].set(9.0)],
        "channel": [
            lambda x: x.at[..., 3].set(0.0),
            lambda x: jnp.where(channel, 0.0, x),
        ],
        "columns": [
            lambda x: x.at[:, ::2].multiply(2.0),
            lambda x: jnp.where(column % 2 == 0, x * 2, x),
        ],
        "condition": [lambda x: jnp.where(x > 1, x * 2, x)],
        "block": [
            lambda x: x.at[:, 10:30, 10:30].set(0.0),
            lambda x: jnp.where((inner[:, None] & inner)[..., None], 0.0, x),
        ],
        "otherwise": [lambda x: jnp.where(x > 1, 0.0, x * 2)],
        "start": [lambda x, i, v: jax.lax.dynamic_update_slice(x, v, (i, 0))],
        "some": [
            lambda x, m, v: jnp.where(m[:, None], v[jnp.cumsum(m) - 1], x),
            lambda x, m, v: x.at[jnp.nonzero(m, size=4096)[0]].set(v, unique_indices=True),
        ],
        "scattered": [lambda x, v: x.at[SCATTERED_ROWS, SCATTERED_COLUMNS].set(v)],
        "own": [
            lambda x, i, v: x.at[rows, i].set(v),
            lambda x, i, v: jnp.where(column == i[:, None], v[:, None], x),
        ],
        "unique": [lambda x, i, v: x.at[i].set(v, unique_indices=True)],
        "set": [lambda x, i, v: x.at[i].set(v)],
        "add": [lambda x, i, v: x.at[i].add(v)],
        "max": [lambda x, i, v: x.at[i].max(v)],
        "multiply": [lambda x, i, v: x.at[i].multiply(v)],
        "chain": [chain(lambda x, column: x.at[:, column].set(0.0))],
    }


def _tensorflow() -> dict[str, list[Call]]:
    import tensorflow as tf

    channel, column, row = tf.range(64) == 3, tf.range(1024), tf.range(4096)
    inner = (tf.range(56) >= 10) & (tf.range(56) < 30)
    spots = tf.constant(SPOTS)

    def product(x: Any, i: Any, v: Any) -> Any:
        return x * tf.math.unsorted_segment_prod(v, i, 20000)

    return {
        "element": [lambda x: tf.tensor_scatter_nd_update(x, [[0, 2]], [9.0])],
        "channel": [
            lambda x: tf.where(channel, 0.0, x),
            lambda x: tf.concat([x[..., :3], tf.zeros_like(x[..., :1]), x[..., 4:]], -1),
        ],
        "columns": [
            lambda x: tf.where(column % 2 == 0, x * 2, x),
            lambda x: x * tf.where(column % 2 == 0, 2.0, 1.0),
        ],
        "condition": [lambda x: tf.where(x > 1, x * 2, x)],
        "block": [lambda x: tf.where((inner[:, None] & inner)[..., None], 0.0, x)],
        "otherwise": [lambda x: tf.where(x > 1, 0.0, x * 2)],
        "start": [lambda x, i, v: tf.tensor_scatter_nd_update(x, (i + row)[:, None], v)],
        "some": [
            lambda x, m, v: tf.tensor_scatter_nd_update(x, tf.where(m), v),
            lambda x, m, v: tf.where(
                m[:, None], tf.gather(v, tf.maximum(tf.cumsum(tf.cast(m, "int32")) - 1, 0)), x
            ),
        ],
        "scattered": [lambda x, v: tf.tensor_scatter_nd_update(x, spots, v)],
        "own": [
            lambda x, i, v: tf.tensor_scatter_nd_update(x, tf.stack([row, i], 1), v),
            lambda x, i, v: tf.where(column == i[:, None], v[:, None], x),
        ],
        "unique": [lambda x, i, v: tf.tensor_scatter_nd_update(x, i[:, None], v)],
        "set": [lambda x, i, v: tf.tensor_scatter_nd_update(x, i[:, None], v)],
        "add": [lambda x, i, v: tf.tensor_scatter_nd_add(x, i[:, None], v)],
        "max": [lambda x, i, v: tf.tensor_scatter_nd_max(x, i[:, None], v)],
        "multiply": [product],
        "chain": [
            chain(lambda x, at_: tf.where(column == at_, 0.0, x)),
        ],
    }


def _torch() -> dict[str, list[Call]]:
    import torch

    device = ops.ones(1).device
    channel, column, place, rows = [torch.arange(n, device=device) for n in (64, 1024, 56, 4096)]
    channel, inner = channel == 3, (place >= 10) & (place < 30)
    scattered = [torch.tensor(n, device=device) for n in (SCATTERED_ROWS, SCATTERED_COLUMNS)]

    def written(*index: Any) -> Call:
        def write(x: Any, *v: Any) -> Any:
            y = x.clone()
            y[index] = v[0] if v else 0.0
            return y

        return write

    def columns(x: Any) -> Any:
        y = x.clone()
        y[:, ::2] *= 2
        return y

    def column_written(x: Any, at_: int) -> Any:
        y = x.clone()
        y[:, at_] = 0.0
        return y

    def own(x: Any, i: Any, v: Any) -> Any:
        return x.index_put((rows, i), v)

    def reduce(how: str) -> Call:
        def call(x: Any, i: Any, v: Any) -> Any:
            return x.scatter_reduce(0, i.long()[:, None].expand(-1, 64), v, how)

        return call

    return {
        "element": [lambda x: written(0, 2)(x, 9.0)],
        "channel": [written(..., 3), lambda x: torch.where(channel, 0.0, x)],
        "columns": [columns, lambda x: torch.where(column % 2 == 0, x * 2, x)],
        "condition": [lambda x: torch.where(x > 1, x * 2, x)],
        "block": [
            written(slice(None), slice(10, 30), slice(10, 30)),
            lambda x: torch.where((inner[:, None] & inner)[..., None], 0.0, x),
        ],
        "otherwise": [lambda x: torch.where(x > 1, 0.0, x * 2)],
        "start": [lambda x, i, v: x.index_copy(0, i + rows, v)],
        "some": [
            lambda x, m, v: x.masked_scatter(m[:, None], v),
            lambda x, m, v: torch.where(m[:, None], v[(m.cumsum(0) - 1).clip(0)], x),
        ],
        "scattered": [lambda x, v: x.index_put(scattered, v)],
        "own": [own, lambda x, i, v: torch.where(column == i[:, None], v[:, None], x)],
        "unique": [
            lambda x, i, v: x.index_copy(0, i.long(), v),
            lambda x, i, v: x.index_put((i,), v),
        ],
        "set": [lambda x, i, v: x.index_copy(0, i.long(), v), lambda x, i, v: x.index_put((i,), v)],
        "add": [
            lambda x, i, v: x.index_add(0, i, v),
            lambda x, i, v: x.index_put((i,), v, accumulate=True),
        ],
        "max": [
            reduce("amax"),
            lambda x, i, v: x.index_reduce(0, i.long(), v, "amax"),
        ],
        "multiply": [reduce("prod"), lambda x, i, v: x.index_reduce(0, i.long(), v, "prod")],
        "chain": [chain(column_written), chain(lambda x, n: torch.where(column == n, 0.0, x))],
    }


def workloads() -> list[Workload]:
    """The workloads, in the order of the table."""
    images, table, rows = floats(64, 56, 56, 64), floats(4096, 1024), floats(20000, 64)
    values = floats(4096, 64)
    native = natives()
    column, place, spots = ops.arange(1024), ops.arange(56), ops.convert_to_tensor(SPOTS)
    inner = (place >= 10) & (place < 30)
    # On TensorFlow, Keras's has no gradient.
    sliced = [lambda x, i, v: ops.slice_update(x, [i, 0], v)] if BACKEND != "tensorflow" else []
    by_column = [lambda x, i, v: ops.where(column == i[:, None], v[:, None], x)]

    def scatter(reduction: str | None) -> Call:
        return lambda x, i, v: ops.scatter_update(x, i[:, None], v, reduction)

    reductions = {"set": None, "add": "add"}
    if BACKEND == "jax":  # elsewhere `keras.ops` loops over the rows, for a minute
        reductions |= {"max": "max", "multiply": "mul"}

    def with_duplicates(op: str) -> Workload:
        return Workload(
            f"4,096 rows, with duplicates: {op}",
            [rows, REPEATED, values],
            lambda x, i, v: getattr(at(x)[i], op)(v),
            [scatter(reductions[op])] if op in reductions else [],
            native[op],
        )

    return [
        Workload(
            "one element of (32, 5)",
            [floats(32, 5)],
            lambda x: at(x)[0, 2].set(9.0),
            [lambda x: ops.scatter_update(x, [[0, 2]], [9.0])],
            native["element"],
        ),
        Workload(
            "a channel of (64, 56, 56, 64)",
            [images],
            lambda x: at(x)[..., 3].set(0.0),
            [lambda x: ops.where(ops.arange(64) == 3, 0.0, x)],
            native["channel"],
        ),
        Workload(
            "every other column of (4096, 1024), doubled",
            [table],
            lambda x: at(x)[:, ::2].multiply(2.0),
            [lambda x: ops.where(column % 2 == 0, x * 2, x)],
            native["columns"],
        ),
        Workload(
            "elements > 1 of (4096, 1024), doubled",
            [table],
            lambda x: at(x).where(X > 1.0).multiply(2.0),
            [lambda x: ops.where(x > 1, x * 2, x)],
            native["condition"],
        ),
        Workload(
            "a block of (64, 56, 56, 64)",
            [images],
            lambda x: at(x)[:, 10:30, 10:30].set(0.0),
            [lambda x: ops.where((inner[:, None] & inner)[..., None], 0.0, x)],
            native["block"],
        ),
        Workload(
            "elements > 1 of (4096, 1024) set to 0, others doubled",
            [table],
            lambda x: at(x).where(X > 1.0).set(0.0, otherwise=X * 2.0),
            [lambda x: ops.where(x > 1, 0.0, x * 2)],
            native["otherwise"],
        ),
        Workload(
            "1,000 scattered elements of (4096, 1024)",
            [table, floats(1000)],
            lambda x, v: at(x)[ROW_LIST, COLUMN_LIST].set(v),
            [lambda x, v: ops.scatter_update(x, spots, v)],
            native["scattered"],
        ),
        Workload(
            "one element in each row of (4096, 1024)",
            [table, OWN, floats(4096)],
            lambda x, i, v: sample(x)[each(i)].set(v),
            by_column,
            native["own"],
        ),
        Workload(
            "the same, by an array beside a tensor",
            [table, OWN, floats(4096)],
            lambda x, i, v: at(x)[ROWS, i].set(v),
            by_column,
            native["own"],
            ["compile"],  # which would hide what the array holds
        ),
        Workload(
            "4,096 rows of (20000, 64) from a start on",
            [rows, START, values],
            lambda x, i, v: at(x)[block(i, 4096)].set(v),
            sliced,
            native["start"],
        ),
        Workload(
            "rows of (20000, 64) by a mask, a value for each True",
            [rows, SOME, values],
            lambda x, m, v: at(x)[m].set(v),
            [],
            native["some"],
        ),
        Workload(
            "4,096 rows of (20000, 64), all different",
            [rows, DISTINCT, values],
            lambda x, i, v: at(x)[i].set(v, unique_indices=True),
            [scatter(None)],
            native["unique"],
        ),
        *[with_duplicates(op) for op in ("set", "add", "max", "multiply")],
        Workload(
            "ten columns of (4096, 1024), one after the other",
            [table],
            chain(lambda x, n: at(x)[:, n].set(0.0)),
            [chain(lambda x, n: ops.where(column == n, 0.0, x))],
            native["chain"],
        ),
    ]


def models() -> dict[str, Any]:
    """A small model with an edit inside: by kedit, by hand, and without the edit."""

    class ByHand(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return ops.where(ops.arange(256) < 8, 0.0, inputs)

    def model(edited: Call) -> Any:
        inputs = keras.Input((64,))
        hidden = keras.layers.Dense(256, "relu")(inputs)
        built = keras.Model(inputs, keras.layers.Dense(10)(edited(hidden)))
        built.compile("adam", "mse")
        return built

    return {
        "kedit": model(lambda hidden: at(hidden)[:, :8].set(0.0)),
        "native": model(ByHand()),
        "copy": model(lambda hidden: hidden),
    }
