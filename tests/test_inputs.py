"""Edits of batches and `kedit.inputs`: what is edited, and what is left alone."""

import pickle

import keras
import numpy as np
import pytest
from _backend import tensors, to_numpy, vjp
from keras import ops
from kit import check_close, check_roundtrip, dtype_of, saved_and_loaded

from kedit import X, at, sample
from kedit.errors import (
    CoordinateError,
    DTypeError,
    EditError,
    OperandError,
    PositionError,
    ShapeError,
)
from kedit.inputs import EditedDataset, InputEditing, RandomEdit
from kedit.layers import RandomEditing

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


@pytest.mark.once
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


@pytest.mark.once
def test_batch_may_come_as_separate_arguments():
    x, y, weight = ones(), ones(2, 1), ones(2)
    check_same(EDIT(x, y), (edited(x), y))
    check_same(EDIT(x, y, weight), (edited(x), y, weight))
    check_same(EDIT.on(part="y")(x, y), (x, edited(y)))
    check_same(EDIT.on("a")({"a": x}, y), ({"a": edited(x)}, y))
    both = EDIT | sample[0].add(1.0).on(part="y")
    check_same(both(x, y), (edited(x), y + 1))
    check_same(both((x, y, None)), (edited(x), y + 1, None))


@pytest.mark.once
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


@pytest.mark.once
def test_lists_of_numbers_are_arrays():
    np.testing.assert_array_equal(EDIT([[1.0, 2.0], [3.0, 4.0]]), [[9, 2], [9, 4]])
    np.testing.assert_array_equal(at[0].set(9)((1, 2)), [9, 2])


NESTED = {"a": {"b": ones(), "c": ones()}, "d": ones()}


@pytest.mark.once
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


@pytest.mark.once
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


@pytest.mark.once
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


@pytest.mark.once
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


@pytest.mark.once
def test_dataset_refuses_what_shows_when_a_batch_comes():
    with pytest.raises(PositionError, match="out of bounds"):
        EditedDataset(Numbers(pair), sample[3].set(1.0))[0]
    for edit in (at[..., 0].set(1.0).on(part="y"), EDIT | at[..., 0].set(1.0).on(part="y")):
        with pytest.raises(CoordinateError, match="Received"):  # names a row of y
            EditedDataset(Numbers(pair), edit)[0]


@pytest.mark.once
def test_dataset_of_what_is_no_dataset_raises():
    for wrong in (np.ones((2, 3)), None, [ones()]):
        with pytest.raises(EditError, match="Received"):
            EditedDataset(wrong, EDIT)


class Tensors(Numbers):
    def __getitem__(self, number):
        return tensors([self.x])[0]


@pytest.mark.tensors
def test_dataset_refuses_tensors():
    with pytest.raises(OperandError, match="should give NumPy arrays"):
        EditedDataset(Tensors(None), EDIT)[0]


@pytest.mark.once
@pytest.mark.parametrize(
    "edit", [sample[0].apply(ops.abs), sample[...].where(lambda x: x > 1).set(0.0)]
)
def test_dataset_with_process_workers_refuses_functions(edit):
    assert EditedDataset(Numbers(pair, workers=2), edit)
    with pytest.raises(OperandError, match="without functions"):
        EditedDataset(Numbers(pair, workers=2, use_multiprocessing=True), EDIT | edit)


FORKS = pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning")


class Ones(keras.utils.PyDataset):
    """Eight batches of two samples."""

    def __len__(self):
        return 8

    def __getitem__(self, number):
        return (ones(2, 6, 6),)


def drawn(seed, **kwargs):
    """What two epochs of predictions are given by process workers."""
    erase = RandomEdit(sample[...].set(0.0), count=5, seed=seed)
    model = keras.Sequential([keras.Input((6, 6)), keras.layers.Identity()])
    dataset = EditedDataset(Ones(**kwargs), erase)
    epochs = [model.predict(dataset, verbose=0) for _ in range(2)]
    return np.concatenate(epochs).reshape(16, 2, 6, 6)


