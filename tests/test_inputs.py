"""Edits of batches, `edit.on(...)`, and `EditedDataset`: what is edited, and what is left alone."""

import pickle

import keras
import numpy as np
import pytest
from _backend import to_numpy
from keras import ops

from kedit import X, at, sample
from kedit.errors import CoordinateError, EditError, OperandError, PositionError
from kedit.inputs import EditedDataset

EDIT = sample[0].set(9.0)


def ones(*shape):
    return np.ones(shape or (2, 3), "float32")


def edited(x):
    x = np.array(x)
    x[:, 0] = 9
    return x


def check_same(found, expected):
    """The same containers, and arrays of the same numbers and dtype."""
    assert keras.tree.map_structure(lambda _: 0, found) == keras.tree.map_structure(
        lambda _: 0, expected
    )
    for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        if b is not None:
            np.testing.assert_array_equal(to_numpy(a), to_numpy(b))
        assert a is b is None or str(a.dtype) == str(b.dtype)


# edit, batch, path of the edited array in the batch
BATCHES = [
    (EDIT.on("a"), {"a": ones(), "b": ones()}, ("a",)),
    (EDIT.on("a/b"), {"a": {"b": ones(), "c": ones()}, "b": ones()}, ("a", "b")),
    (EDIT.on("a/b"), {"a/b": ones(), "a": ones()}, ("a/b",)),
    (EDIT.on("a/b/c"), {"a": {"b/c": ones(), "b": ones()}}, ("a", "b/c")),
    (EDIT.on("a/1/b"), {"a": [ones(), {"b": ones()}]}, ("a", 1, "b")),
    (EDIT.on("1"), [ones(), ones()], (1,)),
    (EDIT.on("1"), {0: ones(), 1: ones()}, (1,)),
    (EDIT.on("a"), ({"a": ones(), "b": ones()}, ones(2)), (0, "a")),
    (EDIT.on("1"), ([ones(), ones()], ones(2)), (0, 1)),
    (EDIT, (ones(),), (0,)),
    (EDIT, (ones(), ones()), (0,)),
    (EDIT, (ones(), None), (0,)),
    (EDIT, (ones(), {"u": ones(), "v": ones()}, ones(2)), (0,)),
    (EDIT.on(part="y"), (ones(), ones()), (1,)),
    (EDIT.on("u", part="y"), ({"a": ones()}, {"u": ones(), "v": ones()}, ones(2)), (1, "u")),
    (EDIT.on(part="sample_weight"), (ones(), ones(), ones()), (2,)),
]


@pytest.mark.parametrize(("edit", "batch", "where"), BATCHES, ids=lambda v: repr(v)[:40])
def test_one_array_of_a_batch_is_edited_and_nothing_else(edit, batch, where):
    structure = pickle.dumps(batch)
    result = edit(batch)
    assert pickle.dumps(batch) == structure
    before, after = [], []
    for container, leaves in ((batch, before), (result, after)):
        for key in where:
            assert isinstance(container, (dict, list, tuple))
            container = container[key]
        leaves.append(container)
    np.testing.assert_array_equal(after[0], edited(before[0]))
    assert isinstance(after[0], np.ndarray)
    others = [leaf for leaf in keras.tree.flatten(result) if leaf is not after[0]]
    kept = [leaf for leaf in keras.tree.flatten(batch) if leaf is not before[0]]
    assert len(others) == len(kept)
    assert all(a is b for a, b in zip(others, kept, strict=True))


def test_batch_may_come_as_separate_arguments():
    x, y, weight = ones(), ones(2, 1), ones(2)
    check_same(EDIT(x, y), (edited(x), y))
    check_same(EDIT(x, y, weight), (edited(x), y, weight))
    check_same(EDIT.on(part="y")(x, y), (x, edited(y)))
    check_same(EDIT.on("a")({"a": x}, y), ({"a": edited(x)}, y))
    both = EDIT | sample[0].add(1.0).on(part="y")
    check_same(both(x, y), (edited(x), y + 1))
    check_same(both((x, y, None)), (edited(x), y + 1, None))


def test_sequence_edits_several_arrays():
    batch = {"a": ones(), "b": [ones(), ones()]}
    both = EDIT.on("a") | EDIT.on("b/1") | sample[1].add(1.0).on("a")
    expected = edited(ones())
    expected[:, 1] = 2
    check_same(both(batch), {"a": expected, "b": [ones(), edited(ones())]})
    check_same((EDIT | EDIT).on("a")(batch), {"a": edited(ones()), "b": batch["b"]})


def test_tensors_and_symbols_in_a_batch():
    batch = {"a": ops.ones((2, 3)), "b": ones()}
    result = EDIT.on("a")(batch)
    assert ops.is_tensor(result["a"])
    np.testing.assert_array_equal(to_numpy(result["a"]), edited(ones()))
    assert to_numpy(batch["a"]).all()
    inputs = {"a": keras.Input((3,)), "b": keras.Input((3,))}
    assert EDIT.on("a")(inputs)["a"].shape == (None, 3)
    assert EDIT.on("a")(inputs)["b"] is inputs["b"]


def test_lists_of_numbers_are_arrays():
    np.testing.assert_array_equal(EDIT([[1.0, 2.0], [3.0, 4.0]]), [[9, 2], [9, 4]])
    np.testing.assert_array_equal(at[0].set(9)((1, 2)), [9, 2])


NESTED = {"a": {"b": ones(), "c": ones()}, "d": ones()}


