"""All output to the terminal: texts of models, servers and files are shown, but cannot control it.

An escape sequence in an answer could set the window's title, clear the screen or rewrite an earlier line, and
markup could imitate our own styles. Every command writes through here, where both are made harmless.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

import click

from mpo_lite.sanitize import escape_controls

if TYPE_CHECKING:
    from rich.console import Console


def echo(text: str = "", *, stderr: bool = False, nl: bool = True, **style: Any) -> None:
    """Writes a text with its control characters made visible.

    Args:
        text: What to write.
        stderr: To stderr instead of stdout.
        nl: Whether to end the line.
        style: Style of the whole text, as for ``click.style``.
    """
    shown = escape_controls(text)
    click.echo(click.style(shown, **style) if style else shown, err=stderr, nl=nl)


def console(file: TextIO | None = None, soft_wrap: bool = True) -> Console:
    """A console for tables and panels, which shows markup and control characters as text.

    Args:
        file: Where to write; None for stdout.
        soft_wrap: Whether the terminal breaks long lines, instead of the console.
    """
    from rich.console import (  # imported on use: commands must start fast
        Console,
        ConsoleOptions,
        RenderableType,
    )
    from rich.segment import Segment

    class Screen(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                # Only the console's own cursor movements are marked as control; all else is text.
                yield segment if segment.control else segment._replace(text=escape_controls(segment.text))

    return Screen(file=file, markup=False, emoji=False, highlight=False, soft_wrap=soft_wrap)
