"""What ``train``, ``resume`` and ``quickstart`` share: run a prepared session, show it, say how it ended."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpo_lite.cli.progress import Display
from mpo_lite.config import Config, Model
from mpo_lite.errors import ConfigError
from mpo_lite.llm.models import SANDBOX
from mpo_lite.runs import Run, read_rows
from mpo_lite.tasks.hub import go_offline_without_hub
from mpo_lite.training.estimate import estimate
from mpo_lite.training.session import Session

if TYPE_CHECKING:
    from mpo_lite.training.trainer import Outcome

LAST = 3
"""Evaluations, or batches, that an ``end`` figure is the mean of."""
SIMULATED = "judge and meta-judge are simulated: no evidence about real ones"

FLAGS = (
    "judge", "meta", "judge_api_base", "meta_api_base", "judge_fallback", "judge_mode", "replicates",
    "policy", "task", "data", "rubric", "steps", "group_size", "interval", "meta_samples", "mode", "schedule",
    "strategy", "prescreen", "publish_after", "baseline", "run_dir", "seed", "max_usd", "max_calls",
    "max_tokens", "max_judge_failures", "concurrency", "cache_dir",
)  # fmt: skip
"""Fields with a flag of their own; the others are set by ``-o``, ``MPO_*`` or YAML."""


def run_job(
    config: Config,
    run: Run | None = None,
    as_json: bool = False,
    after: Callable[[Run], object] = lambda run: None,
) -> dict[str, Any]:
    """Trains, or goes on training, and prints how it went.

    Args:
        config: What to run.
        run: An existing run to continue; None begins a new one.
        as_json: Whether the summary is printed as one JSON line instead of text.
        after: Called with the run once it has ended well, before the summary is printed.

    Returns:
        The summary, as ``--json`` prints it.

    Raises:
        MPOError: What stopped the run; its state is saved and the way to go on was printed.
    """
    with sandboxed(config) as served:
        display = Display(config.steps, sys.stderr if as_json else sys.stdout)
        session = Session(served, display)
        try:
            run, outcome = _train(session, config, run, display)
            display.close()
            if outcome.stop:
                click.echo(f"saved; go on with: mpo-lite resume {run.path}", err=True)
            else:
                after(run)
            summary = summarise(run, config, session, outcome.seconds)
            click.echo(json.dumps(summary) if as_json else _closing_line(summary))
            if outcome.stop:
                raise outcome.stop
            return summary
        finally:
            display.close()
            session.close()


def _train(session: Session, config: Config, run: Run | None, display: Display) -> tuple[Run, Outcome]:
    """Checks what can be checked, then loads torch and trains."""
    expected = estimate(session)["total"]
    tokens = [sum(pair) for pair in zip(expected["input_tokens"], expected["output_tokens"], strict=True)]
    usd = expected["usd"]
    cost = "unpriced" if usd is None else f"${usd[0]:.2f} to ${usd[1]:.2f}"
    display(
        "note",
        {
            "text": "estimated: {:,} to {:,} calls, {:.2g} to {:.2g} million tokens, {} "
            "(mpo-lite estimate says how)".format(
                *expected["calls"], *(count / 1e6 for count in tokens), cost
            )
        },
    )
    for role, which in session.models.all:
        display("note", {"text": f"{role}: {which.model}{f' at {which.api_base}' if which.api_base else ''}"})
    session.models.check(session.check_interrupt)
    if SANDBOX in config.model_names:
        display("note", {"text": SIMULATED})
    display("note", {"text": f"loading the policy {config.policy}"})
    if not Path(session.config.policy).exists():
        go_offline_without_hub()
    # Loads torch: only now that nothing else can be wrong.
    from mpo_lite.training import trainer
    from mpo_lite.training.mpo import open_run

    trainer.check_policy(session.config)
    trainer.check_settings(session)
    fresh = run is None
    run = run or open_run(config, "train")
    session.attach(run)
    run.remove_torn_checkpoints()
    checkpoint = run.last_checkpoint()
    display(
        "note", {"text": f"run directory: {run.path}" + (f", from {checkpoint.name}" if checkpoint else "")}
    )
    try:
        return run, trainer.train(session, checkpoint)
    except ConfigError:
        if fresh:
            run.withdraw()
        raise


def summarise(run: Run, config: Config, session: Session, seconds: float) -> dict[str, Any]:
    """The figures of a run so far.

    ``start`` is the first value, ``end`` the mean of the last three; None where there is none. Rewards of
    different rubric versions are not comparable. ``usd`` is None where a price is unknown.
    """
    metrics = read_rows(run.metrics)
    rewards = [row["reward"] for row in metrics if row["reward"] is not None]
    gold = [row["gold"] for row in read_rows(run.gold)]
    return {
        "run": str(run.path),
        "seed": config.seed,
        "steps": len(metrics),
        "rubric_version": session.version.number,
        "reward": _span(rewards),
        "gold": {**_span(gold), "min": min(gold)} if gold else None,
        **session.models.spend(),
        "judge_failures": sum(row["judge_failures"] for row in metrics),
        "seconds": round(seconds, 1),
        "simulated_judge": SANDBOX in config.model_names,
    }


def _closing_line(summary: dict[str, Any]) -> str:
    """The summary for a person."""
    reward, gold = summary["reward"]["end"], summary["gold"]
    usd = "an unknown sum (unpriced)" if summary["usd"] is None else f"${summary['usd']:.4f}"
    if summary["unmetered"]:
        usd += f" at most ({summary['unmetered']} unmetered)"
    parts = [
        f"{summary['steps']} batches in {summary['seconds']:.0f} s, rubric v{summary['rubric_version']}",
        "no reward" if reward is None else f"reward {reward:.3f}",
        *([f"gold {gold['start']:.3f} → {gold['end']:.3f}"] if gold else []),
        "{judge_calls} judge, {gate_calls} gate and {meta_calls} meta calls".format(**summary)
        + f" for {usd}",
        f"{summary['judge_failures']} failed, {summary['cache_hits']} from the cache",
    ]
    return ", ".join(parts)


def _span(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"start": None, "end": None}
    return {"start": values[0], "end": statistics.fmean(values[-LAST:])}


@contextmanager
def sandboxed(config: Config) -> Generator[Config]:
    """Fills in what the name ``sandbox`` stands for: the shipped policy, and a local server in a judge's
    place.
    """
    changes: dict[str, Any] = {}
    if config.policy == SANDBOX:
        # Read when torch is imported; on several threads a model this small is many times slower.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        from mpo_lite.sandbox.data import policy_dir

        changes["policy"] = str(policy_dir())
    if SANDBOX not in config.model_names:
        yield config.model_copy(update=changes)
        return
    from mpo_lite.sandbox.judge_server import running

    with running(seed=config.seed) as url:
        yield config.model_copy(update=changes | _served(config, url))


def _served(config: Config, url: str) -> dict[str, Any]:
    """The models of the configuration, the simulated ones at ``url``."""

    def at(model: Model | None) -> Model | None:
        return model.model_copy(update={"api_base": url}) if model and model.model == SANDBOX else model

    return {
        "judge": tuple(at(model) for model in config.judge),
        "judge_fallback": at(config.judge_fallback),
        "meta_api_base": url if config.meta == SANDBOX else config.meta_api_base,
    }
