"""``mpo-lite rubric``: the rubric versions of a run, side by side, and pinned by hand."""

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

_FROZEN = "the rubric stays as it is, for this run holds no meta steps"


@click.group("rubric", short_help="Look at a run's rubric versions, or pin one.")
def command() -> None:
    """Look at the rubric versions of a run, and pin one.

    \b
    mpo-lite rubric list runs/essay-20250428-101500
    mpo-lite rubric diff runs/essay-20250428-101500 0 3
    mpo-lite rubric pin runs/essay-20250428-101500 3
    """


@command.command("list")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
def list_versions(run: Path) -> None:
    """List a run's meta steps: which version each brought, by whom, and why others were refused.

    \b
    mpo-lite rubric list runs/essay-20250428-101500
    """
    found, _ = RunDir.open(run, {})
    lines = [f"v0  before batch 1, from {found.version(0).author}", *map(_step, found.rows(found.lineage))]
    if (pinned := found.pin) is not None:
        lines.append(f"pinned: v{pinned}")
    for line in lines:
        echo(" ".join(line.splitlines()))  # models wrote much of it


def _step(row: JsonRow) -> str:
    """A meta step in a line."""
    if row["status"] != "accepted":
        return f"–   after batch {row['batch']}: v{row['version']} stays ({row['reason']})"
    changes = describe_changes(row["added"], row["changed"], row["dropped"])
    return f"v{row['version']}  after batch {row['batch']}, by {row['author']}: {changes}"


@command.command("show")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("version", metavar="[VERSION]", type=int, required=False)
def show(run: Path, version: int | None) -> None:
    """Print a rubric version, the newest unless said else: as YAML, with the rollouts that asked for it.

    \b
    mpo-lite rubric show runs/essay-20250428-101500 2
    """
    found, _ = RunDir.open(run, {})
    echo(dump_rubric(_version(found, version).rubric), nl=False)


@command.command("diff")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("old", metavar="[OLD]", type=int, required=False)
@click.argument("new", metavar="[NEW]", type=int, required=False)
def diff(run: Path, old: int | None, new: int | None) -> None:
    """Show two rubric versions side by side, criterion by criterion; the first and the newest unless said
    else.

    \b
    mpo-lite rubric diff runs/essay-20250428-101500 1 2
    """
    found, _ = RunDir.open(run, {})
    before, after = _version(found, old or 0), _version(found, new)
    table = Table(show_lines=True)
    for version in (before, after):
        table.add_column(f"v{version.number}", ratio=1)
    left, right = ({one.id: one for one in version.rubric.criteria} for version in (before, after))
    for name in [*left, *(name for name in right if name not in left)]:
        table.add_row(*_cells(left.get(name), right.get(name)))
    if (before.rubric.guidelines, after.rubric.guidelines) != ("", ""):
        table.add_row(*(Text(each.rubric.guidelines) for each in (before, after)))
    console(soft_wrap=False).print(table)


def _cells(old: Criterion | None, new: Criterion | None) -> tuple[Text, Text]:
    """A criterion in both versions; coloured where it is gone, new or changed."""
    same = old is not None and new is not None and _told(old) == _told(new)
    styles = ("", "") if same else ("red", "green")
    shown = [
        Text(escape_controls(_told(one)) if one else "", style)
        for one, style in zip((old, new), styles, strict=True)
    ]
    return shown[0], shown[1]


def _told(criterion: Criterion) -> str:
    levels = "\n".join(f"  {rank} {text}" for rank, text in enumerate(criterion.levels))
    return f"{criterion.id} ({criterion.kind}, weight {criterion.weight})\n{criterion.description}\n{levels}"


def _version(run: RunDir, number: int | None) -> RubricVersion:
    newest = run.latest()
    if number is None:
        return newest
    if not 0 <= number <= newest.number:
        held = f"v0 to v{newest.number}" if newest.number else "v0 alone"
        raise ConfigError(f"{run.path}: has no rubric v{number}; it has {held}")
    return run.version(number)


@command.command("pin")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("version", metavar="[VERSION]", type=int, required=False)
@click.option("--release", is_flag=True, help="Let the rubric evolve again.")
def pin(run: Path, version: int | None, release: bool) -> None:
    """Put an earlier rubric in force by hand, and keep it there.

    A running run takes it up before its next batch, a stopped one when it is resumed: as a new version with
    the old content, since version numbers only grow. Weights stay as they are. While a version is pinned, no
    meta step is held. In a finished run a pin changes nothing.

    \b
    mpo-lite rubric pin runs/essay-20250428-101500 3
    mpo-lite rubric pin runs/essay-20250428-101500 --release
    """
    found, config = RunDir.open(run, {})
    if release == (version is not None):
        raise ConfigError("rubric pin: give a VERSION, or --release")
    state = describe_state(found, config, len(found.rows(found.metrics)))
    when = "from the next batch on" if state == "training" else f"once the run goes on: mpo-lite resume {run}"
    finished = "the run is finished, so this changes nothing unless it is trained on"
    if version is None:
        if not found.pinned.exists():
            echo("no version is pinned; nothing changes")
            return
        found.pinned.unlink()
        again = f"the rubric evolves again {when}" if config.meta and not config.baseline else _FROZEN
        echo(f"released: {finished if state == 'done' else again}")
        return
    names = ", ".join(criterion.id for criterion in _version(found, version).rubric.criteria)
    write_atomically(found.pinned, json.dumps({"version": version}))
    echo(f"pinned v{version}: {names}; {finished if state == 'done' else f'in force {when}'}")
