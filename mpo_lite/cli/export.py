"""``mpo-lite export``: a trained policy as a plain model folder, here or on the hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from mpo_lite.activity import activity
from mpo_lite.checkpoints import intact_checkpoint, read_state
from mpo_lite.cli.job import with_sandbox_policy
from mpo_lite.cli.status import show_status
from mpo_lite.errors import ConfigError, refusals
from mpo_lite.report.card import model_card
from mpo_lite.runs import Run
from mpo_lite.tasks.spec import task_of


@click.command("export", short_help="Write a trained policy as a plain model folder.")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--merge", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Write it there.")
@click.option("--push", "hub_id", metavar="HUB_ID", help="Upload it to the Hugging Face hub, as user/name.")
@click.option("--private", is_flag=True, help="Make what is uploaded private.")
@show_status
def command(run_dir: Path, folder: Path | None, hub_id: str | None, private: bool) -> None:
    """Write the policy of a run's last checkpoint, its adapter merged in, with a model card.

    The folder is one that transformers and vLLM load as it is. Uploading takes a token with write access,
    from HF_TOKEN or "hf auth login".

    \b
    mpo-lite export runs/essay-20250428-101500 --merge essay-policy
    mpo-lite export runs/essay-20250428-101500 --push me/essay-policy
    """
    if not folder and not hub_id:
        raise ConfigError("export: say where to: --merge DIR, --push HUB_ID, or both")
    run, config = Run.open(run_dir, {})
    if run.begun_by == "library":
        raise ConfigError(f"{run_dir}: a trainer of your own wrote it and holds the policy; merge it there")
    checkpoint = intact_checkpoint(run)
    card = model_card(run, config, read_state(checkpoint)["batch"], task_of(config).purpose)
    if folder and folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty; name a new folder")
    with activity(f"loading policy {config.policy}"):
        from mpo_lite.training.export import merge  # loads torch

    place = folder.absolute().parent if folder else None
    if place:
        place.mkdir(parents=True, exist_ok=True)
    # Beside its place, and moved there once it is whole: a kill leaves no half of a model.
    with tempfile.TemporaryDirectory(dir=place, prefix=".export-") as scratch:
        target = Path(scratch) / "policy"
        with activity(f"merging the adapter into {config.policy}"):
            merge(with_sandbox_policy(config), checkpoint, target)
        (target / "README.md").write_text(card, encoding="utf-8")
        if hub_id:
            click.echo(f"uploaded: {_push(target, hub_id, private)}")
        if folder:
            target.replace(folder)  # which is not there, or empty
            click.echo(f"{folder}: {checkpoint.name}, merged")


def _push(folder: Path, hub_id: str, private: bool) -> str:
    from huggingface_hub import HfApi

    with refusals(f"--push {hub_id}"), activity(f"uploading to {hub_id}"):
        api = HfApi()
        api.create_repo(hub_id, private=private, exist_ok=True)
        return api.upload_folder(folder_path=folder, repo_id=hub_id, commit_message="Add policy").commit_url
