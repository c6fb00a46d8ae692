"""One suite for the journal on SQLite and PostgreSQL: what is written, what is remembered, and in which order."""

from __future__ import annotations

import itertools
import json
import math
import time
import uuid
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from product_live_worker.journal.journal import Journal
from product_live_worker.journal.ledger import JournalLedger
from product_live_worker.journal.records import open_records
from product_live_worker.journal.tables import REVISION
from product_live_worker.model.action import Action
from product_live_worker.model.errors import IllegalTransition, JournalUnwritable
from product_live_worker.model.execution import IN_HAND, TRANSITIONS, Execution, Outcome, State
from product_live_worker.model.window import Demand
from support.journals import (
    DONE,
    LEADS_TO,
    PLATFORM,
    VERBS,
    Commits,
    Place,
    add_reported,
    all_rows,
    allow,
    an_execution,
    in_state,
    opened,
    query,
    refuse,
    row,
    url_of,
)

pytestmark = pytest.mark.anyio
HOUR = 3600.0
HELD = [State.CLAIMED, State.RUNNING, State.SETTLED]


# Steps


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("verb", VERBS)
async def test_a_verb_takes_exactly_the_steps_that_are_allowed(place: Place, state: State, verb: str) -> None:
    """From each state a verb either takes an allowed step, in memory and file alike, or is refused and changes none."""
    to = LEADS_TO[verb]
    # `postpone` leaves a row where it is, and so does `rerun` one that was never started.
    allowed = {"postpone": state is State.SETTLED, "rerun": state in IN_HAND}.get(verb, to in TRANSITIONS[state])
    async with opened(place) as journal:
        execution = await in_state(journal, state, an_execution())
        before = row(place)
        if allowed and state in HELD:
            after = await VERBS[verb](journal, execution)
            assert after.state is to
            assert row(place)["state"] == to
        else:
            with pytest.raises(IllegalTransition, match="e1"):
                await VERBS[verb](journal, execution)
            assert row(place) == before


@pytest.mark.parametrize("state", HELD)
def test_every_allowed_step_of_a_row_in_hand_has_a_verb(state: State) -> None:
    """What the transitions allow, a stage can do."""
    assert TRANSITIONS[state] <= set(LEADS_TO.values())


async def test_an_execution_that_is_not_in_hand_takes_no_step(place: Place) -> None:
    """A row that this process does not hold is not its to change."""
    async with opened(place) as journal:
        with pytest.raises(IllegalTransition, match="not in hand"):
            await journal.start(an_execution())


# Claim


async def test_a_claim_is_in_the_file_when_it_returns(place: Place) -> None:
    """Whatever happens next, the claim is not lost: the file has all of it."""
    claimed = an_execution(input={"é": [1, None]}, correlation_id="c1", idempotency_key="k1")
    async with opened(place) as journal:
        assert await journal.claim(claimed) == (claimed, True)
        found = row(place)
    wanted = {"platform": PLATFORM, "id": "e1", "task_id": "t1", "task": "power", "state": "CLAIMED"}
    assert wanted.items() <= found.items()
    assert (found["correlation_id"], found["idempotency_key"], found["claimed_at"]) == ("c1", "k1", 1.0)
    assert json.loads(found["input"]) == {"é": [1, None]}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    input=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec=None)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
async def test_any_input_can_be_claimed_and_comes_back_the_same(place: Place, input: Any) -> None:
    """The platform may send any JSON value; the next start reads what this one claimed."""
    claimed = an_execution(uuid.uuid4().hex, input=input)
    async with opened(place) as journal:
        await journal.claim(claimed)
    async with opened(place) as journal:
        await journal.take_over()
        found = await journal.next(State.CLAIMED)
        assert found == claimed
        await journal.close(found)


async def test_a_claim_of_an_execution_in_hand_is_not_new_and_changes_nothing(place: Place) -> None:
    """The platform may offer an execution again; what is known of it stands."""
    async with opened(place) as journal:
        for state in HELD:
            await in_state(journal, state, an_execution(id=state))
            before = row(place, state)
            known, is_new = await journal.claim(an_execution(id=state, input={"other": 1}))
            assert (known.state, is_new) == (state, False)
            assert row(place, state) == before
        assert journal.unreported() == 3


