"""The names that examples in docstrings and in the README may use."""

import keras
import numpy as np
import pytest

import kedit


@pytest.fixture(autouse=True)
def names(doctest_namespace):
    doctest_namespace.update(keras=keras, kedit=kedit, np=np, ops=keras.ops, X=kedit.X)
