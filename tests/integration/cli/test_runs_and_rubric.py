"""Looking at runs and their rubrics from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from mpo_lite.config import Config
from mpo_lite.jsonl import journal, write_atomically
from mpo_lite.llm.ledger import CallRecord, Ledger
from mpo_lite.rubric import Criterion, Rubric
from mpo_lite.run_dir import RubricVersion, RunDir
from tests.support.made_run import ENVIRONMENT, made_run


def criterion(name: str, description: str) -> Criterion:
    return Criterion(id=name, description=description, levels=("no [b]", "yes"))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run of three batches with two rubric versions and a refused proposal."""
    run = RunDir.create(tmp_path / "runs" / "one", Config(judge="m", steps=5), ENVIRONMENT)
    kept, old, new = criterion("kept", "Same."), criterion("moved", "Before."), criterion("moved", "After.")
    run.publish(
        RubricVersion(0, None, 0, "task essay", Rubric(criteria=(kept, old, criterion("gone", "Was."))))
    )
    run.publish(RubricVersion(1, 0, 2, "claude", Rubric(criteria=(kept, new), guidelines="Be strict.")))
    step = {
        "kind": "meta",
        "began": 1,
        "parent": 0,
        "author": "claude",
        "added": [],
        "changed": ["moved"],
        "dropped": ["gone"],
        "reason": "a title pays",
    }
    rubric = run.version(1).rubric.model_dump(mode="json")
    journal(run.lineage, [step | {"batch": 1, "version": 0, "status": "refused", "rubric": None}])
    journal(run.lineage, [step | {"batch": 2, "version": 1, "status": "accepted", "rubric": rubric}])
    spend = {"judge_calls": 8, "usd": 0.5, "judge_failures": 0}
    journal(run.metrics, [{"batch": n, "version": int(n > 2), "reward": 0.5, **spend} for n in (1, 2, 3)])
    samples = [{"prompt": "p", "completion": "c", "gold": 0.5}]
    journal(run.gold, [{"batch": n, "gold": gold, "samples": samples} for n, gold in ((0, 0.25), (3, 0.75))])
    ledger = Ledger()
    ledger.attach(run.ledger())
    for usd in (0.25, 0.2339):  # the last call came after the last batch's figures
        ledger.record(CallRecord(0.0, "judge", "m", "ok", 1.0, 10, 5, usd))
    return run


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    main([str(each) for each in arguments])
    return capsys.readouterr().out


def test_the_history_of_a_rubric_is_listed(run: RunDir, capsys: Any) -> None:
    lines = said(capsys, "rubric", "list", run.path).splitlines()
    assert lines[0] == "v0  before batch 1, from task essay"
    assert lines[1] == "–   after batch 1: v0 unchanged (a title pays)"
    assert lines[2] == "v1  after batch 2, by claude: changed moved; dropped gone"
    said(capsys, "rubric", "pin", run.path, "0")
    assert said(capsys, "rubric", "list", run.path).splitlines()[-1] == "pinned: v0"


def test_versions_are_shown_and_set_side_by_side(run: RunDir, capsys: Any) -> None:
    assert "description: After." in said(capsys, "rubric", "show", run.path)
    assert "description: Before." in said(capsys, "rubric", "show", run.path, "0")
    table = said(capsys, "rubric", "diff", run.path)
    lines = table.splitlines()
    assert "v0" in lines[1] and "v1" in lines[1]
    row = next(line for line in lines if "Before." in line)
    assert row.index("Before.") < row.index("After.")
    assert "0 no [b]" in table and "Be strict." in table and "Was." in table
    with pytest.raises(SystemExit) as stopped:
        main(["rubric", "diff", str(run.path), "0", "7"])
    assert stopped.value.code == 2 and "has no rubric v7; it has v0 to v1" in capsys.readouterr().err


def test_runs_are_listed_with_state_and_figures(run: RunDir, capsys: Any) -> None:
    folder = run.path.parent
    damaged = RunDir.create(folder / "two", Config(judge="m"), ENVIRONMENT)
    write_atomically(damaged.path / "config.yaml", "stepps: 3\n")
    found = json.loads(said(capsys, "runs", folder, "--json"))["runs"]
    assert [one["name"] for one in found] == ["one", "two"]
    first = {"name": "one", "state": "stopped", "step": 3, "steps": 5, "rubric_version": 1}
    first |= {"reward": {"version": 1, "start": 0.5, "end": 0.5}, "usd": 0.4839}
    assert found[0] == first | {"gold": {"start": 0.25, "end": 0.5, "min": 0.25}}
    assert found[1]["state"].startswith("unreadable: ")
    run.lock()
    table = said(capsys, "runs", folder)
    run.unlock()
    assert "training" in table and "3/5" in table and "0.250→0.500" in table and "$0.4839" in table
    assert "no runs in" in said(capsys, "runs", folder / "none")


def test_a_run_is_listed_whole_whatever_it_is_called(tmp_path: Path, capsys: Any) -> None:
    names = ["quickstart-20250428-101500", "[red]one[", "[link=x]\x1b]0;title\x07", "犬" * 20]
    folder = tmp_path / "["  # so that paths hold "[/", which ends a style in rich's markup
    for name in names:
        RunDir.create(folder / name, Config(judge="m"), ENVIRONMENT)
    RunDir.create(folder / "]damaged", Config(judge="m"), ENVIRONMENT).config_file.write_text("[/")
    lines = said(capsys, "runs", folder).splitlines()
    assert len(lines) == len(names) + 2 and "\x1b" not in "".join(lines)
    assert any(line.startswith("[red]one[ ") for line in lines)
    assert lines[-1].startswith("]damaged  unreadable: ") and "not valid YAML" in lines[-1]


def test_a_run_is_a_line_of_eighty_columns(tmp_path: Path, capsys: Any) -> None:
    run = made_run(tmp_path / "quickstart-20250428-101500", batches=80, prompts=1, group=1)
    run.lock()
    heading, line = said(capsys, "runs", tmp_path).splitlines()
    assert "training" in line and len(line) == len(heading) <= 80


def test_pinning_says_what_it_does(run: RunDir, capsys: Any) -> None:
    path = run.path
    assert "no version is pinned; nothing to release" in said(capsys, "rubric", "pin", path, "--release")
    told = said(capsys, "rubric", "pin", path, "0")
    assert f"pinned v0: kept, moved, gone; in effect once the run is resumed: mpo-lite resume {path}" in told
    told = said(capsys, "rubric", "pin", path, "--release")
    assert "released: the rubric stays as it is, since this run has no meta steps" in told
    run.lock()
    assert "in effect from the next batch on" in said(capsys, "rubric", "pin", path, "1")
    run.unlock()
    spend = {"reward": 0.5, "judge_failures": 0, "version": 1}
    journal(run.metrics, [{"batch": n, **spend} for n in (4, 5)])
    assert "the run is finished, so this has no effect" in said(capsys, "rubric", "pin", path, "0")
    assert "the run is finished, so this has no effect" in said(capsys, "rubric", "pin", path, "--release")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["7"], "has no rubric v7; it has only v0"), ([], "give a VERSION or --release")],
)
def test_pin_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rubric: Rubric, arguments: list[str], message: str
) -> None:
    run = RunDir.create(tmp_path / "run", Config(), {})
    run.publish(RubricVersion(0, None, 0, "task", rubric))
    with pytest.raises(SystemExit, match="2"):
        main(["rubric", "pin", str(run.path), *arguments])
    assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["rubric", "pin", str(tmp_path / "nowhere"), "0"])
