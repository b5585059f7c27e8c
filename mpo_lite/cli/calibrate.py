"""``mpo-lite calibrate``: how far a judge with a rubric may be trusted to train on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpo_lite.activity import activity
from mpo_lite.cli._options import config_options, json_option, overrides_option
from mpo_lite.cli.judging import format_spend
from mpo_lite.cli.outputs import new_file, overwrite_option
from mpo_lite.cli.status import show_status
from mpo_lite.cli.terminal import echo
from mpo_lite.config import Config
from mpo_lite.config_sources import load_config
from mpo_lite.errors import ConfigError, StopRun
from mpo_lite.judge.pool import ModelPool
from mpo_lite.offline import first_rubric
from mpo_lite.report.figures import describe_failures
from mpo_lite.run_dir import rubric_at
from mpo_lite.sandbox.stand_in import sandboxed
from mpo_lite.sanitize import pluralize
from mpo_lite.tasks.spec import Task, task_of
from mpo_lite.wording import simulated_note

if TYPE_CHECKING:
    from mpo_lite.calibration.labels import Columns
    from mpo_lite.calibration.measure import Calibration

PACKAGES = ("sklearn", "scipy", "krippendorff")
"""What the extra ``calibrate`` installs."""
Row = dict[str, Any]


@click.command("calibrate", short_help="Measure how far a judge and rubric agree with labels.")
@click.argument("data", metavar="DATA", type=click.Path(path_type=Path))
@config_options(
    "task", "goal", "judge", "judge_api_base", "judge_mode", "replicates", "rubric", "seed", "max_usd",
    "max_calls", "max_tokens", "max_judge_failures", "concurrency", "cache_dir", "log_calls",
)  # fmt: skip
@click.option(
    "--labels", metavar="COLUMN", default="", help="Column of the score, or of the winner [winner]."
)
@click.option(
    "--responses", metavar="COLUMN", multiple=True,
    help="Column of the answer; repeat the flag for the two answers of pairs.",
)  # fmt: skip
@click.option(
    "--authors", metavar="COLUMN", multiple=True,
    help="Column of who wrote the answer [model]; repeat the flag for pairs [model_a, model_b].",
)  # fmt: skip
@click.option(
    "--probes", type=click.IntRange(min=0), default=20, show_default=True,
    help="Rows that are judged again and tried with known tricks.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("calibration.html"), show_default=True,
    help="Write the page to this .html file.",
)  # fmt: skip
@overwrite_option
@overrides_option
@json_option
@show_status
def command(
    data: Path,
    labels: str,
    responses: tuple[str, ...],
    authors: tuple[str, ...],
    probes: int,
    out: Path,
    overwrite: bool,
    overrides: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Measure how far a judge with a rubric agrees with labels, and whether to train against it.

    DATA is .jsonl, .csv or .parquet with prompt, response (or completion) and a column of scores, more is
    better; or with prompt, response_a, response_b and winner (a, b, tie, or the name of a model in model_a
    and model_b). Shows agreement with intervals next to a constant predictor, each criterion, biases, noise,
    known tricks and the worst disagreements. All judge answers are cached: to continue after a stop or a
    kill, run the same command again.

    \b
    mpo-lite calibrate answers.jsonl --labels stars --judge gpt-4o-mini --rubric rubric.yaml
    mpo-lite calibrate pairs.jsonl --judge gpt-4o-mini --task essay --out essay.html
    """
    _require_packages()
    # Imported here: they load the packages of the extra.
    from mpo_lite.calibration.labels import Columns
    from mpo_lite.calibration.measure import to_json
    from mpo_lite.report.calibration import write_calibration

    if len(responses) > 2 or (authors and responses and len(authors) != len(responses)):
        raise ConfigError("calibrate: give --responses and --authors once for scores, or twice for pairs")
    config = load_config(None, flags, overrides)
    task = task_of(config)
    with (
        new_file(out, [data, config.rubric], overwrite, ending=".html") as fresh,
        sandboxed(config) as served,
    ):
        calibration, spend = _calibrate(served, task, data, Columns(labels, responses, authors), probes)
        summary = to_json(calibration) | spend
        summary |= {
            "file": data.name,
            "rubric": rubric_at(config.rubric)[1] if config.rubric else f"task {task.name}",
            "simulated": [role for role in config.simulated if role == "judge"],
        }
        write_calibration(summary, fresh)
    summary["out"] = str(out)
    if as_json:
        echo(json.dumps(summary))
    else:
        _print(summary)


def _require_packages() -> None:
    if missing := [name for name in PACKAGES if not find_spec(name)]:
        raise ConfigError(f"{', '.join(missing)} not installed: pip install 'mpo-lite[calibrate]'")


def _calibrate(
    config: Config, task: Task, data: Path, columns: Columns, probes: int
) -> tuple[Calibration, Row]:
    """The figures, and the spend with the judge's name."""
    from mpo_lite.calibration.judging import choose_probed, count_judgements, judge_labelled
    from mpo_lite.calibration.labels import read_labelled
    from mpo_lite.calibration.measure import calibrate

    labelled, rubric = read_labelled(data, columns, task), first_rubric(config, task)
    probed = choose_probed(labelled, probes, config.seed)
    config = config.model_copy(update={"judge_mode": config.judge_mode or task.judge_mode})
    models = ModelPool(config, task.brief(), with_meta=False, waits_out=True)
    try:
        models.log_calls(Path())
        models.check()
        with activity("calibrating", count_judgements(labelled, len(probed), task), "answers") as work:
            share = config.max_judge_failures
            judged = judge_labelled(models, task, rubric, labelled, probed, share, work.advance)
        with activity("computing intervals"):
            return calibrate(rubric, judged), models.spend() | {"judge": models.judged_by}
    except StopRun as stop:
        raise type(stop)(
            f"{stop}; verdicts so far are cached: run the same command again to continue"
        ) from None
    finally:
        models.close()


def _print(summary: Row) -> None:
    for line in _format(summary):
        echo(line)


def _format(summary: Row) -> Iterator[str]:
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
