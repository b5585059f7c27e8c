"""The answers that a report shows, chosen so that the page stays small whatever the run's size."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice

from mpo_lite.errors import failures_in_words
from mpo_lite.jsonl import JsonRow
from mpo_lite.records import Answer
from mpo_lite.report.run_data import RunData
from mpo_lite.sanitize import escape_controls
from mpo_lite.types import Rollout, Verdict

MOST_BYTES = 2_500_000
"""Of all samples together; a page of twice that still loads at once."""
MOST_SAMPLES = 1000
_UNKNOWN = Verdict(None, "")
LONGEST, LONGEST_OVER_TIME, LONGEST_REASON = 6000, 1200, 600
"""Characters shown of a sample, of an answer among those over time, and of a judge's reason."""
FOLLOWED = 12
"""Prompts whose answers are shown over time."""


def choose_samples(data: RunData) -> JsonRow:
    """The samples that the page holds, at most ``MOST_SAMPLES`` and ``MOST_BYTES``.

    Returns:
        ``prompts`` and ``rows``, which name their prompt by its index; ``of``: rollouts in the run.
    """
    alarms: defaultdict[str, list[str]] = defaultdict(list)
    for alarm in data.alarms:
        for name in alarm.evidence:
            if alarm.name not in alarms[name]:
                alarms[name].append(alarm.name)
    cited = _find_cited(data)
    candidates: Iterable[JsonRow] = (
        _build_sample(
            rollout, data.best_levels[rollout.version], alarms.get(rollout.id, []), rollout.id in cited
        )
        for rollout in _rank_rollouts(data.rollouts, set(alarms), cited)
    )
    prompts: dict[str, int] = {}
    rows: list[JsonRow] = []
    size = 0
    for candidate in islice(chain(_select_cited_probes(data.probes, cited), candidates), MOST_SAMPLES):
        prompt = candidate["prompt"]
        size += 0 if prompt in prompts else len(json.dumps(prompt))
        row = {**candidate, "prompt": prompts.get(prompt, len(prompts))}
        size += len(json.dumps(row))
        if size > MOST_BYTES:
            break
        prompts.setdefault(prompt, len(prompts))
        rows.append(row)
    rows.sort(key=lambda row: (row["batch"], row["row"]))
    return {"prompts": list(prompts), "rows": rows, "of": len(data.rollouts)}


def follow_prompts(data: RunData) -> list[JsonRow]:
    """Prompts that were answered again and again while the policy changed, with their answers.

    Returns:
        Rows of ``prompt`` and ``answers``: batch, completion, gold or None. Held-out prompts where the task
        has gold, else the anchor's prompts.
    """
    answers: dict[str, list[JsonRow]] = {}
    for evaluation in data.gold:
        for sample in evaluation.samples[:FOLLOWED]:
            answer = _build_answer(evaluation.batch, sample.completion, sample.gold)
            answers.setdefault(sample.prompt, []).append(answer)
    if not answers:
        for probe in (*data.anchor, *data.probes):
            answer = _build_answer(probe.batch, probe.completion, None)
            answers.setdefault(probe.prompt, []).append(answer)
    followed = list(answers.items())[:FOLLOWED]
    return [{"prompt": show_text(prompt), "answers": _thin_out(rows)} for prompt, rows in followed]


def show_text(text: str, longest: int = LONGEST) -> str:
    """A text as the page shows it: ``escape_controls``, and cut in the middle where it is long."""
    if len(text) > longest:
        head, tail = text[: longest * 2 // 3], text[-longest // 3 :]
        text = f"{head}\n[… {len(text) - len(head) - len(tail):,} characters left out …]\n{tail}"
    return escape_controls(text)


def _find_cited(data: RunData) -> set[str]:
    """Ids of the answers that the meta-judge was shown, or asked for a criterion because of."""
    by_criteria = {
        name
        for version in data.versions
        for criterion in version.rubric.criteria
        for name in criterion.provenance
    }
    return by_criteria | {name for step in data.lineage for name in step.samples}


def _rank_rollouts(rollouts: Sequence[Rollout], evidence: set[str], cited: set[str]) -> list[Rollout]:
    """All rollouts by how much there is to learn from each: evidence of alarms, what the meta-judge saw, then
    in rounds one more of every batch, its best and its worst first.
    """
    by_batch: defaultdict[int, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        by_batch[rollout.batch].append(rollout)
    rank: dict[str, int] = {}
    for batch, rows in by_batch.items():
        # Seeded by the batch: the page of a run shows the same answers whenever it is written.
        drawn = random.Random(f"report-{batch}").sample(rows, len(rows))
        drawn.sort(key=lambda rollout: rollout.reward if rollout.reward is not None else -1.0)
        ends = [drawn.pop(), *([drawn.pop(0)] if drawn else [])]
        random.Random(f"report-{batch}").shuffle(drawn)
        rank |= {rollout.id: place for place, rollout in enumerate([*ends, *drawn])}

    def key(rollout: Rollout) -> tuple[bool, bool, int, int]:
        return rollout.id not in evidence, rollout.id not in cited, rank[rollout.id], rollout.batch

    return sorted(rollouts, key=key)


def _select_cited_probes(probes: Sequence[Answer], cited: set[str]) -> Iterator[JsonRow]:
    """Probes that the meta-judge saw. Their rewards are kept in the gate's trials without their ids."""
    for batch, answers in groupby(probes, key=lambda probe: probe.batch):
        for place, probe in enumerate(answers):
            rollout = Rollout(
                batch, place, probe.prompt, probe.completion, _UNKNOWN, -1, None, origin="probe"
            )
            if rollout.id in cited:
                yield _build_sample(rollout, {}, [], True) | {"by": "probe", "batch": batch}


def _build_sample(
    rollout: Rollout, best_levels: Mapping[str, int], alarms: list[str], cited: bool
) -> JsonRow:
    verdict = rollout.verdict
    return {
        "id": rollout.id,
        "batch": rollout.batch,
        "row": rollout.row,
        "prompt": show_text(rollout.prompt),
        "version": rollout.version,
        "reward": rollout.reward,
        "by": failures_in_words([verdict.failure]).removeprefix("1 ") if verdict.failure else verdict.source,
        "completion": show_text(rollout.completion),
        "levels": [
            [name, assessment.level, best_levels.get(name), show_text(assessment.reason, LONGEST_REASON)]
            for name, assessment in verdict.assessments.items()
        ],
        "alarms": alarms,
        "cited": cited,
        "cluster": rollout.cluster,
    }


def _build_answer(batch: int, completion: str, gold: float | None) -> JsonRow:
    return {"batch": batch, "completion": show_text(completion, LONGEST_OVER_TIME), "gold": gold}


def _thin_out(rows: list[JsonRow], most: int = 24) -> list[JsonRow]:
    """At most so many, evenly over time, the first and the last among them."""
    if len(rows) <= most:
        return rows
    return [rows[round(place * (len(rows) - 1) / (most - 1))] for place in range(most)]
