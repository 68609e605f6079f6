"""One edit in everything that carries data to a model: the same values, and nothing changed.

These tests need TensorFlow, JAX, PyTorch, Grain and Hugging Face's datasets at once. They are
marked `carriers`, and run in an environment of their own: `nox -s carriers`.
"""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from kedit import X, at, block, each, sample
from kedit.errors import DTypeError, OperandError, ShapeError
from kedit.inputs import EditedDataset, InputEditing, RandomEdit
from kedit.studies import ablate

pytestmark = [
    pytest.mark.carriers,
    # Processes are forked by PyTorch and Keras as their users have them; edits are safe there.
    pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


@cache
def carriers():
    """The module of carriers, which imports every framework."""
    import _carriers

    return _carriers


NAMES = [
    "NumPy",
    "lists",
    "a tensor",
    "a tensor of JAX",
    "a tensor of PyTorch",
    "a tensor of TensorFlow",
    "pickle",
    "JSON",
    "the layer",
    "the layer, of a tensor",
    "tf.data",
    "tf.data, batches of unknown size",
    "tf.data, with the layer",
    "Grain",
    "DataLoader, 0 workers",
    "DataLoader, 2 workers",
    "DataLoader, collate",
    "Hugging Face, map",
    "Hugging Face, with_transform",
    "PyDataset, 0 workers",
    "PyDataset, 2 processes",
]


def changed(change):
    """What `change` makes of a copy of a batch, where it may assign."""

    def apply(x):
        y = x.copy()
        with np.errstate(all="ignore"):
            result = change(y)
        return (y if result is None else result).astype(x.dtype)

    return apply


def assign(index, values):
    return changed(lambda y: y.__setitem__(index, values))


S = np.s_
MASK = np.arange(15).reshape(3, 5) % 4 == 0
F, U = "float32", "uint8"
# In these, edits meet NumPy's arrays in one process, whatever the backend.
OF_ARRAYS = (
    "NumPy",
    "lists",
    "pickle",
    "JSON",
    "Grain",
    "DataLoader, 0 workers",
    "DataLoader, collate",
    "Hugging Face, map",
    "Hugging Face, with_transform",
    "PyDataset, 0 workers",
)
# What edits meet there are lists, whose integers know no width at which to saturate or wrap.
OF_PYTHON_NUMBERS = ("lists", "Hugging Face, with_transform")
# id, edit, what NumPy makes of a batch of shape (4, 3, 5), dtype
EDITS = [
    ("set one", sample[0, 2].set(7), assign(S[:, 0, 2], 7), F),
    ("set a column", at[..., 1].set(7.0), assign(S[..., 1], 7), F),
    ("slice backwards", sample[::-1, 1:4].set([1, 2, 3]), assign(S[:, ::-1, 1:4], [1, 2, 3]), F),
    ("the last wins", sample[:, [1, 1]].set([7, 8]), assign(S[..., 1], 8), F),
    (
        "duplicates add up",
        sample[[0, 0, 2], [1, 1, -1]].add([1.0, 2.0, 3.0]),
        changed(lambda y: np.add.at(y, S[:, [0, 0, 2], [1, 1, 4]], [1, 2, 3])),
        F,
    ),
    ("duplicates multiply", sample[[1, 1]].multiply(3.0), changed(lambda y: np.multiply(
        y, np.array([1, 9, 1]).reshape(3, 1))), F),
    ("mask", sample[MASK].set(np.arange(4)), assign(S[:, MASK], np.arange(4)), F),
    ("divide", at[:, 1:].divide(8.0), changed(lambda y: y / [[1], [8], [8]]), F),
    ("condition", at.where(X.isnan() | (X > 5)).set(-1), changed(
        lambda y: np.where(np.isnan(y) | (y > 5), -1, y)), F),
    ("expression", sample[1].where(X > 0).set(X * X), changed(
        lambda y: np.where(np.array([[0], [1], [0]], bool) & (y > 0), y * y, y)), F),
    ("greatest of a sequence", sample[..., 0].max(4.0) | sample[..., 0].min(6.0), changed(
        lambda y: np.concatenate([np.clip(y[..., :1], 4, 6), y[..., 1:]], -1)), F),
    ("out of bounds", sample[:, [0, 9]].set(7.0, mode="drop"), assign(S[..., 0], 7), F),
    ("clipped block", sample[:, block(4, 2)].set(7.0, mode="clip"), assign(S[..., 3:], 7), F),
    ("each", sample[:, each([[2]])].set(7.0), assign(S[..., 2:3], 7), F),
    ("bytes", sample[0].set(255), assign(S[:, 0], 255), U),
    ("saturated", sample[0].set(300.7, casting="unsafe"), assign(S[:, 0], 255), U),
    ("bytes wrap around", sample[:2].multiply(7), changed(
        lambda y: np.concatenate([y[:, :2] * np.uint8(7), y[:, 2:]], 1)), U),
    ("condition on integers", at.where(X >= 250.5).power(2), changed(
        lambda y: np.where(y > 250, y * y, y)), U),
    ("numbers", at[..., -1].subtract(2**30), changed(
        lambda y: y - np.array([0, 0, 0, 0, 2**30], "int32")), "int32"),
]  # fmt: skip


def batches(dtype):
    x = np.random.default_rng(0).integers(0, 256, (3, 4, 3, 5)).astype(dtype)
    if dtype == F:
        x = x / 16 - 8
        x[0, 0, 0, 0] = np.nan
    return list(x.astype(dtype))


def check_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        array = carriers().to_array(one)
        np.testing.assert_array_equal(array, other)
        assert array.dtype == other.dtype


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.once] * (name in OF_ARRAYS)) for name in NAMES],
)
def test_edits_are_the_same_everywhere(name):
    """All edits at once, as processes take long to start."""
    assert list(carriers().CARRIERS) == NAMES
    rows = [row for row in EDITS if row[-1] == F] if name in OF_PYTHON_NUMBERS else EDITS
    for title, edit, expected, dtype in rows:
        given = batches(dtype)
        found = carriers().CARRIERS[name](edit, given)
        for one, other in zip(found, map(expected, batches(dtype)), strict=True):
            array = carriers().to_array(one)
            np.testing.assert_array_equal(array, other, err_msg=f"{title} in {name}")
            assert array.dtype == other.dtype, f"{title} in {name}"
        np.testing.assert_array_equal(given, batches(dtype))


