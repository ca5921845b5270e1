"""Bootstrap intervals, beside scipy's and the distributions that they have in theory."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vllava_cli.evaluate import intervals
from vllava_cli.evaluate.intervals import interval

_DRAW = np.random.default_rng(7)


def test_an_interval_of_independent_rows_is_that_of_scipy() -> None:
    values = _DRAW.random(60)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    assert interval(values, np.arange(60)) == pytest.approx(tuple(theirs), abs=0.01)


def test_an_interval_of_right_and_wrong_is_that_of_the_binomial_distribution() -> None:
    values = np.array([1.0] * 140 + [0.0] * 60)
    theirs = stats.binom.ppf((0.025, 0.975), 200, 0.7) / 200
    assert interval(values, np.arange(200)) == pytest.approx(theirs, abs=0.006)


def test_clips_are_drawn_with_all_of_their_rows() -> None:
    """Four equal rows about each clip know no more than one: the interval is as wide as that of the clips alone."""
    values = (_DRAW.random(50) < 0.6).astype(float)
    alone = interval(values, np.arange(50))
    assert interval(np.repeat(values, 4), np.repeat(np.arange(50), 4)) == pytest.approx(alone)
    unequal = np.array([1.0, 1.0, 1.0, 0.0, 1.0]), np.array([0, 0, 0, 1, 2])

    def share(clips: np.ndarray, axis: int) -> np.ndarray:
        return np.take([3, 0, 1], clips).sum(axis) / np.take([3, 1, 1], clips).sum(axis)

    theirs = stats.bootstrap((np.arange(3),), share, method="percentile", rng=np.random.default_rng(0))
    assert interval(*unequal) == pytest.approx(tuple(theirs.confidence_interval), abs=0.001)


def test_drawing_clips_and_drawing_counts_have_one_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    values, clips = _DRAW.random(400), np.arange(400)
    counted = interval(values, clips)
    monkeypatch.setattr(intervals, "_MOST_KINDS", 1)
    drawn = interval(values, clips)
    assert drawn != counted and drawn == pytest.approx(counted, abs=0.006)


def test_the_same_rows_have_the_same_interval_and_one_clip_has_none() -> None:
    values, clips = _DRAW.random(30), np.arange(30)
    first = interval(values, clips)
    intervals._counted.cache_clear()
    assert interval(values, clips) == first
    assert interval(values, np.zeros(30, int)) is None
    assert interval(values[:0], clips[:0]) is None
