"""What is kept of a meta step: probes and answers to fixed prompts, whole or taken anew."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mpo_lite.alarms.alarms import Alarm
from mpo_lite.config_sources import load_config
from mpo_lite.errors import RunError
from mpo_lite.jsonl import append_rows, journal, read_rows
from mpo_lite.loop.context import prepare_run
from mpo_lite.loop.schedule import MetaScheduler
from mpo_lite.loop.session import Session
from mpo_lite.run_dir import RunDir
from tests.support.made_run import ENVIRONMENT


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A run with a meta-judge; nobody is asked anything."""
    given: dict[str, Any] = {"judge": "openai/m", "meta": "openai/n", "task": "sandbox", "policy": "sandbox"}
    given |= dict.fromkeys(("judge_api_base", "meta_api_base"), "http://127.0.0.1:9/v1")
    given |= {"cache_dir": tmp_path / "cache", "meta_samples": 4, "gate": {"prompts": 6}}
    config = load_config(given=given, environ={})
    session = Session(prepare_run(config), RunDir.create(tmp_path / "run", config, ENVIRONMENT))
    yield session
    session.close()


def test_probes_are_taken_once(session: Session) -> None:
    """Weights move on: a step that is done again after a kill works on the answers it had."""
    session.record_anchor(lambda asked: ["An answer."] * len(asked))
    scheduler = MetaScheduler(session)
    first = scheduler._probes(lambda asked: [f"now {text}" for text in asked], 10)
    assert len({sample.prompt for sample in first}) == 6
    assert all(sample.completion == f"now {sample.prompt}" for sample in first)
    assert scheduler._probes(lambda asked: ["other"] * len(asked), 10) == first
    append_rows(session.run.probes, [])
    assert scheduler._probes(lambda asked: ["other"] * len(asked), 20)[0].completion == "other"


def test_answers_to_fixed_prompts_that_a_kill_cut_short_are_taken_anew(session: Session) -> None:
    asked: list[str] = []

    def answer(prompts: Sequence[str]) -> list[str]:
        asked.extend(prompts)
        return [f"to {prompt}" for prompt in prompts]

    def anchor() -> Any:
        session.record_anchor(answer)
        return session.state.anchor

    scheduler, run = MetaScheduler(session), session.run
    looks: tuple[tuple[Path, Callable[[], Any]], ...] = (
        (run.anchor, anchor),
        (run.probes, lambda: scheduler._probes(answer, 2)),
    )
    for path, look in looks:
        whole = look()
        assert len(whole) == len(read_rows(path)) == 6
        rows = read_rows(path)
        path.unlink()
        journal(path, rows[:2])
        assert look() == whole
        asked.clear()
        assert look() == whole and not asked


def test_phrases_that_no_step_has_dealt_with_start_an_early_one(session: Session) -> None:
    def drift(*phrases: str) -> dict[str, Alarm]:
        return {"phrase_drift": Alarm("phrase_drift", 3.0, 2.0, (), "…", phrases)}

    scheduler, cooldown = MetaScheduler(session), session.config.cooldown
    scheduler._window.raised = drift("as we saw", "excellent")
    session.state.batch = cooldown
    assert scheduler._is_due()
    row = {"kind": "meta", "began": cooldown, "status": "unchanged", "reason": "", "refused": []}
    looked_at = {"alarms": ["phrase_drift"], "alarm_signs": ["as we saw", "excellent"]}
    scheduler._settle(row | looked_at | {"frozen": {}})
    resumed = MetaScheduler(session)
    resumed.restore(scheduler.state(), cooldown, [])
    for each in (scheduler, resumed):
        for phrases, due in ((("as we saw", "excellent"), False), (("as we saw", "so"), False)):
            each._window.raised = drift(*phrases)
            session.state.batch = 2 * cooldown
            assert each._is_due() is due
        each._window.raised = drift("indeed", "so")
        assert each._is_due()
        session.state.batch = 2 * cooldown - 1  # not before the cool-down is over
        assert not each._is_due()


def test_a_run_that_cannot_be_opened_is_free_again(session: Session) -> None:
    session.close()
    session.run.trials.write_text("no row\n")
    context = prepare_run(session.config)
    try:
        with pytest.raises(RunError, match=r"trials.jsonl:1: not JSON"):
            Session(context, RunDir(session.run.path))
        assert not RunDir(session.run.path).locked()
    finally:
        context.close()
