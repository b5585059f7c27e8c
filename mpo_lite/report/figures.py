"""The picture of a run: reward and gold over its batches, with the rubric versions marked."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from mpo_lite.runs import Run, read_rows

_REWARD, _GOLD, _BORDER = "#3b6fb6", "#c8881a", "#8a8a8a"


def plot_run(run: Run, note: str = "") -> Path:
    """Draws ``plot.png`` into the run directory.

    Reward is drawn apart for every rubric version: rewards of different versions are not comparable, so no
    line joins them. Gold is one line: its measure never changes.

    Args:
        run: A run with at least one finished batch.
        note: What the reader must know about the figures, e.g. that the judge was simulated.

    Returns:
        The file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    metrics, gold = read_rows(run.metrics), read_rows(run.gold)
    figure: Any  # matplotlib's annotations are partial
    plot: Any
    figure, plot = pyplot.subplots(figsize=(9, 4.8), layout="constrained")
    for number, (version, rows) in enumerate(_by_version(metrics)):
        batches = [row["batch"] for row in rows]
        label = "reward (by the version in force)" if number == 0 else None
        plot.plot(batches, [row["reward"] for row in rows], color=_REWARD, label=label, linewidth=1.6)
        if number:
            plot.axvline(batches[0] - 0.5, color=_BORDER, linewidth=0.8, linestyle=":")
        plot.text(batches[0] - 0.3, 1.02, f"v{version}", fontsize=8, color=_BORDER, va="bottom")
    if gold:
        points = [row["batch"] for row in gold], [row["gold"] for row in gold]
        plot.plot(
            *points, color=_GOLD, marker="o", markersize=3.5, label=f"gold ({gold[0]['n']} held-out prompts)"
        )
    plot.set(xlabel="generation batch", ylabel="reward, gold (0 to 1)", ylim=(0, 1))
    plot.spines[["top", "right"]].set_visible(False)
    plot.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=2, frameon=False)
    figure.suptitle(run.path.name + (f" · {note}" if note else ""), fontsize=10)
    path = run.path / "plot.png"
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def _by_version(metrics: list[dict[str, Any]]) -> list[tuple[int, list[dict[str, Any]]]]:
    judged = [row for row in metrics if row["reward"] is not None]
    return [(version, list(rows)) for version, rows in groupby(judged, key=lambda row: row["version"])]
