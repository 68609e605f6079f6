"""Models with edits, exported: right, or refused with a reason, and never silently wrong.

They need the exporters: `nox -s export`, which also writes what it finds into the guide.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from _backend import BACKEND
from _exporters import EXPORTERS, inputs_of, packed
from keras import ops

from kedit import Trainable, X, at, block, each, position, sample
from kedit.interventions import capture, edit_model
from kedit.layers import ConditionalModifier, Editing, IndexGuide, RandomEditing
from kedit.weights import freeze_elements, prune

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]

MASK = np.array([True, False, True, False, False, True])
TWICE = [1, 1, 4]
THREE = [1.0, 2.0, 3.0]

# --- The models ---------------------------------------------------------------------------------


def tensor(name: str) -> Any:
    """An input, by its name: `x`, a matrix `m`, integers `n`; indices, a mask and values."""
    shape, dtype = {
        "x": ((6,), "float32"),
        "m": ((4, 3), "float32"),
        "n": ((6,), "int32"),
        "i": ((), "int32"),
        "js": ((2,), "int32"),
        "mask": ((6,), "bool"),
        "v": ((), "float32"),
    }[name]
    return keras.Input(shape, name=name, dtype=dtype)


def shared(name: str, shape: tuple[int, ...]) -> Any:
    """An input that all samples share."""
    return keras.Input(batch_shape=shape, name=name, dtype="int32")


def of(function: Callable[..., Any], name: str = "x") -> Callable[[], keras.Model]:
    """What makes a model of one input."""

    def make() -> keras.Model:
        x = tensor(name)
        return keras.Model(x, function(x))

    return make


def of_two(function: Callable[..., Any], name: str) -> Callable[[], keras.Model]:
    """What makes a model of `x` and another input."""

    def make() -> keras.Model:
        given = [tensor("x"), tensor(name)]
        return keras.Model(given, function(*given))

    return make


def of_shared(function: Callable[..., Any], shape: tuple[int, ...]) -> Callable[[], keras.Model]:
    """What makes a model of `x` and of integers that all samples share."""

    def make() -> keras.Model:
        given = [tensor("x"), shared("shared", shape)]
        return keras.Model(given, function(*given))

    return make


def network() -> keras.Model:
    inputs = keras.Input((6,), name="x")
    hidden = keras.layers.Dense(5, "tanh", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(4, name="out")(hidden))


def switched(on: bool) -> Callable[[], keras.Model]:
    def make() -> keras.Model:
        layer = Editing(sample[1].set(0.0), switch=True)
        x = tensor("x")
        model = keras.Model(x, layer(x))
        layer.enabled = on
        return model

    return make


@keras.saving.register_keras_serializable(package="tests_of_export")
class EditsInCall(keras.layers.Layer):
    """A layer of a user's own, which edits in its `call`, at positions that it is given."""

    def call(self, inputs: Any) -> Any:
        x, js = inputs
        y = at(x)[:, 0].set(5.0)
        y = at(y).where(y < 0).multiply(2.0)
        return sample(y)[each(js)].set(1.0)

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs[0].shape, dtype=inputs[0].dtype)


