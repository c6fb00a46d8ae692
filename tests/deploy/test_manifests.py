"""deploy/kubernetes as the real kustomize renders it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from support.kustomize import KUBERNETES, Object, render
from support.monitoring import tool


@pytest.mark.parametrize(
    ("overlay", "components"),
    [
        ("single", ()),
        ("single", ("pod-monitor",)),
        ("fleet", ()),
        ("fleet", ("pod-monitor", "autoscaling-keda")),
        ("fleet", ("autoscaling-hpa",)),
    ],
)
def test_kustomize_renders_what_the_tests_have_looked_at(
    overlay: str, components: tuple[str, ...], tmp_path: Path
) -> None:
    """`make test` looks at what a few lines of Python render: the very same objects, hashes of settings included."""
    here = shutil.copytree(KUBERNETES, tmp_path / "kubernetes") / "overlays" / "ours"
    here.mkdir()
    taken = ", ".join(f"../../components/{name}" for name in components)
    (here / "kustomization.yaml").write_text(
        f"namespace: product-live\nresources: [../{overlay}]\ncomponents: [{taken}]\n", encoding="utf-8"
    )
    done = subprocess.run(  # noqa: S603 (Debian's own)
        [tool("kubectl", "kubectl"), "kustomize", str(here)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert by_name(list(yaml.safe_load_all(done.stdout))) == by_name(
        render(KUBERNETES / "overlays" / overlay, *components)
    )


def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
    """Give the objects by kind and name; their order says nothing."""
    named = {(each["kind"], each["metadata"]["name"]): each for each in objects}
    assert len(named) == len(objects)
    return named
