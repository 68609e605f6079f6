"""Fixtures of all tests, and the names that examples may use."""

import gc

import keras
import pytest
from _backend import IGNORED_WARNINGS, compile_without_building, compiled, forget_compiled

collect_ignore = ["_carriers.py"]  # which is no test, and imports what is not everywhere


def pytest_configure(config):
    for warning in IGNORED_WARNINGS:
        config.addinivalue_line("filterwarnings", warning)


def pytest_collection_modifyitems(items):
    """What is compiled comes first, since it takes longest: so that all processes end together."""
    items.sort(key=lambda item: "compiled" not in item.nodeid)


def pytest_collection_finish():
    """Tracing makes so many objects that Python looks for garbage for a tenth of the time."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


@pytest.fixture(autouse=True)
def independent():
    """What one test draws at random, names or compiles does not count in the next."""
    keras.utils.clear_session(free_memory=False)  # collecting garbage takes longer than most tests
    keras.utils.set_random_seed(0)
    yield
    forget_compiled()


@pytest.fixture(params=["eager", "compiled"])
def run(request):
    """How a function is run: as it is, or compiled by the backend."""
    return (lambda function: function) if request.param == "eager" else compiled


@pytest.fixture
def without_building(monkeypatch):
    """Models are compiled without kernels of their own, where these would have to be built."""
    compile_without_building(monkeypatch)
