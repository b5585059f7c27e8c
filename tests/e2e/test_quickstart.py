"""The sandbox from end to end. Its judge is simulated: this shows the mechanism, not how real judges fare."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mpo_lite.cli.main import main
from mpo_lite.cli.quickstart import print_outcome
from mpo_lite.jsonl import append_rows, read_rows
from mpo_lite.rubric import Criterion, Rubric
from mpo_lite.run_dir import RubricVersion, RunDir

SEED = 123


def quickstart(tmp_path: Path, name: str, *flags: str) -> "subprocess.Popen[str]":
    places = ["--run-dir", str(tmp_path / name), "--cache-dir", str(tmp_path / f"{name}-cache")]
    command = [sys.executable, "-m", "mpo_lite", "quickstart", "--seed", str(SEED), *places, *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)


def test_the_frozen_rubric_is_hacked_and_the_evolving_one_brings_gold_back(tmp_path: Path) -> None:
    running = [
        quickstart(tmp_path, "frozen", "--baseline", "iter0", "--json"),
        quickstart(tmp_path, "evolving", "--json"),
    ]
    outputs = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs[0][1] + outputs[1][1]
    frozen, evolving = (json.loads(output.splitlines()[-1]) for output, _ in outputs)
    assert frozen["gold"]["end"] < frozen["gold"]["start"] / 2
    assert evolving["gold"]["end"] >= evolving["gold"]["start"] == frozen["gold"]["start"]
    assert (frozen["rubric_version"], evolving["judge_failures"]) == (0, 0)
    assert evolving["simulated"] == ["judge", "meta-judge"]
    assert evolving["rubric_version"] > 1
    wanted = "run seed steps rubric_version reward gold judge_calls cache_hits judge_failures usd seconds"
    assert set(wanted.split()) <= set(evolving)
    run = RunDir(tmp_path / "evolving")
    told = {
        name: (tmp_path / name / "report.html").read_text(encoding="utf-8") for name in ("evolving", "frozen")
    }
    assert "Gold rose" in told["evolving"] and "Gold has recovered" in told["evolving"]
    assert "Gold fell while the reward rose" in told["frozen"] and "This is reward hacking" in told["frozen"]
    # Of a hack that nobody has answered an alarm stands, in red.
    assert re.search(r"✗</td><th scope=.row.>No active alarm at the end</th>", told["frozen"])
    assert "not answered by any meta step" in told["frozen"]
    assert all("judge and meta-judge are simulated: no evidence" in page for page in told.values())
    assert read_rows(run.gold)[0]["n"] >= 64
    # Up to the first meta step the two arms are one: the same answers, earning the same.
    first = read_rows(run.lineage)[0]["batch"] * 64
    early = [read_rows(run.rollouts)[:first], read_rows(RunDir(tmp_path / "frozen").rollouts)[:first]]
    assert early[0] == early[1] != []
    # Whatever the gate judges is counted apart, and within its share.
    assert 0 < evolving["gate_calls"] <= 0.2 * evolving["judge_calls"]


def test_evaluating_changes_nothing_in_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = []
    for every in (1, 99):
        names = ("judge", "task", "policy")
        run = tmp_path / f"every-{every}"
        sandboxed = [part for name in names for part in (f"--{name}", "sandbox")]
        small = ["--steps", "3", "--group-size", "4", "-o", "batch_prompts=4", "-o", "micro_batch=16"]
        places = ["--run-dir", str(run), "--cache-dir", str(tmp_path / "cache")]
        often = ["-o", f"eval_every={every}"]
        main(["train", *sandboxed, "--baseline", "iter0", *small, *often, *places, "--json"])
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 3
        weights.append((run / "checkpoints" / "checkpoint-3" / "adapter_model.safetensors").read_bytes())
        assert len(read_rows(RunDir(run).gold)) == (4 if every == 1 else 2)
    assert weights[0] == weights[1]


def test_a_quickstart_tells_its_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it prints at its end: rubrics, one prompt over time, the figures, the picture."""
    run = RunDir(tmp_path)
    (tmp_path / "rubrics").mkdir()
    vague = Criterion(id="flow", description="How it flows.", levels=("a", "b"))
    sound = Criterion(id="reasons", description="Reasons given.", levels=("a", "b"))
    run.publish(RubricVersion(0, None, 0, "task", Rubric(criteria=(vague,))))
    run.publish(RubricVersion(1, 0, 10, "m", Rubric(criteria=(sound,))))
    for batch, gold in ((0, 0.5), (5, 0.1), (10, 0.8)):
        sample = {"prompt": "write about dogs", "completion": f"answer {batch}", "gold": gold}
        append_rows(run.gold, [{"batch": batch, "gold": gold, "n": 1, "samples": [sample]}])
    rows = [{"batch": n, "version": 0, "reward": 0.5, "judge_failures": 0} for n in range(1, 11)]
    append_rows(run.metrics, [row | {"alarms": ["phrase_drift"] * (row["batch"] > 8)} for row in rows])
    summary = {"run": str(tmp_path), "rubric_version": 1, "reward": {"version": 1, "start": 0.7, "end": 0.9}}
    summary["simulated"] = ["judge", "meta-judge"]
    print_outcome(summary | {"gold": {"start": 0.5, "min": 0.1, "end": 0.8}})
    told = capsys.readouterr().out
    for part in (
        "How it flows.",
        "Reasons given.",
        "answer 0",
        "answer 5",
        "answer 10",
        "report.html",
        "simulated",
        "reward  start 0.700, end 0.900, both under v1",
        "alarms  phrase drift since batch 9, not answered by any meta step",
    ):
        assert part in told
    frozen = {**summary, "rubric_version": 0, "gold": {"start": 0.5, "min": 0.1, "end": 0.8}}
    run.metrics.unlink()
    print_outcome(frozen)
    told = capsys.readouterr().out
    assert "alarms  none at the end" in told


def test_a_quickstart_takes_the_last_rubric_of_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["quickstart", "--baseline", "oracle", "--run-dir", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert (
        "--baseline oracle: name the run whose last rubric it is to be: --rubric RUN"
        in capsys.readouterr().err
    )
    with pytest.raises(SystemExit) as stopped:
        main(["quickstart", "--baseline", "oracle", "--rubric", str(tmp_path / "no.yaml")])
    assert stopped.value.code == 2 and "no.yaml" in capsys.readouterr().err
