"""The models of a job: judges, fallback judge, meta-judge and audit judge, with their client and ledger.

Problems with them are found here, before torch is loaded or a call is paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpo_lite.activity import activity
from mpo_lite.config import Config
from mpo_lite.errors import CallFailed, ConfigError, EndpointError
from mpo_lite.judge.base import Judge, Sample
from mpo_lite.judge.panel import build_judge
from mpo_lite.judge.planned import PlannedJudge
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm import event_loop, transport
from mpo_lite.llm.budget import Budget
from mpo_lite.llm.cache import AnswerCache
from mpo_lite.llm.call_log import CallLog
from mpo_lite.llm.client import Client
from mpo_lite.llm.ledger import Ledger, Purpose
from mpo_lite.llm.models import Backend, audit_backend, fallback_backend, judge_backends, meta_backend
from mpo_lite.rubric import Rubric
from mpo_lite.tasks.examples import load_examples
from mpo_lite.types import Brief

AGAIN_TEMPERATURE = 1.0
"""Lowest temperature of a second judgement. At 0 a judge repeats itself under any rubric; sampled, it shows
how far the rubric determines the level. This works in every mode, and for a rubric of one criterion, which
another order of criteria would leave as it is. Models that reject the parameter sample anyway. 1 is the
model's own distribution over levels."""


