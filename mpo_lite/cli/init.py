"""``mpo-lite init``: write a first task of one's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from mpo_lite.errors import ConfigError
from mpo_lite.prompts import prompts_dir


@click.command("init", short_help="Write a first task of your own.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Write a commented task that runs as it is: task.yaml, policy.md, rubric.yaml and 20 prompts.

    \b
    mpo-lite init my-task
    mpo-lite train --task my-task --judge gpt-4o-mini --meta claude
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty; name a new folder")
    try:
        shutil.copytree(prompts_dir() / "init", folder, dirs_exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error})") from error
    for path in sorted(folder.iterdir()):
        click.echo(f"wrote {path}")
    click.echo(f"look at it: mpo-lite tasks {folder}")
    click.echo(f"train it:   mpo-lite train --task {folder} --judge gpt-4o-mini --meta claude --max-usd 5")