@pytest.mark.once
def test_processes_of_grain():
    elements = [(n, x) for n, row in enumerate(EDITS) for x in batches(row[-1])]
    expected = [EDITS[n][2](x) for n, x in elements]
    edits = [row[1] for row in EDITS]
    check_same(carriers().in_grain_processes(edits, elements), expected)


def test_parts_of_a_batch_in_tf_data():
    tf = carriers().tf
    x, y = np.ones((6, 3), "float32"), np.zeros((6, 2), "int64")
    text = np.array(list("abcdef"))
    given = tf.data.Dataset.from_tensor_slices(({"a": x, "text": text}, y)).batch(4)
    edit = sample[0].set(9).on("a") | sample[1].set(2**40).on(part="y")
    sizes = []
    for found, labels in given.map(edit):
        assert found["a"].numpy().tolist() == [[9, 1, 1]] * len(labels)
        assert found["text"].dtype == tf.string
        assert labels.numpy().tolist() == [[0, 2**40]] * len(labels)
        sizes.append(len(labels))
    assert sizes == [4, 2]
    with pytest.raises(OperandError, match=r"arrays at \['a', 'text'\]"):
        given.map(sample[0].set(9).on("b"))


@pytest.mark.parametrize("workers", [0, 2])
def test_pairs_in_a_data_loader(workers):
    x, y = np.ones((4, 3), "float32"), np.arange(4)
    edit = sample[0].set(9.0) | at[...].multiply(2).on(part="y")
    for found, labels in carriers().pairs_in_data_loader(
        edit, list(zip(x, y, strict=True)), workers
    ):
        assert found.tolist() == [[9, 1, 1]] * 2
        assert (labels % 2 == 0).all()
        assert type(found) is type(labels) is carriers().torch.Tensor


def test_what_does_not_fit_raises_where_tf_data_is_built():
    given = carriers().tf.data.Dataset.from_tensor_slices(np.ones((6, 3), "uint8")).batch(4)
    for value in (300, 2.7, float("nan")):
        with pytest.raises(DTypeError, match="Received"):
            given.map(sample[0].set(value))
    with pytest.raises(IndexError, match="out of bounds"):
        given.map(sample[3].set(0))


def test_axes_of_unknown_size_in_tf_data():
    """Sequences of different lengths: what is not there is not edited."""
    tf = carriers().tf
    rows = [np.arange(size, dtype="float32") for size in (1, 3, 5)]
    given = tf.data.Dataset.from_generator(
        lambda: iter(rows), output_signature=tf.TensorSpec([None], tf.float32)
    )
    expected = [[9], [0, 1, 9], [0, 1, 9, 3, 9]]
    assert [row.numpy().tolist() for row in given.map(at[2::2].set(9.0))] != expected
    found = given.map(at[[2, -1]].set(9.0))
    assert [row.numpy().tolist() for row in found] == expected


