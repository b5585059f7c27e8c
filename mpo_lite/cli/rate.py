"""``mpo-lite fit_ratings``: ratings from a file of pairwise matches."""

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

# numpy is loaded on use: the command line must be instant.
COLUMNS = ("prompt", "model_a", "model_b", "winner")


@click.command("rate", short_help="Rate models by pairwise matches.")
@click.argument("file", metavar="MATCHES", type=click.Path(path_type=Path))
@click.option(
    "--online-elo",
    metavar="K",
    type=click.FloatRange(min=0, min_open=True),
    help="Also Elo by updates of K points after each match, in the file's order (the paper's code: 4).",
)
@json_option
def command(file: Path, online_elo: float | None, as_json: bool) -> None:
    """Rate models by pairwise matches: Bradley-Terry strengths on the Elo scale, mean 1000, with 95%
    intervals.

    MATCHES is .jsonl, .csv or .parquet with the columns prompt, model_a (shown first), model_b and winner
    (one of the two, or "tie"). What being shown first is worth is estimated and taken out. Intervals come
    from drawing prompts anew, 1000 times; matches on fewer than 10 prompts tell none. Models that no chain of
    matches connects are rated apart.

    \b
    mpo-lite rate matches.jsonl
    mpo-lite rate matches.jsonl --online-elo 4 --json
    """
    told = rated(file, online_elo)
    echo(json.dumps(told) if as_json else "\n".join(lines(told)))


def rated(file: Path, online_k: float | None = None) -> dict[str, Any]:
    """The ratings of a file of matches, as ``--json`` prints them.

    ``groups`` are the models that matches connect; ratings of two groups are not comparable. ``lo`` and
    ``hi`` are None where they cannot be known. ``position_bias`` is the share of matches that the model shown
    first won; ``position_elo`` what being shown first is worth, in points, and what ``elo`` is without.

    Raises:
        TaskError: The file cannot be read, or a row is no match; says which.
    """
    from mpo_lite.stats.rating import Match, fit_ratings, online_elo

    matches = [Match(*_match(row, f"{file}: row {n}")) for n, row in enumerate(read_data_file(file), start=1)]
    if not matches:
        raise TaskError(f"{file}: no matches in it")
    table = fit_ratings(matches)
    told: dict[str, Any] = {
        "ratings": {name: asdict(rating) for name, rating in table.ratings.items()},
        "groups": table.groups,
        "position_bias": table.first_wins / table.matches,
        "position_elo": table.advantage,
        "matches": table.matches,
    }
    return told | ({"online_elo": online_elo(matches, online_k)} if online_k else {})


def lines(told: dict[str, Any]) -> list[str]:
    """The ratings for a person."""
    ratings, groups = told["ratings"], told["groups"]
    shown: list[str] = []
    if len(groups) > 1:
        shown.append(f"no match connects these {len(groups)} groups: each is rated on a scale of its own")
    width = max(map(len, ratings))
    for number, group in enumerate(groups, start=1):
        shown += [f"group {number}"] if len(groups) > 1 else []
        shown += [_line(name, ratings[name], width) for name in group]
    if any(one["lo"] is None for one in ratings.values()):
        shown.append("[?]: no interval can be known from so few prompts, or where every match ended the same")
    first = round(told["position_bias"] * told["matches"], 1)
    shown.append(
        f"shown first won {first:g} of {told['matches']} ({told['position_bias']:.1%}), worth "
        f"{told['position_elo']:+.0f} points, taken out above"
    )
    if "online_elo" in told:
        elos = ", ".join(f"{name} {elo:.2f}" for name, elo in told["online_elo"].items())
        shown.append(f"online Elo, which depends on the order of matches: {elos}")
    return shown


def _line(name: str, one: dict[str, Any], width: int) -> str:
    interval = "?" if one["lo"] is None else f"{one['lo']:.1f}, {one['hi']:.1f}"
    won = f"{one['wins']:g} of {one['games']} won ({one['wins'] / one['games']:.0%})"
    return f"{name:{width}}  {one['elo']:7.1f}  [{interval}]  {won}"


def _match(row: dict[str, Any], where: str) -> tuple[str, str, str, str]:
    texts = [row.get(column) for column in COLUMNS]
    if not all(isinstance(text, str) and text for text in texts):
        raise TaskError(f"{where}: must have texts in {', '.join(COLUMNS)}")
    prompt, first, second, winner = map(str, texts)
    if first == second or winner not in (first, second, "tie"):
        raise TaskError(f'{where}: winner must be one of two different models, or "tie"')
    return prompt, first, second, winner
