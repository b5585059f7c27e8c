"""``mpo-lite train``: trains a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mpo_lite.cli._options import GroupedCommand, config_options, json_option, overrides_option
from mpo_lite.cli._run_job import run_job
from mpo_lite.config_sources import load_config


@click.command("train", cls=GroupedCommand, short_help="Train a policy against a judge whose rubric evolves.")
@click.argument("config_file", metavar="[CONFIG.yaml]", required=False, type=click.Path(path_type=Path))
@config_options()
@overrides_option
@json_option
def command(config_file: Path | None, overrides: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Train a policy against a judge whose rubric evolves.

    \b
    mpo-lite train --judge gpt-4o --meta claude
    mpo-lite train --judge hosted_vllm/Qwen/Qwen2.5-32B-Instruct --judge-api-base http://localhost:8000/v1 \\
                   --meta claude --data my_prompts.jsonl

    Every flag is also a variable (MPO_JUDGE, ...) and a YAML key. API keys are read from the environment or
    .env.
    """
    run_job(load_config(config_file, flags, overrides), as_json=as_json)
