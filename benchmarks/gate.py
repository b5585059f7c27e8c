"""What the gate accepts: hackable, sound and strict rubrics, proposed many times.

    MPO_TEST_DATA=DATA python benchmarks/gate.py --seeds 0-2 --draws 30

Two judges: the sandbox's, on answers of its policy; and one that takes criteria at their word, on the real
essays of ``DATA/essay_matches.jsonl``. Each draw takes other answers for the reference set, and the seed
other noise of the judge. Both judges are programs: no figure here is evidence about a real one.

Which rubrics are hackable was written down before anything was measured (``gate_rubrics.py``).
"""

import argparse
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gate_rubrics import LITERAL, SANDBOX
from harness import HERE
from literal_judge import judge_literally

from mpo_lite.config import Thresholds
from mpo_lite.judge.base import CallCost, Sample
from mpo_lite.llm import event_loop
from mpo_lite.meta.gate import Gate
from mpo_lite.meta.gate_judge import BudgetedJudge
from mpo_lite.rubric import Rubric
from mpo_lite.sandbox import data, simulate
from mpo_lite.sandbox.measures import parse_items
from mpo_lite.tasks.spec import load_task
from mpo_lite.types import Assessment, Verdict

JudgeOne = Callable[[Sample, Rubric, int], Verdict]


def judge_as_sandbox(sample: Sample, rubric: Rubric, seed: int) -> Verdict:
    levels = simulate.judge(parse_items(rubric.facts["rubric"]), sample.prompt, sample.completion, seed)
    assessments = {name: Assessment(**each) for name, each in levels.items()}
    return Verdict(rubric.reward(assessments), rubric.set_hash, assessments)


class ProgramJudge:
    """A judge of this process: neither HTTP nor a model."""

    def __init__(self, judge: JudgeOne, seed: int) -> None:
        self.judge, self.seed = judge, seed
        self.cost = CallCost()

    async def verdicts(self, samples: Sequence[Sample], rubric: Rubric) -> list[Verdict]:
        return [self.judge(sample, rubric, self.seed) for sample in samples]


def essays() -> list[Sample]:
    """One real answer to each prompt."""
    lines = (
        (Path(os.environ["MPO_TEST_DATA"]) / "essay_matches.jsonl").read_text(encoding="utf-8").splitlines()
    )
    rows = [json.loads(line) for line in lines]
    answers = {row["prompt"]: row["response_a"] for row in rows}
    return [Sample(*pair) for pair in answers.items()]


def sandbox_answers() -> list[Sample]:
    """Answers as the sandbox's first policy gives them: a claim, up to two reasons, sometimes a close."""
    drawn, samples = random.Random(5), []
    for row in data.prompts("train"):
        topic = row["prompt"].split()[-2]
        reasons = [f"one reason is that {topic} give {good} ." for good in ("joy", "trust", "work", "calm")]
        parts = [f"i think that {topic} are good .", *drawn.sample(reasons, drawn.randint(1, 2))]
        parts += [f"in the end {topic} are useful ."] * (drawn.random() < 0.7)
        samples.append(Sample(row["prompt"], " ".join(parts)))
    return samples


def examine(rubric: Rubric, old: Rubric, answers: list[Sample], judge: JudgeOne, seed: int, draw: int) -> Any:
    """One proposal: what the gate makes of it, and the judgements that it took."""
    task = load_task("sandbox" if judge is judge_as_sandbox else "essay")
    anchor = random.Random(f"{seed}-{draw}").sample(answers, 12)
    gate_judge = BudgetedJudge(lambda _: ProgramJudge(judge, seed), lambda: "", task.rules)
    gate = Gate(gate_judge, anchor, task, Thresholds())
    gate_judge.left = 1000
    result = event_loop.wait(gate.examine(rubric, old, [], draw))
    return {
        "passed": result.passed,
        "objections": [each.id for each in result.objections],
        "judgements": 1000 - gate_judge.left,
    }


def measure(seeds: list[int], draws: int) -> dict[str, Any]:
    scenes = {
        "sandbox": (SANDBOX, sandbox_answers(), judge_as_sandbox),
        "literal": (LITERAL, essays(), judge_literally),
    }
    table: dict[str, Any] = {}
    for scene, (rubrics, answers, judge) in scenes.items():
        olds = {
            "vague": rubrics["vague" if scene == "sandbox" else "impression"][1],
            "good": rubrics["good"][1],
        }
        for old_name, old in olds.items():
            for name, (kind, rubric) in rubrics.items():
                results = [
                    examine(rubric, old, answers, judge, seed, draw)
                    for seed in seeds
                    for draw in range(draws)
                ]
                objections = [each for result in results for each in result["objections"]]
                row = {
                    "kind": kind,
                    "passed": sum(result["passed"] for result in results) / len(results),
                    "judgements": sum(result["judgements"] for result in results) / len(results),
                    "objections": {each: objections.count(each) for each in sorted(set(objections))},
                }
                table.setdefault(scene, {}).setdefault(old_name, {})[name] = row
                print(f"{scene:8} against {old_name:6} {kind:9} {name:36} {row['passed']:6.1%}"
                      f"  {row['judgements']:5.1f}", flush=True)  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0-2")
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gate.json")
    args = parser.parse_args()
    first, _, last = args.seeds.partition("-")
    seeds = list(range(int(first), int(last or first) + 1))
    table = measure(seeds, args.draws)
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps({"seeds": seeds, "draws": args.draws, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
