"""Ratings from pairwise matches: Bradley–Terry by maximum likelihood, corrected for position bias.

Each match records which answer was shown first, so position bias is estimated together with the strengths,
and the strengths are free of it (Bradley & Terry 1952; Davidson & Beaver 1977 for order effects). A tie
counts half for each side. Intervals are bootstrapped over prompts, not matches, because the two orders of a
pair, and all pairs on a prompt, are not independent.

Resampling a few prompts says little, and nothing if one model won every match: such intervals are left out.
Models that no chain of matches connects are on separate scales, each with mean 1000.

The online Elo of the paper's code depends on the order of matches and ignores position bias; it is included
to reproduce figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TIE = "tie"
MEAN = 1000.0
POINTS = 400.0 / np.log(10.0)
"""Elo points per unit of log odds."""
PRIOR_SD = 2.0
"""Prior standard deviation of a strength in log odds, about 350 points. It keeps a model that never lost
finite, and weighs as much as a few matches."""
DRAWS = 1000
LEAST_PROMPTS = 10
"""Prompts that a model needs for an interval: bootstrapped from fewer, it is too narrow."""
_STEPS, _LONGEST = 100, 2.0


@dataclass(frozen=True)
class Match:
    """One match.

    Attributes:
        prompt: What both answered; matches on one prompt are resampled together.
        first: Model whose answer was shown first.
        second: Model whose answer was shown second.
        winner: One of the two, or ``tie``.
    """

    prompt: str
    first: str
    second: str
    winner: str

    @property
    def score(self) -> float:
        """Score of the first model: 1, 0 or, for a tie, 0.5."""
        return 0.5 if self.winner == TIE else float(self.winner == self.first)


@dataclass(frozen=True)
class Rating:
    """A model's strength.

    Attributes:
        elo: Rating on the Elo scale; the mean of its group is 1000.
        lo: Lower end of the 95% interval; None if the matches are too few or too one-sided.
        hi: Upper end of that interval, or None.
        wins: Matches won; a tie counts 0.5.
        games: Matches played.
    """

    elo: float
    lo: float | None
    hi: float | None
    wins: float
    games: int


@dataclass(frozen=True)
class RatingTable:
    """Ratings of several models.

    Attributes:
        ratings: Model → rating, by group, the strongest of each first.
        groups: Models that matches connect, by group. Ratings from different groups are not comparable.
        first_wins: Matches won by the model shown first; a tie counts 0.5.
        advantage: Position bias: points that being shown first is worth.
        matches: Number of matches.
    """

    ratings: dict[str, Rating]
    groups: list[list[str]]
    first_wins: float
    advantage: float
    matches: int


def fit_ratings(matches: Sequence[Match], draws: int = DRAWS, seed: int = 0) -> RatingTable:
    """Rates the models that played the matches.

    Args:
        matches: At least one, in any order.
        draws: Bootstrap draws for the intervals.
        seed: Seed of the draws.
    """
    names = sorted({name for match in matches for name in (match.first, match.second)})
    pairs = sorted({(match.first, match.second) for match in matches})
    design = _design(names, pairs)
    games, scores = _count_by_pair(matches, pairs)  # (prompts, pairs) each
    strengths = _fit(design, games.sum(0)[None], scores.sum(0)[None])[0]
    resampled = np.random.default_rng(seed).multinomial(
        len(games), np.full(len(games), 1 / len(games)), size=draws
    )
    weights = resampled.astype(np.float64)
    groups = _connected_groups(names, pairs)
    elo_draws = _elo(_fit(design, weights @ games, weights @ scores)[:, :-1], groups)  # (draws, models)
    low, high = np.percentile(elo_draws, [2.5, 97.5], axis=0)
    elo = _elo(strengths[:-1], groups)
    ratings: dict[str, Rating] = {}
    for group in groups:
        for n in sorted(group, key=lambda n: -elo[n]):
            record, prompts = _count_record(names[n], matches)
            has_interval = prompts >= LEAST_PROMPTS and high[n] - low[n] > 1e-6
            ends = (float(low[n]), float(high[n])) if has_interval else (None, None)
            ratings[names[n]] = Rating(float(elo[n]), *ends, *record)
    return RatingTable(
        ratings,
        [[name for name in ratings if names.index(name) in group] for group in groups],
        sum(match.score for match in matches),
        float(strengths[-1] * POINTS),
        len(matches),
    )


def online_elo(matches: Sequence[Match], k: float) -> dict[str, float]:
    """Elo by updates after each match, from 1000; later matches count for more.

    Args:
        matches: In the order they were played.
        k: Points at stake in a match; the paper's code uses 4.
    """
    elo: dict[str, float] = {}
    for match in matches:
        first, second = elo.setdefault(match.first, MEAN), elo.setdefault(match.second, MEAN)
        change = k * (match.score - 1 / (1 + 10 ** ((second - first) / 400)))
        elo[match.first], elo[match.second] = first + change, second - change
    return elo


def _count_record(name: str, matches: Sequence[Match]) -> tuple[tuple[float, int], int]:
    """Matches won and played, and prompts played on."""
    played = [match for match in matches if name in (match.first, match.second)]
    wins = sum(match.score if match.first == name else 1 - match.score for match in played)
    return (wins, len(played)), len({match.prompt for match in played})


def _connected_groups(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
    """Indices of the models that chains of matches connect, by group, the largest first."""
    group = {name: {name} for name in names}
    for first, second in pairs:
        joined = group[first] | group[second]
        group |= dict.fromkeys(joined, joined)
    distinct = {min(members): sorted(members) for members in group.values()}
    places_by_group = [[names.index(name) for name in members] for members in distinct.values()]
    return sorted(places_by_group, key=lambda places: (-len(places), places))


def _design(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Floats:
    """Design matrix (pairs, models + 1): +1 for the model shown first, -1 for the other; the last column is
    the position bias.
    """
    rows = np.zeros((len(pairs), len(names) + 1))
    for row, (first, second) in enumerate(pairs):
        rows[row, names.index(first)] += 1
        rows[row, names.index(second)] -= 1
        rows[row, -1] = 1
    return rows


def _count_by_pair(matches: Sequence[Match], pairs: Sequence[tuple[str, str]]) -> tuple[Floats, Floats]:
    """Number of matches, and score of the model shown first, by prompt and ordered pair."""
    prompts = {prompt: n for n, prompt in enumerate(dict.fromkeys(match.prompt for match in matches))}
    places = {pair: n for n, pair in enumerate(pairs)}
    games, scores = (np.zeros((len(prompts), len(pairs))) for _ in range(2))
    for match in matches:
        place = prompts[match.prompt], places[match.first, match.second]
        games[place] += 1
        scores[place] += match.score
    return games, scores


def _fit(design: Floats, games: Floats, scores: Floats) -> Floats:
    """Strengths and position bias in log odds, (draws, models + 1), by Newton's method on all draws at
    once.
    """
    estimate = np.zeros((len(games), design.shape[1]))
    prior = np.eye(design.shape[1]) / PRIOR_SD**2
    for _ in range(_STEPS):
        chance: Floats = 1 / (1 + np.exp(-estimate @ design.T))  # (draws, pairs)
        gradient: Floats = (scores - games * chance) @ design - estimate @ prior
        weight = games * chance * (1 - chance)
        curvature: Floats = np.einsum("bp,pi,pj->bij", weight, design, design) + prior
        step: NDArray[np.floating[Any]] = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        # Bounded steps: from a one-sided start, a full Newton step would overshoot.
        longest = np.abs(step).max(axis=1, keepdims=True)
        estimate += step * np.minimum(1, _LONGEST / np.maximum(longest, 1e-12))
        if longest.max() < 1e-10:
            break
    return estimate


def _elo(strengths: Floats, groups: Sequence[Sequence[int]]) -> Floats:
    """Strengths (..., models) on the Elo scale, centred on the mean of each group."""
    centred = strengths.copy()
    for group in groups:
        centred[..., group] -= strengths[..., group].mean(axis=-1, keepdims=True)
    return MEAN + POINTS * centred
