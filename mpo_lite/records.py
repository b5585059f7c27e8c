"""What the rows of a run's files hold. A reader checks them once, here; what follows may rely on it.

Fields that a reader can do without have a default; what a row holds beyond them is passed on as it is.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, model_validator

from mpo_lite.errors import FailureKind
from mpo_lite.jsonl import JsonRow
from mpo_lite.rubric import Rubric
from mpo_lite.types import Assessment, Rollout, StepStatus, Verdict, text_hash

Text = InstanceOf[str]
"""Any text: answers may hold halves of characters, which pydantic's own type refuses."""
Count = Annotated[int, Field(ge=0, lt=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Record(BaseModel):
    """A row of a file; nothing is taken for a number or a text that is none."""

    model_config = ConfigDict(strict=True)


class Environment(Record):
    """``env.json``: what a run was begun with."""

    begun_by: Literal["train", "library", "serve"]
    mpo_lite: Text
    python: Text
    machine: Text
    packages: dict[Text, Text]


class RunFormat(Record):
    """What ``env.json`` says in every form of run: which form this is (0 if it does not say), and whose."""

    schema_: Annotated[Count, Field(alias="schema")] = 0
    mpo_lite: Text


class Pin(Record):
    """``pin.json``: the version that a person pinned."""

    version: Count


class Metrics(Record):
    """A generation batch: its figures, those of the trainer, and the spend so far."""

    batch: Count
    version: Count
    reward: Share | None
    judge: Text | None = None
    rows: Count = 0
    judge_failures: Count
    failures: dict[FailureKind, Count] = {}
    filled: Count = 0
    alarms: list[Text] = []
    gold: Share | None = None
    spread: float | None = None
    weights: dict[Text, float] = {}
    disagreement: float | None = None
    audit_gap: float | None = None
    audit_low: float | None = None
    audit_high: float | None = None
    audit_preferred: Share | None = None
    kl: float | None = None
    loss: float | None = None
    entropy: float | None = None
    logprob_gap: float | None = None
    grad_norm: float | None = None
    tokens: float | None = None
    clipped: float | None = None
    step_seconds: float | None = None
    wait_seconds: float | None = None
    sampler_kl: float | None = None
    staleness: float | None = None
    dropped: float | None = None
    judge_calls: Count = 0
    gate_calls: Count = 0
    meta_calls: Count = 0
    audit_calls: Count = 0
    cache_hits: Count = 0
    tokens_spent: Count = 0
    tokens_cached: Count = 0
    usd: float | None = None
    unpriced: Count = 0
    unmetered: Count = 0

    @property
    def by_verifier(self) -> bool:
        """Whether the task's verifier scored the batch: ``judge`` is empty then."""
        return self.judge == ""

    @property
    def judged_reward(self) -> float | None:
        """The mean reward by the rubric; None where nothing was judged, or the verifier scored the batch."""
        return None if self.by_verifier else self.reward


class GoldSample(Record):
    """A held-out prompt, its answer, and what gold says of it."""

    prompt: Text
    completion: Text
    gold: Finite


class Gold(Record):
    """An evaluation on the held-out prompts."""

    batch: Count
    gold: Finite
    samples: Annotated[list[GoldSample], Field(min_length=1)]


class StopRow(Record):
    """Why a run stopped before its last batch."""

    reason: Text


class AlarmRow(Record):
    """An alarm as it was raised."""

    batch: Count
    name: Text
    detail: Text
    value: float
    threshold: float
    evidence: list[Text]


class ObjectionRow(Record):
    """A reason of the gate: for people, and without figures for the meta-judge."""

    id: Text
    text: Text
    complaint: Text = ""


class Refused(Record):
    """A proposal that was not taken."""

    status: StepStatus
    reason: Text
    objections: list[ObjectionRow] = []
    figures: dict[Text, float]
    rubric: Rubric | None


class Recheck(Record):
    """What the recheck of the current rubric found."""

    objections: list[ObjectionRow] = []


class CriterionHealth(Record):
    """A criterion over the answers that a step looked at."""

    noise: float | None


class Step(Record):
    """A step of the rubric's history, accepted or not."""

    kind: Literal["meta", "rollback", "pin", "refine"]
    began: Count
    batch: Count
    version: Count
    parent: Count
    status: StepStatus
    reason: Text
    author: Text
    added: list[Text]
    changed: list[Text]
    dropped: list[Text]
    rubric: Rubric | None
    scale: Finite = 1.0
    offset: Finite = 0.0
    samples: list[Text] = []
    alarms: list[Text] = []
    alarm_signs: list[Text] = []
    gate: dict[Text, float] = {}
    refused: list[Refused] = []
    recheck: Recheck = Recheck()
    health: dict[Text, CriterionHealth] = {}
    probes: dict[Text, float] = {}
    frozen: dict[Text, float] = {}

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.status == "accepted" and self.rubric is None:
            raise ValueError("rubric is missing from a step that was accepted")
        if self.probes and not {"before", "now"} <= set(self.probes):
            raise ValueError("probes must hold 'before' and 'now'")
        return self


class Answer(Record):
    """An answer to one of the fixed prompts: the initial policy's, or a later one at ``batch``."""

    batch: Count = 0
    prompt: Text
    completion: Text
    truncated: bool = False


class AssessmentRow(Record):
    """The judge's word on one criterion."""

    model_config = ConfigDict(extra="forbid")

    reason: Text
    level: Count


class VerdictRow(Record):
    """A verdict, as ``dataclasses.asdict`` gives it."""

    model_config = ConfigDict(extra="forbid")

    reward: Share | None
    set_hash: Text
    assessments: dict[Text, AssessmentRow]
    source: Literal["judge", "rule", "verifier"]
    failure: FailureKind | None
    detail: Text = ""
    judge: Text
    disagreement: float | None = None


class Trial(Record):
    """What the gate had judged, and the calls that this depends on: those of other judgements may be among
    them.
    """

    batch: Count
    key: Text
    verdict: VerdictRow
    calls: list[Text]


class AuditRow(Record):
    """A rollout that another model scored: ``level`` is its reward relative to the version's offset."""

    batch: Count
    row: Count
    id: Text
    text: Text
    version: Count
    reward: Share
    level: Finite
    audit: Share | None
    failure: FailureKind | None


class AuditPairs(Record):
    """Pairs of answers to a prompt, the present policy's and the initial one's, that another model judged."""

    batch: Count
    better: Count
    worse: Count
    ties: Count
    failed: Count


class RolloutRow(Record):
    """An answer with its verdict and reward."""

    batch: Annotated[int, Field(ge=1, lt=2**53)]
    row: Count
    prompt: Text
    completion: Text
    version: Count
    reward: Share | None
    cluster: Text = ""
    truncated: bool = False
    verdict: VerdictRow


KINDS: dict[str, type[Record]] = {
    "metrics.jsonl": Metrics,
    "gold.jsonl": Gold,
    "lineage.jsonl": Step,
    "alarms.jsonl": AlarmRow,
    "anchor.jsonl": Answer,
    "probes.jsonl": Answer,
    "trials.jsonl": Trial,
    "audits.jsonl": AuditRow,
    "audit_pairs.jsonl": AuditPairs,
    "rollouts.jsonl": RolloutRow,
}
"""File of a run → what its rows hold."""


def verdict_of(row: JsonRow) -> Verdict:
    """A verdict from its row."""
    assessments = {key: Assessment(**value) for key, value in row["assessments"].items()}
    told: JsonRow = row | {"assessments": assessments}
    return Verdict(**told)


def rollout_row(rollout: Rollout) -> JsonRow:
    """A rollout as it is journalled."""
    row = {"id": rollout.id, "text": text_hash(rollout.completion), **asdict(rollout)}
    del row["label"], row["origin"]  # of answers that come from elsewhere than training
    return row


def rollout_of(row: JsonRow) -> Rollout:
    """A rollout from its row."""
    names = ("batch", "row", "prompt", "completion", "version", "reward", "cluster")
    told: dict[str, Any] = {name: row[name] for name in names}
    return Rollout(**told, verdict=verdict_of(row["verdict"]), truncated=row.get("truncated", False))