@FORKS
def test_random_edits_in_process_workers():
    """Sixteen draws over two workers and two epochs differ, and are the same every time."""
    found = drawn(3, workers=2, use_multiprocessing=True)
    assert (found.sum(axis=(2, 3)) == 31).all()
    assert len({batch.tobytes() for batch in found}) == 16
    np.testing.assert_array_equal(drawn(3, workers=2, use_multiprocessing=True), found)
    np.testing.assert_array_equal(drawn(3), found)
    assert (drawn(4) != found).any()


# --- RandomEdit --------------------------------------------------------------------------------


def erased(edit, shape, index, epoch=0):
    """Where a random edit has written its zeros."""
    return edit(ones(*shape), index, epoch) == 0


@pytest.mark.once
def test_random_edit_depends_on_its_key_alone():
    edit = RandomEdit(sample[...].set(0.0), rate=0.5, seed=1)
    together = erased(edit, (4, 5, 6), [7, 8, 9, 7])
    alone = [erased(edit, (1, 5, 6), [index])[0] for index in (7, 8, 9)]
    np.testing.assert_array_equal(together[:3], alone)
    np.testing.assert_array_equal(together[3], together[0])
    keys = [(seed, epoch, index) for seed in range(3) for epoch in range(3) for index in range(3)]
    draws = [
        erased(RandomEdit(at[...].set(0.0), rate=0.5, seed=s), (5, 6), i, e) for s, e, i in keys
    ]
    assert len({draw.tobytes() for draw in draws}) == len(keys)
    # As NumPy documents it: a change of the bits would break every user's repetition.
    entropy = np.random.SeedSequence((1, 2, 3))
    numbers = np.random.Generator(np.random.Philox(entropy)).random(31)[1:].reshape(5, 6)
    edit = RandomEdit(at[...].set(0.0), rate=0.5, seed=1)
    np.testing.assert_array_equal(erased(edit, (5, 6), 3, 2), numbers < 0.5)


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "shape", "whole"),
    [
        ({"count": 3}, (4, 5), None),
        ({"count": 0}, (4, 5), None),
        ({"count": 20}, (4, 5), None),
        ({"count": 2, "axes": -1}, (4, 5), 0),
        ({"count": 2, "axes": 0}, (4, 5), 1),
        ({"count": 3, "axes": (0, 2)}, (2, 3, 4), 1),
    ],
)
def test_random_edit_of_a_number_of_places(options, shape, whole):
    found = [erased(RandomEdit(at[...].set(0.0), **options), shape, n) for n in range(50)]
    size = 1 if whole is None else shape[whole]
    assert {int(draw.sum()) for draw in found} == {options["count"] * size}
    if whole is not None:
        assert all((draw.all(axis=whole) == draw.any(axis=whole)).all() for draw in found)
    if 0 < options["count"] < 20:  # every place has its turn
        assert np.any(found, axis=0).all()


@pytest.mark.once
@pytest.mark.parametrize(
    ("block", "axes", "shape"),
    [
        ((2, 3), None, (4, 5)),
        ((2, 3), None, (4, 5, 3)),
        ((3, 2), (2, 0), (4, 2, 5)),
        ((4,), 0, (4,)),
    ],
)
def test_random_edit_of_a_block(block, axes, shape):
    edit = RandomEdit(at[...].set(0.0), block=block, axes=axes)
    given = range(len(block)) if axes is None else np.ravel(axes)
    sizes = {int(axis): size for axis, size in zip(given, block, strict=True)}
    for n in range(50):
        draw, expected = erased(edit, shape, n), np.ones(shape, bool)
        for axis, size in enumerate(shape):
            here = np.flatnonzero(draw.any(axis=tuple(a for a in range(len(shape)) if a != axis)))
            assert len(here) == sizes.get(axis, size)
            assert here[-1] - here[0] == len(here) - 1
            expected &= np.isin(np.arange(size), here).reshape(
                [-1 if a == axis else 1 for a in range(len(shape))]
            )
        np.testing.assert_array_equal(draw, expected)
    assert np.any([erased(edit, shape, n) for n in range(100)], axis=0).all()


