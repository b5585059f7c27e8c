"""``mpo-lite rubric``: show, compare and pin the rubric versions of a run."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from mpo_lite.cli.terminal import console, echo
from mpo_lite.errors import ConfigError
from mpo_lite.jsonl import JsonRow, write_atomically
from mpo_lite.report.figures import describe_changes, describe_state
from mpo_lite.rubric import Criterion, dump_rubric
from mpo_lite.run_dir import RubricVersion, RunDir
from mpo_lite.sanitize import escape_controls

_FROZEN = "the rubric stays as it is, since this run has no meta steps"


@click.group("rubric", short_help="Show a run's rubric versions, or pin one.")
def command() -> None:
    """Show the rubric versions of a run, or pin one.

    \b
    mpo-lite rubric list runs/essay-20250428-101500
    mpo-lite rubric diff runs/essay-20250428-101500 0 3
    mpo-lite rubric pin runs/essay-20250428-101500 3
    """


@command.command("list")
@click.argument("path", metavar="RUN", type=click.Path(path_type=Path))
def list_versions(path: Path) -> None:
    """List a run's meta steps: the version each one published and its author, or why it was rejected.

    \b
    mpo-lite rubric list runs/essay-20250428-101500
    """
    run, _ = RunDir.open(path, {})
    lines = [f"v0  before batch 1, from {run.version(0).author}"]
    lines += map(_format_step, run.rows(run.lineage))
    if (pinned := run.pin) is not None:
        lines.append(f"pinned: v{pinned}")
    for line in lines:
        echo(" ".join(line.splitlines()))  # texts of models may have several lines


def _format_step(row: JsonRow) -> str:
    if row["status"] != "accepted":
        return f"–   after batch {row['batch']}: v{row['version']} unchanged ({row['reason']})"
    changes = describe_changes(row["added"], row["changed"], row["dropped"])
    return f"v{row['version']}  after batch {row['batch']}, by {row['author']}: {changes}"


@command.command("show")
@click.argument("path", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("version", metavar="[VERSION]", type=int, required=False)
def show(path: Path, version: int | None) -> None:
    """Print a rubric version as YAML, with the rollouts that prompted each criterion. Default: the newest.

    \b
    mpo-lite rubric show runs/essay-20250428-101500 2
    """
    run, _ = RunDir.open(path, {})
    echo(dump_rubric(_read_version(run, version).rubric), nl=False)


@command.command("diff")
@click.argument("path", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("old", metavar="[OLD]", type=int, required=False)
@click.argument("new", metavar="[NEW]", type=int, required=False)
def diff(path: Path, old: int | None, new: int | None) -> None:
    """Show two rubric versions side by side, criterion by criterion. Default: the first and the newest.

    \b
    mpo-lite rubric diff runs/essay-20250428-101500 1 2
    """
    run, _ = RunDir.open(path, {})
    before, after = _read_version(run, old or 0), _read_version(run, new)
    table = Table(show_lines=True)
    for version in (before, after):
        table.add_column(f"v{version.number}", ratio=1)
    left, right = (
        {criterion.id: criterion for criterion in version.rubric.criteria} for version in (before, after)
    )
    for name in [*left, *(name for name in right if name not in left)]:
        table.add_row(*_format_pair(left.get(name), right.get(name)))
    if (before.rubric.guidelines, after.rubric.guidelines) != ("", ""):
        table.add_row(*(Text(version.rubric.guidelines) for version in (before, after)))
    console(soft_wrap=False).print(table)


def _format_pair(old: Criterion | None, new: Criterion | None) -> tuple[Text, Text]:
    """A criterion in both versions; coloured where it was dropped, added or changed."""
    same = old is not None and new is not None and _format_criterion(old) == _format_criterion(new)
    styles = ("", "") if same else ("red", "green")
    left, right = (
        Text(escape_controls(_format_criterion(criterion)) if criterion else "", style)
        for criterion, style in zip((old, new), styles, strict=True)
    )
    return left, right


def _format_criterion(criterion: Criterion) -> str:
    levels = "\n".join(f"  {rank} {text}" for rank, text in enumerate(criterion.levels))
    return f"{criterion.id} ({criterion.kind}, weight {criterion.weight})\n{criterion.description}\n{levels}"


def _read_version(run: RunDir, number: int | None) -> RubricVersion:
    newest = run.latest()
    if number is None:
        return newest
    if not 0 <= number <= newest.number:
        existing = f"v0 to v{newest.number}" if newest.number else "only v0"
        raise ConfigError(f"{run.path}: has no rubric v{number}; it has {existing}")
    return run.version(number)


@command.command("pin")
@click.argument("path", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("version", metavar="[VERSION]", type=int, required=False)
@click.option("--release", is_flag=True, help="Let the rubric evolve again.")
def pin(path: Path, version: int | None, release: bool) -> None:
    """Pin a rubric version by hand.

    The pin takes effect before the next batch, or when a stopped run is resumed. The content is published as
    a new version, since version numbers only increase. Weights stay as they are. While a version is pinned,
    there are no meta steps. A pin has no effect on a finished run.

    \b
    mpo-lite rubric pin runs/essay-20250428-101500 3
    mpo-lite rubric pin runs/essay-20250428-101500 --release
    """
    run, config = RunDir.open(path, {})
    if release == (version is not None):
        raise ConfigError("rubric pin: give a VERSION or --release")
    state = describe_state(run, config, len(run.rows(run.metrics)))
    resumed = f"once the run is resumed: mpo-lite resume {path}"
    when = "from the next batch on" if state == "training" else resumed
    finished = "the run is finished, so this has no effect unless it is trained longer"
    if version is None:
        if not run.pinned.exists():
            echo("no version is pinned; nothing to release")
            return
        run.pinned.unlink()
        evolves = f"the rubric evolves again {when}" if config.meta and not config.baseline else _FROZEN
        echo(f"released: {finished if state == 'done' else evolves}")
        return
    names = ", ".join(criterion.id for criterion in _read_version(run, version).rubric.criteria)
    write_atomically(run.pinned, json.dumps({"version": version}))
    echo(f"pinned v{version}: {names}; {finished if state == 'done' else f'in effect {when}'}")
