"""What a file of edits may hold: what kedit writes, and nothing else."""

import copy
import json
import os
import random
import sys
import tracemalloc
import zipfile

import keras
import numpy as np
import pytest
from configs import BAD, GOOD, SLOT, X_, nested
from keras import ops

import kedit
from kedit import Edit, EditSequence, Trainable, X, at, block, sample
from kedit.callbacks import PruningSchedule
from kedit.errors import EditError, OperandError, PositionError, SavingError, ShapeError
from kedit.interventions import OtherRun, edit_model, load_edits, save_edits, site
from kedit.layers import ConditionalModifier, Editing, IndexGuide, RandomEditing
from kedit.losses import IndexPenalty, MaskedLoss
from kedit.metrics import IndexViolation
from kedit.weights import WeightEditing, freeze_elements, prune


def refuses(load):
    """Whether it raises a SavingError, clear and in little memory."""
    tracemalloc.start()
    with pytest.raises(SavingError, match="Received") as caught:
        load()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    assert len(str(caught.value)) < 1500


@pytest.mark.once
@pytest.mark.parametrize("config", BAD.values(), ids=BAD)
def test_a_config_that_kedit_does_not_write(config):
    refuses(lambda: Edit.from_config(copy_of(config)))
    refuses(lambda: EditSequence.from_config({"edits": [copy_of(config)]}))


def copy_of(data):
    try:
        return copy.deepcopy(data)
    except RecursionError:
        return data


def mutated(rng, data):
    """The data with one thing changed."""
    data = copy.deepcopy(data)
    places, left = [], [data]
    while left:
        holder = left.pop()
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        places += [(holder, key) for key in keys]
        left += [holder[k] for k in keys if isinstance(holder[k], (dict, list))]
    holder, key = rng.choice(places)
    other, other_key = rng.choice(places)
    wild = [None, True, 0, -1, 1.5, 2**70, 10**400, "", "...", "X", [], {}, [0], SLOT, X_, 1e308]
    change = rng.randrange(5)
    if change == 0:
        del holder[key]
    elif change == 1 and isinstance(holder, dict):
        holder[rng.choice(["evil", "slot", "array", "size", "float", "trainables"])] = 1
    elif change == 2:
        holder[key], other[other_key] = other[other_key], copy.deepcopy(holder[key])
    elif change == 3 and isinstance(holder[key], list):
        holder[key] *= 2
    else:
        holder[key] = rng.choice(wild)
    return data


@pytest.mark.once
@pytest.mark.parametrize("edit", GOOD, ids=lambda edit: repr(edit)[:60])
def test_a_mutated_config_raises_or_is_what_it_says(edit):
    config = json.loads(json.dumps(edit.get_config(), allow_nan=False))
    assert Edit.from_config(copy.deepcopy(config)) == edit
    rng = random.Random(repr(edit)[:20])
    refusals = 0
    for _ in range(150):
        other = mutated(rng, config)
        before = json.dumps(other, sort_keys=True)
        try:
            made = Edit.from_config(other)
        except SavingError:
            refusals += 1
        else:
            assert json.dumps(made.get_config(), sort_keys=True) == before
            assert repr(made)
    assert refusals > 20


# --- Other configs -------------------------------------------------------------------------------


def bad_fields(thing, **changes):
    return [{**thing.get_config(), name: value} for name, value in changes.items()]


def with_weights():
    """A model with a pruned kernel and a frozen bias."""
    base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="h")])
    return freeze_elements(prune(base, "h/kernel", 0.5, structure=(2, 4)), "h/bias", 0, 1.0)


def bad_rules(**changes):
    (rule,) = PRUNED.get_config()["rules"]
    return bad_fields(PRUNED, rules=[rule, rule]) + [
        config
        for name, values in changes.items()
        for value in values
        for config in bad_fields(PRUNED, rules=[{**rule, name: value}])
    ]


