"""The repr of everything public is code that creates it, or says why it is not."""

import inspect
import json
import pkgutil
import tempfile
from importlib import import_module
from pathlib import Path

import keras
import numpy as np
import pytest

import kedit
from kedit import Edit, EditSequence, Trainable, X, at, block, draft, each, sample
from kedit.callbacks import DualAscent, PenaltySchedule, PruningSchedule
from kedit.constraints import EditConstraint
from kedit.inputs import EditedDataset, InputEditing, RandomEdit
from kedit.interventions import (
    Activations,
    BatchMean,
    Capture,
    EditedModel,
    Fed,
    LayerInput,
    Noise,
    OtherRun,
    Rotated,
    Through,
    WeightEditing,
    ablation_study,
    patching_study,
    site,
)
from kedit.layers import ConditionalModifier, Editing, IndexGuide, RandomEditing
from kedit.losses import IndexPenalty, MaskedLoss, WeightedSum
from kedit.metrics import IndexViolation
from kedit.studies import Ablation, Counterfactual, Sweep, ablate, sweep
from kedit.testing import IndexCase, Report
from kedit.testing._report import Outcome

pytestmark = pytest.mark.once


class Squares(keras.utils.PyDataset):
    def __len__(self):
        return 1

    def __getitem__(self, number):
        return np.ones((2, 3)), np.zeros(2)


def half(y_true, y_pred):
    return (y_true - y_pred) / 2


class Own(IndexPenalty):
    """A subclass that keeps its arguments under other names."""

    def __init__(self, place, weight=2.0):
        super().__init__(place, 0.0, weight=weight)


