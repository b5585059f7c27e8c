"""What ``train``, ``resume`` and ``quickstart`` share: run a prepared session, show it, say how it ended."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpo_lite.activity import activity
from mpo_lite.checkpoints import discard_after
from mpo_lite.cli._display import Display
from mpo_lite.cli.judging import spend_in_words
from mpo_lite.cli.status import Status
from mpo_lite.cli.terminal import echo
from mpo_lite.config import SANDBOX, Config, Model
from mpo_lite.errors import BudgetReached, ConfigError, MPOError, StopRun
from mpo_lite.loop.distributed import leads, leave, led
from mpo_lite.loop.environment import check_packages
from mpo_lite.loop.estimate import estimate, least_call, paid_for
from mpo_lite.loop.session import Session
from mpo_lite.report.figures import not_judged, run_figures
from mpo_lite.run_dir import Run, check_vacant
from mpo_lite.sanitize import counted
from mpo_lite.wording import simulated_note

if TYPE_CHECKING:
    from mpo_lite.training.train import Outcome


def run_job(
    config: Config, run: Run | None = None, checkpoint: Path | None = None, as_json: bool = False
) -> dict[str, Any]:
    """Trains, or goes on training, and prints how it went.

    Args:
        config: What to run.
        run: An existing run to continue; None begins a new one.
        checkpoint: Where the existing run goes on; None from its first batch.
        as_json: Whether the summary is printed as one JSON line instead of text.

    Returns:
        The summary, as ``--json`` prints it.

    Raises:
        MPOError: What stopped the run; its state is saved and the way to go on was printed.
    """
    folder = config.run_dir
    if run is None and folder:
        led(lambda: check_vacant(folder))
    with sandboxed(config) as served, Status(sys.stderr if as_json else sys.stdout) as status:
        display = Display(config.steps, status)
        session = Session(served, display if leads() else _silent)
        try:
            run, outcome = _train(session, config, run, checkpoint, display)
            display.close()
            summary = {
                **run_figures(run, config),
                **session.spend(),
                "rubric_version": session.version.number,
                "seconds": round(outcome.seconds, 1),
            }
            if leads():
                report = _report(run)
                if outcome.stop:
                    echo(f"saved; go on with: {_resume(run, outcome.stop)}", err=True)
                _tell(summary, report, as_json)
            leave()
            if outcome.stop:
                raise outcome.stop
            return summary
        finally:
            display.close()
            session.close()


def tell_complete(run: Run, config: Config, as_json: bool) -> None:
    """Says how a run went that has no batch left to train; nothing is loaded or asked."""
    summary = {**run_figures(run, config), "seconds": 0.0}
    report = _report(run)
    more = f"mpo-lite resume {run.path} --steps {2 * config.steps}"
    echo(f"complete: all {counted(config.steps, 'batch', 'batches')} are done; for more: {more}", err=True)
    _tell(summary, report, as_json)


def _tell(summary: dict[str, Any], report: Path | None, as_json: bool) -> None:
    echo(json.dumps(summary) if as_json else _closing_line(summary))
    if report and not as_json:
        echo(f"report: {report}")


def _resume(run: Run, stop: StopRun) -> str:
    """The command that goes on with a stopped run, with a higher cap where one stopped it."""
    raised = stop.raised if isinstance(stop, BudgetReached) else ""
    return f"mpo-lite resume {run.path} {raised}".rstrip()


def _report(run: Run) -> Path | None:
    """Writes the run's report; a full disk, or a rubric that somebody damaged, takes no run down with it."""
    from mpo_lite.report.page import write_report

    try:
        with activity("writing the report"):
            return write_report(run)
    except MPOError as error:
        echo(f"no report ({error}); try again: mpo-lite report {run.path}", err=True)
        return None


def _silent(kind: str, row: dict[str, Any]) -> None:
    """What a process shows that does not lead."""


