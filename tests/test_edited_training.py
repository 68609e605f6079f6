"""Edits that learn, the values that they hold, and how they are saved and shared."""

import json
import pickle

import keras
import numpy as np
import pytest
from _backend import BACKEND, to_numpy, vjp
from kit import check_close, check_roundtrip, model_files, saved_and_loaded
from networks import (
    IMAGES,
    ROWS,
    Subclassed,
    convolutional,
    nested,
    sequential,
    shared,
    subclassed,
)

from kedit import Trainable, X, at, sample
from kedit.errors import (
    CoordinateError,
    EditError,
    OperandError,
    PositionError,
    SavingError,
    ShapeError,
)
from kedit.interventions import (
    BatchMean,
    Capture,
    Fed,
    OtherRun,
    Rotated,
    capture,
    edit_model,
    load_edits,
    save_edits,
    site,
)
from kedit.layers import Editing

RNG = np.random.default_rng(0)


def predict(model, x, **options):
    return model.predict(x, verbose=0, **options)


def held(model):
    return [to_numpy(variable).copy() for variable in model.variables]


def check_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def linear():
    """A model whose output is a rotation of what goes in, with units in between."""
    inputs = keras.Input((6,))
    h = keras.layers.Dense(6, use_bias=False, name="turn")(inputs)
    outputs = keras.layers.Dense(6, use_bias=False, name="back")(h)
    model = keras.Model(inputs, outputs)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0].astype("float32")
    model.set_weights([turn, turn.T])
    return model, turn


