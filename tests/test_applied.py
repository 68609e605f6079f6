"""Edits applied to a model itself, what is compiled there, and edits that are never reached."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from _backend import BACKEND, to_numpy
from keras import ops
from kit import check_close
from networks import IMAGES, ROWS, Subclassed, convolutional, sequential, shared, subclassed

from kedit import sample
from kedit.errors import OperandError
from kedit.interventions import BatchMean, Fed, OtherRun, capture, edit_model, site

COMPILES = BACKEND not in ("torch", "numpy")


def predict(model, x, **options):
    return model.predict(x, verbose=0, **options)


def logits(model, x=ROWS, **options):
    return predict(model, x, **options)["logits"]


def test_the_model_itself_and_afterwards_as_it_was():
    """Whatever was compiled before, inside, or not at all."""
    for compiled_before in (True, False):
        base = subclassed()
        plain = to_numpy(base(ROWS)["logits"])
        if compiled_before:
            predict(base, ROWS)
        function = base.predict_function
        edited = edit_model(base, {"blocks.0": sample[1].set(3.0)})
        expected = logits(edited)
        for _ in range(2):
            with edited.applied():
                check_close(logits(base), expected)
                check_close(base(ROWS)["logits"], expected)
            assert base.predict_function is function
            check_close(base(ROWS)["logits"], plain)
        check_close(logits(base), plain)
        assert abs(plain - expected).max() > 0.01


def test_entered_again_it_is_not_traced_again_unless_values_have_changed():
    base = subclassed()
    edited = edit_model(base, {"blocks.0": sample[1].set(3.0)})
    with edited.applied():
        first = logits(base)
    traces = base.traces
    with edited.applied():
        check_close(logits(base), first)
    assert base.traces - traces == (0 if COMPILES else 1)
    edited.values("blocks.0")[0].assign(-1.0)
    with edited.applied():
        second = logits(base)
    check_close(second, logits(edited))
    assert abs(second - first).max() > 0.01


def test_compiling_the_model_anew_drops_what_was_compiled_inside():
    base = subclassed()
    edited = edit_model(base, {"blocks.0": sample[1].set(3.0)})
    for eagerly in (False, True, False):
        base.compile(run_eagerly=eagerly)
        traces = base.traces
        with edited.applied():
            logits(base)
        assert base.traces > traces
        with edited.applied():
            base.compile(run_eagerly=eagerly)
        traces = base.traces
        with edited.applied():
            logits(base)
        assert base.traces > traces


def test_an_exception_inside_the_block():
    base = sequential()
    plain = predict(base, ROWS)
    function = base.predict_function
    edited = edit_model(base, {"dense_1": sample[0].set(3.0)})
    with pytest.raises(ZeroDivisionError), edited.applied():
        assert (predict(base, ROWS)[:, 0] == 3).all()
        raise ZeroDivisionError
    assert base.predict_function is function
    np.testing.assert_array_equal(predict(base, ROWS), plain)
    with edited.applied():
        assert (predict(base, ROWS)[:, 0] == 3).all()

    def failing(x):
        raise ZeroDivisionError

    edited = edit_model(base, {"dense": sample[0].apply(failing)})
    with pytest.raises(ZeroDivisionError), edited.applied():
        predict(base, ROWS)
    np.testing.assert_array_equal(predict(base, ROWS), plain)


def test_calls_are_counted_in_each_call_of_the_model():
    """Not from batch to batch, nor from one trace to the next."""
    base = shared()
    edited = edit_model(base, {site("shared", call=1): sample[0].set(0.5)})
    expected = predict(edited, ROWS)
    with edited.applied():
        check_close(predict(base, ROWS, batch_size=4), expected)
        check_close(base(ROWS), expected)
        with pytest.raises(OperandError, match="Drop `call`"):
            base.get_layer("shared")(ROWS)


def test_edited_models_inside_the_block_compute_what_they_do_outside():
    base = sequential()
    edited = edit_model(base, {"dense_1": sample[0].add(1.0)})
    plain, expected = predict(base, ROWS), predict(edited, ROWS)
    fresh = edit_model(base, {"dense_1": sample[0].add(1.0)})
    other = edit_model(base, {"dense_1": sample[1].add(5.0)})
    with edited.applied():
        for model in (edited, fresh):
            check_close(predict(model, ROWS), expected)
        check_close(predict(other, ROWS)[:, 0], plain[:, 0])
        check_close(predict(base, ROWS), expected)
        check_close(predict(capture(base, "dense_1"), ROWS)["dense_1"], plain)
        for model in (edited, other):
            with pytest.raises(OperandError, match="applied"), model.applied():
                pass
        check_close(predict(base, ROWS), expected)
    check_close(predict(fresh, ROWS), expected)
    check_close(predict(base, ROWS), plain)


def test_methods_of_a_model_that_holds_it_are_refused():
    """For what they compile would go on editing."""
    base = sequential()
    inputs = keras.Input((4,))
    owner = keras.Model(inputs, base(inputs), name="owner")
    plain = to_numpy(owner(ROWS))
    edited = edit_model(base, {"dense_1": sample[0].set(3.0)})

    class Holder(keras.Model):  # one in a method of which the block is, is none of these
        def steered(self):
            with edited.applied():
                return predict(base, ROWS)

    assert (Holder().steered()[:, 0] == 3).all()
    with edited.applied():
        for run in (owner, owner.predict_on_batch):
            with pytest.raises(OperandError, match=r"a method of 'owner'.*Edit that model"):
                run(ROWS)
        assert (to_numpy(base(ROWS))[:, 0] == 3).all()
    check_close(owner(ROWS), plain)
    check_close(predict(owner, ROWS), plain)


def test_another_thread_finds_the_layers_as_they_are():
    base = sequential()
    plain, found = to_numpy(base(ROWS)), []
    with edit_model(base, {"dense_1": sample[0].set(3.0)}).applied():
        thread = threading.Thread(target=lambda: found.append(to_numpy(base(ROWS))))
        thread.start()
        thread.join(60)
        assert (to_numpy(base(ROWS))[:, 0] == 3).all()
    np.testing.assert_array_equal(found[0], plain)


def check_elsewhere(base, edited, plain):
    """What another task or thread finds while edits are applied to a model."""
    np.testing.assert_array_equal(to_numpy(base(ROWS)), plain)
    for method in (base.predict, base.predict_on_batch):
        with pytest.raises(OperandError, match=r"that applies them. Received: .*`edited.predict"):
            method(ROWS)
    assert (predict(edited, ROWS)[:, 0] == 3).all()
    with pytest.raises(OperandError, match="in another task or thread"), edited.applied():
        pass


def test_other_tasks_and_threads_do_not_use_what_a_block_compiles():
    base = sequential()
    plain = to_numpy(base(ROWS))
    edited = edit_model(base, {"dense_1": sample[0].set(3.0)})
    entered, checked = asyncio.Event(), asyncio.Event()

    async def applying():
        with edited.applied():
            assert (predict(base, ROWS)[:, 0] == 3).all()
            entered.set()
            await checked.wait()
            assert (await asyncio.to_thread(predict, base, ROWS))[0, 0] == 3  # of this task
            assert (predict(base, ROWS)[:, 0] == 3).all()

    async def beside():
        await entered.wait()
        check_elsewhere(base, edited, plain)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(check_elsewhere, base, edited, plain).result(60)
        checked.set()

    async def both():
        await asyncio.gather(applying(), beside())

    asyncio.run(both())
    check_close(predict(base, ROWS), plain)
    with edited.applied():
        assert (predict(base, ROWS)[:, 0] == 3).all()


@pytest.mark.parametrize("operand", [OtherRun(), Fed("v")], ids=repr)
def test_what_only_the_edited_model_is_given_is_refused(operand):
    edited = edit_model(sequential(), {"dense": sample[0].set(operand)})
    with pytest.raises(OperandError, match=r"Received.*Call the edited model"), edited.applied():
        pass


def test_the_mean_of_the_batch_needs_nothing():
    base = sequential()
    edited = edit_model(base, {"dense_1": sample[0].set(BatchMean())})
    with edited.applied():
        assert np.ptp(predict(base, ROWS)[:, 0]) < 1e-6


# --- Edits that are never reached ----------------------------------------------------------------


def attending(**options):
    inputs = keras.Input((3, 4))
    attention = keras.layers.MultiHeadAttention(2, 2, name="attention", **options)
    return keras.Model(inputs, attention(inputs, inputs))


SEQUENCES = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
CURE = r"`site\('attention', 'pattern'\)`"


def test_fused_attention_is_never_reached():
    base = attending()
    plain = predict(base, SEQUENCES)
    edited = edit_model(base, {"attention/_softmax": sample[..., 0].set(0.0)})
    for run in (edited, lambda x: predict(edited, x)):
        with pytest.raises(OperandError, match=CURE):
            run(SEQUENCES)
    with pytest.raises(OperandError, match=CURE):
        predict(capture(base, "attention/_softmax"), SEQUENCES)
    with pytest.raises(OperandError, match=CURE), edited.applied():
        predict(base, SEQUENCES)
    np.testing.assert_array_equal(predict(base, SEQUENCES), plain)


def test_the_cure_for_fused_attention():
    """With the scores asked for, a head that may attend to one position alone gives its value."""
    inputs = keras.Input((3, 4))
    attention = keras.layers.MultiHeadAttention(2, 2, name="attention", seed=0)
    outputs, scores = attention(inputs, inputs, return_attention_scores=True)
    base = keras.Model(inputs, [outputs, scores])
    edit = sample[..., 0].set(1.0) | sample[..., 1:].set(0.0)
    edited = edit_model(base, {"attention/_softmax": edit})
    outputs, scores = predict(edited, SEQUENCES)
    assert (scores == [1, 0, 0]).all()
    assert np.ptp(outputs, axis=1).max() < 1e-6


@pytest.mark.parametrize("layer", [keras.layers.LSTM, keras.layers.GRU], ids=lambda c: c.__name__)
def test_cells_of_recurrent_layers(layer):
    """One meaning on every backend, whichever computes them by one operation."""
    for options, wrap in (({}, lambda one: one), ({}, keras.layers.Bidirectional)):
        base = keras.Sequential([keras.Input((3, 4)), wrap(layer(2, name="rnn", **options))])
        address = "rnn/cell" if wrap is not keras.layers.Bidirectional else "*/forward_layer/cell"
        for make in (lambda m, a: edit_model(m, {a: sample[0].set(0.0)}), capture):
            with pytest.raises(OperandError, match="use_cudnn=False"):
                make(base, address)
    base = keras.Sequential([keras.Input((3, 4)), layer(2, use_cudnn=False, name="rnn")])
    found = predict(edit_model(base, {"rnn/cell": sample[0].set(0.5)}), SEQUENCES)
    assert (found[:, 0] == 0.5).all()
    assert (found[:, 1] != 0.5).all()


def test_layers_that_are_never_called():
    class Spare(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.spare = keras.layers.Dense(4), keras.layers.Dense(4)
            self.spare.build((None, 4))

        def call(self, inputs):
            return self.used(inputs)

    base = Spare()
    base(ROWS)
    edited = edit_model(base, {"spare": sample[0].set(0.0)})
    before = [to_numpy(v).copy() for v in base.variables]
    with pytest.raises(OperandError, match=r"Received: `spare`.*did not call"):
        predict(edited, ROWS)
    for variable, value in zip(base.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)


def test_a_tied_embedding_is_called_twice():
    """Once to embed, once for the logits: `call` says which."""

    class Tied(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.embeddings = self.add_weight((5, 4), initializer="normal")

        def call(self, inputs, reverse=False):
            table = ops.convert_to_tensor(self.embeddings)
            if reverse:
                return ops.matmul(inputs, ops.transpose(table))
            return ops.matmul(ops.one_hot(inputs % 5, 5), table)

    inputs = keras.Input((3,), dtype="int32")
    layer = Tied(name="embed")
    base = keras.Model(inputs, layer(layer(inputs), reverse=True))
    tokens = np.array([[0, 1, 2], [4, 3, 0]])
    table = to_numpy(layer.embeddings)
    h = table[tokens].copy()
    h[..., 1] = 2
    edit = sample[..., 1].set(2.0)
    check_close(predict(edit_model(base, {site("embed", call=0): edit}), tokens), h @ table.T)
    found = predict(edit_model(base, {"embed": edit}), tokens)
    assert (found[..., 1] == 2).all()
    check_close(found[..., 0], (h @ table.T)[..., 0])


# --- Activations, and gradients with respect to them ---------------------------------------------


def test_activations_in_batches_of_every_size():
    base = convolutional()
    acts = capture(base, ["conv", site("norm", "input"), "head"])
    whole = predict(acts, IMAGES)
    assert list(whole) == ["conv", "head", "norm:input"]
    np.testing.assert_array_equal(whole["conv"], whole["norm:input"])
    check_close(whole["head"], predict(base, IMAGES))
    for size in (1, 4):
        for name, array in predict(acts, IMAGES, batch_size=size).items():
            check_close(array, whole[name])
    assert whole["conv"].shape == (6, 4, 4, 5)


def test_activations_of_an_edited_model_are_those_after_its_edits():
    base = sequential()
    edited = edit_model(base, {"dense": sample[0].set(2.0)})
    acts = predict(capture(edited, ["dense", site("dense_1", "input")]), ROWS)
    assert (acts["dense"][:, 0] == 2).all()
    assert (acts["dense_1:input"][:, 0] == 2).all()
    assert (predict(capture(base, "dense"), ROWS)["dense"][:, 0] != 2).all()


@pytest.mark.gradient
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_gradients_in_closed_form(policy):
    """Of a square of the outputs, with a partial last batch, whatever policy reigns."""
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((4,))
        h = keras.layers.Dense(5, name="h", dtype="float32")(inputs)
        base = keras.Model(inputs, keras.layers.Dense(3, name="out", dtype="float32")(h))
        acts = capture(base, ["h", "out"])
        found = acts.gradients(ROWS, lambda y: ops.sum(y**2, axis=-1), batch_size=4)
    finally:
        keras.config.set_dtype_policy("float32")
    y = to_numpy(base(ROWS))
    check_close(found["out"], 2 * y)
    check_close(found["h"], 2 * y @ to_numpy(base.get_layer("out").kernel).T)
    assert all(array.dtype == "float32" for array in found.values())


@pytest.mark.gradient
def test_gradients_of_an_edited_model():
    """What an edit overwrites has none from below it; another run is given by name."""
    base = sequential()
    edited = edit_model(base, {"dense": sample[:2].set(OtherRun())})
    acts = capture(edited, ["dense", site("dense", "input")])
    before = [to_numpy(v).copy() for v in base.variables]
    given = {"inputs": ROWS, "other": ROWS[::-1].copy()}
    found = acts.gradients(given, lambda y: y[:, 1], batch_size=6)
    first, _, last = base.layers
    upstream = np.tile(to_numpy(last.kernel)[:, 1], (6, 1))
    check_close(found["dense"], upstream)
    h = to_numpy(first(ROWS))
    slope = upstream * (1 - h**2) * [0, 0, 1, 1, 1]
    check_close(found["dense:input"], slope @ to_numpy(first.kernel).T)
    for variable, value in zip(base.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)


@pytest.mark.gradient
def test_gradients_at_sites_that_are_named_twice():
    """By patterns that overlap, or as one call and as each call."""
    inputs, layer = keras.Input((4,)), keras.layers.Rescaling(3.0, name="twice")
    base = keras.Model(inputs, keras.layers.Rescaling(5.0, name="end")(layer(layer(inputs))))
    acts = capture(base, ["twice", "*", site("twice", call=1), site("twice", call=0)])
    expected = {"end": 1, "twice": 15, "twice#0": 15, "twice#1": 5}
    found = acts.gradients(ROWS, lambda y: ops.sum(y, axis=-1))
    assert list(found) == list(expected)
    for name, slope in expected.items():
        np.testing.assert_array_equal(found[name], np.full((6, 4), slope))


@pytest.mark.gradient
def test_activations_and_gradients_are_those_of_inference():
    """Also of a model that `fit` would train in all of its parts."""
    layers = [keras.layers.Rescaling(3.0, name="h"), keras.layers.BatchNormalization(epsilon=0.0)]
    base = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dropout(0.5, name="end")])
    before = [to_numpy(v).copy() for v in base.variables]
    acts = capture(edit_model(base, {"h": sample[0].add(1.0)}, train="all"), ["h", "end"])
    found = acts.gradients(ROWS, lambda y: ops.sum(y, axis=-1))
    np.testing.assert_array_equal(found["h"], np.ones((6, 4)))
    in_training = acts(ROWS, training=True)
    check_close(in_training["end"], 3 * ROWS + [1, 0, 0, 0])
    for variable, value in zip(base.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)


@pytest.mark.gradient
@pytest.mark.parametrize("place", ["wrapped/encode", "wrapped", site("read", "input")], ids=str)
def test_gradients_where_positions_are_masked(place):
    """The score sums the positions that are not masked, so the gradient is 1 there."""
    inputs = keras.Input((4,), dtype="int32")
    encode = keras.layers.Embedding(5, 2, mask_zero=True, name="encode")
    encoded = keras.Sequential([inputs, encode], name="wrapped")(inputs)
    base = keras.Model(inputs, Unmasked(name="read")(encoded))
    x = np.array([[1, 2, 0, 0], [3, 0, 4, 2]], "int32")
    (found,) = capture(base, place).gradients(x, lambda y: ops.sum(y, axis=(1, 2))).values()
    np.testing.assert_array_equal(found, np.repeat(x[..., None] != 0, 2, axis=2))


class Masked(keras.layers.Layer):
    """Puts zeros at the masked positions."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, x, mask=None):
        """Leave all as it is without a mask."""
        return x if mask is None else x * ops.cast(mask, x.dtype)[..., None]


class Unmasked(keras.layers.Layer):
    """Holds a layer that takes the mask, and does not take it itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.inner = Masked()

    def call(self, x):
        """Return what the inner layer makes of it."""
        return self.inner(x)


@pytest.mark.gradient
def test_an_activation_of_integers_has_no_gradient():
    inputs = keras.Input((3,))
    h = keras.layers.Discretization([0.0, 1.0], name="bins")(inputs)
    base = keras.Model(inputs, keras.layers.Embedding(3, 2)(h))
    with pytest.raises(OperandError, match="floats"):
        capture(base, "bins").gradients(ROWS[:, :3], lambda y: ops.sum(y, axis=(1, 2)))


def test_no_activations_are_called_for_and_none_come():
    assert predict(capture(sequential(), []), ROWS) == {}


def test_a_subclassed_base_that_was_never_called():
    """Is built when its edited model is run, or captured."""
    edited = edit_model(Subclassed(), {"blocks.0": sample[1].set(3.0), "norm": sample[0].set(0.0)})
    assert (predict(edited, ROWS)["rest"][1][:, 0] == 0).all()
    acts = predict(capture(Subclassed(), "blocks.0"), ROWS)
    assert acts["blocks.0"].shape == (6, 4)
