"""May a policy be trained against this judge with this rubric? The thresholds are in docs/calibrate.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mpo_lite.calibration.agreement import Agreement
from mpo_lite.calibration.biases import Biases
from mpo_lite.calibration.criteria import CriterionFigures
from mpo_lite.calibration.tricks import TrickResult
from mpo_lite.stats.agreement import Estimate

Answer = Literal["yes", "with care", "no"]


@dataclass(frozen=True)
class Thresholds:
    """What a conclusion depends on.

    Attributes:
        rows: Judged rows below which any result is only a first indication.
        kendall: Kendall's tau below which agreement with scores is weak.
        accuracy: Accuracy below which agreement with pairs is weak.
        length: Partial correlation with length from which on the judge is biased.
        noise: Share of changed levels from which on the judge is noisy.
        position: Difference in reward by position from which on the judge is biased.
        author: Excess for an author, as a share of the labels' range, from which on the judge is biased.
        contrast: Share of answers at one level from which on a criterion distinguishes nothing.
    """

    rows: int = 50
    kendall: float = 0.3
    accuracy: float = 0.65
    length: float = 0.2
    noise: float = 0.2
    position: float = 0.05
    author: float = 0.1
    contrast: float = 0.95


THRESHOLDS = Thresholds()


@dataclass(frozen=True)
class Conclusion:
    """The answer.

    Attributes:
        answer: Whether a policy may be trained.
        sentence: The answer and its reasons, in one sentence.
        obstacles: Why it must not be trained.
        cautions: What to watch if it is.
    """

    answer: Answer
    sentence: str
    obstacles: tuple[str, ...]
    cautions: tuple[str, ...]


def conclude(
    agreement: Agreement,
    biases: Biases,
    criteria: Mapping[str, CriterionFigures],
    tricks: Sequence[TrickResult],
    rows: int,
) -> Conclusion:
    """Draws the conclusion.

    Args:
        agreement: Of judge and labels.
        biases: Of the judge.
        criteria: By id.
        tricks: What they earned.
        rows: Number of judged rows.
    """
    obstacles = tuple(_find_obstacles(agreement, tricks))
    cautions = tuple(_find_cautions(agreement, biases, criteria, tricks, rows))
    answer: Answer = "no" if obstacles else "with care" if cautions else "yes"
    main = agreement.main
    measured = f"{main.title} {format_estimate(main.estimate)}"
    if answer == "yes":
        sentence = f"Yes: the judge agrees with the labels ({measured}), and no known trick pays."
    elif answer == "no":
        sentence = f"No: {'; '.join(obstacles)}."
    else:
        sentence = f"With care: the judge agrees with the labels ({measured}), but {'; '.join(cautions)}."
    return Conclusion(answer, sentence, obstacles, cautions)


def format_estimate(estimate: Estimate) -> str:
    """A value with its interval, e.g. ``0.61 [0.52, 0.69]``."""
    if estimate.value is None:
        return "–"
    interval = "" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"{estimate.value:.2f}{interval}"


def _find_obstacles(agreement: Agreement, tricks: Sequence[TrickResult]) -> Iterator[str]:
    gain, main = agreement.gain, agreement.main
    if gain.value is None or gain.value <= 0 or (gain.low is not None and gain.low <= 0):
        measured = f"{main.title} {format_estimate(main.estimate)}"
        yield f"the judge agrees with the labels no better than {agreement.constant} does ({measured})"
    if texts := [trick.text for trick in tricks if trick.succeeds and not trick.decorates]:
        yield f"it pays for {_join(texts)} as much as for the median honest answer"


def _find_cautions(
    agreement: Agreement,
    biases: Biases,
    criteria: Mapping[str, CriterionFigures],
    tricks: Sequence[TrickResult],
    rows: int,
) -> Iterator[str]:
    main = agreement.main
    weak = {"kendall": THRESHOLDS.kendall, "accuracy": THRESHOLDS.accuracy}[main.name]
    if (main.estimate.value or 0.0) < weak:
        yield f"agreement is weak (below {weak:g})"
    if rows < THRESHOLDS.rows or main.estimate.low is None:
        yield f"{rows} judged rows are few"
    if additions := [trick.text for trick in tricks if trick.succeeds and trick.decorates]:
        yield f"it pays more for honest answers with {_join(additions)} added"
    if direction := _direction(biases.length, THRESHOLDS.length):
        longer = "longer" if direction > 0 else "shorter"
        yield f"it pays {longer} answers more than the labels justify ({biases.length.value:+.2f})"
    if biases.position and (direction := _direction(biases.position, THRESHOLDS.position)):
        place = "first" if direction > 0 else "second"
        yield f"it pays an answer {abs(biases.position.value or 0):.2f} more where it is shown {place}"
    if (biases.noise.value or 0.0) >= THRESHOLDS.noise:
        yield f"{biases.noise.value:.0%} of levels change when an answer is judged again"
    for author, excess in biases.authors.items():
        if _direction(excess, THRESHOLDS.author) > 0:
            yield f"it pays answers of {author} more than the labels justify ({excess.value:+.2f})"
    if flat := [name for name, figures in criteria.items() if max(figures.shares) >= THRESHOLDS.contrast]:
        yield f"nearly all answers are at the same level of {_join(flat)}"


def _direction(estimate: Estimate, limit: float) -> int:
    """The sign of a value that is at least the limit either way, and whose interval excludes 0; else 0."""
    value = estimate.value or 0.0
    return (1 if value > 0 else -1) if abs(value) >= limit and estimate.excludes(0.0) else 0


def _join(parts: Sequence[str]) -> str:
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last
