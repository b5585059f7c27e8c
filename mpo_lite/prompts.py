"""Fixed prompt templates, and fences around text that may be hostile.

A template is a shipped file with ``$name`` slots and an ``=== system`` or ``=== user`` heading per message.
Values are filled in once and never read as templates. Text from a policy or a user is fenced with a nonce
that it cannot guess, so it cannot fake the end of the fence.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template
from typing import NamedTuple

from mpo_lite.sanitize import neutralize
from mpo_lite.types import Message

_HEADING = re.compile(r"^=== (system|user)\n", re.MULTILINE)
_SLOT_OR_HEADING = re.compile(r"\$\w+|^=== \w+", re.MULTILINE)
_BEGIN = re.compile(r"^<(\w+)-([0-9a-f]{12})>\n", re.MULTILINE)


@dataclass(frozen=True)
class Prompt:
    """A filled-in template.

    Attributes:
        template: Its name, e.g. ``judge/pointwise``; empty if the messages do not come from a template.
        messages: The messages to send.
    """

    template: str
    messages: list[Message]


class Block(NamedTuple):
    """One piece of material: a line of ours above it, its tag, and its text, which may be hostile."""

    lead: str
    tag: str
    text: str


@cache
def prompts_dir() -> Path:
    """The folder of shipped prompts: inside an installed wheel, or next to the package in a checkout."""
    package = Path(__file__).parent
    installed = package / "prompts"
    return installed if installed.is_dir() else package.parent / "prompts"


@cache
def builtin_tasks() -> tuple[str, ...]:
    """Names of the shipped tasks, sorted."""
    return tuple(sorted(path.parent.name for path in (prompts_dir() / "tasks").glob("*/task.yaml")))


@cache
def _template(name: str) -> str:
    return (prompts_dir() / f"{name}.md").read_text(encoding="utf-8")


def render(name: str, **values: str) -> Prompt:
    """Fills the template ``prompts/<name>.md``.

    Args:
        name: Path in ``prompts/`` without its suffix, e.g. ``judge/pointwise``.
        values: One text per slot.

    Raises:
        KeyError: A slot has no value.
    """
    return Prompt(name, render_text(_template(name), **values))


def repeats_template(name: str, text: str, run: int = 8) -> bool:
    """Whether a text shares at least ``run`` consecutive words with a template."""
    return any(repeats_text(part, text, run) for part in _SLOT_OR_HEADING.split(_template(name)))


def repeats_text(source: str, text: str, run: int) -> bool:
    """Whether a text shares at least ``run`` consecutive words with a source."""
    return not set(_word_windows(source, run)).isdisjoint(_word_windows(text, run))


def _word_windows(text: str, size: int) -> list[tuple[str, ...]]:
    """Every run of ``size`` words, ignoring case and punctuation."""
    words = re.findall(r"\w+", text.lower())
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]


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

    The nonce is an HMAC of the text: unpredictable without the key, but the same for the same text, so that
    caches work. The text is neutralised (``mpo_lite.sanitize``).

    Args:
        tag: What the text is: ``task``, ``completion``, ...
        text: Anything.
        key: The secret of the cache directory.
    """
    clean = neutralize(text)
    nonce = hmac.new(key, clean.encode(), hashlib.sha256).hexdigest()[:12]
    # All but impossible, but such a text could close its own fence.
    clean = clean.replace(nonce, "")
    return f"<{tag}-{nonce}>\n{clean}\n</{tag}-{nonce}>"


def fence_blocks(blocks: Iterable[Block], key: bytes) -> str:
    """Each block's text in a fence, under its lead if it has one; see ``fence``."""
    fenced = ((block.lead, fence(block.tag, block.text, key)) for block in blocks)
    return "\n\n".join(f"{lead}\n{text}" if lead else text for lead, text in fenced)


def extract_fenced(tag: str, content: str) -> list[str]:
    """The texts between fences with this tag, in order; the inverse of ``fence``."""
    texts: list[str] = []
    position = 0
    while match := _BEGIN.search(content, position):
        end = content.find(f"\n</{match[1]}-{match[2]}>", match.end() - 1)
        if end < 0:
            break
        if match[1] == tag:
            texts.append(content[match.end() : end])
        position = end + 1
    return texts
