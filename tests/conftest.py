"""Fixtures of all tests, and the names that examples may use."""

import pytest
from _backend import compiled


@pytest.fixture(params=["eager", "compiled"])
def run(request):
    """How a function is run: as it is, or compiled by the backend."""
    return (lambda function: function) if request.param == "eager" else compiled
