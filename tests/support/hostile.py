"""Text that would act on a terminal."""

import re

TITLE, LINK, CLEAR = (
    "\x1b]0;owned\x07",
    "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x1b[2J\x1b[H",
)
COLOUR, EIGHT_BIT, BIDI, BACK = "\x1b[31mred", "\x9b2J", "\u202egpj.exe\u2066", "\rmpo-lite: \x08\x08"
MARKUP = "[bold]fat[/bold] [/] :smile:"
HOSTILE = f"it {MARKUP} {TITLE}{CLEAR}{LINK}{COLOUR}{EIGHT_BIT}{BIDI}{BACK}"
ACTS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What acts on a terminal, or turns its text round."""


def assert_harmless(text: str) -> None:
    """Asserts that of the hostile text all is there to be seen, and nothing to act."""
    assert not ACTS.search(text)
    seen = "".join(text.split())  # lines may have been broken
    assert "[bold]fat[/bold][/]:smile:" in seen
    assert "␛]0;owned" in seen and "␛[2J" in seen and "[U+202E]gpj.exe" in seen