def box_of(draw):
    """The sizes of the one box that was drawn, along each axis."""
    sizes, expected = [], np.ones(draw.shape, bool)
    for axis in range(draw.ndim):
        here = draw.any(axis=tuple(other for other in range(draw.ndim) if other != axis))
        assert np.ptp(np.flatnonzero(here)) == here.sum() - 1
        sizes.append(int(here.sum()))
        expected &= here.reshape([-1 if other == axis else 1 for other in range(draw.ndim)])
    np.testing.assert_array_equal(draw, expected)
    return tuple(sizes)


@pytest.mark.once
def test_random_edit_of_blocks_of_drawn_sizes():
    edit = RandomEdit(sample[...].set(0.0), block=((1, 3), (2, 5)), seed=2)
    draws = erased(edit, (300, 4, 5), list(range(300)))
    sizes = [box_of(draw) for draw in draws]
    assert set(sizes) == {(i, j) for i in (1, 2, 3) for j in (2, 3, 4, 5)}
    shares = np.unique([size[0] for size in sizes], return_counts=True)[1] / 300
    assert ((shares > 0.23) & (shares < 0.43)).all()  # each about as often
    assert draws.any(axis=0).all()
    np.testing.assert_array_equal(erased(edit, (1, 4, 5), [7])[0], draws[7])
    one_axis = RandomEdit(at[...].set(0.0), block=((0, 2),), axes=1)
    found = [erased(one_axis, (3, 4), n) for n in range(50)]
    assert {int(draw.sum()) for draw in found} == {0, 3, 6}
    # Equal bounds give the size; the numbers that are drawn are those that NumPy gives.
    entropy = np.random.SeedSequence((2, 5, 9))
    _, *numbers = np.random.Generator(np.random.Philox(entropy)).random(5)
    height, width = 1 + int(3 * numbers[0]), 2 + int(4 * numbers[2])
    top, left = int(numbers[1] * (5 - height)), int(numbers[3] * (6 - width))
    expected = np.zeros((4, 5), bool)
    expected[top : top + height, left : left + width] = True
    np.testing.assert_array_equal(erased(edit, (1, 4, 5), [9], 5)[0], expected)
    assert box_of(erased(RandomEdit(at[...].set(0.0), block=((2, 2), 3)), (4, 5), 1)) == (2, 3)


@pytest.mark.once
def test_the_code_of_random_edits_makes_them():
    for edit in (
        RandomEdit(sample[...].set(0.0), block=((2, 8), 3), axes=(1, 0), probability=0.5, seed=1),
        RandomEdit(at[0].add(1.0), rate=0.25),
    ):
        names = {"RandomEdit": RandomEdit, "sample": sample, "at": at}
        assert eval(repr(edit), names) == edit
        assert check_roundtrip(edit) == edit
        assert hash(check_roundtrip(edit)) == hash(edit)


@pytest.mark.once
def test_random_edit_chooses_among_what_is_selected():
    x = np.arange(24, dtype="float32").reshape(2, 3, 4)
    for n in range(20):
        found = RandomEdit(sample[1:, [0, 2]].set(-1.0), count=1)(x, [n, n + 50])
        changed = found != x
        assert changed.sum(axis=(1, 2)).tolist() == [1, 1]
        assert not changed[:, 0].any()
        assert not changed[:, :, [1, 3]].any()
        for condition in (X > 20.0, x > 20):
            both = RandomEdit(sample.where(condition).add(1.0), rate=0.5)(x, [n, n]) != x
            assert not both[x <= 20].any()
    rare = RandomEdit(at[...].set(-1.0), rate=1.0, probability=0.25)
    share = np.mean([(rare(x, n) == -1).all() for n in range(400)])
    assert 0.18 < share < 0.32
    assert {int((rare(x, n) == -1).sum()) for n in range(20)} == {0, 24}


