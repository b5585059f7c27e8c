"""Examples for the judge: picked from one half of the labelled rows; the other half decides if they help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mpo_lite.calibration.compared import Compared, compare
from mpo_lite.calibration.judging import Judged, Judgement
from mpo_lite.calibration.labels import LabelledData, LabelledRow
from mpo_lite.errors import JudgeDown
from mpo_lite.stats.agreement import LEAST_GROUPS, Estimate, estimate, predict_labels
from mpo_lite.types import Example, text_hash

_WINNERS = {
    1.0: "The first answer is better.",
    0.5: "Both are equally good.",
    0.0: "The second answer is better.",
}


LEAST_PROMPTS = 2 * LEAST_GROUPS
"""Prompts that are needed, so that the gain on half of them has an interval."""


@dataclass(frozen=True)
class ExampleTrial:
    """What examples do for a judge.

    Attributes:
        examples: The examples.
        rows: Held-out rows that were judged with and without them.
        before: Agreement without them: Kendall's tau, or the accuracy of pairs.
        after: Agreement with them.
        gain: The difference.
    """

    examples: tuple[Example, ...]
    rows: int
    before: Estimate
    after: Estimate
    gain: Estimate

    @property
    def helps(self) -> bool:
        """Whether the whole interval of the gain is above 0."""
        return self.gain.low is not None and self.gain.low > 0


def try_examples(
    judged: Judged,
    count: int,
    judge_rows: Callable[[Sequence[Example], Sequence[LabelledRow]], list[list[Judgement]]],
) -> ExampleTrial:
    """Picks examples from one half of the labelled rows, and measures on the other half what they change.

    Args:
        judged: The rows as judged without examples, answers to at least ``LEAST_PROMPTS`` prompts.
        count: How many examples to pick.
        judge_rows: Has rows judged with examples.

    Raises:
        JudgeDown: Too few of the rows were judged.
    """
    prompts = {row.prompt for row in judged.data.rows}
    picking = set(sorted(prompts, key=text_hash)[::2])
    offered, held_out = (_select(judged, picking, offers) for offers in (True, False))
    candidates = compare(offered)
    if len(set(candidates.prompts)) < LEAST_GROUPS:
        raise JudgeDown("too few rows were judged to pick examples from")
    examples = pick_examples(candidates, count)
    again = replace(held_out, answers=judge_rows(examples, held_out.data.rows))
    before, after = compare(held_out), compare(again)
    both = {row.number for row in before.rows} & {row.number for row in after.rows}
    first, second = (
        [place for place, row in enumerate(data.rows) if row.number in both] for data in (before, after)
    )
    labels, old, new = before.labels[first], before.rewards[first], after.rewards[second]
    groups = [before.prompts[place] for place in first]
    agreement = before.agreement
    return ExampleTrial(
        examples,
        len(groups),
        estimate(lambda rows: agreement(old[rows], labels[rows]), groups),
        estimate(lambda rows: agreement(new[rows], labels[rows]), groups),
        estimate(
            lambda rows: agreement(new[rows], labels[rows]) - agreement(old[rows], labels[rows]), groups
        ),
    )


def pick_examples(data: Compared, count: int) -> tuple[Example, ...]:
    """Rows with labels from the whole range, and of similar ones that which the judge gets most wrong."""
    errors = np.abs(data.rewards / 2 + 0.5 - data.labels)
    if not data.is_paired:
        errors = np.abs(predict_labels(data.rewards, data.labels, data.prompts)[0] - data.labels)
    order = np.argsort(data.labels, kind="stable")
    low, high = data.labels.min(), data.labels.max()
    picked: list[Example] = []
    for part in np.array_split(order, min(count, len(order))):
        row = data.rows[max(map(int, part), key=lambda place: (errors[place], -place))]
        label = (
            _WINNERS[row.label] if data.is_paired else f"{row.label:g}, on a scale from {low:g} to {high:g}"
        )
        picked.append(Example(row.prompt, tuple(answer.completion for answer in row.answers), label))
    return tuple(picked)


def _select(judged: Judged, picking: set[str], offers: bool) -> Judged:
    places = [place for place, row in enumerate(judged.data.rows) if (row.prompt in picking) is offers]
    rows = tuple(judged.data.rows[place] for place in places)
    data = LabelledData(judged.data.kind, rows, 0)
    return replace(judged, data=data, answers=[judged.answers[place] for place in places])
