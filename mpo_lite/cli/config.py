"""``mpo-lite config``: all settings, and what a run's settings resolve to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mpo_lite.cli._options import config_options, json_option, overrides_option
from mpo_lite.cli.terminal import echo
from mpo_lite.config import Config
from mpo_lite.config_sources import load_with_sources
from mpo_lite.strict_yaml import dump_yaml

SCHEMA = "mpo-lite.schema.json"
"""File name by which YAML files refer to the schema in their own directory."""


def config_schema() -> str:
    """The JSON Schema of configuration files, as text."""
    return json.dumps(Config.model_json_schema(mode="validation"), indent=2) + "\n"


@click.group("config", short_help="Show all settings, or where each value of a run comes from.")
def command() -> None:
    """Show all settings, or the resolved settings of a run.

    \b
    mpo-lite config show experiment.yaml
    mpo-lite config schema > mpo-lite.schema.json
    """


@command.command("schema")
def schema() -> None:
    """Print the JSON Schema of a configuration file.

    Editors use it to complete and check a YAML file whose first line names it:

    \b
    mpo-lite config schema > mpo-lite.schema.json
    # yaml-language-server: $schema=mpo-lite.schema.json
    """
    echo(config_schema(), nl=False)


@command.command("show")
@click.argument("config_file", metavar="[CONFIG.yaml]", required=False, type=click.Path(path_type=Path))
@config_options()
@overrides_option
@click.option("--all", "whole", is_flag=True, help="Include defaults.")
@json_option
def show(
    config_file: Path | None, overrides: tuple[str, ...], whole: bool, as_json: bool, **flags: Any
) -> None:
    """Print the resolved settings, each with the source it came from.

    \b
    mpo-lite config show experiment.yaml
    MPO_JUDGE=gpt-4o mpo-lite config show --method paper --all
    """
    config, origins = load_with_sources(config_file, flags, overrides)
    values = config.model_dump(mode="json")
    shown = {
        name: {"value": value, "from": _find_origin(name, origins)}
        for name, value in values.items()
        if whole or _find_origin(name, origins) != "default"
    }
    if as_json:
        echo(json.dumps(shown))
        return
    for name, setting in shown.items():
        text = dump_yaml({name: setting["value"]}).rstrip()
        first, *rest = text.splitlines()
        echo("\n".join([f"{first}  # {setting['from']}", *rest]))
    if not shown:
        echo("all settings have their defaults; --all lists them")


def _find_origin(name: str, origins: dict[str, str]) -> str:
    """Where a field's value comes from; for a nested one, all of its sources."""
    sources = [origin for key, origin in origins.items() if key == name or key.startswith(f"{name}.")]
    return ", ".join(dict.fromkeys(sources)) or "default"
