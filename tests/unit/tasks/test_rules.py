"""Rules that an answer must keep."""

from mpo_lite.tasks.rules import rule_results, rule_verdict
from mpo_lite.tasks.spec import Rules


def test_rules_tell_which_of_them_an_answer_keeps() -> None:
    rules = Rules(min_words=3, must_match=r"<verdict>\w+</verdict>")
    assert rule_results("one two <verdict>RIGHT</verdict>", rules) == {"min_words": True, "must_match": True}
    assert rule_results("RIGHT", rules) == {"min_words": False, "must_match": False}
    assert rule_verdict("one two three four", "h", rules).reward == 0  # pyright: ignore
    assert rule_verdict("one two <verdict>RIGHT</verdict>", "h", rules) is None
