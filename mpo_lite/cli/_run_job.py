"""What ``train``, ``resume`` and ``quickstart`` share: train, show progress, print a summary."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mpo_lite.activity import activity
from mpo_lite.cli._display import Display
from mpo_lite.cli.judging import format_spend
from mpo_lite.cli.status import Status
from mpo_lite.cli.terminal import echo
from mpo_lite.config import Config
from mpo_lite.errors import MPOError
from mpo_lite.loop.distributed import is_main, shutdown
from mpo_lite.report.figures import compute_figures, describe_failures
from mpo_lite.run_dir import RunDir
from mpo_lite.sanitize import pluralize
from mpo_lite.training.job import resume_command, train


def run_job(
    config: Config, run: RunDir | None = None, checkpoint: Path | None = None, as_json: bool = False
) -> dict[str, Any]:
    """Trains, or continues training, and prints a summary.

    Args:
        config: What to run.
        run: An existing run to continue; None starts a new one.
        checkpoint: Where the existing run continues; None from its first batch.
        as_json: Whether the summary is printed as one JSON line instead of text.

    Returns:
        The summary, as ``--json`` prints it.

    Raises:
        MPOError: What stopped the run. Its state is saved, and the command that continues it was printed.
    """
    with Status(sys.stderr if as_json else sys.stdout) as status:
        display = Display(config.steps, status)
        try:
            result = train(config, display, run, checkpoint)
        finally:
            display.close()
        summary = {
            **compute_figures(result.run, config),
            **result.spend,
            "rubric_version": result.version,
            "seconds": round(result.seconds, 1),
        }
        if is_main():
            report = _write_report(result.run)
            if result.stop:
                echo(f"saved; resume with: {resume_command(result.run, result.stop)}", stderr=True)
            _print_summary(summary, report, as_json)
        shutdown()
    if result.stop:
        raise result.stop
    return summary


def print_complete(run: RunDir, config: Config, as_json: bool) -> None:
    """Prints the summary of a run that has no batch left to train. No model is loaded or called."""
    summary = {**compute_figures(run, config), "seconds": 0.0}
    report = _write_report(run)
    resume = f"mpo-lite resume {run.path} --steps {2 * config.steps}"
    done = f"complete: all {pluralize(config.steps, 'batch', 'batches')} are done"
    echo(f"{done}; to train longer: {resume}", stderr=True)
    _print_summary(summary, report, as_json)


def _print_summary(summary: dict[str, Any], report: Path | None, as_json: bool) -> None:
    echo(json.dumps(summary) if as_json else _format_summary(summary))
    if report and not as_json:
        echo(f"report: {report}")


def _write_report(run: RunDir) -> Path | None:
    """Writes the run's report. Where that fails the run still counts as done, so the error is only shown."""
    from mpo_lite.report.page import write_report

    try:
        with activity("writing the report"):
            return write_report(run)
    except MPOError as error:
        echo(f"could not write the report ({error}); try again: mpo-lite report {run.path}", stderr=True)
        return None


def _format_summary(summary: dict[str, Any]) -> str:
    """The summary in one line."""
    reward, gold = summary["reward"]["end"], summary["gold"]
    parts = [
        f"{pluralize(summary['steps'], 'batch', 'batches')} in {summary['seconds']:.0f} s",
        f"rubric v{summary['rubric_version']}",
        "no reward" if reward is None else f"reward {reward:.3f}",
        *([f"gold {gold['start']:.3f} → {gold['end']:.3f}"] if gold else []),
        "{judge_calls} judge, {gate_calls} gate and {meta_calls} meta calls".format(**summary),
        *([f"{summary['audit_calls']} audit calls"] if summary["audit_calls"] else []),
        f"spend {format_spend(summary['usd'], summary['unmetered'])}",
        f"{pluralize(summary['cache_hits'], 'answer')} from the cache",
    ]
    line = ", ".join(parts)
    if summary["judge_failures"]:
        line += f"; {describe_failures(summary['judge_failures'], summary['rows'], summary['failures'])}"
    return line
