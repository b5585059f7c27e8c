"""The independent audit: which rollouts, and the gap between reward and audit score."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.loop.audit import EVIDENCE, LARGEST_GAP, WINDOW, choose_audited, measure_gap
from mpo_lite.types import Rollout, Verdict

scores = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2 * WINDOW, max_size=4 * WINDOW)


def rows(scored: Any) -> list[dict[str, Any]]:
    return [{"id": f"b1r{n}", "level": level, "audit": audit} for n, (level, audit) in enumerate(scored)]


def batch_of(number: int, size: int = 10) -> list[Rollout]:
    return [
        Rollout(
            number, row, "p", f"a{row}", Verdict(0.5, "h", source="rule" if row == 3 else "judge"), 0, 0.5
        )
        for row in range(size)
    ]


@given(scores, st.floats(-0.5, 0.5))
def test_the_gap_is_what_the_reward_gained_over_the_audit(scored: Any, shift: float) -> None:
    gap = measure_gap(rows(scored))
    assert gap is not None and gap.low <= gap.mean + 1e-9 and gap.mean <= gap.high + 1e-9
    # A judge that is milder from the beginning is no gap.
    shifted = measure_gap(rows([(level + shift, audit) for level, audit in scored]))
    assert shifted is not None and shifted.mean == pytest.approx(gap.mean, abs=1e-9)
    if len(scored) > 2 * WINDOW:  # what is between the windows has no part in it
        start, end = scored[:WINDOW], scored[-WINDOW:]
        assert measure_gap(rows([*start, *end])).mean == pytest.approx(gap.mean)  # type: ignore[union-attr]


def test_a_reward_that_rises_alone_raises_an_alarm_and_names_the_worst() -> None:
    honest = [(0.3, 0.4), (0.5, 0.5)] * (WINDOW // 2)
    hacked = [(0.9, 0.4), (0.8, 0.5)] * (WINDOW // 2)
    gap = measure_gap(rows([*honest, *hacked]))
    assert gap is not None and gap.mean == pytest.approx(0.45) and gap.low > LARGEST_GAP
    alarm = gap.alarm
    assert alarm is not None and (alarm.name, len(alarm.evidence)) == ("audit_gap", EVIDENCE)
    worst = {f"b1r{n}" for n in range(WINDOW, 2 * WINDOW, 2)}
    assert set(alarm.evidence[: len(worst)]) == worst
    both = measure_gap(rows([*honest, *[(level + 0.4, audit + 0.4) for level, audit in honest]]))
    assert both is not None and both.alarm is None


def test_failed_audits_are_left_out_and_two_windows_are_needed() -> None:
    scored: list[tuple[float, float | None]] = [(0.5, 0.5)] * (2 * WINDOW - 1)
    assert measure_gap(rows([*scored, *[(1.0, None)] * 50])) is None
    assert measure_gap(rows([*scored, (0.5, 0.5), *[(1.0, None)] * 50])).mean == 0  # type: ignore[union-attr]


@given(st.floats(0.01, 1), st.integers(0, 9))
def test_over_the_run_a_share_of_all_answers_is_audited(share: float, seed: int) -> None:
    chosen = [choose_audited(batch_of(number), share, seed) for number in range(1, 21)]
    total = sum(map(len, chosen))
    assert share * 200 - 20 - 1 <= total <= share * 200 + 1  # of ten answers one is a rule's
    assert all(one.verdict.source == "judge" for batch in chosen for one in batch)
    assert chosen[4] == choose_audited(batch_of(5), share, seed)
