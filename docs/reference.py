"""Writes the generated pages of the documentation: commands and settings, from the code itself.

    python docs/reference.py

A test fails where the pages that are kept differ from what this writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mpo_lite.cli.config import SCHEMA, config_schema
from mpo_lite.cli.main import cli
from mpo_lite.config import Config

ROOT = Path(__file__).parent.parent
WIDTH = 100


def commands() -> str:
    """Every command as it explains itself."""
    parts = ["# Commands", "Made from the commands themselves; `mpo-lite COMMAND --help` prints the same."]
    for name, text in _helps(cli, click.Context(cli, info_name="mpo-lite", **_LOOKS)):
        heading = "##" if name.count(" ") < 2 else "###"
        parts.append(f"{heading} {name}\n\n```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def settings() -> str:
    """Every setting with its default."""
    rows = ["| setting | default | what it does |", "|---|---|---|"]
    for name, field in Config.model_fields.items():
        default = getattr(Config(), name)
        told = "" if default is None or default == () else f"`{_plain(default)}`"
        rows.append(f"| `{name}` | {told} | {(field.description or '').replace('|', chr(92) + '|')} |")
    head = (
        "# Settings\n\nMade from the configuration itself. Each is a key of a YAML file, a variable "
        "(`MPO_STEPS=300`) and, where `mpo-lite train --help` lists it, a flag (`--steps 300`); the others, "
        "and parts of nested ones, are set by `-o` (`-o gate.margin=0.1`). Flags beat variables, which beat "
        "the file."
    )
    return f"{head}\n\n" + "\n".join(rows) + "\n"


_LOOKS: dict[str, Any] = {
    "terminal_width": WIDTH,
    "max_content_width": WIDTH,
    "help_option_names": ["-h", "--help"],
}


def _helps(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _helps(below, click.Context(below, parent=context, info_name=name, **_LOOKS))


def _plain(value: object) -> str:
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return ", ".join(f"{key}: {one}" for key, one in dump().items())
    told = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return told.replace(str(Path.home()), "~")


PAGES = {
    "docs/reference/commands.md": commands,
    "docs/reference/settings.md": settings,
    f"examples/{SCHEMA}": config_schema,
}
"""Page → what writes it."""

if __name__ == "__main__":
    for page, write in PAGES.items():
        (ROOT / page).write_text(write(), encoding="utf-8")