KINDS: dict[str, Callable[[], keras.Model]] = {
    # Positions that are known.
    "whole, set": of(sample[...].set(3.0)),
    "whole, add": of(sample[...].add(1.0)),
    "int, set": of(sample[1].set(0.0)),
    "negative int, add": of(sample[-1].add(1.0)),
    "slice, multiply": of(sample[1:4].multiply(2.0)),
    "slice, divide": of(sample[1:4].divide(np.arange(1.0, 4.0))),
    "step, subtract": of(sample[::2].subtract(2.0)),
    "negative step, set": of(sample[::-1].set(np.arange(6.0))),
    "list, set": of(sample[[0, 4]].set([1.0, 2.0])),
    "list, multiply": of(sample[[4, 0]].multiply([2.0, 3.0])),
    "list, power": of(sample[[4, 0]].power(2.0)),
    "row of a matrix, set": of(sample[2].set(0.0), "m"),
    "column of a matrix, add": of(sample[:, 1].add(np.arange(4.0)), "m"),
    "lists on two axes, set": of(sample[[0, 2], [1, 1]].set([1.0, 2.0]), "m"),
    "integers, slice, add": of(sample[1:3].add(2), "n"),
    "integers, duplicates, max": of(sample[TWICE].max([1, 2, 3]), "n"),
    # One element named twice.
    **{
        f"duplicates, {op}": of(getattr(sample[TWICE], op)(THREE))
        for op in ("set", "add", "subtract", "multiply", "divide", "min", "max")
    },
    "duplicates, condition, max": of(sample[TWICE].where(X > 0).max(THREE)),
    # Masks and conditions.
    "constant mask, set": of(sample[MASK].set(0.0)),
    "constant mask, divide": of(sample[MASK].divide(2.0)),
    "constant mask, a value each": of(sample[MASK].set(THREE)),
    "constant condition, set": of(sample.where(MASK).set(0.0)),
    "condition, multiply": of(at.where(X > 0).multiply(2.0)),
    "slice and condition, min": of(sample[1:5].where(abs(X) > 0.5).min(0.25)),
    "both branches": of(at.where(X > 0).set(1.0, otherwise=X * 2.0)),
    "position": of(at.where(position(1) >= 3).set(0.0)),
    "isnan": of(at.where(X.isnan()).set(0.0)),
    # Values that are computed.
    "expression": of(sample[1:3].set(1.0 / X)),
    "expression of all": of(at[...].set(abs(X) * 2.0 + 1.0)),
    "apply": of(sample[1:3].apply(ops.tanh)),
    "apply where": of(at.where(X > 0).apply(ops.log)),
    "sequence": of(sample[1].set(0.0) | at.where(X > 0).multiply(2.0) | sample[2:].add(1.0)),
    # Tensors: positions of each sample, of all samples, masks, values.
    "each, set": of_two(lambda x, i: sample(x)[each(i)].set(1.0), "i"),
    "each, add": of_two(lambda x, i: sample(x)[each(i)].add(1.0), "i"),
    "each, max": of_two(lambda x, i: sample(x)[each(i)].max(0.5), "i"),
    "each of two, set": of_two(lambda x, js: sample(x)[each(js)].set([1.0, 2.0]), "js"),
    "each of two, multiply": of_two(lambda x, js: sample(x)[each(js)].multiply(2.0), "js"),
    "each, get": of_two(lambda x, js: sample(x)[each(js)].get(mode="fill", fill_value=-1.0), "js"),
    "block, set": of_shared(lambda x, i: sample(x)[block(i, 2)].set(0.0), ()),
    "index tensor, set": of_shared(lambda x, i: sample(x)[i].set([1.0, 2.0]), (2,)),
    "index tensor, add": of_shared(lambda x, i: sample(x)[i].add([1.0, 2.0]), (2,)),
    "index tensor, multiply": of_shared(lambda x, i: sample(x)[i].multiply([2.0, 3.0]), (2,)),
    "index tensor, max": of_shared(lambda x, i: sample(x)[i].max([0.0, 3.0]), (2,)),
    "mask tensor, set": of_two(lambda x, mask: at(x)[mask].set(0.0), "mask"),
    "mask tensor, condition": of_two(lambda x, mask: at(x).where(mask).multiply(2.0), "mask"),
    "value tensor": of_two(lambda x, v: at(x)[:, 1].set(v), "v"),
    "list, get": of(lambda x: sample(x)[[4, 0, 0]].get()),
    # Layers.
    "Editing": of(lambda x: Editing(sample[1:3].multiply(2.0))(x)),
    "Editing, Trainable": of(lambda x: Editing(sample[1:3].add(Trainable([0.5, 2.0])))(x)),
    "Editing, sigmoid": of(lambda x: Editing(at.where(X > 0.5).set(0.0), gradient="sigmoid")(x)),
    "Editing, straight_through": of(
        lambda x: Editing(at[...].set(X.round()), gradient="straight_through")(x)
    ),
    "switched on": switched(True),
    "switched off": switched(False),
    "edits in a call": of_two(lambda x, js: EditsInCall()([x, js]), "js"),
    "ConditionalModifier": of(lambda x: ConditionalModifier(0.5)(x)),
    "ConditionalModifier, Trainable": of(
        lambda x: ConditionalModifier(Trainable(0.5), gradient="sigmoid")(x)
    ),
    "IndexGuide": of(lambda x: IndexGuide(2, 50.0)(x)),
    "RandomEditing": of(lambda x: RandomEditing(sample[...].set(0.0), count=1)(x)),
    # Models made of models.
    "edited": lambda: edit_model(
        network(), {"hidden": sample[1].set(0.0) | at.where(X > 0).multiply(0.5)}
    ),
    "edited, Trainable": lambda: edit_model(
        network(), {"hidden": sample[1:3].add(Trainable([0.5, 2.0]))}, train="edits"
    ),
    "captured": lambda: capture(network(), ["hidden", "out"]),
    "frozen": lambda: freeze_elements(network(), {"hidden/kernel": at[0]}),
    "pruned": lambda: prune(network(), "hidden/kernel", sparsity=0.5),
    "pruned and baked": lambda: prune(network(), "hidden/kernel", sparsity=0.5).bake(),
}
"""A model for each kind of edit."""