async def test_the_same_id_on_another_platform_is_another_execution(place: Place) -> None:
    """A worker touches only rows of its own platform."""
    async with opened(place) as one, opened(place, platform="https://other.example.com") as other:
        await one.claim(an_execution())
        assert (await other.claim(an_execution(input={"other": 1})))[1]
        await in_state(other, State.SETTLED, an_execution(id="e2"))
        await other.close(an_execution())
        assert query(place, "SELECT state FROM executions WHERE platform = ? AND id = 'e1'", PLATFORM) == [("CLAIMED",)]
        assert await one.prune(math.inf) == 0


# Outcomes


async def test_an_outcome_is_in_the_file_before_it_is_reported(place: Place) -> None:
    """A settled row has its outcome, whole; the next start can report it."""
    async with opened(place) as journal:
        execution = await in_state(journal, State.RUNNING, an_execution())
        settled = await journal.settle(execution, Outcome.failed("no", "No.", {"row": 7}))
        found = row(place)
    assert (found["state"], found["status"]) == ("SETTLED", "FAILED")
    assert json.loads(found["output"]) == settled.outcome.output == {"row": 7, "message": "No.", "code": "no"}  # type: ignore[union-attr]
    assert found["claimed_at"] < found["started_at"] <= found["settled_at"]


async def test_a_settled_outcome_never_changes(place: Place) -> None:
    """COMPLETED never turns into FAILED, whatever is tried and however late."""
    async with opened(place) as journal:
        running = await in_state(journal, State.RUNNING, an_execution())
        await journal.settle(running, DONE)
        for verb in (journal.start, journal.rerun):
            with pytest.raises(IllegalTransition):
                await verb(running)
        with pytest.raises(IllegalTransition):
            await journal.settle(running, Outcome.failed("timeout", "late"))
        postponed = await journal.postpone(journal.get("e1") or running, "no answer")
        assert postponed.outcome == DONE
        await journal.close(postponed)
        with pytest.raises(IllegalTransition):
            await journal.settle(running, Outcome.failed("timeout", "late"))
    assert row(place)["status"] == "COMPLETED"


async def test_of_two_outcomes_at_once_only_the_first_is_kept(place: Place) -> None:
    """Two that settle the same row at the same moment do not both succeed."""
    async with opened(place) as journal:
        running = await in_state(journal, State.RUNNING, an_execution())
        refused: list[Outcome] = []

        async def settle(outcome: Outcome) -> None:
            try:
                await journal.settle(running, outcome)
            except IllegalTransition:
                refused.append(outcome)

        outcomes = [DONE, Outcome.failed("timeout", "late")]
        async with anyio.create_task_group() as group:
            for outcome in outcomes:
                group.start_soon(settle, outcome)
        held = journal.get("e1")
    kept = [outcome for outcome in outcomes if outcome not in refused]
    assert len(kept) == 1
    assert held is not None
    assert held.outcome == kept[0]
    assert row(place)["status"] == kept[0].status


async def test_a_row_that_another_worker_took_over_cannot_be_settled(place: Place) -> None:
    """Every write names its holder: who lost a row has no more say in it."""
    async with opened(place) as journal:
        running = await in_state(journal, State.RUNNING, an_execution())
        query(place, "UPDATE executions SET holder = 'another'")
        with pytest.raises(IllegalTransition, match="taken over"):
            await journal.settle(running, DONE)
    assert row(place)["output"] is None


async def test_a_postponed_report_stays_settled_and_says_why(place: Place) -> None:
    """Each report without a final answer is counted, and its reason shown."""
    async with opened(place) as journal:
        execution = await in_state(journal, State.SETTLED, an_execution())
        for trouble in ("503", "no answer"):
            execution = await journal.postpone(execution, trouble)
        assert (execution.state, execution.attempts, execution.trouble) == (State.SETTLED, 2, "no answer")
        assert (row(place)["attempts"], row(place)["trouble"]) == (2, "no answer")
        assert journal.reports_waiting() == 1


async def test_an_outcome_that_is_refused_for_good_is_kept_whole(place: Place) -> None:
    """What cannot be delivered is neither sent again nor dropped."""
    async with opened(place) as journal:
        await journal.give_up(await in_state(journal, State.SETTLED, an_execution()), "404 Not Found")
        assert (journal.undeliverable, journal.unreported(), journal.get("e1")) == (1, 0, None)
    found = row(place)
    assert (found["state"], found["trouble"], found["attempts"]) == ("UNDELIVERABLE", "404 Not Found", 1)
    assert json.loads(found["output"]) == DONE.output
    assert json.loads(found["input"]) == {"power": 3}


