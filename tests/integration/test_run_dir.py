import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.checkpoints import (
    complete_checkpoint,
    discard_after,
    last_checkpoint,
    read_state,
    resumable_checkpoint,
)
from mpo_lite.config import Config
from mpo_lite.errors import ConfigError, RunError
from mpo_lite.jsonl import journal, read_rows
from mpo_lite.rubric import Rubric, dump_rubric, load_rubric
from mpo_lite.run_dir import RubricVersion, RunDir
from mpo_lite.types import Assessment, Rollout, Verdict
from tests.support.made_run import ENVIRONMENT


def rollout(batch: int, row: int, reward: float | None = 0.5) -> Rollout:
    verdict = Verdict(reward, "hash", {"a": Assessment("because", 1)}, failure=None if reward else "parse")
    return Rollout(batch, row, "prompt", f"text \x1f ü {batch}.{row}", verdict, 0, reward)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run", Config(judge="j"), {"python": "3"})


def test_a_run_is_never_written_over(run: RunDir) -> None:
    with pytest.raises(ConfigError, match="mpo-lite resume"):
        RunDir.create(run.path, Config(), {})
    assert RunDir.open(run.path, {"max_calls": 7})[1] == Config(judge="j", max_calls=7)


def test_a_run_goes_on_by_its_own_first_rubric(run: RunDir, rubric: Rubric) -> None:
    run.publish(RubricVersion(0, None, 0, "my_rubric.yaml", rubric))
    config = RunDir.open(run.path, {})[1]
    assert config.rubric and load_rubric(config.rubric) == rubric


def test_a_run_of_another_format_is_refused_with_a_sentence(run: RunDir) -> None:
    path = run.path / "env.json"
    assert json.loads(path.read_text())["schema"] == 1
    for schema in (None, 0, 2):
        path.write_text(json.dumps(ENVIRONMENT if schema is None else {**ENVIRONMENT, "schema": schema}))
        said = f"written in run format {schema or 0}, and this version reads format 1; read it with"
        with pytest.raises(RunError, match=said):
            RunDir.open(run.path, {})


def test_two_processes_never_write_one_run(run: RunDir) -> None:
    run.lock()
    with pytest.raises(ConfigError, match="another process is training this run"):
        RunDir(run.path).lock()
    run.unlock()
    RunDir(run.path).lock()


def test_a_run_that_never_began_leaves_its_folder_free(run: RunDir, rubric: Rubric) -> None:
    run.publish(RubricVersion(0, None, 0, "task", rubric))
    run.withdraw()
    assert not run.exists()
    RunDir.create(run.path, Config(), ENVIRONMENT | {"begun_by": "library"})
    assert run.begun_by == "library"


def test_a_rubric_version_that_is_gone_or_edited_is_named(run: RunDir, rubric: Rubric) -> None:
    with pytest.raises(RunError, match=r"v003.yaml: missing; restore it from a copy"):
        run.version(3)
    path = run.path / "rubrics" / "v001.yaml"
    path.write_text(dump_rubric(rubric))
    with pytest.raises(RunError, match=r"v001.yaml: damaged"):
        run.version(1)
    run.publish(RubricVersion(1, 0, 2, "m", rubric))
    path.write_text(path.read_text().replace("Order of the parts", "Order of the pages"))
    with pytest.raises(RunError, match=r"v001.yaml: changed since it was published; restore it"):
        run.version(1)


def test_opening_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run directory"):
        RunDir.open(tmp_path, {})


def test_versions_read_back_equal(run: RunDir, rubric: Rubric) -> None:
    tricky = rubric.model_copy(update={"guidelines": "# version: 9\n# not a header"})
    for version in (RubricVersion(0, None, 0, "task", rubric), RubricVersion(1, 0, 10, "m", tricky, 1.5)):
        run.publish(version)
        assert run.version(version.number) == version


@given(batches=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), max_size=12))
def test_the_journal_gives_the_newest_record_of_each_row_in_order(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[int, int]]
) -> None:
    run = RunDir(tmp_path_factory.mktemp("run"))
    for number, (batch, row) in enumerate(batches):
        run.journal([rollout(batch, row, number / 16 or None)])
    newest = {place: number / 16 or None for number, place in enumerate(batches)}
    found = run.read_rollouts()
    assert [(r.batch, r.row) for r in found] == sorted(newest)
    assert all(r == rollout(r.batch, r.row, newest[(r.batch, r.row)]) for r in found)


