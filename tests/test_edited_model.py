"""Edited activations of models of every kind, beside the same computed piece by piece."""

import threading

import keras
import numpy as np
import pytest
from _backend import BACKEND, to_numpy
from keras import ops
from kit import check_close, saved_and_loaded
from networks import (
    IMAGES,
    KINDS,
    ROWS,
    convolutional,
    nested,
    sequential,
    shared,
    subclassed,
)

from kedit import Trainable, X, at, sample
from kedit.errors import EditError, OperandError, PositionError, SavingError
from kedit.interventions import (
    BatchMean,
    EditedModel,
    Fed,
    LayerInput,
    OtherRun,
    Rotated,
    capture,
    edit_model,
    prune,
    save_edits,
    site,
    sites,
)

RNG = np.random.default_rng(0)


def predict(model, x, **options):
    return model.predict(x, verbose=0, **options)


def held(model):
    """All that a model holds, bit for bit."""
    return [to_numpy(variable).copy() for variable in model.variables]


def check_same(found, expected):
    """Bit for bit, in every leaf."""
    keras.tree.assert_same_structure(found, expected)
    for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def check_all_close(found, expected, tolerance=1e-5):
    keras.tree.assert_same_structure(found, expected)
    for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        check_close(one, to_numpy(ops.cast(other, "float32")), rtol=tolerance, atol=tolerance)


def differ(one, other):
    pairs = zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True)
    return all([(a != b).any() for a, b in pairs])


# --- Models of every kind ------------------------------------------------------------------------


# On NumPy, Keras says that it quantizes without gradients.
@pytest.mark.filterwarnings("ignore:.*custom_gradient.*numpy:UserWarning")
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_models_of_every_kind(kind):
    """Nothing, a unit, a condition, another run, itself; and the base is as it was."""
    base, x = kind.make(), kind.x
    other = x[::-1].copy()
    before = held(base), predict(base, x), base.predict_function
    check_same(predict(edit_model(base, {}), x), before[1])

    def zeroed(h):
        h[..., 2] = 0
        return h

    def doubled(h):
        return np.where(h > 0, 2 * h, h)

    edited = edit_model(base, {kind.site: sample[..., 2].set(0.0)})
    found = predict(edited, x)
    check_all_close(found, kind.by_hand(base, x, zeroed), kind.tolerance)
    assert differ(found, before[1])
    twice = edit_model(edited, {kind.site: at.where(X > 0).multiply(2.0)})(x)
    check_all_close(twice, kind.by_hand(base, x, lambda h: doubled(zeroed(h))), kind.tolerance)

    patched = edit_model(base, {kind.site: sample[...].set(OtherRun())})
    if x.dtype != "int64":  # where the lengths of the one sequences count, too
        check_same(predict(patched, {"inputs": x, "other": other}), predict(base, other))
    check_same(predict(patched, {"inputs": x, "other": x}), before[1])

    check_same(held(base), before[0])
    assert base.predict_function is before[2]
    check_same(predict(base, x), before[1])
    check_same(held(base), before[0])


def test_shapes_and_dtypes_of_symbols_and_a_model_as_a_layer(tmp_path):
    """Inside another model, of whose weights those of the base are a part."""
    base = nested()
    edited = edit_model(base, {"tower/out": sample[1].set(2.0)}, name="edited")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Rescaling(10.0)(edited(inputs)))
    assert model.output_shape == (None, 2)
    h = base.get_layer("tower")(base.get_layer("first")(ROWS))
    h = to_numpy(h).copy()
    h[:, 1] = 2
    expected = to_numpy(base.get_layer("last")(ops.convert_to_tensor(h))) * 10
    check_close(predict(model, ROWS), expected)
    address = "edited/base/tower/out"
    assert address in [info.address for info in sites(model)]
    twice = edit_model(model, {address: sample[1].add(1.0)})
    h[:, 1] = 3  # the outer edit finds what the inner one has made
    expected = to_numpy(base.get_layer("last")(ops.convert_to_tensor(h))) * 10
    check_close(predict(twice, ROWS), expected)
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    check_close(predict(loaded, ROWS), predict(model, ROWS))