async def test_a_reported_row_keeps_no_payload(place: Place) -> None:
    """Inputs, outputs and checkpoints may be secrets; they go when they have done their work."""
    async with opened(place) as journal:
        settled = await in_state(journal, State.SETTLED, an_execution(checkpoint={"page": 7}))
        assert row(place)["checkpoint"] is not None
        await journal.close(settled, "the platform has CANCELED")
    found = row(place)
    assert (found["input"], found["output"], found["checkpoint"]) == (None, None, None)
    assert (found["state"], found["status"], found["trouble"]) == ("REPORTED", "COMPLETED", "the platform has CANCELED")
    assert found["reported_at"] >= found["settled_at"]


async def test_payloads_are_kept_where_that_is_wanted(place: Place) -> None:
    """With keep_payloads, a reported row still has all that went in and came out."""
    async with opened(place, keep_payloads=True) as journal:
        await in_state(journal, State.REPORTED, an_execution(checkpoint={"page": 7}))
    found = row(place)
    payloads = [json.loads(found[name]) for name in ("input", "output", "checkpoint")]
    assert payloads == [{"power": 3}, DONE.output, {"page": 7}]


@pytest.mark.parametrize("state", [State.REPORTED, State.UNDELIVERABLE])
async def test_an_execution_offered_again_gets_its_outcome_again(place: Place, state: State) -> None:
    """What was reported, or refused, before is not run a second time: its stored outcome is sent again."""
    async with opened(place) as journal:
        await in_state(journal, state, an_execution())
        known, is_new = await journal.claim(an_execution())
        again = await journal.next(State.SETTLED)
        assert (known.state, is_new) == (state, False)
        assert (again.id, again.outcome, journal.undeliverable) == ("e1", DONE, 0)
        assert row(place)["state"] == State.SETTLED


async def test_an_execution_offered_again_whose_output_is_gone_is_told_so(place: Place) -> None:
    """After a restart a blanked output cannot be sent again; the pipeline is told, and the handler not run again."""
    async with opened(place) as journal:
        await in_state(journal, State.REPORTED, an_execution())
    async with opened(place) as journal:
        await journal.claim(an_execution())
        again = await journal.next(State.SETTLED)
    assert again.outcome is not None
    assert again.outcome.code == "repeated"


# What is counted


async def test_what_is_in_hand_is_counted_by_task(place: Place) -> None:
    """Claimed and running executions hold a slot of their task; settled ones hold none, but owe a report."""
    async with opened(place) as journal:
        for number, state in enumerate(State):
            await in_state(journal, state, an_execution(id=f"a{number}", task="a"))
        await in_state(journal, State.RUNNING, an_execution(id="b", task="b"))
        assert (journal.in_hand("a"), journal.in_hand("b"), journal.in_hand("c")) == (2, 1, 0)
        assert (journal.total_in_hand(), journal.unreported(), journal.reports_waiting()) == (3, 4, 1)
        assert [one.id for one in journal.open_executions()] == ["a0", "a1", "a2", "b"]
        assert journal.undeliverable == 1


@pytest.mark.parametrize("state", State)
async def test_an_execution_is_held_until_it_is_reported_or_given_up(place: Place, state: State) -> None:
    """What is done with is forgotten in memory, not in the file."""
    async with opened(place) as journal:
        execution = await in_state(journal, state, an_execution())
        assert journal.get("e1") == (execution if state in HELD else None)
        assert journal.total_in_hand() == (1 if state in IN_HAND else 0)


# How stages hear of each other


async def test_each_execution_is_given_once_to_the_stage_that_waits(place: Place) -> None:
    """However many wait, no execution is run or reported by two."""
    got: list[str] = []

    async def take(journal: Journal) -> None:
        got.append((await journal.next(State.CLAIMED)).id)

    async with opened(place) as journal, anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(take, journal)
        await anyio.wait_all_tasks_blocked()
        for number in range(5):
            group.start_soon(journal.claim, an_execution(id=f"e{number}"))
        while len(got) < 5:
            await anyio.lowlevel.checkpoint()
        await journal.start(await in_state(journal, State.CLAIMED, an_execution(id="last")))
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert sorted(set(got) - {"last"}) == [f"e{number}" for number in range(5)]
    assert len(got) == len(set(got))


