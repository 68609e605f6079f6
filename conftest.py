"""The names that examples in docstrings and in the README may use."""

import os
import tempfile

import keras
import numpy as np
import pytest

import kedit

collect_ignore_glob = ["docs/*.py", "docs/auto_examples/*", "docs/_build/*"]


@pytest.fixture(autouse=True)
def names(doctest_namespace):
    doctest_namespace.update(keras=keras, kedit=kedit, np=np, ops=keras.ops, X=kedit.X)
    doctest_namespace.update(os=os, tempfile=tempfile)


_TRAINING = ("counterfactual(", ".gradients(", "attribution_study(")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the pages of the documentation, and the examples that train a model.

    Like other tests, they need tensors that are not NumPy's, and gradients.
    """
    for item in items:
        examples = item.dtest.examples if isinstance(item, pytest.DoctestItem) else []
        if item.path.suffix == ".md" and item.path.name != "README.md":
            item.add_marker("tensors")
        if any(train in example.source for example in examples for train in _TRAINING):
            item.add_marker("gradient")
