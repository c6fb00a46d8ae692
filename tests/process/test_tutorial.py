"""The tutorial, done as it is written: in a clean environment, without the network."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support.documents import DOCS, blocks
from support.environments import Environment, new_environment

pytestmark = pytest.mark.timeout(240)

PAGE = DOCS / "tutorial.md"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Give an environment with the worker's wheel, as step 1 of the tutorial makes it."""
    return new_environment(tmp_path_factory.mktemp("tutorial"))


def test_the_tutorial_works_as_it_is_written(clean: Environment, tmp_path: Path) -> None:
    """Each `sh` block is run, each block with a file's name is that file; `console` is for other machines."""
    said, folder = [], tmp_path
    for block in blocks(PAGE, "sh", "python"):
        if block.title:
            file = folder / block.title
            assert file.exists(), "the tutorial changes files that `new` has written"
            file.write_text(block.text, encoding="utf-8")
            continue
        done = subprocess.run(  # noqa: S602 (our own pages)
            f"set -e\n{block.text}",
            shell=True,
            cwd=folder,
            env=clean.variables(),
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout}{done.stderr}"
        said.append(done.stdout)
        folder = tmp_path / "price-tag"
        folder = folder if folder.exists() else tmp_path
    assert sum("passed" in text for text in said) == 2
    (invoked,) = [text for text in said if '"COMPLETED"' in text]
    assert json.loads(invoked[invoked.index("\n{") :])["output"] == {"text": "A1: 9.50 EUR"}
    assert [path.name for path in (folder / "dist").iterdir()] == ["price_tag-0.1.0-py3-none-any.whl"]
