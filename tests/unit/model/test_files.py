"""`File`: every shape in which a file comes, and one in which it goes; names that do no harm on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from product_live_worker import File, TaskFailed, TransferFailed, handler
from product_live_worker.model.explain import explain
from product_live_worker.model.files import plain_name
from support.contexts import a_context

ID = "0123456789abcdef" * 4
OBJECT = {"object": "data_factory_file", "id": ID, "createdAt": "2026-01-01T00:00:00Z", "url": "https://h.test/a?s=1"}


class Input(BaseModel):
    """An input with a file, and several."""

    file: File
    files: list[File] = []


@pytest.mark.parametrize(
    ("found", "read"),
    [
        (OBJECT, OBJECT),
        ({"url": "https://h.test/a.csv", "filename": "b.csv"}, {"url": "https://h.test/a.csv", "filename": "b.csv"}),
        ("https://h.test/a.csv", {"url": "https://h.test/a.csv"}),
        (" http://h.test/a.csv ", {"url": "http://h.test/a.csv"}),
        (ID.upper(), {"id": ID}),
        ({"id": ID, "url": "", "filename": None}, {"id": ID}),
    ],
    ids=["object", "url-and-filename", "address", "with-blanks", "id", "wired-to-nothing"],
)
def test_each_shape_of_a_file_is_read_and_written_as_an_object(found: Any, read: dict[str, Any]) -> None:
    """What the platform or a job's author says of a file is kept, and what is nothing is left out."""
    given = Input.model_validate({"file": found, "files": [found]})
    assert given.model_dump(mode="json") == {"file": read, "files": [read]}
    assert given.files == [given.file]


@pytest.mark.parametrize(
    "found",
    ["", "secret-text", "ftp://h.test/a", "file:///etc/passwd", "https://", 7, None, True, {}, {"filename": "a"}, [ID]],
    ids=repr,
)
def test_what_is_no_file_is_refused_with_the_shapes_that_are(found: Any) -> None:
    """In words for the job's author, without the value."""
    with pytest.raises(ValidationError) as caught:
        Input.model_validate({"file": found})
    said = explain(caught.value)
    assert said.startswith("file")
    assert "64 hexadecimal digits" in said
    assert "secret-text" not in said


def test_a_file_in_a_result_is_an_object_that_a_later_task_can_take() -> None:
    """In a dict without types too, and a retry's `on_repeat` reads it again."""

    @handler("make")
    async def make(_: dict[str, Any]) -> dict[str, Any]:
        return {}

    written = make.write_output({"file": File.model_validate(OBJECT), "files": [File(id=ID)]})
    assert written == {"file": OBJECT, "files": [{"id": ID}]}
    assert File.model_validate(written["file"]) == File.model_validate(OBJECT)


def test_the_schema_of_an_input_says_that_texts_are_read() -> None:
    """An output is always an object."""
    assert {kind.get("type", "object") for kind in File.model_json_schema()["anyOf"]} == {"object", "string"}
    assert File.model_json_schema(mode="serialization")["type"] == "object"


def test_a_transfer_that_fails_is_a_refusal() -> None:
    """Not caught, it is the outcome in its own words."""
    assert issubclass(TransferFailed, TaskFailed)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ({"url": "https://h.test/dir/a%20b.csv?x=1"}, "a b.csv"),
        ({"url": "https://h.test/files/content", "id": ID}, ID),
        ({"url": "https://h.test"}, "file"),
        ({"id": ID, "filename": "../../etc/passwd"}, "passwd"),
        ({"id": ID, "filename": "C:\\temp\\x.txt"}, "x.txt"),
        ({"id": ID, "filename": "..."}, ID),
        ({"id": ID, "filename": ".bashrc"}, "bashrc"),
        ({"id": ID, "filename": "a\x00b\n.csv"}, "ab.csv"),
        ({"id": ID, "filename": "é" * 300 + ".csv"}, "é" * 98 + ".csv"),
    ],
)
def test_a_file_has_a_name_that_does_no_harm(file: dict[str, str], name: str) -> None:
    """From its filename, its address or its id; the ending stays."""
    assert File.model_validate(file).name == name


@given(st.text())
def test_a_plain_name_is_one_name(text: str) -> None:
    """Whatever it is made of: no folders, no hidden file, nothing unprintable, short enough for a disk."""
    name = plain_name(text)
    assert not set(name) & set("/\\\0\n")
    assert not name.startswith((".", "-"))
    assert name.isprintable()
    assert len(name.encode("utf-8", "surrogatepass")) <= 200


def test_a_directory_of_another_machine_is_told(tmp_path: Path) -> None:
    """As on a Dask cluster without a shared one: what to set, instead of a path that is not there."""
    elsewhere = tmp_path / "gone" / "work"
    context = replace(a_context(), directory=elsewhere)
    with pytest.raises(RuntimeError, match=r"execution\.workdir"):
        _ = context.workdir
    with pytest.raises(RuntimeError, match="made by hand"):
        _ = a_context().workdir

    async def downloaded(_: Any) -> dict[str, str]:
        return {"done": str(elsewhere / "a.txt")}

    context = replace(context, verbs={"download": downloaded})
    with pytest.raises(TransferFailed, match=r"execution\.workdir"):
        anyio.run(lambda: context.files.download(ID))
