"""The documentation tells of every public name, its links lead somewhere, and its code runs."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import product_live_pytest
import product_live_worker
from product_live_worker import testkit
from support.documents import DOCS, PAGES, ROOT, blocks, links, reference

PUBLIC = {module.__name__: module.__all__ for module in (product_live_worker, testkit)}
NAMES = [(module, name) for module, names in PUBLIC.items() for name in names]
REFERENCE = reference()


def thing(module: str, name: str) -> Any:
    """Give what a public name stands for."""
    return getattr(sys.modules[module], name)


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_every_public_name_has_a_docstring(module: str, name: str) -> None:
    """A class says it of its methods and properties too; what a dataclass says of itself is no docstring."""
    found = thing(module, name)
    said = {name: inspect.getdoc(found) or ""}
    if inspect.isclass(found):
        said |= {method: inspect.getdoc(it) or "" for method, it in REFERENCE.methods(found).items()}
        said |= REFERENCE.attributes(found)
    assert not [name for name, text in said.items() if not text.strip().endswith((".", "`", '"'))]
    assert not said[name].startswith(f"{name}(")


def test_every_public_name_and_fixture_is_in_the_reference() -> None:
    """With its heading, where its module is shown; nothing is public by accident."""
    page = (DOCS / "reference.md").read_text(encoding="utf-8")
    written = REFERENCE.on_page_markdown(page)
    fixtures = REFERENCE.fixtures(product_live_pytest)
    assert set(fixtures) == {"product_live_trial", "sandbox"}
    headings = re.findall(r"^### (\w+)$", written, re.MULTILINE)
    assert headings == [name for _, name in NAMES] + list(fixtures)
    assert all(inspect.getdoc(function) for function in fixtures.values())
    assert "<!--" not in written


@pytest.mark.parametrize("name", ["handler", "TaskFailed", "Context", "save_checkpoint", "Trial", "Sandbox", "run"])
def test_what_an_author_needs_is_told_in_prose_too(name: str) -> None:
    """Not only in the reference."""
    assert [page.name for page in PAGES if name in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*.md")], ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    """Relative to the page."""
    assert not [target for target in links(page) if not (page.parent / target).exists()]


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """As `make docs` builds it; the reference is in it."""
    done = subprocess.run(  # noqa: S603 (our own command)
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'id="taskfailed"' in (tmp_path / "reference" / "index.html").read_text(encoding="utf-8").lower()
    assert {page.stem for page in PAGES} <= {path.name for path in tmp_path.iterdir()} | {"index"}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_code_can_be_imported(page: Path) -> None:
    """Each page's blocks in their order, as one module; files of the tutorial are run by tests of their own."""
    namespace: dict[str, Any] = {"__name__": "a_page"}
    for block in blocks(page, "python"):
        if not block.title:
            exec(compile(block.text, str(page), "exec", dont_inherit=True), namespace)  # noqa: S102 (our own code)


def test_the_examples_of_testing_are_tests_that_pass(tmp_path: Path) -> None:
    """With plain pytest and the plugin that the worker has installed."""
    code = "\n".join(block.text for block in blocks(DOCS / "testing.md", "python"))
    (tmp_path / "test_page.py").write_text(code, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV_"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{code.count('def test_')} passed" in ended.stdout
