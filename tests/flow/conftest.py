"""What the tests of the connectors share: no secret is ever told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

CONNECTORS = ("test_snowflake", "test_salesforce", "test_informatica")


@pytest.fixture(autouse=True)
def no_secret_is_printed(request: pytest.FixtureRequest) -> Iterator[None]:
    """All secrets of the fakes have one word in them; neither it nor an address for callbacks is in any line."""
    if request.path.stem not in CONNECTORS:
        yield
        return
    printed: pytest.CaptureFixture[str] = request.getfixturevalue("capsys")
    yield
    out, err = printed.readouterr()
    assert "worker stopped" in out
    assert not [line for line in (out + err).splitlines() if "s3cret" in line or "/callbacks/" in line]
