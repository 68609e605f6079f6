"""Configs of edits: such as kedit writes, and such as it should refuse."""

import json

import keras
import numpy as np

from kedit import Trainable, X, at, block, each, sample
from kedit.interventions import BatchMean, Fed, LayerInput, Noise, OtherRun, Rotated, Through


@keras.saving.register_keras_serializable(package="saving")
def half(x):
    return x / 2


DENSE = keras.layers.Dense(2, name="dense")
DENSE.build((None, 2))
LARGE = np.arange(1500) % 7
GOOD = [
    at[0].set(1.0),
    at[1:, ::-2, ..., None].add(2),
    at[[0, 2, 1]].multiply(X * 2.0),
    at[np.array([[True, False]])].set(True),
    at[LARGE > 3].set(LARGE[LARGE > 3].astype("float16")),
    at[()].max(np.array([1.5, np.inf, np.nan])),
    at.where((abs(X) > 2.0) & ~X.isnan()).set(1 - X),
    at.where(LARGE > 1).set(complex(1.0, -np.inf)),
    at[0].set(np.array([1j, 2.0]), casting="unsafe", mode="clip", unique_indices=True),
    at[[True, False]].get(fill_value=float("nan"), size=3, indices_are_sorted=True),
    at[0].apply(half).on("a/b", part="y"),
    sample[each([0, 1]), block(-1, 3)].power(2.0, mode="wrap"),
    sample[0].add(Trainable("zeros", (2,), "non_neg", keras.regularizers.L2(0.1), "w") * X),
    sample.where(X > Trainable(np.array([0.5, 1.0]))).multiply(Trainable(2)),
    sample[0].set(Rotated(BatchMean(), rank=2)),
    sample[0].set(Rotated([0.0, 1.0], initializer=[[1.0], [0.5]], trainable=False)),
    sample[0].set(Rotated(rank=4, temperature=50.0, boundary=Trainable(0.25, regularizer="l1"))),
    sample[0].set(OtherRun() + Fed("gate")),
    sample[0].add(Noise(0.5, seed=3)),
    sample[0].set(LayerInput()),
    sample[0].set(X - LayerInput("bias")),
    sample[0].set(Through(keras.layers.Dense(2, half, name="own"))),
    sample[0].set(Through(DENSE, DENSE, sample[1].set(OtherRun()) | sample[0].set(2.0))),
    sample[0].add(Trainable(1.0, trainable=False)),
    sample[each(Fed("base"))].set(OtherRun(at=sample[each(Fed("source")), 1:])),
]


def of(edit, **changes):
    return {**json.loads(json.dumps(edit.get_config())), **changes}


def index(*items):
    return of(at[0].set(1.0), index=list(items))


def values(data):
    return of(at[0].set(1.0), operand=data)


def array(entries, shape, dtype="float64", form="array"):
    return {form: entries, "shape": shape, "dtype": dtype}


def nested(depth, inner):
    for _ in range(depth):
        inner = {"expression": "negative", "args": [inner]}
    return inner


X_ = {"expression": "X", "args": []}
GREATER = {"expression": "greater", "args": [X_, 0.0]}
BOOLS = "00" * 188  # 1504 bits
SLOT = {"slot": 0}
LEARNED = of(sample[0].set(Trainable(1.0)))
TRAINABLE = LEARNED["trainables"][0]
KERAS = {"module": "keras.initializers", "registered_name": None}


def learned(**changes):
    return {**LEARNED, "trainables": [{**TRAINABLE, **changes}]}


THROUGH = of(sample[0].set(Through(DENSE)))["trainables"][0]["config"]
ROTATED = of(sample[0].set(Rotated(rank=2)))["trainables"][0]["config"]


def held(name, config):
    return {**LEARNED, "trainables": [{"placeholder": f"kedit>{name}", "config": config}]}


def layered(**changes):
    return held("Through", {**THROUGH, "layers": [{**THROUGH["layers"][0], **changes}]})


def keras_layer(name, **config):
    form = {"module": "keras.layers", "registered_name": None}
    return {**form, "class_name": name, "config": {**DENSE.get_config(), **config}}


