"""The command ``mpo-lite``. Commands are imported when they are called: ``--help`` must be instant."""

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
    "resume": "Continue a run that was stopped or killed.",
    "doctor": "See what works here, and how to mend what does not.",
    "try": "See whether a judge and a rubric can train anything.",
    "estimate": "Say what a run will cost, before it is begun.",
    "tasks": "List the built-in tasks, or explain one.",
    "init": "Write a first task of your own.",
    "score": "Judge the responses of a file, without training.",
    "eval": "Measure a model by a task's gold metric on held-out prompts.",
    "compare": "Have a judge compare models pairwise, and rate them.",
    "rate": "Rate models by a file of pairwise matches.",
    "config": "Show the settings there are, and where a run's come from.",
    "cache": "Look at the answers kept on disk, or remove some.",
    "alarms": "Look for signs of reward hacking in a file of responses.",
    "refine": "Refine a rubric on answers at hand, without training.",
    "runs": "List runs: state, step, gold and spend.",
    "report": "Write a run's report, or compare runs, as one HTML file.",
    "rubric": "Look at a run's rubric versions, or pin one.",
    "export": "Write a trained policy as a plain model folder, or upload it.",
    "sandbox": "Serve the simulated judge, or rebuild the tiny policy.",
}
"""Command → its line in the listing, so that listing them imports none of them."""


TRACEBACK = "MPO_TRACEBACK"


def _show_tracebacks(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted:
        os.environ[TRACEBACK] = "1"


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = {"try": "preflight"}.get(cmd_name, cmd_name)  # a keyword names no module
        return importlib.import_module(f"mpo_lite.cli.{module}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; a misspelt command is told which was meant."""
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


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mpo-lite")
@click.option(
    "--traceback",
    is_flag=True,
    envvar=TRACEBACK,
    expose_value=False,
    callback=_show_tracebacks,
    help=f"Show where an error came from; {TRACEBACK}=1 does so too.",
)
def cli() -> None:
    """Train a LoRA policy against an LLM judge, while a meta-judge rewrites the judge's rubric.

    Begin with: mpo-lite quickstart
    """


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: runs a command; an error of ours is one line on stderr and an exit code, no traceback."""
    try:
        with _terminable():
            return cli.main(args=arguments, standalone_mode=False)
    except MPOError as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        if is_main():
            echo(f"mpo-lite: {error}", err=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        from mpo_lite.loop.environment import TRAINING_PACKAGES

        package = (error.name or "").partition(".")[0]
        if package not in (*TRAINING_PACKAGES, "pyarrow"):  # pyarrow comes with datasets
            raise
        echo(f"mpo-lite: this needs {package}, not installed: pip install 'mpo-lite[train]'", err=True)
        sys.exit(2)
    except click.NoSuchOption as error:
        from mpo_lite.cli._options import explain_unknown  # loads the settings

        _show(click.UsageError(explain_unknown(error), error.ctx))
        sys.exit(error.exit_code)
    except OSError as error:
        if not (said := storage_problem(error, Path("the output"))):
            raise
        echo(f"mpo-lite: {said}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        _show(error)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.Abort as left:
        if not isinstance(left.__cause__, KeyboardInterrupt | EOFError):  # a question was answered with no
            echo("mpo-lite: left as it is", err=True)
            sys.exit(1)
        _interrupted()
    except KeyboardInterrupt:
        _interrupted()


def _interrupted() -> NoReturn:
    echo(
        "mpo-lite: stopped at once; a run goes on by mpo-lite resume RUN, any other command by itself again",
        err=True,
    )
    sys.exit(130)


@contextmanager
def _terminable() -> Generator[None]:
    """Has SIGTERM end a command as Ctrl-C does, so that nothing unfinished is left behind."""
    if threading.current_thread() is not threading.main_thread():  # others cannot be told of signals
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _show(error: click.ClickException) -> None:
    """Shows an error of click's, which writes to files alone."""
    said = StringIO()
    error.show(said)
    echo(said.getvalue(), err=True, nl=False)
