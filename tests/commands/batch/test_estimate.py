"""How long a run would take, as a table: each part alone, then together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.machines import DEMO, SEVEN_B
from vllava_cli.commands.batch.estimate import Amount, Estimate, Means, answer_tokens, estimate, evenly
from vllava_cli.nouns import Sampling, Speed

ROUND = replace(
    SEVEN_B,
    language_parameters=5_000_000_000,
    other_parameters=1_000_000_000,
    tokens_per_video=2000,
    tokens_per_image=250,
)
"""Read at 10^12 operations a second, a token of a clip takes 0.011 s, of a question 0.01 s, of an answer 0.012."""
GPU = Means(
    checkpoint=ROUND,
    weight_bytes=12e9,
    speed=Speed(operations=1e12, bytes=1e12),
    rows_at_once=4,
    clip_s=0.5,
    decoders=2,
    cores=4,
    import_s=6.0,
    is_on_cpu=False,
)
ONE = Amount(videos=1, images=0, questions=1)
GREEDY = Sampling()


def parts(amount: Amount, means: Means = GPU, sampling: Sampling = GREEDY) -> tuple[float, float, float, float]:
    found = estimate(amount, means, sampling)
    return tuple(round(part, 3) for part in (found.start_s, found.decode_s, found.answer_s, found.whole_s))  # type: ignore[return-value]


READ_CLIP_S, READ_QUESTION_S = 2000 * 0.011, 24 * 0.01
STEPS_S = 32 * (0.012 + 0.025)


def test_one_question_about_one_clip() -> None:
    answer_s = READ_CLIP_S + READ_QUESTION_S + 3 * 0.025 + STEPS_S
    assert parts(ONE) == (18.0, 0.5, round(answer_s, 3), round(18 + answer_s, 3))


@pytest.mark.parametrize(
    ("amount", "answer_s"),
    [
        (Amount(videos=0, images=1, questions=1), 250 * 0.011 + READ_QUESTION_S + 3 * 0.025 + STEPS_S),
        (Amount(videos=1, images=0, questions=2), READ_CLIP_S + 2 * READ_QUESTION_S + 3 * 0.025 + 32 * (0.024 + 0.025)),
        (
            Amount(videos=1, images=0, questions=8),
            READ_CLIP_S + 8 * READ_QUESTION_S + 4 * 0.025 + 2 * 32 * (0.048 + 0.025),
        ),
        (Amount(videos=9, images=0, questions=9), 9 * (READ_CLIP_S + READ_QUESTION_S) + 21 * 0.025 + 96 * 0.073),
    ],
)
def test_answers_take_clips_questions_and_steps_of_several_rows(amount: Amount, answer_s: float) -> None:
    assert parts(amount)[2] == pytest.approx(answer_s, abs=1e-3)


def test_where_memory_is_slower_than_arithmetic_a_step_takes_as_long_as_reading_the_weights() -> None:
    slow = replace(GPU, speed=Speed(operations=1e12, bytes=1e10))
    assert parts(ONE, slow)[2] - parts(ONE)[2] == pytest.approx(32 * (1.2 - 0.012), abs=2e-3)


def test_short_answers_and_choices_take_less() -> None:
    one_token = Sampling(max_new_tokens=1)
    assert parts(ONE)[2] - parts(ONE, sampling=one_token)[2] == pytest.approx(31 * 0.037, abs=2e-3)
    choice = Sampling(choices=("yes", "no"))
    assert parts(ONE)[2] - parts(ONE, sampling=choice)[2] == pytest.approx(STEPS_S - 8 * 0.01, abs=2e-3)
    assert [answer_tokens(sampling) for sampling in (GREEDY, one_token, choice)] == [32, 1, 0]


def test_a_small_model_passes_faster() -> None:
    found = parts(Amount(videos=0, images=1, questions=1), replace(GPU, checkpoint=DEMO, weight_bytes=0.0))
    assert found[2] == pytest.approx((3 + 32) * 0.005, abs=2e-3)


@pytest.mark.parametrize(
    ("means", "whole_s"),
    [
        (replace(GPU, clip_s=200.0), 18 + 200),  # a GPU waits for the decoders, or they for it
        (replace(GPU, clip_s=1.0), 18 + 24),
        (replace(GPU, clip_s=200.0, is_on_cpu=True), 18 + 200),  # two of four cores decode
        (replace(GPU, clip_s=20.0, is_on_cpu=True), 18 + 10 + 24),
        (replace(GPU, clip_s=20.0, is_on_cpu=True, decoders=8), 18 + 20 + 24),
    ],
)
def test_decoding_and_answering_overlap_but_for_the_cores_that_both_want(means: Means, whole_s: float) -> None:
    assert parts(ONE, means)[3] == pytest.approx(whole_s, abs=0.6)


def test_several_devices_share_the_answers_but_not_the_decoders() -> None:
    many = Amount(videos=100, images=0, questions=100)
    alone, together = parts(many), parts(many, replace(GPU, devices=4))
    assert together == (
        alone[0],
        alone[1],
        pytest.approx(alone[2] / 4, abs=1e-3),
        pytest.approx(18 + alone[2] / 4, abs=1e-3),
    )


def test_no_clips_take_no_time() -> None:
    found = estimate(Amount(videos=0, images=0, questions=0), GPU, GREEDY)
    assert found == Estimate(start_s=18.0, decode_s=0.0, answer_s=0.0, whole_s=0.0)


@pytest.mark.parametrize(
    ("count", "most", "picked"),
    [(0, 8, []), (1, 8, [0]), (3, 8, [0, 1, 2]), (8, 8, list(range(8))), (10, 3, [1, 5, 8]), (100, 2, [25, 75])],
)
def test_a_few_are_taken_from_everywhere(count: int, most: int, picked: list[int]) -> None:
    assert evenly(range(count), most) == picked
