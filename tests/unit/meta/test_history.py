"""What the meta-judge is shown of its own past."""

from mpo_lite.meta.history import REFUSALS, VERSIONS, PastVersion, RefusedProposal, describe_history
from mpo_lite.rubric import Criterion, Rubric


def made(*names: str, description: str = "Whether it is there.") -> Rubric:
    criteria = [Criterion(id=name, description=description, levels=("no", "yes")) for name in names]
    return Rubric(criteria=tuple(criteria))


def test_a_first_rubric_alone_has_no_history() -> None:
    first = PastVersion("v0", made("flow"), "the first rubric", "No batch was judged by it yet.")
    assert describe_history([], []) == describe_history([first], []) == ""


def test_versions_say_what_changed_and_what_became_of_them_and_refusals_why() -> None:
    versions = [
        PastVersion("v0", made("flow"), "the first rubric", "Alarms: reward_length."),
        PastVersion("v1", made("flow", "claim"), "your proposal after batch 10", "Alarms: none."),
    ]
    refused = RefusedProposal(
        "after batch 20", made("flow", "praise"), versions[1].rubric, "it pays for praise"
    )
    shown = describe_history(versions, [refused])
    assert "v0, the first rubric. Alarms: reward_length." in shown
    assert "v1, your proposal after batch 10. It added claim. Alarms: none." in shown
    assert "Refused after batch 20: a proposal that added praise; dropped claim." in shown
    assert "praise: Whether it is there." in shown and "The reason: it pays for praise." in shown
    assert "flow: Whether" not in shown  # only what was new in it


def test_only_the_latest_are_listed() -> None:
    versions = [PastVersion(f"v{n}", made(f"c{n}"), "your proposal", "") for n in range(VERSIONS + 3)]
    refused = [
        RefusedProposal(f"after batch {n}", made(f"r{n}", description="word " * 200), made("c"), "reason")
        for n in range(REFUSALS + 2)
    ]
    shown = describe_history(versions, refused)
    assert "v2," not in shown and "v3," in shown and f"v{VERSIONS + 2}," in shown
    assert "after batch 1:" not in shown and f"after batch {REFUSALS + 1}:" in shown
    assert len(shown) < 2500
