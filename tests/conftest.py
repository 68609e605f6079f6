"""Fixtures of all tests, and the names that examples may use."""

import pytest
from _backend import compiled, forget_compiled

collect_ignore = ["_carriers.py"]  # which is no test, and imports what is not everywhere


@pytest.fixture(autouse=True)
def independent():
    """What one test compiles does not count in the next."""
    yield
    forget_compiled()


@pytest.fixture(params=["eager", "compiled"])
def run(request):
    """How a function is run: as it is, or compiled by the backend."""
    return (lambda function: function) if request.param == "eager" else compiled
