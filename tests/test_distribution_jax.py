"""On eight devices of JAX: the numbers of one, and no communication that is not needed.

They need a process that sees eight devices: `nox -s "distribution(backend='jax')"`.
"""

import re

import distributed
import keras
import numpy as np
import pytest
from _backend import to_numpy
from distributed import check_same
from keras import ops

from kedit import X, at, block, each, position, sample

pytestmark = pytest.mark.distribution

COUNT = 8


def test_there_are_eight_devices():
    assert len(keras.distribution.list_devices()) == COUNT


# --- Models, as Keras distributes them -----------------------------------------------------------


def data_parallel():
    return keras.distribution.DataParallel()


def model_parallel():
    mesh = keras.distribution.DeviceMesh((4, 2), ("batch", "model"))
    layout = keras.distribution.LayoutMap(mesh)
    layout["hidden/kernel"], layout["hidden/bias"] = (None, "model"), ("model",)
    layout["out/kernel"] = ("model", None)
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")


DISTRIBUTIONS = {"data": data_parallel, "model": model_parallel}


@pytest.fixture(params=DISTRIBUTIONS)
def distribution(request):
    """A distribution to set when the numbers of one device are known."""
    yield DISTRIBUTIONS[request.param]()
    keras.distribution.set_distribution(None)


def devices_of(variable):
    return len(variable.value.sharding.device_set)


def on_one_and_all(distribution, find):
    """What is found on one device, and on all, where every variable must be on all."""
    one = find(distributed.compiled(distributed.made()))
    keras.distribution.set_distribution(distribution)
    model = distributed.compiled(distributed.made())
    assert {devices_of(weight) for weight in model.weights} == {COUNT}
    is_split = not model.get_layer("hidden").kernel.value.sharding.is_fully_replicated
    assert is_split == isinstance(distribution, keras.distribution.ModelParallel)
    return one, find(model)


@pytest.mark.parametrize("find", [distributed.learned, distributed.asked])
def test_a_model_learns_and_tells_what_it_does_on_one_device(find, distribution):
    one, found = on_one_and_all(distribution, find)
    check_same(found, one)


def test_the_recipe():
    expected = distributed.after_one_epoch()
    try:
        found = distributed.recipe(0, x=distributed.GIVEN["x"], y=distributed.WANTED)
    finally:
        keras.distribution.set_distribution(None)
    distributed.check_weights(found, expected)


# --- Tensors split over a mesh -------------------------------------------------------------------

SHAPE = (8, 8, 8)
MESH = {"data": 4, "model": 2}
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "reduce-scatter",
)
RNG = np.random.default_rng(0)
TENSOR, WEIGHTS = RNG.normal(size=(2, *SHAPE)).astype("float32")
PLACE = np.array([3, -2, 0, 5, 7, -7, 4, 2], "int32")
ROWS = RNG.normal(size=(8, 8)).astype("float32")
COLUMNS = RNG.normal(size=(8, 8, 3)).astype("float32")
SLABS = RNG.normal(size=(3, 8, 8)).astype("float32")
REPEATED = [1, 1, 4]
THIRDS = np.arange(8) % 3 == 0


def put(array, *names):
    """An array split over a mesh of 4 by 2 devices, one name of the mesh or None for each axis."""
    import jax

    types = (jax.sharding.AxisType.Auto,) * len(MESH)
    mesh = jax.make_mesh(tuple(MESH.values()), tuple(MESH), axis_types=types)
    spec = jax.sharding.PartitionSpec(*names)
    return jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))


def collectives(fn, *given):
    """How many of each kind there are in the compiled program."""
    import jax

    text = jax.jit(fn).lower(*given).compile().as_text()
    found = {name: len(re.findall(rf" {name}(?:-start)?\(", text)) for name in COLLECTIVES}
    return {name: count for name, count in found.items() if count}


def squared(fn):
    """A scalar whose gradient depends on every element of the result."""
    return lambda *given: ops.sum(ops.square(fn(*given)) * WEIGHTS)


def arange():
    return ops.arange(8)


