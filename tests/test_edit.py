"""`Edit` and `EditSequence` as values: equal, printable, picklable, saveable, and safe to load."""

import contextlib
import copy
import json
import operator
import pickle

import keras
import numpy as np
import pytest
from _backend import to_numpy
from keras import ops
from kit import check_roundtrip

from kedit import Edit, EditSequence, X, at, block, each, sample
from kedit.errors import EditError, OperandError, SavingError

NAN, INF = float("nan"), float("inf")


@keras.saving.register_keras_serializable(package="tests")
def half(x):
    return x / 2


S = np.s_
MATRIX = np.array([[True, False], [False, True]])
SHORT, LONG = np.array([1.1, 2.2], "float16"), np.array([0, 2**63], "uint64")
COMPLEX = np.array([complex(NAN, 1), complex(0, INF), -1j])
EMPTY = np.zeros((2, 0), "int16")

EDITS = [
    # indices
    *[at[i].set(1.0) for i in (0, (), ..., None, True, (0, -2), S[:, 2], S[..., None, 2])],
    *[at[i].set(1.0) for i in (S[1:, :-1, ::2], S[5:1:-1], S[np.int64(1) : np.int64(2)])],
    *[at[i].set(1.0) for i in ([0, -1, 0], ([[0], [1]], [2, 3]), [], np.ix_([0, 1], [2]))],
    *[at[i].set(1.0) for i in (S[np.zeros((0, 3), int), 1], S[[True, False], 1:], MATRIX)],
    *[at[i].set(1.0) for i in (np.array([1, 2], "uint8"), MATRIX[:0], S[np.int8(3), np.array(2)])],
    *[sample[i].set(1.0) for i in (2, S[..., [1, 2], None])],
    # operations
    at[0].get(),
    *[getattr(at[0], op)(-0.0) for op in ("add", "subtract", "multiply", "divide")],
    *[getattr(at[0], op)(-0.0) for op in ("power", "min", "max")],
    *[at[0].apply(function) for function in (abs(X) + 1, half)],
    at[0].set(1.5, casting="unsafe"),
    # operands
    *[at[0].set(v) for v in (1, True, 2**62, 0.1, 1e-30, -1.0, -0.0, NAN, INF, -INF)],
    *[at[0].set(v) for v in (1 + 2j, -1j, complex(-0.0, 1), complex(NAN, -INF), COMPLEX)],
    *[at[0].set(v) for v in ([1.0, NAN, -INF], [[1, 2], [3, 4]], [True, False], SHORT, LONG)],
    *[at[0].set(v) for v in (EMPTY, np.array(3.0), np.array([1.5, 2.5], ">f4"), MATRIX.T)],
    *[at[0].set(v) for v in (np.asfortranarray([[1.0, 2.0], [3.0, 4.0]]), np.float64(0.2))],
    # expressions
    at.where(X > 0).set(X),
    at[1:].where(X.isnan() | X.isinf()).set(0.0),
    at.where(~(X <= -1) & (abs(X - 1) != 2)).set(1 / X),
    at.where((1 - (2 - X)) - 3 > X).set(-(1 - (-X)) + 1),
    at.where(-(X**2) < (-X) ** 2).set(X ** (2**X)),
    at.where(2 / (X / 3) > (2 / X) / 3).set(0.0),
    at.where((-2.0) ** X > 1).set(0.0),
    at.where((1 + 2j) * X != -1j).set(0.0),
    at.where((X == 1) == (X != 2)).set(0.0),
    at.where((X > 1) | (X < 2) & (X > 3)).set(0.0),
    at.where(X < INF).set(0.0),
    at.where(SHORT < X).set(LONG * X),
    *[at.where(condition).set(0.0) for condition in (MATRIX, [[True], [False]], half)],
    sample[0].where(X > 0).add(X * [1.0, 2.0]),
    # options, and items that only a tensor needs
    at[np.array([2**64 - 1], "uint64")].set(1.0),
    at[5].set(1.0, mode="clip", unique_indices=True, indices_are_sorted=True),
    at[[True, False]].get(mode="fill", fill_value=NAN, size=2),
    sample[each([1, 0]), 0].add(1.0),
    at[..., block(-2, 3)].set([1.0, 2.0, 3.0]),
    # data
    *[at[..., 0].set(1.0).on(path) for path in ("a", "a/b'c\"/0")],
    *[at[..., 0].set(1.0).on(path, part="y") for path in (None, "a")],
    at[..., 0].set(1.0, casting="unsafe").on("a", part="sample_weight"),
    # sequences
    at[0].set(1.0) | at[1].set(2.0),
    at[0].set(1.0) | at[1].set(2.0).on("a") | sample.where(X > 0).set(3.0),
    (at[0].set(1.0) | at[1].set(2.0)).on("a", part="y"),
    EditSequence(at[0].set(1.0)),
    EditSequence(),
]
every_edit = pytest.mark.parametrize("edit", EDITS, ids=repr)


