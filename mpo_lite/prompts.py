"""Fixed prompt templates, and the fence around text that may be hostile.

A template is a file of ours with ``$name`` slots and one ``=== system`` and ``=== user`` heading per message.
Values are filled in once and never read as templates. What a policy or a user wrote is fenced by a nonce it
cannot guess, so it cannot pretend that the fence ended.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from functools import cache
from pathlib import Path
from string import Template

from mpo_lite.types import Message

_HEADING = re.compile(r"^=== (system|user)\n", re.MULTILINE)
_CONTROL = re.compile(
    r"<(?=[|｜])|(?<=[|｜])>"  # <|im_end|> and its like
    r"|<(?=/?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn)>)|<(?=</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS)\])"
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
    r"|[\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]"  # text that nobody sees, or sees turned round
    r"|[\ud800-\udfff]"  # halves of characters, which cannot be sent
)
"""What a chat template may take for a token of its own, where models use it, and invisible text."""
_BEGIN = re.compile(r"^<(\w+)-([0-9a-f]{12})>\n", re.MULTILINE)


@cache
def prompts_dir() -> Path:
    """The folder of shipped prompts: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).parent
    installed = package / "prompts"
    return installed if installed.is_dir() else package.parent / "prompts"


@cache
def _template(name: str) -> str:
    return (prompts_dir() / f"{name}.md").read_text(encoding="utf-8")


def render(name: str, **values: str) -> list[Message]:
    """Fills the template ``prompts/<name>.md``.

    Args:
        name: Path below ``prompts/`` without its ending, e.g. ``judge/pointwise``.
        values: One text per slot.

    Returns:
        The messages, in order.

    Raises:
        KeyError: A slot has no value.
    """
    # Rubrics and critiques are written by models that have read what the policy wrote.
    return render_text(_template(name), **{slot: _CONTROL.sub(" ", text) for slot, text in values.items()})


def render_text(template: str, **values: str) -> list[Message]:
    """Fills a template given as text; see ``render``."""
    parts = _HEADING.split(template)[1:]
    return [
        Message(
            role="system" if role == "system" else "user", content=Template(body).substitute(values).strip()
        )
        for role, body in zip(parts[::2], parts[1::2], strict=True)
    ]


def fence(tag: str, text: str, key: bytes) -> str:
    """Wraps text in ``<tag-nonce>`` lines that the text cannot forge.

    The nonce is an HMAC of the text: unpredictable without the key, yet equal for equal text, so that caches
    work. Control characters and the brackets of ``<|…|>``, ``[INST]`` and the like are broken: a server's
    chat template must not take a sample's ``<|im_end|>`` for the end of its turn.

    Args:
        tag: What the text is: ``task``, ``completion``, ...
        text: Anything.
        key: The secret of the cache directory.
    """
    clean = _CONTROL.sub(" ", text)
    nonce = hmac.new(key, clean.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:12]
    clean = clean.replace(nonce, "")
    return f"<{tag}-{nonce}>\n{clean}\n</{tag}-{nonce}>"


def fenced(tag: str, content: str) -> list[str]:
    """The texts that ``content`` holds between fences of this tag, in order; the inverse of ``fence``."""
    found: list[str] = []
    position = 0
    while match := _BEGIN.search(content, position):
        end = content.find(f"\n</{match[1]}-{match[2]}>", match.end() - 1)
        if end < 0:
            break
        if match[1] == tag:
            found.append(content[match.end() : end])
        position = end + 1
    return found
