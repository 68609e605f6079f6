"""Positions of their own in each example, and from one position to another."""

import copy
import inspect
import pickle

import keras
import numpy as np
import pytest
from _backend import to_numpy, vjp
from kit import check_close, saved_and_loaded

from kedit import Edit, Trainable, X, each, position, sample
from kedit.errors import OperandError, PositionError, SavingError, ShapeError
from kedit.interventions import (
    Fed,
    OtherRun,
    Rotated,
    capture,
    edit_model,
    load_edits,
    save_edits,
)
from kedit.losses import IndexPenalty

RNG = np.random.default_rng(2)
STEPS, OTHER = RNG.normal(size=(2, 6, 5, 3)).astype("float32")
BASE, SOURCE = np.array([0, 4, 2, -1, 3, 0]), np.array([1, 1, 0, 4, 2, 3])
PAIRS = np.stack([BASE % 5, (BASE + 2) % 5], axis=1)


def base_model():
    inputs = keras.Input((5, 3))
    h = keras.layers.Dense(3, name="h")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, name="out")(h))


def activations(model, x):
    return capture(model, "h").predict(x, verbose=0)["h"]


def check(edit, given, change):
    """Beside a loop over the examples in NumPy, called and predicted in batches."""
    base = base_model()
    edited = edit_model(base, {"h": edit})
    h, others = activations(base, STEPS), activations(base, OTHER)
    for number in range(len(h)):
        change(number, h[number], others[number])
    assert {"h"} == capture(edited, "h")({"inputs": STEPS, **given}).keys()
    given = {"inputs": STEPS, **given}
    for size in (6, 4):
        found = capture(edited, "h").predict(given, batch_size=size, verbose=0)["h"]
        check_close(found, h)
    kernel, bias = [to_numpy(weight) for weight in base.get_layer("out").weights]
    check_close(edited(given), h @ kernel + bias)


def test_one_position_in_each_example():
    def change(n, h, other):
        h[BASE[n]] = 7

    check(sample[each(Fed("pos"))].set(7.0), {"pos": BASE}, change)


def test_several_positions_and_values_in_each_example():
    values = RNG.normal(size=(6, 2)).astype("float32")

    def change(n, h, other):
        h[PAIRS[n], 1] += values[n]

    edit = sample[each(Fed("pos")), 1].add(Fed("v"))
    check(edit, {"pos": PAIRS.astype("int32"), "v": values}, change)


def test_positions_on_another_axis_and_a_condition():
    def change(n, h, other):
        h[:, BASE[n] % 3] = np.where(h[:, BASE[n] % 3] > 0, 0, h[:, BASE[n] % 3])

    check(sample[:, each(Fed("pos"))].where(X > 0).set(0.0), {"pos": BASE % 3}, change)


@pytest.mark.tensors
def test_positions_out_of_bounds_are_dropped():
    def change(n, h, other):
        if n:
            h[BASE[n]] = 7

    check(sample[each(Fed("pos"))].set(7.0), {"pos": np.array([5, *BASE[1:]])}, change)


def test_the_same_position_of_another_run():
    def change(n, h, other):
        h[BASE[n]] = other[BASE[n]]

    edit = sample[each(Fed("pos"))].set(OtherRun())
    check(edit, {"pos": BASE, "other": OTHER}, change)


@pytest.mark.parametrize(
    ("edit", "change"),
    [
        (sample[3].set(OtherRun(at=sample[1])), lambda h, o: (3, o[1])),
        (sample[:2].set(OtherRun(at=sample[3:])), lambda h, o: (slice(2), o[3:])),
        (sample[...].set(OtherRun(at=sample[[2]])), lambda h, o: (slice(None), o[2])),
        (
            sample[1:3, 0].add(OtherRun(at=sample[[4, 0], 2]) - OtherRun("other")),
            lambda h, o: ((slice(1, 3), 0), h[1:3, 0] + o[[4, 0], 2] - o[1:3, 0]),
        ),
    ],
    ids=lambda given: "" if inspect.isfunction(given) else repr(given),
)
def test_from_one_position_to_another(edit, change):
    def changed(n, h, other):
        place, values = change(h, other)
        h[place] = values

    check(edit, {"other": OTHER}, changed)


def test_from_a_position_to_another_of_each_example():
    def change(n, h, other):
        h[BASE[n]] = other[SOURCE[n]]

    edit = sample[each(Fed("base"))].set(OtherRun(at=sample[each(Fed("source"))]))
    check(edit, {"base": BASE, "source": SOURCE, "other": OTHER}, change)


def test_an_expression_takes_numbers_of_each_example():
    edit = sample.where(position(0) >= each(Fed("n"))).set(0.0)
    assert edit == sample.where(position(0) >= Fed("n")).set(0.0)

    def change(n, h, other):
        h[SOURCE[n] :] = 0

    check(edit, {"n": SOURCE}, change)


