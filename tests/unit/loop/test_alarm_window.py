"""The window of answers that a run's alarms look at."""

from mpo_lite.loop.alarm_window import AlarmWindow
from mpo_lite.types import Assessment, Rollout, Verdict


def rollout(batch: int, row: int, text: str, reward: float = 0.5, version: int = 1) -> Rollout:
    verdict = Verdict(reward, "h", {"one": Assessment("r", 1)})
    return Rollout(batch, row, f"p{row // 4}", text, verdict, version, reward)


def words(seed: int) -> str:
    """Twenty words that no other seed has."""
    return " ".join(f"{letter}{seed}" for letter in "abcdefghijklmnopqrst")


def test_the_watch_compares_with_the_first_answers_and_catches_up_after_a_resume() -> None:
    plain = [rollout(b, n, words(n + 32 * b), 0.5 + n / 200) for b in (0, 1) for n in range(32)]
    hacked = [rollout(2, n, f"# Title {n}", 0.5 + n / 200) for n in range(64)]
    watch = AlarmWindow()
    assert watch.add_batch(plain[:32]) == []
    assert watch.add_batch(plain[32:]) == []
    raised = watch.add_batch(hacked)
    assert "length_collapse" in {alarm.name for alarm in raised}
    assert (
        watch.add_batch([rollout(3, n, f"# Title {n}", 0.5 + n / 200) for n in range(64)]) == []
    )  # told once
    later = AlarmWindow()
    later.catch_up([*plain, *hacked])
    assert later.raised == {alarm.name: alarm for alarm in raised}


def test_of_a_large_batch_the_watch_looks_at_a_window_of_all_its_prompts() -> None:
    watch = AlarmWindow()
    watch.add_batch([rollout(0, n, words(n)) for n in range(512)])
    assert len(watch.latest) == 64
    assert len({one.prompt for one in watch.latest}) == 64


def test_a_reward_that_leaves_the_first_rubric_behind_raises_an_alarm() -> None:
    first = [rollout(0, n, f"an answer {n} with words", 0.3 + n / 500, version=0) for n in range(64)]
    later = [rollout(1, n, f"an answer {n} with words", 0.8 + n / 500) for n in range(64)]
    watch = AlarmWindow()
    watch.add_batch(first)
    watch.add_batch(later)
    assert "reward_drift" not in watch.raised
    raised = watch.add_first_scores({one.id: 0.1 for one in later[:8]})
    assert [alarm.name for alarm in raised] == ["reward_drift"]
