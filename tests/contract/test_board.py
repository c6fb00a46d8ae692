"""What operators ask for, on both databases: kept, in force for all, seen once by each."""

from __future__ import annotations

import time
from typing import Any

import pytest

from product_live_worker.model.action import Action, Verb
from product_live_worker.model.errors import IllegalTransition
from product_live_worker.model.execution import Outcome, State
from support.journals import Place, an_execution, in_state, opened

pytestmark = pytest.mark.anyio


def asked(verb: Verb, subject: str = "", **fields: Any) -> Action:
    """Give an action of Anna's."""
    return Action(**{"verb": verb, "subject": subject, "who": "anna", "why": "a test", "at": time.time(), **fields})


async def test_a_pause_holds_for_all_workers_until_it_is_ended(place: Place) -> None:
    """Also for those that come later; who pauses again, replaces it; each sees each action once."""
    async with opened(place) as one, opened(place) as other:
        await one.board.act(asked("pause", why="first"))
        await one.board.act(asked("pause", why="second"))
        await one.board.act(asked("pause", "power"))
        assert [action.why for action in await other.board.look()] == ["first", "second", "a test"]
        assert await other.board.look() == []
        pause = other.board.paused("")
        assert pause is not None
        assert (pause.who, pause.why, other.board.paused("power") is not None) == ("anna", "second", True)
        await other.board.act(asked("resume"))
        await one.board.look()
        assert [pause.subject for pause in one.board.pauses()] == ["power"]
        with pytest.raises(IllegalTransition, match="all tasks together are not paused; paused is power"):
            await one.board.act(asked("resume"))
    async with opened(place) as later:
        await later.board.look()
        assert [pause.subject for pause in later.board.pauses()] == ["power"]
        assert [action.verb for action in later.board.actions] == ["pause", "pause", "pause", "resume"]


async def test_a_pause_with_an_end_ends(place: Place) -> None:
    """Nobody has to do anything."""
    async with opened(place) as journal:
        await journal.board.act(asked("pause", until=time.time() - 1))
        await journal.board.act(asked("pause", "power", until=time.time() + 3600))
        await journal.board.look()
        assert [pause.subject for pause in journal.board.pauses()] == ["power"]


async def test_platforms_do_not_see_each_others_actions(place: Place) -> None:
    """A worker of the sandbox's is not paused with that of production."""
    async with opened(place) as one, opened(place, platform="https://other.example.com") as other:
        await one.board.act(asked("pause"))
        assert await other.board.look() == []
        assert other.board.pauses() == ()


@pytest.mark.parametrize(
    ("verb", "states"),
    [
        ("redeliver", {State.UNDELIVERABLE}),
        ("discard", {State.UNDELIVERABLE, State.SETTLED}),
        ("cancel", {State.CLAIMED, State.RUNNING}),
    ],
)
async def test_what_is_asked_of_an_execution_depends_on_its_state(place: Place, verb: Verb, states: set[State]) -> None:
    """Where it cannot be done, nothing is, and the state is said."""
    async with opened(place) as journal:
        for state in State:
            await in_state(journal, state, an_execution(state.value))
            if state in states:
                await journal.board.act(asked(verb, state.value))
            else:
                with pytest.raises(IllegalTransition, match=f"is {state}; it must be "):
                    await journal.board.act(asked(verb, state.value))
        assert {action.subject for action in await journal.board.look()} == {state.value for state in states}
        with pytest.raises(IllegalTransition, match="is not in the journal"):
            await journal.board.act(asked(verb, "nobody"))


async def test_failures_undeliverables_and_workers_are_surveyed(place: Place) -> None:
    """With what a person wants to know of each, although the output of what was reported is blank."""
    async with opened(place) as journal, opened(place) as other:
        failed = await journal.start(await claimed(journal, "e1"))
        failed = await journal.settle(failed, Outcome.failed("no_ean", "The product has no EAN." + "x" * 5000))
        await journal.close(failed)
        await in_state(journal, State.UNDELIVERABLE, an_execution("e2"))
        (kept,) = await other.board.failures()
        assert (kept.id, kept.code, (kept.message or "")[:23]) == ("e1", "no_ean", "The product has no EAN.")
        assert len(kept.message or "") == 1000
        await other.board.survey()
        assert [(one.id, one.trouble) for one in other.board.undeliverable] == [("e2", "404")]
        workers = {worker.holder: worker for worker in other.board.workers}
        assert set(workers) == {journal.holder, other.holder}
        assert (workers[journal.holder].open, workers[other.holder].open) == (1, 0)
        assert all(0 < worker.lease_left <= 30 for worker in workers.values())
        record = await other.board.record("e1")
        assert record is not None
        assert (record["state"], record["output"]) == ("REPORTED", None)
        assert await other.board.record("nobody") is None


async def claimed(journal: Any, id: str) -> Any:
    """Claim an execution."""
    execution, _ = await journal.claim(an_execution(id))
    return execution


async def test_old_actions_are_forgotten_and_pauses_are_not(place: Place) -> None:
    """What holds is remembered, however long ago it was asked for."""
    async with opened(place) as journal:
        await journal.board.act(asked("pause", at=1.0))
        await journal.board.act(asked("pause", "power", at=1.0))
        await journal.board.act(asked("resume", "power", at=2.0))
        await journal.board.prune(3.0)
        await journal.board.look()
        assert [action.verb for action in journal.board.actions] == ["pause"]
        assert len(journal.board.pauses()) == 1
