"""A handler's own retries: further calls within the same claim, before its deadline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio

from product_live_worker.model.context import Context
from product_live_worker.model.refusal import TaskFailed
from product_live_worker.model.retry import Retry

if TYPE_CHECKING:
    from tenacity import RetryCallState


async def attempted(call: Callable[[], Awaitable[Any]], retry: Retry | None, context: Context) -> Any:
    """Give what the first call gives that does not raise one of `retry`'s errors, or raise what the last one raised."""
    if retry is None:
        return await call()
    # Only who retries pays for it.
    from tenacity import AsyncRetrying, retry_if_exception, wait_exponential_jitter  # noqa: PLC0415 (it is not small)

    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        context.log.warning(
            "the handler is tried again",
            attempt=state.attempt_number,
            attempts=retry.attempts,
            again_in=round(state.upcoming_sleep, 3),
            error=f"{type(error).__name__}: {error}"[:500],
        )

    async def one() -> Any:
        return await call()

    return await AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, retry.on) and not isinstance(error, TaskFailed)),
        stop=lambda state: state.attempt_number >= retry.attempts or context.remaining() <= state.upcoming_sleep,
        wait=wait_exponential_jitter(multiplier=retry.wait, max=retry.longest_wait, jitter=retry.wait / 4),
        before_sleep=say,
        sleep=anyio.sleep,
        reraise=True,
    )(one)
