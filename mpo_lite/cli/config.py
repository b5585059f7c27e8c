"""``mpo-lite config``: the settings there are, and what a run would be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mpo_lite.cli._options import FLAGS, config_options, json_option, overrides_option
from mpo_lite.cli.terminal import echo
from mpo_lite.config import Config
from mpo_lite.config_sources import load_with_sources
from mpo_lite.strict_yaml import dump_yaml

SCHEMA = "mpo-lite.schema.json"
"""Name under which YAML files look for it beside them."""


def config_schema() -> str:
    """The JSON Schema of configuration files, as a file holds it."""
    return json.dumps(Config.model_json_schema(mode="validation"), indent=2) + "\n"


@click.group("config", short_help="Show the settings there are, and where a run's come from.")
def command() -> None:
    """Show the settings there are, and what a run would be told.

    \b
    mpo-lite config show experiment.yaml
    mpo-lite config schema > mpo-lite.schema.json
    """


@command.command("schema")
def schema() -> None:
    """Print the JSON Schema of a configuration file.

    A YAML file whose first line names it is completed and checked by editors:

    \b
    mpo-lite config schema > mpo-lite.schema.json
    # yaml-language-server: $schema=mpo-lite.schema.json
    """
    echo(config_schema(), nl=False)


@command.command("show")
@click.argument("config_file", metavar="[CONFIG.yaml]", required=False, type=click.Path(path_type=Path))
@config_options(*FLAGS)
@overrides_option
@click.option("--all", "whole", is_flag=True, help="Defaults too.")
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
    told = {
        name: {"value": value, "from": _origin(name, origins)}
        for name, value in values.items()
        if whole or _origin(name, origins) != "default"
    }
    if as_json:
        echo(json.dumps(told))
        return
    for name, one in told.items():
        text = dump_yaml({name: one["value"]}).rstrip()
        first, *rest = text.splitlines()
        echo("\n".join([f"{first}  # {one['from']}", *rest]))
    if not told:
        echo("all settings are at their defaults; --all shows them")


def _origin(name: str, origins: dict[str, str]) -> str:
    """Where a field's value comes from; of a nested one, all its sources."""
    found = [origin for key, origin in origins.items() if key == name or key.startswith(f"{name}.")]
    return ", ".join(dict.fromkeys(found)) or "default"