def test_random_edit_of_batches_and_tensors():
    edit = RandomEdit(sample[...].set(0.0).on("a"), count=2)
    batch = ({"a": ones(2, 5), "b": ones()}, ones(2))
    found = edit(batch, [1, 2])
    assert found[0]["a"].sum() == 6
    assert found[0]["b"] is batch[0]["b"]
    np.testing.assert_array_equal(
        to_numpy(edit({"a": ops.ones((2, 5))}, [1, 2])["a"]), found[0]["a"]
    )
    assert edit.draw((2, 5), [1, 2]).path is None
    assert pickle.loads(pickle.dumps(edit)) == edit
    for other in (edit, RandomEdit(at[...].set(1), block=(2, 3), axes=(1, 0), seed=9)):
        assert check_roundtrip(other) == other
        assert hash(check_roundtrip(other)) == hash(other)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: RandomEdit(EDIT), OperandError),
        (lambda: RandomEdit(EDIT, count=1, rate=0.5), OperandError),
        (lambda: RandomEdit(EDIT, count=-1), OperandError),
        (lambda: RandomEdit(EDIT, count=1.5), OperandError),
        (lambda: RandomEdit(EDIT, rate=1.5), OperandError),
        (lambda: RandomEdit(EDIT, block=(1.5,)), OperandError),
        (lambda: RandomEdit(EDIT, count=1, probability=-0.1), OperandError),
        (lambda: RandomEdit(EDIT, count=1, seed=-1), OperandError),
        (lambda: RandomEdit(EDIT | EDIT, count=1), OperandError),
        (lambda: RandomEdit(sample[0].get(), count=1), OperandError),
        (lambda: RandomEdit(sample[0].set(keras.Variable(1.0)), count=1), OperandError),
        (lambda: RandomEdit(sample.where(lambda x: x > 0).set(0.0), count=1), OperandError),
        (lambda: RandomEdit(EDIT, rate="0.5"), OperandError),
        (lambda: RandomEdit(EDIT, block=8), OperandError),
        (lambda: RandomEdit(EDIT, block=((3, 2),)), OperandError),
        (lambda: RandomEdit(EDIT, block=((1, 2, 3),)), OperandError),
        (lambda: RandomEdit(EDIT, block=((-1, 2),)), OperandError),
        (lambda: RandomEdit(EDIT, block=((1, 2.0),)), OperandError),
        (lambda: RandomEdit(EDIT, block=(1, 2), axes=0), OperandError),
        (lambda: RandomEdit(EDIT, count=1, axes="0"), OperandError),
        (lambda: RandomEdit(EDIT, count=1)(ones(), 3), ShapeError),
        (lambda: RandomEdit(EDIT, count=1)(ones(), [[3, 4]]), ShapeError),
        (lambda: RandomEdit(EDIT, count=1)(ones(), [3.0, 4.0]), OperandError),
        (lambda: RandomEdit(EDIT, count=1)(ones(), [3, -4]), OperandError),
        (lambda: RandomEdit(EDIT, count=1)(ones(), [3, 4], -1), OperandError),
        (lambda: RandomEdit(EDIT, count=1)(ones(), [3, 4], [1, 2]), OperandError),
        (lambda: RandomEdit(EDIT, count=1)(ones()), OperandError),
        (lambda: RandomEdit(at[...].set(0.0), count=1)(ones(), [3, 4]), ShapeError),
        (lambda: RandomEdit(sample[...].set(0.0), block=((1, 4),))(ones(), [0, 1]), ShapeError),
        (lambda: RandomEdit(at[...].set(0.0), block=(1, 1, 1))(ones(), 0), ShapeError),
        (lambda: RandomEdit(EDIT, count=1)(ones(), [3]), ShapeError),
        (lambda: RandomEdit(sample[...].set(0.0), count=4)(ones(), [0, 1]), ShapeError),
        (lambda: RandomEdit(sample[...].set(0.0), block=(4,))(ones(), [0, 1]), ShapeError),
        (lambda: RandomEdit(at[...].set(0.0), count=1, axes=(0, 0))(ones(), 0), ShapeError),
        (lambda: RandomEdit(at[...].set(0.0), count=1, axes=2)(ones(), 0), ShapeError),
        (lambda: RandomEdit(at[...].set(0.0), count=1)(ones(), keras.Input(())), OperandError),
        (lambda: EditedDataset(Ones(), RandomEdit(at[...].set(0.0), count=1)), CoordinateError),
    ],
)
def test_random_edit_refuses(make, error):
    with pytest.raises(error, match="Received"):
        make()


