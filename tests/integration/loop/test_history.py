"""The past of a run, as its files tell it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mpo_lite.jsonl import journal
from mpo_lite.loop.history import run_history
from mpo_lite.run_dir import RunDir
from tests.support.made_run import CHANGE, made_run


def history(run: RunDir, batch: int, version: int = 1) -> str:
    session: Any = SimpleNamespace(run=run, state=SimpleNamespace(version=run.version(version)))
    return run_history(session, batch)


def test_a_run_shows_its_versions_with_rewards_alarms_and_margins(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", batches=12, said="It pays for titles")
    shown = history(run, 12)
    first, second, refused, *_ = shown.split("\n\n")
    assert first.startswith("v0, the first rubric. In batches 1 to 4 the mean reward went from 0.3")
    assert "Alarms: phrase_drift (It pays for titles)." in first
    assert "added reasons, example; dropped flow" in second and "In batches 5 to 12" in second
    assert "smallest margin below honest answers: 0.40 (title)" in second
    assert refused.startswith(f"Refused after batch {CHANGE}: ") and "It pays for titles" in refused


def test_a_step_that_is_done_again_after_a_kill_shows_the_same(tmp_path: Path) -> None:
    """Its calls come from the cache only if it asks the same."""
    whole = made_run(tmp_path / "whole", batches=12)
    early = made_run(tmp_path / "early", batches=8)
    assert history(whole, 8) == history(early, 8) != history(whole, 12)


def test_batches_that_the_verifier_scored_are_left_out(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", batches=6)
    before = history(run, 7)
    verified = run.rows(run.metrics)[-1] | {"batch": 7, "reward": 1.0, "judge": ""}
    journal(run.metrics, [verified])
    assert history(run, 7) == before
