"""What the worker does for a handler that runs, while the journal is in trouble."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from product_live_worker import NotSaved
from product_live_worker.flow.verbs import verbs_for
from product_live_worker.model.context import Verb
from product_live_worker.model.errors import JournalUnwritable
from support.journals import an_execution
from support.virtual_time import run_virtually


class Troubled:
    """A journal that refuses all it is asked so many times, and then does it."""

    def __init__(self, refusals: int) -> None:
        self.left = refusals
        self.key_leases = SimpleNamespace(take=self._do, release=self._do)
        self.callbacks = SimpleNamespace(token=self._do, received=self._do)
        self.save_checkpoint = self._do

    async def _do(self, *_: object, **__: object) -> None:
        if self.left:
            self.left -= 1
            raise JournalUnwritable("disk is full")


def verbs(refusals: int) -> dict[str, Verb]:
    """Give the verbs of an execution over such a journal."""
    journal: Any = Troubled(refusals)
    return verbs_for(journal, an_execution(), ended=lambda _: None, callback_url="https://hooks.example.com")


@pytest.mark.parametrize(
    ("verb", "argument"),
    [
        ("lease", {"key": "k", "timeout": None}),
        ("release", "k"),
        ("callback", None),
        ("received", {"after": 0, "timeout": 60.0}),
    ],
)
def test_what_only_waits_does_not_fail_of_a_journal_in_trouble(verb: str, argument: Any) -> None:
    """Leases and callbacks are asked for again until the journal takes it: a failover must not fail what waits."""

    async def ask() -> None:
        await verbs(30)[verb](argument)

    run_virtually(ask)


def test_a_checkpoint_that_cannot_be_written_is_told() -> None:
    """By an exception that a handler can import, since it decides what that means for its work."""

    async def ask() -> None:
        with pytest.raises(NotSaved, match="disk is full"):
            await verbs(1)["save_checkpoint"]({"at": 1})

    run_virtually(ask)
