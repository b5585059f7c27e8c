"""``mpo-lite report``: a run's report, or a comparison of runs, as one HTML file."""

from __future__ import annotations

import webbrowser
from contextlib import nullcontext
from pathlib import Path

import click

from mpo_lite.activity import activity
from mpo_lite.cli.outputs import new_file, overwrite_option
from mpo_lite.cli.status import show_status
from mpo_lite.cli.terminal import echo
from mpo_lite.errors import MPOError
from mpo_lite.run_dir import RunDir


@click.command("report", short_help="Write a run's report, or a comparison of runs, as one HTML file.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Output file. [default: report.html in the run, or comparison.html next to the first run]",
)
@overwrite_option
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
@show_status
def command(runs: tuple[Path, ...], out: Path | None, overwrite: bool, show: bool) -> None:
    """Write the report of a run, finished or in progress, or one page that compares several runs.

    The file is self-contained: it needs no server and no network, and can be sent to others. It contains
    prompts and answers of the run, but no keys.

    \b
    mpo-lite report runs/essay-20250428-101500 --open
    mpo-lite report runs/essay-a runs/essay-b --out comparison.html
    """
    # Imported here: it loads libraries that other commands do not need.
    from mpo_lite.report.page import write_comparison, write_report

    first, *others = runs
    damaged: list[MPOError] = []
    with (
        new_file(out, overwrite=overwrite) if out else nullcontext() as fresh,
        activity("writing the report"),
    ):
        if others:
            path, damaged = write_comparison(runs, fresh or first.parent / "comparison.html")
        else:
            path = write_report(RunDir(first), fresh)
    path = out or path
    for error in damaged:
        echo(f"left out: {error}", stderr=True)
    echo(f"report: {path}")
    if show and not webbrowser.open(path.resolve().as_uri()):
        echo("no browser found; open the file by hand", stderr=True)
