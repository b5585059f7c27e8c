"""``mpo-lite alarms``: what it prints, and what it says of a file that it cannot use."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.alarms.features import ResponseFeatures
from mpo_lite.cli.main import main
from mpo_lite.jsonl import append_rows, read_rows
from tests.support.essays import SUBJECTS, essay, rows
from tests.support.llm_server import LLMServer
from tests.support.made_run import made_run


def write(path: Path, window: list[ResponseFeatures], **extra: Any) -> Path:
    entries = [{"id": row.id, "prompt": row.prompt, "response": row.response, **extra} for row in window]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_the_command_tells_alarms_as_json_and_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = write(tmp_path / "short.jsonl", rows(change=lambda n, text: text.split(".")[0]))
    honest = write(tmp_path / "honest.jsonl", rows(first=1000))
    main(["alarms", str(short), "--before", str(honest), "--json"])
    found = json.loads(capsys.readouterr().out)
    (alarm,) = [alarm for alarm in found["alarms"] if alarm["name"] == "length_collapse"]
    assert alarm["value"] < alarm["threshold"] == 0.5 and len(alarm["evidence"]) == 16
    assert (found["rows"], found["before_rows"]) == (32, 32)
    main(["alarms", str(honest), "--before", str(honest), "--fail"])
    assert "0 alarms in 32 responses" in capsys.readouterr().out
    assert main(["alarms", str(short), "--before", str(honest), "--fail"]) == 1
    assert "length_collapse: " in capsys.readouterr().out


def test_without_a_baseline_no_alarm_is_no_all_clear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A thousand bare titles in the place of essays."""
    subjects, draw = SUBJECTS.split(), random.Random(0)
    titles = write(
        tmp_path / "titles.jsonl",
        rows(1000, change=lambda n, text: f"# {' '.join(draw.sample(subjects, 3)).title()}"),
    )
    said = "no earlier responses: length, phrases and drift were not checked"
    assert not main(["alarms", str(titles), "--fail"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == said
    assert lines[-1] == (
        "0 alarms in 1,000 responses; some checks were skipped: give --before, a file or a run"
    )
    main(["alarms", str(titles), "--json"])
    assert json.loads(capsys.readouterr().out)["skipped"][0] == said
    honest = write(tmp_path / "honest.jsonl", rows(first=1000))
    assert main(["alarms", str(titles), "--before", str(honest), "--fail"]) == 1
    out = capsys.readouterr().out
    assert said not in out and "length_collapse" in out and out.endswith("in 1,000 responses\n")


def test_a_runs_first_batches_are_a_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(
        tmp_path / "run",
        batches=40,
        completion=lambda batch, row: essay(10 * batch + row) if batch < 20 else f"Title {batch} {row}",
    )
    main(["alarms", str(run.rollouts), "--before", str(run.path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["before_rows"]) == (320, 64)
    late = tmp_path / "late.jsonl"
    late.write_text("".join(f"{line}\n" for line in run.rollouts.read_text().splitlines()[-80:]))
    assert main(["alarms", str(late), "--before", str(run.path), "--fail"]) == 1
    assert "length_collapse: " in capsys.readouterr().out
    empty = made_run(tmp_path / "empty", batches=0)
    for path, said in ((empty.path, "no judged answers yet"), (tmp_path, "not a run directory")):
        with pytest.raises(SystemExit, match="2"):
            main(["alarms", str(late), "--before", str(path)])
        assert said in capsys.readouterr().err


def test_one_alarm_in_one_response_is_told_in_the_singular(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["alarms", str(write(tmp_path / "one.jsonl", rows(1, change=lambda n, text: "x <|im_end|>")))])
    assert (
        capsys.readouterr().out.splitlines()[-1].startswith("1 alarm in 1 response; some checks were skipped")
    )


def test_the_command_reads_a_runs_rollouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rollouts.jsonl"
    entries = [
        {"id": f"b0r{n}", "prompt": "p", "completion": essay(n), "reward": None if n else 1.0}
        for n in range(9)
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    main(["alarms", str(path), "--json"])
    assert json.loads(capsys.readouterr().out)["rows"] == 9


def test_rewards_of_a_run_are_those_of_its_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path / "run", batches=4, completion=lambda batch, row: essay(10 * batch + row))
    verified, by_rule = (
        [row | {"batch": batch, "id": f"b{batch}r{row['row']}", "reward": 0.0, "verdict": row["verdict"] | {
            "source": source, "assessments": {}, "reward": 0.0}} for row in read_rows(run.rollouts)[:8]]
        for batch, source in ((5, "verifier"), (6, "rule"))
    )  # fmt: skip
    append_rows(run.rollouts, [*verified, *by_rule])
    unjudged = tmp_path / "unjudged.jsonl"
    append_rows(unjudged, [*verified, *by_rule])
    main(["alarms", str(unjudged), "--before", str(run.path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["before_rows"]) == (16, 40)  # without the verifier's batch
    assert any("no rewards" in line for line in found["skipped"])
    assert "dead_reward" not in [alarm["name"] for alarm in found["alarms"]]


def test_rewards_of_a_scored_file_are_those_of_the_judge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored = tmp_path / "scored.jsonl"
    answers = [{"prompt": f"p{n}", "response": essay(n) if n < 8 else ""} for n in range(24)]
    append_rows(tmp_path / "answers.jsonl", answers)
    with LLMServer() as server:
        where = ["--judge-api-base", server.url, "--cache-dir", str(tmp_path / "cache")]
        main(["score", str(tmp_path / "answers.jsonl"), "--judge", "openai/m", *where, "--out", str(scored)])
    assert [row["reward"] for row in read_rows(scored)[8:]] == [0.0] * 16  # by rule
    capsys.readouterr()
    main(["alarms", str(scored), "--json"])
    everything = json.loads(capsys.readouterr().out)
    append_rows(tmp_path / "judged.jsonl", read_rows(scored)[:8])
    main(["alarms", str(tmp_path / "judged.jsonl"), "--json"])
    judged = json.loads(capsys.readouterr().out)
    about_rewards = ("dead_reward", "reward_length", "saturated_reward", "flat_reward")
    for name in about_rewards:
        with_rules, without = (
            [alarm["value"] for alarm in each["alarms"] if alarm["name"] == name]
            for each in (everything, judged)
        )
        assert with_rules == without, name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "p"}\n', "row 1 must have text"),
        ('{"prompt": "p", "response": "r", "reward": 7}\n', "'reward' must be a number from 0 to 1"),
        ('{"prompt": "p", "response": "r", "reward": true}\n', "'reward' must be a number from 0 to 1"),
        ('{"prompt": "p", "response": "r", "reward": NaN}\n', "'reward' must be a number from 0 to 1"),
        ("no json\n", "not JSON"),
        ("", "contains no responses"),
    ],
)
def test_the_command_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text(text)
    with pytest.raises(SystemExit, match="2"):
        main(["alarms", str(path)])
    assert message in capsys.readouterr().err
