"""What is kept of a meta step: probes and answers to fixed prompts, whole or taken anew."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mpo_lite.config import Config, Thresholds
from mpo_lite.jsonl import append_rows, journal, read_rows
from mpo_lite.judge.base import Sample
from mpo_lite.loop.schedule import Evolution
from mpo_lite.loop.session import Session
from mpo_lite.run_dir import Run
from tests.support.made_run import ENVIRONMENT


def test_probes_are_taken_once(tmp_path: Path) -> None:
    """Weights move on: a step that is done again after a kill works on the answers it had."""
    from mpo_lite.loop.schedule import Evolution

    run = Run.create(tmp_path / "run", Config(), {})
    anchor = tuple(Sample(f"p{n}", "a") for n in range(6))
    session: Any = SimpleNamespace(run=run, config=Config(meta_samples=4), anchor=anchor)
    evolution = Evolution(session)
    first = evolution._probes(lambda asked: [f"now {text}" for text in asked], 10)
    assert len({one.prompt for one in first}) == 6
    assert all(one.completion == f"now {one.prompt}" for one in first)
    assert evolution._probes(lambda asked: ["other"] * len(asked), 10) == first
    append_rows(run.probes, [])
    assert evolution._probes(lambda asked: ["other"] * len(asked), 20)[0].completion == "other"


def test_answers_to_fixed_prompts_that_a_kill_cut_short_are_taken_anew(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", Config(judge="m"), ENVIRONMENT)
    prompts = tuple(f"prompt {n}" for n in range(6))
    session: Any = SimpleNamespace(
        run=run,
        config=Config(judge="m", gate=Thresholds(prompts=6)),
        prompts=SimpleNamespace(train=prompts),
        sample=lambda prompt, completion: Sample(prompt, completion),
        **dict.fromkeys(("meta", "examiner", "task"), "any"),
    )
    asked: list[str] = []

    def answer(prompts: Sequence[str]) -> list[str]:
        asked.extend(prompts)
        return [f"to {prompt}" for prompt in prompts]

    evolution = Evolution(session)
    looks: tuple[tuple[Path, Callable[[], Any]], ...] = (
        (run.anchor, lambda: Session.take_anchor(session, answer) or session.anchor),
        (run.probes, lambda: evolution._probes(answer, 2)),
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
