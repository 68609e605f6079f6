"""Everything that has a state, in models that know no shape until data comes."""

import inspect

import keras
import numpy as np
import pytest
from _backend import EXECUTIONS, to_numpy
from keras import ops
from kit import check_close, in_full_once, saved_and_loaded

import kedit
from kedit import Trainable, X, at, sample
from kedit._addresses import addresses
from kedit.errors import OperandError
from kedit.interventions import WeightEditing, capture, edit_model
from kedit.weights import prune

RNG = np.random.default_rng(0)
INPUT = RNG.normal(size=(8, 4)).astype("float32")
TARGET = RNG.normal(size=(8, 3)).astype("float32")

LAYERS = {
    "Editing": lambda: kedit.layers.Editing(sample[1].set(2.0)),
    "Editing with a Trainable": lambda: kedit.layers.Editing(sample[:2].add(Trainable("zeros"))),
    "Editing with a Trainable array": lambda: kedit.layers.Editing(
        sample[:2].multiply(Trainable(np.array([1.0, 2.0], "float32")))
    ),
    "Editing with a switch": lambda: kedit.layers.Editing(
        sample[1].set(2.0), when="training", switch=True
    ),
    "ConditionalModifier": lambda: kedit.layers.ConditionalModifier(
        Trainable("ones"), Trainable(0.5, constraint="non_neg"), gradient="sigmoid"
    ),
    "IndexGuide": lambda: kedit.layers.IndexGuide([0, 2], 0.5, name="guide"),
    "IndexGuide of a mean": lambda: kedit.layers.IndexGuide(
        sample[1:], lower=np.zeros(3), upper=1.0, reduce="mean", penalty=0.5
    ),
    "RandomEditing": lambda: kedit.layers.RandomEditing(
        sample[...].add(Trainable("ones")), count=4, when="always", switch=True
    ),
    "InputEditing": lambda: kedit.inputs.InputEditing(sample[0].set(0.0)),
    "WeightEditing": lambda: WeightEditing(
        keras.layers.Dense(4), {"kernel": at[0].set(0.0), "bias": at.where(X > 1.0).set(1.0)}
    ),
    "WeightEditing, twice": lambda: WeightEditing(
        WeightEditing(keras.layers.Dense(4), {"kernel": at[0].set(0.0)}), {"kernel": at[1].set(1.0)}
    ),
}
some_layers = pytest.mark.parametrize(
    "name",
    in_full_once(
        LAYERS,
        (
            "Editing with a Trainable",
            "ConditionalModifier",
            "IndexGuide",
            "RandomEditing",
            "WeightEditing",
        ),
    ),
)


class OfLayers:
    """Has layers that know no shape, and are built when it is first called."""

    def __init__(self, layers, **options):
        super().__init__(**options)
        self.inside = list(layers)

    def call(self, x, training=None):
        for layer in self.inside:
            # On JAX, Keras tells the layers in a model only what its `call` passes on.
            takes_training = "training" in inspect.signature(layer.call).parameters
            x = layer(x, training=training) if takes_training else layer(x)
        return x

    def get_config(self):
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.inside]
        return {**super().get_config(), "layers": layers}

    @classmethod
    def from_config(cls, config):
        layers = [keras.saving.deserialize_keras_object(layer) for layer in config["layers"]]
        return cls(**{**config, "layers": layers})


@keras.saving.register_keras_serializable(package="test_built_by_fit")
class OwnModel(OfLayers, keras.Model):
    """A model of a class of its own."""


@keras.saving.register_keras_serializable(package="test_built_by_fit")
class OwnLayer(OfLayers, keras.layers.Layer):
    """A layer of a class of its own."""


