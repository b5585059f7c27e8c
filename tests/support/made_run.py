"""A run directory made by hand: what a run would write, without the hours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpo_lite.config import Config
from mpo_lite.jsonl import journal
from mpo_lite.rubric import Criterion, Rubric
from mpo_lite.run_dir import RubricVersion, RunDir
from mpo_lite.types import Assessment, Rollout, Verdict

ENVIRONMENT = {
    "begun_by": "train",
    "mpo_lite": "0.1.0",
    "python": "3.11.7",
    "machine": "x86_64",
    "packages": {"torch": "2.13.0"},
}
LEVELS = ("none", "some", "clear")
CITED = ("b2r0", "b4p0")
CHANGE = 4
"""Batches done when the second rubric came."""


def made_run(
    path: Path,
    batches: int = 12,
    prompts: int = 2,
    group: int = 4,
    completion: Callable[[int, int], str] = lambda batch, row: f"answer {row} of batch {batch}",
    prompt: Callable[[int], str] = lambda number: f"Write about topic {number}.",
    said: str = "It shows.",
    gold: bool = True,
    every: int = 2,
    **settings: Any,
) -> RunDir:
    """Writes a run that was hacked under its first rubric and mended by its second.

    Args:
        path: Its folder.
        batches: Generation batches it has done.
        prompts: Prompts per batch.
        group: Answers per prompt.
        completion: (batch, row) → the answer.
        prompt: Number → the prompt.
        said: What the judge, the meta-judge and the alarm say.
        gold: Whether the task has gold.
        every: Batches between evaluations.
        settings: Of the configuration.
    """
    config = Config.model_validate(
        {"judge": "gpt-4o", "meta": "claude", "steps": max(1, batches), "run_dir": path} | settings
    )
    run = RunDir.create(path, config, ENVIRONMENT)
    vague = Criterion(id="flow", description=f"How it flows. {said}", levels=LEVELS)
    sound = (
        Criterion(id="reasons", description="Reasons given.", levels=LEVELS, provenance=CITED),
        Criterion(id="example", description="An example.", levels=LEVELS),
    )
    rubrics = [Rubric(criteria=(vague,)), Rubric(criteria=sound, guidelines=said)]
    run.publish(RubricVersion(0, None, 0, "task essay", rubrics[0]))
    if batches > CHANGE:
        run.publish(RubricVersion(1, 0, CHANGE, "claude", rubrics[1]))
        journal(run.lineage, [_accepted(rubrics[1], said), _kept(rubrics[1], said)])
        journal(run.alarms, [_alarm(said)])
        journal(run.probes, [{"batch": CHANGE, "prompt": prompt(0), "completion": "a probe", "cluster": ""}])
    asked = [prompt(number) for number in range(prompts)]
    journal(run.anchor, [{"prompt": one, "completion": "at first", "cluster": ""} for one in asked])
    for batch in range(batches):
        version = int(batch >= CHANGE)
        rows = [
            _rollout(
                batch, row, prompt(row // group), completion(batch, row), version, rubrics[version], said
            )
            for row in range(prompts * group)
        ]
        run.journal(rows)
        journal(run.metrics, [_metrics(batch + 1, version, rows)])
    if gold:
        for batch in range(0, batches + 1, every):
            value = 0.5 - 0.1 * batch if batch <= CHANGE else 0.5 + 0.4 * batch / batches
            samples = [{"prompt": prompt(n), "completion": completion(batch, n), "gold": value + 0.01 * n}
                       for n in range(4)]  # fmt: skip
            journal(run.gold, [{"batch": batch, "version": 0, "gold": value, "n": 4, "samples": samples}])
    journal(run.ledger(), [_call("judge", seconds, "ok") for seconds in (1.0, 2.0, 3.0)])
    journal(run.ledger(), [_call("judge", 9.0, "failed")])
    journal(run.ledger(1), [_call("meta", 5.0, "ok")])
    return run


def _rollout(
    batch: int, row: int, prompt: str, completion: str, version: int, rubric: Rubric, said: str
) -> Rollout:
    levels = {one.id: Assessment(said, (batch + row) % 3) for one in rubric.criteria}
    reward = min(1.0, 0.2 + 0.1 * (batch % CHANGE) + 0.05 * (row % 3))
    verdict = Verdict(reward, rubric.set_hash, levels, judge="gpt-4o")
    return Rollout(batch + 1, row, prompt, completion, verdict, version, reward)


def _metrics(batch: int, version: int, rows: list[Rollout]) -> dict[str, Any]:
    spend = {"judge_calls": 8 * batch, "gate_calls": 0, "meta_calls": 1, "cache_hits": 2, "usd": 0.01 * batch}
    counts = {"tokens_spent": 10, "tokens_cached": 0, "unpriced": 0, "unmetered": 0, "judge_failures": 0}
    rewards = [row.reward for row in rows if row.reward is not None]
    return {
        "batch": batch,
        "version": version,
        "judge": "gpt-4o",
        "rows": len(rows),
        "reward": sum(rewards) / len(rewards),
        "kl": 0.01 * batch,
        "tokens": 20.0,
        "clipped": 0.0,
        "alarms": [],
        **spend,
        **counts,
    }


def _accepted(rubric: Rubric, said: str) -> dict[str, Any]:
    return {
        "kind": "meta",
        "began": CHANGE,
        "batch": CHANGE,
        "version": 1,
        "parent": 0,
        "status": "accepted",
        "reason": "",
        "author": "claude",
        "samples": ["b4p0", "b2r0"],
        "alarms": ["phrase_drift"],
        "added": ["reasons", "example"],
        "changed": [],
        "dropped": ["flow"],
        "gate": {"margin_title": 0.4, "agreement": 0.1},
        "refused": [
            {
                "reason": said,
                "status": "refused",
                "objections": [{"id": "title", "text": said}],
                "figures": {"margin_title": 0.0},
                "rubric": _dumped(rubric),
            }
        ],
        "recheck": {"objections": [], "figures": {}},
        "health": {"flow": {"mean": 0.5, "spread": 0.1, "saturated": 0.2, "noise": 0.1}},
        "probes": {"n": 2, "before": 0.2, "now": 0.4},
        "rubric": _dumped(rubric),
    }


def _kept(rubric: Rubric, said: str) -> dict[str, Any]:
    proposed = _dumped(rubric)
    proposed["criteria"][0]["description"] = f"Reasons given. {said}"
    refused = {
        "reason": said,
        "status": "refused",
        "objections": [{"id": "title", "text": said}],
        "figures": {"margin_title": 0.05},
        "rubric": proposed,
    }
    return _accepted(rubric, said) | {
        "began": 8,
        "batch": 8,
        "parent": 1,
        "status": "refused",
        "reason": said,
        "added": [],
        "dropped": [],
        "refused": [refused],
        "rubric": None,
        "probes": {},
    }


def _dumped(rubric: Rubric) -> dict[str, Any]:
    return rubric.model_dump(mode="json")


def _alarm(said: str) -> dict[str, Any]:
    figures = {"value": 3.0, "threshold": 2.0, "evidence": ["b4r1", "b4r2"]}
    return {"batch": CHANGE, "name": "phrase_drift", "detail": said, **figures}


def _call(purpose: str, seconds: float, outcome: str) -> dict[str, Any]:
    tokens = {"input_tokens": 100, "output_tokens": 10, "cached_tokens": 40, "metered": True}
    head = {"time": 0.0, "purpose": purpose, "model": "openai/gpt-4o", "outcome": outcome}
    return {**head, "seconds": seconds, "usd": 0.01, **tokens}