@pytest.mark.gradient
def test_a_steering_vector_learns_what_was_planted():
    """The shift that the outputs want is known; the base does not move by one bit."""
    base, turn = linear()
    x = RNG.normal(size=(64, 6)).astype("float32")
    shift = np.array([2, -1, 0, 0.5, 0, 1], "float32")
    before = held(base)
    edit = sample[...].add(Trainable("zeros"))
    edited = edit_model(base, {"turn": edit}, train="edits")
    edited.compile(keras.optimizers.SGD(2.0), "mse")
    losses = edited.fit(x, x + shift, batch_size=64, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 1e-8 < losses[0]
    check_close(to_numpy(edited.values("turn")[0]), shift @ turn, atol=1e-3)
    check_same(held(base), before)
    assert [v.path for v in edited.trainable_variables] == [edited.values("turn")[0].path]
    assert len(base.trainable_variables) == 2
    assert edited.evaluate(x, x + shift, verbose=0) < 1e-8


@pytest.mark.once
@pytest.mark.gradient
def test_a_rotation_of_rank_2_finds_what_was_planted():
    """Outputs 0 and 1 are to come from the other run: in what the hidden units hold, a plane."""
    base, turn = linear()
    x, other = RNG.normal(size=(2, 64, 6)).astype("float32")
    target = np.concatenate([other[:, :2], x[:, 2:]], axis=1)
    before = held(base)
    start = keras.initializers.Orthogonal(seed=3)
    edit = sample[...].set(Rotated(OtherRun(), rank=2, initializer=start))
    edited = edit_model(base, {"turn": edit}, train="edits")
    edited.compile(keras.optimizers.Adam(0.1), "mse")
    given = {"inputs": x, "other": other}
    losses = edited.fit(given, target, batch_size=64, epochs=70, verbose=0).history["loss"]
    assert losses[-1] < 1e-4 < losses[0]
    basis = np.linalg.qr(to_numpy(edited.values("turn")[0]))[0]
    plane = turn[:2].T  # where outputs 0 and 1 are in the hidden units
    check_close(basis @ basis.T, plane @ plane.T, atol=2e-2)
    check_same(held(base), before)


@pytest.mark.gradient
@pytest.mark.parametrize("make", [convolutional, subclassed], ids=lambda make: make.__name__)
def test_what_is_trained(make):
    """Nothing, the edits while the model runs as in inference, or both."""
    x = IMAGES if make is convolutional else ROWS
    address = "conv" if make is convolutional else "blocks.0"
    edit = sample[..., 0].add(Trainable("zeros")) | sample[..., 1].multiply(1.5)
    for train, trained in (("none", 0), ("edits", 1), ("all", None)):
        base = make()
        before = held(base)
        own = len(base.trainable_variables)
        edited = edit_model(base, {address: edit}, train=train)
        edited.compile(keras.optimizers.SGD(0.1), loss=keras.losses.MeanSquaredError())
        outputs = edited(x)
        target = keras.tree.map_structure(lambda y: np.ones(y.shape, "float32"), outputs)
        if train == "none":
            with pytest.raises(
                OperandError, match=r"Write `edit_model\(model, edits, train='edits'"
            ):
                edited.train_on_batch(x, target)
        else:
            edited.train_on_batch(x, target)
            edited.train_on_batch(x, target)
        moved = [(a != b).any() for a, b in zip(held(base), before, strict=True)]
        constant, learned = edited.values(address)[1], edited.values(address)[0]
        assert to_numpy(constant) == 1.5
        assert (to_numpy(learned) != 0).all() == (train != "none")
        if train == "all":
            assert len(edited.trainable_variables) == own + 1
            names = [v.path.split("/")[-1] for v in base.variables]
            norms = [m for m, n in zip(moved, names, strict=True) if n.startswith("moving")]
            assert all(norms)
            assert all([m for m, n in zip(moved, names, strict=True) if n == "kernel"])
        else:
            assert len(edited.trainable_variables) == trained
            assert not any(moved)
            assert len(base.trainable_variables) == own


@pytest.mark.gradient
def test_edits_that_have_nothing_to_train():
    edited = edit_model(convolutional(), {"conv": sample[..., 0].set(0.0)}, train="edits")
    edited.compile("sgd", "mse")
    with pytest.raises(OperandError, match=r"without a `Trainable`.*train='all'"):
        edited.fit(IMAGES, np.ones((6, 3)), verbose=0)


@pytest.mark.once
@pytest.mark.gradient
def test_dropout_is_off_unless_all_is_trained():
    """Also in a model whose `call` takes no `training`."""
    for make, x in ((convolutional, IMAGES), (subclassed, ROWS)):
        for train, same in (("edits", True), ("all", False)):
            base = make()
            edited = edit_model(base, {}, train=train)
            found = keras.tree.flatten(edited(x, training=True))[0]
            plain = keras.tree.flatten(base(x, training=False))[0]
            assert (to_numpy(found) == to_numpy(plain)).all() == same


@pytest.mark.gradient
@pytest.mark.parametrize("scoped", [False, True], ids=["plain", "rematerialized wrapper"])
def test_gradients_through_edits_in_closed_form(scoped):
    """To the inputs, where an edit has written nothing goes; from outside, to values as well."""
    base, turn = linear()
    edit = sample[0].set(0.0) | sample[1].multiply(3.0) | sample[2].add(Fed("v"))
    if scoped:
        with keras.RematScope(mode="full"):
            edited = edit_model(base, {"turn": edit})
    else:
        edited = edit_model(base, {"turn": edit})
    x, v, up = RNG.normal(size=(5, 6)), RNG.normal(size=(5,)), RNG.normal(size=(5, 6))
    x, v, up = [a.astype("float32") for a in (x, v, up)]
    _, (dx, dv) = vjp(lambda x, v: edited({"inputs": x, "v": v}), [x, v], up)
    scale = np.array([0, 3, 1, 1, 1, 1])
    check_close(dx, (up @ turn * scale) @ turn.T, atol=1e-4)
    check_close(dv, (up @ turn)[:, 2], atol=1e-4)


@pytest.mark.gradient
def test_gradients_flow_into_the_other_run():
    base, turn = linear()
    edited = edit_model(base, {"turn": sample[:2].set(OtherRun())})
    x, other, up = RNG.normal(size=(3, 5, 6)).astype("float32")
    _, (dx, do) = vjp(lambda x, other: edited({"inputs": x, "other": other}), [x, other], up)
    mask = np.array([1, 1, 0, 0, 0, 0])
    check_close(do, (up @ turn * mask) @ turn.T, atol=1e-4)
    check_close(dx, (up @ turn * (1 - mask)) @ turn.T, atol=1e-4)


def test_a_rematerialized_model_is_refused():
    with keras.RematScope(mode="full"):
        inside = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="dense")])
    inputs = keras.Input((4,))
    around = keras.Model(inputs, keras.layers.Dense(4, name="after")(inside(inputs)))
    for model, address in ((inside, "dense"), (around, "after")):
        with pytest.raises(OperandError, match="RematScope"):
            edit_model(model, {address: sample[0].set(0.0)})
        with pytest.raises(OperandError, match="RematScope"):
            capture(model, address)