def _train(
    session: Session, config: Config, run: Run | None, checkpoint: Path | None, display: Display
) -> tuple[Run, Outcome]:
    """Checks what can be checked, the cheapest first and all before anything is paid, then trains."""
    resumed = run
    estimated = estimate(session)
    if resumed:
        session.attach(resumed)
        led(lambda: _require_room(session, resumed, least_call(estimated)))
    else:
        _tell_plan(session, estimated)
    for role, which in session.models.all:
        session.note(f"{role}: {which.model}{f' at {which.api_base}' if which.api_base else ''}")
    check_packages(session.config)
    if session.config.log_calls and session.config.log_calls.is_absolute():
        session.models.log_calls(Path())  # at once: a place that cannot be written is told before all else
    with activity("checking the settings"):
        # Loads torch: only now that nothing that is quicker to see can be wrong.
        from mpo_lite.loop.begin import open_run
        from mpo_lite.training import policy, train, trl_args

        train.check_settings(session)
        policy.check_policy(session.config)
        folder = run.path if run else config.run_dir or Path("runs")
        train.check_room(session, folder, 1 if checkpoint else trl_args.KEPT_CHECKPOINTS)
        session.try_metrics()
    session.check_models()
    if config.simulated:
        session.note(simulated_note(config.simulated))
    run = resumed or Run(led(lambda: open_run(config, "train").path))
    if not resumed:
        session.attach(run)
    led(lambda: discard_after(run, checkpoint))
    session.note(f"run directory: {run.path}" + (f", from {checkpoint.name}" if checkpoint else ""))
    session.note(f"loading the policy {config.policy}")
    try:
        with activity("training", config.steps, "batches") as display.training:
            return run, train.train(session, checkpoint)
    except ConfigError:
        if not resumed and leads():
            run.withdraw()
        raise


def _require_room(session: Session, run: Run, least: tuple[float, int]) -> None:
    """Stops a run at once whose caps leave nothing for another call of the judge, in USD and tokens."""
    try:
        session.client.budget.require(*least)
    except BudgetReached as stop:
        raise BudgetReached(f"{stop}: {_resume(run, stop)}", stop.raised) from None


def _tell_plan(session: Session, estimated: dict[str, Any]) -> None:
    """What the run will take, and what becomes of its prompts."""
    total = estimated["total"]
    middle, usd = total["middle"], total["usd"]
    tokens = [sum(pair) for pair in zip(total["input_tokens"], total["output_tokens"], strict=True)]
    about = (middle["input_tokens"] + middle["output_tokens"]) / 1e6
    cost = "unpriced" if usd is None else f"about ${middle['usd']:.2f} (${usd[0]:.2f} to ${usd[1]:.2f})"
    low, high = total["calls"]
    session.note(
        f"estimated: about {middle['calls']:,} calls ({low:,} to {high:,}), {about:.2g} million tokens "
        f"({tokens[0] / 1e6:.2g} to {tokens[1] / 1e6:.2g}), {cost}; mpo-lite estimate says how"
    )
    for line in paid_for(session, estimated):
        session.note(line)
    if summary := estimated["meta_steps"]["summary"]:
        session.note(summary)
    train, held_out = len(session.prompts.train), len(session.prompts.held_out)
    if held_out and not session.task.data.held_out_source:
        use = "for the gold metric" if session.gold else "for mpo-lite compare"
        session.note(f"{held_out} of {counted(train + held_out, 'prompt')} are held out of training, {use}")


def _closing_line(summary: dict[str, Any]) -> str:
    """The summary for a person."""
    reward, gold = summary["reward"]["end"], summary["gold"]
    parts = [
        f"{counted(summary['steps'], 'batch', 'batches')} in {summary['seconds']:.0f} s",
        f"rubric v{summary['rubric_version']}",
        "no reward" if reward is None else f"reward {reward:.3f}",
        *([f"gold {gold['start']:.3f} → {gold['end']:.3f}"] if gold else []),
        "{judge_calls} judge, {gate_calls} gate and {meta_calls} meta calls".format(**summary),
        f"spend {spend_in_words(summary['usd'], summary['unmetered'])}",
        f"{counted(summary['cache_hits'], 'answer')} from the cache",
    ]
    line = ", ".join(parts)
    if summary["judge_failures"]:
        line += f"; {not_judged(summary['judge_failures'], summary['rows'], summary['failures'])}"
    return line


@contextmanager
def sandboxed(config: Config) -> Generator[Config]:
    """Fills in what the name ``sandbox`` stands for: the shipped policy, and a local server in a judge's
    place.
    """
    config = with_sandbox_policy(config)
    if SANDBOX not in config.model_names:
        yield config
        return
    from mpo_lite.sandbox.judge_server import running

    with running(seed=config.seed) as url:
        yield config.model_copy(update=_served(config, url))


def with_sandbox_policy(config: Config) -> Config:
    """The configuration with the shipped policy in place of the name ``sandbox``."""
    if config.policy != SANDBOX:
        return config
    # Read when torch is imported; on several threads a model this small is many times slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from mpo_lite.sandbox.data import policy_dir

    return config.model_copy(update={"policy": str(policy_dir())})


def _served(config: Config, url: str) -> dict[str, Any]:
    """The models of the configuration, the simulated ones at ``url``."""

    def at(model: Model | None) -> Model | None:
        return model.model_copy(update={"api_base": url}) if model and model.model == SANDBOX else model

    return {
        "judge": tuple(at(model) for model in config.judge),
        "judge_fallback": at(config.judge_fallback),
        "meta_api_base": url if config.meta == SANDBOX else config.meta_api_base,
    }
