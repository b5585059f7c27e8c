"""``mpo-lite sandbox``: the parts of the sandbox on their own."""

from __future__ import annotations

from pathlib import Path

import click

from mpo_lite.cli.outputs import new_folder
from mpo_lite.cli.terminal import echo
from mpo_lite.errors import ConfigError


@click.group("sandbox", short_help="Serve the simulated judge, or rebuild the tiny policy.")
def command() -> None:
    """Use the parts of the sandbox, a simulated judge and a tiny policy. Results with them say nothing about
    real judges.

    \b
    mpo-lite sandbox serve --port 8010
    """


@command.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8010, show_default=True, help="Port to listen on."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the judge's weaknesses and errors.")
@click.option(
    "--bad-rate",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Probability that a proposed rubric is bad.",
)
def serve(host: str, port: int, seed: int, bad_rate: float) -> None:
    """Serve the simulated judge and meta-judge over the OpenAI Chat Completions API.

    \b
    mpo-lite sandbox serve --port 8010
    curl -s http://127.0.0.1:8010/v1/models
    """
    from mpo_lite.sandbox.judge_server import serve_forever

    # Answers are cached by model name, so a server that behaves differently needs another name.
    suffix = f"{seed}" + (f"-bad{bad_rate:g}" if bad_rate else "")

    def announce() -> None:
        echo(f"simulated judge openai/sandbox-judge-{suffix} and meta-judge openai/sandbox-meta-{suffix}")
        echo(f"at http://{host}:{port}/v1 (press Ctrl-C to stop)")

    try:
        serve_forever(host, port, seed, bad_rate, announce)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose another --port") from error


@command.command("policy")
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option("--seed", default=0, show_default=True, help="Seed of the pre-training.")
def policy(out: Path | None, seed: int) -> None:
    """Print the directory of the tiny policy, or rebuild it into OUT (takes about a minute).

    \b
    mpo-lite sandbox policy
    mpo-lite sandbox policy new-weights
    """
    if out is None:
        from mpo_lite.sandbox.data import policy_dir

        echo(str(policy_dir()))
        return
    with new_folder(out) as fresh:
        from mpo_lite.sandbox.policy import build  # loads torch

        build(fresh, seed)
    echo(f"built {out}")