class ModelPool:
    """The models of a job.

    Args:
        config: The settings that name them.
        brief: What judges are told of the task.
        with_meta: Whether a meta-judge is needed.
        processes: Processes that share the limit on calls in flight.
        waits_out: Whether to wait up to ``verdict_timeout`` for a server that is down before a call fails;
            a run, which can be resumed, stops instead.

    Attributes:
        judges: The judges; several form a panel.
        fallback: The judge that takes over if they are down; or None.
        meta: The meta-judge, or None.
        auditor: The audit judge, or None.
        brief: As given.
        examples: Labelled answers that the judges are shown; neither meta-judge nor audit judge is.
        fell_back: Whether the fallback judge has taken over.

    Raises:
        ConfigError: A model is not given, or there is a cap in USD and the price of a model is unknown.
        TaskError: The file of examples cannot be read.
    """

    def __init__(
        self, config: Config, brief: Brief, with_meta: bool, processes: int = 1, waits_out: bool = False
    ) -> None:
        self.all = models_of(config, with_meta)
        require_prices(config, self.all)
        self._config, self.brief, self._processes = config, brief, processes
        self._call_log = CallLog() if config.log_calls else None
        self.judges = tuple(model for role, model in self.all if role == "judge")
        self.fallback = next((model for role, model in self.all if role == "fallback judge"), None)
        self.meta = next((model for role, model in self.all if role == "meta-judge"), None)
        self.auditor = next((model for role, model in self.all if role == "audit judge"), None)
        self.examples = load_examples(config.examples) if config.examples else ()
        self.fell_back = False
        self.ledger = Ledger()
        # Made on the loop, because its limiters and locks belong to the loop they are made on.
        self.client = event_loop.wait(self._make_client(waits_out))

    def judge(self, purpose: Purpose = "judge", draw: str = "", is_sampled: bool = True) -> Judge:
        """The active judge; see ``build_judge``. With a ``draw``, its answers are sampled; unless
        ``is_sampled``, at its own temperature.
        """
        judges = self._active_judges
        if draw and is_sampled:
            judges = [replace(one, temperature=max(one.temperature, AGAIN_TEMPERATURE)) for one in judges]
        return build_judge(self._config, self.client, judges, self.judge_brief, purpose, draw)

    async def plans(self, samples: Iterable[Sample], rubric: Rubric) -> dict[str, str]:
        """The plans of the first active judge, prompt by prompt; none unless judging is planned.

        They were made when the answers were judged, so they come from the cache; those that fail are left
        out.
        """
        if self._config.judge_mode != "planned":
            return {}
        single = PointwiseJudge(self.client, self._active_judges[0], self.brief)
        by_prompt = {sample.prompt: sample for sample in samples}
        return await PlannedJudge(single).plans(list(by_prompt.values()), rubric)

    @property
    def judge_brief(self) -> Brief:
        """What judges by a rubric are told: the brief with the examples."""
        return replace(self.brief, examples=self.examples)

    @property
    def judged_by(self) -> str:
        """Names of the active judges."""
        return " + ".join(judge.label for judge in self._active_judges)

    @property
    def _active_judges(self) -> tuple[Backend, ...]:
        return (self.fallback,) if self.fallback and self.fell_back else self.judges

    def check(self, interrupt: Callable[[], None] = lambda: None) -> str:
        """Sends one tiny call to every model; if a judge cannot be used, the fallback judge takes over.

        Args:
            interrupt: Called while waiting; if it raises, the check ends.

        Returns:
            Why the fallback judge takes over; empty if it does not.

        Raises:
            EndpointError: A model cannot be used and has no fallback; says which, and how to fix it.
        """
        roles: dict[Backend, str] = {}
        for role, model in self.all:
            # A model in two roles is checked once, under the first.
            roles.setdefault(model, role)
        down = ""
        for model, role in roles.items():
            try:
                self._check_model(model, role, interrupt)
            except EndpointError as error:
                if self.fallback is None or model not in self.judges or model == self.fallback:
                    raise
                down = down or str(error)
        # Never undone: rewards of one run must not alternate between judges.
        self.fell_back = self.fell_back or bool(down)
        return down

    def _check_model(self, model: Backend, role: str, interrupt: Callable[[], None]) -> None:
        try:
            with activity(f"checking {role} {model.where}"):
                event_loop.wait(self.client.check(model), interrupt)
        except CallFailed as error:
            raise EndpointError(f"{role} {error}") from None

    def log_calls(self, folder: Path) -> None:
        """Opens the log of complete requests and replies, if ``log_calls`` is set.

        Args:
            folder: Base of a relative path.

        Raises:
            ConfigError: The file cannot be written.
        """
        if self._call_log and self._config.log_calls:
            self._call_log.open(folder / self._config.log_calls)

    def spend(self) -> dict[str, Any]:
        """Calls, tokens, cache hits and USD so far.

        ``usd`` is None if the price of some answer is unknown (``unpriced`` calls); ``unmetered`` calls are
        counted at an upper bound.
        """
        return {**self.ledger.spend(), "cache_hits": self.client.cache_hits}

    def close(self, wait: bool = True) -> None:
        """Saves the answers still in flight, then closes connections and cache.

        Args:
            wait: Whether to wait for that; otherwise it continues in the background.
        """
        closing = event_loop.submit(self.client.close())
        if wait:
            # In this order: answers that come back while the client closes are still written to the cache.
            event_loop.result(closing, lambda: None)
            self.client.cache.close()

    async def _make_client(self, waits_out: bool) -> Client:
        config = self._config
        return Client(
            AnswerCache(config.cache_dir),
            self.ledger,
            Budget(self.ledger, config.max_usd, config.max_calls, config.max_tokens),
            # The ceiling applies to the whole job: its processes and the judges of a panel share it.
            concurrency=max(1, config.concurrency // (self._processes * len(self.judges))),
            timeout_s=config.call_timeout,
            verdict_s=config.verdict_timeout,
            waits_out=waits_out,
            log=self._call_log,
        )


def require_prices(config: Config, models: Sequence[tuple[str, Backend]], is_resumed: bool = False) -> None:
    """Refuses a cap in USD if the price of a model is unknown, because the cap could not hold.

    Args:
        config: The settings; without ``max_usd`` nothing is required.
        models: From ``models_of``.
        is_resumed: Whether they are those of a resumed run, whose prices can no longer be set.

    Raises:
        ConfigError: The price of a model is unknown; says which, and what to do.
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
        key = (
            "its price key"
            if role in ("fallback judge", "audit judge")
            else f"-o {role.split('-')[0]}_price='[0.15, 0.6]'"
        )
        raise ConfigError(
            f"{problem}; set it with {key} (USD per million input and output tokens), or use --max-calls "
            "instead"
        )


def models_of(config: Config, with_meta: bool) -> list[tuple[str, Backend]]:
    """The models that a job asks, each with its role. Raises ``ConfigError`` if one is not given."""
    named = [
        *(("judge", judge) for judge in judge_backends(config)),
        ("fallback judge", fallback_backend(config)),
        ("meta-judge", meta_backend(config) if with_meta else None),
        ("audit judge", audit_backend(config)),
    ]
    return [(role, model) for role, model in named if model]