async def test_an_execution_that_has_gone_on_is_not_given(place: Place) -> None:
    """Who asks late for claimed executions does not get one that is settled already."""
    async with opened(place) as journal:
        await in_state(journal, State.SETTLED, an_execution(id="gone"))
        await journal.claim(an_execution(id="here"))
        assert (await journal.next(State.CLAIMED)).id == "here"


async def test_an_execution_that_is_to_run_again_is_given_again(place: Place) -> None:
    """A rerun is ordinary work for the dispatcher."""
    async with opened(place) as journal:
        await journal.claim(an_execution())
        first = await journal.next(State.CLAIMED)
        await journal.rerun(await journal.start(first))
        again = await journal.next(State.CLAIMED)
    assert (again.id, again.started_at) == ("e1", None)
    assert row(place)["started_at"] is None


async def test_a_postponed_report_is_not_given_to_a_second_reporter(place: Place) -> None:
    """Only what is newly settled is given; the one who postponed it still has it in hand."""
    async with opened(place) as journal:
        await in_state(journal, State.SETTLED, an_execution())
        await journal.postpone(await journal.next(State.SETTLED), "503")
        await in_state(journal, State.SETTLED, an_execution(id="e2"))
        assert (await journal.next(State.SETTLED)).id == "e2"


async def test_every_change_wakes_those_who_wait_for_one(place: Place) -> None:
    """A slot that is freed, or a report that is owed, is heard of at once."""
    async with opened(place) as journal:
        for verb in (lambda: journal.claim(an_execution()), lambda: journal.start(an_execution())):
            async with anyio.create_task_group() as group:
                group.start_soon(journal.changed)
                await anyio.wait_all_tasks_blocked()
                await verb()


# What is promised when things go wrong


async def test_a_verb_that_has_begun_is_ended_although_its_caller_is_cancelled(place: Place) -> None:
    """A cancelled caller leaves memory and file in agreement, and the connection whole."""
    async with opened(place) as journal:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await journal.claim(an_execution())
        held = journal.get("e1")
        assert held is not None
        assert row(place)["state"] == held.state == State.CLAIMED
        await journal.start(held)


@pytest.mark.parametrize("verb", ["start", "rerun"])
async def test_a_start_that_cannot_be_written_is_none(place: Place, verb: str) -> None:
    """What could happen twice is not begun before it is in the file; once the disk is well again, it is."""
    start_from = State.RUNNING if verb == "rerun" else State.CLAIMED
    async with opened(place) as journal:
        execution = await in_state(journal, start_from, an_execution())
        before = row(place)
        refuse(place, "UPDATE")
        with pytest.raises(JournalUnwritable, match="disk is full"):
            await VERBS[verb](journal, execution)
        assert journal.get("e1") == execution
        assert (row(place), journal.trouble) == (before, "the journal cannot be written: disk is full")
        allow(place, "UPDATE")
        assert (await VERBS[verb](journal, execution)).state is LEADS_TO[verb]
        assert journal.trouble == ""


@pytest.mark.parametrize("verb", ["settle", "postpone", "close", "give_up"])
async def test_an_outcome_that_cannot_be_written_is_kept_until_it_can(place: Place, verb: str) -> None:
    """While the disk refuses, what has happened is remembered and said to be in trouble; then it is written down."""
    start_from = State.RUNNING if verb == "settle" else State.SETTLED
    async with opened(place) as journal:
        execution = await in_state(journal, start_from, an_execution())
        before = row(place)
        refuse(place, "UPDATE")
        after = await VERBS[verb](journal, execution)
        assert after.state is LEADS_TO[verb]
        assert (row(place), bool(journal.trouble)) == (before, True)
        with pytest.raises(JournalUnwritable):
            await journal.catch_up()
        allow(place, "UPDATE")
        await journal.catch_up()
        assert (row(place)["state"], row(place)["status"], journal.trouble) == (after.state, "COMPLETED", "")