def test_a_torn_last_line_is_skipped_and_does_not_spoil_the_next(run: RunDir) -> None:
    run.journal([rollout(1, 0), rollout(1, 1)])
    whole = run.rollouts.read_bytes()
    run.rollouts.write_bytes(whole[:-20])
    assert [r.row for r in run.read_rollouts()] == [0]
    run.journal([rollout(1, 1)])
    assert run.rollouts.read_bytes() == whole
    run.rollouts.write_bytes(whole[:-1])  # a whole row that only lacks its end
    run.journal([])
    assert run.rollouts.read_bytes() == whole


def test_rewind_keeps_what_the_checkpoint_knew_and_moves_the_rest(run: RunDir) -> None:
    batches = (2, 4, 6)
    for batch in batches:
        journal(run.metrics, [{"batch": batch, "version": 0, "reward": 0.5, "judge_failures": 0}])
        sample = {"prompt": "p", "completion": "c", "gold": 0.5}
        journal(run.gold, [{"batch": batch, "gold": 0.5, "samples": [sample]}])
        journal(run.lineage, [kept_step(batch)])
    run.journal([rollout(5, 0)])
    run.rewind(4)
    assert [row["batch"] for row in read_rows(run.metrics)] == [2, 4]
    assert [row["batch"] for row in read_rows(run.gold)] == [2, 4]
    # The meta step of a batch comes after the batch's checkpoint.
    assert [row["batch"] for row in read_rows(run.lineage)] == [2]
    assert run.meta_outcomes(4) == {4: kept_step(4), 6: kept_step(6)}
    assert run.read_rollouts() == [rollout(5, 0)]
    assert [row["batch"] for row in read_rows(run.path / "superseded" / "metrics.jsonl")] == [6]


def kept_step(batch: int) -> dict[str, Any]:
    """The row of a step after which the rubric stayed."""
    figures: dict[str, Any] = {"kind": "meta", "began": batch, "batch": batch, "version": 0, "parent": 0}
    changes: dict[str, Any] = {"added": [], "changed": [], "dropped": [], "rubric": None}
    return figures | {"status": "refused", "reason": "no", "author": "m"} | changes


def test_only_a_checkpoint_with_its_manifest_counts(run: RunDir) -> None:
    (run.checkpoints / "checkpoint-best").mkdir()  # a user's own copy: neither ours to use nor to remove
    for number in (9, 10, 11):
        (run.checkpoints / f"checkpoint-{number}").mkdir()
    assert last_checkpoint(run) is None
    for number in (9, 10):
        complete_checkpoint(run, run.checkpoints / f"checkpoint-{number}", {"batch": number, "version": 0})
    last = last_checkpoint(run)
    assert last is not None and (last.name, read_state(last)["batch"]) == ("checkpoint-10", 10)
    discard_after(run, last)
    left = sorted(path.name for path in run.checkpoints.iterdir())
    assert left == ["checkpoint-10", "checkpoint-9", "checkpoint-best"]
    discard_after(run, run.checkpoints / "checkpoint-9")
    left = sorted(path.name for path in run.checkpoints.iterdir())
    assert left == ["checkpoint-9", "checkpoint-best"]
    assert (run.path / "superseded" / "checkpoint-10" / "mpo_state.json").exists()


def test_no_pickle_of_the_trainer_is_kept(run: RunDir) -> None:
    checkpoint = run.checkpoints / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "training_args.bin").write_bytes(b"pickle")
    complete_checkpoint(run, checkpoint, {"batch": 1, "version": 0})
    assert {path.name for path in checkpoint.iterdir()} == {"mpo_state.json", "manifest.json"}


def test_a_run_killed_before_its_first_batch_goes_on_from_the_start(run: RunDir, rubric: Rubric) -> None:
    assert resumable_checkpoint(run, None) is None
    run.publish(RubricVersion(0, None, 0, "task", rubric))
    run.journal([rollout(1, 0)])
    assert resumable_checkpoint(run, None) is None
    (run.path / "rubrics" / "v000.yaml").unlink()
    with pytest.raises(RunError, match=r"v000.yaml: missing; restore it from a copy$"):
        resumable_checkpoint(run, None)


def test_rollout_ids_name_batch_and_row() -> None:
    assert rollout(3, 7).id == "b3r7"
    assert replace(rollout(3, 7), origin="probe").id == "b3p7"