HOLDERS = {
    "Sequential": keras.Sequential,
    "own model": OwnModel,
    "own layer": lambda layers: keras.Sequential([OwnLayer(layers)]),
    "own layer in an own model": lambda layers: OwnModel([OwnLayer(layers[:-1]), layers[-1]]),
}
some_holders = pytest.mark.parametrize(
    "holder", in_full_once(HOLDERS, ("Sequential", "own layer in an own model"))
)
one_holder = pytest.mark.parametrize(
    "holder", in_full_once(HOLDERS, ("own layer in an own model",))
)
LOSSES = {
    "IndexPenalty": lambda: kedit.losses.IndexPenalty(2, 0.5),
    "MaskedLoss": lambda: kedit.losses.MaskedLoss("mse", ignore=0.0),
    "WeightedSum": lambda: kedit.losses.WeightedSum(["mse", kedit.losses.IndexPenalty(2, 0.5)]),
}
METRICS = {
    reduce: lambda reduce=reduce: kedit.metrics.IndexViolation(2, 0.5, reduce=reduce)
    for reduce in ("mean", "max", "satisfied")
}


def model_of(*layers, loss="mse", holder="Sequential", **options):
    model = HOLDERS[holder]([*layers, keras.layers.Dense(3, name="last")])
    model.compile("sgd", loss, **options)
    assert not model.built
    return model


def check_survives_saving(model, path):
    predicted = model.predict(INPUT, verbose=0)
    loaded = saved_and_loaded(model, path)
    check_close(loaded.predict(INPUT, verbose=0), predicted)
    for before, after in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(after), to_numpy(before))
    return loaded


