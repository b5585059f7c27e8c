"""``mpo-lite calibrate``: how far a judge with a rubric may be trusted to train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mpo_lite.cli._options import config_options, json_option, overrides_option
from mpo_lite.cli.calibration_table import format_calibration
from mpo_lite.cli.outputs import check_writable, new_file, overwrite_option
from mpo_lite.cli.status import show_status
from mpo_lite.cli.terminal import echo
from mpo_lite.config_sources import load_config
from mpo_lite.errors import ConfigError
from mpo_lite.loop.environment import require_extra
from mpo_lite.sandbox.stand_in import sandboxed
from mpo_lite.tasks.examples import write_examples


@click.command("calibrate", short_help="Measure how far a judge and rubric agree with labels.")
@click.argument("data", metavar="DATA", type=click.Path(path_type=Path))
@config_options(
    "task", "goal", "judge", "judge_api_base", "judge_mode", "replicates", "examples", "rubric", "seed",
    "max_usd", "max_calls", "max_tokens", "max_judge_failures", "concurrency", "cache_dir", "log_calls",
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
    "--pick-examples", "examples_count", metavar="N", type=click.IntRange(min=1),
    help="Pick N rows as examples for the judge, and write them to a file if they help on held-out rows.",
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
    examples_count: int | None,
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
    require_extra("calibrate")
    # Imported here: they load the packages of the extra.
    from mpo_lite.calibration.labels import Columns
    from mpo_lite.calibration.run import run_calibration
    from mpo_lite.report.calibration import write_calibration

    if len(responses) > 2 or (authors and responses and len(authors) != len(responses)):
        raise ConfigError("calibrate: give --responses and --authors once for scores, or twice for pairs")
    config = load_config(None, flags, overrides)
    reads = [data, config.rubric, config.examples]
    examples_file = out.with_suffix(".examples.jsonl")
    if examples_count:
        check_writable(examples_file, reads, overwrite)
    with new_file(out, reads, overwrite, ending=".html") as fresh, sandboxed(config) as served:
        columns = Columns(labels, responses, authors)
        summary, examples = run_calibration(served, data, columns, probes, examples_count)
        summary["simulated"] = [role for role in config.simulated if role == "judge"]
        if examples:
            with new_file(examples_file, reads, overwrite) as fresh_examples:
                write_examples(fresh_examples, examples)
            summary["examples"]["file"] = str(examples_file)
        write_calibration(summary, fresh)
    summary["out"] = str(out)
    echo(json.dumps(summary) if as_json else "\n".join(format_calibration(summary)))