# --- What edits hold -----------------------------------------------------------------------------


def test_a_compiled_model_sees_what_is_assigned():
    """Without being traced again, where there is a trace."""
    base = subclassed()
    edit = sample[0].set(1.0) | sample[[1, 2]].add(np.array([1.0, 2.0]))
    edited = edit_model(base, {"blocks.2": edit, "heads.value": sample[0].set(Trainable(3.0))})
    found = predict(edited, ROWS)
    traces = base.traces
    plain = found["rest"][1]
    constant, array = edited.values("blocks.2")
    constant.assign(5.0)
    array.assign([10.0, 20.0])
    edited.values("heads.value")[0].assign(-4.0)
    acts = predict(edited, ROWS)
    assert base.traces - traces == (1 if BACKEND in ("torch", "numpy") else 0)
    assert (acts["rest"][0] == -4).all()
    change = acts["rest"][1] - plain
    gamma, variance = to_numpy(base.norm.gamma), to_numpy(base.norm.moving_variance)
    scale = 2 * gamma / np.sqrt(variance + base.norm.epsilon)
    check_close(change, np.tile(np.array([4, 9, 18, 0]) * scale, (6, 1)), atol=1e-4)
    assert [repr(edit) for _, edit in edited.edits] == [
        "sample[0].set(5.0) | sample[[1, 2]].add(np.array([10.0, 20.0], 'float32'))",
        "sample[0].set(Trainable(-4.0))",
    ] or [type(edit).__name__ for _, edit in edited.edits] == ["EditSequence", "Edit"]
    now = [part.operand for part in edited.edits[0][1].edits]
    assert float(now[0]) == 5
    np.testing.assert_array_equal(now[1].array, [10, 20])


def many_edits():
    return {
        "first": sample[0].set(1.5) | at.where(X > 0.5).multiply(Trainable("ones")),
        site("tower/block/re_lu", "input"): sample[1:3].set(OtherRun()),
        "tower/out": sample[...].set(Rotated(BatchMean(), rank=2, initializer="ones")),
        "last": sample[1].where(Fed("gate") > 0).set(Fed("value")),
    }


GIVEN = {
    "inputs": ROWS,
    "other": ROWS[::-1].copy(),
    "gate": np.array([1, 0, 1, 0, 0, 1], "float32"),
    "value": np.arange(6, dtype="float32"),
}


def changed():
    """A model with edits of every kind, of which none holds any more what it was made with."""
    edited = edit_model(nested(), many_edits(), train="edits", name="changed")
    numbers = {"first": [2.5, 0.25], "tower/out": [np.eye(3)[:, :2] + 0.5]}
    for address, values in numbers.items():
        for variable, value in zip(edited.values(address), values, strict=True):
            variable.assign(np.broadcast_to(value, variable.shape).astype("float32"))
    return edited


def test_survives_saving_and_sharing(tmp_path):
    edited = changed()
    expected = predict(edited, GIVEN)
    loaded = saved_and_loaded(edited, tmp_path / "model.keras")
    check_close(predict(loaded, GIVEN), expected)
    assert (loaded.trains, loaded.name) == ("edits", "changed")
    assert loaded.edits == edited.edits
    assert loaded.base is not edited.base
    assert len(loaded.trainable_variables) == len(edited.trainable_variables) == 2
    save_edits(edited, tmp_path / "edits.json")
    again = edit_model(nested(), load_edits(tmp_path / "edits.json"), train="edits")
    check_close(predict(again, GIVEN), expected)
    assert again.edits == edited.edits
    pickled = pickle.loads(pickle.dumps(edited))
    check_close(predict(pickled, GIVEN), expected)