def test_random_edit_by_tensors_that_have_values():
    edit = RandomEdit(sample[...].set(0.0), rate=0.5, seed=3)
    index, epoch = ops.convert_to_tensor([4, 5]), ops.convert_to_tensor(2)
    np.testing.assert_array_equal(
        to_numpy(edit(ops.ones((2, 7)), index, epoch)), edit(ones(2, 7), [4, 5], 2)
    )


@pytest.mark.tensors
def test_random_edit_in_a_compiled_function_shows_the_layer():
    edit = RandomEdit(sample[...].set(0.0), rate=0.5)
    with pytest.raises(OperandError, match=r"`RandomEditing(.*)`") as raised:
        edit.draw((2, 9, 9), keras.Input((2,), dtype="int32"))
    code = str(raised.value).rsplit("`", 2)[1]
    layer = eval(code, {"RandomEditing": RandomEditing, "sample": sample})
    found = to_numpy(layer(ops.ones((2, 9, 9)), training=True))
    assert (found == 0).sum(axis=(1, 2)).tolist() == [64, 64]


# --- InputEditing ------------------------------------------------------------------------------

BOTH = EDIT | sample[1].multiply(2.0)


def both(x):
    x = edited(x)
    x[:, 1] *= 2
    return x


def test_layer_on_arrays_keeps_every_digit():
    x = np.array([[70001, 16777217], [2**40, -1]])
    layer = InputEditing(sample[1].add(1), dtype="mixed_float16")
    for given in (x, x.tolist()):
        found = layer(given)
        assert type(found) is np.ndarray
        assert found.tolist() == [[70001, 16777218], [2**40, 0]]
    assert x[0, 1] == 16777217
    text = np.array(["a", "b"])
    found = InputEditing(sample[1].add(1).on("id"))({"id": x, "text": text})
    assert found["text"] is text
    assert found["id"].dtype == x.dtype


@pytest.mark.tensors
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "uint8", "int32", "bool"])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "float64"])
def test_layer_on_tensors_casts_nothing(dtype, policy, run):
    layer = InputEditing(sample[0].set(True), dtype=policy)
    x = ops.cast(ops.convert_to_tensor(np.zeros((2, 3))), dtype)
    found = run(layer)(x)
    assert dtype_of(found) == dtype
    check_close(found, [[1, 0, 0]] * 2)
    check_close(x, np.zeros((2, 3)))
    outputs = layer(keras.Input((3,), dtype=dtype))
    assert dtype_of(outputs) == dtype
    assert outputs.shape == (None, 3)


