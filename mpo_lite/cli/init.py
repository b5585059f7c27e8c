"""``mpo-lite init``: write a first task of one's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click

from mpo_lite.cli.config import SCHEMA, config_schema
from mpo_lite.errors import ConfigError
from mpo_lite.files import write_atomically
from mpo_lite.prompts import prompts_dir


@click.command("init", short_help="Write a first task of your own.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Write a commented task that runs as it is: task.yaml, policy.md, rubric.yaml, 20 prompts, and a file
    of settings that editors complete.

    \b
    mpo-lite init my-task
    mpo-lite train my-task/experiment.yaml
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty; name a new folder")
    try:
        shutil.copytree(prompts_dir() / "init", folder, dirs_exist_ok=True)
        write_atomically(folder / "experiment.yaml", _experiment(folder))
        write_atomically(folder / SCHEMA, config_schema())
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error})") from error
    for path in sorted(folder.iterdir()):
        click.echo(f"wrote {path}")
    click.echo(f"look at it: mpo-lite tasks {folder}")
    click.echo(f"train it:   mpo-lite train {folder / 'experiment.yaml'}")


def _experiment(task: Path) -> str:
    return f"""# yaml-language-server: $schema={SCHEMA}
# Settings of a run: mpo-lite train FILE. All there are: mpo-lite train --help, mpo-lite config schema.
task: {json.dumps(str(task))}
judge: gpt-4o-mini
meta: claude
steps: 200
max_usd: 5      # a hard cap; the run stops there with its state saved
"""
