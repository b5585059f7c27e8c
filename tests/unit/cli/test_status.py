"""What a command shows while it works: no silence, nothing torn, nothing after its last line."""

import sys
import threading
import time
from io import StringIO

import pytest

from mpo_lite import activity as activity_module
from mpo_lite.activity import activities, activity
from mpo_lite.cli import status
from mpo_lite.cli.status import Status, format_activities, format_activity


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (activity_module, status):
        monkeypatch.setattr(module, "time", clock)
    return clock


def test_an_activity_is_one_phrase(clock: Clock) -> None:
    with activity("judging", 96, "answers") as work, activity("loading policy p"):
        clock.now += 2
        work.advance()
        for _ in range(36):
            clock.now += 1
            work.advance()
        clock.now += 4
        judging, loading = activities()
        assert format_activity(judging, clock.now) == "judging: 37 of 96 answers, 42 s, about 1 min left"
        assert format_activity(loading, clock.now) == "loading policy p: 42 s"
        assert format_activities([judging, loading], clock.now).endswith("1 min left; loading policy p: 42 s")
    assert activities() == []


@pytest.mark.parametrize(
    ("passed", "done", "expected"),
    [
        (0.0, 0, "work: 0 of 2,000 tokens, 0 s"),
        (200.0, 1000, "work: 1,000 of 2,000 tokens, 3 min 20 s, about 3 min left"),
        (8000.0, 1000, "work: 1,000 of 2,000 tokens, 2 h 13 min, about 2.2 h left"),
        (90.0, 1900, "work: 1,900 of 2,000 tokens, 1 min 30 s, about 5 s left"),
        (90.0, 2000, "work: 2,000 of 2,000 tokens, 1 min 30 s"),
    ],
)
def test_times_are_as_exact_as_a_person_needs(clock: Clock, passed: float, done: int, expected: str) -> None:
    with activity("work", 2000, "tokens") as work:
        work.advance(0)
        clock.now += passed
        work.advance(done)
        assert format_activity(work, clock.now) == expected


def test_time_left_follows_the_recent_pace(clock: Clock) -> None:
    with activity("work", 1000) as work:
        for _ in range(200):
            work.advance()
            clock.now += 10
        for _ in range(200):
            work.advance()
            clock.now += 1
        left = work.seconds_left()
    assert left is not None and 550 < left < 650  # 600 steps of a second; by the mean it were 3,300


def test_overlapping_blocks_of_one_name_are_one_activity() -> None:
    with activity("judging", 4, "answers") as first:
        with activity("judging", 2, "answers") as second:
            first.advance()
            second.advance(2)
            (both,) = activities()
            assert (both.done, both.total) == (3, 6)
        (both,) = activities()
        assert (both.done, both.total) == (3, 6)  # goes on counting where one of them has ended
    with activity("judging", 2, "answers"):
        (fresh,) = activities()
        assert (fresh.done, fresh.total) == (0, 2)


def test_what_is_quick_is_not_told_and_what_is_slow_every_ten_seconds(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "TICK_S", 0.01)
    stream = StringIO()

    def after(seconds: float) -> list[str]:
        clock.now += seconds
        time.sleep(0.3)
        return stream.getvalue().splitlines()

    with Status(stream):
        with activity("loading"):
            assert after(4.9) == []
        with activity("judging"):
            assert after(4.9) == []  # 9.8 s without a line, none of one thing longer than 5 s
            assert after(0.3) == ["judging: 5 s"]
            assert after(9.0) == ["judging: 5 s"]
            assert after(1.1) == ["judging: 5 s", "judging: 15 s"]
        assert len(after(60.0)) == 2  # nothing is under way


def test_only_the_leading_process_shows_anything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FIRST_S", "EVERY_S", "TICK_S"):
        monkeypatch.setattr(status, name, 0.01)
    for rank, shows in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        with Status(sys.stderr), activity("judging"):
            time.sleep(0.2)
        assert ("judging: 0 s" in capsys.readouterr().err) is shows


def test_the_thread_ends_with_an_exception() -> None:
    before = threading.active_count()
    with pytest.raises(RuntimeError), Status(StringIO()):
        raise RuntimeError
    assert threading.active_count() == before