def test_index_that_is_computed_in_tf_data():
    tf = carriers().tf
    x = np.zeros((3, 4), "float32")
    given = tf.data.Dataset.from_tensor_slices((x, np.array([1, 7, -1]), x[:, 0] + 5))
    found = given.map(lambda row, place, value: at(row)[place].set(value))
    assert np.argmax(list(found.as_numpy_iterator()), axis=1).tolist() == [1, 0, 3]
    assert np.sum(list(found.as_numpy_iterator())) == 10


def test_text_and_ids_pass_the_layer_in_tf_data():
    tf = carriers().tf
    ids = np.array([[70001, 16777217], [2**40, -1]])
    given = tf.data.Dataset.from_tensors({"id": ids, "text": np.array(["a", "b"])})
    layer = InputEditing(sample[1].add(1).on("id"), dtype="mixed_float16")
    (found,) = given.map(layer)
    assert found["id"].numpy().tolist() == [[70001, 16777218], [2**40, 0]]
    assert found["text"].numpy().tolist() == [b"a", b"b"]


def test_tensors_of_other_frameworks_that_numpy_cannot_read_raise():
    torch, jax, tf = carriers().torch, carriers().jax, carriers().tf
    for x in (
        torch.ones(2, dtype=torch.bfloat16),
        torch.ones(2, requires_grad=True),
        torch.eye(2).to_sparse(),
        tf.sparse.eye(2),
        tf.ragged.constant([[1.0], [2.0, 3.0]]),
    ):
        dense = "Sparse" not in repr(x) and "sparse" not in repr(x) and "Ragged" not in repr(x)
        if not (dense and carriers().ops.is_tensor(x)):
            with pytest.raises(OperandError, match="Received"):
                at[0].set(1.0)(x)
    if not carriers().ops.is_tensor(jax.numpy.ones(2)):
        with pytest.raises(OperandError, match="should be one that NumPy can read"):
            jax.jit(at[0].set(1.0))(jax.numpy.ones(2))


@pytest.mark.once
def test_fingerprint_is_the_same_in_every_process():
    edit = 'sample[..., [0, 2]].where(X > 1.5).set(np.arange(2.0)).on("x")'
    code = (
        "import numpy as np; from kedit import X, sample; "
        f"from datasets.fingerprint import Hasher; print(Hasher.hash({edit}))"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
        .stdout.split()[-1]
        for _ in range(2)
    }  # fmt: skip
    here = eval(edit, {"sample": sample, "X": X, "np": np})
    assert found == {carriers().datasets.fingerprint.Hasher.hash(here)}


# --- Random edits ------------------------------------------------------------------------------

ERASE = RandomEdit(sample[...].set(0.0), count=3, seed=5)


@pytest.mark.once
def test_random_edits_in_processes_of_grain_and_pytorch():
    """Two epochs of eight elements: every draw another, and the same as without processes."""
    x = [np.ones((2, 8, 8), "float32")] * 8
    expected = [ERASE(x[n], [2 * n, 2 * n + 1], epoch) for epoch in range(2) for n in range(8)]
    assert len({draw.tobytes() for draw in expected}) == 16
    check_same(carriers().random_in_grain(ERASE, x, epochs=2), expected)
    check_same(carriers().random_in_data_loader(ERASE, x, epochs=2), expected)


IMAGES = np.random.default_rng(1).random((8, 6, 5, 3)).astype("float32") + 1
BOXES = {"block": ((1, 3), 2), "seed": 4}
DRAWS = [BOXES, {"count": 7, "seed": 1}, {"rate": 0.3, "axes": (2, 0)}, {"count": 1, "axes": -1}]


def numbered(*arrays):
    tf = carriers().tf
    return tf.data.Dataset.from_tensor_slices(arrays if arrays[1:] else arrays[0]).enumerate()


@pytest.mark.parametrize("options", DRAWS, ids="-".join)
def test_random_edits_in_tf_data_are_those_of_numpy(options):
    """Single elements and batches of unknown size, in parallel, drawn twice, are the same."""
    of_one, of_batch = [RandomEdit(place[...].set(0.0), **options) for place in (at, sample)]
    expected = of_batch(IMAGES, range(8))
    assert len({image.tobytes() for image in expected}) > 1
    given = numbered(IMAGES)
    for _ in range(2):
        found = given.map(lambda n, x: of_one(x, n), num_parallel_calls=4)
        assert found.element_spec.shape == (6, 5, 3)
        np.testing.assert_array_equal(list(found.as_numpy_iterator()), expected)
        found = given.batch(3).map(lambda n, x: of_batch(x, n), num_parallel_calls=4)
        assert found.element_spec.shape.as_list() == [None, 6, 5, 3]
        np.testing.assert_array_equal(np.concatenate(list(found.as_numpy_iterator())), expected)


