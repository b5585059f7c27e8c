"""A real policy answers, outside training: eval and compare, and first trainings of one's own task."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from mpo_lite.config_sources import load_config
from mpo_lite.jsonl import read_rows
from mpo_lite.sandbox.data import policy_dir
from mpo_lite.sandbox.judge_server import running
from tests.support.llm_server import LLMServer
from tests.support.scoring import prefers_longer, refused, served, told, write


def say(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(list(arguments))
    return capsys.readouterr().out


TINY = ["--baseline", "iter0", "--policy", "sandbox", "--steps", "1", "-o", "batch_prompts=2"]
TINY += ["-o", "group_size=2", "-o", "micro_batch=4", "-o", "max_new_tokens=8", "--json"]


def trained(tmp_path: Path, *flags: str) -> None:
    main(["train", *flags, "--run-dir", str(tmp_path / "run"), *TINY])


def test_eval_says_where_gold_could_not_be_measured(tmp_path: Path, capsys: Any) -> None:
    """A verifier that breaks down over an answer gives it no gold; the answers are kept."""
    task, out = tmp_path / "task", tmp_path / "out.jsonl"
    task.mkdir()
    write(task / "data.jsonl", [{"prompt": f"write about day {n}"} for n in range(40)])
    settings = {"name": "t", "description": "Answers.", "persona": "You judge.", "purpose": "Good answers."}
    data = {"source": "data.jsonl", "prompt": "prompt", "held_out": 8}
    (task / "task.yaml").write_text(json.dumps({**settings, "data": data, "gold": "breaks:gold"}))
    (task / "breaks.py").write_text(
        "from mpo_lite.tasks.symbolic import NotCompared\n\ndef gold(text, row):\n    raise NotCompared\n"
    )
    arguments = ["--task", str(task), "-n", "4", "--max-new-tokens", "4", "--out", str(out)]
    message = refused(capsys, "eval", str(policy_dir()), *arguments)
    assert "no gold for 4 of 4 answers, because the verifier crashed" in message
    assert [row["gold"] for row in read_rows(out)] == [None] * 4


def test_eval_measures_a_run_and_a_model(tmp_path: Path, capsys: Any) -> None:
    cache = ["--cache-dir", str(tmp_path / "cache")]
    trained(tmp_path, "--judge", "sandbox", "--task", "sandbox", *cache)
    gold = told(capsys)["gold"]["end"]
    main(["eval", str(tmp_path / "run"), "--json"])
    of_run = told(capsys)
    assert of_run["gold"] == pytest.approx(read_rows(tmp_path / "run" / "gold.jsonl")[-1]["gold"])
    assert of_run["lo"] <= of_run["gold"] <= of_run["hi"] and of_run["n"] == 72 and gold is not None
    answers = tmp_path / "answers.jsonl"
    main(["eval", str(policy_dir()), "--task", "sandbox", "--n", "8", "--out", str(answers), "--json"])
    of_model, rows = told(capsys), read_rows(answers)
    assert of_model["n"] == 8 == len(rows)
    assert of_model["gold"] == pytest.approx(sum(row["gold"] for row in rows) / 8)
    assert f"gold {of_model['gold']:.3f}" in say(
        capsys, "eval", str(policy_dir()), "--task", "sandbox", "-n", "8"
    )


def test_models_are_compared_on_held_out_prompts(tmp_path: Path, capsys: Any) -> None:
    answers = write(
        tmp_path / "other.jsonl",
        [{"prompt": f"write a short essay about {topic} .", "response": "no"} for topic in ("dogs", "trees")],
    )
    with running(seed=0) as url, LLMServer(prefers_longer) as server:
        flags = served(server, tmp_path)
        main(["compare", str(policy_dir()), str(answers), "--task", "sandbox", *flags, "--out",
              str(tmp_path / "out"), "--json"])  # fmt: skip
        assert url
    summary = told(capsys)
    assert summary["matches"] == 4 and next(iter(summary["ratings"])) == policy_dir().name


def test_models_are_compared_on_a_column_of_other_data(tmp_path: Path, capsys: Any) -> None:
    data = write(
        tmp_path / "asked.jsonl", [{"question": f"write about {topic} ."} for topic in ("dogs", "tea")]
    )
    other = tmp_path / "other"
    shutil.copytree(policy_dir(), other)
    with LLMServer(prefers_longer) as server:
        asks = ["--data", str(data), "--prompt-column", "question", "--max-new-tokens", "8"]
        out = ["--out", str(tmp_path / "out"), "--json"]
        main(["compare", str(policy_dir()), str(other), *asks, *served(server, tmp_path), *out])
        asked = server.prompts("match")
    assert told(capsys)["matches"] == 4
    assert asked and all("write about" in text for text in asked)


def test_a_first_task_of_ones_own_trains_as_it_is_written(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "mine"
    main(["init", str(folder)])
    experiment = folder / "experiment.yaml"
    assert f"mpo-lite train {experiment}" in capsys.readouterr().out
    first, *_ = experiment.read_text(encoding="utf-8").splitlines()
    assert first == "# yaml-language-server: $schema=mpo-lite.schema.json"
    schema = json.loads((folder / "mpo-lite.schema.json").read_text(encoding="utf-8"))
    settings = load_config(experiment, {}, environ={})
    assert settings.task == str(folder) and settings.max_usd == 5 and "max_usd" in schema["properties"]
    assert len(read_rows(folder / "prompts.jsonl")) == 20
    main(["tasks", str(folder)])
    assert "bedtime: Short bedtime stories" in capsys.readouterr().out
    cache = ["--cache-dir", str(tmp_path / "cache")]
    trained(tmp_path, "--task", str(folder), "--judge", "sandbox", *cache)
    assert told(capsys)["steps"] == 1
    assert "is not empty" in refused(capsys, "init", str(folder))


def test_a_goal_in_a_sentence_is_a_task(tmp_path: Path, capsys: Any) -> None:
    data = write(tmp_path / "data.jsonl", [{"prompt": f"a story about {n}"} for n in range(12)])
    goal = "Vivid bedtime stories for five-year-olds, under 200 words"
    with LLMServer() as server:
        trained(tmp_path, "--goal", goal, "--data", str(data), *served(server, tmp_path))
        assert all(goal in text for text in server.prompts("judge"))
    assert told(capsys)["steps"] == 1
    assert goal in (tmp_path / "run" / "rubrics" / "v000.yaml").read_text()
    assert "pass prompts with --data" in refused(
        capsys, "estimate", "--goal", goal, "--judge", "gpt-4o", "--meta", "claude"
    )
