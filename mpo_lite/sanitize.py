"""Text helpers: counts in sentences; making model output visible and harmless, and removing its reasoning."""

from __future__ import annotations

import re

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
"""Tags around a model's reasoning; single tokens in models that have them."""
_THINK = (
    r"(?:<\s?{0}(?:think|thinking|thoughts?|reasoning|seed:think|longcat_think)(?:\s[^<>]{{0,80}})?>"
    r"|\[{0}THINK\]|◁{0}think▷)"
)
_OPENED, _CLOSED = (re.compile(_THINK.format(slash), re.IGNORECASE) for slash in ("", "/"))
_INVISIBLE = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f"
_SURROGATES = r"\ud800-\udfff"  # lone surrogates, which cannot be encoded
_SUSPECT = re.compile(rf"[<>\[\]◁‹｟{_INVISIBLE}{_SURROGATES}]")
_HTML = (
    "a|abbr|article|aside|b|blockquote|body|br|button|caption|cite|code|dd|del|details|dfn|div|dl|dt|em|figcaption"
    "|figure|footer|form|h[1-6]|head|header|hr|html|i|img|input|ins|kbd|label|li|link|main|mark|meta|nav|ol|option"
    "|p|pre|q|samp|script|section|select|small|span|strong|style|sub|summary|sup|svg|table|tbody|td|template"
    "|textarea|tfoot|th|thead|time|title|tr|u|ul|var"
)
_NAME = r"[\w▁][\w▁:+#-]{0,79}"
_TOKEN_SHAPE = re.compile(
    r"(?<=[<‹\[◁])(?=/?[|｜][^\s>])|(?<=[^\s<][|｜])(?=[>\]▷])"  # <|im_end|>, <｜User｜>, [|endofturn|]
    rf"|(?<=[<‹])(?=/?(?!(?:{_HTML})>){_NAME}/?>)"  # <s>, </think>, <start_of_turn>, <seed:eos>
    r"|(?<=\[)(?=/?(?=\w{0,40}[A-Z]{2}|unused)\w{2,48}\])"  # [INST], [/THINK], [gMASK]
    r"|(?<=◁)(?=/?\w{1,48}▷)"  # ◁think▷
    r"|(?<=<)(?=(?:function|parameter|tool)=)"  # <function=search>
    r"|(?<=\[)(?=(?:bos|eos|sep|pad|cls|mask|unk)\])"  # [bos]
    r"|(?<=\])(?=~)|(?<=~)(?=[!\[])|(?<=\])(?=[<‹]\])|(?<=\[)(?=>\[)"  # ]~b], [e~[, ]<]image[>[
    r"|(?<=｟)(?=\w)"  # ｟user｠
    r"|(?<=>)(?=>[A-Z]{2,48}<<)"  # >>ANSWER<<
    rf"|[{_INVISIBLE}{_SURROGATES}]"
)
"""Where to insert a space, by the shapes of special tokens. Other text of such a shape, like the type in
``List<int>``, stays readable with it; HTML tags are left alone."""


def pluralize(number: int, singular: str, plural: str = "") -> str:
    """A count and its noun, e.g. ``1 batch`` or ``2,000 batches``.

    Args:
        number: The count.
        singular: The noun for one.
        plural: The noun for none or several; empty: ``singular`` with an s.
    """
    return f"{number:,} {singular if number == 1 else plural or f'{singular}s'}"


def escape_controls(text: str) -> str:
    """Replaces invisible characters by pictures or numbers."""
    return "".join(map(_show_char, text))


def _show_char(char: str) -> str:
    code = ord(char)
    if char in "\n\t":
        return char
    if code < 0x20:
        return chr(0x2400 + code)  # the pictures of control characters
    # Joiners and direction marks (200C to 200F) stay: scripts and emoji need them, and they reorder nothing.
    unseen = code in (0x7F, 0x200B, 0xFEFF) or 0x80 <= code < 0xA0
    turning = 0x202A <= code <= 0x202E or 0x2060 <= code <= 0x206F
    return f"[U+{code:04X}]" if unseen or turning or 0xD800 <= code < 0xE000 or code >= 0xE0000 else char


def neutralize(text: str) -> str:
    """Breaks up what a chat template could read as a special token, and removes invisible text.

    A server's template must not read a sample's ``<|im_end|>`` or ``[/INST]`` as the end of its turn: a space
    is inserted after the opening bracket. Control characters, bidirectional overrides and lone surrogates
    become spaces.
    """
    # Fast path: most texts contain none of these characters.
    return _TOKEN_SHAPE.sub(" ", text) if _SUSPECT.search(text) else text


def strip_thinking(text: str, opened: bool = False) -> str:
    """The answer of a reasoning model: what follows the last ``</think>``, or its equivalent in other models.

    Args:
        text: The model's output.
        opened: Whether the prompt ended with ``<think>``, so that the text begins inside the reasoning.

    Returns:
        The unchanged text if it has no reasoning; empty if the reasoning was never closed.
    """
    end = max((match.end() for match in _CLOSED.finditer(text)), default=0)
    answer = text[end:]
    if _OPENED.search(answer) or (opened and not end):
        return ""
    return answer.lstrip() if end else text