def test_layer_in_a_model(tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    inputs = keras.Input((4,))
    outputs = keras.layers.Rescaling(2.0)(InputEditing(BOTH, name="entrance")(inputs))
    model = keras.Model(inputs, outputs)
    for one in (model, saved_and_loaded(model, tmp_path / "model.keras")):
        check_close(one.predict(x, verbose=0), 2 * both(x))
        assert check_roundtrip(one.get_layer("entrance")).edit == BOTH
    mask = ops.convert_to_tensor(np.arange(len(x)) > 0)
    assert InputEditing(BOTH).compute_mask(ops.convert_to_tensor(x), mask) is mask


def test_layer_on_several_inputs(tmp_path):
    x = {"a": ones(2, 3), "b": [ones(2, 3), ones(2, 4)]}
    edit = EDIT.on("a") | sample[-1].add(1.0).on("b/1")
    inputs = {"a": keras.Input((3,), name="a"), "b": [keras.Input((3,)), keras.Input((4,))]}
    model = keras.Model(inputs, InputEditing(edit)(inputs))
    expected = {"a": edited(x["a"]), "b": [x["b"][0], x["b"][1] + [0, 0, 0, 1]]}
    for one in (model, saved_and_loaded(model, tmp_path / "model.keras")):
        found = one.predict(x, verbose=0)
        assert keras.tree.map_structure(lambda _: 0, found) == keras.tree.map_structure(
            lambda _: 0, expected
        )
        for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
            check_close(a, b)
    pair = InputEditing(EDIT.on("1"))((ops.ones((2, 3)), ops.ones((2, 3))))
    check_close(pair[1], edited(ones()))


def test_layer_on_axes_of_unknown_size():
    inputs = keras.Input((None,))
    model = keras.Model(inputs, InputEditing(sample[[1, 3]].set(9.0))(inputs))
    for size, expected in ((2, [1, 9]), (4, [1, 9, 1, 9])):
        check_close(model.predict(ones(3, size), verbose=0), [expected] * 3)


@pytest.mark.gradient
@pytest.mark.parametrize("compile", [False, True])
def test_layer_passes_gradients(compile):
    layer, upstream = InputEditing(BOTH), np.arange(6.0, dtype="float32").reshape(2, 3)
    _, (found,) = vjp(layer, [ones()], upstream, compile=compile)
    check_close(found, upstream * [0, 2, 1])


@pytest.mark.parametrize(
    ("edit", "x", "error"),
    [
        (at[0, 2].set(1.0), None, CoordinateError),
        (at[..., 0].set(1.0), ones(2), CoordinateError),
        (EDIT.on(part="y"), None, OperandError),
        (sample[0].get(), None, OperandError),
        (sample[0].set(keras.Variable(1.0)), None, OperandError),
        (lambda x: x, None, OperandError),
        (sample[3].set(1.0), ones(), PositionError),
        (sample[0].set(2.5), np.ones((2, 3), int), DTypeError),
        (EDIT.on("b"), {"a": ones()}, OperandError),
        (sample.where(ones(2, 1) > 0).set(1.0), ones(2, 3), ShapeError),
    ],
)
def test_layer_refuses(edit, x, error):
    if x is None:
        with pytest.raises(error, match="Received"):
            InputEditing(edit)
        return
    for convert in (lambda leaf: leaf, ops.convert_to_tensor):
        with pytest.raises(error, match="Received"):
            InputEditing(edit)(keras.tree.map_structure(convert, x))
    with pytest.raises(error, match="Received"):
        InputEditing(edit)(
            keras.tree.map_structure(lambda a: keras.Input(a.shape[1:], dtype=str(a.dtype)), x)
        )


# --- Arrays that a backend would narrow --------------------------------------------------------


@pytest.mark.tensors
def test_integers_are_never_narrowed_to_others():
    """JAX has no integers of 64 bits: what does not fit raises, the rest is the same everywhere."""
    place = ops.convert_to_tensor(0)
    x = np.array([1, 2**40])
    small = at(np.array([1, 2]))[place].set(5)
    assert to_numpy(small).tolist() == [5, 2]
    if dtype_of(ops.convert_to_tensor(np.array([1]))) == "int64":
        assert to_numpy(at(x)[place].set(5)).tolist() == [5, 2**40]
    else:
        with pytest.raises(DTypeError, match="should fit it"):
            at(x)[place].set(5)
    assert at(x)[0].set(2**41).tolist() == [2**41, 2**40]
    with pytest.raises(DTypeError, match="should lie between"):
        at(ops.cast(place, "int32"))[...].set(2**40)