class Plain(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return y_pred


SCHEDULE = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5)
NAMES = {
    **vars(kedit),
    **{name: thing for name, thing in globals().items() if not name.startswith("_")},
}
CODE = [
    (at[0, 2].set(100.0), "at[0, 2].set(100.0)"),
    (at[0].set(1.0) | at[1:].add(X), "at[0].set(1.0) | at[1:].add(X)"),
    (each([0, 3, 1]), "each([0, 3, 1])"),
    (each(np.array([[0, 3]])), "each([[0, 3]])"),
    (block(2, 3), "block(2, 3)"),
    (X, "X"),
    (Trainable("zeros", (2,)), "Trainable('zeros', shape=(2,))"),
    (OtherRun(), "OtherRun()"),
    (Fed("gate"), "Fed('gate')"),
    (BatchMean(), "BatchMean()"),
    (LayerInput(), "LayerInput()"),
    (LayerInput("bias"), "LayerInput('bias')"),
    (Noise(), "Noise()"),
    (Noise(0.1, seed=0), "Noise(stddev=0.1, seed=0)"),
    (Trainable(2.0, trainable=False), "Trainable(2.0, trainable=False)"),
    (Rotated(rank=2), "Rotated(OtherRun(), rank=2)"),
    (Rotated(0.0, trainable=False), "Rotated(0.0, rank=1, trainable=False)"),
    (
        Rotated(rank=9, temperature=50.0, boundary=0.25),
        "Rotated(OtherRun(), rank=9, temperature=50.0, boundary=0.25)",
    ),
    (site("dense"), "site('dense')"),
    (site("dense_*", "input", call=1), "site('dense_*', where='input', call=1)"),
    (IndexPenalty(2, 50.0), "IndexPenalty(2, 50.0)"),
    (
        IndexPenalty([0, 2], lower=[0.0, np.nan], kind="huber", delta=2.0, reduction="sum"),
        "IndexPenalty([0, 2], lower=np.array([0.0, float('nan')], 'float64'), kind='huber', "
        "delta=2.0, reduction='sum')",
    ),
    (
        IndexPenalty((slice(None), 2), "y_true", base_loss="mae", exclude_from_base=True, name="p"),
        "IndexPenalty(sample[:, 2], 'y_true', base_loss='mean_absolute_error', "
        "exclude_from_base=True, name='p')",
    ),
    (
        IndexPenalty([True, False], 1.0, dtype="float64"),
        "IndexPenalty(sample[[True, False]], 1.0, dtype='float64')",
    ),
    (IndexPenalty(at[..., 2], 1), "IndexPenalty(at[..., 2], 1)"),
    (MaskedLoss("mse"), "MaskedLoss('mean_squared_error')"),
    (
        MaskedLoss(keras.losses.BinaryCrossentropy(from_logits=True), -1.0, normalizer="row"),
        "MaskedLoss(keras.losses.BinaryCrossentropy(from_logits=True), ignore=-1.0, "
        "normalizer='row')",
    ),
    (MaskedLoss(half, (-1, sample[2])), "MaskedLoss(half, ignore=(-1, sample[2]))"),
    (
        MaskedLoss("mse", np.array([True, False])),
        "MaskedLoss('mean_squared_error', ignore=np.array([True, False], 'bool'))",
    ),
    (WeightedSum(["mse"]), "WeightedSum(['mean_squared_error'])"),
    (
        WeightedSum(["mse", IndexPenalty(2, 50.0)], [1.0, 0.5], name="both"),
        "WeightedSum(['mean_squared_error', IndexPenalty(2, 50.0)], [1.0, 0.5], name='both')",
    ),
    (IndexViolation(2, 50.0), "IndexViolation(2, 50.0)"),
    (
        IndexViolation(2, upper=1.0, reduce="max", name="worst"),
        "IndexViolation(2, upper=1.0, reduce='max', name='worst')",
    ),
    (IndexViolation(2, 50.0, reduce="max"), "IndexViolation(2, 50.0, reduce='max')"),
    (EditConstraint(at[0, 1].set(0.0)), "EditConstraint(at[0, 1].set(0.0))"),
    (
        EditConstraint(at[0].set(0.0) | at[1].max(0.0)),
        "EditConstraint(at[0].set(0.0) | at[1].max(0.0))",
    ),
    (DualAscent("guide"), "DualAscent('guide')"),
    (DualAscent(IndexGuide(2, 1.0, name="g"), 0.5, every=3), "DualAscent('g', rate=0.5, every=3)"),
    (
        PenaltySchedule("guide", SCHEDULE),
        "PenaltySchedule('guide', keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5))",
    ),
    (PruningSchedule(0.0, 0.9, 0, 1000), "PruningSchedule(0.0, 0.9, 0, 1000)"),
    (
        PruningSchedule(0.5, 0.25, 10, 20, frequency=5, regrow=True),
        "PruningSchedule(0.5, 0.25, 10, 20, frequency=5, regrow=True)",
    ),
    (
        RandomEdit(sample[...].set(0.0), count=1),
        "RandomEdit(edit=sample[...].set(0.0), count=1, rate=None, block=None, axes=None, "
        "probability=1.0, seed=0)",
    ),
]
# What the code cannot say is in angle brackets.
OTHERS = [
    (EditedDataset(Squares(), sample[0].set(5.0)), "EditedDataset(<Squares>, sample[0].set(5.0))"),
    (MaskedLoss(keras.losses.Huber(2.0)), "MaskedLoss(keras.losses.Huber(...))"),
    (WeightedSum([Plain()]), "WeightedSum([<Plain>])"),
    (Own(2, weight=3.0), "Own(..., weight=3.0)"),
    (EditSequence(), "EditSequence()"),
    (
        Through(keras.layers.Dense(3, name="e"), keras.layers.Dense(2, name="d"), sample[0].set(X)),
        "Through(<Dense 'e'>, <Dense 'd'>, sample[0].set(X))",
    ),
]


def network():
    return keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(2.0, name="h")], name="net")