def test_random_edits_of_pairs_and_dicts_in_tf_data():
    tf = carriers().tf
    erase = RandomEdit(sample[...].set(0.0), **BOXES)
    given = numbered(IMAGES, np.arange(8)).batch(4).map(lambda n, pair: erase(pair, n))
    x, y = zip(*given.as_numpy_iterator(), strict=True)
    np.testing.assert_array_equal(np.concatenate(x), erase(IMAGES, range(8)))
    assert np.concatenate(y).tolist() == list(range(8))
    by_name = RandomEdit(sample[...].set(0.0).on("image"), **BOXES)
    rows = {"image": IMAGES, "text": np.array(list("abcdefgh"))}
    given = tf.data.Dataset.from_tensor_slices(rows).enumerate().batch(8)
    (found,) = given.map(lambda number, row: by_name(row, number))
    np.testing.assert_array_equal(found["image"], erase(IMAGES, range(8)))
    assert b"".join(found["text"].numpy()) == b"abcdefgh"


def test_epochs_and_seeds_are_tensors_in_tf_data():
    tf = carriers().tf
    erase = RandomEdit(sample[...].set(0.0), **BOXES)
    epoch = tf.Variable(0, dtype="int64", trainable=False)
    given = numbered(IMAGES).batch(8).map(lambda number, x: erase(x, number, epoch))
    for number in range(3):
        epoch.assign(number)
        (found,) = given.as_numpy_iterator()
        np.testing.assert_array_equal(found, erase(IMAGES, range(8), number))
    of_one = RandomEdit(at[...].set(0.0), **BOXES)
    for seeds in (tf.data.Dataset.random(seed=5).take(8), tf.data.Dataset.counter(3).take(8)):
        pairs = tf.data.Dataset.zip(seeds, tf.data.Dataset.from_tensor_slices(IMAGES))
        found = pairs.map(lambda seed, x: of_one(x, seed)).as_numpy_iterator()
        expected = [of_one(x, int(s)) for s, x in zip(seeds, IMAGES, strict=True)]
        np.testing.assert_array_equal(list(found), expected)


def test_random_edits_of_unknown_sizes_in_tf_data():
    """A slice is as long as it turns out to be; what is not there is not edited."""
    tf = carriers().tf
    rows = [np.ones((size, 3), "float32") for size in (4, 5, 7)]
    given = tf.data.Dataset.from_generator(
        lambda: iter(rows), output_signature=tf.TensorSpec([None, 3], tf.float32)
    ).enumerate()
    for edit in (at[...].set(0.0), at[1::2].set(0.0), at[[0, 3]].set(0.0)):
        drop = RandomEdit(edit, count=2, seed=2)
        found = given.map(lambda number, x, drop=drop: drop(x, number))
        assert found.element_spec.shape.as_list() == [None, 3]
        for number, array in enumerate(found.as_numpy_iterator()):
            np.testing.assert_array_equal(array, drop(rows[number], number))
    far = RandomEdit(at[[0, 6]].set(0.0), rate=1.0)
    found = given.map(lambda number, x: far(x, number)).as_numpy_iterator()
    assert [row.sum() for row in found] == [9, 12, 15]


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8", "int64", "uint64", "bool", "c16"])
def test_random_edits_of_every_dtype_in_tf_data(dtype):
    tf = carriers().tf
    x = (IMAGES * 3).astype(dtype)
    for edit in (at[..., 1:].set(False), at.where(x[0] != x[1]).set(False)):
        drop = RandomEdit(edit, rate=0.5, seed=2)
        given = tf.data.Dataset.from_tensor_slices(x).enumerate()
        found = list(given.map(lambda number, x, drop=drop: drop(x, number)).as_numpy_iterator())
        np.testing.assert_array_equal(found, [drop(x[n], n) for n in range(8)])
        assert found[0].dtype == x.dtype


def test_random_edits_in_functions_of_tensorflow():
    tf = carriers().tf
    boosted = RandomEdit(at.where(X > 1.5).multiply(3.0), **BOXES)
    x = tf.constant(IMAGES[3])
    expected = boosted(IMAGES[3], 3)
    assert (expected != IMAGES[3]).any()
    np.testing.assert_array_equal(boosted(x, tf.constant(3)), expected)
    traced = tf.function(boosted)
    np.testing.assert_array_equal(traced(x, tf.constant(3)), expected)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(traced(x, tf.constant(3)))
    np.testing.assert_array_equal(tape.gradient(y, x), np.where(expected != IMAGES[3], 3, 1))


