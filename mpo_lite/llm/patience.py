"""How long a call waits: not for a fixed time, but for as long as its backend answers any call."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from mpo_lite.errors import CallFailed
from mpo_lite.llm.error_mapping import Retryable
from mpo_lite.llm.limiter import Limiter

T = TypeVar("T")


class Patience:
    """The timeouts of one call.

    A server may be slow because it is busy, and a call that is still queued has not failed. It has failed
    once the server has answered nothing at all for some time.

    Args:
        limiter: The backend's limiter, which records when it last answered.
        silence_s: Seconds without any answer from the backend after which the call fails.
        attempt_s: Timeout of the first attempt.
        model: The backend's model, for the message.
        waits_out: Whether to wait for a server that is down, and not only for a busy one.

    Attributes:
        has_begun: Whether an attempt has been sent.
        attempt_s: Timeout of the next attempt.
        last: The error of the last failed attempt, or None.
        waits_out: See above.
    """

    def __init__(
        self, limiter: Limiter, silence_s: float, attempt_s: float, model: str, waits_out: bool = False
    ) -> None:
        self.has_begun = False
        self.attempt_s = attempt_s
        self.last: Retryable | None = None
        self.waits_out = waits_out
        self._limiter, self._silence_s, self._model = limiter, silence_s, model
        self._is_doubled = False
        self._since = asyncio.get_running_loop().time()

    def allow_longer(self) -> None:
        """Doubles the timeout of further attempts, once: a long reply from a slow server needs it."""
        if not self._is_doubled:
            self._is_doubled = True
            self.attempt_s *= 2
            # Time for one short and one long attempt, and some more.
            self._silence_s = max(self._silence_s, 1.6 * self.attempt_s)

    async def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``.

        Raises:
            CallFailed: ``timeout``: the backend answered nothing for too long; ``transport``: it was down.
        """
        task = asyncio.ensure_future(work)
        try:
            while (left := self._seconds_left()) > 0:
                done, _ = await asyncio.wait([task], timeout=left)
                if done:
                    return task.result()
        finally:
            # Waited for after cancelling, so that the ledger records what the attempt may have cost.
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        last = f"; last attempt: {self.last}" if self.last else ""
        kind = "transport" if self.last and self.last.down else "timeout"
        raise CallFailed(kind, f"{self._model} answered no call for {self._silence_s:g} s{last}")

    def _seconds_left(self) -> float:
        heard_at = max(self._since, self._limiter.heard_at)
        return heard_at + self._silence_s - asyncio.get_running_loop().time()
