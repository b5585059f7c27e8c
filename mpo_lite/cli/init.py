"""``mpo-lite init``: create a task from a template."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from mpo_lite.cli.config import SCHEMA, config_schema
from mpo_lite.cli.outputs import new_folder
from mpo_lite.cli.terminal import echo
from mpo_lite.errors import ConfigError
from mpo_lite.prompts import prompts_dir


@click.command("init", short_help="Create a task of your own from a template.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Create a commented task that runs as it is: task.yaml, policy.md, rubric.yaml, 20 prompts, and a
    settings file with editor completion.

    \b
    mpo-lite init my-task
    mpo-lite train my-task/experiment.yaml
    """
    with new_folder(folder) as fresh:
        try:
            shutil.copytree(prompts_dir() / "init", fresh, dirs_exist_ok=True)
            (fresh / "experiment.yaml").write_text(_format_settings(), encoding="utf-8")
            (fresh / SCHEMA).write_text(config_schema(), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be written ({error.strerror or error})") from error
    for path in sorted(folder.iterdir()):
        echo(f"wrote {path}")
    echo(f"inspect it: mpo-lite tasks {folder}")
    echo(f"train on it: mpo-lite train {folder / 'experiment.yaml'}")


def _format_settings() -> str:
    return f"""# yaml-language-server: $schema={SCHEMA}
# Settings of a run: mpo-lite train FILE. All settings: mpo-lite train --help, mpo-lite config schema.
task: .          # this directory: paths in this file are relative to it
judge: gpt-4o-mini
meta: claude
steps: 200
max_usd: 5      # a hard cap: the run stops there, with its state saved
"""
