"""The platform's rules, without a connection and without waiting."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from product_live_worker.sandbox import Settings, World
from product_live_worker.sandbox.refusals import MalformedError, NotFoundError, TooLargeError

if TYPE_CHECKING:
    from product_live_worker.sandbox.records import Execution, Task


def task_with(world: World, **fields: Any) -> Task:
    """Create a task with these fields."""
    return world.create_task({"key": "custom", **fields}, now=0)


def claim(world: World, task: Task, now: float) -> Execution:
    """Poll, and find something."""
    execution = world.poll(task.id, now)
    assert execution is not None
    return execution


def patch(execution: Execution, status: str, output: Any = None) -> dict[str, Any]:
    """Give the body of a PATCH."""
    return {"id": execution.id, "status": status, "output": {} if output is None else output}


class TestClaims:
    """A poll is a claim."""

    def test_the_oldest_is_claimed_first_and_each_only_once(self, world: World, task: Task) -> None:
        """Polls give the executions in the order of their submission, one each, and then nothing."""
        submitted = [world.submit("power", {"n": n}, now=n) for n in range(3)]
        assert [world.poll(task.id, 10) for _ in range(4)] == [*submitted, None]
        assert {execution.status for execution in submitted} == {"IN_PROGRESS"}

    def test_a_poll_gives_only_executions_of_its_task(self, world: World, task: Task) -> None:
        """What is queued for one task is out of reach of another's polls."""
        other = task_with(world)
        execution = world.submit(other.id, {}, now=0)
        assert world.poll(task.id, 1) is None
        assert claim(world, other, 1) is execution

    def test_an_unknown_task_is_not_found(self, world: World, task: Task) -> None:
        """A deleted task cannot be polled any more."""
        world.delete_task(task.id)
        with pytest.raises(NotFoundError):
            world.poll(task.id, 0)

    def test_ids_look_like_the_platforms(self, world: World, task: Task) -> None:
        """Tasks and executions have ids of 24 hex digits, and the documented fields."""
        execution = world.submit("power", {}, now=0)
        for record in (task.public(), execution.public()):
            assert len(record["id"]) == 24
            assert int(record["id"], 16)
        assert len(task.public()) == 17
        assert len(execution.public()) == 8

    def test_the_platform_adds_a_correlation_id_when_there_is_none(self, world: World, task: Task) -> None:
        """An input has an eventCorrelationId, the submitter's own if it gave one."""
        assert task.key == "power"
        added = world.submit("power", {"n": 1}, now=0)
        given = world.submit("power", {"eventCorrelationId": "mine"}, now=0)
        assert added.input["n"] == 1
        assert len(added.input["eventCorrelationId"]) == 36
        assert given.input == {"eventCorrelationId": "mine"}


class TestUpdates:
    """What a PATCH does."""

    @pytest.mark.parametrize("status", ["COMPLETED", "FAILED"])
    def test_a_final_status_ends_the_execution(self, world: World, task: Task, status: str) -> None:
        """COMPLETED and FAILED are taken, with their output and their moment."""
        world.submit("power", {}, now=0)
        execution = claim(world, task, 1)
        assert world.update(execution.id, patch(execution, status, {"n": 2}), 3) is execution
        assert (execution.status, execution.output, execution.finished_at) == (status, {"n": 2}, 3)

    def test_a_final_execution_does_not_change(self, world: World, task: Task) -> None:
        """A later PATCH succeeds, is noted as not accepted, and changes nothing."""
        world.submit("power", {}, now=0)
        execution = claim(world, task, 1)
        world.update(execution.id, patch(execution, "COMPLETED", {"n": 1}), 2)
        again = world.update(execution.id, patch(execution, "FAILED", {"n": 2}), 3)
        assert (again.status, again.output, again.finished_at) == ("COMPLETED", {"n": 1}, 2)
        assert [(each.status, each.accepted) for each in again.patches] == [("COMPLETED", True), ("FAILED", False)]

    def test_in_progress_gives_the_execution_to_the_next_poll(self, world: World, task: Task) -> None:
        """Heartbeats are a trap: the same execution is claimed twice."""
        world.submit("power", {}, now=0)
        execution = claim(world, task, 1)
        world.update(execution.id, patch(execution, "IN_PROGRESS"), 2)
        assert execution.status == "SCHEDULED"
        assert claim(world, task, 3) is execution
        assert [each.status for each in execution.patches] == ["IN_PROGRESS"]

    def test_in_progress_queues_an_execution_only_once(self, world: World, task: Task) -> None:
        """Two heartbeats in a row leave one place in the queue."""
        world.submit("power", {}, now=0)
        execution = claim(world, task, 1)
        for now in (2, 3):
            world.update(execution.id, patch(execution, "IN_PROGRESS"), now)
        claim(world, task, 4)
        assert world.poll(task.id, 4) is None

    def test_an_execution_finished_in_the_queue_is_not_claimed(self, world: World, task: Task) -> None:
        """A final PATCH takes a scheduled execution out of the reach of polls."""
        execution = world.submit("power", {}, now=0)
        world.update(execution.id, patch(execution, "COMPLETED"), 1)
        assert world.poll(task.id, 2) is None

    @pytest.mark.parametrize(
        "change",
        [{"id": "other"}, {"id": None}, {"status": "TIMED_OUT"}, {"status": ["COMPLETED"]}, {"output": []}],
        ids=str,
    )
    def test_a_wrong_body_is_refused_and_noted(self, world: World, task: Task, change: dict[str, Any]) -> None:
        """The id of the path, a status of the three and an object as output, or 400 and no change."""
        world.submit("power", {}, now=0)
        execution = claim(world, task, 1)
        with pytest.raises(MalformedError):
            world.update(execution.id, {**patch(execution, "COMPLETED"), **change}, 2)
        assert execution.status == "IN_PROGRESS"
        assert [each.accepted for each in execution.patches] == [False]

    def test_an_unknown_execution_is_not_found(self, world: World) -> None:
        """A PATCH of an id that was never given is 404, whatever its body."""
        with pytest.raises(NotFoundError):
            world.update("f" * 24, {}, 0)


