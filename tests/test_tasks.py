"""The built-in tasks: each trains on rows of its data set's shape; verifier, rules, columns."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from llm_server import LLMServer

from mpo_lite.cli.main import main
from mpo_lite.config import Config
from mpo_lite.errors import TaskError
from mpo_lite.jsonl import read_rows
from mpo_lite.prompts import prompts_dir
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.data import prompts as sandbox_prompts
from mpo_lite.tasks.data import load_prompts, map_columns
from mpo_lite.tasks.rules import rule_results, rule_verdict
from mpo_lite.tasks.spec import DataSource, Rules, load_task, task_of

# As the hub's data sets have them.
ROWS: dict[str, Any] = {
    "essay": lambda n: {"prompt": f"Write about dogs, part {n}."},
    "summarization": lambda n: {
        "text": f"A bill to fund dogs of kind {n}.", "summary": "Funds dogs.", "title": "Dogs"
    },
    "ethics": lambda n: {
        "text": f"I took dog {n}. AITA?", "binarized_label": "WRONG", "label": "AUTHOR"
    },
    "math": lambda n: {
        "problem": f"What is {n}+1?", "level": "Level 1", "type": ("Algebra", "Geometry")[n % 2],
        "solution": rf"It is $\boxed{{{n + 1}}}$.",
    },
    "qa": lambda n: {
        "id": str(n), "title": "Dogs", "context": f"There are {n} dogs.", "question": "How many?",
        "answers": {"text": [str(n)], "answer_start": [10]},
    },
}  # fmt: skip


def names() -> list[str]:
    return sorted(path.parent.name for path in (prompts_dir() / "tasks").glob("*/task.yaml"))


def data(tmp_path: Path, task: str, count: int = 24) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(ROWS[task](n)) + "\n" for n in range(count)))
    return path


def train(tmp_path: Path, server: LLMServer, task: str, *flags: str, **settings: Any) -> RunDir:
    options = {
        "steps": 4, "interval": 2, "meta_samples": 2, "batch_prompts": 2, "group_size": 4, "micro_batch": 8,
        "max_new_tokens": 8, "mode": "paper", "schedule": "interval", "strategy": "samples", "eval_every": 4,
    }  # fmt: skip
    given = [part for key, value in (options | settings).items() for part in ("-o", f"{key}={value}")]
    models = ["--judge", "openai/j", "--judge-api-base", server.url, "--meta", "openai/m"]
    places = ["--run-dir", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache")]
    source = ["--task", task, "--data", str(data(tmp_path, Path(task).name)), "--policy", "sandbox"]
    main(["train", *source, *models, "--meta-api-base", server.url, *places, *given, *flags, "--json"])
    return RunDir(tmp_path / "run")


def test_the_papers_tasks_are_there() -> None:
    assert {"essay", "summarization", "ethics", "math", "qa"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_a_built_in_task_is_whole(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    task = load_task(name)
    assert task.rubric.criteria and len(task.expert_rubric.criteria) >= 3
    assert task.policy_messages("do it")[-1]["content"].count("do it") == 1
    assert (task.gold_metric() is None) == (name == "essay")
    main(["tasks", name])
    assert task.description in capsys.readouterr().out


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
    assert verified == {batch for batch, heads in enumerate(coin) if heads} and 0 < len(verified) < 6
    for row in rows:
        if row["batch"] in verified:
            assert row["verdict"]["reward"] in (0, 1) and row["verdict"]["judge"] == ""
    for step in read_rows(run.lineage):
        assert not any(int(one[1:].split("r")[0]) in verified for one in step["samples"])
    assert judged <= 8 * (6 - len(verified))
    metrics = read_rows(run.metrics)
    assert [row["batch"] - 1 for row in metrics if not row["judge"]] == sorted(verified)


def test_rules_tell_which_of_them_an_answer_keeps() -> None:
    rules = Rules(min_words=3, must_match=r"<verdict>\w+</verdict>")
    assert rule_results("one two <verdict>RIGHT</verdict>", rules) == {"min_words": True, "must_match": True}
    assert rule_results("RIGHT", rules) == {"min_words": False, "must_match": False}
    assert rule_verdict("one two three four", "h", rules).reward == 0  # pyright: ignore
    assert rule_verdict("one two <verdict>RIGHT</verdict>", "h", rules) is None


def test_columns_are_mapped_and_missing_ones_named() -> None:
    source = DataSource(prompt="$context\n\nQuestion: $question", reference="answers.text", cluster="title")
    row = map_columns([ROWS["qa"](3)], source, "f")[0]
    assert row["prompt"] == "There are 3 dogs.\n\nQuestion: How many?"
    assert (row["reference"], row["cluster"]) == (["3"], "Dogs")
    with pytest.raises(TaskError, match=r"f: row 2 has no column 'question'; available: context"):
        map_columns([ROWS["qa"](3), {"context": "c"}], source, "f")
    with pytest.raises(TaskError, match=r"has no column 'answers.texts'"):
        map_columns([ROWS["qa"](3)], source.model_copy(update={"reference": "answers.texts"}), "f")


def test_real_problems_are_read_with_solutions_and_subjects() -> None:
    folder = os.environ.get("MPO_TEST_DATA")
    if not folder:
        pytest.skip("MPO_TEST_DATA is unset")
    config = Config(task="math", data=str(Path(folder) / "math_train.jsonl"))
    prompts = load_prompts(task_of(config).data)
    assert len(prompts.train) + len(prompts.held_out) >= 690
    assert len({prompts.cluster(prompt) for prompt in prompts.train}) == 7
    assert all("boxed" in prompts.row(prompt)["reference"] for prompt in prompts.held_out)


def written(path: Path, *prompts: str) -> str:
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return str(path)


def test_prompts_are_held_out_where_something_uses_them(tmp_path: Path) -> None:
    twenty = written(tmp_path / "twenty.jsonl", *(f"p{n}" for n in range(20)))

    def held_out(source: DataSource) -> int:
        prompts = load_prompts(source)
        assert len(prompts.train) + len(prompts.held_out) == 20
        assert not set(prompts.train) & set(prompts.held_out)
        return len(prompts.held_out)

    assert [held_out(DataSource(source=twenty, held_out=count)) for count in (None, 0, 18)] == [4, 0, 18]
    for count in (19, 40):
        with pytest.raises(TaskError, match=rf"held_out {count} of 20 distinct prompts leaves fewer than 2"):
            load_prompts(DataSource(source=twenty, held_out=count))
    # A task says whether prompts are needed beside those trained on; of other data it is a fifth at most.
    for names, expected in (({"goal": "x"}, 0), ({"task": "essay"}, 4), ({"task": "math"}, 4)):
        given = Config.model_validate({"data": twenty, "prompt_column": "prompt"} | names)
        data = task_of(given).data
        assert held_out(data.model_copy(update={"reference": None, "cluster": None})) == expected


def test_held_out_prompts_may_be_a_file_of_their_own(tmp_path: Path) -> None:
    written(tmp_path / "train.jsonl", "b", "a", "c", "a")
    written(tmp_path / "others.jsonl", "e", "d")
    told = {"name": "t", "description": "d", "purpose": "p", "persona": "q"}
    source = {"source": "train.jsonl", "held_out_source": "others.jsonl"}
    (tmp_path / "task.yaml").write_text(json.dumps(told | {"data": source}))
    prompts = load_prompts(load_task(str(tmp_path)).data)
    assert (prompts.train, prompts.held_out) == (("b", "a", "c"), ("e", "d"))
    written(tmp_path / "others.jsonl", "e", "a")
    with pytest.raises(TaskError, match=r"others.jsonl: 1 prompt also in .*train.jsonl"):
        load_prompts(load_task(str(tmp_path)).data)


def test_the_sandboxs_prompts_are_those_it_makes() -> None:
    prompts = load_prompts(load_task("sandbox").data)
    made = {split: tuple(row["prompt"] for row in sandbox_prompts(split)) for split in ("train", "held_out")}
    assert {"train": prompts.train, "held_out": prompts.held_out} == made


def test_flags_say_where_prompts_are(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"q": f"q{n}", "title": "T"}) + "\n" for n in range(6)))
    given = {"data": "me/other", "prompt_column": "$title: $q", "data_subset": "main", "data_split": "test"}
    data = task_of(Config.model_validate({"task": "qa", "goal": None} | given)).data
    assert (data.subset, data.split, data.prompt) == ("main", "test", "$title: $q")
    assert (
        "T: q0"
        in load_prompts(task_of(Config(goal="x", data=str(path), prompt_column="$title: $q")).data).train
    )
    # The task's own subset and split do not hold for other data.
    own = load_task("essay").data.model_copy(update={"split": "validation"})
    assert own.split == "validation" and task_of(Config(task="essay", data="me/other")).data.split == "train"


def test_a_hub_out_of_reach_is_said_in_our_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    flags = ["--judge", "openai/m", "--baseline", "iter0", "--cache-dir", str(tmp_path / "cache")]
    for more in (
        ["--data", "me/prompts"],
        ["--data", written(tmp_path / "p.jsonl", *"abc"), "--policy", "me/p"],
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["train", *flags, *more, "--run-dir", str(tmp_path / "run")])
        said = capsys.readouterr().err.splitlines()[-1]
        assert "from the hub (127.0.0.1 cannot be reached and there is no local copy" in said.lower()
        assert "--policy DIR" in said and "HF_HUB_OFFLINE" not in said
    assert "HF_HUB_OFFLINE" not in os.environ
