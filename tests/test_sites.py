"""Addresses: the same on every backend, in every session, whatever Keras calls the layers."""

import gc
import weakref

import keras
import numpy as np
import pytest
from _backend import to_numpy
from kit import check_close
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

from kedit import Trainable, sample
from kedit.errors import OperandError, PositionError, SavingError
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
    assert [tuple(info)[3:6] for info in sites(convolutional())] == [
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


class FailsFirst(keras.layers.Layer):
    """A layer that raises when it is run for the first time, after which Keras tries again."""

    def __init__(self, **options):
        super().__init__(**options)
        self.failures = [1]

    def call(self, inputs):
        if self.failures:
            self.failures.pop()
            raise TypeError("not like this")
        return inputs * 2.0


class WithFailsFirst(keras.Model):
    def __init__(self):
        super().__init__()
        self.into, self.fails, self.out = keras.layers.Dense(4), FailsFirst(), keras.layers.Dense(1)

    def call(self, inputs):
        return self.out(self.fails(self.into(inputs)))


def test_a_run_that_fails_is_not_looked_at():
    model = WithFailsFirst()
    model.fails.failures.clear()
    model(ROWS)
    model.fails.failures.append(1)
    edited = edit_model(model, {"out": sample[0].add(Trainable("zeros"))}, train="edits")
    assert edited.built
    assert len(edited.trainable_weights) == 1
    assert {info.calls for info in sites(model)} == {1}
    with pytest.raises(PositionError):
        edit_model(model, {"out": sample[1].set(0.0)})


class NeedsValues(keras.layers.Layer):
    """A layer that only runs with values, of which Keras can make no graph."""

    def call(self, inputs):
        return keras.ops.convert_to_tensor(keras.ops.convert_to_numpy(inputs) * 2)

    def compute_output_shape(self, input_shape):
        raise NotImplementedError


def test_a_sequential_of_which_keras_can_make_no_graph():
    model = keras.Sequential([NeedsValues(name="needs"), keras.layers.Dense(2, name="out")])
    expected = to_numpy(model(ROWS))
    assert [info.address for info in sites(model)] == ["needs", "out"]
    assert [tuple(info)[3:6] for info in sites(model, ROWS)] == [
        ((None, 4), (None, 4), 1),
        ((None, 4), (None, 2), 1),
    ]
    edited = edit_model(model, {"needs": sample[1].set(3.0)})
    kernel = to_numpy(model.layers[1].kernel)
    check_close(edited(ROWS), expected + (3 - 2 * ROWS[:, 1:2]) * kernel[1])
    acts = capture(edited, "needs")(ROWS)["needs"]
    assert (to_numpy(acts)[:, 1] == 3).all()


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
    """The name decides; files keep the address."""
    keras.utils.clear_session()  # as in a new process
    model = in_parallel()
    early, late = model.layers[1:]
    assert (late.name, early.name) == ("dense", "dense_1")
    assert [(info.address, info.name) for info in sites(model)] == [
        ("dense_1", "dense_1"),
        ("dense", "dense"),
    ]
    for name, layer in (("dense", late), ("dense_1", early), (late, late), (early, early)):
        edited = edit_model(model, {name: sample[0].set(0.0)})
        assert edited.placed()[0][1] is layer
        assert capture(model, name).predict(ROWS, verbose=0).keys() == {layer.name}
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
    edited.values(str(edited.edits[1][0]))[0].assign(9.0)
    assert [e.operand for _, e in edited.edits] == [8.0, 9.0]


def numbered_from(start):
    """Seven convolutions with names that Keras numbers from `start`, and that a file keeps."""
    inputs = keras.Input((3, 3, 1))
    x = inputs
    for number in range(start, start + 7):
        name = f"conv2d_{number}" if number else "conv2d"
        x = keras.layers.Conv2D(1, 1, name=name)(x)
    return keras.Model(inputs, keras.layers.Flatten()(x))


def test_a_loaded_model_whose_names_are_the_addresses_of_others(tmp_path):
    numbered_from(1).save(tmp_path / "model.keras")
    base = keras.saving.load_model(tmp_path / "model.keras")
    layers, entries = base.layers[1:], sites(base)
    assert [info.address for info in entries] == [
        *["conv2d", "conv2d_2", "conv2d_3", "conv2d_4", "conv2d_5", "conv2d_6", "conv2d_7"],
        "flatten",
    ]
    for layer, info in zip(layers, entries, strict=True):
        assert info.name == layer.name
        table = repr(entries).splitlines()
        (row,) = [line.split() for line in table if layer.name in line.split()]
        for key in (layer, layer.name, info, info.address, row[0], site(info), site(layer)):
            ((place, found, _),) = edit_model(base, {key: sample[0].set(0.0)}).placed()
            assert found is layer
            assert str(place) == info.address
            assert eval(repr(place), {"site": site}).find(base) == place.find(base)
    assert len(capture(base, "conv2d_*").patterns) == 7
    assert [str(one) for one in capture(base, "conv2d_[12]").patterns] == ["conv2d", "conv2d_2"]
    assert len(capture(base, list(entries)).patterns) == len(capture(base, entries).patterns) == 8
    assert [str(one) for one in capture(base, entries[2]).patterns] == ["conv2d_3"]


def test_files_keep_addresses(tmp_path):
    """What was edited by a name of this session is found in a model that is numbered otherwise."""
    edited = edit_model(numbered_from(1), {"conv2d_3": sample[..., 0].set(5.0)})
    save_edits(edited, tmp_path / "edits.json")
    assert '"conv2d_2"' in (tmp_path / "edits.json").read_text()
    for start in (0, 1, 40):
        base = numbered_from(start)
        again = edit_model(base, load_edits(tmp_path / "edits.json"))
        ((_, found, _),) = again.placed()
        assert found is base.layers[3]


class Crosswise(keras.Model):
    """Attributes that hold layers of each other's names, and two layers of one name."""

    def __init__(self):
        super().__init__()
        self.a = keras.layers.Dense(2, name="b")
        self.b = keras.layers.Dense(2, name="a")
        self.c = keras.layers.Dense(2, name="c")
        self.d = keras.layers.Dense(2, name="c")
        self.e = keras.layers.Dense(2, name="f")
        self.f = keras.layers.Dense(2, name="c")
        self.g = keras.Sequential([keras.layers.Dense(2, name="a")], name="a")

    def call(self, inputs):
        for layer in (self.a, self.b, self.c, self.d, self.e, self.f, self.g):
            inputs = layer(inputs)
        return inputs


def test_every_layer_has_a_spelling_of_its_own():
    model = Crosswise()
    model(np.ones((1, 2)))
    found = {info.address: info for info in sites(model)}
    assert list(found) == ["a", "/b", "c", "d", "e", "/f", "g", "g/a"]
    layers = [model.a, model.b, model.c, model.d, model.e, model.f, model.g, *model.g.layers]
    for layer, info in zip(layers, found.values(), strict=True):
        for key in (info, info.address, layer):
            ((_, edited, _),) = edit_model(model, {key: sample[0].set(0.0)}).placed()
            assert edited is layer


def test_nested_layers_go_by_joined_names():
    model = nested()
    up, relu = model.get_layer("tower").get_layer("block").layers
    for key in ("tower/block/up", f"tower/block/{relu.name}", "up", relu.name):
        ((_, found, _),) = edit_model(model, {key: sample[0].set(0.0)}).placed()
        assert found is (up if "up" in key else relu)


@pytest.mark.parametrize("make", [lambda base: base.layers[0], lambda base: base.layers[0].name])
def test_an_input_is_no_site(make):
    base = convolutional()
    with pytest.raises(OperandError, match=r"an input of the model.*`site\('conv', 'input'\)`"):
        edit_model(base, {make(base): sample[0].set(0.0)})


def test_a_layer_of_another_model_is_no_site():
    with pytest.raises(OperandError, match=r"'other', a layer that the model does not hold.*conv"):
        edit_model(convolutional(), {keras.layers.Dense(2, name="other"): sample[0].set(0.0)})
    with pytest.raises(SavingError, match=r"save_edits\(edited, path\)"):
        site(keras.layers.Dense(2)).get_config()


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
