"""The Hugging Face Hub, if it can be reached."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit


def is_local_only(name: str) -> bool:
    """Whether a model or dataset must be read from this machine: a folder, or the Hub is out of reach.

    Checked here because the Hub's libraries retry for half a minute.
    """
    return Path(name).exists() or _is_offline() or not _is_reachable(_hub_address())


def explain_missing() -> str:
    """Why something could be loaded neither from the Hub nor from this machine."""
    if _is_offline():
        return "HF_HUB_OFFLINE is set and there is no local copy"
    host = _hub_address()[0]
    if not _is_reachable(_hub_address()):
        return f"{host} cannot be reached and there is no local copy"
    return f"{host} has nothing of this name that you can access; private ones need HF_TOKEN"


@contextmanager
def offline_datasets() -> Generator[None]:
    """Makes the library ``datasets``, which has no argument for it, read from this machine only."""
    from datasets import config  # pyright: ignore[reportMissingTypeStubs]

    before, config.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _hub_address() -> tuple[str, int]:
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    return address.hostname or "huggingface.co", address.port or 443


@cache
def _is_reachable(address: tuple[str, int]) -> bool:
    """Whether a server listens there. Behind a proxy, a direct connection shows nothing."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError:
        return False
    return True


def hub_problem() -> str | None:
    """Why nothing can be uploaded to the Hub; None if it can be reached."""
    if _is_offline():
        return "HF_HUB_OFFLINE is set, which forbids uploads; unset it"
    return None if _is_reachable(_hub_address()) else f"{_hub_address()[0]} cannot be reached"
