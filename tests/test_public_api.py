"""What is public, and that its prose says what the house demands."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import sys

import pytest

import kedit
from kedit._language.mistakes import Misnamed

pytestmark = pytest.mark.once

PACKAGES = {
    kedit: [
        "at",
        "sample",
        "draft",
        "each",
        "block",
        "X",
        "position",
        "Edit",
        "EditSequence",
        "Trainable",
        "inputs",
        "layers",
        "losses",
        "metrics",
        "callbacks",
        "constraints",
        "weights",
        "interventions",
        "studies",
        "testing",
        "errors",
    ],
    kedit.inputs: ["EditedDataset", "InputEditing", "RandomEdit"],
    kedit.layers: ["ConditionalModifier", "Editing", "IndexGuide", "RandomEditing"],
    kedit.losses: ["IndexPenalty", "MaskedLoss", "WeightedSum"],
    kedit.metrics: ["IndexViolation"],
    kedit.callbacks: ["DualAscent", "PenaltySchedule", "PruningSchedule"],
    kedit.studies: ["sweep", "ablate", "counterfactual", "Sweep", "Ablation", "Counterfactual"],
    kedit.constraints: ["EditConstraint"],
    kedit.weights: ["WeightEditing", "edit_weights", "freeze_elements", "prune", "remove_channels"],
    kedit.interventions: [
        "Activations",
        "BatchMean",
        "Capture",
        "EditedModel",
        "Fed",
        "LayerInput",
        "Noise",
        "OtherRun",
        "Rotated",
        "Through",
        "WeightEditing",
        "ablation_study",
        "attribution_study",
        "capture",
        "direct_effect_study",
        "edit_model",
        "edit_weights",
        "freeze_elements",
        "load_edits",
        "logit_lens_study",
        "patching_study",
        "path_patching_study",
        "principal_components",
        "prune",
        "remove_channels",
        "save_edits",
        "site",
        "sites",
    ],
    kedit.testing: [
        "check_edit_function",
        "check_layer",
        "check_loss",
        "check_metric",
        "index_cases",
        "IndexCase",
        "Report",
    ],
}
ERRORS = {
    "EditError": Exception,
    "PositionError": IndexError,
    "SliceError": (IndexError, TypeError),
    "ShapeError": ValueError,
    "BroadcastError": (IndexError, ValueError),
    "DTypeError": TypeError,
    "CoordinateError": ValueError,
    "OperandError": TypeError,
    "OperationError": AttributeError,
    "SavingError": TypeError,
}
OPERATIONS = "get set add subtract multiply divide power min max apply".split()  # noqa: SIM905
PLACE = type(kedit.at[0])
CLASSES = [
    kedit.Edit,
    kedit.EditSequence,
    kedit.Trainable,
    kedit.constraints.EditConstraint,
    kedit.interventions.WeightEditing,
    kedit.layers.Editing,
    kedit.layers.ConditionalModifier,
    kedit.layers.IndexGuide,
    kedit.layers.RandomEditing,
    kedit.losses.IndexPenalty,
    kedit.losses.MaskedLoss,
    kedit.losses.WeightedSum,
    kedit.metrics.IndexViolation,
    kedit.callbacks.DualAscent,
    kedit.callbacks.PenaltySchedule,
    kedit.callbacks.PruningSchedule,
    kedit.inputs.EditedDataset,
    kedit.inputs.InputEditing,
    kedit.inputs.RandomEdit,
]
RESULTS = [kedit.studies.Sweep, kedit.studies.Ablation, kedit.studies.Counterfactual]
STUDIES = [kedit.studies.sweep, kedit.studies.ablate, kedit.studies.counterfactual]
CHECKS = [
    kedit.testing.check_edit_function,
    kedit.testing.check_layer,
    kedit.testing.check_loss,
    kedit.testing.check_metric,
    kedit.testing.index_cases,
]
# In the order in which Keras's docstrings have them, and then the house's own.
SECTIONS = [
    "Formula",
    "Args",
    "Call arguments",
    "Input shape",
    "Output shape",
    "Returns",
    "Raises",
    "Gradient",
    "References",
    "Example",
]


def public(thing):
    return [
        name
        for name, value in vars(thing).items()
        if not (name.startswith("_") or isinstance(value, Misnamed))
    ]


def sections(thing):
    doc = inspect.cleandoc(thing.__doc__)
    return [
        name for name in re.findall(r"^([A-Z][a-z ]+)\b[^\n]*:$", doc, re.M) if name in SECTIONS
    ]


def name_of(thing):
    return getattr(thing, "__name__", repr(thing))


@pytest.mark.parametrize(("package", "names"), PACKAGES.items(), ids=name_of)
def test_public_names(package, names):
    assert package.__all__ == names
    assert sorted(name for name in dir(package) if not name.startswith("_")) == sorted(names)
    assert package.__doc__
    for name in names:
        assert getattr(package, name) is not None


def test_importing_looks_at_no_arguments():
    """`kedit/__init__.py` only shows the public names, if there is a Keras that is new enough."""
    tree = ast.parse(inspect.getsource(kedit))
    (trial,) = [node for node in tree.body if isinstance(node, ast.Try)]
    assert [type(node) for node in (*trial.body, *trial.handlers[0].body)] == [
        ast.Import,
        ast.Raise,
    ]
    checks = [node for node in tree.body if isinstance(node, ast.If)]
    assert [[type(node) for node in check.body] for check in checks] == [[ast.Raise]] * 2
    kinds = {type(node) for node in tree.body}
    assert kinds == {ast.Expr, ast.ImportFrom, ast.Assign, ast.Try, ast.If}
    names = [name for n in tree.body if isinstance(n, ast.ImportFrom) for name in n.names]
    hidden = [name.asname for name in names if name.name not in kedit.__all__]
    assert hidden == ["_publish", "_unpickled"]


def test_every_example_is_run():
    """Those of methods are found only if a method says that it is where its class is."""
    found, written = [], []
    for info in pkgutil.walk_packages(kedit.__path__, "kedit."):
        if info.name == "kedit.__main__":
            continue
        module = importlib.import_module(info.name)
        found += [test.docstring for test in doctest.DocTestFinder().find(module)]
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                written.append(ast.get_docstring(node, clean=False) or "")
    found += [test.docstring for test in doctest.DocTestFinder().find(kedit)]
    examples = [text for text in written if ">>> " in text]
    assert len(examples) > 70
    assert [text for text in examples if text not in found] == []


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", kedit.__version__)


def test_errors_are_edit_errors_and_what_a_user_would_catch():
    assert {name: kind for name in public(kedit.errors) for kind in [ERRORS.get(name)]} == ERRORS
    for name, built_ins in ERRORS.items():
        error = getattr(kedit.errors, name)
        assert issubclass(error, kedit.errors.EditError)
        for built_in in built_ins if isinstance(built_ins, tuple) else [built_ins]:
            assert issubclass(error, built_in)
        assert error.__doc__


def test_operations_are_those_of_jax_and_no_others():
    assert sorted(public(PLACE)) == sorted([*OPERATIONS, "where", "selection"])
    for op in [*OPERATIONS, "where"]:
        if op not in ("get", "where"):
            assert "casting" in inspect.signature(getattr(PLACE, op)).parameters


@pytest.mark.parametrize("op", [*OPERATIONS, "where"])
def test_operations_state_their_gradient_and_show_an_example(op):
    found = sections(getattr(PLACE, op))
    assert {"Gradient", "Example"} <= set(found)
    assert op == "where" or {"Returns", "Raises"} <= set(found)
    assert found == [name for name in SECTIONS if name in found]
    assert f".{op}(" in getattr(PLACE, op).__doc__


@pytest.mark.parametrize("cls", CLASSES, ids=name_of)
def test_classes_state_their_arguments_gradient_and_an_example(cls):
    found = sections(cls)
    assert {"Args", "Gradient", "Example"} <= set(found)
    assert found == [name for name in SECTIONS if name in found]
    assert ">>> " in cls.__doc__
    if issubclass(cls, kedit.layers.Editing):
        assert {"Call arguments", "Input shape", "Output shape"} <= set(found)
    documented = cls.__doc__.split("Args:")[1].split("\n\n")[0]
    for parameter in inspect.signature(cls.__init__).parameters.values():
        if parameter.name != "self":
            assert re.search(rf"^ +\*{{0,2}}{parameter.name}:", documented, re.M)


@pytest.mark.parametrize("function", STUDIES, ids=name_of)
def test_studies_state_their_arguments_and_where_they_come_from(function):
    found = sections(function)
    assert {"Args", "Returns", "Raises", "Gradient", "References", "Example"} <= set(found)
    assert found == [name for name in SECTIONS if name in found]
    documented = function.__doc__.split("Args:")[1].split("\n\n")[0]
    for name in inspect.signature(function).parameters:
        assert re.search(rf"^ +{name}:", documented, re.M)


@pytest.mark.parametrize("function", CHECKS, ids=name_of)
def test_checks_state_their_arguments_and_show_an_example(function):
    found = sections(function)
    assert {"Args", "Raises", "Example"} <= set(found)
    assert found == [name for name in SECTIONS if name in found]
    documented = function.__doc__.split("Args:")[1].split("\n\n")[0]
    for name in inspect.signature(function).parameters:
        assert re.search(rf"^ +{name}:", documented, re.M)


@pytest.mark.parametrize("cls", [*CLASSES, *RESULTS, PLACE, type(kedit.at)], ids=name_of)
def test_everything_public_has_a_docstring(cls):
    fields = getattr(cls, "__slots__", ())
    bare = [
        name
        for name in public(cls)
        if name not in fields and not inspect.getdoc(inspect.getattr_static(cls, name))
    ]
    # What only overrides is documented where it comes from.
    inherited = [name for name in bare if any(hasattr(base, name) for base in cls.__mro__[1:])]
    assert set(bare) == set(inherited)


def test_what_is_public_says_where_it_lives():
    for package, names in PACKAGES.items():
        for name in names:
            thing = getattr(package, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                assert thing.__name__ == name
                assert getattr(sys.modules[thing.__module__], name) is thing
                assert "._" not in thing.__module__
    assert repr(kedit.at) == "at"
    assert repr(kedit.sample) == "sample"
    assert repr(kedit.X) == "X"