# Layers and models have weights and an identity: the code would make others. Keras's repr says
# the name by which Keras and kedit address them, which for an `Editing` is its edit in words.
LAYERS = {
    Editing: (lambda: Editing(sample[2].set(0.0)), "<Editing name=sample_2_set_0, built=False>"),
    ConditionalModifier: (
        lambda: ConditionalModifier(5.0),
        "<ConditionalModifier name=where_X_gt_5_multiply_2, built=False>",
    ),
    RandomEditing: (
        lambda: RandomEditing(sample[2:].set(0.0), count=1),
        "<RandomEditing name=random_sample_2_set_0, built=False>",
    ),
    IndexGuide: (lambda: IndexGuide(2, 1.0, name="g"), "<IndexGuide name=g, built=False>"),
    InputEditing: (
        lambda: InputEditing(sample[2].set(0.0), name="i"),
        "<InputEditing name=i, built=True>",
    ),
    WeightEditing: (
        lambda: WeightEditing(keras.layers.Dense(2), {"kernel": at[0].set(0.0)}, name="w"),
        "<WeightEditing name=w, built=False>",
    ),
    EditedModel: (
        lambda: EditedModel(network(), {"h": sample[0].set(0.0)}, name="e"),
        "<EditedModel name=e, built=True>",
    ),
    Capture: (lambda: Capture(network(), ["h"], name="c"), "<Capture name=c, built=True>"),
}
# Results are not created by hand: the shapes stand for their arrays.
RESULTS = {
    Sweep: (
        lambda: sweep(network(), np.ones((4, 3)), sample[0], [5.0, 6.0], verbose=0),
        "Sweep(label='sample[0]', values=<array of shape (2,)>, "
        "outputs=<array of shape (2, 4, 3)>)",
    ),
    Ablation: (
        lambda: ablate(network(), np.ones((4, 3)), [0, 0, 1], verbose=0),
        "Ablation(before=<array of shape (4, 3)>, after=<array of shape (2, 4, 3)>, "
        "members=[<array of shape (1, 3)>, <array of shape (1, 3)>])",
    ),
    Counterfactual: (
        lambda: Counterfactual(*[np.zeros((2, 3))] * 4, np.zeros(2, bool)),
        "Counterfactual(x=<array of shape (2, 3)>, edited=<array of shape (2, 3)>, "
        "before=<array of shape (2, 3)>, after=<array of shape (2, 3)>, "
        "reached=<array of shape (2,)>)",
    ),
    Activations: (
        lambda: Capture(network(), ["h"]).to_disk(
            Path(tempfile.mkdtemp()) / "acts.h5", np.ones((4, 3)), verbose=0
        ),
        "Activations({'h': <array of shape (4, 3)>})",
    ),
    IndexCase: (lambda: IndexCase((2, 3), (0, slice(1, None))), "(2,3)[0,1:]"),
    Report: (
        lambda: Report("check_loss(mine)", [Outcome("dtype", "", False, "passes")]),
        "check_loss(mine)\nkind   eager\ndtype  1 pass",
    ),
}


def public_classes():
    modules = [import_module(m.name) for m in pkgutil.iter_modules(kedit.__path__, "kedit.")]
    packages = [m for m in [kedit, *modules] if hasattr(m, "__all__") and "._" not in m.__name__]
    things = {getattr(package, name) for package in packages for name in package.__all__
              if inspect.isclass(getattr(package, name))}  # fmt: skip
    assert len(packages) > 9
    return {thing for thing in things if not issubclass(thing, Exception)}


def test_every_public_class_is_in_a_table():
    shown = {type(thing) for thing, _ in CODE + OTHERS}
    assert public_classes() - shown == {*LAYERS, *RESULTS}
    assert {Edit, EditSequence, IndexPenalty} <= shown


@pytest.mark.parametrize(("thing", "code"), CODE, ids=[code for _, code in CODE])
def test_the_repr_is_code_that_creates_an_equal_object(thing, code):
    assert repr(thing) == code
    again = eval(code, {**NAMES, "np": np, "keras": keras})
    assert type(again) is type(thing)
    assert repr(again) == code
    if hasattr(thing, "get_config") and "half" not in code:
        assert json.dumps(again.get_config()) == json.dumps(thing.get_config())
    if type(thing).__eq__ is not object.__eq__ and thing is not X:
        assert again == thing


@pytest.mark.parametrize(("thing", "code"), OTHERS, ids=[code for _, code in OTHERS])
def test_what_code_cannot_say(thing, code):
    assert repr(thing) == code


@pytest.mark.parametrize("kind", [*LAYERS, *RESULTS], ids=lambda kind: kind.__name__)
def test_layers_and_results_are_described(kind):
    make, said = {**LAYERS, **RESULTS}[kind]
    made = make()
    assert type(made) is kind
    assert repr(made) == said


def test_nothing_else_that_is_public_is_a_bare_object():
    x = np.zeros((2, 3))
    studies = [
        ablation_study(network(), x, "h", lambda y: y[:, 0], verbose=0),
        patching_study(network(), x, x + 1.0, "h", lambda y: y[:, 0], verbose=0),
        sweep(
            keras.Model(i := keras.Input((3,)), {"a": i * 2.0, "b": i * 3.0}),
            x, sample[0], [1.0], verbose=0,
        ),
    ]  # fmt: skip
    others = [at, sample, at[0], sample[0].where(X > 0), at(x), at(x)[0], draft(x), draft(x)[0]]
    for thing in [*studies, *others]:
        assert "object at 0x" not in repr(thing)
        assert len(repr(thing)) < 300
    assert "{'a': <array of shape (1, 2, 3)>" in repr(studies[-1])
    assert studies[-1]._repr_html_().startswith("<code>Sweep(")