class TestRetries:
    """FAILED and TIMED_OUT are tried again, as a new execution."""

    def test_a_failure_is_retried_after_the_delay_under_a_new_id(self, world: World) -> None:
        """The retry has the same input, correlation id included, and cannot be polled before its time."""
        task = task_with(world, retryCount=1, retryDelaySeconds=5)
        world.submit(task.id, {"n": 1}, now=0)
        failed = claim(world, task, 1)
        world.update(failed.id, patch(failed, "FAILED"), 10)
        assert world.poll(task.id, 14.9) is None
        retried = claim(world, task, 15)
        assert retried.id != failed.id
        assert (retried.input, retried.attempt, retried.retried_from) == (failed.input, 2, failed.id)

    def test_retries_end_with_the_retry_count(self, world: World) -> None:
        """An execution that keeps failing is attempted retryCount + 1 times."""
        task = task_with(world, retryCount=2, retryDelaySeconds=0)
        world.submit(task.id, {}, now=0)
        attempts = 0
        while (execution := world.poll(task.id, 0)) is not None:
            attempts += 1
            world.update(execution.id, patch(execution, "FAILED"), 0)
        assert attempts == 3

    def test_a_completed_execution_is_not_retried(self, world: World) -> None:
        """Success is the end."""
        task = task_with(world, retryCount=1, retryDelaySeconds=0)
        world.submit(task.id, {}, now=0)
        execution = claim(world, task, 0)
        world.update(execution.id, patch(execution, "COMPLETED"), 0)
        assert world.poll(task.id, 100) is None

    def test_silence_times_out_and_is_retried(self, world: World) -> None:
        """An execution in progress for its response timeout is TIMED_OUT, and late results change nothing."""
        task = task_with(world, retryCount=1, retryDelaySeconds=5, responseTimeoutSeconds=30)
        world.submit(task.id, {}, now=0)
        silent = claim(world, task, 100)
        assert world.execution(silent.id, 129.9).status == "IN_PROGRESS"
        assert world.execution(silent.id, 130).status == "TIMED_OUT"
        assert world.update(silent.id, patch(silent, "COMPLETED"), 131).status == "TIMED_OUT"
        assert claim(world, task, 135).retried_from == silent.id

    def test_time_that_nobody_looked_at_passes_all_the_same(self, world: World) -> None:
        """A timeout and the retry's delay are reckoned from when they fell due, not from when they were noticed."""
        task = task_with(world, retryCount=1, retryDelaySeconds=5, responseTimeoutSeconds=30)
        world.submit(task.id, {}, now=0)
        silent = claim(world, task, 0)
        assert claim(world, task, 35).retried_from == silent.id
        assert silent.finished_at == 30

    @pytest.mark.parametrize(("response", "total", "patience"), [(30, 0, 30), (0, 20, 20), (30, 20, 20), (0, 0, None)])
    def test_the_shorter_timeout_counts_and_zero_is_none(
        self, world: World, response: float, total: float, patience: float | None
    ) -> None:
        """Of responseTimeoutSeconds and timeoutSeconds the smaller that is not zero ends an execution."""
        task = task_with(world, responseTimeoutSeconds=response, timeoutSeconds=total)
        assert task.patience == patience
        world.submit(task.id, {}, now=0)
        execution = claim(world, task, 0)
        assert world.execution(execution.id, 10**9).status == ("IN_PROGRESS" if patience is None else "TIMED_OUT")

    def test_a_finished_execution_does_not_time_out(self, world: World) -> None:
        """A report in time is final."""
        task = task_with(world, responseTimeoutSeconds=30)
        world.submit(task.id, {}, now=0)
        execution = claim(world, task, 0)
        world.update(execution.id, patch(execution, "COMPLETED"), 29)
        assert world.execution(execution.id, 31).status == "COMPLETED"

    def test_a_requeued_execution_has_a_new_timeout(self, world: World) -> None:
        """The timeout of a claim that was given back neither ends the next claim nor queues it a second time."""
        task = task_with(world, responseTimeoutSeconds=30)
        world.submit(task.id, {}, now=0)
        execution = claim(world, task, 0)
        world.update(execution.id, patch(execution, "IN_PROGRESS"), 10)
        world.advance(31)
        assert claim(world, task, 31) is execution
        assert world.poll(task.id, 31) is None
        assert world.execution(execution.id, 60).status == "IN_PROGRESS"
        assert world.execution(execution.id, 61).status == "TIMED_OUT"