CONTROLS: dict[str, Callable[[], keras.Model]] = {
    "where(mask, number, x)": of(lambda x: ops.where(MASK, 0.0, x)),
    "where(x > 0.5, number, x)": of(lambda x: ops.where(x > 0.5, 0.0, x)),
    "maximum(x, numbers)": of(lambda x: ops.maximum(x, np.arange(6, dtype="float32"))),
}
"""The same without kedit: what is wrong here, the converter gets wrong."""

# --- What comes out -----------------------------------------------------------------------------


class Refused(NamedTuple):
    """An export that raises, or a file that does.

    Attributes:
        error: What its message contains, as a regular expression.
        reason: Why, for the guide.
    """

    error: str
    reason: str


FINITE = "right but for NaN and infinity"
MORE = "right, with one more output"

SEGMENTS = Refused("SegmentMax", "tf2onnx fails on the greatest of segments of integers")
SORT = Refused("Sort", "the exporter has no sort")
TYPES = Refused("bound to different types", "the exporter gives integers a wider dtype")
DICTS = Refused("dict at the output", "the tracer takes no dict of outputs")
LEARNED = Refused("requires grad", "the tracer takes no weight that learns: freeze the model first")
BATCH = Refused("Constraints violated", "the positions of each sample fix the batch size")
UNEVEN = Refused("divide evenly", "JAX cannot pair up a batch whose size is open")
KEYS = Refused("Unexpected key", "torch.export finds the model inside twice")


def in_all(outcome: Any, *kinds: str) -> dict[str, Any]:
    return dict.fromkeys(kinds, outcome)


EXPECTED: dict[str, dict[str, dict[str, Any]]] = {
    "tensorflow": {
        "LiteRT": in_all(
            FINITE,
            *("duplicates, min", "duplicates, max", "duplicates, condition, max"),
            *("each, set", "each, add", "each, max", "index tensor, max"),
        ),
        "ONNX": {
            "others": FINITE,
            **in_all(
                SEGMENTS,
                *("each of two, set", "each of two, multiply", "edits in a call"),
                *("index tensor, set", "index tensor, add"),
                *("index tensor, multiply", "index tensor, max"),
            ),
            **in_all(
                "right",
                "whole, set",
                "whole, add",
                "row of a matrix, set",
                "integers, slice, add",
                "integers, duplicates, max",
                "isnan",
                "expression of all",
                "each, add",
                "each, get",
                "list, get",
                "IndexGuide",
                "RandomEditing",
                "edited",
                "edited, Trainable",
                "captured",
                "frozen",
                "pruned",
                "pruned and baked",
            ),
        },
        "OpenVINO": {
            "both branches": FINITE,
            "Editing, sigmoid": FINITE,
            **in_all(MORE, "each, max", "ConditionalModifier, Trainable", "IndexGuide"),
        },
    },
    "jax": {how: in_all(UNEVEN, "each of two, multiply") for how in ("SavedModel", "jax.export")},
    "torch": {
        "torch": in_all(KEYS, "captured"),
        "torch, open batch": {
            "captured": KEYS,
            **in_all(BATCH, "each, set", "each, add", "each, max", "each, get"),
            **in_all(BATCH, "each of two, set", "each of two, multiply", "edits in a call"),
        },
        "ONNX, fixed batch": {"each of two, multiply": SORT},
        "ONNX": {
            **in_all(SORT, "each of two, multiply", "index tensor, multiply"),
            **in_all(TYPES, "index tensor, set", "index tensor, add", "index tensor, max"),
            "edited, Trainable": LEARNED,
        },
        "OpenVINO": {
            **in_all(FINITE, "both branches", "Editing, sigmoid"),
            "captured": DICTS,
        },
    },
}
"""What is not right, by backend, format and kind; a test fails if what it names ever is."""


