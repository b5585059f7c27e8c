"""Which batch and version an answer belongs to."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpo_lite.rubric import Criterion, Rubric
from mpo_lite.rubric_versions import RubricVersion
from mpo_lite.service.batches import Batches, Submission
from mpo_lite.types import Verdict

RUBRIC = Rubric(criteria=(Criterion(id="quality", description="Good.", levels=("No.", "Yes.")),))
SIZE, GROUP, WAIT = 8, 4, 10.0


def version(number: int = 0) -> RubricVersion:
    return RubricVersion(number, None, 0, "test", RUBRIC)


def batches(done: int = 0) -> Batches:
    return Batches(done, SIZE, GROUP, WAIT)


def judge(entry: Any, reward: float | None = 1.0) -> None:
    entry.verdict = Verdict(reward, RUBRIC.set_hash, failure=None if reward is not None else "parse")
    entry.group.update()


arrivals = st.lists(
    st.tuples(
        st.integers(0, 5),  # prompt
        st.integers(0, 3),  # rubric version that is current meanwhile
        st.floats(0, 6),  # seconds since the arrival before
        st.booleans(),  # judged before the next arrives
    ),
    max_size=60,
)


@given(arrivals, st.booleans())
def test_a_group_has_one_batch_and_a_batch_one_version(arrived: list[Any], by_step: bool) -> None:
    open_batches, now, current, entries, done = batches(), 0.0, 0, [], []
    for count, (prompt, moved, passed, judged) in enumerate(arrived):
        now, current = now + passed, current + moved
        open_batches.expire(now)
        step = count // 10 if by_step else None
        entry = open_batches.place(Submission(f"p{prompt}", "text", step=step), version(current), now)
        entries.append(entry)
        if judged:
            judge(entry)
        done += [batch.number for batch in open_batches.take_done()]
    for entry in entries:
        if entry.verdict is None:
            judge(entry)
    open_batches.close()
    open_batches.expire(math.inf)
    done += [batch.number for batch in open_batches.take_done()]
    assert not open_batches.open and done == list(range(1, len(done) + 1))
    for batch in {entry.group.batch for entry in entries}:
        own = [entry for entry in entries if entry.group.batch is batch]
        assert sorted(entry.row for entry in own) == list(range(batch.rows)) and batch.rows == len(own)
        assert batch.planned <= SIZE
    for group in {entry.group for entry in entries}:
        assert len(group.entries) <= GROUP
        assert {entry.submission.prompt for entry in group.entries} == {group.key}
    batches_in_order = sorted({entry.group.batch for entry in entries}, key=lambda batch: batch.number)
    versions = [batch.version.number for batch in batches_in_order]
    assert versions == sorted(versions)  # the rubric never goes back


def test_a_batch_ends_by_count_but_its_groups_are_completed() -> None:
    open_batches = batches()
    first = [open_batches.place(Submission("a", str(row)), version(0), 0.0) for row in range(2)]
    open_batches.place(Submission("b", "0"), version(0), 0.0)  # two groups of four: the batch is full
    other = open_batches.place(Submission("c", "0"), version(1), 1.0)
    late = open_batches.place(Submission("a", "late"), version(1), 1.0)
    assert other.group.batch.number == 2 and other.group.batch.version.number == 1
    assert late.group is first[0].group and late.group.batch.version.number == 0


def test_a_later_step_of_the_client_begins_a_batch_and_an_earlier_one_does_not() -> None:
    open_batches = batches()
    placed = [
        open_batches.place(Submission(f"p{row}", "x", step=step), version(row), 0.0).group.batch
        for row, step in enumerate([3, 3, 3, 4, 3, 5])
    ]
    assert [batch.number for batch in placed] == [1, 1, 2, 3, 3, 4]
    # A step that is larger than a batch is judged by one version all the same.
    assert [batch.version.number for batch in placed] == [0, 0, 0, 3, 3, 5]


def test_what_does_not_come_is_not_waited_for() -> None:
    open_batches = batches()
    entry = open_batches.place(Submission("a", "x"), version(), 0.0)
    judge(entry)
    open_batches.close()
    assert not list(open_batches.take_done())
    open_batches.expire(WAIT)
    assert not list(open_batches.take_done())
    open_batches.expire(WAIT + 0.1)
    assert [batch.number for batch in open_batches.take_done()] == [1]
    again = open_batches.place(Submission("a", "x"), version(), 20.0)
    assert again.group is not entry.group and again.group.batch.number == 2


def test_a_group_is_as_large_as_its_client_says() -> None:
    open_batches = batches()
    entries = [
        open_batches.place(Submission("a", str(row), group_size=2), version(), 0.0) for row in range(3)
    ]
    assert entries[0].group is entries[1].group and entries[2].group is not entries[0].group
    named = [
        open_batches.place(Submission("a", "x", group=name), version(), 0.0).group for name in ("1", "2", "1")
    ]
    assert named[0] is named[2] and named[0] is not named[1]


def test_the_mean_of_a_group_leaves_out_what_was_not_judged() -> None:
    open_batches = batches()
    entries = [open_batches.place(Submission("a", str(row)), version(), 0.0) for row in range(GROUP)]
    assert entries[0].group.mean_reward() is None
    for entry, reward in zip(entries, (0.25, None, 0.75, None), strict=True):
        judge(entry, reward)
    assert entries[0].group.mean_reward() == 0.5 and entries[0].group.judged.is_set()


def test_withdrawn_answers_come_back_to_their_group() -> None:
    open_batches = batches()
    entries = [open_batches.place(Submission("a", str(row)), version(), 0.0) for row in range(GROUP)]
    open_batches.place(Submission("b", "0"), version(), 0.0)  # the batch is full
    judge(entries[0])
    open_batches.withdraw(entries[1:], 1.0)
    assert not entries[0].group.judged.is_set() and not list(open_batches.take_done())
    again = [open_batches.place(Submission("a", str(row)), version(1), 2.0) for row in range(1, GROUP)]
    assert {entry.group for entry in again} == {entries[0].group}
    assert not {entry.row for entry in again} & {entry.row for entry in entries}


@pytest.mark.parametrize("steps", [(None, None), (3, 4)])
def test_a_batch_whose_answers_are_all_withdrawn_takes_others(steps: tuple[int | None, int | None]) -> None:
    """It neither counts as done without an answer nor leaves a gap in the numbers."""
    open_batches = batches()
    before, after = steps
    lost = [
        open_batches.place(Submission(f"p{row % 2}", "x", step=before), version(), 0.0) for row in range(SIZE)
    ]
    open_batches.withdraw(lost, 1.0)
    assert all(entry.group.judged.is_set() for entry in lost)  # whoever waits for them goes on
    assert not list(open_batches.take_done()) and open_batches.close() is None
    again = [
        open_batches.place(Submission(f"p{row % 2}", "x", step=after), version(), 2.0) for row in range(SIZE)
    ]
    assert {entry.group.batch.number for entry in again} == {1}
    for entry in again:
        judge(entry)
    open_batches.close()
    assert [batch.number for batch in open_batches.take_done()] == [1]


@given(arrivals)
def test_restored_answers_stand_where_they_stood(arrived: list[Any]) -> None:
    before = batches()
    entries = []
    for count, (prompt, moved, _, _) in enumerate(arrived):
        entries.append(before.place(Submission(f"p{prompt}", str(count)), version(moved), 0.0))
        judge(entries[-1])
    after = batches()
    for entry in sorted(entries, key=lambda entry: (entry.group.batch.number, entry.row)):
        batch = entry.group.batch
        after.restore(batch.number, batch.version, entry.submission, entry.verdict, entry.row, 0.0)
    shape = [[len(group.entries) for group in batch.groups] for batch in before.open]
    assert [[len(group.entries) for group in batch.groups] for batch in after.open] == shape
    assert [batch.is_closed for batch in after.open] == [batch.is_closed for batch in before.open]
    follow = Submission("p9", "next")
    numbers = [each.place(follow, version(), 0.0).group.batch.number for each in (before, after)]
    assert numbers[0] == numbers[1]
