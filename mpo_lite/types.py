"""The values that are passed between layers: plain frozen data without behaviour."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypedDict

from mpo_lite.errors import FailureKind

Origin = Literal["train", "probe"]
"""Where an answer is from: a generation batch, or the fixed prompts that are answered outside of training."""
StepStatus = Literal["accepted", "unchanged", "refused", "unchecked", "failed"]
"""What became of a proposed rubric: now current; equal to the current one; rejected by the gate or by human
labels; not used because the gate could not check it; never made, or superseded.
"""


class Message(TypedDict):
    """One chat message, in the form of every provider's API."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Example:
    """Labelled answers to a task, as judges are shown them.

    Attributes:
        prompt: The task.
        answers: One answer, or the two answers of a pair.
        label: What people said of them.
    """

    prompt: str
    answers: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Brief:
    """What judges and meta-judge are told of a task, the same for all of its prompts.

    Attributes:
        persona: The role that a judge plays.
        purpose: What readers of the answers want; for the meta-judge and for judges of pairs.
        instructions: What the policy is asked around each prompt, and the limits of its answers; or empty.
        examples: Labelled answers to other tasks; for judges by a rubric.
    """

    persona: str = ""
    purpose: str = ""
    instructions: str = ""
    examples: tuple[Example, ...] = ()


class Completion(NamedTuple):
    """What a policy answered.

    Attributes:
        text: Without special tokens and without thinking, as judges are shown it.
        truncated: The token limit came before an end-of-sequence token.
    """

    text: str
    truncated: bool


@dataclass(frozen=True)
class Assessment:
    """The judge's assessment of one criterion.

    Attributes:
        reason: One or two sentences, written before the level.
        level: Index in ``Criterion.levels``: 0 is the worst.
    """

    reason: str
    level: int


@dataclass(frozen=True)
class Verdict:
    """The judgement of one completion, or the record that it could not be judged.

    Attributes:
        reward: In [0, 1]; None if the completion was not judged. A failure is never a number.
        assessments: Criterion ID → assessment; empty if a rule decided or the judgement failed.
        source: What decided: the judge, a rule, or the task's verifier.
        failure: Why there is no reward; None if there is one.
        detail: Details of the failure; empty if there is a reward.
        disagreement: Largest minus smallest reward of a panel's judges, in [0, 1]; None for a single judge.
        set_hash: Identity of the rubric that was used.
        judge: Label of the judge's model; those of a panel joined by " + "; empty if a rule decided.
    """

    reward: float | None
    set_hash: str
    assessments: dict[str, Assessment] = field(default_factory=dict[str, Assessment])
    source: Literal["judge", "rule", "verifier"] = "judge"
    failure: FailureKind | None = None
    detail: str = ""
    judge: str = ""
    disagreement: float | None = None


@dataclass(frozen=True)
class Rollout:
    """One prompt answered by the policy and judged.

    Attributes:
        batch: Number of the generation batch, from 1; of a probe, how many batches were done.
        row: Index within the batch, from 0; a prompt group takes consecutive rows.
        prompt: The task prompt, as shown to the judge.
        completion: The policy's answer.
        verdict: The judge's verdict.
        version: Rubric version of the verdict.
        reward: The verdict's reward; None if its prompt group has too few verdicts.
        cluster: The kind of prompt, if the task has clusters.
        label: A person's rating, as a line for the meta-judge; None without one.
        truncated: The completion reached its token limit before an end-of-sequence token.
        origin: Where the answer is from.
    """

    batch: int
    row: int
    prompt: str
    completion: str
    verdict: Verdict
    version: int
    reward: float | None
    cluster: str = ""
    label: str | None = None
    truncated: bool = False
    origin: Origin = "train"

    @property
    def id(self) -> str:
        """Name used in provenance and lineage; see ``rollout_id``."""
        return rollout_id(self.batch, self.row, self.origin)


def rollout_id(batch: int, row: int, origin: Origin = "train") -> str:
    """Name of an answer: ``b12r3``, or ``b10p3`` for a probe taken after batch 10."""
    return f"b{batch}{'r' if origin == 'train' else 'p'}{row}"


def text_hash(text: str) -> str:
    """First 16 hex digits of the SHA-256 of ``text`` (UTF-8); identity of texts, rubrics and answers."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
