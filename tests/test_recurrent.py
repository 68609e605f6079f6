"""Sites inside recurrent layers, which loop in another way on each backend."""

import keras
import numpy as np
import pytest
from _backend import to_numpy
from kit import check_close

from kedit import X, at, sample
from kedit.errors import OperandError
from kedit.interventions import BatchMean, Fed, OtherRun, capture, edit_model, site, sites

layers = keras.layers
STEPS = np.random.default_rng(3).normal(size=(4, 5, 3)).astype("float32")
KINDS = {
    "simple": lambda **options: layers.SimpleRNN(3, **options),
    "lstm": lambda **options: layers.LSTM(3, use_cudnn=False, **options),
    "gru": lambda **options: layers.GRU(3, use_cudnn=False, **options),
    "stacked": lambda **options: layers.RNN(
        layers.StackedRNNCells([layers.LSTMCell(2), layers.LSTMCell(3)]), **options
    ),
}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def model_of(make, masked=False, **options):
    inputs = keras.Input((5, 3))
    h = layers.Masking()(inputs) if masked else inputs
    return keras.Model(inputs, make(name="l", return_sequences=True, **options)(h))


@kinds
@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_every_step_of_a_cell(make, unroll, masked):
    """What the cell is given at every step is what the layer is given; likewise what it returns."""
    base, x = model_of(make, masked, unroll=unroll), STEPS.copy()
    if masked:
        x[1, 3:] = 0
    edited = edit_model(base, {site("l/cell", "input"): sample[1].multiply(3.0)})
    expected = to_numpy(base(x * np.array([1, 3, 1], "float32")))
    check_close(edited(x), expected)
    check_close(edited.predict(x, verbose=0), expected)
    edited = edit_model(base, {"l/cell": at[..., 0].where(X > 0).set(7.0)})
    expected = to_numpy(base(STEPS)).copy()
    expected[..., 0] = np.where(expected[..., 0] > 0, 7, expected[..., 0])
    check_close(edited(STEPS), expected)
    check_close(edited.predict(STEPS, verbose=0), expected)


def test_the_state_of_a_cell_goes_on():
    base = model_of(KINDS["simple"])
    edited = edit_model(base, {site("l/cell", leaf=1): sample[2].set(0.5)})
    kernel, recurrent, bias = [to_numpy(weight) for weight in base.get_layer("l").weights]
    state, expected = np.zeros((4, 3)), []
    for step in range(5):
        state = np.tanh(STEPS[:, step] @ kernel + bias + state @ recurrent)
        expected.append(state.copy())
        state[:, 2] = 0.5
    check_close(edited.predict(STEPS, verbose=0), np.stack(expected, 1))


def test_operands_that_need_nothing_from_inside():
    base = model_of(KINDS["gru"])
    plain = base.predict(STEPS, verbose=0)
    edit = sample[0].set(BatchMean()) | sample[1].set(Fed("v"))
    fed = {"inputs": STEPS, "v": np.arange(4.0, dtype="float32")}
    found = edit_model(base, {"l/cell": edit}).predict(fed, verbose=0)
    expected = plain.copy()
    expected[..., 0] = plain[..., 0].mean(0)
    expected[..., 1] = np.arange(4.0)[:, None]
    check_close(found, expected)
    beside = {"l/cell": sample[0].set(1.0), "l": sample[:, 1].set(OtherRun())}
    found = edit_model(base, beside).predict({"inputs": STEPS, "other": STEPS[::-1]}, verbose=0)
    expected = plain.copy()
    expected[..., 0], expected[..., 1] = 1, plain[::-1, :, 1]
    check_close(found, expected)


@kinds
def test_steps_that_are_told_apart_are_refused_in_a_loop(make):
    base = model_of(make)
    cure = r"`site\('l'\)`|Take the output of the recurrent layer.*unroll=True"
    for use in (
        lambda: edit_model(base, {site("l/cell", call=0): sample[0].set(0.0)}),
        lambda: edit_model(base, {"l/cell": sample[0].set(OtherRun())}),
        lambda: capture(base, "l/cell"),
        lambda: capture(edit_model(base, {}), ["l", site("l/cell", "input")]),
    ):
        with pytest.raises(OperandError, match=cure):
            use()
    counts = {info.address: info.calls for info in sites(base)}
    assert counts.pop("l") == 1
    assert set(counts.values()) == {None}


@pytest.mark.parametrize("kind", ["simple", "lstm", "gru"])
def test_steps_that_are_told_apart_where_each_is_a_call(kind):
    base = model_of(KINDS[kind], unroll=True, go_backwards=kind == "gru")
    plain = base.predict(STEPS, verbose=0)
    assert [info.calls for info in sites(base)] == [1, 5]
    acts = capture(base, ["l", "l/cell"]).predict(STEPS, verbose=0)
    names = ["l/cell", *[f"l/cell#{step}" for step in range(1, 5)]]
    assert list(acts) == ["l", *names]
    np.testing.assert_array_equal(np.stack([acts[name] for name in names], 1), plain)
    found = edit_model(base, {site("l/cell", call=2): sample[1].set(5.0)})
    expected = plain.copy()
    expected[:, 2, 1] = 5
    check_close(found.predict(STEPS, verbose=0), expected)
    patched = edit_model(base, {site("l/cell", leaf=0): sample[...].set(OtherRun())})
    other = STEPS[::-1].copy()
    found = patched.predict({"inputs": STEPS, "other": other}, verbose=0)
    check_close(found, base.predict(other, verbose=0))


def test_the_cells_of_a_stack_are_called_once_more_than_there_are_steps():
    base = model_of(KINDS["stacked"], unroll=True)
    with pytest.raises(OperandError, match="a recurrent layer for each cell"):
        capture(base, "l/cell/cells.0")
    assert len(capture(base, "l/cell").predict(STEPS, verbose=0)) == 5


def test_layers_inside_bidirectional_and_time_distributed():
    inputs = keras.Input((5, 3))
    both = layers.Bidirectional(layers.SimpleRNN(3, return_sequences=True), name="l")
    base = keras.Model(inputs, both(inputs))
    with pytest.raises(OperandError, match="unroll=True"):
        capture(base, "l/forward_layer/cell")
    assert capture(base, "l/forward_layer").predict(STEPS, verbose=0)
    base = keras.Model(inputs, layers.TimeDistributed(layers.Dense(2), name="l")(inputs))
    found = edit_model(base, {site("l/layer", call=3): sample[1].set(5.0)})
    expected = base.predict(STEPS, verbose=0)
    expected[:, 3, 1] = 5
    check_close(found.predict(STEPS, verbose=0), expected)