@pytest.mark.gradient
def test_gradients_flow_from_where_it_is_written_to_where_it_is_read():
    inputs = keras.Input((5, 3))
    base = keras.Model(inputs, keras.layers.Rescaling(2.0, name="h")(inputs))
    edit = sample[each(Fed("base"))].set(OtherRun(at=sample[each(Fed("source"))]))
    edited = edit_model(base, {"h": edit})
    up = RNG.normal(size=STEPS.shape).astype("float32")

    def run(x, other):
        return edited({"inputs": x, "other": other, "base": BASE, "source": SOURCE})

    _, (dx, do) = vjp(run, [STEPS, OTHER], up)
    expected_x, expected_o = 2 * up, np.zeros_like(up)
    for n in range(6):
        expected_x[n, BASE[n]] = 0
        expected_o[n, SOURCE[n]] = 2 * up[n, BASE[n]]
    check_close(dx, expected_x)
    check_close(do, expected_o)


EDITS = [
    sample[each(Fed("base")), :2].set(OtherRun(at=sample[each(Fed("source")), :2])),
    sample[3].set(OtherRun("clean", at=sample[..., 2:5, :])),
    sample[each(Fed("base"))].add(Trainable("zeros")) | sample[each(Fed("base"))].multiply(2.0),
    sample[each(Fed("base"))].where(X > Fed("v")).set(OtherRun(at=sample[1]) + Trainable(0.5)),
]


@pytest.mark.parametrize("edit", EDITS, ids=repr)
def test_such_edits_are_values(edit):
    names = {name: value for name, value in globals().items() if name[0] != "_"}
    assert eval(repr(edit), names) == edit
    assert pickle.loads(pickle.dumps(edit)) == edit
    assert hash(eval(repr(edit), names)) == hash(edit)
    assert type(edit).from_config(edit.get_config()) == edit
    assert edit != EDITS[EDITS.index(edit) - 1]


def test_such_edits_are_saved(tmp_path):
    base = base_model()
    edited = edit_model(base, {"h": EDITS[0]})
    given = {"inputs": STEPS, "other": OTHER, "base": BASE, "source": SOURCE}
    expected = edited.predict(given, verbose=0)
    save_edits(edited, tmp_path / "edits.json")
    again = edit_model(base, load_edits(tmp_path / "edits.json"))
    loaded = saved_and_loaded(edited, tmp_path / "model.keras")
    for one in (again, loaded):
        assert one.edits == edited.edits
        check_close(one.predict(given, verbose=0), expected)


@pytest.mark.gradient
def test_a_vector_for_the_position_of_each_example_is_learned():
    base = base_model()
    edit = sample[each(Fed("pos"))].add(Trainable("zeros"))
    edited = edit_model(base, {"h": edit}, train="edits")
    assert [tuple(weight.shape) for weight in edited.trainable_weights] == [(3,)]
    edited.compile(keras.optimizers.SGD(0.1), "mse")
    y = RNG.normal(size=(6, 5, 2)).astype("float32")
    edited.fit({"inputs": STEPS, "pos": BASE}, y, epochs=1, batch_size=6, verbose=0)
    kernel = to_numpy(base.get_layer("out").kernel)
    error = (base.predict(STEPS, verbose=0) - y)[np.arange(6), BASE]
    expected = -0.1 * 2 * (error @ kernel.T).sum(0) / y.size
    check_close(edited.trainable_weights[0], expected)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sample[Fed("p")], PositionError, r"Write `sample\[each\(Fed\('p'\)\)\]`"),
        (lambda: sample[each(Trainable("zeros"))], PositionError, "Write a number"),
        (lambda: OtherRun(at=3), OperandError, r"`OtherRun\(at=sample\[3\]\)`"),
        (lambda: OtherRun(at=sample[3].set(1.0)), OperandError, "without a condition"),
        (lambda: OtherRun(at=sample[3].where(X > 0)), OperandError, "without a condition"),
        (lambda: Rotated(OtherRun(at=sample[3])), OperandError, "`source` should be"),
        (lambda: IndexPenalty(sample[each(Fed("p"))], 0.0), OperandError, "known beforehand"),
        (
            lambda: sample(STEPS)[each(Fed("p"))].set(0.0),
            OperandError,
            "should be applied by an edited model",
        ),
    ],
)
def test_where_positions_cannot_stand(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (sample[3].set(OtherRun(at=sample[5])), PositionError),
        (sample[3].set(OtherRun(at=sample[:2])), ShapeError),
        (sample[:3].set(OtherRun(at=sample[:2])), ShapeError),
    ],
)
def test_what_does_not_fit_is_refused_before_it_runs(edit, error):
    with pytest.raises(error, match="Received"):
        edit_model(base_model(), {"h": edit})


def test_positions_that_are_no_integers():
    edited = edit_model(base_model(), {"h": sample[each(Fed("pos"))].set(0.0)})
    with pytest.raises(PositionError, match=r"^Positions that are fed.*'pos': positions\.astype"):
        edited({"inputs": STEPS, "pos": BASE.astype("float32")})


@pytest.mark.once
def test_saved_operands_inside_of_what_is_read_are_refused():
    config = EDITS[0].get_config()
    other = config["trainables"][0]
    other["config"]["at"]["trainables"] = [copy.deepcopy(other)]
    with pytest.raises(SavingError, match="no operand but `Fed`"):
        Edit.from_config(config)
    for data in (3, {"placeholder": 3}, [{}]):
        config = EDITS[0].get_config()
        config["trainables"][0]["config"]["at"]["trainables"] = data
        with pytest.raises(SavingError):
            Edit.from_config(config)
