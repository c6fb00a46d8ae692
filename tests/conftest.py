"""What all tests share."""

import os

import pytest
from hypothesis import settings

# A loaded machine is no counterexample; and CI tries the same examples each time, so that red means the change.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", parent=settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, as the worker does."""
    return "asyncio"
