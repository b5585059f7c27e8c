"""How often a judge with a rubric agrees with given verdicts on pairs of real essays; nothing is trained.

    python benchmarks/agreement.py --data DATA/essay_matches.jsonl --rubric refined=refined.yaml

The two essays of a pair are judged separately. Judge and verdict agree if the winner has the higher reward;
a tie counts half; a pair with a failed judgement is left out and counted. The task's vague first rubric and
the expert's are always among the rubrics. The pairs are drawn by a fixed seed. Given verdicts are a stronger
model's, not people's.

Rows are kept as they finish, so a stopped benchmark resumes; judgements that were lost to the server are
asked for again. A row is measured again if the rubric, the judge's name or its prompt has changed. Verdicts
that the cache has, of a chunk that was stopped halfway, count no tokens.

    python benchmarks/agreement.py --data DATA/essay_matches.jsonl --write-refine-set answers.jsonl
    mpo-lite refine answers.jsonl --task essay --out refined.yaml …

writes answers to other prompts than those of the pairs, for refining a rubric.
"""

import argparse
import itertools
import json
import math
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpo_lite.config_sources import load_config
from mpo_lite.errors import LOST, failures_in_words
from mpo_lite.judge.base import Sample
from mpo_lite.judge.pool import ModelPool
from mpo_lite.offline import judge_by_rubric
from mpo_lite.prompts import prompts_dir
from mpo_lite.rubric import Rubric, load_rubric
from mpo_lite.stats.interval import mean_interval
from mpo_lite.tasks.spec import Task, load_task
from mpo_lite.types import text_hash

PAIRS = 200
SEED = 17
CHUNK = 16
"""Pairs that are judged together, by each rubric in turn."""
REFINE_PAIRS = 30
"""Pairs whose answers are for refining: two answers to each of so many prompts."""
Row = dict[str, Any]


def read_pairs(path: Path) -> list[tuple[int, Row]]:
    """The pairs with a winner, with their line numbers, in the order drawn by the seed."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    decided = [
        (number, row)
        for number, row in enumerate(rows, 1)
        if row["winner"] in (row["model_a"], row["model_b"])
    ]
    random.Random(SEED).shuffle(decided)
    return decided


def answers(row: Row) -> tuple[str, str]:
    """The winner's answer and the other."""
    texts = row["response_a"], row["response_b"]
    return texts if row["winner"] == row["model_a"] else texts[::-1]


