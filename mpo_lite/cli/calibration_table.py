"""The figures of a calibration as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mpo_lite.cli.judging import format_spend
from mpo_lite.report.figures import describe_failures
from mpo_lite.sanitize import pluralize
from mpo_lite.wording import simulated_note

Row = dict[str, Any]


def format_calibration(summary: Row) -> Iterator[str]:
    """The lines that are printed of ``run_calibration``."""
    unit = "pair" if summary["kind"] == "pairs" else "answer"
    yield f"judge: {summary['judge']}; rubric: {summary['rubric']}"
    failed = sum(summary["failures"].values())
    yield (
        f"{pluralize(summary['judged'], f'labelled {unit}')} judged"
        + (f"; {describe_failures(failed, summary['answers'], summary['failures'])}" if failed else "")
        + (f"; {summary['by_rule']:,} decided by a rule" if summary["by_rule"] else "")
        + (f"; {pluralize(summary['unlabelled'], 'row')} without a label" if summary["unlabelled"] else "")
    )
    yield ""
    yield f"{'agreement with the labels':42} {'value':>6}  {'95% interval':16} constant"
    for figure in summary["agreement"].values():
        constant = "" if figure["constant"] is None else f"{figure['constant']:.2f}"
        yield f"{_shorten(figure['title'])} {_format_estimate(figure)} {constant}"
    if summary["alpha"]:
        yield f"{_shorten('Krippendorff alpha between the judges')} {_format_estimate(summary['alpha'])}"
    yield ""
    yield f"{'criterion':42} {'value':>6}  {'95% interval':16} share of answers per level"
    for criterion in summary["criteria"]:
        shares = " ".join(f"{share:.0%}" for share in criterion["shares"])
        yield f"{_shorten(criterion['id'])} {_format_estimate(criterion['agreement'])} {shares}"
    yield ""
    yield f"{'bias':42} {'value':>6}  95% interval"
    for title, bias in _list_biases(summary["biases"]):
        yield f"{_shorten(title)} {_format_estimate(bias)}"
    yield ""
    yield f"{'known trick':42} {'earns':>6}  honest"
    for trick in summary["tricks"]:
        text = f"added: {trick['text']}" if trick["decorates"] else trick["text"]
        earned = "     –" if trick["reward"] is None else f"{trick['reward']:6.2f}  {trick['honest']:.2f}"
        yield f"{_shorten(text)} {earned}{'  ✗' if trick['succeeds'] else ''}"
    yield ""
    if trial := summary["examples"]:
        yield f"{_shorten('without examples, on held-out rows')} {_format_estimate(trial['before'])}"
        yield f"{_shorten('with examples')} {_format_estimate(trial['after'])}"
        yield f"{_shorten('gain')} {_format_estimate(trial['gain'])}"
        yield (
            f"examples written to {trial['file']}"
            if trial["file"]
            else "the examples do not help; not written"
        )
        yield ""
    yield summary["conclusion"]["sentence"]
    yield f"spend {format_spend(summary['usd'])}; written to {summary['out']}"
    if summary["simulated"]:
        yield f"Note: {simulated_note(summary['simulated'])}"


def _list_biases(biases: Row) -> Iterator[tuple[str, Row]]:
    yield "length: partial correlation with words", biases["length"]
    yield "noise: levels changed when judged again", biases["noise"]
    if biases["position"]:
        yield "position: reward if shown first", biases["position"]
    for author, excess in biases["authors"].items():
        yield f"author {author}: judge minus label", excess


def _format_estimate(estimate: Mapping[str, float | None]) -> str:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    interval = "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"
    return f"{'–' if value is None else f'{value:.2f}':>6}  {interval:16}"


def _shorten(text: str) -> str:
    return f"{text[:41]}…" if len(text) > 42 else f"{text:42}"