@pytest.mark.once
@every_edit
def test_repr_is_the_code_that_makes_it(edit):
    names = {"at": at, "sample": sample, "X": X, "np": np, "half": half}
    names |= {"each": each, "block": block}
    assert eval(repr(edit), {**names, "EditSequence": EditSequence}) == edit


@pytest.mark.once
@every_edit
def test_edit_comes_back_from_json_pickle_and_copy(edit):
    ways = [check_roundtrip(edit), pickle.loads(pickle.dumps(edit)), copy.deepcopy(edit)]
    for again in ways:
        assert again == edit
        assert hash(again) == hash(edit)
        assert repr(again) == repr(edit)


@pytest.mark.once
def test_edits_that_differ_in_anything_differ():
    assert len(set(EDITS)) == len(EDITS)
    for number, edit in enumerate(EDITS):
        assert [other == edit for other in EDITS].index(True) == number
        assert edit != repr(edit)


@pytest.mark.once
@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        (NAN, 0.0),
        (1.0, np.array(1.0)),
        (np.zeros(2, "float32"), np.zeros(2, "float64")),
        (np.zeros(2), np.zeros((1, 2))),
        (np.zeros(2), np.array([0.0, 1.0])),
        (X + 1, X + 1.0),
        (X + 1, 1 + X),
        (X, abs(X)),
    ],
    ids=repr,
)
def test_operands_compare_by_value_and_type(left, right):
    for make in (at[0].set, lambda operand: at.where(X > 0).add(operand)):
        assert make(left) != make(right)
        assert make(left) == make(copy.deepcopy(left))
        assert hash(make(right)) == hash(make(copy.deepcopy(right)))


@pytest.mark.once
def test_equal_however_it_was_written():
    assert at[[1, 2]].set(1.0) == at[np.array([1, 2], "int8")].set(np.float64(1.0))
    assert at[0:2].set([1.0]) == at[slice(0, 2)].set(np.array([1.0]))
    assert at[0].set(NAN) == at[0].set(-NAN)
    assert at[0].set(1.0) != sample[0].set(1.0)
    assert at[0].set(1.0) != EditSequence(at[0].set(1.0))


@pytest.mark.once
def test_edits_are_immutable():
    edit, both = at[0].where(X > 0).set(X + 1), at[0].set(1.0) | at[1].set(2.0)
    things = [edit, edit.selection, edit.selection.index, edit.operand, both]
    names = ["selection op operand casting path part", "index condition coordinates", "items"]
    changed = []
    for thing, fields in zip(things, [*names, "name args", "edits"], strict=True):
        for name in fields.split():
            for change in (lambda thing, name: setattr(thing, name, None), delattr):
                with contextlib.suppress(AttributeError):
                    change(copy.deepcopy(thing), name)
                    changed.append(f"{type(thing).__name__}.{name}")
    assert not changed


@pytest.mark.once
@pytest.mark.parametrize("size", [3, 5000])
def test_arrays_of_an_edit_cannot_be_written(size):
    edit = at[0].set(np.zeros(size))
    with contextlib.suppress(ValueError):
        edit.operand.array[0] = 1.0
    assert edit == at[0].set(np.zeros(size))


@pytest.mark.once
def test_edit_keeps_what_it_was_made_of():
    values, mask, rows, limits = np.zeros(2), np.array([True, True]), [0, 1], np.zeros(2)
    edits = [at[mask].set(values), at[rows].add(values), at.where(limits < X).set(limits + X)]
    keys = [pickle.dumps(edit) for edit in edits]
    values += 9.0
    mask[:] = False
    rows[0] = 1
    limits += 9.0
    assert [pickle.dumps(edit) for edit in edits] == keys


@pytest.mark.parametrize("size", [3, 5000])
def test_what_an_edit_gives_is_the_callers_own(size):
    ones = np.ones(size, "float32")
    for edit in (at[...].set(ones), at[:].set(X + ones), at[1:].add(ones[1:]), at[::-1].set(ones)):
        for x in (np.zeros(size, "float32"), ops.zeros(size)):
            first, expected = edit(x), to_numpy(edit(x)).tolist()
            first += 5.0  # in place, where the backend can
            assert to_numpy(edit(x)).tolist() == expected
            assert not to_numpy(x).any()


