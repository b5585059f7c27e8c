"""The built-in tasks: each trains on rows of its data set's shape; verifier, rules, columns."""

import pytest

from mpo_lite.cli.main import main
from mpo_lite.prompts import prompts_dir
from mpo_lite.tasks.spec import load_task


def names() -> list[str]:
    return sorted(path.parent.name for path in (prompts_dir() / "tasks").glob("*/task.yaml"))


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
