"""The Hugging Face hub, where there is one."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit


def go_offline_without_hub() -> None:
    """Lets the hub's libraries use their local copies alone where the hub cannot be reached.

    Called before they are imported, which is when they read the setting. Left to themselves they retry for
    half a minute. Behind a proxy nothing is changed: a direct connection says nothing there.
    """
    if os.environ.get("HF_HUB_OFFLINE") or os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=5).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
