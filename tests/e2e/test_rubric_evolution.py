"""Rubrics that evolve while a tiny policy really trains: gate, alarms, schedule, pins, baselines, resume."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from mpo_lite.jsonl import append_rows, read_rows
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.judge_server import running
from tests.support.llm_server import LLMServer

SETTINGS = {
    "steps": 8,
    "interval": 3,
    "cooldown": 2,
    "group_size": 4,
    "batch_prompts": 4,
    "micro_batch": 16,
    "meta_samples": 4,
    "learning_rate": 2e-3,
    "save_every": 2,
    "eval_every": 99,
    "breaker_pause": 0.0,
    # In so short a run a fifth of the training's calls pays for no check.
    "gate": "{prompts: 6, share: 20}",
}
Train = Callable[..., dict[str, Any]]


@pytest.fixture
def url() -> Iterator[str]:
    with running(seed=0) as address:
        yield address


@pytest.fixture
def train(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> Train:
    """Trains in the sandbox; gives the JSON that ``--json`` prints."""

    def run(*flags: str, name: str = "run", at: str = "", **settings: Any) -> dict[str, Any]:
        options = [part for key, value in (SETTINGS | settings).items() for part in ("-o", f"{key}={value}")]
        models = ["--judge", "openai/sandbox-j", "--judge-api-base", at or url]
        if "--baseline" not in flags or "autoprompt" in flags:
            models += ["--meta", "openai/sandbox-m", "--meta-api-base", at or url]
        places = ["--run-dir", str(tmp_path / name), "--cache-dir", str(tmp_path / f"{name}-cache")]
        sandbox = ["--task", "sandbox", "--policy", "sandbox"]
        main(["train", *sandbox, *models, *places, "--json", *options, *flags])
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def resume(capsys: pytest.CaptureFixture[str], run: Path, *flags: str) -> dict[str, Any]:
    main(["resume", str(run), "--json", *flags])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture
def all_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpo_lite.training.trl_args.KEPT_CHECKPOINTS", 99)


def cut(source: RunDir, target: Path, batch: int, known: bool = False) -> RunDir:
    """A copy of a run as a kill would have left it after ``batch`` batches.

    Args:
        source: A run with all its checkpoints.
        target: Where to copy it.
        batch: Checkpoints after it are gone.
        known: Whether what was journalled after it is still there, as after a kill just before a checkpoint.
    """
    shutil.copytree(source.path, target)
    for checkpoint in (target / "checkpoints").glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > batch:
            shutil.rmtree(checkpoint)
    run = RunDir(target)
    if not known:
        manifest = json.loads((target / f"checkpoints/checkpoint-{batch}/manifest.json").read_text())
        for path in (
            run.rollouts,
            run.probes,
            run.trials,
            run.audits,
            run.audit_pairs,
            run.lineage,
            run.alarms,
            run.metrics,
            run.gold,
        ):
            rows = read_rows(path)[: manifest["rows"].get(path.name, 0)]
            path.unlink(missing_ok=True)
            append_rows(path, rows)
        for path in (target / "rubrics").glob("v*.yaml"):
            if run.version(int(path.stem[1:])).batch >= batch and path.stem != "v000":
                path.unlink()
    return run


def test_a_guarded_run_tries_rubrics_out_and_keeps_account(train: Train, tmp_path: Path) -> None:
    summary = train()
    run = RunDir(tmp_path / "run")
    lineage = read_rows(run.lineage)
    anchor, trials, probes = (read_rows(path) for path in (run.anchor, run.trials, run.probes))
    assert len(anchor) == len({row["prompt"] for row in anchor}) == 6
    assert 0 < summary["gate_calls"] <= len(trials)  # some had been judged in training already
    assert {row["batch"] for row in probes} == {row["began"] for row in lineage}
    assert summary["rubric_version"] >= 1
    for row in lineage:
        assert (row["status"] == "accepted") == (row["rubric"] is not None) == (not row["reason"])
        if row["status"] == "accepted":
            sentinel_margins = [value for name, value in row["gate"].items() if name.startswith("margin")]
            assert (
                len(sentinel_margins) == 6 and min(sentinel_margins) >= 0.2 and row["gate"]["agreement"] >= 0
            )
            assert row["health"] and set(row["frozen"])
            assert row["probes"]["n"] == 6 and 0 <= row["probes"]["now"] <= 1
            assert row["probes"]["before"] == lineage[0]["probes"]["before"]
        assert all(one["reason"] for one in row["refused"])
    # Half of what the meta-judge saw were probes: pairs with the initial policy's answers.
    first = lineage[0]["samples"]
    assert sum("p" in name for name in first) == 2 == len(first) // 2
    version = run.version(1)
    assert (version.parent, version.batch) == (0, lineage[0]["batch"])
    assert {row["alarms"] is not None for row in read_rows(run.metrics)} == {True}
    # Gold is no part of what decides: the run is the same without one.
    assert not any("gold" in json.dumps(row) for row in lineage)


@pytest.mark.usefixtures("all_checkpoints")
@pytest.mark.parametrize(("after", "algorithm"), [(0, "grpo"), (2, "rloo")])
def test_a_killed_run_follows_the_same_rubrics(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], after: int, algorithm: str
) -> None:
    told = train(publish_after=after, save_every=1, prescreen=after > 0, algorithm=algorithm)
    assert told["rubric_version"] >= 1
    whole = RunDir(tmp_path / "run")
    rows = read_rows(whole.lineage)
    accepted = [row for row in rows if row["status"] == "accepted"]
    assert [row["scale"] for row in accepted] == [
        whole.version(number).scale for number in range(1, len(accepted) + 1)
    ]
    assert accepted[0]["scale"] != 1.0  # the anchor was judged by both, and they differ
    assert all(row["batch"] == row["began"] + after for row in rows) and rows
    # Before a step begins, while it runs beside training, and after it.
    for batch in {rows[0]["began"], rows[0]["began"] + 1, rows[0]["batch"] + 1}:
        for known in (False, True):
            other = cut(whole, tmp_path / f"cut-{batch}-{known}", batch, known)
            if not known:  # what the models said is forgotten too
                shutil.rmtree(tmp_path / "run-cache", ignore_errors=True)
            resume(capsys, other.path)
            for kind in ("lineage", "rollouts", "probes", "alarms"):
                found, wanted = read_rows(getattr(other, kind)), read_rows(getattr(whole, kind))
                assert found == wanted, (kind, batch, known)
            adapter = "checkpoints/checkpoint-8/adapter_model.safetensors"
            assert (other.path / adapter).read_bytes() == (whole.path / adapter).read_bytes()
            assert other.latest() == whole.latest()


def test_refusals_keep_the_rubric_and_three_in_a_row_raise_an_alarm(train: Train, tmp_path: Path) -> None:
    def pleased(kind: str, body: Any) -> str | None:
        """A judge that gives the best level of everything, whatever the rubric."""
        if kind != "judge":
            return None
        asked = body["response_format"]["json_schema"]["schema"]["properties"]
        top = {name: max(form["properties"]["level"]["enum"]) for name, form in asked.items()}
        return json.dumps({name: {"reason": "fine", "level": level} for name, level in top.items()})

    with LLMServer(pleased) as server:
        summary = train(at=server.url, interval=2)
        asked_again = server.prompts("revise")
    run = RunDir(tmp_path / "run")
    lineage = read_rows(run.lineage)
    refused = [row for row in lineage if any(each["status"] == "refused" for each in row["refused"])]
    assert len(refused) == len(lineage) >= 3 and summary["rubric_version"] == 0
    assert all(len(row["refused"]) == 2 and row["rubric"] is None for row in lineage)
    assert len(asked_again) == len(lineage)
    # What was paid for, with an example, in every revision; no threshold to write for in any.
    assert all("earned too much, compared with honest answers" in text for text in asked_again)
    assert not any("scored as high as" in text or "or more below" in text for text in asked_again)
    assert all("An example (" in text for text in asked_again)
    assert [row["name"] for row in read_rows(run.alarms)].count("gate_refusals") == 1


def trained_on(gate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[RunDir, str]:
    """A run of 128 planned judge calls, and what it said."""
    options = [
        part for key, value in (SETTINGS | {"gate": gate}).items() for part in ("-o", f"{key}={value}")
    ]
    places = ["--run-dir", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache")]
    names = [part for name in ("judge", "meta", "task", "policy") for part in (f"--{name}", "sandbox")]
    main(["train", *names, *places, *options])
    return RunDir(tmp_path / "run"), capsys.readouterr().out


def test_a_budget_that_covers_no_step_is_a_warning_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = trained_on("{prompts: 6}", tmp_path, capsys)
    before, during = output.split("run directory", 1)
    budget = "the gate's budget (20% of 128 planned judge calls = 25)"
    assert f"warning: no meta step: {budget} does not cover the 106 calls of a step" in before
    assert "-o gate.share=0.83" in before
    assert during.count(f"no meta steps: {budget} does not cover") == 1
    assert not read_rows(run.lineage) and not read_rows(run.trials)


def test_a_short_run_has_the_steps_that_its_whole_budget_covers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = trained_on("{prompts: 6, share: 0.83}", tmp_path, capsys)
    budget = "the gate's budget (83% of 128 planned judge calls = 106)"
    assert f"{budget} covers 1 of 2 planned meta steps, the first after batch 3" in output
    assert output.count(f"no more meta steps: {budget} is spent; raise gate.share") == 1
    rows, trials = read_rows(run.lineage), read_rows(run.trials)
    assert len(rows) == 1 and rows[0]["batch"] <= 3 and len(trials) <= 106
    assert rows[0]["gate"]  # the proposal was tried out; what could be left out was
    assert rows[0]["frozen"] == {} and rows[0]["probes"] == {}


@pytest.mark.usefixtures("all_checkpoints")
def test_a_resumed_run_of_a_short_budget_decides_as_it_did(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Judgements on disk are charged as they were: else there would be more left than there was."""
    train(save_every=1, gate="{prompts: 6, share: 1.1}")
    whole = RunDir(tmp_path / "run")
    rows = read_rows(whole.lineage)
    assert rows
    for batch in {rows[0]["began"] - 1, rows[0]["began"]}:
        for known in (False, True):
            other = cut(whole, tmp_path / f"cut-{batch}-{known}", batch, known)
            if known:  # killed after the trials, before the step was recorded
                other.lineage.unlink()
            resume(capsys, other.path)
            assert read_rows(other.lineage) == rows, (batch, known)


