"""Callbacks: the unguessable addresses that other systems were given, and what has arrived there."""

from __future__ import annotations

import hmac
import secrets
import time
from typing import Any

import anyio
from sqlalchemy import Connection, delete, exists, insert, select

from product_live_worker.journal.tables import callback_bodies, callbacks, executions
from product_live_worker.journal.writer import Writer
from product_live_worker.model.execution import IN_HAND, Execution

MOST_BODIES = 20
"""Bodies kept for one address; whoever knows it could send more."""
LOOK_AGAIN = 30.0
"""Seconds between two looks for what another worker on this database has received."""


class Callbacks:
    """The addresses of this platform's executions. A token is `<number>-<secret>`: the number finds the row."""

    def __init__(self, writer: Writer, platform: str) -> None:
        self._writer = writer
        self._platform = platform
        self._arrived = anyio.Event()

    async def token(self, execution: Execution) -> str:
        """Give the execution's token, the same for a retry by the platform; raises JournalUnwritable."""
        names = {"task": execution.task, "idempotency_key": execution.idempotency_key}
        this = [callbacks.c.platform == self._platform, *(callbacks.c[name] == names[name] for name in names)]
        find = select(callbacks.c.number, callbacks.c.secret).where(*this)

        def step(connection: Connection) -> str:
            known = connection.execute(find).one_or_none()
            if known is None:
                row = {"platform": self._platform, **names, "secret": secrets.token_urlsafe(32)}
                connection.execute(insert(callbacks).values(row))
                known = connection.execute(find).one()
            return f"{known.number}-{known.secret}"

        return await self._writer.do(step, at_once=True)

    async def store(self, token: str, body: str) -> bool:
        """Keep a body; gives False for a token that nobody was given. Raises JournalUnwritable.

        What is repeated, comes for an execution that is over, or is one too many, is taken and dropped.
        """
        number, secret = _parts(token)
        here = (callbacks.c.platform == self._platform) & (callbacks.c.number == number)
        mine = callback_bodies.c.callback == number

        def step(connection: Connection) -> tuple[bool, bool]:
            row = connection.execute(select(callbacks).where(here)).one_or_none()
            if not hmac.compare_digest((row.secret if row else "").encode(), secret.encode()) or row is None:
                return False, False
            awaited = select(executions.c.number).where(
                executions.c.platform == self._platform,
                executions.c.task == row.task,
                executions.c.idempotency_key == row.idempotency_key,
                executions.c.state.in_([state.value for state in IN_HAND]),
            )
            known = connection.execute(select(callback_bodies.c.body).where(mine)).scalars().all()
            is_new = bool(connection.execute(awaited).first()) and body not in known and len(known) < MOST_BODIES
            if is_new:
                connection.execute(insert(callback_bodies).values(callback=number, body=body, received_at=time.time()))
            return True, is_new

        is_ours, is_new = await self._writer.do(step, at_once=True)
        if is_new:
            # Only then: all who wait read the journal now, and anybody can send nonsense.
            arrived, self._arrived = self._arrived, anyio.Event()
            arrived.set()
        return is_ours

    async def received(self, token: str, *, after: int, timeout: float) -> list[dict[str, Any]]:
        """Give what has arrived after the body of this number; waits up to `timeout` seconds for something to."""
        number, _ = _parts(token)
        find = (
            select(callback_bodies.c.number, callback_bodies.c.body)
            .where(callback_bodies.c.callback == number, callback_bodies.c.number > after)
            .order_by(callback_bodies.c.number)
        )
        deadline = anyio.current_time() + timeout
        while True:
            arrived = self._arrived
            rows = await self._writer.do(lambda connection: connection.execute(find).all())
            left = deadline - anyio.current_time()
            if rows or left <= 0:
                return [{"number": row.number, "body": row.body} for row in rows]
            with anyio.move_on_after(min(left, LOOK_AGAIN)):
                await arrived.wait()

    async def prune(self) -> None:
        """Forget the addresses of which no execution is left."""
        left = exists().where(
            executions.c.platform == callbacks.c.platform,
            executions.c.idempotency_key == callbacks.c.idempotency_key,
        )
        orphans = select(callbacks.c.number).where(callbacks.c.platform == self._platform, ~left)

        def step(connection: Connection) -> None:
            connection.execute(delete(callback_bodies).where(callback_bodies.c.callback.in_(orphans)))
            connection.execute(delete(callbacks).where(callbacks.c.number.in_(orphans)))

        await self._writer.do(step, at_once=True)


def _parts(token: str) -> tuple[int, str]:
    number, _, secret = token.partition("-")
    plain = number.isascii() and number.isdecimal() and len(number) < 16
    return (int(number), secret) if plain else (-1, secret)
