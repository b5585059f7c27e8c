"""``mpo-lite resume``: go on where a run was stopped or killed, or train a finished one on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from dotenv import load_dotenv

from mpo_lite.cli.job import run_job, tell_complete
from mpo_lite.cli.options import config_options, json_option
from mpo_lite.config import Config
from mpo_lite.errors import ConfigError
from mpo_lite.resolve import load_config
from mpo_lite.runs import Run, read_state
from mpo_lite.training.ranks import leads, led


@click.command("resume", short_help="Continue a run that was stopped or killed.")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@config_options(
    "steps",
    "judge_api_base",
    "meta_api_base",
    "judge_fallback",
    "max_usd",
    "max_calls",
    "max_tokens",
    "max_judge_failures",
    "concurrency",
)
@json_option
def command(run_dir: Path, as_json: bool, **flags: Any) -> None:
    """Continue a run from its last checkpoint, under the same configuration.

    Steps, caps and addresses may be given anew, and are the run's from then on; what was spent before counts.
    No answer in the cache is paid for again. With more --steps, a learning rate that follows a schedule goes
    on by that of the longer run.

    \b
    mpo-lite resume runs/essay-20250428-101500 --max-usd 20
    mpo-lite resume runs/essay-20250428-101500 --steps 400
    """
    load_dotenv(Path(".env"))
    run, config = Run.open(run_dir, flags)
    if run.begun_by == "library":
        raise ConfigError(
            f"{run_dir}: written by a trainer of your own; start that script again, with "
            "trainer.train(resume_from_checkpoint=True)"
        )
    checkpoint = run.last_checkpoint()
    done = read_state(checkpoint).get("batch", 0) if checkpoint else 0
    if config.steps < done:
        raise ConfigError(f"--steps {config.steps}: {run_dir} has {done} batches already; name more")
    led(lambda: _take_over(run, flags, done))
    if done == config.steps:
        if leads():
            tell_complete(run, config, as_json)
        return
    run_job(config, run, as_json)


def _take_over(run: Run, flags: dict[str, Any], done: int) -> None:
    """Makes what is given anew the run's own, and says so."""
    before = load_config(run.path / "config.yaml", environ={})
    given = {name: value for name, value in flags.items() if value is not None}
    changed = [name for name, value in given.items() if getattr(before, name) != value]
    after = load_config(run.path / "config.yaml", given, environ={})
    if not changed:
        return
    if run.locked():
        raise ConfigError(f"{run.path}: another process is training this run; wait for it")
    run.reconfigure(after, done)
    for name in changed:
        click.echo(
            f"{name}: {_told(before, name)} -> {_told(after, name)}, from batch {done + 1} on", err=True
        )
    schedule = before.trainer.get("lr_scheduler_type", "constant")
    if "steps" in changed and schedule != "constant":
        click.echo(
            f"the learning rate follows '{schedule}' over {after.steps} batches from here on, and no longer "
            f"over {before.steps}",
            err=True,
        )


def _told(config: Config, name: str) -> Any:
    value = config.model_dump(mode="json")[name]
    return "none" if value is None else value