def test_models_of_every_backend(tmp_path):
    """What one backend has written another one loads, addresses and all."""
    edited = changed()
    expected = predict(edited, GIVEN)
    for path in model_files("edited", tmp_path, edited):
        check_close(predict(keras.saving.load_model(path), GIVEN), expected, atol=1e-4)


def test_a_capture_survives_saving(tmp_path):
    acts = capture(edit_model(shared(), {"shared": sample[0].set(2.0)}), ["shared", "s*"])
    loaded = saved_and_loaded(acts, tmp_path / "model.keras")
    assert isinstance(loaded, Capture)
    expected = predict(acts, ROWS)
    found = predict(loaded, ROWS)
    assert list(found) == list(expected) == ["shared", "shared#1", "sin"]
    for name, array in expected.items():
        check_close(found[name], array)


def test_a_subclassed_base_shares_its_edits(tmp_path):
    base = subclassed()
    edited = edit_model(base, {"blocks.?": sample[0].add(Trainable(1.0))}, train="edits")
    for number, variable in enumerate(edited.values("blocks.?")):
        variable.assign(float(number))
    save_edits(edited, tmp_path / "edits.json")
    again = edit_model(subclassed(), load_edits(tmp_path / "edits.json"))
    check_close(predict(again, ROWS)["logits"], predict(edited, ROWS)["logits"])
    assert [float(v.numpy() if hasattr(v, "numpy") else v) for v in again.values("blocks.?")] == [
        0.0,
        1.0,
        2.0,
    ]


def test_names_that_keras_makes_up_do_not_matter(tmp_path):
    """Of two models made alike in one session the layers are named differently."""
    edited = edit_model(sequential(), {"dense_1": sample[0].set(7.0)})
    save_edits(edited, tmp_path / "edits.json")
    for _ in range(2):
        again = edit_model(sequential(), load_edits(tmp_path / "edits.json"))
        assert (predict(again, ROWS)[:, 0] == 7).all()


EVIL = [
    {"placeholder": "builtins>eval", "config": {}},
    {"placeholder": "Dense", "config": {"units": 3}},
    {"placeholder": "kedit>Editing", "config": {}},
]


@pytest.mark.parametrize("evil", EVIL, ids=lambda data: data["placeholder"])
def test_loading_runs_no_code(tmp_path, evil):
    edited = edit_model(sequential(), {"dense": sample[0].set(Fed("v"))})
    save_edits(edited, tmp_path / "edits.json")
    data = json.loads((tmp_path / "edits.json").read_text())
    (part,) = data["kedit_edits"][0]["edits"]
    assert part["trainables"][0]["placeholder"] == "kedit>Fed"
    part["trainables"] = [evil]
    (tmp_path / "edits.json").write_text(json.dumps(data))
    with pytest.raises(SavingError, match="Received"):
        load_edits(tmp_path / "edits.json")


@pytest.mark.once
@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "3",
        '{"kedit_edits": 3}',
        '{"kedit_edits": [3]}',
        '{"kedit_edits": [{"site": {"pattern": "a", "evil": 1}, "edits": []}]}',
        '{"kedit_edits": [{"site": {"pattern": "a"}, "edits": [{"op": "set"}]}]}',
    ],
)
def test_a_file_that_is_something_else(tmp_path, text):
    (tmp_path / "edits.json").write_text(text)
    with pytest.raises(SavingError, match="Received"):
        load_edits(tmp_path / "edits.json")


def test_what_cannot_be_shared(tmp_path):
    with pytest.raises(OperandError, match="Received"):
        save_edits(sequential(), tmp_path / "edits.json")
    edited = edit_model(sequential(), {"dense": sample[0].apply(lambda x: x)})
    with pytest.raises(SavingError, match="Received"):
        save_edits(edited, tmp_path / "edits.json")
    assert not (tmp_path / "edits.json").exists()


