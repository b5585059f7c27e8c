"""Which rollouts the meta-judge is shown."""

from __future__ import annotations

import random
from collections.abc import Sequence

from mpo_lite.types import Rollout


def stratified_sample(
    rollouts: Sequence[Rollout], count: int, seed: str, first: Sequence[str] = ()
) -> list[Rollout]:
    """Draws rollouts evenly from the low, middle and high third of rewards, suspicious ones first.

    A uniform draw, as in the paper, shows mostly middling answers; a flaw of the rubric shows at the ends: in
    what it pays best, and in what it refuses to pay.

    Args:
        rollouts: Candidates; those without a reward, or decided by a rule, are left out.
        count: How many at most.
        seed: Decides the draw; equal seed and rollouts give the same samples.
        first: Ids of rollouts to look at first, such as evidence of alarms; they get half of the places.

    Returns:
        At most ``count`` distinct rollouts, lowest reward first; of the clusters among them, evenly.
    """
    judged = [
        rollout for rollout in rollouts if rollout.reward is not None and rollout.verdict.source == "judge"
    ]
    ranked = sorted(judged, key=lambda rollout: (rollout.reward or 0.0, rollout.batch, rollout.row))
    known = {rollout.id for rollout in ranked}
    chosen = [name for name in dict.fromkeys(first) if name in known][: count // 2]
    thirds = [ranked[len(ranked) * part // 3 : len(ranked) * (part + 1) // 3] for part in range(3)]
    draw = random.Random(seed)
    for third in thirds:
        draw.shuffle(third)
    thirds = [_evenly(third) for third in thirds]
    # Round by round, highest third first: a count that three does not divide looks more at what is paid best.
    rounds = [third[turn] for turn in range(len(ranked)) for third in reversed(thirds) if turn < len(third)]
    chosen = list(dict.fromkeys([*chosen, *(rollout.id for rollout in rounds)]))[:count]
    return [rollout for rollout in ranked if rollout.id in set(chosen)]


def find_rivals(chosen: Sequence[Rollout], rollouts: Sequence[Rollout]) -> dict[str, Rollout]:
    """For each chosen rollout, the answer of its prompt group whose reward is farthest from its own.

    Args:
        chosen: Judged rollouts.
        rollouts: Judged rollouts of whole prompt groups.

    Returns:
        Id of a chosen rollout → that answer; rollouts whose group earned one and the same reward have none.
    """
    groups: dict[tuple[int, str], list[tuple[float, Rollout]]] = {}
    for rollout in rollouts:
        if rollout.reward is not None and rollout.verdict.source == "judge":
            groups.setdefault((rollout.batch, rollout.prompt), []).append((rollout.reward, rollout))
    rivals: dict[str, Rollout] = {}
    for rollout in chosen:
        own = rollout.reward or 0.0
        group = groups.get((rollout.batch, rollout.prompt), []) if rollout.origin == "train" else []
        gap, rival = max(
            ((abs(reward - own), each) for reward, each in group),
            default=(0.0, rollout),
            key=lambda pair: pair[0],
        )
        if gap > 0:
            rivals[rollout.id] = rival
    return rivals


def _evenly(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The same rollouts, the clusters taking turns."""
    turns: dict[str, int] = {}
    placed: list[tuple[int, Rollout]] = []
    for rollout in rollouts:
        turns[rollout.cluster] = turns.get(rollout.cluster, 0) + 1
        placed.append((turns[rollout.cluster], rollout))
    return [rollout for _, rollout in sorted(placed, key=lambda pair: pair[0])]
