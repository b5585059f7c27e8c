"""The Hugging Face hub, where there is one."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit


def hub_problem() -> str | None:
    """Why the hub cannot be reached; None where it can, or where a proxy is set, which may reach it."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return None
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=5).close()
    except OSError as error:
        return f"{address.hostname} cannot be reached ({error.strerror or error})"
    return None


def go_offline_without_hub() -> None:
    """Lets the hub's libraries use their local copies alone where the hub cannot be reached.

    Called before they are imported, which is when they read the setting. Left to themselves they retry for
    half a minute.
    """
    if not os.environ.get("HF_HUB_OFFLINE") and hub_problem():
        os.environ["HF_HUB_OFFLINE"] = "1"
