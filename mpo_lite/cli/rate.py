"""``mpo-lite rate``: rate models from a file of pairwise matches."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mpo_lite.cli._options import json_option
from mpo_lite.cli.terminal import echo
from mpo_lite.errors import TaskError
from mpo_lite.tasks.data import read_data_file

COLUMNS = ("prompt", "model_a", "model_b", "winner")
"""Columns of a file of matches."""


@click.command("rate", short_help="Rate models from a file of pairwise matches.")
@click.argument("file", metavar="MATCHES", type=click.Path(path_type=Path))
@click.option(
    "--online-elo",
    metavar="K",
    type=click.FloatRange(min=0, min_open=True),
    help="Also compute online Elo, with updates of K points per match in file order (the paper uses 4).",
)
@json_option
def command(file: Path, online_elo: float | None, as_json: bool) -> None:
    """Rate models from pairwise matches: Bradley-Terry strengths on the Elo scale, mean 1000, with 95%
    intervals.

    MATCHES is .jsonl, .csv or .parquet with the columns prompt, model_a (shown first), model_b and winner
    (one of the two, or "tie"). Ratings are corrected for position bias. Intervals are bootstrapped over
    prompts, 1000 times; with fewer than 10 prompts there are none. Models that are not connected by matches
    are rated in separate groups.

    \b
    mpo-lite rate matches.jsonl
    mpo-lite rate matches.jsonl --online-elo 4 --json
    """
    ratings = rate_matches(file, online_elo)
    echo(json.dumps(ratings) if as_json else "\n".join(format_ratings(ratings)))


def rate_matches(file: Path, online_k: float | None = None) -> dict[str, Any]:
    """The ratings of a file of matches, as ``--json`` prints them.

    ``groups`` are models connected by matches; ratings of different groups are not comparable. ``lo`` and
    ``hi`` are None where they are unknown. ``position_bias`` is the share of matches that the model shown
    first won; ``position_elo`` is the value of being shown first in points, for which ``elo`` is corrected.

    Raises:
        TaskError: The file cannot be read, or a row is not a match; names it.
    """
    # Loads numpy, which other commands that import this module do not need.
    from mpo_lite.stats.rating import Match, fit_ratings, online_elo

    matches = [
        Match(*_parse_match(row, f"{file}: row {n}")) for n, row in enumerate(read_data_file(file), start=1)
    ]
    if not matches:
        raise TaskError(f"{file}: contains no matches")
    table = fit_ratings(matches)
    ratings: dict[str, Any] = {
        "ratings": {name: asdict(rating) for name, rating in table.ratings.items()},
        "groups": table.groups,
        "position_bias": table.first_wins / table.matches,
        "position_elo": table.advantage,
        "matches": table.matches,
    }
    return ratings | ({"online_elo": online_elo(matches, online_k)} if online_k else {})


def format_ratings(result: dict[str, Any]) -> list[str]:
    """The lines that are printed of ``rate_matches``."""
    ratings, groups = result["ratings"], result["groups"]
    lines: list[str] = []
    if len(groups) > 1:
        lines.append(f"no matches connect these {len(groups)} groups; each is rated on its own scale")
    width = max(map(len, ratings))
    for number, group in enumerate(groups, start=1):
        lines += [f"group {number}"] if len(groups) > 1 else []
        lines += [_format_rating(name, ratings[name], width) for name in group]
    if any(rating["lo"] is None for rating in ratings.values()):
        lines.append(
            "[?]: no interval, because there are too few prompts or every match had the same outcome"
        )
    first = round(result["position_bias"] * result["matches"], 1)
    lines.append(
        f"shown first won {first:g} of {result['matches']} ({result['position_bias']:.1%}); ratings are "
        f"corrected for this position bias of {result['position_elo']:+.0f} points"
    )
    if "online_elo" in result:
        elos = ", ".join(f"{name} {elo:.2f}" for name, elo in result["online_elo"].items())
        lines.append(f"online Elo (depends on the order of matches): {elos}")
    return lines


def _format_rating(name: str, rating: dict[str, Any], width: int) -> str:
    interval = "?" if rating["lo"] is None else f"{rating['lo']:.1f}, {rating['hi']:.1f}"
    won = f"{rating['wins']:g} of {rating['games']} won ({rating['wins'] / rating['games']:.0%})"
    return f"{name:{width}}  {rating['elo']:7.1f}  [{interval}]  {won}"


def _parse_match(row: dict[str, Any], where: str) -> tuple[str, str, str, str]:
    texts = [row.get(column) for column in COLUMNS]
    if not all(isinstance(text, str) and text for text in texts):
        raise TaskError(f"{where}: must have text in {', '.join(COLUMNS)}")
    prompt, first, second, winner = map(str, texts)
    if first == second or winner not in (first, second, "tie"):
        raise TaskError(f'{where}: winner must be one of two different models, or "tie"')
    return prompt, first, second, winner
