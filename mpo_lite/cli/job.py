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
from mpo_lite.cli.progress import Display
from mpo_lite.cli.status import Status
from mpo_lite.cli.terminal import echo
from mpo_lite.config import Config, Model
from mpo_lite.errors import ConfigError, MPOError
from mpo_lite.llm.models import SANDBOX
from mpo_lite.report.summary import not_judged, run_figures
from mpo_lite.runs import Run
from mpo_lite.tasks.hub import go_offline_without_hub
from mpo_lite.training.estimate import estimate
from mpo_lite.training.ranks import leads, leave, led
from mpo_lite.training.session import Session

if TYPE_CHECKING:
    from mpo_lite.training.trainer import Outcome

SIMULATED = "judge and meta-judge are simulated: no evidence about real ones"

FLAGS = (
    "judge", "meta", "judge_api_base", "meta_api_base", "judge_fallback", "judge_mode", "replicates",
    "policy", "task", "goal", "data", "rubric", "preset", "algorithm", "steps", "group_size",
    "learning_rate", "beta", "temperature", "num_iterations", "missing_eos_penalty", "lora_r",
    "lora_alpha", "lora_dropout", "lora_target_modules", "load_in_4bit", "gradient_checkpointing",
    "bf16", "use_vllm", "vllm_mode", "vllm_server_base_url", "vllm_gpu_memory_utilization", "overlap",
    "interval", "meta_samples", "mode", "schedule", "strategy", "prescreen", "publish_after",
    "baseline", "run_dir", "report_to", "seed", "max_usd", "max_calls", "max_tokens", "max_judge_failures",
    "concurrency", "cache_dir",
)  # fmt: skip
"""Fields with a flag of their own; the others are set by ``-o``, ``MPO_*`` or YAML."""


def run_job(config: Config, run: Run | None = None, as_json: bool = False) -> dict[str, Any]:
    """Trains, or goes on training, and prints how it went.

    Args:
        config: What to run.
        run: An existing run to continue; None begins a new one.
        as_json: Whether the summary is printed as one JSON line instead of text.

    Returns:
        The summary, as ``--json`` prints it.

    Raises:
        MPOError: What stopped the run; its state is saved and the way to go on was printed.
    """
    with sandboxed(config) as served, Status(sys.stderr if as_json else sys.stdout) as status:
        display = Display(config.steps, status)
        session = Session(served, display if leads() else _silent)
        try:
            run, outcome = _train(session, config, run, display)
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
                    echo(f"saved; go on with: mpo-lite resume {run.path}", err=True)
                echo(json.dumps(summary) if as_json else _closing_line(summary))
                if report and not as_json:
                    echo(f"report: {report}")
            leave()
            if outcome.stop:
                raise outcome.stop
            return summary
        finally:
            display.close()
            session.close()


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


def _train(session: Session, config: Config, run: Run | None, display: Display) -> tuple[Run, Outcome]:
    """Checks what can be checked, then loads torch and trains."""
    estimated = estimate(session)
    expected = estimated["total"]
    tokens = [sum(pair) for pair in zip(expected["input_tokens"], expected["output_tokens"], strict=True)]
    usd = expected["usd"]
    cost = "unpriced" if usd is None else f"${usd[0]:.2f} to ${usd[1]:.2f}"
    low, high = expected["calls"]
    session.note(
        f"estimated: {low:,} to {high:,} calls, {tokens[0] / 1e6:.2g} to {tokens[1] / 1e6:.2g} million "
        f"tokens, {cost} (mpo-lite estimate says how)"
    )
    if summary := estimated["meta_steps"]["summary"]:
        session.note(summary)
    for role, which in session.models.all:
        session.note(f"{role}: {which.model}{f' at {which.api_base}' if which.api_base else ''}")
    led(lambda: session.models.check(session.check_interrupt))
    if SANDBOX in config.model_names:
        session.note(SIMULATED)
    session.note(f"loading the policy {config.policy}")
    with activity(f"loading policy {config.policy}"):
        if not Path(session.config.policy).exists():
            go_offline_without_hub()
        # Loads torch: only now that nothing else can be wrong.
        from mpo_lite.training import policy, trainer
        from mpo_lite.training.mpo import open_run

        policy.check_policy(session.config)
        trainer.check_settings(session)
    fresh = run is None
    run = run or Run(led(lambda: open_run(config, "train").path))
    session.attach(run)
    led(run.remove_torn_checkpoints)
    checkpoint = run.last_checkpoint()
    session.note(f"run directory: {run.path}" + (f", from {checkpoint.name}" if checkpoint else ""))
    try:
        with activity("training", config.steps, "batches") as display.training:
            return run, trainer.train(session, checkpoint)
    except ConfigError:
        if fresh and leads():
            run.withdraw()
        raise


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
