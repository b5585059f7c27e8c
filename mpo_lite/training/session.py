"""What a training run knows besides its weights: configuration, task, rubric in force, judge, journal.

Everything that can be wrong with a user's input is found here, before torch is loaded or a call is paid.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from mpo_lite.config import Config
from mpo_lite.errors import CallFailed, ConfigError, EndpointError, Interrupted
from mpo_lite.judge.base import Judge
from mpo_lite.judge.panel import build_judge
from mpo_lite.llm import background, transport
from mpo_lite.llm.budget import Budget
from mpo_lite.llm.cache import AnswerCache
from mpo_lite.llm.client import Client
from mpo_lite.llm.ledger import Ledger
from mpo_lite.llm.models import Backend, fallback_backend, judge_backends, meta_backend
from mpo_lite.meta.step import MetaJudge
from mpo_lite.rubric import Rubric, load_rubric, set_hash
from mpo_lite.runs import JsonRow, Run, Version
from mpo_lite.tasks.data import load_prompts
from mpo_lite.tasks.spec import load_task
from mpo_lite.training.ranks import world_size
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
        self.judges = judge_backends(config)
        self.fallback = fallback_backend(config)
        meta = None if config.freeze_rubric else meta_backend(config)
        self.task = load_task(config.task)
        self.prompts = load_prompts(self.task.data, config.data)
        self.gold = self.task.gold_metric()
        first = load_rubric(config.rubric) if config.rubric else self.task.rubric
        self.version = Version(0, None, 0, str(config.rubric or f"task {self.task.name}"), first)
        named = [
            *(("judge", judge) for judge in self.judges),
            ("fallback judge", self.fallback),
            ("meta-judge", meta),
        ]
        self.backends = [(role, which) for role, which in named if which]
        self.ledger = Ledger()
        self.client = background.wait(self._make_client())
        self._refuse_unpriced()
        self.fell_back = False
        self.judge = self._judge(self.judges)
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
        """Sends one tiny call to every judge and to the meta-judge.

        Raises:
            EndpointError: One of them cannot be used; says which, and how to mend it.
        """
        for which in dict.fromkeys(which for _, which in self.backends):
            try:
                background.wait(self.client.check(which), self.check_interrupt)
            except CallFailed as error:
                where = which.api_base or "the provider"
                raise EndpointError(f"{which.model} does not answer at {where}: {error}") from None

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

    def resume(self, batch: int, version: int, fell_back: bool = False) -> None:
        """Goes back to where ``batch`` generation batches were done under rubric ``version``."""
        self.run.rewind(batch)
        if fell_back and not self.fall_back("it did before the run was stopped"):
            raise ConfigError(f"{self.run.path}: its fallback judge took over; name it by --judge-fallback")
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

    def fall_back(self, reason: str) -> bool:
        """Has the fallback judge judge from now on; whether there was one to do so."""
        if self.fallback is None or self.fell_back:
            return False
        self.fell_back = True
        self.judge = self._judge((self.fallback,))
        self.note(f"{self.fallback.label} judges from now on: {reason}")
        return True

    @property
    def judged_by(self) -> str:
        """Names of the judges in charge."""
        return " + ".join(
            which.label for which in ((self.fallback,) if self.fell_back else self.judges) if which
        )

    def warn(self) -> None:
        """Tells of caps that come near."""
        for line in self.client.budget.warnings():
            self.note(line)

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
        """Calls, tokens, cache hits and USD so far.

        ``usd`` is None where some answer had no known price (``unpriced`` calls); ``unmetered`` calls are
        counted at the most they can have cost.
        """
        ledger = self.ledger
        return {
            "judge_calls": ledger.calls["judge"],
            "meta_calls": ledger.calls["meta"],
            "cache_hits": self.client.cache_hits,
            "tokens_spent": ledger.tokens,
            "tokens_cached": ledger.cached_tokens,
            "usd": None if ledger.unpriced else round(ledger.usd, 6),
            "unpriced": ledger.unpriced,
            "unmetered": ledger.unmetered,
        }

    def _judge(self, backends: tuple[Backend, ...]) -> Judge:
        return build_judge(self.config, self.client, backends, self.task.persona)

    async def _make_client(self) -> Client:
        config = self.config
        # LiteLLM logs whole prompts at its debug level, and its own notices at warning.
        for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
            logging.getLogger(name).setLevel(logging.ERROR)
        return Client(
            AnswerCache(config.cache_dir),
            self.ledger,
            Budget(self.ledger, config.max_usd, config.max_calls, config.max_tokens),
            # The ceiling holds for the job: its processes share it, and so do the judges of a panel.
            concurrency=max(1, config.concurrency // (world_size() * len(self.judges))),
            timeout_s=config.call_timeout,
            verdict_s=config.verdict_timeout,
        )

    def _refuse_unpriced(self) -> None:
        if self.config.max_usd is None:
            return
        for role, which in self.backends:
            if transport.tariff(which) is None:
                mend = (
                    "its price key"
                    if role == "fallback judge"
                    else f"-o {role.split('-')[0]}_price='[0.15, 0.6]'"
                )
                raise ConfigError(
                    f"--max-usd {self.config.max_usd:g}: {which.model} has no known price, so the cap could "
                    f"not hold; give it, in USD per million input and output tokens, by {mend}, or cap calls "
                    "by --max-calls"
                )