@pytest.mark.once
def test_sequences_are_flat_and_run_from_left_to_right():
    a, b, c = at[0].set(1.0), at[:].multiply(3.0), at[0].add(1.0)
    assert (a | b) | c == a | (b | c) == EditSequence(a, b, c) == EditSequence(a | b, c)
    assert (a | b | c).edits == (a, b, c)
    assert a.edits == (a,)
    assert a | b != b | a
    assert (a | b | c)(np.ones(2)).tolist() == [4, 3]
    assert (c | b | a)(np.ones(2)).tolist() == [1, 3]
    assert EditSequence()(np.ones(2)).tolist() == [1, 1]
    for wrong in (at[0].get(), at[0], 1.0, None, half):
        with pytest.raises(OperandError, match="Received"):
            a | wrong


# --- Saving ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "fix"),
    [
        (at[0].set(keras.Variable(1.0)), "convert_to_numpy"),
        (at[keras.KerasTensor((2,), "bool")].set(0.0), "convert_to_numpy"),
        (at.where(keras.KerasTensor((2,), "bool")).set(0.0), "convert_to_numpy"),
        (at.where(X > keras.Variable(1.0)).set(0.0), "convert_to_numpy"),
        (at[0].apply(lambda x: x), "register_keras_serializable"),
        (at.where(lambda x: x > 0).set(0.0), "register_keras_serializable"),
        (at[0].apply(ops.relu), "register_keras_serializable"),
        (at[0].apply(operator.neg), "register_keras_serializable"),
    ],
    ids=repr,
)
def test_saving_a_tensor_or_a_function_raises(edit, fix):
    for unsaveable in (edit, edit | at[0].set(1.0)):
        assert unsaveable == copy.copy(unsaveable)
        with pytest.raises(SavingError, match=fix):
            unsaveable.get_config()


def _config(edit, **changes):
    return {**edit.get_config(), **changes}


@pytest.mark.once
@pytest.mark.parametrize(
    "config",
    [
        _config(at[0].set(1.0), op="__call__"),
        _config(at[0].set(1.0), op="drop"),
        _config(at[0].set(1.0), casting="maybe"),
        _config(at[0].set(1.0), part="z"),
        _config(at[0].set(1.0), coordinates="nowhere"),
        _config(at[0].set(1.0), mode="maybe"),
        _config(at[0].set(1.0), unique_indices="no"),
        _config(at[0].set(1.0), size=2),
        _config(at[0].set(1.0), operand={"expression": "__import__", "args": ["os"]}),
        _config(at[0].set(1.0), operand={"expression": "sum", "args": [1]}),
        _config(at[0].set(1.0), operand={"function": "os.getcwd"}),
        _config(at[0].set(1.0), operand={"function": "builtins>eval"}),
        _config(at[0].set(1.0), condition={"expression": "eval", "args": ["1"]}),
        _config(at[0].set(1.0), condition={"function": "tests>unknown"}),
        _config(at[0].set(1.0), operand="text"),
    ],
    ids=repr,
)
def test_a_config_that_names_what_is_unknown_raises(config):
    with pytest.raises(EditError):
        Edit.from_config(config)
    with pytest.raises(EditError):
        EditSequence.from_config({"edits": [config]})


@pytest.mark.once
@pytest.mark.parametrize(
    "changes",
    [
        {"index": [{"function": "builtins>eval"}]},
        {"index": {"class_name": "Lambda", "config": {}}},
        {"operand": {"class_name": "Lambda", "config": {}}},
        {"operand": {"array": ["1"], "shape": [1], "dtype": "object"}},
        {"operand": {"array": [1.0], "shape": [2], "dtype": "float32"}},
        {"operand": {"expression": "add"}},
    ],
    ids=repr,
)
def test_a_config_that_makes_no_sense_raises(changes):
    with pytest.raises((EditError, KeyError, TypeError, ValueError)):
        Edit.from_config(_config(at[0].set(1.0), **changes))


@pytest.mark.once
def test_a_registered_function_saves_by_its_name():
    config = at[0].apply(half).get_config()
    assert config["operand"] == {"function": "tests>half"}
    assert Edit.from_config(json.loads(json.dumps(config)))(np.array([4.0])).tolist() == [2]
