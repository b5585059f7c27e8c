"""The built-in tasks train: each on rows of its data set's shape."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.cli.main import main
from mpo_lite.jsonl import read_rows
from mpo_lite.prompts import prompts_dir
from mpo_lite.report.figures import compute_figures
from mpo_lite.run_dir import RunDir
from mpo_lite.tasks.spec import load_task
from tests.support.llm_server import LLMServer
from tests.support.task_rows import ROWS


def data(tmp_path: Path, task: str, count: int = 24) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(ROWS[task](n)) + "\n" for n in range(count)))
    return path


def train(tmp_path: Path, server: LLMServer, task: str, *flags: str, **settings: Any) -> RunDir:
    options = {
        "steps": 4, "interval": 2, "meta_samples": 2, "batch_prompts": 2, "group_size": 4, "micro_batch": 8,
        "max_new_tokens": 8, "use_gate": False, "schedule": "interval", "strategy": "samples",
        "eval_every": 4,
    }  # fmt: skip
    given = [part for key, value in (options | settings).items() for part in ("-o", f"{key}={value}")]
    models = ["--judge", "openai/j", "--judge-api-base", server.url, "--meta", "openai/m"]
    places = ["--run-dir", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache")]
    source = ["--task", task, "--data", str(data(tmp_path, Path(task).name)), "--policy", "sandbox"]
    main(["train", *source, *models, "--meta-api-base", server.url, *places, *given, *flags, "--json"])
    return RunDir(tmp_path / "run")


@pytest.mark.parametrize("name", ROWS)
def test_each_task_trains_on_rows_of_its_data_sets_shape(name: str, tmp_path: Path, copied: Any) -> None:
    with LLMServer() as server:
        run = train(tmp_path, server, copied(name))
    rollouts, gold = read_rows(run.rollouts), read_rows(run.gold)
    assert len(rollouts) == 4 * 8 and len(read_rows(run.lineage)) == 1
    task = load_task(name)
    assert bool(gold) == (task.gold is not None)
    if name == "math":
        assert {row["cluster"] for row in rollouts} == {"Algebra", "Geometry"}
        assert {row["verdict"]["source"] for row in rollouts} == {"judge", "verifier"}


@pytest.fixture
def copied(tmp_path: Path) -> Any:
    """Copies of tasks whose rules the tiny policy's answers, of eight tokens, can keep."""

    def copy(name: str) -> str:
        source, folder = prompts_dir() / "tasks" / name, tmp_path / name
        folder.mkdir()
        for path in source.iterdir():
            text = path.read_text()
            if path.name == "task.yaml":
                lines = [line for line in text.splitlines() if "must_match" not in line]
                text = "\n".join(line.replace("min_words: 30", "min_words: 1") for line in lines)
            (folder / path.name).write_text(text)
        return str(folder)

    return copy


def test_verified_batches_ask_no_judge_and_stay_out_of_the_meta_step(tmp_path: Path, copied: Any) -> None:
    with LLMServer() as server:
        run = train(tmp_path, server, copied("math"), steps=6, interval=3)
        judged = len(server.prompts("judge")) + len(server.prompts("planned"))
    rows = read_rows(run.rollouts)
    verified = {row["batch"] for row in rows if row["verdict"]["source"] == "verifier"}
    coin = [random.Random(f"coin-0-{batch}").random() < 0.5 for batch in range(6)]
    assert verified == {batch for batch, heads in enumerate(coin, start=1) if heads} and 0 < len(verified) < 6
    for row in rows:
        if row["batch"] in verified:
            assert row["verdict"]["reward"] in (0, 1) and row["verdict"]["judge"] == ""
    for step in read_rows(run.lineage):
        assert not any(int(one[1:].split("r")[0]) in verified for one in step["samples"])
    assert judged <= 8 * (6 - len(verified))
    metrics = read_rows(run.metrics)
    assert [row["batch"] for row in metrics if not row["judge"]] == sorted(verified)
    assert all(row["spread"] is None and row["reward"] is not None for row in metrics if not row["judge"])
    assert any(row["spread"] is not None for row in metrics)
    judged_rewards = [row["reward"] for row in metrics if row["judge"] and row["reward"] is not None]
    _, config = RunDir.open(run.path, {})
    assert compute_figures(run, config)["reward"]["start"] in judged_rewards