PRUNED = with_weights()
SCHEDULE = PruningSchedule(0.0, 0.9, 5, 100)
RANDOM = RandomEditing(sample[0].set(1.0), rate=0.5)
EDIT = keras.saving.serialize_keras_object(at[0].set(1.0))
SAMPLE = keras.saving.serialize_keras_object(sample[0].set(1.0))
NAN, INF = float("nan"), float("inf")
FIELDS = [
    (Editing, bad_fields(Editing(sample[0].set(1.0)), edit=3, switch=1, temperature=True, evil=1)),
    (Editing, bad_fields(Editing(sample[0].set(1.0)), edit={**EDIT, "registered_name": "Dense"})),
    (ConditionalModifier, bad_fields(ConditionalModifier(1.0), threshold=[1.0], factor=SLOT)),
    (IndexGuide, bad_fields(IndexGuide(0, 1.0), index={"items": [0]}, target=SLOT, reduce=[])),
    (IndexPenalty, bad_fields(IndexPenalty(0, 1.0), target="...", lower="x", weight=True)),
    (IndexViolation, bad_fields(IndexViolation(0, 1.0), index=[0], tolerance="1", upper=[1.0])),
    (MaskedLoss, bad_fields(MaskedLoss("mse"), ignore="nan", normalizer="x")),
    (MaskedLoss, bad_fields(MaskedLoss("mse"), ignore=[{"items": [0]}])),
    (kedit.inputs.InputEditing, [{"edit": EDIT}, {"edit": None}, {}]),
    (kedit.inputs.RandomEdit, [{"edit": EDIT}, {"edit": EDIT, "count": True}, {"count": 1}]),
    (kedit.inputs.RandomEdit, [{"edit": EDIT, "block": 8}, {"edit": EDIT, "block": [[3, 2]]}]),
    (RandomEditing, bad_fields(RANDOM, edit=3, count=True, rate=2.0, block=[[1, 2, 3]], evil=1)),
    (RandomEditing, bad_fields(RANDOM, probability=True, seed=0.0, axes="0", when="never")),
    (kedit.constraints.EditConstraint, [{"edit": {**EDIT, "evil": 1}}, {"evil": EDIT}]),
    (kedit.callbacks.DualAscent, [{"evil": 1}]),
    (WeightEditing, bad_fields(PRUNED, rules={}, edits=[], base=EDIT, addresses="h/bias")),
    (WeightEditing, bad_fields(PRUNED, rules=[3], edits={"h/bias": 3}, base={}, evil=1)),
    (WeightEditing, bad_fields(PRUNED, rules=[{}], edits={"none": EDIT}, base=None)),
    (WeightEditing, bad_fields(PRUNED, edits={"h/bias": SAMPLE}, addresses=["none"])),
    (WeightEditing, [*bad_fields(PRUNED, addresses=[[]]), {"edits": {}}, {}]),
    (WeightEditing, bad_rules(weights=["h/kernel", [], [3], ["h/kernel"] * 2, ["h/none"], [[]]])),
    (WeightEditing, bad_rules(weights=[["h"], ["*/kernel"], ["h/kernel", "sequential/h/kernel"]])),
    (WeightEditing, bad_rules(scope=["all", None, "global"], block=[[2, 2], "2", [True], [0]])),
    (WeightEditing, bad_rules(structure=[[4, 2], [2.0, 4], [2], "rows", 3], evil=[1])),
    (WeightEditing, bad_rules(importance=["abs", {}, {"function": "os>system"}, SLOT, [1.0]])),
    (PruningSchedule, bad_fields(SCHEDULE, power="3", begin_step=True, end_step=4, regrow=1)),
    (PruningSchedule, bad_fields(SCHEDULE, initial_sparsity=0.95, final_sparsity=NAN, evil=1)),
    (PruningSchedule, bad_fields(SCHEDULE, power=10**400, frequency=0, end_step=100.0)),
    (PruningSchedule, bad_fields(SCHEDULE, power=INF, begin_step=-1, final_sparsity=True)),
    (PruningSchedule, [{}, 3, {"initial_sparsity": 0.0}]),
    (Trainable, [{}, {"initializer": 1.0}, 3]),
    (OtherRun, [{}, {"name": "other", "evil": 1}, {"name": "inputs"}]),
    (OtherRun, [{"name": "other", "at": at} for at in (None, {}, 3, EDIT, {**EDIT, "op": "get"})]),
]


