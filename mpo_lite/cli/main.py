"""The command ``mpo-lite``. A subcommand is imported only when it is called: ``--help`` must be instant."""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import click

from mpo_lite import __version__
from mpo_lite.cli.terminal import echo
from mpo_lite.errors import MPOError, storage_problem
from mpo_lite.loop.distributed import is_main

COMMANDS = {
    "quickstart": "See Meta Policy Optimization work in three minutes: no key, no GPU, no network.",
    "train": "Train a policy against a judge whose rubric evolves.",
    "serve": "Serve rewards to other RL engines while the rubric evolves.",
    "resume": "Resume a run that was stopped or killed.",
    "doctor": "Check installation, keys and models, and suggest fixes.",
    "try": "Check whether a judge and rubric give a usable reward signal.",
    "estimate": "Estimate a run's cost before starting it.",
    "tasks": "List the built-in tasks, or explain one.",
    "init": "Create a task of your own from a template.",
    "score": "Judge the responses in a file, without training.",
    "calibrate": "Measure how far a judge and rubric agree with labels.",
    "eval": "Evaluate a model with a task's gold metric on held-out prompts.",
    "compare": "Compare models pairwise with a judge, and rate them.",
    "rate": "Rate models from a file of pairwise matches.",
    "config": "Show all settings, or where each value of a run comes from.",
    "cache": "Inspect or prune the response cache.",
    "alarms": "Check a file of responses for signs of reward hacking.",
    "refine": "Refine a rubric on existing answers, without training.",
    "runs": "List runs with their state, progress, gold and spend.",
    "report": "Write a run's report, or a comparison of runs, as one HTML file.",
    "rubric": "Show a run's rubric versions, or pin one.",
    "export": "Export a trained policy as a model directory, or upload it.",
    "sandbox": "Serve the simulated judge, or rebuild the tiny policy.",
}
"""Command → its line in the listing, so that listing the commands imports none of them."""
TRACEBACK = "MPO_TRACEBACK"
"""Variable that has errors shown with their traceback."""


def _show_tracebacks(context: click.Context, option: click.Parameter, enabled: bool) -> None:
    if enabled:
        os.environ[TRACEBACK] = "1"


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = {"try": "preflight"}.get(
            cmd_name, cmd_name
        )  # try is a keyword, so no module can have the name
        return importlib.import_module(f"mpo_lite.cli.{module}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for a misspelt command."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if near and not args[0].startswith("-"):
                raise click.UsageError(f"no command {args[0]}; did you mean {near[0]}?", ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mpo-lite")
@click.option(
    "--traceback",
    is_flag=True,
    envvar=TRACEBACK,
    expose_value=False,
    callback=_show_tracebacks,
    help=f"Show the traceback of an error; same as {TRACEBACK}=1.",
)
def cli() -> None:
    """Train a LoRA policy against an LLM judge, while a meta-judge rewrites the judge's rubric.

    Start with: mpo-lite quickstart
    """


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: runs a command. Errors of the user end it with one line on stderr and an exit code."""
    try:
        with _sigterm_as_interrupt():
            return cli.main(args=arguments, standalone_mode=False)
    except MPOError as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        if is_main():
            echo(f"mpo-lite: {error}", stderr=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        from mpo_lite.loop.environment import EXTRAS

        package = (error.name or "").partition(".")[0]
        if package not in (*EXTRAS["train"], "pyarrow"):  # pyarrow comes with datasets
            raise
        echo(f"mpo-lite: this needs {package}, not installed: pip install 'mpo-lite[train]'", stderr=True)
        sys.exit(2)
    except click.NoSuchOption as error:
        from mpo_lite.cli._options import explain_unknown  # loads the settings

        _show(click.UsageError(explain_unknown(error), error.ctx))
        sys.exit(error.exit_code)
    except OSError as error:
        if not (problem := storage_problem(error, Path("the output"))):
            raise
        echo(f"mpo-lite: {problem}", stderr=True)
        sys.exit(1)
    except click.ClickException as error:
        _show(error)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as request:
        sys.exit(request.exit_code)
    except click.Abort as abort:
        # Click raises the same for Ctrl-C and for a question that was answered with no.
        if not isinstance(abort.__cause__, KeyboardInterrupt | EOFError):
            echo("mpo-lite: cancelled, nothing was changed", stderr=True)
            sys.exit(1)
        _exit_interrupted()
    except KeyboardInterrupt:
        _exit_interrupted()


def _exit_interrupted() -> NoReturn:
    echo(
        "mpo-lite: interrupted; to continue a run, use mpo-lite resume RUN; any other command, run it again",
        stderr=True,
    )
    sys.exit(130)


@contextmanager
def _sigterm_as_interrupt() -> Generator[None]:
    """Makes SIGTERM end a command as Ctrl-C does, so that no unfinished files are left behind."""
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _show(error: click.ClickException) -> None:
    """Shows an error of click's."""
    # Click writes past our terminal functions, so its text takes a detour through them.
    text = StringIO()
    error.show(text)
    echo(text.getvalue(), stderr=True, nl=False)
