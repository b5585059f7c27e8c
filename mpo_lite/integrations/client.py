"""Client of ``mpo-lite serve``: sends answers, waits out what passes, and gives their rewards."""

from __future__ import annotations

import os
import ssl
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, TypedDict, cast

import httpx
from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception_type, stop_before_delay
from tenacity.wait import wait_base, wait_random_exponential

from mpo_lite.errors import BudgetReached, ConfigError, EndpointError, FailureKind, Unavailable

URL_ENV, TOKEN_ENV = "MPO_SERVE_URL", "MPO_SERVE_TOKEN"
PATIENCE_S = 600.0
"""How long a restart of the service, or an outage of its judge, is waited out."""
REQUEST_S = 120.0
"""Seconds after which a request is sent again. The service joins it to the first one by its id."""
CONNECT_S = 10.0
PASSING = (502, 503, 504)
"""Statuses after which the same request may succeed."""

Content = str | Sequence[dict[str, Any]]
"""A text, or chat messages of which the last one counts."""


@dataclass(frozen=True)
class Answer:
    """An answer to judge.

    Attributes:
        prompt: The task prompt.
        completion: The policy's answer.
        group: The engine's name of the prompt group; empty: answers to the same prompt are a group.
        truncated: The answer was cut off at the policy's token limit.
        reference: A correct answer, for tasks whose judge sees it.
        cluster: The kind of prompt.
    """

    prompt: Content
    completion: Content
    group: str = ""
    truncated: bool = False
    reference: str = ""
    cluster: str = ""


@dataclass(frozen=True)
class Scored:
    """What came of an answer.

    Attributes:
        reward: In [0, 1]; None where the answer could not be judged.
        version: Rubric version that it was judged by.
        batch: The service's batch that it belongs to.
        source: What decided: the judge, or a rule.
        failure: Why it could not be judged; None if it was.
        filled: The reward is its group's mean, because the answer could not be judged.
        levels: Criterion → level.
    """

    reward: float | None
    version: int
    batch: int
    source: str
    failure: FailureKind | None
    filled: bool
    levels: dict[str, int]


class RewardClient:
    """Asks a reward service. It keeps neither connections nor an event loop, so it can be pickled, forked
    and shared between threads and loops; the token is read from the environment where it is used.

    Args:
        url: Address of the service, e.g. ``http://10.0.0.5:8700``; empty: from ``MPO_SERVE_URL``.
        token_env: Variable that holds the service's token; unset for a service without one.
        patience_s: Seconds after which a service that does not answer is given up.
        request_s: Seconds after which a request without an answer is sent again.

    Raises:
        ConfigError: No usable address.
    """

    def __init__(
        self,
        url: str = "",
        token_env: str = TOKEN_ENV,
        patience_s: float = PATIENCE_S,
        request_s: float = REQUEST_S,
    ) -> None:
        self.url = (url or os.environ.get(URL_ENV, "")).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(
                f"{self.url or 'no address of the reward service'}: set {URL_ENV}, or pass url, to the "
                "address that mpo-lite serve prints, such as http://10.0.0.5:8700"
            )
        self.token_env, self.patience_s, self.request_s = token_env, patience_s, request_s

    def score(
        self,
        answers: Sequence[Answer],
        step: int | None = None,
        whole_groups: bool = False,
        fill: bool = False,
    ) -> list[Scored]:
        """Has answers judged; blocks.

        Args:
            answers: N answers.
            step: The engine's training step; a later one begins a new batch.
            whole_groups: No further answer of these groups will come.
            fill: Give an answer that cannot be judged its group's mean reward (no advantage) instead of
                None, for engines that need a number; it waits for the rest of its group.

        Returns:
            N results in order.

        Raises:
            BudgetReached: The service has reached a cap on USD or calls.
            EndpointError: The service refuses the request: its address, token, size or form is wrong.
            Unavailable: No answer within ``patience_s``.
        """
        call = _Call(self, answers, step, whole_groups, fill)
        return Retrying(**call.policy())(call.send)

    async def ascore(
        self,
        answers: Sequence[Answer],
        step: int | None = None,
        whole_groups: bool = False,
        fill: bool = False,
    ) -> list[Scored]:
        """Has answers judged; see ``score``."""
        call = _Call(self, answers, step, whole_groups, fill)
        return await AsyncRetrying(**call.policy())(call.asend)


class _Policy(TypedDict):
    """Tenacity's settings, for threads and event loops alike."""

    retry: retry_if_exception_type
    wait: wait_base
    stop: stop_before_delay
    retry_error_callback: Any


