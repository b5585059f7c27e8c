"""The one way to the terminal: what models, servers and files say is shown there, and cannot act on it.

An escape sequence in an answer could set the window's title, clear the screen or rewrite an earlier line, and
markup could pass for a style of ours. Every command writes through here, and so nothing of that works.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

import click

from mpo_lite.sanitize import escape_controls

if TYPE_CHECKING:
    from rich.console import Console


def echo(text: str = "", *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Writes a text as it is, its control characters made visible.

    Args:
        text: What to write.
        err: To stderr instead of stdout.
        nl: Whether a new line follows.
        style: Of the whole text, as ``click.style`` takes it.
    """
    shown = escape_controls(text)
    click.echo(click.style(shown, **style) if style else shown, err=err, nl=nl)


def console(file: TextIO | None = None, soft_wrap: bool = True) -> Console:
    """A console for tables and panels: texts in them are texts, without markup or control characters.

    Args:
        file: Where to write; None for stdout.
        soft_wrap: Whether the terminal, and not the console, breaks long lines.
    """
    from rich.console import Console, ConsoleOptions, RenderableType  # only on use: commands must start fast
    from rich.segment import Segment

    class Screen(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                # Its own movements of the cursor are marked as such; all else is text.
                yield segment if segment.control else segment._replace(text=escape_controls(segment.text))

    return Screen(file=file, markup=False, emoji=False, highlight=False, soft_wrap=soft_wrap)