# An edit, and what a user of JAX would write; of a tensor, a position and values for each row.
ALONG_AXES = {
    "int": (lambda x, i, v: at(x)[..., 2].set(0.0), lambda x, i, v: x.at[..., 2].set(0.0)),
    "slice": (lambda x, i, v: at(x)[..., 2:5].add(1.5), lambda x, i, v: x.at[..., 2:5].add(1.5)),
    "step": (
        lambda x, i, v: at(x)[..., ::-2].multiply(2.0),
        lambda x, i, v: x.at[..., ::-2].multiply(2.0),
    ),
    "list": (
        lambda x, i, v: at(x)[..., [0, 3]].set([1.0, 2.0]),
        lambda x, i, v: x.at[..., np.array([0, 3])].set(np.array([1.0, 2.0])),
    ),
    "points": (
        lambda x, i, v: at(x)[:, [0, 3], [1, 2]].set([1.0, 2.0]),
        lambda x, i, v: x.at[:, np.array([0, 3]), np.array([1, 2])].set(np.array([1.0, 2.0])),
    ),
    "mask": (
        lambda x, i, v: at(x)[..., THIRDS].set(0.0),
        lambda x, i, v: ops.where(THIRDS, 0.0, x),
    ),
    "expression": (
        lambda x, i, v: at(x)[..., 2].set(X * X),
        lambda x, i, v: x.at[..., 2].set(x[..., 2] ** 2),
    ),
    "position": (
        lambda x, i, v: at(x).where(position(2) >= 3).set(0.0),
        lambda x, i, v: ops.where(arange() >= 3, 0.0, x),
    ),
    "condition": (
        lambda x, i, v: at(x).where(X > 0.0).multiply(2.0),
        lambda x, i, v: ops.where(x > 0, x * 2, x),
    ),
    "one of each row": (
        lambda x, i, v: sample(x)[..., each(i)].set(v),
        lambda x, i, v: ops.where((i[:, None] % 8 == arange())[:, None], v[..., None], x),
    ),
    "one of each row, added": (
        lambda x, i, v: sample(x)[each(i)].add(v),
        lambda x, i, v: x.at[arange(), i].add(v),
    ),
    "length of each row": (
        lambda x, i, v: sample(x).where(position(0) >= each(i)).set(0.0),
        lambda x, i, v: ops.where((arange() >= i[:, None])[..., None], 0.0, x),
    ),
    "mask of rows": (
        lambda x, i, v: at(x)[i > 0].set(0.0),
        lambda x, i, v: ops.where((i > 0)[:, None, None], 0.0, x),
    ),
}
ALONG_WHOLE_AXES = {
    "values": (
        lambda x, i, v: at(x)[..., 2:5].set(COLUMNS),
        lambda x, i, v: x.at[..., 2:5].set(COLUMNS),
    ),
    "repeated, added": (
        lambda x, i, v: at(x)[..., REPEATED].add(COLUMNS),
        lambda x, i, v: x.at[..., np.array(REPEATED)].add(COLUMNS),
    ),
    "repeated, the greatest": (
        lambda x, i, v: at(x)[..., REPEATED].max(COLUMNS),
        lambda x, i, v: x.at[..., np.array(REPEATED)].max(COLUMNS),
    ),
    "block": (
        lambda x, i, v: at(x)[..., block(2 + 0 * i[0], 3)].set(1.0),
        lambda x, i, v: x.at[..., 2 + 0 * i[0] + np.arange(3)].set(1.0),
    ),
    "tensor": (
        lambda x, i, v: at(x)[..., ops.abs(i)].multiply(2.0),
        lambda x, i, v: x.at[..., ops.abs(i)].multiply(2.0, unique_indices=True),
    ),
}
SPLITS = {
    "rows": ("data", None, None),
    "rows and columns": ("data", "model", None),
    "last": (None, None, "model"),
    "rows and last": ("data", None, "model"),
}
CASES = [(edit, split) for split in SPLITS for edit in ALONG_AXES]
CASES += [(edit, split) for split in ("rows", "rows and columns") for edit in ALONG_WHOLE_AXES]


@pytest.mark.parametrize(("edit", "split"), CASES)
def test_an_edit_of_a_split_tensor_communicates_no_more_than_by_hand(edit, split):
    """The same values, gradients and split of the result; and as many collectives, or fewer."""
    import jax

    names = SPLITS[split]
    both = {**ALONG_AXES, **ALONG_WHOLE_AXES}[edit]
    rows = names[0] if edit in ALONG_AXES else None  # an index is as long as its axis
    given = [put(TENSOR, *names), put(PLACE, rows), put(ROWS, rows)]
    results, used = [], []
    for fn in both:
        slope = jax.grad(squared(fn), argnums=(0, 2))
        results.append([jax.jit(fn)(*given), *jax.jit(slope)(*given)])
        used.append([collectives(fn, *given), collectives(slope, *given)])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(to_numpy(found), to_numpy(expected), rtol=1e-5, atol=1e-5)
    assert results[0][0].sharding.is_equivalent_to(given[0].sharding, len(SHAPE))
    assert results[0][1].sharding.is_equivalent_to(given[0].sharding, len(SHAPE))
    for found, native in zip(*used, strict=True):
        assert sum(found.values()) <= sum(native.values()), (found, native)
    if split == "rows":  # along whole axes, and within rows: nothing at all
        assert used[0] == [{}, {}]


def test_shard_map_edits_each_part_by_itself():
    """Positions are those of the part, as everywhere inside of `shard_map`."""
    import jax

    x, place = put(TENSOR, "data"), put(PLACE, "data")

    def of_part(x, place):
        assert x.shape == (2, 8, 8)
        x = at(x)[0].multiply(2.0)
        return sample(x)[each(place), 1].add(X * X)

    names = jax.sharding.PartitionSpec("data")
    mapped = jax.shard_map(of_part, mesh=x.sharding.mesh, in_specs=names, out_specs=names)
    slope = jax.grad(lambda x: ops.sum(mapped(x, place) * WEIGHTS))
    expected, factor = TENSOR.copy(), np.ones(SHAPE)
    expected[::2] *= 2
    chosen = np.arange(8), PLACE, 1
    factor[chosen] += 2 * expected[chosen]
    factor[::2] *= 2
    expected[chosen] += expected[chosen] ** 2
    np.testing.assert_allclose(jax.jit(mapped)(x, place), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(slope)(x), WEIGHTS * factor, rtol=1e-5, atol=1e-6)
    assert collectives(mapped, x, place) == collectives(slope, x) == {}


def test_xla_adds_what_is_split_unevenly_wrongly_also_without_kedit():
    """If not, the entry in `docs/limits.md` can go."""
    import jax

    place, values = np.array([3, 6, 0, 5, 7, 1, 4, 2]), np.arange(1.0, 9.0, dtype="float32")
    expected = np.zeros(8, "float32")
    expected[place[:6]] = values[:6]

    def added(place, values):
        return ops.zeros(8).at[place[:6]].add(values[:6])

    np.testing.assert_array_equal(added(place, values), expected)
    wrong = jax.jit(added)(put(place, "data"), put(values, "data"))
    assert (to_numpy(wrong) != expected).any()
    whole = jax.jit(added)(put(place), put(values))
    np.testing.assert_array_equal(whole, expected)