async def test_a_whole_story_that_could_not_be_written_is_written_as_it_ended(place: Place) -> None:
    """Claimed before the disk failed, settled and reported while it did: the file has the end, without payloads."""
    async with opened(place) as journal:
        execution = await in_state(journal, State.RUNNING, an_execution())
        refuse(place, "UPDATE")
        await journal.close(await journal.settle(execution, DONE))
        assert journal.unreported() == 0
        allow(place, "UPDATE")
        await journal.catch_up()
    assert (row(place)["state"], row(place)["status"], row(place)["output"]) == ("REPORTED", "COMPLETED", None)


async def test_a_claim_that_cannot_be_written_waits_for_the_disk(place: Place) -> None:
    """The platform has given it away already, so it is not forgotten; it is not started either before it is written."""
    async with opened(place) as journal:
        await journal.claim(an_execution(id="first"))
        refuse(place, "INSERT")
        claimed, is_new = await journal.claim(an_execution())
        assert (claimed.id, is_new, journal.in_hand("power")) == ("e1", True, 2)
        with pytest.raises(JournalUnwritable):
            await journal.start(claimed)
        allow(place, "INSERT")
        await journal.start(claimed)
        assert row(place)["state"] == "RUNNING"


@pytest.mark.parametrize("first", ["the step", "the catching up"])
@pytest.mark.parametrize("verb", ["start", "settle", "close"])
async def test_catching_up_never_writes_over_a_later_step(place: Place, verb: str, first: str) -> None:
    """A step that is under way while the journal catches up stays, whichever of the two comes first."""
    async with opened(place) as journal:
        refuse(place, "INSERT")
        await journal.claim(an_execution(id="another", claimed_at=0.0))
        execution, _ = await journal.claim(an_execution())
        if verb == "close":
            execution = await journal.settle(execution, DONE)
        allow(place, "INSERT")
        async with anyio.create_task_group() as both:
            if first == "the catching up":
                both.start_soon(journal.catch_up)
            both.start_soon(VERBS[verb], journal, execution)
            both.start_soon(journal.catch_up)
        await journal.catch_up()
        assert row(place)["state"] == LEADS_TO[verb].value


async def test_what_is_only_read_does_not_end_the_trouble(place: Place) -> None:
    """A full disk can still be read: until something has been written again, nothing may be claimed."""
    async with opened(place) as journal:
        await journal.claim(an_execution())
        refuse(place, "INSERT")
        refuse(place, "UPDATE", "holders")
        refused, _ = await journal.claim(an_execution(id="e2"))
        assert await journal.take_over() == []
        assert await journal.earlier(refused) is not None
        assert await journal.prune(0.0) == 0
        assert journal.trouble
        with pytest.raises(JournalUnwritable):
            await journal.renew()
        allow(place, "INSERT")
        allow(place, "UPDATE", "holders")
        await journal.renew()
        assert not journal.trouble


# Commits


async def test_verbs_one_after_another_are_each_committed(place: Place) -> None:
    """A verb that returns is on the disk; it does not wait for company."""
    async with opened(place) as journal:
        with Commits() as commits:
            await in_state(journal, State.REPORTED, an_execution())
    assert commits.count == 4


async def test_a_step_that_is_refused_does_no_harm_to_its_neighbours(place: Place) -> None:
    """Of verbs that share a transaction, each gets its own answer."""
    refused: list[str] = []

    async def settle(journal: Journal, execution: Execution) -> None:
        try:
            await journal.settle(execution, DONE)
        except IllegalTransition:
            refused.append(execution.id)

    async with opened(place) as journal:
        several = [await in_state(journal, State.RUNNING, an_execution(id=f"e{number}")) for number in range(5)]
        query(place, "UPDATE executions SET holder = 'another' WHERE id = 'e2'")
        async with anyio.create_task_group() as group:
            for execution in several:
                group.start_soon(settle, journal, execution)
    states = dict(query(place, "SELECT id, state FROM executions"))
    assert refused == ["e2"]
    assert states == {one.id: "RUNNING" if one.id == "e2" else "SETTLED" for one in several}


async def test_a_step_that_breaks_the_transaction_is_the_only_one_to_fail(place: Place) -> None:
    """What the database refuses for one row, it still does for the others of the group."""
    async with opened(place) as journal:
        refuse(place, "INSERT", only="e2")
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(journal.claim, an_execution(id=f"e{number}"))
    assert query(place, "SELECT id FROM executions ORDER BY id") == [("e0",), ("e1",), ("e3",), ("e4",)]