class _Call:
    """A request with its tries."""

    def __init__(
        self,
        client: RewardClient,
        answers: Sequence[Answer],
        step: int | None,
        whole_groups: bool,
        fill: bool,
    ) -> None:
        self._client = client
        self._deadline = time.monotonic() + client.patience_s
        self._body = {
            "answers": [asdict(answer) for answer in answers],
            "step": step,
            "whole_groups": whole_groups,
            "fill": fill,
            # Sent again under the same id, a request is judged and counted once.
            "id": uuid.uuid4().hex,
        }

    def policy(self) -> _Policy:
        return _Policy(
            retry=retry_if_exception_type(Unavailable),
            wait=_Backoff(),
            stop=stop_before_delay(self._client.patience_s),
            retry_error_callback=self._give_up,
        )

    def send(self) -> list[Scored]:
        with httpx.Client(**self._settings()) as http:
            try:
                return self._read(http.post("/v1/rewards", json=self._body))
            except httpx.TransportError as error:
                raise self._lost(error) from error

    async def asend(self) -> list[Scored]:
        async with httpx.AsyncClient(**self._settings()) as http:
            try:
                return self._read(await http.post("/v1/rewards", json=self._body))
            except httpx.TransportError as error:
                raise self._lost(error) from error

    def _settings(self) -> dict[str, Any]:
        token = os.environ.get(self._client.token_env, "")
        seconds = max(0.1, min(self._client.request_s, self._deadline - time.monotonic()))
        return {
            "base_url": self._client.url,
            "headers": {"authorization": f"Bearer {token}"} if token else {},
            "timeout": httpx.Timeout(seconds, connect=min(seconds, CONNECT_S)),
            "verify": _tls(),
        }

    def _read(self, response: httpx.Response) -> list[Scored]:
        if response.status_code != 200:
            raise self._refusal(response)
        try:
            rows = response.json()["results"]
            return [Scored(**{field.name: row[field.name] for field in fields(Scored)}) for row in rows]
        except (ValueError, KeyError, TypeError) as error:
            raise EndpointError(
                f"{self._client.url}: the reply is none of mpo-lite serve's; check the address, and use the "
                "same version of mpo-lite on both sides"
            ) from error

    def _refusal(self, response: httpx.Response) -> Exception:
        url, status, reason = self._client.url, response.status_code, _reason(response)
        if status in PASSING:
            return Unavailable(f"{url}: {reason} ({status})", _retry_after(response))
        if status == 429:
            return BudgetReached(f"{url}: {reason}")
        fixes = {
            401: f"set {self._client.token_env} to the service's token: its run has it in the file token",
            404: "check that the address is that of mpo-lite serve",
            413: "send fewer answers at once, or start the service with a larger --max-body",
            422: "use the same version of mpo-lite on both sides",
        }
        fix = fixes.get(status, "the service's own output says more")
        return EndpointError(f"{url}: {reason} ({status}); {fix}")

    def _lost(self, error: httpx.TransportError) -> Unavailable:
        return Unavailable(f"{self._client.url}: {type(error).__name__}: {error}".rstrip(": "))

    def _give_up(self, state: RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        raise Unavailable(
            f"no rewards within {self._client.patience_s:g} s; check that mpo-lite serve runs there and that "
            f"its judge answers; the last try: {error}"
        ) from error


class _Backoff(wait_base):
    """Waits as long as the service asks for, or else longer after each try, up to 10 s."""

    def __init__(self) -> None:
        self._growing = wait_random_exponential(multiplier=0.5, max=10)

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome and retry_state.outcome.exception()
        asked = error.retry_after_s if isinstance(error, Unavailable) else 0.0
        return asked or self._growing(retry_state)


@cache
def _tls() -> ssl.SSLContext:
    """Reading the certificates takes longer than a request: once per process."""
    return httpx.create_ssl_context()


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the service asks to wait; 0 where it does not say."""
    header = response.headers.get("retry-after", "")
    return float(header) if header.isdigit() else 0.0


def _reason(response: httpx.Response) -> str:
    """What an error's body says, without the answers that FastAPI repeats in it."""
    try:
        body: Any = response.json()
    except ValueError:
        return response.reason_phrase or "no reason given"
    if not isinstance(body, dict):
        return response.reason_phrase
    said = cast("dict[str, Any]", body)
    if not isinstance(said.get("detail"), list):
        return str(said.get("error") or said.get("detail") or response.reason_phrase)
    problems = cast("list[dict[str, Any]]", said["detail"])
    return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems)
