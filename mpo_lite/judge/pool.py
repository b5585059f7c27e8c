"""The models of a job and the way to them: judges, fallback judge and meta-judge, with client and account.

What can be wrong with them is found here, before torch is loaded or a call is paid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mpo_lite.activity import activity
from mpo_lite.config import Config
from mpo_lite.errors import CallFailed, ConfigError, EndpointError
from mpo_lite.judge.base import Judge
from mpo_lite.judge.panel import build_judge
from mpo_lite.llm import event_loop, transport
from mpo_lite.llm.budget import Budget
from mpo_lite.llm.cache import AnswerCache
from mpo_lite.llm.call_log import CallLog
from mpo_lite.llm.client import Client
from mpo_lite.llm.ledger import Ledger, Purpose
from mpo_lite.llm.models import Backend, fallback_backend, judge_backends, meta_backend


class ModelPool:
    """The models of a job.

    Args:
        config: Names them.
        persona: Who the judges are to be.
        with_meta: Whether a meta-judge is needed.
        processes: Processes that share the limit on calls in flight.
        waits_out: Whether servers that are down are waited for, as long as ``verdict_timeout``, before a call
            fails; a run, which can be resumed, stops instead.

    Attributes:
        judges: The judges; several are a panel.
        fallback: Takes over where they are down; or None.
        meta: The meta-judge, or None.
        fell_back: Whether the fallback judges.

    Raises:
        ConfigError: One is not named, or a cap in USD meets a model without a known price.
    """

    def __init__(
        self, config: Config, persona: str, with_meta: bool, processes: int = 1, waits_out: bool = False
    ) -> None:
        self.all = models_of(config, with_meta)
        require_prices(config, self.all)
        self._config, self._persona, self._processes = config, persona, processes
        self._call_log = CallLog() if config.log_calls else None
        self.judges = tuple(model for role, model in self.all if role == "judge")
        self.fallback = next((model for role, model in self.all if role == "fallback judge"), None)
        self.meta = next((model for role, model in self.all if role == "meta-judge"), None)
        self.fell_back = False
        self.ledger = Ledger()
        self.client = event_loop.wait(self._make_client(waits_out))

    def judge(self, purpose: Purpose = "judge", draw: str = "") -> Judge:
        """The judge in charge; see ``build_judge``."""
        return build_judge(self._config, self.client, self._in_charge, self._persona, purpose, draw)

    @property
    def judged_by(self) -> str:
        """Names of the judges in charge."""
        return " + ".join(which.label for which in self._in_charge)

    @property
    def _in_charge(self) -> tuple[Backend, ...]:
        return (self.fallback,) if self.fallback and self.fell_back else self.judges

    def check(self, interrupt: Callable[[], None] = lambda: None) -> str:
        """Sends one tiny call to every model; where a judge cannot be used, the fallback judge takes over.

        Args:
            interrupt: Called while waiting; what it raises ends it.

        Returns:
            Why the fallback judge takes over; empty where it does not.

        Raises:
            EndpointError: One of them cannot be used, and nobody takes its place; says which, and how to mend
                it.
        """
        roles: dict[Backend, str] = {}
        for role, which in self.all:
            roles.setdefault(which, role)
        down = ""
        for which, role in roles.items():
            try:
                self._check_one(which, role, interrupt)
            except EndpointError as error:
                if self.fallback is None or which not in self.judges or which == self.fallback:
                    raise
                down = down or str(error)
        self.fell_back = self.fell_back or bool(down)
        return down

    def _check_one(self, which: Backend, role: str, interrupt: Callable[[], None]) -> None:
        try:
            with activity(f"checking {role} {which.where}"):
                event_loop.wait(self.client.check(which), interrupt)
        except CallFailed as error:
            raise EndpointError(f"{role} {error}") from None

    def log_calls(self, folder: Path) -> None:
        """Keeps whole requests and replies, where ``log_calls`` names a file for them.

        Args:
            folder: Where a relative path begins.

        Raises:
            ConfigError: It cannot be written.
        """
        if self._call_log and self._config.log_calls:
            self._call_log.open(folder / self._config.log_calls)

    def spend(self) -> dict[str, Any]:
        """Calls, tokens, cache hits and USD so far.

        ``usd`` is None where some answer had no known price (``unpriced`` calls); ``unmetered`` calls are
        counted at the most they can have cost.
        """
        return {**self.ledger.spend(), "cache_hits": self.client.cache_hits}

    def close(self, wait: bool = True) -> None:
        """Keeps the answers still in flight, then closes connections and cache.

        Args:
            wait: Until that is done; else it is left to the loop, and the cache to garbage collection.
        """
        closing = event_loop.submit(self.client.close())
        if wait:
            event_loop.result(closing, lambda: None)
            self.client.cache.close()

    async def _make_client(self, waits_out: bool) -> Client:
        config = self._config
        return Client(
            AnswerCache(config.cache_dir),
            self.ledger,
            Budget(self.ledger, config.max_usd, config.max_calls, config.max_tokens),
            # The ceiling holds for the job: its processes share it, and so do the judges of a panel.
            concurrency=max(1, config.concurrency // (self._processes * len(self.judges))),
            timeout_s=config.call_timeout,
            verdict_s=config.verdict_timeout,
            waits_out=waits_out,
            log=self._call_log,
        )


def require_prices(config: Config, models: Sequence[tuple[str, Backend]], is_resumed: bool = False) -> None:
    """Refuses a cap in USD over models whose price is not known: it could not hold.

    Args:
        config: The settings; ``max_usd`` None asks for nothing.
        models: From ``models_of``.
        is_resumed: Whether they are those of a run, whose prices cannot be set any more.

    Raises:
        ConfigError: One has none; says which, and what to do.
    """
    if config.max_usd is None:
        return
    for role, model in models:
        if transport.pricing(model) is not None:
            continue
        problem = (
            f"--max-usd {config.max_usd:g}: the price of {model.model} is unknown, so the cap cannot hold"
        )
        if is_resumed:
            raise ConfigError(f"{problem}; use --max-calls or --max-tokens instead")
        key = "its price key" if role == "fallback judge" else f"-o {role.split('-')[0]}_price='[0.15, 0.6]'"
        raise ConfigError(
            f"{problem}; set it with {key} (USD per million input and output tokens), or use --max-calls "
            "instead"
        )


def models_of(config: Config, with_meta: bool) -> list[tuple[str, Backend]]:
    """The models that a job asks, each with its role. Raises ``ConfigError`` where one is not named."""
    named = [
        *(("judge", judge) for judge in judge_backends(config)),
        ("fallback judge", fallback_backend(config)),
        ("meta-judge", meta_backend(config) if with_meta else None),
    ]
    return [(role, model) for role, model in named if model]