class TestDefinitions:
    """What a task definition may say."""

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"key": ""},
            {"key": 1},
            {"key": "k", "createdAt": "now"},
            {"key": "k", "retryCount": "1"},
            {"key": "k", "retryCount": True},
            {"key": "k", "retryDelaySeconds": -1},
            {"key": "k", "timeoutPolicy": "NEVER"},
            {"key": "k", "inputKeys": ["n"]},
            {"key": "k", "inputKeys": [{"key": "n"}]},
            {"key": "power"},
        ],
        ids=str,
    )
    def test_a_wrong_definition_is_refused(self, world: World, task: Task, fields: dict[str, Any]) -> None:
        """Unknown fields, wrong types and a key that is taken are 400, and nothing is created."""
        with pytest.raises(MalformedError):
            world.create_task(fields, now=0)
        assert list(world.tasks.values()) == [task]

    def test_a_replaced_task_keeps_id_and_birth(self, world: World, task: Task) -> None:
        """A replacement is whole: what it does not say falls back to the default."""
        world.replace_task(task.id, {"key": "power", "retryCount": 3}, now=60)
        replaced = world.replace_task(task.id, {"key": "power"}, now=60)
        assert (replaced.id, replaced.created) == (task.id, task.created)
        assert replaced.updated == "1970-01-01T00:01:00.000Z"
        assert replaced.fields["retryCount"] == 0


class TestAccount:
    """Files, and the account as a whole."""

    def test_a_file_is_its_content(self, world: World) -> None:
        """The id is the SHA-256 of the bytes, so the same bytes are the same file."""
        first, second = world.upload("a", b"same", now=0), world.upload("b", b"same", now=1)
        assert first.id == second.id == "0967115f2813a3541eaef77de9d9d5773f1c0c04314b0bbfe4ff3b3b1c55b5d5"
        assert world.file(first.id).content == b"same"
        assert second.created == first.created

    def test_a_file_over_the_limit_is_too_large(self) -> None:
        """The limit is the largest size that is taken."""
        world = World(Settings(max_upload=4))
        world.upload("a", b"four", now=0)
        with pytest.raises(TooLargeError):
            world.upload("a", b"fives", now=0)

    def test_the_same_seed_gives_the_same_ids(self) -> None:
        """Chance is an argument."""
        first, second = (task_with(World(random=Random(3))).id for _ in range(2))
        assert first == second

    def test_a_world_that_forgets_keeps_its_settings(self, world: World, task: Task) -> None:
        """Afterwards there are no tasks, executions, files or requests."""
        world.submit(task.id, {}, now=0)
        world.upload("a", b"", now=0)
        world.forget()
        assert (world.tasks, world.executions, world.files, world.arrivals) == ({}, {}, {}, [])
        assert world.settings == Settings(limit=0)
