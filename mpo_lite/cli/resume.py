"""``mpo-lite resume``: continue a run that was stopped or killed, or train a finished one longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from dotenv import load_dotenv

from mpo_lite.cli._options import config_options, json_option
from mpo_lite.cli._run_job import print_complete, run_job
from mpo_lite.cli.terminal import echo
from mpo_lite.loop.begin import CHANGEABLE
from mpo_lite.loop.distributed import is_main
from mpo_lite.training.resume import open_resumable


@click.command("resume", short_help="Resume a run that was stopped or killed.")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@config_options(*CHANGEABLE)
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
    with open_resumable(run_dir, flags, place) as resumed:
        if is_main():
            for line in resumed.changed:
                echo(line, stderr=True)
        if resumed.done < resumed.config.steps:
            run_job(resumed.config, resumed.run, resumed.checkpoint, as_json)
        elif is_main():
            print_complete(resumed.run, resumed.config, as_json)
