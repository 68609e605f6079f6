"""Everything that has a state, in models that know no shape until data comes."""

import keras
import numpy as np
import pytest
from _backend import to_numpy
from keras import ops
from kit import check_close, in_full_once, saved_and_loaded

import kedit
from kedit import Trainable, X, at, sample
from kedit.errors import OperandError
from kedit.interventions import WeightEditing, capture, edit_model

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
        LAYERS, ("Editing with a Trainable", "ConditionalModifier", "IndexGuide", "WeightEditing")
    ),
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


def model_of(*layers, loss="mse", **options):
    model = keras.Sequential([*layers, keras.layers.Dense(3, name="last")])
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
@some_layers
def test_a_layer_is_built_by_fit(name, tmp_path):
    model = model_of(LAYERS[name]())
    (loss,) = model.fit(INPUT, TARGET, 4, shuffle=False, verbose=0).history["loss"]
    assert np.isfinite(loss)
    loaded = check_survives_saving(model, tmp_path / "model.keras")
    losses = [
        one.fit(INPUT, TARGET, 4, shuffle=False, verbose=0).history["loss"]
        for one in (model, loaded)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_built_by_predict(name, tmp_path):
    check_survives_saving(model_of(LAYERS[name]()), tmp_path / "model.keras")


@pytest.mark.tensors  # on NumPy, Keras cannot add the losses of layers to that of the model
@some_layers
def test_a_layer_is_built_by_evaluate(name, tmp_path):
    model = model_of(LAYERS[name]())
    assert np.isfinite(model.evaluate(INPUT, TARGET, verbose=0))
    check_survives_saving(model, tmp_path / "model.keras")


@pytest.mark.gradient
@pytest.mark.parametrize("by", ["name", "object"])
def test_callbacks_move_a_guide_that_fit_builds_as_one_that_was_built(by, tmp_path):
    multipliers = []
    for built in (True, False):
        keras.utils.set_random_seed(0)
        guide = LAYERS["IndexGuide"]()
        named = guide if by == "object" else "guide"
        ascent = kedit.callbacks.DualAscent(named, 0.5)
        schedule = kedit.callbacks.PenaltySchedule(named, lambda epoch: 2.0 ** (epoch + 1))
        model = model_of(guide)
        if built:
            model.build((None, 4))
        model.fit(INPUT, TARGET, 4, 2, shuffle=False, verbose=0, callbacks=[ascent, schedule])
        loaded = check_survives_saving(model, tmp_path / "model.keras")
        multipliers += [to_numpy(g.multiplier) for g in (guide, loaded.get_layer("guide"))]
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


def edited_model(held="", train="all"):
    """An edited model of one that knows no shape either, and may hold elements of weights."""
    dense, last = keras.layers.Dense(4, name="dense"), keras.layers.Dense(3, name="last")
    if held == "layer":
        dense = WeightEditing(dense, {"kernel": at[0].set(0.0)}, name="held")
    base, address = keras.Sequential([dense, last]), "held/base" if held == "layer" else "dense"
    if held == "model":
        base, address = WeightEditing(base, {"dense/kernel": at[0].set(0.0)}), "base/dense"
    edit = sample[1].set(2.0) | sample[2:].add(Trainable("zeros"))
    return edit_model(base, {address: edit}, train), address


@pytest.mark.gradient
@pytest.mark.parametrize("held", ["", "layer", "model"])
@pytest.mark.parametrize("train", ["edits", "all"])
def test_an_edited_model_is_built_by_fit(train, held, tmp_path):
    model, address = edited_model(held, train)
    model.compile("sgd", "mse")
    (loss,) = model.fit(INPUT, TARGET, 4, verbose=0).history["loss"]
    assert np.isfinite(loss)
    assert to_numpy(model.values(address)[1]).any()  # it has learned
    check_survives_saving(model, tmp_path / "model.keras")


@pytest.mark.parametrize("held", ["", "layer", "model"])
@pytest.mark.parametrize("wrap", [lambda model, address: model, capture], ids=["", "capture"])
def test_an_edited_model_is_built_by_predict(wrap, held, tmp_path):
    model = wrap(*edited_model(held))
    predicted = model.predict(INPUT, verbose=0)
    loaded = saved_and_loaded(model, tmp_path / "model.keras")
    again = loaded.predict(INPUT, verbose=0)
    for found, expected in zip(*map(keras.tree.flatten, (again, predicted)), strict=True):
        check_close(found, expected)
        assert np.isfinite(ops.convert_to_numpy(found)).all()
