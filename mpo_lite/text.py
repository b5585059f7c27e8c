"""Text that somebody else wrote, made harmless to a chat template."""

from __future__ import annotations

import re

_UNSEEN = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f"
_HALVES = r"\ud800-\udfff"  # halves of characters, which cannot be sent
_SUSPECT = re.compile(rf"[<>\[{_UNSEEN}{_HALVES}]")
_CONTROL = re.compile(
    r"<(?=[|｜])|(?<=[|｜])>"  # <|im_end|> and its like
    r"|<(?=/?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn)>)|<(?=</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS)\])"
    rf"|[{_UNSEEN}{_HALVES}]"
)


def defuse(text: str) -> str:
    """Breaks what a chat template may take for a token of its own, and takes out text that nobody sees.

    A server's template must not take a sample's ``<|im_end|>`` or ``[/INST]`` for the end of its turn.
    Control characters, marks that turn text round and halves of surrogate pairs become spaces.
    """
    # Most texts hold nothing that could matter, and a search for single characters is quick.
    return _CONTROL.sub(" ", text) if _SUSPECT.search(text) else text
