"""docs/status.schema.json is the schema of the document that `/status` answers."""

import json
from pathlib import Path

from product_live_worker.ops.document import SCHEMA, json_schema

FILE = Path(__file__).parents[2] / "docs" / "status.schema.json"


def test_the_published_schema_is_that_of_the_code() -> None:
    """To write it anew: python -m product_live_worker.ops.document > docs/status.schema.json."""
    assert json.loads(FILE.read_text(encoding="utf-8")) == json_schema()


def test_the_schema_says_its_version_and_describes_each_part() -> None:
    """A reader can rely on the version, and no part is without a sentence."""
    schema = json_schema()
    assert schema["properties"]["schema"]["const"] == SCHEMA
    assert all(part["description"].endswith(".") for part in schema["$defs"].values())
    assert set(schema["required"]) == set(schema["properties"])