BAD = {
    "no dict": 3,
    "a list": [of(at[0].set(1.0))],
    "nothing": {},
    "a missing key": {k: v for k, v in of(at[0].set(1.0)).items() if k != "casting"},
    "an unknown key": of(at[0].set(1.0), evil=1),
    "a key that is no str": {**of(at[0].set(1.0)), 3: 1},
    "a default": of(at[0].set(1.0), mode=None),
    "a default bool": of(at[0].set(1.0), unique_indices=False),
    "no bool": of(at[0].set(1.0), unique_indices=1),
    "size of a write": of(at[0].set(1.0), size=1),
    "a float as size": of(at[[True]].get(size=1), size=1.0),
    "a huge size": of(at[[True]].get(size=1), size=2**30),
    "fill_value of a slot": of(at[[True]].get(fill_value=1), fill_value=SLOT),
    "casting of get": of(at[0].get(), casting="unsafe"),
    "operand of get": of(at[0].get(), operand=1.0),
    "condition of get": of(at[0].get(), condition=GREATER),
    "a path": of(at[0].set(1.0), path=1),
    "index: a dict": of(at[0].set(1.0), index={}),
    "index: many": of(at[0].set(1.0), index=[None] * 65),
    "index: a str": of(at[0].set(1.0), index="..."),
    "index: two ellipses": index("...", "..."),
    "item: bool": index(True),
    "item: float": index(0.0),
    "item: list": index([0]),
    "item: number of floats": index({"float": "nan"}),
    "item: two forms": index({"positions": [0], "shape": [1], "slice": [0, 1, 1]}),
    "item: an array of ints": index(array([0], [1], "int64")),
    "slice of two": index({"slice": [0, 1]}),
    "slice of bools": index({"slice": [True, 2, None]}),
    "slice of floats": index({"slice": [0.0, 2, None]}),
    "slice step 0": index({"slice": [0, 2, 0]}),
    "slice with more": index({"slice": [0, 2, 1], "step": 1}),
    "positions: too many": index({"positions": [0, 1, 2], "shape": [2]}),
    "positions: too few": index({"positions": [], "shape": [2]}),
    "positions: floats": index({"positions": [0.9, 1.2], "shape": [2]}),
    "positions: a str": index({"positions": "01", "shape": [2]}),
    "positions: bools": index({"positions": [True], "shape": [1]}),
    "positions: strs": index({"positions": ["0"], "shape": [1]}),
    "positions: huge": index({"positions": [2**64], "shape": [1]}),
    "positions: of no dtype": index({"positions": [-1, 2**63], "shape": [2]}),
    "positions: no axis": index({"positions": [0], "shape": []}),
    "positions: shape": index({"positions": [0], "shape": [True]}),
    "positions: negative shape": index({"positions": [0], "shape": [-1]}),
    "positions: shape of floats": index({"positions": [0], "shape": [1.0]}),
    "positions: shape of many": index({"positions": [0], "shape": [1] * 33}),
    "positions: huge shape": index({"positions": [], "shape": [0, 2**60]}),
    "positions: infinite shape": index({"positions": [], "shape": [0] + [2**31] * 9}),
    "each of an int": of(sample[0].set(1.0), index=[{"each": 0}]),
    "each of each": of(sample[0].set(1.0), index=[{"each": {"each": SLOT}}]),
    "each of a mask": of(sample[0].set(1.0), index=[{"each": array([True], [1], "bool")}]),
    "block of a slice": index({"block": {"slice": [0, 1, 1]}, "size": 1}),
    "block of a bool": index({"block": True, "size": 1}),
    "block of size bool": index({"block": 0, "size": True}),
    "block of size float": index({"block": 0, "size": 1.0}),
    "block of negative size": index({"block": 0, "size": -1}),
    "block of huge size": index({"block": 0, "size": 10**9}),
    "block without size": index({"block": 0}),
    "slot": values(SLOT),
    "slot in an index": index(SLOT),
    "slot -1": values({"slot": -1}),
    "slot of a bool": {**LEARNED, "operand": {"slot": False}},
    "slot beyond": {**LEARNED, "operand": {"slot": 1}},
    "no slot": {**LEARNED, "operand": 1.0},
    "slot of another": {**LEARNED, "trainables": [TRAINABLE, TRAINABLE]},
    "no trainables": {**LEARNED, "trainables": []},
    "trainables: dict": {**LEARNED, "trainables": {}},
    "trainable: more": learned(evil=1),
    "trainable: shape": learned(shape=[True]),
    "trainable: shape 0": learned(shape=[0]),
    "trainable: huge shape": learned(shape=[2**40, 2**40]),
    "trainable: slot": learned(initializer=SLOT),
    "trainable: name": learned(name=3),
    "trainable: trained": learned(trainable=True),
    "trainable: trained by a number": learned(trainable=0),
    "trainable: unknown": learned(initializer="evil"),
    "trainable: list": learned(initializer=[1.0]),
    "trainable: a layer": learned(
        initializer={"class_name": "Dense", "config": {"units": 3}, **KERAS}
    ),
    "trainable: dtype": learned(
        initializer={
            "class_name": "Constant",
            "config": {
                "value": {"class_name": "__numpy__", "config": {"value": "", "dtype": "U99999999"}}
            },
            **KERAS,
        }
    ),
    "rotated in rotated": {
        **LEARNED,
        "trainables": [
            {
                "placeholder": "kedit>Rotated",
                "config": {
                    "source": of(sample[0].set(Rotated()))["trainables"][0],
                    "rank": 1,
                    "basis": TRAINABLE,
                },
            }
        ],
    },
    "through: no layer": held("Through", {**THROUGH, "layers": []}),
    "through: three layers": held("Through", {**THROUGH, "layers": 3 * THROUGH["layers"]}),
    "through: a layer": held("Through", {**THROUGH, "layers": [THROUGH["layers"][0]["layer"]]}),
    "through: weights": layered(weights=[1.0]),
    "through: a number of weights": layered(weights=3),
    "through: shape": layered(input_shape=[2, 2]),
    "through: shape of floats": layered(input_shape=[None, 2.0]),
    "through: no edit": held("Through", {**THROUGH, "edit": {}}),
    "through: an edit without a decoder": held(
        "Through", {**THROUGH, "edit": keras.saving.serialize_keras_object(sample[0].set(1.0))}
    ),
    "through: Lambda": layered(layer=keras_layer("Lambda")),
    "through: unknown": layered(layer=keras_layer("Evil")),
    "through: units": layered(layer=keras_layer("Dense", units="2")),
    "rotated: text": held("Rotated", {**ROTATED, "source": "0.0"}),
    "rotated: slot": held("Rotated", {**ROTATED, "source": SLOT}),
    "rotated: fed": held(
        "Rotated", {**ROTATED, "source": {"placeholder": "kedit>Fed", "config": {"name": "v"}}}
    ),
    "rotated: no operand": held(
        "Rotated", {**ROTATED, "source": {"placeholder": "builtins>eval", "config": {}}}
    ),
    "rotated: temperature alone": held("Rotated", {**ROTATED, "temperature": 1.0}),
    "rotated: boundary alone": held("Rotated", {**ROTATED, "boundary": TRAINABLE}),
    "rotated: no boundary": held("Rotated", {**ROTATED, "boundary": 0.5, "temperature": 1.0}),
    "rotated: fed boundary": held(
        "Rotated",
        {
            **ROTATED,
            "boundary": {"placeholder": "kedit>Fed", "config": {"name": "v"}},
            "temperature": 1.0,
        },
    ),
    "rotated: fed basis": held(
        "Rotated", {**ROTATED, "basis": {"placeholder": "kedit>Fed", "config": {"name": "v"}}}
    ),
    "rotated: negative": held("Rotated", {**ROTATED, "boundary": TRAINABLE, "temperature": -1.0}),
    "fed": {**LEARNED, "trainables": [{"placeholder": "kedit>Fed", "config": {"name": 3}}]},
    "fed, more": {**LEARNED, "trainables": [{"placeholder": "kedit>Fed", "config": {}}]},
    "input: a float": held("LayerInput", {"leaf": 0.0}),
    "input: a bool": held("LayerInput", {"leaf": True}),
    "noise: deviation": held("Noise", {"stddev": "1", "seed": 0}),
    "noise: seed": held("Noise", {"stddev": 1.0, "seed": 2**40}),
    "noise: int": held("Noise", {"stddev": 1, "seed": 0}),
    "operand: None": values(None),
    "operand: ...": values("..."),
    "operand: slice": values({"slice": [0, 1, 1]}),
    "operand: list": values([1.0]),
    "operand: dict": values({}),
    "operand: huge": values(2**64),
    "operand: inf": values(float("inf")),
    "operand: function": values({"function": "saving>half"}),
    "operand: float": values({"float": "1.0"}),
    "operand: float of a number": values({"float": 1.0}),
    "operand: complex": values({"complex": [1, 2.0]}),
    "operand: complex of three": values({"complex": [1.0, 2.0, 3.0]}),
    "apply a number": of(at[0].apply(half), operand=1.0),
    "apply a slot": {**LEARNED, "op": "apply"},
    "apply a class": of(at[0].apply(half), operand={"function": "kedit>Edit"}),
    "apply with more": of(at[0].apply(half), operand={"function": "saving>half", "evil": 1}),
    "function of a list": of(at[0].apply(half), operand={"function": ["saving>half"]}),
    "condition: number": of(at[0].set(1.0), condition=1.0),
    "condition: bool": of(at[0].set(1.0), condition=True),
    "condition: numbers": of(at[0].set(1.0), condition=array([1.0], [1])),
    "condition: no comparison": of(at[0].set(1.0), condition=nested(1, X_)),
    "expression: more": values({**X_, "evil": 1}),
    "expression: no args": values({"expression": "X"}),
    "expression: args": values({"expression": "negative", "args": "X"}),
    "expression: a list": values({"expression": ["X"], "args": []}),
    "expression: of numbers": values({"expression": "add", "args": [1.0, 2.0]}),
    "expression: left": of(at[0].set(1.0), condition={**GREATER, "args": [0.0, X_]}),
    "expression: ...": values({"expression": "add", "args": [X_, "..."]}),
    "expression: None": values({"expression": "add", "args": [X_, None]}),
    "expression: deep": values(nested(101, X_)),
    "expression: very deep": values(nested(20000, X_)),
    "array: U": values(array(["a"], [1], "U500000000")),
    "array: object": values(array([1.0], [1], "O")),
    "array: None": values(array([1.0], [1], None)),
    "array: longdouble": values(array([1.0], [1], "longdouble")),
    "array: short name": values(array([1.0], [1], "f8")),
    "array: entries": values(array([1.0, 2.0], [1])),
    "array: floats": values(array([0.5], [1], "int32")),
    "array: ints": values(array([1], [1], "float32")),
    "array: bools": values(array([True], [1], "int32")),
    "array: no bools": values(array([1], [1], "bool")),
    "array: range": values(array([256], [1], "uint8")),
    "array: rounds": values(array([0.1], [1], "float32")),
    "array: overflows": values(array([1e300], [1], "float16")),
    "array: nested": values(array([[1.0]], [1])),
    "array: both": values({**array([1.0], [1]), "hex": ""}),
    "array: long": values(array([1.0] * 1025, [1025])),
    "hex: huge": values(array("00", [3 * 10**8], "bool", "hex")),
    "hex: infinite": values(array("00", [2**62, 2**62], "bool", "hex")),
    "hex: short": values(array(BOOLS[2:], [1500], "bool", "hex")),
    "hex: padding": values(array(BOOLS[:-2] + "01", [1500], "bool", "hex")),
    "hex: few": values(array("00", [8], "bool", "hex")),
    "hex: no digits": values(array("zz" + BOOLS[2:], [1500], "bool", "hex")),
    "hex: spaces": values(array("  " + BOOLS[2:], [1500], "bool", "hex")),
    "hex: capitals": values(array("FF" + BOOLS[2:], [1500], "bool", "hex")),
    "hex: a list": values(array([0], [1500], "bool", "hex")),
}
