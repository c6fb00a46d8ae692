"""What all tests share."""

import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import settings

from support import leaks
from support.postgres import NoPostgres, Postgres, postgres

# A loaded machine is no counterexample; and CI tries the same examples each time, so that red means the change.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", parent=settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Look after each test whether it has told a secret; then it has failed."""
    report = yield
    return leaks.look(item, report) if call.when == "teardown" else report


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, as the worker does."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """Give a real PostgreSQL; where none can be had the test is skipped, and in CI that is a failure."""
    try:
        with postgres() as server:
            yield server
    except NoPostgres as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI has to have a PostgreSQL: {error}")
        pytest.skip(f"needs a PostgreSQL: {error}")


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> str:
    """Give the address of an empty database."""
    return postgres_server.new_database()
