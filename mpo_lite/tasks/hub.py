"""The Hugging Face hub, where there is one."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit


def copies_alone(name: str) -> bool:
    """Whether a model or data set is to be read from this machine alone: it is a folder, or there is no hub.

    Its libraries ask for half a minute before they find that out.
    """
    return Path(name).exists() or _switched_off() or not _answers(_address())


def why_missing() -> str:
    """Why something is to be had neither from the hub nor from this machine."""
    if _switched_off():
        return "HF_HUB_OFFLINE is set and there is no local copy"
    host = _address()[0]
    if not _answers(_address()):
        return f"{host} cannot be reached and there is no local copy"
    return f"{host} has nothing of this name that you can access; private ones need HF_TOKEN"


@contextmanager
def cached_datasets() -> Generator[None]:
    """Has the library ``datasets``, which takes no such argument, read what is on this machine alone."""
    from datasets import config  # pyright: ignore[reportMissingTypeStubs]

    before, config.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _switched_off() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _address() -> tuple[str, int]:
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    return address.hostname or "huggingface.co", address.port or 443


@cache
def _answers(address: tuple[str, int]) -> bool:
    """Whether anybody listens there. Behind a proxy a direct connection says nothing."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError:
        return False
    return True


def hub_problem() -> str | None:
    """Why nothing can be uploaded to the hub; None where it can be reached."""
    if _switched_off():
        return "HF_HUB_OFFLINE is set, which forbids uploads; unset it"
    return None if _answers(_address()) else f"{_address()[0]} cannot be reached"