def test_a_wrapper_of_a_wrapper_edits_in_the_order_of_making():
    base = sequential()
    inner = edit_model(base, {"dense": sample[1].set(2.0)})
    outer = edit_model(inner, {"dense": sample[1].multiply(3.0)})
    assert outer.base is base
    assert [str(s) for s, _ in outer.edits] == ["dense", "dense"]
    acts = predict(capture(outer, "dense"), ROWS)["dense"]
    assert (acts[:, 1] == 6).all()
    assert (predict(capture(inner, "dense"), ROWS)["dense"][:, 1] == 2).all()
    inner.values("dense")[0].assign(5.0)  # which both hold
    assert (predict(capture(outer, "dense"), ROWS)["dense"][:, 1] == 15).all()


def test_batches_of_another_size_and_partial_last_ones():
    base = convolutional()
    edited = edit_model(base, {"conv": sample[1:3, 2, [0, -1]].add(np.ones((2, 1)))})
    whole = predict(edited, IMAGES)
    for size in (1, 4, 5):
        check_close(predict(edited, IMAGES, batch_size=size), whole)
    check_close(predict(edited, IMAGES[:2]), whole[:2])
    check_close(edited(IMAGES[:3]), whole[:3])


def test_edits_at_inputs_leaves_and_calls():
    base = shared()
    layer = base.get_layer("shared")
    h = to_numpy(layer(ROWS)).copy()
    h = to_numpy(ops.sin(ops.convert_to_tensor(h)) * 2).copy()
    h[:, 3] = 1
    h = to_numpy(layer(ops.convert_to_tensor(h)))
    edited = edit_model(base, {site("shared", "input", call=1): sample[3].set(1.0)})
    check_close(predict(edited, ROWS), np.concatenate([h, h**2], -1))
    both = edit_model(base, {"shared": sample[0].set(0.5)})
    acts = predict(capture(both, "shared"), ROWS)
    assert list(acts) == ["shared", "shared#1"]
    assert all((act[:, 0] == 0.5).all() for act in acts.values())
    with pytest.raises(OperandError, match="called 3 times"):
        predict(edit_model(base, {site("shared", call=2): sample[0].set(0.0)}), ROWS)


class Taking(keras.layers.Layer):
    """A layer of arguments and outputs of many names."""

    def call(self, inputs, extra=None, scale=None):
        first, second = inputs["first"], inputs["second"]
        out = first + second + (0 if extra is None else extra[0])
        return {"sum": out * scale, "parts": (first, [second])}