@pytest.mark.parametrize(("kind", "configs"), FIELDS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_config_of_a_keras_object(kind, configs):
    for config in configs:
        refuses(lambda config=config: kind.from_config(config))


def with_node():
    inputs = [keras.Input((4,), name="x"), keras.Input((), dtype="int32", name="i")]
    return keras.Model(inputs, at(inputs[0])[:, inputs[1][0]].where(X > 2.0).set(0.5))


def with_layer():
    return keras.Sequential([keras.Input((4,)), Editing(sample[0].set(0.5))])


@pytest.mark.parametrize("make", [with_node, with_layer])
@pytest.mark.parametrize(
    "changes",
    [
        {"operand": {"slot": 1}},
        {"operand": {"slot": 0}},
        {"operand": {"function": "builtins>eval"}},
        {"index": []},
        {"index": [SLOT, SLOT]},
        {"index": [{"block": 0, "size": 10**9}]},
        {"evil": 1},
        {"operand": nested(200, X_)},
    ],
    ids=lambda changes: json.dumps(changes)[:50],
)
def test_a_model_file_that_was_changed(tmp_path, make, changes):
    def change(config):
        (edit,) = [c for c in dicts_in(config) if "coordinates" in c]
        # What an index of a node names as its slot, nothing fills in a layer.
        filled = make is with_layer and changes == {"index": []}
        edit.update({"index": [SLOT]} if filled else changes)

    with pytest.raises((EditError, TypeError, ValueError), match="Received"):
        keras.saving.load_model(changed_file(make(), tmp_path / "model.keras", change))


MODULE = {"module": "this", "class_name": "s", "config": {}, "registered_name": "this>s"}


@pytest.mark.parametrize(
    "changes",
    [
        {"rules": [MODULE]},
        {"rules": {"importance": MODULE}},
        {"rules": {"importance": {"function": "this>s"}}},
        {"rules": {"weights": ["h/none"]}},
        {"rules": {"block": [10**9, 10**9]}},
        {"edits": MODULE},
        {"edits": {"h/bias": MODULE}},
        {"edits": {"h/none": EDIT}},
        {"addresses": [MODULE]},
        {"base": EDIT},
        {"evil": MODULE},
    ],
    ids=lambda changes: json.dumps(changes)[:50],
)
def test_a_file_of_a_pruned_model_that_was_changed(tmp_path, changes):
    """It says which field is wrong, and imports nothing."""

    def change(config):
        (held,) = [c for c in dicts_in(config) if "rules" in c]
        (rule,) = held["rules"]
        rules = changes.get("rules")
        held.update({"rules": [{**rule, **rules}]} if isinstance(rules, dict) else changes)

    with pytest.raises((EditError, TypeError, ValueError), match="Received"):
        keras.saving.load_model(changed_file(with_weights(), tmp_path / "model.keras", change))
    assert "this" not in sys.modules


def changed_file(model, path, change):
    """The path of a model's file in which a function has changed the config."""
    model.save(path)
    keras.saving.load_model(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    change(config)
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def dicts_in(data):
    inside = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return [d for part in inside for d in dicts_in(part)] + [data] * isinstance(data, dict)


HALF = sample[0].set(0.5)


# --- Files ---------------------------------------------------------------------------------------


def edited(edit=HALF):
    base = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(3.0, name="h")])
    return edit_model(base, {site("h", "input"): edit})


