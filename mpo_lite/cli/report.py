"""``mpo-lite report``: what a run did, as one page to read and to pass on."""

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


@click.command("report", short_help="Write a run's report, or compare runs, as one HTML file.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where to write. [default: report.html in the run, or comparison.html beside the first of several]",
)
@overwrite_option
@click.option("--open", "show", is_flag=True, help="Open it in the browser.")
@show_status
def command(runs: tuple[Path, ...], out: Path | None, overwrite: bool, show: bool) -> None:
    """Write the report of a run, finished or under way; of several, one page that compares them.

    The file is whole: it needs no server and no network, and may be sent to others. It holds prompts and
    answers of the run, and no keys.

    \b
    mpo-lite report runs/essay-20250428-101500 --open
    mpo-lite report runs/essay-a runs/essay-b --out comparison.html
    """
    # Reads the run by libraries that other commands have no need of.
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
        echo(f"left out: {error}", err=True)
    echo(f"report: {path}")
    if show and not webbrowser.open(path.resolve().as_uri()):
        echo("no browser was found here; open the file by hand", err=True)