async def test_a_note_for_later_is_written_with_the_next_step(place: Place) -> None:
    """What nobody waits for is written together with what somebody does, and nothing is lost when it fails."""
    held = "SELECT count(*) FROM slots WHERE free_at > (SELECT ends_at FROM holders)"
    async with opened(place) as journal:
        slot = await journal.ledger.take(Demand(limit=50, hold=60))
        assert isinstance(slot, int)
        with Commits() as commits:
            journal.ledger.give_back(slot)
            assert query(place, held) == [(1,)]
            await journal.claim(an_execution())
        assert commits.count <= 2
        assert query(place, held) == [(0,)]
        refuse(place, "UPDATE", "slots")
        other = await journal.ledger.take(Demand(limit=50, hold=60))
        assert isinstance(other, int)
        journal.ledger.give_back(other)
        assert (await journal.claim(an_execution(id="e2")))[1]


# Pruning


async def test_only_what_was_reported_long_ago_is_forgotten(place: Place) -> None:
    """Retention is for reported rows; what is open or undeliverable stays however old it is."""
    async with opened(place) as journal:
        for state in State:
            await in_state(journal, state, an_execution(id=state))
        reported_at = row(place, State.REPORTED)["reported_at"]
        assert await journal.prune(reported_at) == 0
        assert await journal.prune(reported_at + 1) == 1
    assert {id for (id,) in query(place, "SELECT id FROM executions")} == set(State) - {State.REPORTED}


async def test_a_long_deletion_is_done_in_short_steps(place: Place) -> None:
    """Who claims while ten thousand old rows are forgotten waits for a thousand of them at most."""
    async with opened(place) as journal:
        add_reported(place, 3000)
        with Commits() as commits:
            assert await journal.prune(math.inf) == 3000
    assert commits.count == 4


def test_what_was_discarded_by_hand_is_forgotten_in_its_time(place: Place) -> None:
    """A row that nobody will report is done with, and kept no longer than a reported one."""

    async def story() -> list[int]:
        async with opened(place) as journal:
            await in_state(journal, State.UNDELIVERABLE, an_execution())
            with open_records(url_of(place), platform=PLATFORM, to_write=True) as records:
                records.act(Action(verb="discard", subject="e1", who="anna", at=time.time()))
            return [await journal.prune(time.time() - 3600), await journal.prune(time.time() + 1)]

    assert anyio.run(story) == [0, 1]


# Time


async def test_a_repeat_is_known_although_the_clock_went_back(place: Place) -> None:
    """What came first is told by the order of the claims: an hour back must not let the work be done twice."""
    async with opened(place) as journal:
        for number, claimed_at in enumerate((9000.0, 5400.0, 5400.0)):
            await journal.claim(an_execution(f"e{number}", claimed_at=claimed_at, idempotency_key="k"))
        found = [await journal.earlier(one) for one in journal.open_executions()]
    assert [one and one.id for one in found] == [None, "e0", "e1"]


async def test_a_claim_that_is_not_written_down_comes_after_all_that_is(place: Place) -> None:
    """While the disk refuses, a repeat still finds what it repeats."""
    async with opened(place) as journal:
        await journal.claim(an_execution(idempotency_key="k"))
        refuse(place, "INSERT")
        late, _ = await journal.claim(an_execution("e2", idempotency_key="k"))
        earlier = await journal.earlier(late)
        assert earlier is not None
        assert earlier.id == "e1"
        allow(place, "INSERT")
        await journal.catch_up()


async def test_an_age_is_told_by_a_clock_that_does_not_jump(place: Place) -> None:
    """An execution claimed, by the wall clock, in 1970 is a moment old; only across a restart the wall clock counts."""
    async with opened(place) as journal:
        execution = await in_state(journal, State.SETTLED, an_execution(claimed_at=1.0))
        ((_, since),) = journal.reached(State.SETTLED)
        assert 0 <= journal.now() - since < HOUR
        spent = journal.spent(execution)
        assert 0 <= max(spent.waited, spent.ran) <= spent.in_all < HOUR
    async with opened(place) as journal:
        await journal.take_over()
        (found,) = journal.open_executions()
        ((_, since),) = journal.reached(State.SETTLED)
        assert 0 <= journal.now() - since < HOUR
        assert journal.spent(found).in_all > HOUR
        query(place, "UPDATE executions SET claimed_at = 9e9")
    async with opened(place) as journal:
        await journal.take_over()
        (found,) = journal.open_executions()
        assert journal.spent(found).in_all == 0


