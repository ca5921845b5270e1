"""Limits are those of numbers that were computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.engine.engines import EXACT
from tests.machines import DEMO
from vllava_cli.engine.measuring.figures import BenchTask, Roofline
from vllava_cli.engine.measuring.model_benchmark import CLIPS, expected_s
from vllava_cli.machine import Speed
from vllava_cli.nouns import Dtype, Quantisation

COMPUTING = Roofline(
    checkpoint=replace(DEMO, language_parameters=100, cache_values_per_token=40, tokens_per_video=40),
    vision_parameters=300,
    head_parameters=50,
    plan=replace(EXACT, dtype="float16"),
    speed=Speed(operations=100.0, bytes=1e9),
    prompt_tokens=6,
    new_tokens=2,
)
MOVING = replace(COMPUTING, speed=Speed(operations=1e9, bytes=100.0))
VISION_S = 2 * 300 * 40 / 100


def test_the_slower_of_computing_and_moving_is_the_limit() -> None:
    assert COMPUTING.vision_s == VISION_S
    # Of 7 tokens: 2 * 100 * 7, half of 2 * 7 * 7 * 40 of attention, 2 * 50 for the last token's logits.
    assert COMPUTING.pass_s(7) == (1400 + 49 * 40 + 100) / 100
    assert MOVING.pass_s(7) == (200 + 100) / 100
    # A step of 3 sequences that hold 7 tokens; the new token counts half.
    assert COMPUTING.pass_s(1, held=7, sequences=3) == 3 * (2 * 150 + 2 * 7.5 * 40) / 100
    assert MOVING.pass_s(1, held=7, sequences=3) == (200 + 100 + 3 * 7 * 40 * 2) / 100


def test_an_answer_is_a_first_token_and_steps_at_its_average_length() -> None:
    assert COMPUTING.first_token_s == VISION_S + COMPUTING.pass_s(6)
    assert MOVING.decode_s(3) == 19.8  # one step at a length of 6 + 2 / 2
    assert MOVING.clips_s(3) == pytest.approx(3 * MOVING.first_token_s + 19.8)


@pytest.mark.parametrize(
    ("dtype", "quantisation", "weight_bytes"),
    [
        ("float32", None, 600),
        ("float16", None, 300),
        ("bfloat16", None, 300),
        ("float16", "8bit", 200),
        ("float16", "4bit", 156.25),
        ("float32", "4bit", 256.25),
    ],
)
def test_weights_are_read_as_they_are_held(
    dtype: Dtype, quantisation: Quantisation | None, weight_bytes: float
) -> None:
    roof = replace(MOVING, plan=replace(EXACT, dtype=dtype, quantisation=quantisation))
    assert roof.pass_s(1) == weight_bytes / 100


def test_the_time_of_all_is_estimated_from_first_answers_slow_rounds_less_often() -> None:
    first_s, step_s = COMPUTING.first_token_s, COMPUTING.decode_s(1)
    small = 2 * (VISION_S + COMPUTING.pass_s(6) + first_s) + 2 * (first_s + step_s)
    clips = COMPUTING.clips_s(CLIPS) + first_s + step_s
    task = BenchTask(question="?", repeat=5, batches=(1,))
    assert expected_s(COMPUTING, task, 0.001) == pytest.approx(0.001 * (small + clips) * 6)
    assert expected_s(COMPUTING, task, 100.0) == pytest.approx(100 * (small + clips))
