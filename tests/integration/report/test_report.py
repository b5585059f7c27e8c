"""What a report tells: figures, words, samples and accounts, from run directories made by hand."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape

from mpo_lite.cli.main import main
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.jsonl import append_rows, read_rows
from mpo_lite.report.charts import measure_zero_spread
from mpo_lite.report.costs import build_cost_table
from mpo_lite.report.figures import compute_figures
from mpo_lite.report.narrative import write_headline
from mpo_lite.report.page import build_run_page, write_comparison, write_report
from mpo_lite.report.rubric_history import build_history
from mpo_lite.report.run_data import RunData, load_run_data
from mpo_lite.report.samples import LONGEST, MOST_BYTES, choose_samples, show_text
from mpo_lite.run_dir import RubricVersion, RunDir
from tests.support.made_run import CHANGE, made_run


def loaded(run: RunDir) -> RunData:
    return load_run_data(run, load_config(run.path / "config.yaml", {}, environ={}))


def known(run: RunDir) -> dict[str, Any]:
    return build_run_page(loaded(run))


def told(run: RunDir) -> str:
    return " | ".join(f"{event['when']} {event['kind']} {event['text']}" for event in known(run)["narrative"])


def failing(run: RunDir) -> set[str]:
    return {sign["name"] for sign in known(run)["checks"] if sign["ok"] is False}


def test_the_story_of_a_hack_and_its_mending(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    text = told(run)
    order = [
        "Each answer was scored from 0 to 1 by a judge (gpt-4o",
        "4 bad From the start to batch 4 the reward rose",
        "4 bad Alarm, phrase drift: some phrases are far more frequent than at first, and are rewarded",
        "4 fixed The meta-judge rewrote the rubric: v1 (added reasons, example; dropped flow)",
        "6 good Gold has recovered: 0.70",
        "Meta steps that left the rubric unchanged: 1; in 1 of them the gate rejected",
        "good After 12 batches gold is 0.83; it was 0.50 before training and 0.10 at its lowest",
    ]
    places = [text.find(part) for part in order]
    assert -1 not in places and places == sorted(places), text
    assert "(“How it flows. It shows.”)" in text  # a short first rubric is quoted
    assert write_headline(loaded(run)) == ("Gold rose", "good")


def test_a_run_that_ends_hacked_is_told_as_such(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", batches=CHANGE, baseline="iter0")
    assert write_headline(loaded(run)) == ("Gold fell while the reward rose", "bad")
    text = told(run)
    assert (
        "This is reward hacking" in text
        and "this rubric was frozen" in text
        and "Gold has recovered" not in text
    )
    assert {"Gold rises", "Reward and gold move together"} <= failing(run)


def test_a_fall_of_gold_that_may_be_chance_is_no_hack(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", batches=CHANGE, baseline="iter0")
    rows = read_rows(run.gold)
    for row in rows:  # the same means, from prompts that disagree
        for place, one in enumerate(row["samples"]):
            one["gold"] += (-1) ** place * row["batch"]
    run.gold.unlink()
    append_rows(run.gold, rows)
    assert "hacking" not in told(run)
    assert write_headline(loaded(run)) == ("No clear change in gold", "open")


def test_a_low_is_told_though_no_hack_shows(tmp_path: Path) -> None:
    """The reward hardly moved before the rubric changed, and gold was measured afterwards."""
    run = made_run(tmp_path / "run")
    rows = read_rows(run.metrics)
    run.metrics.unlink()
    append_rows(run.metrics, [row | {"reward": 0.3} if row["version"] == 0 else row for row in rows])
    text = told(run)
    assert "hacking" not in text
    assert "4 bad Gold, which neither judge nor policy sees, is at its lowest: 0.10" in text
    assert "6 good Gold has recovered: 0.70" in text


def test_nothing_is_claimed_without_gold(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", gold=False)
    assert write_headline(loaded(run))[1] == "open"
    assert "no gold metric" in told(run) and "hacking" not in told(run)
    assert not {"Gold rises", "Reward and gold move together"} & {one["name"] for one in known(run)["checks"]}
    assert "gap" not in known(run)["charts"]


def test_rewards_of_two_rubrics_are_not_joined(tmp_path: Path) -> None:
    chart = known(made_run(tmp_path / "run"))["charts"]["reward"]
    rewards, probes, gold = chart["lines"]
    gap = chart["x"].index(CHANGE + 0.5)
    assert rewards["y"][gap] is None and None not in (rewards["y"][gap - 1], rewards["y"][gap + 1])
    assert [band["label"] for band in chart["bands"]] == ["v0", "v1"] and chart["bands"][1][
        "from"
    ] == CHANGE + 0.5
    assert {x: y for x, y in zip(chart["x"], probes["y"], strict=True) if y is not None} == {
        0: 0.2,
        CHANGE: 0.4,
    }
    assert gold["y"][0] == 0.5 and gold["dots"] and not rewards["dots"]
    assert chart["marks"] == [CHANGE]


def test_rewards_are_summed_up_under_the_last_version(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    rewards = {row["batch"]: row["reward"] for row in read_rows(run.metrics)}
    reward = loaded(run).figures["reward"]
    assert reward == {
        "version": 1,
        "start": rewards[5],
        "end": pytest.approx(fmean(list(rewards.values())[-3:])),
    }
    first = compute_figures(run, load_config(run.path / "config.yaml", {}, environ={}), until=2)["reward"]
    assert first == {"version": 0, "start": rewards[1], "end": fmean([rewards[1], rewards[2]])}
    # Right after a change nothing of the version before is mixed in.
    changed = compute_figures(run, load_config(run.path / "config.yaml", {}, environ={}), until=5)["reward"]
    assert changed == {"version": 1, "start": rewards[5], "end": rewards[5]}


def test_batches_of_the_verifier_are_no_rewards_by_the_rubric(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    rows = [row | ({"judge": "", "reward": 1.0} if row["batch"] in (5, 12) else {"judge": "gpt-4o"})
            for row in read_rows(run.metrics)]  # fmt: skip
    run.metrics.unlink()
    append_rows(run.metrics, rows)
    rewards = {row["batch"]: row["reward"] for row in rows}
    data = loaded(run)
    assert data.figures["reward"]["start"] == rewards[6]
    assert data.figures["reward"]["end"] == pytest.approx(fmean(rewards[batch] for batch in (9, 10, 11)))
    assert set(measure_zero_spread(data)) == set(range(1, 13)) - {5, 12}
    charts = known(run)["charts"]
    for name in ("reward", "gap"):
        shown = dict(zip(charts[name]["x"], charts[name]["lines"][0]["y"], strict=True))
        assert 1.0 not in shown.values() and shown.get(12) is None


def test_signs_say_what_is_unhealthy(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    assert failing(run) == set()
    last = read_rows(run.metrics)[-1]
    late = last | {"reward": 0.99, "kl": 20.0, "clipped": 0.9, "judge_failures": 50, "alarms": ["repetition"]}
    append_rows(run.metrics, [late | {"batch": batch} for batch in range(13, 24)])
    assert failing(run) == {
        "No active alarm at the end",
        "Reward not saturated",
        "Judgements succeed",
        "Policy stays close to the initial policy",
        "Answers end before the token limit",
    }


def standing(run: RunDir, *alarms: str) -> dict[str, Any]:
    """The sign of a run at whose end alarms stand from batch 10 on."""
    rows = read_rows(run.metrics)
    run.metrics.unlink()
    append_rows(run.metrics, [row | {"alarms": list(alarms) if row["batch"] >= 10 else []} for row in rows])
    return next(sign for sign in known(run)["checks"] if sign["name"] == "No active alarm at the end")


def answering(run: RunDir, **step: Any) -> None:
    """A meta step after batch 11 that was shown the alarm on phrases."""
    row = read_rows(run.lineage)[-1] | {"began": 11, "batch": 11, "alarms": ["phrase_drift"]}
    append_rows(run.lineage, [row | step])


def test_an_alarm_that_stands_unanswered_is_a_bad_sign(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    sign = standing(run, "phrase_drift")  # the steps after batches 4 and 8 came before it
    assert sign["ok"] is False
    assert sign["detail"] == "phrase drift since batch 10, not answered by any meta step"
    assert "bad Alarms that are still active: phrase drift since batch 10, not answered by" in told(run)
    answering(run)  # a refused proposal is no answer
    assert standing(run, "phrase_drift")["ok"] is False
    answering(run, status="unchanged")
    assert standing(run, "phrase_drift", "repetition")["ok"] is False  # the other one still is not
    assert standing(run)["ok"] is True and "still active" not in told(run)


@pytest.mark.parametrize(
    ("step", "did"),
    [({"status": "unchanged"}, "kept v1"), ({"status": "accepted", "version": 2}, "wrote v2")],
)
def test_an_alarm_that_stands_and_was_answered_is_for_a_person_to_look_at(
    tmp_path: Path, step: dict[str, Any], did: str
) -> None:
    run = made_run(tmp_path / "run")
    rubric = run.version(1).rubric
    run.publish(RubricVersion(2, 1, 11, "claude", rubric))
    answering(run, **{"rubric": rubric.model_dump(mode="json"), "refused": []} | step)
    sign = standing(run, "phrase_drift")
    words = f"phrase drift since batch 10, shown to the meta-judge after batch 11, which {did}"
    assert (sign["ok"], sign["detail"]) == (None, words)
    assert f"plain Alarms that are still active: {words}" in told(run)


def test_a_count_of_one_is_singular(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", batches=1)
    assert "After 1 batch " in told(run) and "a rubric of 1 criterion" in told(run)
    row = read_rows(run.metrics)[-1]
    run.metrics.unlink()
    append_rows(run.metrics, [row | {"cache_hits": 1}])
    page = write_report(run).read_text(encoding="utf-8")
    assert "1 answer came from the cache" in page and "1 meta call" in page


def test_the_report_says_why_judgements_failed(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    last = read_rows(run.metrics)[-1]
    kinds = {"judge_failures": 9, "failures": {"cut": 2, "timeout": 7}}
    append_rows(run.metrics, [last | kinds | {"batch": 13}])
    page = write_report(run).read_text(encoding="utf-8")
    assert "not judged: 7 timed out, 2 cut off" in page
    assert "9 of 104 judgements failed and gave no reward (7 timed out, 2 cut off)." in page


def test_accounts_are_kept_by_purpose_over_all_processes(tmp_path: Path) -> None:
    judge, meta = build_cost_table(loaded(made_run(tmp_path / "run")))
    assert (judge["purpose"], judge["calls"], judge["failed"], judge["usd"]) == ("judge", 4, 1, 0.04)
    assert (judge["p50"], judge["sent"], judge["cached"]) == (2.0, 400, 160)
    assert judge["p95"] == pytest.approx(2.9)
    assert (meta["purpose"], meta["p50"]) == ("meta", 5.0)


def test_refused_proposals_stand_in_the_history(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", said="a title pays")
    first, second, third = build_history(loaded(run))
    assert (first["version"], second["version"], third["version"]) == (0, 1, 1)
    assert [row["state"] for row in second["diff"]] == ["added", "added", "dropped"]
    (refused,) = third["refused"]
    assert refused["reasons"] == ["a title pays"] and refused["figures"] == [("margin title", 0.05)]
    (changed,) = refused["diff"]  # what it left as it was is not shown
    assert changed["id"] == "reasons"
    assert changed["old"]["description"] == [("Reasons given.", False)]
    assert changed["new"]["description"] == [("Reasons given.", False), (" a title pays", True)]


def test_samples_are_evidence_first_and_of_every_batch(tmp_path: Path) -> None:
    page = known(made_run(tmp_path / "run", batches=40, prompts=8, group=8, every=10))["samples"]
    ids = {row["id"] for row in page["rows"]}
    assert {"b4r1", "b4r2", "b2r0", "b4p0"} <= ids
    assert page["of"] == 40 * 64 and len(ids) == len(page["rows"]) == 1000
    assert {row["batch"] for row in page["rows"]} == set(range(1, 41))
    by_id = {row["id"]: row for row in page["rows"]}
    assert by_id["b4r1"]["alarms"] == ["phrase_drift"] and by_id["b2r0"]["cited"]
    assert by_id["b4p0"]["by"] == "probe" and by_id["b4p0"]["reward"] is None
    assert by_id["b4r1"]["levels"] == [["flow", (3 + 1) % 3, 2, "It shows."]]


def test_batches_of_rollouts_and_of_metrics_are_counted_alike(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", batches=3)
    assert list(measure_zero_spread(loaded(run))) == [row["batch"] for row in read_rows(run.metrics)]
    assert [batch for batch, _ in loaded(run).rollouts_by_batch()] == [1, 2, 3]


def test_samples_stay_within_their_size(tmp_path: Path) -> None:
    run = made_run(
        tmp_path / "run", prompts=4, completion=lambda batch, row: f"{batch} {row} " + "x" * 100_000
    )
    page = known(run)["samples"]
    assert all(len(row["completion"]) < LONGEST + 100 for row in page["rows"])
    assert len(page["rows"]) == 12 * 16 + 1
    assert len(json.dumps(page)) < 1.2 * MOST_BYTES
    none = replace(loaded(run), rollouts=[], probes=[])
    assert choose_samples(none) == {"prompts": [], "rows": [], "of": 0}
    assert len(choose_samples(replace(none, rollouts=run.read_rollouts()[:1]))["rows"]) == 1


@given(st.text(st.characters(exclude_categories=()), max_size=300), st.integers(50, 200))
def test_shown_texts_hold_nothing_unseen(text: str, longest: int) -> None:
    shown = show_text(text, longest)
    assert shown == shown.encode("utf-8").decode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060-\u206f\ufeff]", shown)
    if text.isascii() and text.isprintable():
        assert (shown == text) == (len(text) <= longest)


def test_a_report_can_be_written_at_any_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for batches in (0, 1, 3):
        run = made_run(tmp_path / f"run-{batches}", batches=batches, gold=batches > 0)
        main(["report", str(run.path)])
        assert capsys.readouterr().out == f"report: {run.report}\n"
        assert ("No batch has finished yet" in run.report.read_text(encoding="utf-8")) == (batches == 0)


@pytest.mark.parametrize(
    ("settings", "lineage", "why"),
    [
        ({}, True, "no meta step had enough budget for it"),
        ({}, False, "there was no meta step"),
        ({"use_gate": False}, True, "it uses the gate's budget, and the gate was off"),
    ],
)
def test_the_report_says_why_the_first_rubric_was_not_asked_again(
    tmp_path: Path, settings: dict[str, Any], lineage: bool, why: str
) -> None:
    run = made_run(tmp_path / "run", **settings)
    rows = [row | {"probes": {}} for row in read_rows(run.lineage)]
    run.lineage.unlink()
    append_rows(run.lineage, rows if lineage else [])
    page = write_report(run).read_text(encoding="utf-8")
    assert f"which was not measured here because {escape(why)}" in page and "guarded runs do" not in page


def test_a_torn_or_damaged_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path / "run")
    with run.rollouts.open("a", encoding="utf-8") as file:
        file.write('{"id": "b12r0", "comp')
    write_report(run)  # a torn last line, which a kill leaves, is no harm
    (run.path / "rubrics" / "v000.yaml").unlink()
    with pytest.raises(SystemExit) as left:
        main(["report", str(run.path)])
    assert left.value.code == 2 and "v000.yaml: missing; restore it from a copy" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main(["report", str(tmp_path / "none")])
    assert left.value.code == 2 and "not a run directory" in capsys.readouterr().err


def test_a_report_names_no_folder(tmp_path: Path) -> None:
    run = made_run(
        tmp_path / "secret-place" / "run",
        policy=str(tmp_path / "secret-place" / "policy"),
        data=str(tmp_path / "secret-place" / "prompts.jsonl"),
    )
    page = write_report(run).read_text(encoding="utf-8")
    assert "secret-place" not in page and "data: prompts.jsonl" in page


def test_the_settings_of_a_report_make_the_same_run(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", seed=3, learning_rate=2e-5, trl={"warmup_steps": 7})
    (tmp_path / "experiment.yaml").write_text(known(run)["settings"], encoding="utf-8")
    again = load_config(tmp_path / "experiment.yaml", {}, environ={})
    saved = load_config(run.path / "config.yaml", {}, environ={})
    places = {"run_dir": saved.run_dir, "cache_dir": saved.cache_dir}
    assert again.model_copy(update=places) == saved
    assert isinstance(again, Config)


def test_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = made_run(tmp_path / "one"), made_run(tmp_path / "other", batches=CHANGE, baseline="iter0")
    main(["report", str(one.path), str(other.path)])
    path = tmp_path / "comparison.html"
    assert capsys.readouterr().out == f"report: {path}\n"
    page = path.read_text(encoding="utf-8")
    assert re.search(r"<code>baseline</code></th><td>–</td><td>iter0</td>", page)
    assert re.search(r"lowest gold</th><td>0\.100</td><td>0\.100</td>", page)
    assert "All runs have the same seed" in page and "run_dir" not in page
    assert "<code>rubric</code>" not in page and "<code>task</code>" not in page
    third = made_run(tmp_path / "third", goal="Short answers.", seed=1, trl={"warmup_steps": 7})
    main(["report", str(one.path), str(third.path), "--out", str(tmp_path / "c.html")])
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "different tasks" in page and "same seed" not in page
    assert re.search(r"<code>task</code></th><td>essay</td><td>–</td>", page)
    assert re.search(r"<code>trl</code></th><td>\{\}</td><td>\{&#34;warmup_steps&#34;: 7\}</td>", page)
    with pytest.raises(SystemExit):
        main(["report", str(one.path), "--out", str(tmp_path / "c.html")])
    assert "c.html: already exists" in capsys.readouterr().err
    (third.path / "env.json").write_text("{", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["report", str(third.path)])
    assert "env.json: not JSON" in capsys.readouterr().err


def test_two_runs_of_one_goal_have_one_task(tmp_path: Path) -> None:
    runs = [
        made_run(tmp_path / name, goal="Short answers.", task=task)
        for name, task in (("a", "essay"), ("b", "math"))
    ]
    page = write_comparison([run.path for run in runs], tmp_path / "c.html")[0].read_text(encoding="utf-8")
    assert "different tasks" not in page and "<code>task</code>" not in page
    assert "task: essay" not in write_report(runs[0]).read_text(encoding="utf-8")


def test_a_rubric_of_the_users_own_is_named_and_a_runs_copy_of_it_is_not(tmp_path: Path) -> None:
    one, other = made_run(tmp_path / "one"), made_run(tmp_path / "other", rubric=tmp_path / "mine.yaml")
    page = write_comparison([one.path, other.path], tmp_path / "c.html")[0].read_text(encoding="utf-8")
    assert re.search(r"<code>rubric</code></th><td>–</td><td>mine\.yaml</td>", page)
    assert "v000.yaml" not in page
    assert "\nrubric: mine.yaml" in write_report(other).read_text(encoding="utf-8")
    assert "\nrubric: " not in write_report(one).read_text(encoding="utf-8")


def test_a_comparison_names_no_folder(tmp_path: Path) -> None:
    runs = [
        made_run(tmp_path / "secret-place" / name, data=str(tmp_path / "secret-place" / f"{name}.jsonl"))
        for name in ("one", "other")
    ]
    path, _ = write_comparison([run.path for run in runs], tmp_path / "c.html")
    page = path.read_text(encoding="utf-8")
    assert "secret-place" not in page and "other.jsonl" in page


def test_a_report_moves_with_its_run(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    moved = Path(shutil.move(run.path, tmp_path / "moved"))
    assert "moved" in write_report(RunDir(moved)).read_text(encoding="utf-8")
