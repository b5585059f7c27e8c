"""One meta step of a run: audits, going back to a rubric that holds, and what undoes no step."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpo_lite.config import Config
from mpo_lite.jsonl import append_rows
from mpo_lite.judge.base import CallCost, Sample
from mpo_lite.llm import event_loop
from mpo_lite.loop.meta_material import find_unsure
from mpo_lite.loop.meta_step import RunSnapshot, meta_step
from mpo_lite.loop.session import Session
from mpo_lite.meta.criterion_stats import criterion_stats
from mpo_lite.meta.gate import GateResult
from mpo_lite.meta.objections import Objection
from mpo_lite.rubric import Criterion, Rubric
from mpo_lite.run_dir import RubricVersion, RunDir
from mpo_lite.types import Rollout, Verdict
from tests.support.llm_calls import error
from tests.support.llm_server import LLMServer, prompt_text


class StubGate:
    """Finds the rubric in force wanting, and its parent sound or not."""

    def __init__(self, gate_judge: Any, parent: GateResult) -> None:
        self.gate_judge, self.parent, self.tried = gate_judge, parent, list[Rubric]()

    def max_cost(self, old: Rubric) -> int:
        return 30

    async def recheck(self, *_: Any) -> GateResult:
        return GateResult((Objection("varied", "recent answers are not told apart", ""),))

    async def examine(self, new: Rubric, *_: Any) -> GateResult:
        self.tried.append(new)
        return self.parent


@pytest.mark.parametrize(
    ("parent", "goes_back"),
    [
        (GateResult(), True),
        (GateResult((Objection("title", "a title without any text", ""),)), False),
        (GateResult(unchecked="a check takes 36 judgements"), False),
    ],
)
def test_a_rubric_that_no_longer_holds_is_rolled_back_to_one_that_does(
    tmp_path: Path, parent: GateResult, goes_back: bool
) -> None:
    run = RunDir.create(tmp_path / "run", Config(), {})
    versions = [
        Rubric(criteria=(Criterion(id=name, description="d", levels=("a", "b")),)) for name in ("one", "two")
    ]
    for number, each in enumerate(versions):
        run.publish(RubricVersion(number, number - 1 if number else None, 5 * number, "m", each))
    gate = StubGate(SimpleNamespace(left=0, cost=CallCost()), parent)

    async def verdicts(samples: Any, *_: Any, **__: Any) -> list[Verdict]:
        return [Verdict(0.5, "h") for _ in samples]

    gate.gate_judge.verdicts = verdicts
    session: Any = SimpleNamespace(
        run=run,
        gate=gate,
        config=Config(),
        meta=None,
        gate_judge=gate.gate_judge,
        context=SimpleNamespace(sample_of=None),
        state=SimpleNamespace(version=run.version(1), anchor=()),
    )
    now = RunSnapshot(10, run.version(1), [], [], 0, {}, [], [5])
    row = asyncio.run(meta_step(session, now))
    assert gate.tried == [versions[0]]
    assert row["recheck"]["objections"] == [
        {"id": "varied", "text": "recent answers are not told apart", "complaint": ""}
    ]
    if goes_back:
        assert (row["kind"], row["status"], row["author"]) == ("rollback", "accepted", "rollback to v0")
        assert Rubric.model_validate(row["rubric"]) == versions[0]
        # What was gone back from is not gone back to, nor is the same content tried again.
        append_rows(run.lineage, [row | {"batch": 10, "version": 2}])
        run.publish(RubricVersion(2, 1, 10, row["author"], versions[0]))
        gate.tried.clear()
        again = asyncio.run(meta_step(session, RunSnapshot(20, run.version(2), [], [], 0, {}, [], [10])))
        assert (again["kind"], gate.tried) == ("meta", [])
    else:
        assert (row["kind"], row["status"]) == ("meta", "failed")


def test_a_late_measure_of_the_probes_undoes_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are measured for people to look at; the accepted rubric was paid for and stands."""

    async def step(*_: Any) -> dict[str, Any]:
        return {"status": "accepted"}

    async def never(*_: Any) -> dict[str, Any]:
        await asyncio.sleep(60)
        return {"n": 1}

    monkeypatch.setattr("mpo_lite.loop.meta_step._step", step)
    monkeypatch.setattr("mpo_lite.loop.meta_step._probes_by_first", never)
    session: Any = SimpleNamespace(config=Config(meta_timeout=0.05))
    rubric = Rubric(criteria=(Criterion(id="a", description="d", levels=("no", "yes")),))
    now = RunSnapshot(10, RubricVersion(0, None, 0, "m", rubric), [], [], 0, {}, [], [])
    row = asyncio.run(meta_step(session, now))
    assert row == {"status": "accepted", "frozen": {}, "probes": {}}


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"judge_mode": "pointwise"},
        {"judge_mode": "groupwise"},
        {"judge_mode": "planned"},
        {"judge": ["openai/m", "openai/n"]},
    ],
)
def test_a_second_judgement_measures_the_rubric(
    open_session: Callable[..., Session], options: dict[str, Any], refuses: bool
) -> None:
    """A judge that is unsure says one thing at temperature 0, always, and either of two where it samples.

    One that refuses a temperature, as reasoning models do, samples always.
    """
    seen: Counter[str] = Counter()

    def fault(kind: str, body: Any) -> Any:
        if refuses and "temperature" in body:
            return error(400, "Unsupported value: 'temperature' does not support 0.")()
        if kind not in ("judge", "group"):
            return json.dumps({"solution": "", "plan": "Look."}) if kind == "plan" else None
        text = f"{body['model']}{prompt_text(body)}"
        seen[text] += body.get("temperature", 1.0) > 0
        verdict = {"discourse": {"reason": "It may be.", "level": 1 + seen[text] % 2}}
        names = [f"answer_{n}" for n in range(1, 5)] if kind == "group" else []
        return json.dumps(dict.fromkeys(names, verdict) if names else verdict)

    samples = [Sample("prompt", f"answer {n}") for n in range(4)]
    with LLMServer(fault) as server:
        session = open_session(server, **options)
        rubric = session.rubric
        assert len(rubric.criteria) == 1  # of which no order could be changed
        first = event_loop.wait(session.judge.verdicts(samples, rubric))
        again = event_loop.wait(session.gate_judge.verdicts(samples, rubric, 0, "again"))
        asked = len(server.requests)
        assert event_loop.wait(session.gate_judge.verdicts(samples, rubric, 0, "again")) == again
        assert len(server.requests) == asked
    rollouts = [
        Rollout(1, row, sample.prompt, sample.completion, verdict, 0, verdict.reward)
        for row, (sample, verdict) in enumerate(zip(samples, first, strict=True))
    ]
    repeats = {one.id: again[one.row] for one in rollouts}
    stats = criterion_stats(rubric, rollouts, repeats)
    top = len(rubric.criteria[0].levels) - 1
    assert stats["discourse"].noise == pytest.approx(1 / top)
    assert find_unsure(rollouts, repeats) == [one.id for one in rollouts]
