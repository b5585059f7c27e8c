"""May it train? Each threshold decides."""

from dataclasses import replace

import numpy as np
import pytest

from mpo_lite.calibration.agreement import Agreement, Figure
from mpo_lite.calibration.biases import Biases
from mpo_lite.calibration.conclusion import conclude
from mpo_lite.calibration.criteria import CriterionFigures
from mpo_lite.calibration.tricks import TrickResult
from mpo_lite.stats.agreement import Estimate

GOOD = Estimate(0.8, 0.7, 0.9)
NONE = Estimate(0.01, -0.1, 0.1)
AGREEMENT = Agreement(
    (Figure("accuracy", "accuracy", GOOD, 0.5),), Estimate(0.3, 0.2, 0.4), "always the first answer",
    ("second", "tie", "first"), (), np.zeros(0), None,
)  # fmt: skip
BIASES = Biases(NONE, Estimate(0.1, 0.05, 0.15), NONE, NONE, {"gpt": NONE})
CRITERIA = {"clear": CriterionFigures(GOOD, (0.3, 0.7), 0.1, None)}
TRICK = TrickResult("colon", '":" alone', False, 20, 0.1, 0.6, -0.6, -0.4)
ADDED = TrickResult("praise", "praise of itself", True, 20, 0.7, 0.6, 0.05, 0.15)


def test_a_judge_with_nothing_against_it_may_train() -> None:
    conclusion = conclude(AGREEMENT, BIASES, CRITERIA, [TRICK, ADDED], 200)
    assert conclusion.answer == "yes" and not conclusion.obstacles and not conclusion.cautions
    assert conclusion.sentence == (
        "Yes: the judge agrees with the labels (accuracy 0.80 [0.70, 0.90]), and no known trick pays."
    )


@pytest.mark.parametrize(
    ("agreement", "tricks", "said"),
    [
        (replace(AGREEMENT, gain=Estimate(0.1, -0.02, 0.2)), [TRICK], "no better than always the first"),
        (replace(AGREEMENT, gain=Estimate(None)), [TRICK], "no better than always the first answer does"),
        (AGREEMENT, [replace(TRICK, succeeds=True)], 'it pays for ":" alone as much as for the median'),
    ],
)  # fmt: skip
def test_what_forbids_training(agreement: Agreement, tricks: list[TrickResult], said: str) -> None:
    conclusion = conclude(agreement, BIASES, CRITERIA, tricks, 200)
    assert (
        conclusion.answer == "no" and conclusion.sentence.startswith("No: ") and said in conclusion.sentence
    )


@pytest.mark.parametrize(
    ("biases", "said"),
    [
        (replace(BIASES, length=Estimate(0.3, 0.1, 0.5)), "it pays longer answers more"),
        (replace(BIASES, length=Estimate(-0.3, -0.5, -0.1)), "it pays shorter answers more"),
        (replace(BIASES, position=Estimate(-0.2, -0.3, -0.1)), "0.20 more where it is shown second"),
        (replace(BIASES, noise=Estimate(0.25)), "25% of levels change"),
        (replace(BIASES, authors={"gpt": Estimate(0.2, 0.1, 0.3)}), "it pays answers of gpt more"),
    ],
)
def test_a_bias_is_a_caution(biases: Biases, said: str) -> None:
    conclusion = conclude(AGREEMENT, biases, CRITERIA, [TRICK], 200)
    assert conclusion.answer == "with care" and len(conclusion.cautions) == 1 and said in conclusion.sentence


def test_a_bias_that_may_be_chance_is_none() -> None:
    unsure = replace(BIASES, length=Estimate(0.3, -0.1, 0.7), authors={"gpt": Estimate(0.3)})
    assert conclude(AGREEMENT, unsure, CRITERIA, [TRICK], 200).answer == "yes"


def test_other_cautions() -> None:
    flat = {"clear": CriterionFigures(GOOD, (0.96, 0.04), 0.1, None)}
    weak = replace(AGREEMENT, figures=(Figure("accuracy", "accuracy", Estimate(0.6, 0.55, 0.65), 0.5),))
    conclusion = conclude(weak, BIASES, flat, [replace(ADDED, succeeds=True)], 49)
    assert conclusion.cautions == (
        "agreement is weak (below 0.65)",
        "49 judged rows are few",
        "it pays more for honest answers with praise of itself added",
        "nearly all answers are at the same level of clear",
    )
