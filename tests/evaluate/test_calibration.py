"""Calibration: figures beside scikit-learn's and those counted by hand, and the plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import brier_score_loss

from tests.evaluate.judging import row, write
from tests.refusals import refused
from vllava_cli.errors import UsageError
from vllava_cli.evaluate.calibration import calibration_of, check_plot, write_plot
from vllava_cli.evaluate.records import read_records
from vllava_cli.evaluate.tally import Tally

pytestmark = pytest.mark.usefixtures("in_a_folder")
CHOICES = ("red", "blue", "green")


def found(chances: np.ndarray, gold: np.ndarray) -> dict[str, Any]:
    rows = [
        row(
            f"{number}.mp4",
            answer=CHOICES[its.argmax()],
            choices=CHOICES,
            chances=dict(zip(CHOICES, its.tolist(), strict=True)),
            job_answer=CHOICES[right],
        )
        for number, (its, right) in enumerate(zip(chances, gold, strict=True))
    ]
    tally = Tally()
    for record in read_records([write(Path("rows.jsonl"), rows)]):
        tally.add(record)
    calibration = calibration_of(tally.columns())
    assert calibration
    return calibration


def test_brier_is_that_of_scikit_learn_and_ece_the_sum_over_bins() -> None:
    draw = np.random.default_rng(5)
    chances = draw.dirichlet((2, 1, 1), 200)
    gold = draw.integers(0, 3, 200)
    calibration = found(chances, gold)
    theirs = brier_score_loss(gold, chances, labels=[0, 1, 2], scale_by_half=False)
    assert calibration["brier"] == pytest.approx(theirs)
    confidence, right = chances.max(1), chances.argmax(1) == gold
    gap = 0.0
    for low in range(15):
        its = (low < confidence * 15) & (confidence * 15 <= low + 1)
        gap += abs(right[its].sum() - confidence[its].sum()) / 200
    assert calibration["ece"] == pytest.approx(gap)
    assert [each["rows"] for each in calibration["bins"]] == np.histogram(confidence, 15, (0, 1))[0].tolist()
    assert (calibration["confidence"], calibration["accuracy"]) == pytest.approx((confidence.mean(), right.mean()))


def test_sure_answers_are_in_the_last_bin() -> None:
    calibration = found(np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), np.array([0, 1]))
    assert (calibration["ece"], calibration["brier"]) == (0.5, 1.0)
    assert calibration["bins"][-1] == {"from": 14 / 15, "to": 1.0, "rows": 2, "confidence": 1.0, "accuracy": 0.5}


def test_a_plot_is_written_in_three_formats_and_the_same_each_time() -> None:
    calibration = found(np.array([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3]]), np.array([0, 1]))
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")):
        write_plot(Path(name), calibration)
        first = Path(name).read_bytes()
        write_plot(Path(name), calibration)
        assert first.startswith(start) and Path(name).read_bytes() == first
    with Image.open("a.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or ()}
    assert {(0, 114, 178), (213, 94, 0)} <= colours
    assert "2 answers" in Path("a.svg").read_text() or "ECE" in Path("a.svg").read_text()


def test_a_plot_that_cant_be_written_is_refused_before_rows_are_read() -> None:
    Path("a.png").touch()
    assert refused(UsageError, check_plot, Path("a.jpg"), is_overwriting=False) == (
        "--plot 'a.jpg' has an unknown ending: give one of .png, .svg, .pdf."
    )
    assert refused(UsageError, check_plot, Path("a.png"), is_overwriting=False) == (
        "'a.png' is already there. Give --overwrite to replace it, or name another file."
    )
    check_plot(Path("a.png"), is_overwriting=True)
