"""Checks ``policy.md``: messages, each under a line with its role, and ``$prompt`` in one of them."""

from __future__ import annotations

import re
from string import Template

from mpo_lite.errors import TaskError
from mpo_lite.prompts import render_text

DEFAULT = "=== user\n$prompt\n"
"""The prompt alone."""
_ROLE = re.compile(r"^===[ \t]*(\w*)[ \t]*$")


def check_policy_prompt(text: str, where: str) -> None:
    """Checks that a template makes a conversation.

    Args:
        text: The template.
        where: Its file, for errors.

    Raises:
        TaskError: It does not; says in which line.
    """
    roles: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        heading = _ROLE.match(line)
        if heading and line not in ("=== system", "=== user"):
            raise TaskError(f"{where}:{number}: '{line}' is not a role; write '=== user' or '=== system'")
        if heading:
            roles.append(heading[1])
        elif not roles and line.strip():
            raise TaskError(f"{where}:{number}: text before the first role; begin with a line '=== user'")
        _check_slots(line, f"{where}:{number}")
    if "user" not in roles:
        raise TaskError(f"{where}: has no user message; add a line '=== user'")
    if "prompt" not in Template(text).get_identifiers():
        raise TaskError(f"{where}: has no $prompt, so the policy would never see the prompt; add it")


def describe_policy_prompt(text: str) -> str:
    """The conversation of a template for a reader, with [task] for the prompt; empty where it is the prompt
    alone.
    """
    messages = render_text(text, prompt="[task]")
    if [message["content"] for message in messages] == ["[task]"]:
        return ""
    roles = {"system": "System message", "user": "Message"}
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{roles[message['role']]}: {message['content']}" for message in messages)


def _check_slots(line: str, where: str) -> None:
    template = Template(line)
    if not template.is_valid():
        raise TaskError(f"{where}: write '$$' for a literal '$'")
    if unknown := [name for name in template.get_identifiers() if name != "prompt"]:
        raise TaskError(
            f"{where}: ${unknown[0]} is unknown; only $prompt is filled in, and '$$' is a literal '$'"
        )