def data(x: Any, batch: int, special: bool) -> Any:
    """An array for an input."""
    rng = np.random.default_rng([batch, special, len(x.shape)])
    shape = tuple([batch if size is None else size for size in x.shape])
    if x.name in ("i", "js", "shared"):  # some of them negative, twice, or out of bounds
        positions = np.resize([4, -1, 9, 4, 4, 0], shape)
        return positions.astype("int32")
    if x.dtype == "bool":
        return rng.random(shape) < 0.5
    if x.dtype == "int32":
        return rng.integers(-3, 4, shape).astype("int32")
    found = rng.normal(size=shape).astype("float32")
    if special and x.name in ("x", "m"):
        flat = found.reshape(batch, -1)
        flat[:, 0], flat[:, 3] = np.nan, -np.inf
        flat[0, 1], flat[0, 2], flat[-1, 4], flat[-1, 5] = np.nan, np.inf, np.inf, -0.0
        if batch > 1:
            flat[1] = [np.inf, np.inf, -np.inf, 1.0, np.nan, np.nan, *flat[1, 6:]]
    return found


def agree(found: list[Any], expected: list[Any]) -> bool:
    """Whether each expected output is there, whatever its place."""
    return all([any([_close(y, wanted) for y in found]) for wanted in expected])


def _close(y: Any, wanted: Any) -> bool:
    y = np.asarray(y)
    same = y.shape == wanted.shape and y.dtype == wanted.dtype
    return same and bool(np.allclose(y, wanted, rtol=1e-5, atol=1e-6, equal_nan=True))


def outcome(make: Callable[[], keras.Model], exporter: Any, folder: Any) -> str:
    """What becomes of a model: "right", FINITE, "refused: ..." or "wrong: ..."."""
    keras.utils.set_random_seed(0)
    model = make()
    inputs = keras.tree.flatten(inputs_of(model))
    found = []
    given = {
        (batch, special): [data(x, batch, special) for x in inputs]
        for batch in exporter.batches
        for special in (False, True)
    }
    expected = {
        how: [
            ops.convert_to_numpy(y)
            for y in keras.tree.flatten(model(packed(model, [ops.convert_to_tensor(x) for x in g])))
        ]
        for how, g in given.items()
    }
    try:
        fixed = None if len(exporter.batches) > 1 else exporter.batches[0]
        run = exporter.export(model, folder, fixed)
        for (batch, special), arrays in given.items():
            ys = run(arrays)
            if not agree(ys, expected[batch, special]):
                found.append((batch, special, ys, expected[batch, special]))
            more = len(ys) - len(expected[batch, special])
    except Exception as error:
        return f"refused: {type(error).__name__}: {error}"
    if not found:
        return MORE if more == 1 else f"{more} outputs more" if more else "right"
    if all([special for _, special, *_ in found]):
        return FINITE
    return f"wrong: {found[0]}"


CELLS = [(how, kind) for how in EXPORTERS.get(BACKEND, {}) for kind in KINDS]


@pytest.mark.parametrize(("how", "kind"), CELLS)
def test_exported(how, kind, tmp_path, record_property):
    found = outcome(KINDS[kind], EXPORTERS[BACKEND][how], tmp_path)
    record_property("how", how)
    record_property("kind", kind)
    kinds = EXPECTED[BACKEND].get(how, {})
    expected = kinds.get(kind, kinds.get("others", "right"))
    if isinstance(expected, Refused):
        assert found.startswith("refused: "), found
        assert re.search(expected.error, found), found
        record_property("found", f"refused: {expected.reason}")
        return
    assert found == expected
    record_property("found", found)


@pytest.mark.parametrize(
    "how", [how for how, kinds in EXPECTED.get(BACKEND, {}).items() if FINITE in kinds.values()]
)
def test_without_kedit_nan_and_infinity_are_wrong_too(how, tmp_path):
    found = []
    for number, make in enumerate(CONTROLS.values()):
        (tmp_path / str(number)).mkdir()
        found.append(outcome(make, EXPORTERS[BACKEND][how], tmp_path / str(number)))
    assert FINITE in found
