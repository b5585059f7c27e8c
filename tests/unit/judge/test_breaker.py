"""How much of a batch may fail before a judge counts as down."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.errors import FailureKind, JudgeDown
from mpo_lite.judge.breaker import JUDGE_FAILURES, TOLERATED_FAILURES, FailureTally

KINDS: list[FailureKind] = ["timeout", "transport", "cut", "parse", "refusal", "context"]


def test_what_failed_is_told_by_kind_with_the_first_reason() -> None:
    tally = FailureTally(8, ("timeout",) * 6 + ("cut",) * 2, 0.05, "no answer within 120 s")
    with pytest.raises(JudgeDown) as down:
        tally.check("row")
    assert str(down.value) == (
        "8 rows, none judged: 6 timed out, 2 cut off, more than --max-judge-failures 0.05 allows; lower "
        "--concurrency, raise call_timeout, or give the judge a faster server; the first: no answer within "
        "120 s"
    )


@pytest.mark.parametrize(
    ("size", "failures", "share", "said"),
    [
        (0, (), 0.05, ""),
        (8, ("parse",) * 3, 0.05, ""),
        (8, ("refusal",) * 7, 0.05, ""),
        (1, ("parse",), 0.05, "1 row, none judged: 1 malformed, more than"),
        (8, ("refusal",) * 8, 0.05, "8 rows, none judged: 8 refused; use a judge that"),
        (8, ("refusal",) * 8, 1.0, "8 rows, none judged: 8 refused; use a judge that"),
        (8, ("parse",) * 8, 1.0, "8 rows, none judged: 8 malformed; 'mpo-lite doctor'"),
        (8, ("parse",) * 4 + ("refusal",) * 3, 0.05, "4 of 8 not judged: 4 malformed, more than"),
    ],
)
def test_what_is_too_much(size: int, failures: tuple[FailureKind, ...], share: float, said: str) -> None:
    found = FailureTally(size, failures, share).describe_problem("row")
    assert found.startswith(said) and bool(found) is bool(said)


@given(st.lists(st.none() | st.sampled_from(KINDS), max_size=40), st.floats(0, 1))
def test_the_breaker_opens_by_its_share_alone(kinds: list[FailureKind | None], share: float) -> None:
    failures = tuple(kind for kind in kinds if kind)
    tally = FailureTally(len(kinds), failures, share)
    blamed = sum(kind in JUDGE_FAILURES for kind in failures)
    assert tally.broken is (blamed > share * len(kinds) and blamed > min(TOLERATED_FAILURES, len(kinds) - 1))
    assert tally.broken <= bool(tally.describe_problem())