# --- What does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (at[0].set(0.0), CoordinateError),
        (at[1:, 2].set(0.0), CoordinateError),
        (sample[5].set(0.0), PositionError),
        (sample[0, 0].set(0.0), PositionError),
        (sample[5].add(Trainable("zeros")), PositionError),
        (sample[5].set(OtherRun()), PositionError),
        (sample[1:3].set([1.0, 2.0, 3.0]), ShapeError),
        (sample[0].get(), OperandError),
        (sample[0].set(Rotated() + 1.0), OperandError),
        (sample[0].add(Rotated()), OperandError),
        (0.0, OperandError),
        (None, OperandError),
    ],
    ids=repr,
)
def test_edits_that_do_not_fit(edit, error):
    """Are refused before anything runs, if the model is built."""
    with pytest.raises(error, match="Received") as raised:
        edit_model(sequential(), {"dense": edit})
    assert isinstance(raised.value, EditError)


def test_batch_rows_are_refused_in_a_model_that_was_not_built():
    edited = edit_model(Subclassed(), {"blocks.0": at[..., [0], :].set(0.0)})
    with pytest.raises(CoordinateError, match="Received"):
        edited(ROWS)


def test_what_a_model_alone_has_is_refused_elsewhere():
    for held_ in (OtherRun(), Fed("v"), BatchMean(), Rotated()):
        with pytest.raises(OperandError, match="edit_model"):
            sample[0].set(held_)(ROWS)
        with pytest.raises(OperandError, match="edit_model"):
            Editing(sample[0].set(held_))
        check_roundtrip(sample[0].set(held_))
        assert sample[0].set(held_) == sample[0].set(held_)
    with pytest.raises(OperandError, match="Received"):
        edit_model(sequential(), {"dense": sample[0].set(0.0)}, train="some")


@pytest.mark.once
@pytest.mark.parametrize("arguments", [("inputs",), ("a b",), (3,), ("",)], ids=repr)
def test_bad_names(arguments):
    for made in (Fed, OtherRun):
        with pytest.raises(OperandError, match="Received"):
            made(*arguments)


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments",
    [
        (Fed("v"),),
        (Rotated(),),
        (Trainable(1.0),),
        ("3",),
        ([1.0, "a"],),
        (None, 0),
        (None, 1.0),
        (None, True),
        (None, 2, "orthogonal", 1),
        (None, 2, "orthogonal", True, 0.0),
        (None, 2, "orthogonal", True, float("inf")),
        (None, 2, "orthogonal", True, "hot"),
        (None, 2, "orthogonal", True, 1.0, 1.5),
        (None, 2, "orthogonal", True, 1.0, True),
        (None, 2, "orthogonal", True, 1.0, Trainable("zeros", shape=(2,))),
    ],
    ids=repr,
)
def test_bad_rotations(arguments):
    with pytest.raises(OperandError, match="Received"):
        Rotated(*arguments)


@pytest.mark.gradient
def test_compiled_by_the_compiler_of_the_backend():
    """`jit_compile=True`: the values that are computed without it."""
    base, turn = linear()
    x = RNG.normal(size=(8, 6)).astype("float32")
    shift = np.array([1, 0, -1, 0, 0, 2], "float32")
    edit = sample[...].add(Trainable("zeros")) | sample[5].multiply(0.5)
    edited = edit_model(base, {"turn": edit}, train="edits")
    edited.compile(keras.optimizers.SGD(3.0), "mse", jit_compile=True)
    before = held(base)
    losses = edited.fit(x, x + shift, batch_size=8, epochs=2, verbose=0).history["loss"]
    # Half a square, so that a step of this length arrives but for the unit that is halved.
    scale = np.array([1, 1, 1, 1, 1, 0.5])
    steer, expected = np.zeros(6), []
    for _ in range(2):
        wrong = ((x @ turn + steer) * scale) @ turn.T - x - shift
        expected.append((wrong**2).mean())
        steer = steer - 3.0 * (2 * wrong.mean(0) / 6) @ turn * scale
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    check_close(predict(edited, x), ((x @ turn + steer) * scale) @ turn.T, atol=1e-4)
    edited.values("turn")[1].assign(0.0)
    scale[5] = 0
    check_close(predict(edited, x), ((x @ turn + steer) * scale) @ turn.T, atol=1e-4)
    check_same(held(base), before)