def test_in_paper_mode_nothing_is_judged_besides(train: Train, tmp_path: Path) -> None:
    summary = train("--no-use-gate", "--strategy", "samples", "--schedule", "interval", interval=4)
    run = RunDir(tmp_path / "run")
    assert summary["gate_calls"] == 0 and not run.anchor.exists() and not run.probes.exists()
    (row,) = read_rows(run.lineage)
    assert row["status"] == "accepted" and row["gate"] == {} and row["batch"] == 4


def test_a_late_step_leaves_the_rubric(train: Train, tmp_path: Path) -> None:
    train(meta_timeout=0.001, steps=4)
    (row,) = read_rows(RunDir(tmp_path / "run").lineage)
    assert row["status"] == "failed" and "not done after 0.001 s" in row["reason"]


@pytest.mark.usefixtures("all_checkpoints")
def test_a_pinned_version_is_published_anew_and_stays(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(save_every=1)
    whole = RunDir(tmp_path / "run")
    newest = max(row["version"] for row in read_rows(whole.lineage) if row["batch"] < 5)
    assert newest >= 1
    run = cut(whole, tmp_path / "stopped", 5)
    main(["rubric", "pin", str(run.path), "0"])
    assert "pinned v0: flow" in capsys.readouterr().out
    assert resume(capsys, run.path)["rubric_version"] == newest + 1
    pinned = run.version(newest + 1)
    assert (pinned.parent, pinned.author, pinned.batch) == (newest, "pinned v0", 5)
    assert pinned.rubric == run.version(0).rubric
    assert [row["kind"] for row in read_rows(run.lineage) if row["batch"] >= 5] == ["pin"]
    again = cut(run, tmp_path / "released", 6)
    main(["rubric", "pin", str(again.path), "--release"])
    capsys.readouterr()
    resume(capsys, again.path)
    # The pinned rubric is vague and does not pass: the first step after the release goes back.
    last = read_rows(again.lineage)[-1]
    assert (last["kind"], last["status"], last["parent"]) == ("rollback", "accepted", newest + 1)


def test_baselines_are_trained_on_one_rubric(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"steps": 4, "interval": 2}
    assert train(name="mpo")["rubric_version"] >= 1
    last = RunDir(tmp_path / "mpo").latest().rubric
    with pytest.raises(SystemExit, match="2"):
        train("--baseline", "oracle", name="nothing")
    assert "name the run whose last rubric" in capsys.readouterr().err
    for name, flags in (
        ("expert", []),
        ("oracle", ["--rubric", str(tmp_path / "mpo")]),
        ("iter0", []),
    ):
        summary = train("--baseline", name, *flags, name=name, **few)
        assert (summary["rubric_version"], summary["meta_calls"]) == (0, 0)
    begun = {name: RunDir(tmp_path / name).version(0) for name in ("expert", "oracle", "iter0")}
    assert begun["oracle"].rubric == last
    assert {"style", "reasons"} < {one.id for one in begun["expert"].rubric.criteria}
    assert [one.id for one in begun["iter0"].rubric.criteria] == ["flow"]


@pytest.mark.usefixtures("all_checkpoints")
def test_autoprompt_refines_before_training_and_then_freezes(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = train("--baseline", "autoprompt", steps=4, rounds=2, save_every=1)
    run = RunDir(tmp_path / "run")
    (row,) = read_rows(run.lineage)
    assert (row["kind"], row["batch"], summary["rubric_version"]) == ("refine", 0, 1)
    assert {line["version"] for line in read_rows(run.metrics)} == {1}
    assert len(run.version(1).rubric.criteria) > 1
    stopped = cut(run, tmp_path / "stopped", 2)
    assert resume(capsys, stopped.path)["rubric_version"] == 1
    assert read_rows(stopped.lineage) == [row]


def test_an_audit_measures_the_gap_and_a_killed_run_measures_the_same(
    train: Train, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], all_checkpoints: None
) -> None:
    auditor = f"audit_judge={{model: openai/sandbox-audit, api_base: '{url}'}}"
    summary = train("-o", auditor, audit_share=0.5, save_every=1, steps=7)
    plain = train(name="plain", steps=7)
    run = RunDir(tmp_path / "run")
    rows, metrics, pairs = (read_rows(path) for path in (run.audits, run.metrics, run.audit_pairs))
    # The last batch's audit is under way when the run ends.
    assert [sum(row["batch"] == batch for row in rows) for batch in range(1, 7)] == [8] * 6
    assert summary["audit_calls"] > 0 and plain["audit_calls"] == 0
    assert summary["gate_calls"] == plain["gate_calls"]
    offsets = {number: run.version(number).offset for number in range(run.latest().number + 1)}
    assert offsets[0] == 0 != offsets[1]
    for row in rows:
        assert row["level"] == row["reward"] - offsets[row["version"]]
    gaps = [row["audit_gap"] for row in metrics if row.get("audit_gap") is not None]
    assert len(gaps) == 4  # from the second window of answers on
    assert all(row["audit_low"] <= row["audit_gap"] <= row["audit_high"] for row in metrics[3:])
    assert [sum(row[each] for each in ("better", "worse", "ties", "failed")) for row in pairs] == [6] * len(
        pairs
    )
    assert metrics[-1]["audit_preferred"] is not None
    began = pairs[0]["batch"]
    # Pairs are under way from a step on until the next batch is done.
    for batch, known in ((5, False), (5, True), (began, False), (began, True), (began + 1, False)):
        other = cut(run, tmp_path / f"cut-{batch}-{known}", batch, known)
        if known and batch == began:  # killed while the pairs were under way, with the step on record
            other.audit_pairs.unlink()
        resume(capsys, other.path)
        assert read_rows(other.audits)[:48] == rows[:48]
        again = read_rows(other.metrics)
        for name in ("audit_gap", "audit_preferred", "reward", "alarms"):
            measured = [row.get(name) for row in again]
            assert measured == [row.get(name) for row in metrics], (name, batch, known)


def test_a_failed_audit_stops_no_run_and_is_no_score(train: Train, url: str, tmp_path: Path) -> None:
    def fault(kind: str, body: Any) -> str | None:
        return "no JSON" if kind in ("judge", "repair") else None

    with LLMServer(fault) as server:
        auditor = f"audit_judge={{model: openai/a, api_base: '{server.url}'}}"
        summary = train("-o", auditor, "--baseline", "iter0", audit_share=0.5, steps=3)
    rows = read_rows(tmp_path / "run" / "audits.jsonl")
    assert summary["steps"] == 3 and summary["judge_failures"] == 0 and summary["audit_calls"] > 0
    assert rows and all(row["audit"] is None and row["failure"] == "parse" for row in rows)
