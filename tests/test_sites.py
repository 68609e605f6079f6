"""Addresses: the same on every backend, in every session, whatever Keras calls the layers."""

import gc
import weakref

import keras
import numpy as np
import pytest
from networks import (
    ROWS,
    TOKENS,
    Subclassed,
    convolutional,
    masked,
    nested,
    operations,
    quantized,
    sequential,
    shared,
    subclassed,
)

from kedit import sample
from kedit.errors import OperandError
from kedit.interventions import capture, edit_model, load_edits, save_edits, site, sites

ADDRESSES = {
    convolutional: ["conv", "norm", "dropout", "global_average_pooling2d", "head"],
    sequential: ["dense", "dropout", "dense_1"],
    nested: [
        "first",
        "tower",
        "tower/block",
        "tower/block/up",
        "tower/block/re_lu",
        "tower/out",
        "last",
    ],
    subclassed: [
        "blocks.0",
        "blocks.0/inner",
        "blocks.0/drop",
        "blocks.1",
        "blocks.1/inner",
        "blocks.1/drop",
        "blocks.2",
        "blocks.2/inner",
        "blocks.2/drop",
        "norm",
        "heads.logits",
        "heads.value",
    ],
    shared: ["shared", "sin", "multiply", "power", "concatenate"],
    operations: ["dense", "sin", "exp"],
    masked: ["embed", "dense", "not_equal", "pool"],
    quantized: ["h", "out"],
}


@pytest.mark.parametrize("make", ADDRESSES, ids=lambda make: make.__name__)
def test_addresses(make):
    """Spelled out, and made twice, with which the names that Keras makes up go on counting."""
    for _ in range(2):
        assert [info.address for info in sites(make())] == ADDRESSES[make]


def test_shapes_and_calls():
    assert [tuple(info)[3:] for info in sites(convolutional())] == [
        ((None, 6, 6, 2), (None, 4, 4, 5), 1),
        ((None, 4, 4, 5), (None, 4, 4, 5), 1),
        ((None, 4, 4, 5), (None, 4, 4, 5), 1),
        ((None, 4, 4, 5), (None, 5), 1),
        ((None, 5), (None, 3), 1),
    ]
    assert [info.calls for info in sites(shared())] == [2, 1, 1, 1, 1]
    info = sites(WithSpare(), ROWS)
    assert [(one.address, one.calls) for one in info] == [("used", 1), ("spare", 0)]
    assert (info[1].input, info[1].output) == (None, None)


def test_a_model_is_looked_at_once_until_it_changes():
    runs = []

    class Counting(keras.layers.Layer):
        factor = 1

        def call(self, x):
            runs.append(x.shape)
            return keras.ops.concatenate([x] * self.factor)

    inputs = keras.Input((3,))
    base = keras.Model(inputs, keras.layers.Dense(2, name="out")(Counting(name="h")(inputs)))
    assert [info.output for info in sites(base)] == [(None, 3), (None, 2)]
    count = len(runs)
    edited = edit_model(base, {"h": sample[1].set(0.0)})
    assert edited.built
    capture(base, "h")
    edit_model(base, {})
    assert len(runs) == count
    base.get_layer("h").factor = 2
    base.get_layer("h").built = True
    assert [info.calls for info in sites(base)] == [1, 1]
    assert len(runs) > count
    alive = weakref.ref(base)
    del base, edited, inputs
    gc.collect()
    assert alive() is None


def test_a_model_of_which_nobody_knows_what_it_takes():
    model = Subclassed()
    assert sites(model)[0].calls is None
    assert "?" in repr(sites(model))
    seen = {info.address: info for info in sites(model, ROWS)}
    assert seen["heads.logits"].output == (None, 2)
    assert seen["blocks.1"].input == (None, 4)


def test_prints_as_a_table():
    table = repr(sites(nested())).splitlines()
    assert table[0].split() == ["address", "layer", "name", "input", "output", "calls"]
    assert table[4].split() == [
        "tower/block/up",
        "Dense",
        "up",
        *["(None,", "5)", "(None,", "5)", "1"],
    ]
    assert len({line.index("(None") for line in table[1:]}) == 1


class WithSpare(keras.Model):
    """A layer that is never called."""

    def __init__(self, **options):
        super().__init__(**options)
        self.used, self.spare = keras.layers.Dense(4), keras.layers.Dense(4)
        self.spare.build((None, 4))

    def call(self, inputs):
        return self.used(inputs)


