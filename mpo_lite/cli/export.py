"""``mpo-lite export``: a trained policy as a plain model directory, here or on the Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from mpo_lite.activity import activity
from mpo_lite.checkpoints import intact_checkpoint, read_state
from mpo_lite.cli.outputs import new_folder
from mpo_lite.cli.status import show_status
from mpo_lite.cli.terminal import echo
from mpo_lite.config import Config
from mpo_lite.errors import ConfigError, refusals
from mpo_lite.report.model_card import write_model_card
from mpo_lite.run_dir import RunDir
from mpo_lite.sandbox.stand_in import with_sandbox_policy
from mpo_lite.tasks.hub import hub_problem
from mpo_lite.tasks.spec import task_of


@click.command("export", short_help="Export a trained policy as a model directory, or upload it.")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--merge",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Directory to write the merged model to.",
)
@click.option(
    "--push", "hub_id", metavar="HUB_ID", help="Upload the model to the Hugging Face Hub as user/name."
)
@click.option("--private", is_flag=True, help="Make the uploaded model private.")
@show_status
def command(run_dir: Path, folder: Path | None, hub_id: str | None, private: bool) -> None:
    """Export the policy of a run's last checkpoint, with its adapter merged in and a model card.

    The result is a directory that transformers and vLLM can load. Uploading needs a token with write access,
    from HF_TOKEN or "hf auth login".

    \b
    mpo-lite export runs/essay-20250428-101500 --merge essay-policy
    mpo-lite export runs/essay-20250428-101500 --push me/essay-policy
    """
    if not folder and not hub_id:
        raise ConfigError("export: give a destination: --merge DIR, --push HUB_ID, or both")
    run, config = RunDir.open(run_dir, {})
    if run.begun_by != "train":
        owner = "a service" if run.begun_by == "serve" else "a trainer of your own"
        raise ConfigError(
            f"{run_dir}: written by {owner}; the policy is where it was trained: merge it there"
        )
    checkpoint = intact_checkpoint(run)
    if hub_id:
        _check_hub(hub_id)
    if folder:
        with new_folder(folder) as fresh:
            _write_model(run, config, checkpoint, fresh)
        echo(f"wrote {folder}: {checkpoint.name}, merged")
        if hub_id:
            echo(f"uploaded: {_upload(folder, hub_id, private)}")
    elif hub_id:
        with tempfile.TemporaryDirectory(prefix="mpo-lite-export-") as scratch:
            _write_model(run, config, checkpoint, Path(scratch))
            echo(f"uploaded: {_upload(Path(scratch), hub_id, private)}")


def _write_model(run: RunDir, config: Config, checkpoint: Path, folder: Path) -> None:
    """Writes the merged policy and its card."""
    with activity(f"loading policy {config.policy}"):
        from mpo_lite.training.export import merge  # loads torch
    with activity(f"merging the adapter into {config.policy}"):
        merge(with_sandbox_policy(config), checkpoint, folder)
    card = write_model_card(run, config, read_state(checkpoint)["batch"], task_of(config).purpose)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _check_hub(hub_id: str) -> None:
    """Raises ``ConfigError`` if nothing can be uploaded, before a model is loaded and merged for nothing."""
    if problem := hub_problem():
        raise ConfigError(
            f"--push {hub_id}: {problem}; write the model to a directory with --merge DIR and upload it later"
        )


def _upload(folder: Path, hub_id: str, private: bool) -> str:
    from huggingface_hub import HfApi

    with refusals(f"--push {hub_id}"), activity(f"uploading to {hub_id}"):
        api = HfApi()
        api.create_repo(hub_id, private=private, exist_ok=True)
        return api.upload_folder(folder_path=folder, repo_id=hub_id, commit_message="Add policy").commit_url