@pytest.mark.parametrize(
    ("edit", "batch", "shown"),
    [
        (EDIT.on("a/x"), NESTED, ["a/b", "a/c", "d"]),
        (EDIT.on("a"), NESTED, ["a/b", "a/c", "d"]),
        (EDIT.on("d/0"), NESTED, ["a/b", "a/c", "d"]),
        (EDIT.on(""), NESTED, ["a/b", "a/c", "d"]),
        (EDIT, NESTED, [".on('a/b')"]),
        (EDIT, [ones(), ones()], [".on('0')"]),
        (EDIT, ([ones(), ones()], ones(2)), [".on('0')"]),
        (EDIT.on("2"), [ones(), ones()], ["'0', '1'"]),
        (EDIT.on(part="y"), ones(), ["(x, y)"]),
        (EDIT.on(part="y"), NESTED, ["(x, y)"]),
        (EDIT.on(part="sample_weight"), (ones(), ones()), ["sample_weight"]),
        (EDIT.on(part="y"), (ones(), None), ["None"]),
        (EDIT, (ones(),) * 4, ["tuple of 4"]),
        (EDIT, {}, ["Received: none"]),
        (EDIT.on("a"), {"a": None}, ["None"]),
        (EDIT.on("a"), {"a": "text"}, ["text"]),
        (EDIT.on("a"), ones(), ["'a'"]),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_what_does_not_match_raises_and_lists_what_is_there(edit, batch, shown):
    with pytest.raises(OperandError, match="Received") as raised:
        edit(batch)
    assert all(text in str(raised.value) for text in shown)
    with pytest.raises(OperandError, match="should be one of"):
        EDIT.on(part="z")


# --- EditedDataset -----------------------------------------------------------------------------


class Numbers(keras.utils.PyDataset):
    """Six samples in batches of four and two, with a count of what Keras tells it."""

    def __init__(self, make, **kwargs):
        super().__init__(**kwargs)
        self.x = np.arange(18, dtype="float32").reshape(6, 3)
        self.make = make
        self.begun = self.ended = 0

    def __len__(self):
        return 2

    def __getitem__(self, number):
        x = self.x[4 * number : 4 * number + 4]
        return self.make(x)

    def on_epoch_begin(self):
        self.begun += 1

    def on_epoch_end(self):
        self.ended += 1


def pair(x):
    return x, x[:, 0]


def test_dataset_gives_edited_batches_and_keeps_its_own():
    numbers = Numbers(pair, workers=2, max_queue_size=3)
    dataset = EditedDataset(numbers, EDIT | sample.where(X > 10.0).multiply(-1.0))
    assert (dataset.workers, dataset.max_queue_size) == (2, 3)
    assert dataset.use_multiprocessing is False
    assert dataset.num_batches == 2
    for number, rows in enumerate((slice(0, 4), slice(4, 6))):
        x = edited(numbers.x[rows])
        check_same(dataset[number], (np.where(x > 10, -x, x), numbers.x[rows, 0]))
    np.testing.assert_array_equal(numbers.x, np.arange(18).reshape(6, 3))
    dataset.on_epoch_begin()
    dataset.on_epoch_end()
    assert (numbers.begun, numbers.ended) == (1, 1)
    again = pickle.loads(pickle.dumps(dataset))  # as a worker gets it
    check_same(again[1], dataset[1])


def test_dataset_of_nested_parts():
    numbers = Numbers(lambda x: ({"a": x, "b": x}, x[:, :1], x[:, 0]))
    edit = (
        EDIT.on("b")
        | sample[0].add(1.0).on(part="y")
        | at.where(X > 3).set(3.0).on(part="sample_weight")
    )
    x = numbers.x[4:]
    expected = ({"a": x, "b": edited(x)}, x[:, :1] + 1, np.minimum(x[:, 0], 3))
    check_same(EditedDataset(numbers, edit)[1], expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_dataset_in_predict(workers):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(2.0)])
    numbers = Numbers(lambda x: (x,), workers=workers)
    found = model.predict(EditedDataset(numbers, EDIT), verbose=0)
    np.testing.assert_array_equal(found, 2 * edited(numbers.x))


@pytest.mark.gradient
def test_dataset_in_fit():
    """A model that only sees what the edit leaves: the target is in the column it overwrites."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.layers[0].set_weights([np.array([[1.0], [0.0], [0.0]])])
    numbers = Numbers(pair)
    history = model.fit(EditedDataset(numbers, EDIT), epochs=2, shuffle=False, verbose=0).history
    expected = np.mean((9 - numbers.x[:, 0]) ** 2)
    np.testing.assert_allclose(history["loss"], [expected] * 2, rtol=1e-5)
    assert min(numbers.begun, numbers.ended) >= 2  # more where Keras looks ahead


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (at[0, 2].set(1.0), CoordinateError),
        (EDIT | at[1:].set(1.0).on(part="y"), CoordinateError),
        (sample[0].get(), OperandError),
        (sample[0].set(keras.Variable(1.0)), OperandError),
        (sample[0], OperandError),
        (lambda x: x, OperandError),
    ],
)
def test_dataset_refuses(edit, error):
    with pytest.raises(error, match="Received"):
        EditedDataset(Numbers(pair), edit)


def test_dataset_refuses_what_shows_when_a_batch_comes():
    with pytest.raises(PositionError, match="out of bounds"):
        EditedDataset(Numbers(pair), sample[3].set(1.0))[0]
    for edit in (at[..., 0].set(1.0).on(part="y"), EDIT | at[..., 0].set(1.0).on(part="y")):
        with pytest.raises(CoordinateError, match="Received"):  # names a row of y
            EditedDataset(Numbers(pair), edit)[0]


def test_dataset_of_what_is_no_dataset_raises():
    for wrong in (np.ones((2, 3)), None, [ones()]):
        with pytest.raises(EditError, match="Received"):
            EditedDataset(wrong, EDIT)
