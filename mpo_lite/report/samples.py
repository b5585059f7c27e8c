"""The answers that a report shows, chosen so that the page stays small whatever the run's size."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice

from mpo_lite.errors import failures_in_words
from mpo_lite.jsonl import JsonRow
from mpo_lite.run_dir import RunDir
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


def samples(
    rollouts: Sequence[Rollout], tops: Mapping[int, Mapping[str, int]], alarms: Sequence[JsonRow],
    cited: Iterable[str], probes: Sequence[JsonRow],
) -> JsonRow:  # fmt: skip
    """Chooses and shortens samples for the browser.

    Args:
        rollouts: All of the run.
        tops: Rubric version → criterion → its best level.
        alarms: Their evidence comes first.
        cited: Ids that a criterion was asked for by; they come second.
        probes: The run's probes, for those of them that are cited.

    Returns:
        ``prompts`` and ``rows``, which name their prompt by its index; ``of``: rollouts there are.
    """
    shown_by: defaultdict[str, list[str]] = defaultdict(list)
    for alarm in alarms:
        for name in alarm["evidence"]:
            if alarm["name"] not in shown_by[name]:
                shown_by[name].append(alarm["name"])
    cited = set(cited)
    prompts: dict[str, int] = {}
    rows: list[JsonRow] = []
    size = 0
    told: Iterable[JsonRow] = (
        _row(one, tops.get(one.version, {}), shown_by.get(one.id, []), one.id in cited)
        for one in _chosen(rollouts, set(shown_by), cited)
    )
    for row in islice(chain(_cited_probes(probes, cited), told), MOST_SAMPLES):
        prompt = row["prompt"]
        size += 0 if prompt in prompts else len(json.dumps(prompt))
        kept = {**row, "prompt": prompts.get(prompt, len(prompts))}
        size += len(json.dumps(kept))
        if size > MOST_BYTES:
            break
        prompts.setdefault(prompt, len(prompts))
        rows.append(kept)
    rows.sort(key=lambda row: (row["batch"], row["row"]))
    return {"prompts": list(prompts), "rows": rows, "of": len(rollouts)}


def over_time(run: RunDir, gold: Sequence[JsonRow]) -> list[JsonRow]:
    """Prompts that were answered again and again while the policy changed, with their answers.

    Returns:
        Rows of ``prompt`` and ``answers``: batch, completion, gold or None. Held-out prompts where the task
        has gold, the anchor's prompts else.
    """
    answers: dict[str, list[JsonRow]] = {}
    for row in gold:
        for one in row["samples"][:FOLLOWED]:
            answers.setdefault(one["prompt"], []).append(_answer(row["batch"], one))
    if not answers:
        asked: list[JsonRow] = [{**row, "batch": 0} for row in run.rows(run.anchor)]
        for one in (*asked, *run.rows(run.probes)):
            answers.setdefault(one["prompt"], []).append(_answer(one["batch"], one))
    kept = list(answers.items())[:FOLLOWED]
    return [{"prompt": shortened(prompt), "answers": _thinned(rows)} for prompt, rows in kept]


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text as the page shows it: ``escape_controls``, and cut in the middle where it is long."""
    if len(text) > longest:
        head, tail = text[: longest * 2 // 3], text[-longest // 3 :]
        text = f"{head}\n[… {len(text) - len(head) - len(tail):,} characters left out …]\n{tail}"
    return escape_controls(text)


def _chosen(rollouts: Sequence[Rollout], evidence: set[str], cited: set[str]) -> list[Rollout]:
    """All rollouts by how much there is to learn from each: evidence of alarms, what criteria were asked for
    by, then in rounds one more of every batch, its best and its worst first.
    """
    by_batch: defaultdict[int, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        by_batch[rollout.batch].append(rollout)
    rank: dict[str, int] = {}
    for batch, rows in by_batch.items():
        drawn = random.Random(f"report-{batch}").sample(rows, len(rows))
        drawn.sort(key=lambda one: one.reward if one.reward is not None else -1.0)
        ends = [drawn.pop(), *([drawn.pop(0)] if drawn else [])]
        random.Random(f"report-{batch}").shuffle(drawn)
        rank |= {one.id: place for place, one in enumerate([*ends, *drawn])}
    return sorted(
        rollouts, key=lambda one: (one.id not in evidence, one.id not in cited, rank[one.id], one.batch)
    )


def _cited_probes(probes: Sequence[JsonRow], cited: set[str]) -> Iterator[JsonRow]:
    """Probes that a criterion was asked for by. What they earned under which rubric is not kept by name."""
    for batch, rows in groupby(probes, key=lambda row: row["batch"]):
        for place, row in enumerate(rows):
            rollout = Rollout(
                batch, place, row["prompt"], row["completion"], _UNKNOWN, -1, None, origin="probe"
            )
            if rollout.id in cited:
                yield _row(rollout, {}, [], True) | {"by": "probe", "batch": batch}


def _row(rollout: Rollout, tops: Mapping[str, int], alarms: list[str], cited: bool) -> JsonRow:
    verdict = rollout.verdict
    return {
        "id": rollout.id,
        "batch": rollout.batch,
        "row": rollout.row,
        "prompt": shortened(rollout.prompt),
        "version": rollout.version,
        "reward": rollout.reward,
        "by": failures_in_words([verdict.failure]).removeprefix("1 ") if verdict.failure else verdict.source,
        "completion": shortened(rollout.completion),
        "levels": [
            [name, one.level, tops.get(name), shortened(one.reason, LONGEST_REASON)]
            for name, one in verdict.assessments.items()
        ],
        "alarms": alarms,
        "cited": cited,
        "cluster": rollout.cluster,
    }


def _answer(batch: int, row: JsonRow) -> JsonRow:
    return {
        "batch": batch,
        "completion": shortened(row["completion"], LONGEST_OVER_TIME),
        "gold": row.get("gold"),
    }


def _thinned(rows: list[JsonRow], most: int = 24) -> list[JsonRow]:
    """At most so many, evenly over time, the first and the last among them."""
    if len(rows) <= most:
        return rows
    return [rows[round(place * (len(rows) - 1) / (most - 1))] for place in range(most)]
