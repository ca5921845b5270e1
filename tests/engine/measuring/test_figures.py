"""Limits are those of numbers that were computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig

from tests.engine.engines import EXACT
from tests.machines import DEMO
from vllava_cli.engine.measuring.figures import BenchTask, Roofline
from vllava_cli.engine.measuring.model_benchmark import CLIPS, expected_s
from vllava_cli.nouns import Dtype, Quantisation, Speed


def config() -> VideoLlavaConfig:
    """2 layers of 10 numbers wide; 4 patches of 12 numbers in each of 8 frames, 3 layers of 4 by 6."""
    text = LlamaConfig(
        hidden_size=10,
        intermediate_size=3,
        num_hidden_layers=2,
        num_attention_heads=5,
        num_key_value_heads=5,
        vocab_size=5,
    )
    vision = CLIPVisionConfig(
        hidden_size=4,
        intermediate_size=6,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=4,
        patch_size=2,
    )
    return VideoLlavaConfig(text_config=text, vision_config=vision, vision_feature_layer=-1)


COMPUTING = Roofline(
    config=config(),
    checkpoint=replace(DEMO, language_parameters=100, cache_values_per_token=40),
    plan=replace(EXACT, dtype="float16"),
    speed=Speed(operations=100.0, bytes=1e9),
    prompt_tokens=6,
    new_tokens=2,
)
MOVING = replace(COMPUTING, speed=Speed(operations=1e9, bytes=100.0))
# A layer: 5 tokens by 4 * 16 + 2 * 24 parameters twice, 4 * 25 * 4 of attention; patches 2 * 4 * 12 * 4; the projector
# 2 * 5 * (40 + 100).
VISION_S = 8 * (3 * (2 * 5 * 112 + 400) + 384 + 1400) / 100


def test_the_slower_of_computing_and_moving_is_the_limit() -> None:
    assert COMPUTING.vision_s == VISION_S
    # Of 7 tokens: 2 * 100 * 7, half of 4 * 7 * 7 * 10 of attention in each layer, 2 * 50 for the last token's logits.
    assert COMPUTING.pass_s(7) == (1400 + 2 * 2 * 49 * 10 + 100) / 100
    assert MOVING.pass_s(7) == (200 + 100) / 100
    # A step of 3 sequences that hold 7 tokens; the new token counts half.
    assert COMPUTING.pass_s(1, held=7, sequences=3) == 3 * (2 * 150 + 4 * 2 * 7.5 * 10) / 100
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
    small = 2 * (VISION_S + COMPUTING.pass_s(6) + 2 * first_s) + 2 * (first_s + step_s)
    clips = COMPUTING.clips_s(CLIPS) + first_s + step_s
    task = BenchTask(question="?", repeat=5, batches=(1,))
    assert expected_s(COMPUTING, task, 0.001) == pytest.approx(0.001 * (small + clips) * 6)
    assert expected_s(COMPUTING, task, 100.0) == pytest.approx(100 * (small + clips))