def write_refine_set(pairs: Sequence[tuple[int, Row]], path: Path) -> None:
    """Writes the answers of the first pairs beyond ``PAIRS`` with prompts that occur in none before them."""
    seen, rows = {row["prompt"] for _, row in pairs[:PAIRS]}, []
    for _, row in pairs[PAIRS:]:
        if row["prompt"] not in seen and len(rows) < 2 * REFINE_PAIRS:
            seen.add(row["prompt"])
            rows += [
                {"prompt": row["prompt"], "response": row[place]} for place in ("response_a", "response_b")
            ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} answers to {len(rows) // 2} prompts, written to {path}")


def judge_pairs(models: ModelPool, task: Task, rubric: Rubric, pairs: Sequence[tuple[int, Row]]) -> list[Row]:
    """One row per pair; tokens and seconds are means over the pairs that are judged together."""
    started, spent = time.monotonic(), models.ledger.tokens
    samples = [Sample(row["prompt"], text) for _, row in pairs for text in answers(row)]
    verdicts = judge_by_rubric(models, task, rubric, samples)
    tokens, seconds = models.ledger.tokens - spent, time.monotonic() - started
    return [
        {
            "pair": number,
            "rewards": [verdict.reward for verdict in both],
            "failures": [verdict.failure for verdict in both if verdict.failure],
            "tokens": tokens / len(pairs),
            "seconds": round(seconds / len(pairs), 2),
        }
        for (number, _), both in zip(pairs, zip(verdicts[::2], verdicts[1::2], strict=True), strict=True)
    ]


def agreement(row: Row) -> float | None:
    """1 where the winner has the higher reward, 0.5 for a tie; None where a judgement failed."""
    won, lost = row["rewards"]
    if won is None or lost is None:
        return None
    return 0.5 if math.isclose(won, lost) else float(won > lost)


def table(results: dict[str, dict[int, Row]]) -> str:
    lines = [
        "| rubric | pairs | agreement, 95% interval | ties | left out | reward, mean | sd "
        "| tokens per judgement | seconds | failed judgements |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, by_pair in results.items():
        rows = list(by_pair.values())
        scores = [score for row in rows if (score := agreement(row)) is not None]
        rewards = [reward for row in rows for reward in row["rewards"] if reward is not None]
        if not scores:
            lines.append(f"| {name} | 0 | | | {len(rows)} | | | | | |")
            continue
        low, high = mean_interval(scores)
        failures = Counter(kind for row in rows for kind in row["failures"])
        tokens, seconds = (statistics.fmean(row[key] for row in rows) / 2 for key in ("tokens", "seconds"))
        lines.append(
            f"| {name} | {len(scores)} | {statistics.fmean(scores):.3f} [{low:.3f}, {high:.3f}] "
            f"| {scores.count(0.5)} | {len(rows) - len(scores)} | {statistics.fmean(rewards):.3f} "
            f"| {statistics.pstdev(rewards):.3f} | {tokens:.0f} | {seconds:.1f} "
            f"| {failures_in_words(failures) or 'none'} |"
        )
    return "\n".join(lines)


def differences(results: dict[str, dict[int, Row]]) -> str:
    lines = ["| difference in agreement | pairs judged by both | mean, 95% interval |", "|---|---|---|"]
    for first, second in itertools.combinations(results, 2):
        both = [
            (agreement(results[first][pair]), agreement(results[second][pair]))
            for pair in results[first].keys() & results[second].keys()
        ]
        gaps = [after - before for before, after in both if before is not None and after is not None]
        if gaps:
            low, high = mean_interval(gaps)
            mean = f"{statistics.fmean(gaps):+.3f} [{low:+.3f}, {high:+.3f}]"
            lines.append(f"| {second} − {first} | {len(gaps)} | {mean} |")
    return "\n".join(lines)


def measure(options: argparse.Namespace, pairs: Sequence[tuple[int, Row]]) -> dict[str, dict[int, Row]]:
    """Judges what the output file lacks, and adds it there; returns the rows by rubric and pair."""
    task = load_task("essay")
    rubrics = {"vague": task.rubric, "expert": task.expert_rubric}
    for name, _, file in (each.partition("=") for each in options.rubric):
        rubrics[name] = load_rubric(Path(file))
    prompt = (prompts_dir() / "judge/pointwise.md").read_text(encoding="utf-8")
    identities = {
        name: text_hash("\n".join([options.judge, prompt, task.persona, rubric.set_hash]))
        for name, rubric in rubrics.items()
    }
    kept = read_kept(options.out, identities)
    done = {(row["rubric"], row["pair"]) for row in kept}
    given = {"judge": options.judge, "judge_api_base": options.judge_api_base, "judge_mode": "pointwise"}
    given |= {"concurrency": options.concurrency, "call_timeout": 600}
    models = ModelPool(load_config(given=given, environ={}), task.persona, with_meta=False, waits_out=True)
    try:
        for start, (name, rubric) in itertools.product(range(0, len(pairs), CHUNK), rubrics.items()):
            chunk = [pair for pair in pairs[start : start + CHUNK] if (name, pair[0]) not in done]
            if not chunk:
                continue
            models.check()
            rows = judge_pairs(models, task, rubric, chunk)
            kept += [{"rubric": name, "identity": identities[name], **row} for row in rows]
            options.out.write_text(json.dumps(kept, indent=1))
            print(f"{name}: {len(chunk)} pairs, {rows[0]['seconds'] / 2:.1f} s a judgement", flush=True)
    finally:
        models.close()
    numbers = {number for number, _ in pairs}
    return {
        name: {row["pair"]: row for row in kept if row["rubric"] == name and row["pair"] in numbers}
        for name in rubrics
    }


def read_kept(path: Path, identities: dict[str, str]) -> list[Row]:
    """The rows of the output file, without those of a rubric or prompt that has changed, and lost ones."""
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    return [
        row
        for row in rows
        if identities.get(row["rubric"], row["identity"]) == row["identity"]
        and not set(row["failures"]) & set(LOST)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = os.environ.get("MPO_TEST_DATA")
    parser.add_argument(
        "--data", type=Path, default=data and Path(data, "essay_matches.jsonl"), required=not data,
        help="pairs as .jsonl; default: essay_matches.jsonl in MPO_TEST_DATA",
    )  # fmt: skip
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--rubric", action="append", default=[], metavar="NAME=FILE", help="one more rubric")
    parser.add_argument("--judge", default="hosted_vllm/judge")
    parser.add_argument("--judge-api-base", default="http://127.0.0.1:8123/v1")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/agreement.json"))
    parser.add_argument("--write-refine-set", type=Path, metavar="FILE", help="write it and judge nothing")
    options = parser.parse_args()
    pairs = read_pairs(options.data)
    if options.write_refine_set:
        write_refine_set(pairs, options.write_refine_set)
        return
    results = measure(options, pairs[: options.pairs])
    print(f"{table(results)}\n\n{differences(results)}")


if __name__ == "__main__":
    main()