def test_random_edits_that_do_not_fit_raise_where_tf_data_is_built():
    of_one, of_batch = [RandomEdit(place[...].set(0.0), **BOXES) for place in (at, sample)]
    given = numbered(IMAGES)
    for dataset, call, error, shown in (
        (given, lambda n, x: of_batch(x, n), ShapeError, "an index for each sample"),
        (given.batch(2), lambda n, x: of_one(x, n), ShapeError, "should be given one index"),
        (given, of_one, OperandError, "`dataset.enumerate()`"),
        (
            given,
            lambda n, x: RandomEdit(at[...].set(0.0), count=91)(x, n),
            ShapeError,
            "as there are, 90",
        ),
    ):
        with pytest.raises(error) as raised:
            dataset.map(call)
        assert shown in str(raised.value)
        assert "Received" in str(raised.value)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
def test_the_guide_of_random_edits_in_tf_data():
    """Its blocks run as they stand, and each pass of `fit` has its own number."""
    tf, keras = carriers().tf, carriers().keras
    page = (Path(__file__).parent.parent / "docs/guides/random.md").read_text()
    section = page.split("**`tf.data`**.")[1].split("## In a layer")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.S)
    assert len(blocks) == 3
    images, labels, seen = IMAGES[..., 0], np.arange(8), []
    of_batch = RandomEdit(sample[...].set(0.0), block=(2, 2), seed=1)

    def erase(pair, number, *epoch):
        if epoch:
            tf.py_function(lambda number: seen.append(int(number)), epoch, [])
        return of_batch(pair, number, *epoch)

    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    names = {"keras": keras, "images": images, "labels": labels, "model": model, "erase": erase}
    names["erase_one"] = RandomEdit(at[...].set(0.0), block=(2, 2), seed=1)
    expected = of_batch(images, range(8))
    for block_of_code in blocks[:2]:
        exec(block_of_code, names)
        ((x, y),) = names["dataset"].as_numpy_iterator()
        np.testing.assert_array_equal(x, expected[y])
        assert sorted(y) == list(range(8))
    exec(blocks[2], names)
    assert seen == sorted(seen)
    assert set(seen) == set(range(10))


@pytest.mark.once
def test_an_index_that_another_compiler_hides_raises():
    with pytest.raises(OperandError, match=r"without values.*`RandomEditing\("):
        carriers().jax.jit(lambda index: ERASE(np.ones((1, 4)), index))(np.array([3]))


def test_a_random_edit_without_an_index_shows_one_in_tf_data():
    dataset = carriers().tf.data.Dataset.from_tensor_slices(IMAGES)
    erase = RandomEdit(at[...].set(0.0), **BOXES)
    with pytest.raises(OperandError, match="no index") as raised:
        dataset.map(erase)
    code = str(raised.value).rstrip().removesuffix("`.").rsplit("`", 1)[1]
    found = eval(code, {"dataset": dataset, "erase": erase})
    expected = RandomEdit(sample[...].set(0.0), **BOXES)(IMAGES, range(8))
    np.testing.assert_array_equal(list(found.as_numpy_iterator()), expected)


def test_dataset_refuses_tensors():
    given = carriers().Batches([carriers().torch.ones(2, 3)])
    with pytest.raises(OperandError, match="should give NumPy arrays"):
        EditedDataset(given, sample[0].set(1.0))[0]


# --- Studies -----------------------------------------------------------------------------------


def test_ablation_agrees_with_captum():
    torch, keras = carriers().torch, carriers().keras
    x = np.random.default_rng(0).normal(size=(3, 6, 5)).astype("float32")
    model = keras.Sequential([keras.Input((6, 5)), keras.layers.Flatten(), keras.layers.Dense(4)])

    def forward(tensor):
        return torch.tensor(model.predict(tensor.cpu().numpy(), verbose=0))

    groups = np.arange(30).reshape(6, 5) // 4
    expected = (
        carriers()
        .captum.FeatureAblation(forward)
        .attribute(
            torch.tensor(x), baselines=0.5, target=2, feature_mask=torch.tensor(groups)[None]
        )
    )
    found = ablate(model, x, groups, 0.5, verbose=0).attributions(2)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    windows = [sample[i : i + 3, j : j + 2] for i in range(4) for j in (0, 1, 2, 3)]
    expected = (
        carriers()
        .captum.Occlusion(forward)
        .attribute(
            torch.tensor(x), sliding_window_shapes=(3, 2), strides=1, baselines=0.5, target=2
        )
    )
    found = ablate(model, x, windows, 0.5, verbose=0).attributions(2)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
