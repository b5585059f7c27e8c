"""``mpo-lite rubric``: the rubric versions of a run."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mpo_lite.errors import ConfigError
from mpo_lite.runs import Run, write_atomically


@click.group("rubric", short_help="Pin a rubric version of a run.")
def command() -> None:
    """Look after the rubric versions of a run.

    \b
    mpo-lite rubric pin runs/essay-20250428-101500 3
    """


@command.command("pin")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("version", metavar="[VERSION]", type=int, required=False)
@click.option("--release", is_flag=True, help="Let the rubric evolve again.")
def pin(run: Path, version: int | None, release: bool) -> None:
    """Put an earlier rubric in force by hand, and keep it there.

    A running run takes it up before its next batch, a stopped one when it is resumed: as a new version with
    the old content, since version numbers only grow. Weights stay as they are. While a version is pinned, no
    meta step is held.

    \b
    mpo-lite rubric pin runs/essay-20250428-101500 3
    mpo-lite rubric pin runs/essay-20250428-101500 --release
    """
    found, _ = Run.open(run, {})
    if release == (version is not None):
        raise ConfigError("rubric pin: give a VERSION, or --release")
    if version is None:
        found.pinned.unlink(missing_ok=True)
        click.echo("released: the rubric evolves again")
        return
    newest = found.latest().number
    if not 0 <= version <= newest:
        raise ConfigError(f"{run}: has no rubric v{version}; it has v0 to v{newest}")
    names = ", ".join(criterion.id for criterion in found.version(version).rubric.criteria)
    write_atomically(found.pinned, json.dumps({"version": version}))
    click.echo(f"pinned v{version}: {names}; in force from the next batch on")
