"""``mpo-lite serve``: rewards for other RL engines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from mpo_lite.cli._display import Display
from mpo_lite.cli._options import GROUPS, GroupedCommand, config_options, overrides_option
from mpo_lite.cli.status import Status
from mpo_lite.cli.terminal import echo
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.run_dir import RunDir
from mpo_lite.service.server import Address
from mpo_lite.service.serving import serve

SETTINGS = (
    *GROUPS["Judges"],
    *GROUPS["Task and data"],
    *GROUPS["Budget"],
    "batch_prompts", "group_size", "max_new_tokens", "seed", "run_dir",
    "method", "interval", "meta_samples", "use_gate", "schedule", "prescreen",
)  # fmt: skip
"""Settings that matter where the policy trains elsewhere."""
ENDLESS = 100_000
"""Batches for which the gate's budget is laid out: a service runs until it is stopped."""


@click.command(
    "serve", cls=GroupedCommand, short_help="Serve rewards to other RL engines while the rubric evolves."
)
@click.argument("config_file", metavar="[CONFIG.yaml]", required=False, type=click.Path(path_type=Path))
@config_options(*SETTINGS)
@click.option("--host", default=Address.host, show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=Address.port, show_default=True,
    help="Port to listen on; 0 takes a free one.",
)  # fmt: skip
@click.option(
    "--token-env", metavar="NAME", default=Address.token_env, show_default=True,
    help="Variable that holds the token clients must send. If unset, the run makes a token of its own.",
)  # fmt: skip
@click.option("--no-token", is_flag=True, help="Answer requests without a token.")
@click.option(
    "--group-wait", type=click.FloatRange(0.1), default=Address.group_wait_s, show_default=True,
    help="Seconds without a further answer after which a prompt group is taken as it is.",
)  # fmt: skip
@click.option(
    "--max-body", type=click.FloatRange(0.01), default=Address.max_mb, show_default=True,
    help="Largest request in MB.",
)  # fmt: skip
@overrides_option
def command(
    config_file: Path | None,
    host: str,
    port: int,
    token_env: str,
    no_token: bool,
    group_wait: float,
    max_body: float,
    overrides: tuple[str, ...],
    **flags: Any,
) -> None:
    """Serve rewards to other RL engines while the rubric evolves.

    The policy trains elsewhere: with verl, OpenRLHF, ms-swift, NeMo-Gym, slime, prime-rl or TRL, on any
    number of machines. One process judges the answers that they send, and has the rubric rewritten between
    batches of --batch-prompts x --group-size answers. The same command with the same --run-dir continues
    after a stop or a kill.

    \b
    mpo-lite serve --judge gpt-4o --meta claude --run-dir runs/essay
    curl -H "Authorization: Bearer $(cat runs/essay/token)" http://127.0.0.1:8700/v1/status
    """
    config = _read_config(config_file, flags, overrides)
    address = Address(
        host, port, token_env, needs_token=not no_token, max_mb=max_body, group_wait_s=group_wait
    )
    with Status(sys.stdout) as status:
        display = Display(None, status)
        try:
            run = serve(config, address, display, lambda url, token: echo(_describe(url, token, address)))
        finally:
            display.close()
    echo(f"stopped; continue with the same command and --run-dir {run.path}")


def _read_config(config_file: Path | None, flags: dict[str, Any], overrides: tuple[str, ...]) -> Config:
    """The configuration; that of a run which is named and nothing else."""
    folder = flags["run_dir"]
    others = [value for name, value in flags.items() if name != "run_dir" and value is not None]
    if folder and RunDir(folder).exists() and not (config_file or others or overrides):
        return load_config(RunDir(folder).config_file, {"run_dir": folder}, environ={})
    return load_config(config_file, {**flags, "steps": ENDLESS}, overrides)


def _describe(url: str, token: str, address: Address) -> str:
    """Where the service is, and how to get in; the token itself is not shown."""
    if not token:
        return f"serving at {url}, without a token; {url}/docs describes it"
    return f"serving at {url}; requests need the token (in ${address.token_env}, or the run's file token)"