def test_files_that_are_no_file_of_edits(tmp_path):
    path = tmp_path / "edits.json"
    save_edits(edited(), path)
    text = path.read_text()
    assert load_edits(path) == edited().edits
    bad = ["[" * 100000, '{"a":' * 100000, text.replace("0.5", "NaN"), text.replace("0.5", "1e999")]
    bad += [
        text.replace('"op"', '"op": "add", "op"'),
        text.replace("0.5", "9" * 5000),
        "\ufeff",
        "",
    ]
    bad += [text.replace('"leaf": 0', f'"leaf": {leaf}') for leaf in ("false", "0.0", "null")]
    bad += [text.replace('"call"', '"evil": 1, "call"'), text.replace('"h"', '""')]
    bad += [text[:end] for end in range(0, len(text) - 2, 7)]
    for number, wrong in enumerate(bad):
        assert wrong != text, number
        path.write_text(wrong)
        refuses(lambda: load_edits(path))
    path.write_bytes(b"\xff\xfe" + text.encode("utf-16"))
    refuses(lambda: load_edits(path))
    refuses(lambda: load_edits(tmp_path))
    with pytest.raises(FileNotFoundError):
        load_edits(tmp_path / "none.json")


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("step", ["fsync", "replace", "fdopen"])
def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch, step, error):
    path = tmp_path / "edits.json"
    save_edits(edited(), path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(type(error)):
            save_edits(edited(sample[1].set(2.0)), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["edits.json"]
    os.chmod(path, 0o640)
    save_edits(edited(sample[1].set(2.0)), path)
    assert path.stat().st_mode & 0o777 == 0o640
    assert load_edits(path) == edited(sample[1].set(2.0)).edits


@pytest.mark.once
def test_what_is_too_large_to_be_saved():
    deep = wide = X
    for _ in range(5000):
        deep = -deep
    for _ in range(40):
        wide = wide + wide
    for value in (deep, wide, np.ones(3, np.longdouble), np.ones([1] * 40)):
        for edit in (at[0].set(value), at[0].set(1.0) | at[0].set(value)):
            refuses(edit.get_config)
    deep = X
    for _ in range(99):
        deep = -deep
    edit = at[0].set(deep)
    assert Edit.from_config(json.loads(json.dumps(edit.get_config()))) == edit


# --- Blocks and ragged lists ---------------------------------------------------------------------


def test_blocks_that_are_too_long():
    with pytest.raises(PositionError, match="Received"):
        block(0, 10**9)
    for x in (np.zeros(4), ops.zeros(4)):
        assert at(x)[block(0, 9)].get(fill_value=1.0).shape == (9,)
        tracemalloc.start()
        with pytest.raises(PositionError, match="Received"):
            at(x)[block(0, 2**24)].set(1.0)
        assert tracemalloc.get_traced_memory()[1] < 1e6
        tracemalloc.stop()


RAGGED = [[1.0, 2.0], [3.0]]


@pytest.mark.parametrize(
    "use",
    [
        lambda: at(RAGGED)[0].set(1.0),
        lambda: at(RAGGED)[0, ops.convert_to_tensor(0)].set(1.0),
        lambda: at(np.zeros((2, 2)))[...].set(RAGGED),
        lambda: at(ops.zeros((2, 2)))[...].set(RAGGED),
        lambda: at[RAGGED].set(1.0),
        lambda: at.where(RAGGED),
        lambda: at.where(X > RAGGED),
        lambda: Trainable(RAGGED),
        lambda: IndexPenalty(0, RAGGED),
        lambda: IndexPenalty(0, lower=RAGGED),
        lambda: IndexPenalty(0, "y_true")(RAGGED, np.zeros((2, 2))),
        lambda: IndexPenalty(0, 1.0)(np.zeros((2, 2)), RAGGED),
        lambda: IndexPenalty(0, 1.0)(None, ops.zeros((2, 2)), sample_weight=RAGGED),
        lambda: MaskedLoss("mse")(RAGGED, np.zeros((2, 2))),
        lambda: kedit.inputs.InputEditing(sample[0].set(0.0))(RAGGED),
        lambda: kedit.inputs.RandomEdit(sample[...].set(0.0), count=1)(RAGGED, [0, 1]),
    ],
)
def test_a_ragged_list(use):
    with pytest.raises((OperandError, ShapeError, PositionError), match="Received"):
        use()
