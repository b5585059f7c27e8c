"""The values that travel between layers. Plain frozen data: no behaviour beyond what a value knows about
itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from mpo_lite.errors import FailureKind

Origin = Literal["train", "probe"]
"""Where an answer is from: a generation batch, or the fixed prompts that are answered outside of training."""
StepStatus = Literal["accepted", "unchanged", "refused", "unchecked", "failed"]
"""What became of a proposed rubric: put in force; equal to the one in force; refused by the gate or by
people's labels; not put in force because the gate could not check it; never made, or overtaken.
"""


class Message(TypedDict):
    """One chat message, as every provider's API takes it."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Assessment:
    """The judge's word on one criterion.

    Attributes:
        reason: One or two sentences, written before the level.
        level: Rank in ``Criterion.levels``: 0 is the worst.
    """

    reason: str
    level: int


@dataclass(frozen=True)
class Verdict:
    """One completion judged, or the record that it could not be judged.

    Attributes:
        reward: In [0, 1]; None when the completion was not judged. A failure is never a number.
        assessments: Criterion id → assessment; empty where a rule decided or the judgement failed.
        source: Who decided: the judge, a rule that needs no judge, or the task's verifier by the reference.
        failure: Why there is no reward; None when there is one.
        detail: What was seen of the failure, in words; empty when there is a reward.
        disagreement: Largest minus smallest reward of a panel's judges, in [0, 1]; None where one judged.
        set_hash: Identity of the rubric that was in force.
        judge: Label of the model that judged; those of a panel joined by " + "; empty where a rule decided.
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
        prompt: The task prompt, as the judge is shown it.
        completion: The policy's answer.
        verdict: What the judge said.
        version: Rubric version the verdict was given under.
        reward: The verdict's reward, or None where its prompt group has too few verdicts.
        cluster: The kind of prompt, where the task tells kinds apart.
        label: What a person said of it, in a line for the meta-judge; None where nobody did.
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
