"""Prompts from files: their columns, their clusters, and what is held out."""

import json
import os
from pathlib import Path

import pytest

from mpo_lite.config import Config
from mpo_lite.errors import TaskError
from mpo_lite.tasks.data import load_prompts
from mpo_lite.tasks.spec import DataSource, load_task, task_of


def test_clusters_are_read_with_the_prompts(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(f'{{"prompt": "p{n}", "subject": "s{n % 3}"}}\n' for n in range(12)))
    prompts = load_prompts(DataSource(source=str(path), cluster="subject"))
    assert all(prompts.cluster(f"p{n}") == f"s{n % 3}" for n in range(12))
    assert load_prompts(DataSource(source=str(path))).cluster("p1") == ""
    path.write_text("".join(f'{{"prompt": "p{n}", "subject": "s{n}"}}\n' for n in range(80)))
    with pytest.raises(TaskError, match="80 clusters in 'subject'"):
        load_prompts(DataSource(source=str(path), cluster="subject"))


@pytest.mark.data
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
