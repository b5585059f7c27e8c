"""``mpo-lite resume``: go on where a run was stopped or killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from dotenv import load_dotenv

from mpo_lite.cli.job import run_job
from mpo_lite.cli.options import config_options, json_option
from mpo_lite.errors import ConfigError
from mpo_lite.runs import Run


@click.command("resume", short_help="Continue a run that was stopped or killed.")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@config_options(
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
@json_option
def command(run_dir: Path, as_json: bool, **flags: Any) -> None:
    """Continue a run from its last checkpoint, under the same configuration.

    Caps and addresses may be given anew; what was spent before counts. No answer in the cache is paid for
    again.

    \b
    mpo-lite resume runs/essay-20250428-101500 --max-usd 20
    """
    load_dotenv(Path(".env"))
    run, config = Run.open(run_dir, flags)
    if run.begun_by == "library":
        raise ConfigError(
            f"{run_dir}: written by a trainer of your own; start that script again, with "
            "trainer.train(resume_from_checkpoint=True)"
        )
    run_job(config, run, as_json)
