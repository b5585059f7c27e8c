"""What a training run knows besides its weights: configuration, task, rubric in force, judge, journal.

Everything that can be wrong with a user's input is found here, before torch is loaded or a call is paid.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from mpo_lite.config import Config
from mpo_lite.errors import CallFailed, ConfigError, EndpointError, Interrupted
from mpo_lite.judge.pointwise import PointwiseJudge
from mpo_lite.llm import background, transport
from mpo_lite.llm.budget import Budget
from mpo_lite.llm.cache import AnswerCache
from mpo_lite.llm.client import Client
from mpo_lite.llm.ledger import Ledger
from mpo_lite.llm.models import backend
from mpo_lite.meta.step import MetaJudge
from mpo_lite.rubric import Rubric, load_rubric, set_hash
from mpo_lite.runs import JsonRow, Run, Version
from mpo_lite.tasks.data import load_prompts
from mpo_lite.tasks.spec import load_task
from mpo_lite.types import Rollout, text_hash

Observer = Callable[[str, JsonRow], None]
"""Told of ``note``, ``gold``, ``step`` and ``meta`` events as they happen, each with its row."""


class Session:
    """The state of one run; reward function and callback work on it.

    Args:
        config: Resolved configuration.
        observe: Told what happens.

    Raises:
        UsageError: Configuration, task, data or rubric cannot work.
    """

    def __init__(self, config: Config, observe: Observer = lambda kind, row: None) -> None:
        self.config, self.observe = config, observe
        judge = backend(config, "judge")
        meta = None if config.freeze_rubric else backend(config, "meta")
        self.task = load_task(config.task)
        self.prompts = load_prompts(self.task.data, config.data)
        self.gold = self.task.gold_metric()
        first = load_rubric(config.rubric) if config.rubric else self.task.rubric
        self.version = Version(0, None, 0, str(config.rubric or f"task {self.task.name}"), first)
        self.backends = [judge, meta] if meta else [judge]
        self.ledger = Ledger()
        self.client = background.wait(self._make_client())
        self._refuse_unpriced()
        self.judge = PointwiseJudge(self.client, judge, self.task.persona)
        self.meta = MetaJudge(self.client, meta, self.task.purpose) if meta else None

        self.batch = 0
        self.recent: list[Rollout] = []
        self.replay: dict[tuple[int, int], Rollout] = {}
        self.meta_outcomes: dict[int, JsonRow] = {}
        self.no_step = False
        self.interrupted = False
        self.batch_row: JsonRow = {}
        self._run: Run | None = None

    @property
    def run(self) -> Run:
        """The run directory; there is one once ``attach`` was called."""
        if self._run is None:
            raise RuntimeError("the session has no run directory yet: call attach first")
        return self._run

    @property
    def set_hash(self) -> str:
        """Identity of the rubric in force."""
        return set_hash({"": self.version.rubric})

    @property
    def prompts_hash(self) -> str:
        """Identity of the prompts trained on: a checkpoint's place in their order holds for these alone."""
        return text_hash(json.dumps(self.prompts.train))

    @property
    def max_new_tokens(self) -> int:
        """Longest completion of the policy in tokens."""
        return self.config.max_new_tokens or self.task.generation.max_new_tokens

    def check_endpoints(self) -> None:
        """Sends one tiny call to judge and meta-judge.

        Raises:
            EndpointError: One of them cannot be used; says which, and how to mend it.
        """
        for which in dict.fromkeys(self.backends):
            try:
                background.wait(self.client.check(which), self.check_interrupt)
            except CallFailed as error:
                where = which.api_base or "the provider"
                raise EndpointError(f"{which.model} does not answer at {where}: {error}") from error

    def attach(self, run: Run) -> None:
        """Takes ``run`` as the place to write to; its spend so far counts.

        Raises:
            ConfigError: Another process writes there.
        """
        run.lock()
        self._run = run
        self.ledger.attach(run.calls)
        if not (run.path / "rubrics" / "v000.yaml").exists():
            run.publish(self.version)

    def resume(self, batch: int, version: int) -> None:
        """Goes back to where ``batch`` generation batches were done under rubric ``version``."""
        self.run.rewind(batch)
        self.batch, self.version = batch, self.run.version(version)
        # What was generated since the last meta step; one that is due at this very batch is still to come.
        since = max(0, batch - 1) // self.config.interval * self.config.interval
        journalled = self.run.journalled(since)
        self.recent = [rollout for rollout in journalled if rollout.batch < batch]
        self.replay = {
            (rollout.batch, rollout.row): rollout for rollout in journalled if rollout.batch >= batch
        }
        self.meta_outcomes = self.run.meta_outcomes(batch)

    def publish(self, rubric: Rubric, author: str) -> None:
        """Puts a new rubric version in force from the next batch on."""
        self.version = Version(self.version.number + 1, self.version.number, self.batch, author, rubric)
        self.run.publish(self.version)

    def note(self, text: str) -> None:
        """Tells the observer something a person should know."""
        self.observe("note", {"text": text})

    def check_interrupt(self) -> None:
        """Raises ``Interrupted`` once the user has asked to stop."""
        if self.interrupted:
            raise Interrupted("stopped on request")

    def close(self) -> None:
        """Keeps the answers still in flight, then closes connections and cache."""
        background.wait(self.client.close())
        self.client.cache.close()
        if self._run:
            self._run.unlock()

    def spend(self) -> JsonRow:
        """Calls, cache hits and USD so far; ``usd`` is None where some answer had no known price."""
        return {
            "judge_calls": self.ledger.calls["judge"],
            "meta_calls": self.ledger.calls["meta"],
            "cache_hits": self.client.cache_hits,
            "usd": None if self.ledger.unpriced else round(self.ledger.usd, 6),
        }

    async def _make_client(self) -> Client:
        config = self.config
        # LiteLLM logs whole prompts at its debug level, and its own notices at warning.
        for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
            logging.getLogger(name).setLevel(logging.ERROR)
        budget = Budget(self.ledger, config.max_usd, config.max_calls)
        return Client(
            AnswerCache(config.cache_dir), self.ledger, budget, config.concurrency, config.call_timeout
        )

    def _refuse_unpriced(self) -> None:
        if self.config.max_usd is None:
            return
        for role, which in zip(("judge", "meta"), self.backends, strict=False):
            if transport.price(which) is None:
                raise ConfigError(
                    f"--max-usd {self.config.max_usd:g}: {which.model} has no known price, so the cap could "
                    "not hold; give it, in USD per million input and output tokens: "
                    f"-o {role}_price='[0.15, 0.6]', or cap calls by --max-calls"
                )