class WithTaking(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.taking = Taking()

    def call(self, inputs):
        given = {"first": inputs, "second": inputs * 10}
        return self.taking(given, extra=[inputs * 100], scale=ops.ones_like(inputs))


@pytest.mark.parametrize(
    ("where", "leaf", "expected"),
    [
        ("input", 0, {"sum": 110, "first": 0, "second": 10}),
        ("input", 1, {"sum": 101, "first": 1, "second": 0}),
        ("input", -1, {"sum": 101, "first": 1, "second": 0}),
        ("input", "extra/0", {"sum": 11, "first": 1, "second": 10}),
        ("input", "scale", {"sum": 0, "first": 1, "second": 10}),
        ("output", 0, {"sum": 111, "first": 0, "second": 10}),
        ("output", "sum", {"sum": 0, "first": 1, "second": 10}),
        ("output", "parts/1/0", {"sum": 111, "first": 1, "second": 0}),
    ],
)
def test_leaves(where, leaf, expected):
    model = WithTaking()
    place = site("taking", where, leaf)
    x = np.ones((2, 3), "float32")
    found = predict(edit_model(model, {place: sample[1].set(0.0)}), x)
    flat = {"sum": found["sum"], "first": found["parts"][0], "second": found["parts"][1][0]}
    whole = {"sum": 111, "first": 1, "second": 10}
    for name, array in flat.items():
        assert array[:, 1].tolist() == [expected[name]] * 2
        assert (array[:, [0, 2]] == whole[name]).all()


@pytest.mark.parametrize(
    ("where", "leaf"),
    [
        ("input", 2),
        ("output", 3),
        ("output", -4),
        ("output", "nothing"),
        ("input", "extra/1"),
        ("output", "parts/2"),
        ("output", "sum/0"),
        ("input", "inputs"),
    ],
)
def test_leaves_that_are_not_there(where, leaf):
    model = WithTaking()
    edited = edit_model(model, {site("taking", where, leaf): sample[1].set(0.0)})
    with pytest.raises(PositionError, match=r"Received: leaf="):
        edited(np.ones((2, 3), "float32"))
    assert model(np.ones((2, 3), "float32"))["sum"].shape == (2, 3)


def test_an_input_that_is_given_by_name():
    layer, x = Plus(name="h"), np.ones((2, 3), "float32")
    model = ByName(layer)
    for named in ("states", "more"):
        edited = edit_model(model, {site("h", "input", named): sample[1].set(5.0)})
        check_close(to_numpy(edited(x)), [[2, 6, 2]] * 2)
    fix = "leaf=0. Of its keyword arguments, write `leaf='states'`"
    for key, operand in ((site("h", "input"), 0.0), ("h", LayerInput())):
        with pytest.raises(PositionError, match=fix):
            edit_model(model, {key: sample[1].set(operand)})(x)


class Plus(keras.layers.Layer):
    """Adds what it is given."""

    def call(self, states=None, more=None):
        """Return the sum."""
        return states + more


class ByName(keras.Model):
    """Calls a layer with keyword arguments only."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        """Return what the layer makes of it."""
        return self.layer(states=x, more=x)


# --- What only a run has -------------------------------------------------------------------------


def test_numbers_are_held_as_the_activation_is_whatever_policy_reigns():
    """In bfloat16, 1.001 would be 1."""
    layer = keras.layers.Rescaling(1.0, name="h", dtype="float32")
    base = keras.Sequential([keras.Input((3,), dtype="float32"), layer])
    edit = sample[0].set(1.001) | sample[1].set(Trainable(1.001))
    keras.config.set_dtype_policy("bfloat16")
    try:
        edited = edit_model(base, {"h": edit})
        found = to_numpy(edited(np.zeros((1, 3), "float32")))
    finally:
        keras.config.set_dtype_policy("float32")
    check_close(found, [[1.001, 1.001, 0.0]], 1e-6)


def test_part_of_another_run():
    base = convolutional()
    other = IMAGES[::-1].copy()
    edited = edit_model(base, {"conv": sample[1:, ..., [0, 2]].set(OtherRun())})
    acts = capture(base, "conv")
    h, theirs = predict(acts, IMAGES)["conv"], predict(acts, other)["conv"]
    h[:, 1:, ..., [0, 2]] = theirs[:, 1:, ..., [0, 2]]
    given = {"inputs": IMAGES, "other": other}
    np.testing.assert_array_equal(predict(capture(edited, "conv"), given)["conv"], h)
    check_close(predict(edited, given, batch_size=4), predict(edited, given))


def test_two_other_runs_and_arithmetic_between_them():
    base = sequential()
    mean = (OtherRun("one") + OtherRun("two")) / 2
    edited = edit_model(base, {"dense": sample[...].set(mean), "dense_1": sample[0].set(Fed("v"))})
    one, two = ROWS[::-1].copy(), ROWS * 2
    given = {"inputs": ROWS, "one": one, "two": two, "v": np.arange(6.0, dtype="float32")}
    dense, _, last = base.layers
    h = (to_numpy(dense(one)) + to_numpy(dense(two))) / 2
    expected = to_numpy(last(ops.convert_to_tensor(h))).copy()
    expected[:, 0] = np.arange(6)
    check_close(predict(edited, given, batch_size=4), expected)


@pytest.mark.parametrize("shape", [(6, 2), (6, 1)])
def test_fed_by_example(shape):
    base = sequential()
    values, gate = RNG.normal(size=shape).astype("float32"), np.array([1, 0, 1, 1, 0, 0])
    edit = sample[1:3].where(Fed("gate") > 0).add(Fed("v"))
    given = {"inputs": ROWS, "v": values, "gate": gate[:, None].astype("float32")}
    h = to_numpy(base.layers[0](ROWS)).copy()
    h[:, 1:3] += np.where(gate[:, None] > 0, values, 0)
    found = predict(edit_model(base, {"dense": edit}), given, batch_size=4)
    check_close(found, to_numpy(base.layers[2](ops.convert_to_tensor(h))))


def test_mean_of_the_batch():
    base = sequential()
    edited = edit_model(base, {"dense": sample[1:3].set(BatchMean())})
    h = to_numpy(base.layers[0](ROWS)).copy()
    h[:, 1:3] = h[:, 1:3].mean(0)
    check_close(predict(edited, ROWS), to_numpy(base.layers[2](ops.convert_to_tensor(h))))


def test_a_rotation_exchanges_a_subspace():
    base = sequential()
    start = RNG.normal(size=(5, 2)).astype("float32")
    edited = edit_model(base, {"dense": sample[...].set(Rotated(rank=2, initializer=start))})
    other = ROWS[::-1].copy()
    basis = np.linalg.qr(start)[0]
    h, theirs = to_numpy(base.layers[0](ROWS)), to_numpy(base.layers[0](other))
    expected = h + (theirs - h) @ basis @ basis.T
    found = predict(capture(edited, "dense"), {"inputs": ROWS, "other": other})["dense"]
    check_close(found, expected)
    whole = edit_model(base, {"dense": sample[...].set(Rotated(rank=5))})
    found = predict(capture(whole, "dense"), {"inputs": ROWS, "other": other})["dense"]
    check_close(found, theirs)


def test_two_rotations_at_one_site_are_two_weights_and_one_object_is_one():
    base, one = sequential(), Rotated(rank=2)
    for edit, count in (
        (sample[...].set(Rotated(rank=2)) | sample[...].set(Rotated(rank=2)), 2),
        (sample[...].set(one) | sample[...].set(one), 1),
    ):
        edited = edit_model(base, {"dense": edit}, train="edits")
        assert len(edited.trainable_weights) == count
        assert len({weight.path for weight in edited.trainable_weights}) == count
        again = type(edit).from_config(edit.get_config())
        assert again == edit
        both = edit_model(base, {"dense": again}, train="edits")
        assert len(both.trainable_weights) == count


@pytest.mark.parametrize(
    "given",
    [
        ROWS,
        {"inputs": ROWS},
        {"inputs": ROWS, "other": ROWS},
        {"inputs": ROWS, "other": ROWS, "gates": ROWS},
        {"inputs": ROWS, "other": ROWS, "gate": ROWS, "more": ROWS},
    ],
    ids=["an array", "two missing", "one missing", "misspelt", "too many"],
)
def test_names_that_are_missing_in_the_inputs(given):
    edit = sample[...].where(Fed("gate") > 0).set(OtherRun())
    edited = edit_model(sequential(), {"dense": edit})
    with pytest.raises(OperandError, match=r"'gate', 'inputs', 'other'.*Received.*Write"):
        edited(given)


@pytest.mark.parametrize(
    "use",
    [
        lambda edited: edited(ROWS),
        lambda edited: predict(edited, ROWS),
        lambda edited: capture(edited, "shared")(ROWS),
        lambda edited: predict(capture(edited, "shared"), ROWS),
        pytest.param(
            lambda edited: edited.fit(ROWS, np.ones((6, 8)), verbose=0), marks=pytest.mark.gradient
        ),
        lambda edited: edited.evaluate(ROWS, np.ones((6, 8)), verbose=0),
        lambda edited: edited.predict_on_batch(ROWS),
    ],
)
@pytest.mark.parametrize(
    ("key", "edit", "message"),
    [
        (site("shared", call=2), sample[0].set(0.0), "An edit should be at a layer that is"),
        (site("shared", leaf=3), sample[0].set(0.0), "`leaf` should be the number of a tensor"),
        ("shared", sample[0].set(Fed("v")), "An edited model with operands from elsewhere should"),
        (
            "shared",
            at[...].apply(lambda x: x[..., :1]),
            "A function of the selected elements should",
        ),
    ],
)
def test_errors_in_a_run_are_as_kedit_wrote_them(use, key, edit, message):
    edited = EditedModel(Unknown(), {key: edit}, train="all")
    edited.compile("sgd", "mse")
    with pytest.raises(EditError) as raised:
        use(edited)
    assert str(raised.value).startswith(message)
    assert not any(
        [sign in str(raised.value) for sign in ("\x1b", "Exception enc", "Arguments re")]
    )


class Unknown(keras.Model):
    """A model that is not built, so that nothing is checked before it runs."""

    def __init__(self):
        super().__init__()
        self.shared = keras.layers.Dense(4)

    def call(self, inputs):
        h = self.shared(self.shared(inputs))
        return ops.concatenate([h, h], axis=-1)


# --- The base is left alone ----------------------------------------------------------------------


def test_another_thread_finds_the_base_as_it_is():
    """While an edit is being applied, and while two edited models run at once."""
    base = sequential()
    expected, found = to_numpy(base(ROWS)), []

    def elsewhere(x):
        thread = threading.Thread(target=lambda: found.append(to_numpy(base(ROWS))))
        thread.start()
        thread.join(60)
        return x * 0

    edited = edit_model(base, {"dense": at[...].apply(elsewhere)})
    bias = to_numpy(base.layers[2].bias)
    for _ in range(2):
        np.testing.assert_array_equal(to_numpy(edited(ROWS)), np.tile(bias, (6, 1)))
    assert len(found) == 2
    check_same(found, [expected] * 2)


def test_two_edited_models_in_two_threads():
    base = sequential()
    models = [edit_model(base, {"dense_1": sample[0].set(float(n))}) for n in range(2)]
    gate, wrong = threading.Barrier(3, timeout=60), []

    def work(model, number):
        gate.wait()
        for _ in range(25):
            if number is None:
                wrong.append((to_numpy(base(ROWS)) != plain).any())
            else:
                wrong.append((to_numpy(model(ROWS))[:, 0] != number).any())

    plain = to_numpy(base(ROWS))
    jobs = [(models[0], 0), (models[1], 1), (None, None)]
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(wrong) == 75
    assert not any(wrong)
    assert "call" not in vars(base.layers[2])


def test_an_exception_inside_an_edit_leaves_no_trace():
    """In the first batch, and in a later one, when a compiler has taken over the weights."""
    base = sequential()
    expected, before = predict(base, ROWS), held(base)

    def failing(x):
        if x.shape[0] != 4:
            raise RuntimeError("inside")
        return x

    edited = edit_model(base, {"dense": at[...].apply(failing), "dense_1": sample[0].set(0.0)})
    acts = capture(edited, "dense")
    for run in (
        lambda: edited(ROWS),
        lambda: predict(edited, ROWS),
        lambda: predict(edited, ROWS[:4]) is predict(edited, ROWS, batch_size=4),
        lambda: predict(edited, ROWS),
        lambda: predict(acts, ROWS),
    ):
        with pytest.raises(RuntimeError, match="inside"):
            run()
        assert all("call" not in vars(layer) for layer in base.layers)
        check_same(held(base), before)
        check_same(predict(base, ROWS), expected)
    base.layers[0].kernel.assign(before[0] * 2)  # no value of an earlier run comes back
    with pytest.raises(RuntimeError, match="inside"):
        predict(edited, ROWS)
    check_same(to_numpy(base.layers[0].kernel), before[0] * 2)


def test_losses_of_the_base_do_not_pile_up():
    inputs = keras.Input((4,))
    layer = keras.layers.Dense(3, activity_regularizer="l2", name="h")
    base = keras.Model(inputs, layer(inputs))
    assert len(base.losses) == 0
    edited = edit_model(base, {"h": sample[0].set(0.0)})
    assert len(base.losses) == 0
    edited(ROWS)
    assert len(edited.losses) == 1


def test_no_call_of_the_base_is_compiled_again():
    base = subclassed()
    predict(base, ROWS)
    edited = edit_model(base, {"blocks.0": sample[0].set(0.0)})
    predict(edited, ROWS)
    traces = base.traces
    predict(edited, ROWS)
    predict(base, ROWS)
    # PyTorch compiles nothing: it calls the model each time.
    assert base.traces - traces == (2 if BACKEND in ("torch", "numpy") else 0)


def test_other_runs_of_an_edited_model_have_its_edits(tmp_path):
    """An edit of an edited model reads what that gives for other inputs; so after saving."""
    inputs = keras.Input((2,))
    x = keras.layers.Rescaling(2.0, name="a")(inputs)
    base = keras.Model(inputs, keras.layers.Rescaling(3.0, name="b")(x))
    once = edit_model(base, {"a": sample[0].set(5.0)})
    one, other = np.ones((1, 2), "float32"), np.full((1, 2), 7.0, "float32")
    given = {"inputs": one, "other": other}
    twice = edit_model(once, {"b": sample[...].set(OtherRun())})
    check_close(twice.predict(given, verbose=0), once.predict(other, verbose=0))
    together = edit_model(base, [("a", sample[0].set(5.0)), ("b", sample[...].set(OtherRun()))])
    check_close(together.predict(given, verbose=0), base.predict(other, verbose=0))
    again = edit_model(once, {"a": sample[...].add(OtherRun())})
    check_close(again.predict(given, verbose=0), [[30.0, 48.0]])
    third = edit_model(again, {"b": sample[1].set(OtherRun("third"))})
    found = third.predict({**given, "third": 2 * one}, verbose=0)
    check_close(found, [[30.0, 54.0]])  # 3 * (2 * 2 + 2 * 7) in the third run, in which a is edited
    third.save(tmp_path / "third.keras")
    loaded = keras.saving.load_model(tmp_path / "third.keras")
    for model in (third, loaded):
        change = {**given, "third": 2 * one, "other": other + 1}
        check_close(model.predict(change, verbose=0), [[30.0, 60.0]])
    with pytest.raises(SavingError, match=r"edited itself.*edited\.save"):
        save_edits(twice, tmp_path / "edits.json")


def test_export_is_told_what_a_model_takes(monkeypatch):
    """Without a signature, Keras refuses such models: they were never called."""
    told = []
    monkeypatch.setattr(keras.Model, "export", lambda self, *given, **more: told.append(given))
    base = keras.Sequential([keras.Input((6,), name="x"), keras.layers.Dense(4, name="hidden")])
    patched = edit_model(base, {"hidden": sample[1].set(OtherRun())})
    for model in (edit_model(base, {}), capture(base, "hidden"), prune(base, "hidden/kernel", 0.5)):
        model.export("folder")
        path, form, verbose, (signature,) = told.pop()
        assert (path, form, verbose) == ("folder", "tf_saved_model", None)
        assert (signature.shape, signature.dtype, signature.name) == ((None, 6), "float32", "x")
    patched.export("folder", "onnx")
    _, form, _, (signature,) = told.pop()
    assert form == "onnx"
    assert {name: spec.shape for name, spec in signature.items()} == {
        "inputs": (None, 6),
        "other": (None, 6),
    }
    fed = edit_model(base, {"hidden": sample[1].set(Fed("value"))})
    for given in (None, ["mine"]):
        fed.export("folder", input_signature=given)
        assert told.pop()[-1] == given
