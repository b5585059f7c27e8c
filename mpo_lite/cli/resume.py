"""``mpo-lite resume``: go on where a run was stopped or killed, or train a finished one on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from dotenv import load_dotenv

from mpo_lite.checkpoints import read_state, resumable_checkpoint
from mpo_lite.cli._options import config_options, json_option
from mpo_lite.cli._run_job import run_job, tell_complete
from mpo_lite.cli.terminal import echo
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.errors import ConfigError
from mpo_lite.judge.pool import models_of, require_prices
from mpo_lite.loop.distributed import is_main, run_on_main
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.stand_in import sandboxed


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
    "log_calls",
)
@click.option(
    "--from",
    "place",
    metavar="CHECKPOINT",
    help="Go on from an earlier checkpoint, such as checkpoint-8, or from the start. [default: the last one]",
)
@json_option
def command(run_dir: Path, place: str | None, as_json: bool, **flags: Any) -> None:
    """Continue a run from its last checkpoint, under the same configuration.

    Steps, caps and addresses may be given anew, and are the run's from then on; what was spent before counts.
    No answer in the cache is paid for again. With more --steps, a learning rate that follows a schedule goes
    on by that of the longer run. A checkpoint that was damaged, or files of the run that were changed, are
    refused before anything is loaded or paid; --from goes back to a checkpoint before, and moves later ones
    to superseded/.

    \b
    mpo-lite resume runs/essay-20250428-101500 --max-usd 20
    mpo-lite resume runs/essay-20250428-101500 --steps 400
    mpo-lite resume runs/essay-20250428-101500 --from checkpoint-40
    """
    load_dotenv(Path(".env"))
    run, config = RunDir.open(run_dir, flags)
    if run.begun_by == "library":
        raise ConfigError(
            f"{run_dir}: written by a trainer of your own; start that script again, with "
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
        raise ConfigError(f"--steps {config.steps}: {run.path} has {done} batches already; name more")
    with sandboxed(config) as served:
        # Before it is the run's: a cap that cannot hold would keep it from ever going on.
        require_prices(served, models_of(served, config.asks_meta), is_resumed=True)
    run_on_main(lambda: _take_over(run, flags, done))
    if done < config.steps:
        run_job(config, run, checkpoint, as_json)
    elif is_main():
        tell_complete(run, config, as_json)


def _take_over(run: RunDir, flags: dict[str, Any], done: int) -> None:
    """Makes what is given anew the run's own, and says so."""
    before = load_config(run.config_file, environ={})
    given = {name: value for name, value in flags.items() if value is not None}
    changed = [name for name, value in given.items() if getattr(before, name) != value]
    after = load_config(run.config_file, given, environ={})
    if not changed:
        return
    run.reconfigure(after, done)
    for name in changed:
        echo(f"{name}: {_told(before, name)} -> {_told(after, name)}, from batch {done + 1} on", err=True)
    schedule = before.trainer.get("lr_scheduler_type", "constant")
    if "steps" in changed and schedule != "constant":
        echo(
            f"the learning rate follows '{schedule}' over {after.steps} batches from here on, and no longer "
            f"over {before.steps}",
            err=True,
        )


def _told(config: Config, name: str) -> Any:
    value = config.model_dump(mode="json")[name]
    return "none" if value is None else value
