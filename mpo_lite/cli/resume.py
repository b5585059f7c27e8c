"""``mpo-lite resume``: continue a run that was stopped or killed, or train a finished one longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from dotenv import load_dotenv

from mpo_lite.checkpoints import read_state, resumable_checkpoint
from mpo_lite.cli._options import config_options, json_option
from mpo_lite.cli._run_job import print_complete, run_job
from mpo_lite.cli.terminal import echo
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.errors import ConfigError
from mpo_lite.judge.pool import models_of, require_prices
from mpo_lite.loop.distributed import is_main, run_on_main
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.stand_in import sandboxed


@click.command("resume", short_help="Resume a run that was stopped or killed.")
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
    "log_calls",
)
@click.option(
    "--from",
    "place",
    metavar="CHECKPOINT",
    help="Resume from an earlier checkpoint, such as checkpoint-8, or from the start. [default: the last]",
)
@json_option
def command(run_dir: Path, place: str | None, as_json: bool, **flags: Any) -> None:
    """Resume a run from its last checkpoint, with the same configuration.

    Steps, caps and addresses can be changed by flags; the run keeps the new values. Earlier spend counts
    towards the caps, and cached answers are not paid for again. With more --steps, a learning rate schedule
    continues as that of the longer run. Damaged checkpoints and changed run files are rejected before
    anything is loaded or paid for; --from goes back to an earlier checkpoint and moves later ones to
    superseded/.

    \b
    mpo-lite resume runs/essay-20250428-101500 --max-usd 20
    mpo-lite resume runs/essay-20250428-101500 --steps 400
    mpo-lite resume runs/essay-20250428-101500 --from checkpoint-40
    """
    load_dotenv(Path(".env"))
    run, config = RunDir.open(run_dir, flags)
    if run.begun_by == "library":
        raise ConfigError(
            f"{run_dir}: written by a trainer of your own; run that script again, with "
            "trainer.train(resume_from_checkpoint=True)"
        )
    run_on_main(run.lock)
    try:
        _resume(run, config, place, flags, as_json)
    finally:
        run.unlock()


def _resume(run: RunDir, config: Config, place: str | None, flags: dict[str, Any], as_json: bool) -> None:
    checkpoint = run_on_main(lambda: resumable_checkpoint(run, place))
    done = read_state(checkpoint)["batch"] if checkpoint else 0
    if config.steps < done:
        raise ConfigError(
            f"--steps {config.steps}: {run.path} already has {done} batches; give a larger number"
        )
    with sandboxed(config) as served:
        # Before the run takes the new settings over: with a cap that cannot hold it could never be resumed.
        require_prices(served, models_of(served, config.asks_meta), is_resumed=True)
    run_on_main(lambda: _apply_flags(run, flags, done))
    if done < config.steps:
        run_job(config, run, checkpoint, as_json)
    elif is_main():
        print_complete(run, config, as_json)


def _apply_flags(run: RunDir, flags: dict[str, Any], done: int) -> None:
    """Makes changed settings the run's own, and prints them."""
    before = load_config(run.config_file, environ={})
    given = {name: value for name, value in flags.items() if value is not None}
    changed = [name for name, value in given.items() if getattr(before, name) != value]
    after = load_config(run.config_file, given, environ={})
    if not changed:
        return
    run.reconfigure(after, done)
    for name in changed:
        old, new = _format_setting(before, name), _format_setting(after, name)
        echo(f"{name}: {old} -> {new}, from batch {done + 1} on", stderr=True)
    schedule = before.trainer.get("lr_scheduler_type", "constant")
    if "steps" in changed and schedule != "constant":
        echo(
            f"learning rate schedule '{schedule}' now spans {after.steps} batches instead of {before.steps}",
            stderr=True,
        )


def _format_setting(config: Config, name: str) -> Any:
    value = config.model_dump(mode="json")[name]
    return "none" if value is None else value
