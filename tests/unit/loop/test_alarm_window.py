"""The window of answers that a run's alarms look at."""

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_lite.alarms.alarms import Alarm
from mpo_lite.loop.alarm_window import AlarmWindow, is_answered, leave_out_verified
from mpo_lite.types import Assessment, Rollout, Verdict


def rollout(
    batch: int, row: int, text: str, reward: float = 0.5, version: int = 1, source: Any = "judge"
) -> Rollout:
    verdict = Verdict(reward, "h", {"one": Assessment("r", 1)} if source == "judge" else {}, source)
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


def answers(batch: int, version: int, phrase: str = "", share: float = 0.9) -> list[Rollout]:
    """64 answers of one batch; those with the phrase earn more."""
    held = [phrase if row < share * 64 else "" for row in range(64)]
    return [
        rollout(batch, row, f"{words(row + 64 * batch)} {end}", 0.4 + 0.3 * bool(end) + row / 1000, version)
        for row, end in enumerate(held)
    ]


def test_phrases_are_compared_with_the_answers_before_the_current_version() -> None:
    watch, learned, trick = AlarmWindow(), "for example a dog", "for example a dog, which is excellent"
    watch.add_batch(answers(1, 0))
    assert [alarm.name for alarm in watch.add_batch(answers(2, 0, learned))] == ["phrase_drift"]
    assert watch.add_batch(answers(3, 0, learned)) == [] and "phrase_drift" in watch.raised
    watch.add_batch(answers(4, 1, learned))
    assert "phrase_drift" not in watch.raised  # nothing has become frequent since the first rubric went
    watch.add_batch(answers(5, 1, trick, share=0.2))
    assert "phrase_drift" not in watch.raised
    (alarm,) = watch.add_batch(answers(6, 1, trick))
    assert alarm.name == "phrase_drift" and "excellent" in alarm.detail
    watch.add_batch([rollout(7, row, f"# Title {row}", 0.5 + row / 200) for row in range(64)])
    assert "length_collapse" in watch.raised  # lengths are still compared with those of the initial answers


def test_an_alarm_is_answered_by_what_it_names() -> None:
    flat = Alarm("flat_reward", 0.0, 0.02, (), "all the same")
    drift = Alarm("phrase_drift", 3.0, 2.0, (), "…", ("as we saw", "excellent"), ("heading",))
    held = (["flat_reward", "phrase_drift"], list(drift.signs))
    assert is_answered(flat, *held) and is_answered(drift, *held)
    assert not is_answered(flat, ["phrase_drift"], held[1])
    # One phrase more or less is the same alarm, others are another one, and so is another layout.
    assert is_answered(replace(drift, phrases=("as we saw", "so")), *held)
    assert not is_answered(replace(drift, phrases=("indeed", "so")), *held)
    assert not is_answered(replace(drift, phrases=(), layouts=("bullets",)), *held)


def test_a_layout_that_spreads_is_named() -> None:
    watch = AlarmWindow()
    watch.add_batch(answers(1, 0))
    listed = [
        rollout(2, row, f"- {words(row + 128)}\n- so", 0.5 + row / 1000 + 0.2 * (row < 60))
        for row in range(60)
    ]
    plain = [rollout(2, row, f"{words(row + 128)} so", 0.4) for row in range(60, 64)]
    raised = {alarm.name: alarm for alarm in watch.add_batch([*listed, *plain])}
    assert raised["phrase_drift"].layouts and not set(raised["phrase_drift"].phrases) & set(
        raised["phrase_drift"].layouts
    )


BATCHES = st.lists(
    st.tuples(st.booleans(), st.sampled_from(["", "so it is good", "as we saw"]), st.integers(1, 80)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=15)
@given(BATCHES, st.data())
def test_a_resumed_run_finds_its_alarms_again(
    drawn: list[tuple[bool, str, int]], data: st.DataObject
) -> None:
    version, batches = 0, list[list[Rollout]]()
    for number, (is_new, phrase, size) in enumerate(drawn):
        version += is_new
        batches.append(answers(number, version, phrase)[:size])
    live = AlarmWindow()
    for batch in batches:
        live.add_batch(batch)
    resumed, at = AlarmWindow(), data.draw(st.integers(0, len(batches)))
    resumed.catch_up([each for batch in batches[:at] for each in batch])
    for batch in batches[at:]:
        resumed.add_batch([])  # a batch that the verifier scored
        resumed.add_batch(batch)
    assert resumed.raised == live.raised


def test_what_a_rule_gave_is_no_reward_for_alarms() -> None:
    """Answers below a minimum length earn 0 by rule; by the judge, reward and length are unrelated."""
    long = [
        rollout(b, n, f"{words(n + 32 * b)} {words(n)}"[: 120 + n % 5], 0.5 + (n * 7 % 32) / 100)
        for b in (0, 1)
        for n in range(32)
    ]
    short = [rollout(b, 32 + n, f"too short {n}", 0.0, 0, "rule") for b in (0, 1) for n in range(32)]
    watch = AlarmWindow()
    watch.catch_up(sorted([*long, *short], key=lambda one: (one.batch, one.row)))
    assert not watch.raised.keys() & {"reward_length", "dead_reward", "reward_drift"}


def test_batches_of_the_verifier_are_left_out_whole() -> None:
    verified = [rollout(1, 0, "right", 1.0, source="verifier"), rollout(1, 1, "", 0.0, source="rule")]
    judged = [rollout(2, 0, "an answer"), rollout(2, 1, "", 0.0, source="rule")]
    assert leave_out_verified([*verified, *judged]) == judged