@pytest.mark.gradient
@some_holders
@some_layers
def test_a_layer_is_built_by_fit(name, holder, tmp_path):
    model = model_of(LAYERS[name](), holder=holder)
    (loss,) = model.fit(INPUT, TARGET, 4, shuffle=False, verbose=0).history["loss"]
    assert np.isfinite(loss)
    loaded = check_survives_saving(model, tmp_path / "model.keras")
    losses = [
        one.fit(INPUT, TARGET, 4, shuffle=False, verbose=0).history["loss"]
        for one in (model, loaded)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@one_holder
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_built_by_predict(name, holder, tmp_path):
    check_survives_saving(model_of(LAYERS[name](), holder=holder), tmp_path / "model.keras")


@pytest.mark.tensors  # on NumPy, Keras cannot add the losses of layers to that of the model
@one_holder
@some_layers
def test_a_layer_is_built_by_evaluate(name, holder, tmp_path):
    model = model_of(LAYERS[name](), holder=holder)
    assert np.isfinite(model.evaluate(INPUT, TARGET, verbose=0))
    check_survives_saving(model, tmp_path / "model.keras")


def guide_in(model):
    layers = addresses(model).values()
    (guide,) = [layer for layer in layers if isinstance(layer, kedit.layers.IndexGuide)]
    return guide


@pytest.mark.gradient
@one_holder
@pytest.mark.parametrize(
    "options",
    [{"run_eagerly": True}, *[{"steps_per_execution": steps} for steps in EXECUTIONS[1:2]]],
    ids=str,
)
def test_all_layers_in_one_model_are_built_by_fit(options, holder, tmp_path):
    layers = {name: make() for name, make in LAYERS.items()}
    model = model_of(*layers.values(), holder=holder, **options)
    ascent = kedit.callbacks.DualAscent(layers["IndexGuide"])
    model.fit(INPUT, TARGET, 2, verbose=0, callbacks=[ascent])
    assert (to_numpy(layers["IndexGuide"].multiplier) > 0).all()
    check_survives_saving(model, tmp_path / "model.keras")


@pytest.mark.gradient
@some_holders
@pytest.mark.parametrize("by", ["name", "object"])
def test_callbacks_move_a_guide_that_fit_builds_as_one_that_was_built(by, holder, tmp_path):
    multipliers = []
    for built in (True, False):
        keras.utils.set_random_seed(0)
        guide = LAYERS["IndexGuide"]()
        named = guide if by == "object" else "guide"
        ascent = kedit.callbacks.DualAscent(named, 0.5)
        schedule = kedit.callbacks.PenaltySchedule(named, lambda epoch: 2.0 ** (epoch + 1))
        model = model_of(guide, holder=holder)
        if built:
            model(INPUT)
        model.fit(INPUT, TARGET, 4, 2, shuffle=False, verbose=0, callbacks=[ascent, schedule])
        loaded = check_survives_saving(model, tmp_path / "model.keras")
        multipliers += [to_numpy(g.multiplier) for g in (guide, guide_in(loaded))]
        assert to_numpy(guide.penalty) == 4
    assert (multipliers[0] > 0).all()
    for found in multipliers[1:]:
        check_close(found, multipliers[0])


@pytest.mark.gradient
@pytest.mark.parametrize(
    "make",
    [kedit.callbacks.DualAscent, lambda guide: kedit.callbacks.PenaltySchedule(guide, lambda _: 1)],
    ids=["DualAscent", "PenaltySchedule"],
)
def test_a_guide_that_fit_does_not_build_is_refused(make):
    """It is in another model."""
    with pytest.raises(OperandError, match="of the model that is trained"):
        model_of().fit(INPUT, TARGET, verbose=0, callbacks=[make(LAYERS["IndexGuide"]())])


@pytest.mark.once
def test_a_name_that_two_guides_have():
    model = model_of(OwnLayer([LAYERS["IndexGuide"]()]), OwnLayer([LAYERS["IndexGuide"]()]))
    with pytest.raises(OperandError, match=r"Received: 'guide', .* of 2 of them.*\(guide\)`"):
        model.fit(INPUT, TARGET, verbose=0, callbacks=[kedit.callbacks.DualAscent("guide")])


class Forgetful(OwnModel):
    """Does not tell its layers whether it is trained, which on JAX Keras does not, either."""

    def call(self, x):
        return super().call(x)


@pytest.mark.once
@pytest.mark.parametrize("every", ["epoch", 1])
def test_a_guide_that_is_not_told_that_the_model_trains(every):
    """It would record nothing, and its multiplier would stay 0."""
    model = Forgetful([LAYERS["IndexGuide"](), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    ascent = kedit.callbacks.DualAscent("guide", every=every)
    with pytest.raises(OperandError, match=r"Received: 'guide'.*training=training"):
        model.fit(INPUT, TARGET, 4, verbose=0, callbacks=[ascent])


@pytest.mark.gradient
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_a_model_that_fit_builds(name, tmp_path):
    model = model_of(loss=LOSSES[name]())
    (loss,) = model.fit(INPUT, TARGET, 4, verbose=0).history["loss"]
    assert np.isfinite(loss)
    check_survives_saving(model, tmp_path / "model.keras")


@pytest.mark.gradient
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_a_model_that_fit_builds(name, tmp_path):
    metric = METRICS[name]()
    model = model_of(metrics=[metric])
    (found,) = model.fit(INPUT, TARGET, 8, verbose=0).history[metric.name]
    assert np.isfinite(found)
    loaded = check_survives_saving(model, tmp_path / "model.keras")
    expected = model.evaluate(INPUT, TARGET, verbose=0, return_dict=True)
    found = loaded.evaluate(INPUT, TARGET, verbose=0, return_dict=True)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_constraint_and_a_weight_of_16_bits_that_predict_builds():
    constraint = kedit.constraints.EditConstraint(at[0].set(0.0))
    layer = keras.layers.Dense(4, dtype="mixed_bfloat16", kernel_constraint=constraint)
    model = model_of(layer, kedit.layers.IndexGuide(1, 0.5, dtype="mixed_bfloat16"))
    assert model.predict(INPUT, verbose=0).shape == (8, 3)


def edited_model(held="", train="all", holder=None):
    """An edited model of one that knows no shape either, and may hold elements of weights."""
    dense, last = keras.layers.Dense(4, name="dense"), keras.layers.Dense(3, name="last")
    if held == "layer":
        dense = WeightEditing(dense, {"kernel": at[0].set(0.0)}, name="held")
    base, address = (holder or keras.Sequential)([dense, last]), dense.name
    address = "inside.0" if holder else address
    if held == "layer":
        address = f"{address}/base"
    if held == "model":
        base, address = WeightEditing(base, {"dense/kernel": at[0].set(0.0)}), f"base/{address}"
    edit = sample[1].set(2.0) | sample[2:].add(Trainable("zeros"))
    return edit_model(base, {address: edit}, train), address


@pytest.mark.gradient
@pytest.mark.parametrize("held", ["", "layer", "model"])
@pytest.mark.parametrize("train", ["edits", "all"])
@pytest.mark.parametrize("holder", in_full_once([None, OwnModel], [OwnModel]))
def test_an_edited_model_is_built_by_fit(holder, train, held, tmp_path):
    model, address = edited_model(held, train, holder)
    model.compile("sgd", "mse")
    (loss,) = model.fit(INPUT, TARGET, 4, verbose=0).history["loss"]
    assert np.isfinite(loss)
    assert to_numpy(model.values(address)[1]).any()  # it has learned
    check_survives_saving(model, tmp_path / "model.keras")


@pytest.mark.parametrize("held", ["", "layer", "model"])
@pytest.mark.parametrize("wrap", [lambda model, address: model, capture], ids=["", "capture"])
@pytest.mark.parametrize("holder", in_full_once([None, OwnModel], [OwnModel]))
def test_an_edited_model_is_built_by_predict(holder, wrap, held, tmp_path):
    model = wrap(*edited_model(held, holder=holder))
    predicted = model.predict(INPUT, verbose=0)
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    again = loaded.predict(INPUT, verbose=0)
    for found, expected in zip(*map(keras.tree.flatten, (again, predicted)), strict=True):
        check_close(found, expected)
        assert np.isfinite(ops.convert_to_numpy(found)).all()


# --- Schedules -----------------------------------------------------------------------------------


@pytest.mark.gradient
@one_holder
def test_a_schedule_prunes_a_layer_in_a_model_that_fit_builds(holder, tmp_path):
    """The pruned layer itself is built, as `prune` demands; the model around it is not."""
    dense = keras.layers.Dense(4, name="dense")
    dense.build((None, 4))
    pruned = prune(dense, "kernel", 0.0)
    model = model_of(keras.layers.Rescaling(2.0), pruned, holder=holder)
    schedule = kedit.callbacks.PruningSchedule(0.0, 0.75, 0, 3, power=1, frequency=1)
    history = model.fit(INPUT, TARGET, 4, 2, verbose=0, callbacks=[schedule]).history
    assert history["sparsity"] == [0.5, 0.75]
    kernel = to_numpy(pruned.weight("kernel"))
    assert (kernel == 0).sum() == 12
    check_survives_saving(model, tmp_path / "model.keras")
    model.fit(INPUT, TARGET, 4, verbose=0)
    np.testing.assert_array_equal(to_numpy(pruned.weight("kernel")) == 0, kernel == 0)


@pytest.mark.gradient
@one_holder
def test_edits_by_pattern_hold_in_a_model_that_fit_builds(holder, tmp_path):
    """A whole model whose weights do not exist yet."""
    base = HOLDERS[holder]([keras.layers.Dense(4, name="dense"), keras.layers.Dense(3, name="out")])
    model = WeightEditing(base, {"*/kernel": at[0].set(0.5)})
    model.compile(keras.optimizers.AdamW(0.1), "mse")
    model.fit(INPUT, TARGET, 4, 2, verbose=0)
    loaded = check_survives_saving(model, tmp_path / "model.keras")
    for one in (model, loaded):
        for name in ("dense/kernel", "out/kernel"):
            assert (to_numpy(one.weight(name))[0] == 0.5).all()


class OfIntegers(OwnModel):
    """Takes only integers."""

    def call(self, x, training=None):
        assert "int" in keras.backend.standardize_dtype(x.dtype)
        return super().call(ops.cast(x, "float32")[:, None] * 0.0, training)


@pytest.mark.parametrize("wrap", ["as it is", "in a graph"])
def test_edits_of_a_model_that_takes_integers(wrap):
    """It can only be built by its inputs, with their dtype."""
    base = OfIntegers([keras.layers.Dense(3, name="dense")])
    model = WeightEditing(base, {"dense/kernel": at[0].set(0.5), "dense/bias": at[...].set(1.5)})
    if wrap == "in a graph":
        inputs = keras.Input((), dtype="int32")
        model = keras.Model(inputs, model(inputs))
    check_close(model.predict(np.arange(3, dtype="int32"), verbose=0), np.full((3, 3), 1.5))