class Inner(keras.layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self._hidden = keras.layers.Dense(4)
        self.kept = {"a": [keras.layers.Dense(4)], "b": (keras.layers.Dense(4),)}
        self.again = self._hidden

    @property
    def broken(self):
        raise RuntimeError("not now")

    def call(self, inputs):
        for layer in (self._hidden, *self.kept["a"], *self.kept["b"]):
            inputs = layer(inputs)
        return inputs


def test_attributes_that_are_private_nested_double_or_broken():
    model = keras.Sequential([keras.Input((4,)), Inner(name="inner")])
    found = [info.address for info in sites(model)]
    assert found == ["inner", "inner/_hidden", "inner/kept.a.0", "inner/kept.b.0"]


def in_parallel():
    """Layers made in another order than they are called in, so that names lie crosswise."""
    inputs = keras.Input((4,))
    late, early = keras.layers.Dense(4), keras.layers.Dense(4)
    return keras.Model(inputs, late(early(inputs)))


def test_an_address_that_is_the_name_of_another_layer(tmp_path):
    """Is refused where it is written, and unmistakable where it was found."""
    keras.utils.clear_session()  # as in a new process
    model = in_parallel()
    assert [(info.address, info.name) for info in sites(model)] == [
        ("dense", "dense_1"),
        ("dense_1", "dense"),
    ]
    for pattern in ("dense", "dense_1"):
        with pytest.raises(OperandError, match=r"name the layers.*name='hidden'"):
            edit_model(model, {pattern: sample[0].set(0.0)})
    edited = edit_model(model, {"dense*": sample[0].set(7.0)})
    edited.save(tmp_path / "model.keras")
    save_edits(edited, tmp_path / "edits.json")
    again = edit_model(model, load_edits(tmp_path / "edits.json"))
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one in (edited, again, loaded, edit_model(edited, {})):
        acts = capture(one, "*").predict(ROWS, verbose=0)
        assert list(acts) == ["dense", "dense_1"]
        assert all((act[:, 0] == 7).all() for act in acts.values())
    first, _ = edited.edits[0]
    edited.values(first)[0].assign(8.0)
    assert [e.operand for _, e in edited.edits] == [8.0, 7.0]


def test_names_of_layers_are_taken_where_they_are_no_address():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="tower")])
    model = keras.Sequential([keras.Input((4,)), model, Subclassed(name="net")])
    name = model.layers[1].blocks[1].name
    edited = edit_model(model, {name: sample[0].set(0.0)})
    assert [str(place) for place, _ in edited.edits] == ["net/blocks.1"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("blocks.?", ["blocks.0", "blocks.1", "blocks.2"]),
        ("blocks.*/inner", ["blocks.0/inner", "blocks.1/inner", "blocks.2/inner"]),
        ("*.[12]/drop", ["blocks.1/drop", "blocks.2/drop"]),
        ("norm", ["norm"]),
        ("heads.*", ["heads.logits", "heads.value"]),
    ],
)
def test_patterns(pattern, found):
    edited = edit_model(subclassed(), {pattern: sample[0].set(1.0)})
    assert [str(place) for place, _ in edited.edits] == found
    assert len({id(layer) for layer in edited.edit_layers}) == len(found)


@pytest.mark.parametrize(
    ("pattern", "close"),
    [
        ("block.1", "'blocks.1'"),
        ("heads.logit", "'heads.logits'"),
        ("Norm", "'norm'"),
        ("zzz*", "'blocks.0'"),
    ],
)
def test_nothing_matches(pattern, close):
    with pytest.raises(OperandError, match="Received") as raised:
        edit_model(subclassed(), {pattern: sample[0].set(1.0)})
    assert close in str(raised.value)
    with pytest.raises(OperandError, match="Received"):
        capture(subclassed(), [pattern])


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments",
    [
        ("",),
        (3,),
        ("a", "inside"),
        ("a", "input", 1.5),
        ("a", "input", 0, -1),
        ("a", "input", 0, "0"),
        ("a", "output", None),
        ("a", "output", 0, True),
    ],
)
def test_bad_sites(arguments):
    with pytest.raises(OperandError, match="Received"):
        site(*arguments)


@pytest.mark.once
def test_a_site_is_a_value():
    one = site("dense", "input", "mask", 2)
    assert one == site("dense", "input", "mask", 2)
    assert one != site("dense", "input", "mask", 1)
    assert str(one) == "dense:input:mask#2"
    assert str(site("dense")) == "dense"
    assert str(site("dense", leaf=1)) == "dense:output:1"
    assert len({one, site("dense", "input", "mask", 2)}) == 1


@pytest.mark.once
@pytest.mark.parametrize("given", [None, "model", lambda x: x, np.ones(3)])
def test_what_is_no_model(given):
    for make in (sites, lambda model: edit_model(model, {}), lambda model: capture(model, "*")):
        with pytest.raises(OperandError, match="Received"):
            make(given)


def test_a_layer_is_a_model_too():
    layer = Inner()
    layer(ROWS)
    edited = edit_model(layer, {"_hidden": sample[:].set(0.0)})
    assert np.ptp(edited.predict(ROWS, verbose=0), axis=0).max() == 0


def test_positions_of_an_embedding():
    model = masked()
    assert capture(model, "embed").predict(TOKENS, verbose=0)["embed"].shape == (6, 4, 5)
    edited = edit_model(model, {site("pool", "input"): sample[1:, 2].set(0.0)})
    acts = capture(edited, site("pool", "input")).predict(TOKENS, verbose=0)
    assert (acts["pool:input"][:, 1:, 2] == 0).all()
    assert (acts["pool:input"][:, 0, 2] != 0).all()
