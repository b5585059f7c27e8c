"""Texts: counts in sentences, and what a model wrote, made visible, harmless and without its thinking."""

from __future__ import annotations

import re

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
"""What reasoning models put around their thinking; as tokens of their own, where they have such."""
_THINK = (
    r"(?:<\s?{0}(?:think|thinking|thoughts?|reasoning|seed:think|longcat_think)(?:\s[^<>]{{0,80}})?>"
    r"|\[{0}THINK\]|◁{0}think▷)"
)
_OPENED, _CLOSED = (re.compile(_THINK.format(sign), re.IGNORECASE) for sign in ("", "/"))
_UNSEEN = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f"
_HALVES = r"\ud800-\udfff"  # halves of characters, which cannot be sent
_SUSPECT = re.compile(rf"[<>\[\]◁‹｟{_UNSEEN}{_HALVES}]")
_HTML = (
    "a|abbr|article|aside|b|blockquote|body|br|button|caption|cite|code|dd|del|details|dfn|div|dl|dt|em|figcaption"
    "|figure|footer|form|h[1-6]|head|header|hr|html|i|img|input|ins|kbd|label|li|link|main|mark|meta|nav|ol|option"
    "|p|pre|q|samp|script|section|select|small|span|strong|style|sub|summary|sup|svg|table|tbody|td|template"
    "|textarea|tfoot|th|thead|time|title|tr|u|ul|var"
)
_NAME = r"[\w▁][\w▁:+#-]{0,79}"
_MARK = re.compile(
    r"(?<=[<‹\[◁])(?=/?[|｜][^\s>])|(?<=[^\s<][|｜])(?=[>\]▷])"  # <|im_end|>, <｜User｜>, [|endofturn|]
    rf"|(?<=[<‹])(?=/?(?!(?:{_HTML})>){_NAME}/?>)"  # <s>, </think>, <start_of_turn>, <seed:eos>
    r"|(?<=\[)(?=/?(?=\w{0,40}[A-Z]{2}|unused)\w{2,48}\])"  # [INST], [/THINK], [gMASK]
    r"|(?<=◁)(?=/?\w{1,48}▷)"  # ◁think▷
    r"|(?<=<)(?=(?:function|parameter|tool)=)"  # <function=search>
    r"|(?<=\[)(?=(?:bos|eos|sep|pad|cls|mask|unk)\])"  # [bos]
    r"|(?<=\])(?=~)|(?<=~)(?=[!\[])|(?<=\])(?=[<‹]\])|(?<=\[)(?=>\[)"  # ]~b], [e~[, ]<]image[>[
    r"|(?<=｟)(?=\w)"  # ｟user｠
    r"|(?<=>)(?=>[A-Z]{2,48}<<)"  # >>ANSWER<<
    rf"|[{_UNSEEN}{_HALVES}]"
)
"""Where a space goes, by the shapes that special tokens have. What shares a shape, such as the type in
``List<int>``, is as readable with it; tags of HTML are left alone."""


def pluralize(number: int, one: str, several: str = "") -> str:
    """A count and its noun, e.g. ``1 batch`` or ``2,000 batches``.

    Args:
        number: How many.
        one: The noun for one.
        several: The noun for none or several; empty: ``one`` with an s.
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def escape_controls(text: str) -> str:
    """A text with pictures or numbers in the place of characters that nobody sees."""
    return "".join(map(_visible, text))


def _visible(sign: str) -> str:
    code = ord(sign)
    if sign in "\n\t":
        return sign
    if code < 0x20:
        return chr(0x2400 + code)  # the pictures of control characters
    # Joiners and marks of direction (200C to 200F) stay: scripts and emoji need them, and they turn nothing.
    unseen = code in (0x7F, 0x200B, 0xFEFF) or 0x80 <= code < 0xA0
    turning = 0x202A <= code <= 0x202E or 0x2060 <= code <= 0x206F
    return f"[U+{code:04X}]" if unseen or turning or 0xD800 <= code < 0xE000 or code >= 0xE0000 else sign


def neutralize(text: str) -> str:
    """Breaks what a chat template may take for a token of its own, and takes out text that nobody sees.

    A server's template must not take a sample's ``<|im_end|>`` or ``[/INST]`` for the end of its turn: a
    space goes behind the opening bracket. Control characters, marks that turn text round and halves of
    surrogate pairs become spaces.
    """
    # Most texts hold nothing that could matter, and a search for single characters is quick.
    return _MARK.sub(" ", text) if _SUSPECT.search(text) else text


def strip_thinking(text: str, opened: bool = False) -> str:
    """The answer of a reasoning model: what follows the last ``</think>``, or its like in other models.

    Args:
        text: What it wrote.
        opened: The prompt ended with ``<think>``, so that the text begins inside of it.

    Returns:
        The text as it is where nothing was thought; nothing where the thinking was never closed.
    """
    end = max((mark.end() for mark in _CLOSED.finditer(text)), default=0)
    answer = text[end:]
    if _OPENED.search(answer) or (opened and not end):
        return ""
    return answer.lstrip() if end else text
