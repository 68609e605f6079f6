"""Which weights a name means, beside a table that is written by hand."""

import keras
import numpy as np
import pytest
from _backend import to_numpy
from kit import saved_and_loaded

from kedit import at
from kedit.errors import OperandError
from kedit.interventions import sites
from kedit.weights import WeightEditing, freeze_elements, prune
from kedit.weights._names import find_weights, weights_in


def nested():
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, name="wide"), keras.layers.Dense(2)],
        name="inner",
    )
    inputs = keras.Input((3,))
    h = keras.layers.BatchNormalization(name="norm")(inputs)
    h = keras.layers.Dense(4, name="wide")(h)
    return keras.Model(inputs, keras.layers.Dense(1, name="out")(inner(h)))


@keras.saving.register_keras_serializable("test_weight_names")
class Numbered(keras.Model):
    """A model whose layers Keras numbers anew in every session."""

    def __init__(self, **options):
        super().__init__(**options)
        self.blocks = [keras.layers.Dense(3), keras.layers.Dense(2)]

    def call(self, inputs):
        return self.blocks[1](self.blocks[0](inputs))


def meant(model, target):
    return [found.address for found in find_weights(model, target)]


def test_weights_are_named_as_layers_are():
    model = nested()
    outer, inner, last = "wide/kernel", "inner/wide/kernel", "inner/dense/kernel"
    kernels = [outer, inner, last, "out/kernel"]
    dense = model.get_layer("inner").layers[1]
    for target, expected in (
        ("out/kernel", ["out/kernel"]),
        ("t/kernel", None),
        ("gamma", ["norm/gamma"]),
        ("wide/kernel", [outer]),  # whole, though it is the end of another
        (inner, [inner]),
        (f"{dense.name}/kernel", [last]),
        (last, [last]),
        ("out", ["out/kernel", "out/bias"]),
        (dense, [last, "inner/dense/bias"]),
        (dense.kernel, [last]),
        (f"inner/{dense.name}/bias", ["inner/dense/bias"]),
        ("*/kernel", kernels),
        ("inner/*/kernel", [inner, last]),
        ("out/*", ["out/kernel", "out/bias"]),
        ("?ut/[bk]*", ["out/kernel", "out/bias"]),
        (lambda layer, weight: weight.name == "bias" and layer.name == "out", ["out/bias"]),
        (["out/kernel", dense, "out/k*"], [last, "inner/dense/bias", "out/kernel"]),
        ("kernel", None),
        ("norm/kernel", None),
        ("*/nothing", None),
        (keras.layers.Dense(2), None),
        (lambda layer, weight: False, None),
        (3, None),
        ([], None),
    ):
        if expected is None:
            with pytest.raises(OperandError, match="Received") as raised:
                meant(model, target)
            assert "Write" in str(raised.value) or "Close to it" in str(raised.value)
        else:
            assert meant(model, target) == expected
            edited = freeze_elements(model, target, 0, 0.0)
            assert meant(edited, target) == expected
    assert len(weights_in(model)) == len(model.weights)


def crosswise():
    """Layers made in another order than they are called in, so that names lie crosswise."""
    keras.utils.clear_session()  # as in a new process
    inputs = keras.Input((4,))
    late, early = keras.layers.Dense(4), keras.layers.Dense(4)
    return keras.Model(inputs, late(early(inputs)))


def test_a_name_that_is_the_address_of_another_is_a_name():
    model = crosswise()
    early, late = model.layers[1:]
    for layer, name in ((late, "dense"), (early, "dense_1")):
        assert layer.name == name
        entry = next(info for info in sites(model) if info.name == name)
        for target in (f"{name}/kernel", f"{name}/k*", layer.kernel):
            assert [one.variable for one in find_weights(model, target)] == [layer.kernel]
        for target in (name, f"{name}/*", layer, entry, [entry]):
            held = [one.variable for one in find_weights(model, target)]
            assert [id(one) for one in held] == [id(weight) for weight in layer.weights]
    assert len(find_weights(model, "*/kernel")) == 2
    pruned = prune(model, "dense/kernel", 0.5)
    assert (to_numpy(pruned.weight("dense/kernel")) == 0).sum() == 8
    assert (to_numpy(pruned.weight(early.kernel)) == 0).sum() == 0
    with pytest.raises(OperandError, match=r"\['dense_1/kernel', 'dense/kernel'\]"):
        find_weights(model, "kernel")


def test_files_keep_addresses_of_weights(tmp_path):
    model = crosswise()
    frozen = freeze_elements(model, "dense/kernel", 0, 7.0)
    assert list(frozen.edits) == ["dense_1/kernel"]
    loaded = saved_and_loaded(frozen, tmp_path / "model.keras")
    assert (to_numpy(loaded.weight(loaded.base.layers[2].kernel))[0] == 7).all()


def test_a_name_close_by_is_shown():
    with pytest.raises(OperandError, match=r"'out/kernl'.*Close to it: \['out/kernel'"):
        meant(nested(), "out/kernl")
    with pytest.raises(OperandError, match=r"4 of \d+ weights.*'\*/kernel' for all"):
        meant(nested(), "kernel")
    with pytest.raises(OperandError, match="Build it first"):
        meant(keras.layers.Dense(2), "kernel")


def test_one_table_of_edits_takes_patterns():
    model = WeightEditing(nested(), {"inner/*/kernel": at[0].set(0.0), "out/bias": at[0].add(1.0)})
    for name in ("inner/wide/kernel", "inner/dense/kernel"):
        assert (to_numpy(model.weight(name))[0] == 0).all()
    assert to_numpy(model.weight("out/bias")).tolist() == [1.0]
    assert to_numpy(model.weight(model.base.get_layer("out").bias)).tolist() == [1.0]
    with pytest.raises(OperandError, match="two for"):
        WeightEditing(nested(), {"inner/*/kernel": at[0].set(0.0), "*/kernel": at[0].set(0.0)})


def test_saved_names_hold_though_keras_numbers_layers_anew(tmp_path):
    model = Numbered()
    model(np.ones((1, 2)))
    edited = prune(freeze_elements(model, "blocks.0/kernel", 0, 7.0), "blocks.1/kernel", 0.5)
    expected = edited.predict(np.ones((1, 2)), verbose=0)
    keras.layers.Dense(1)  # counts
    loaded = saved_and_loaded(edited, tmp_path / "model.keras")
    assert loaded.base.blocks[0].name != model.blocks[0].name
    np.testing.assert_allclose(loaded.predict(np.ones((1, 2)), verbose=0), expected, rtol=1e-6)
    assert (to_numpy(loaded.weight("blocks.0/kernel"))[0] == 7).all()
    assert (to_numpy(loaded.weight("blocks.1/kernel")) == 0).sum() == 3
