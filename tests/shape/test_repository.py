"""The repository keeps its own habits."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CODE = [path for folder in ("worker", "handlers", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PIN = re.compile(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.!]*)")


def pins() -> dict[str, str]:
    """Read the constraints; a line that is neither comment nor pin fails."""
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    matches = [match for line in lines if (match := PIN.fullmatch(line))]
    assert len(matches) == len(lines)
    return {canonicalize_name(match[1]): match[2] for match in matches}


def closure(declared: list[str]) -> Iterator[str]:
    """Name everything that these requirements bring along, on this machine."""
    waiting, seen = [Requirement(text) for text in declared], set[str]()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        yield name
        waiting += [Requirement(text) for text in requires(name) or ()]


def test_constraints_pin_all_that_is_installed() -> None:
    """A fresh clone installs today what it was tested with, and nothing unseen."""
    declared = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    assert set(closure(declared)) <= set(pins())


def test_constraints_allow_what_is_declared() -> None:
    """A pin lies within the range that the project promises to work with."""
    for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_the_makefile_is_short_and_explains_itself() -> None:
    """Twelve targets at most, and `make` lists each with its help."""
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert targets == set(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[0].split())
    assert targets == set(re.findall(r"^([a-z-]+):.*## [A-Z]", MAKEFILE, re.MULTILINE))
    assert len(targets) <= 12


@pytest.mark.skipif(sys.platform == "win32", reason="make is for Linux and macOS")
def test_an_interpreter_that_cannot_be_used_is_told_in_one_line() -> None:
    """The line says what to do, and the exit code says that nothing was done."""
    make = ["make", "--always-make", "--no-print-directory", "PYTHON=no-such-python", "demo"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(make, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)  # noqa: S603 (our own command)
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "no-such-python is not there: install Python 3.11 or later" in line


def test_ci_runs_what_a_person_runs() -> None:
    """`.ci/run` calls `make test` and nothing else."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").splitlines()[-1] == "exec make test"


def test_every_exception_from_a_rule_has_its_reason() -> None:
    """Each `noqa` and `type: ignore` in checked code says why, and so does each rule that is ignored everywhere."""
    unexplained = re.compile(r"# (?:noqa: [A-Z0-9, ]*[A-Z0-9]\b|type: ignore\[[a-z, -]+\])(?! \(|  # )")
    checked = [path for path in CODE if "tests" not in path.parts or "support" in path.parts]
    assert not [f"{path}: {line}" for path in checked for line in lines_of(path) if unexplained.search(line)]
    ignored = [line for line in lines_of(ROOT / "pyproject.toml") if re.match(r'    "[A-Z]+[0-9]+",', line)]
    assert ignored
    assert not [line for line in ignored if not re.search(r"# \w", line)]


def lines_of(path: Path) -> list[str]:
    """Read a file of the repository."""
    return path.read_text(encoding="utf-8").splitlines()


def test_tests_are_sorted_into_their_kinds() -> None:
    """Each file of tests is in a folder of its kind; folders of tests are no packages."""
    kinds = {"unit", "contract", "flow", "browser", "process", "deploy", "shape", "support"}
    tests = [path.relative_to(ROOT / "tests") for path in CODE if path.is_relative_to(ROOT / "tests")]
    assert {path.parts[0] for path in tests} <= kinds | {"conftest.py"}
    assert not [path for path in tests if path.name == "__init__.py"]