# The ledger in the file


async def test_two_workers_on_one_database_share_the_window(place: Place) -> None:
    """Two ledgers on one file give no more slots than one."""
    async with opened(place) as one, opened(place) as other:
        taken = [await journal.ledger.take(Demand(limit=3, hold=60)) for journal in (one, other, one, other)]
    assert [isinstance(slot, int) for slot in taken] == [True, True, True, False]
    assert 59 < taken[3] <= 60


async def test_the_window_survives_a_restart(place: Place) -> None:
    """A crash loop cannot burst past the budget."""
    for restart in range(4):
        async with opened(place) as journal:
            assert isinstance(await journal.ledger.take(Demand(limit=3, hold=60)), int) is (restart < 3)


async def test_workers_on_two_platforms_do_not_share_a_window(place: Place) -> None:
    """Each platform has its own budget."""
    async with opened(place) as one, opened(place, platform="https://other.example.com") as other:
        assert isinstance(await one.ledger.take(Demand(limit=1, hold=60)), int)
        assert isinstance(await other.ledger.take(Demand(limit=1, hold=60)), int)


async def test_the_slots_of_another_boot_count_as_answered_now(place: Place) -> None:
    """Another boot's clock says nothing here; its requests may have arrived a moment ago, and no later."""
    async with opened(place, window=5) as journal:
        for _ in range(2):
            assert isinstance(await journal.ledger.take(Demand(limit=2, hold=60)), int)
        query(place, "UPDATE slots SET boot = 'another', free_at = free_at + 1000000 * (number - 1)")
        await journal.ledger.open(5)
        wait = await journal.ledger.take(Demand(limit=2, hold=60))
        assert isinstance(wait, float)
        assert 4 < wait <= 5


async def test_the_slots_of_this_boot_keep_their_time(place: Place) -> None:
    """A restart of the worker alone frees nothing and holds nothing longer."""
    async with opened(place, window=5) as journal:
        assert isinstance(await journal.ledger.take(Demand(limit=1, hold=60)), int)
    async with opened(place, window=5) as journal:
        wait = await journal.ledger.take(Demand(limit=1, hold=60))
        assert isinstance(journal.ledger, JournalLedger)
        assert 59 < wait <= 60


async def test_a_journal_knows_how_many_workers_share_it(place: Place) -> None:
    """Living holders of the same platform are counted at each renewal; one that left, or whose lease ended, is not."""
    async with opened(place) as one:
        async with opened(place) as other, opened(place, platform="https://elsewhere.example.com"):
            await one.renew()
            assert (one.fleet.workers, other.fleet.workers) == (2, 2)
            query(place, "UPDATE holders SET ends_at = 0")
            await one.renew()
            assert one.fleet.workers == 1
        await one.renew()
        assert one.fleet.workers == 1


UNDONE = {
    "0002": ["DROP TABLE task_lists"],
    "0001": ["DROP INDEX slots_of_lane", "CREATE INDEX slots_free_at ON slots (platform, free_at)"],
}
"""What makes each schema of the one after it, the latest first."""


@pytest.mark.parametrize("schema", UNDONE)
async def test_a_journal_of_an_earlier_schema_is_brought_up_to_date(place: Place, schema: str) -> None:
    """With all that is in it: what was claimed, what waits to be reported, and the window."""
    async with opened(place) as journal:
        await in_state(journal, State.RUNNING, an_execution())
        await in_state(journal, State.SETTLED, an_execution("e2"))
        await journal.ledger.take(Demand(limit=1, hold=60))
    for earlier in itertools.takewhile(lambda later: later >= schema, UNDONE):
        for step in UNDONE[earlier]:
            query(place, step)
    query(place, "UPDATE alembic_version SET version_num = ?", schema)
    before = all_rows(place)
    async with opened(place) as journal:
        assert query(place, "SELECT version_num FROM alembic_version") == [(REVISION,)]
        assert all_rows(place) == before
        assert isinstance(await journal.ledger.take(Demand(limit=1, hold=60)), float)
