"""Limits are those of a table of numbers that were computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig

from tests.engine.engines import EXACT
from tests.engine.measuring.conftest import SIZES
from vllava_cli.engine.measuring.limits import Limits, Sizes
from vllava_cli.nouns import Dtype, Quantisation, Speed

SLOW_COMPUTING = Limits(sizes=SIZES, speed=Speed(operations=100.0, bytes=1e9), matrix_bytes=2.0, value_bytes=2)
SLOW_MEMORY = Limits(sizes=SIZES, speed=Speed(operations=1e9, bytes=100.0), matrix_bytes=2.0, value_bytes=2)


def test_vision_is_eight_frames_through_the_tower_and_the_projector() -> None:
    # A layer: 5 tokens by 4 * 16 + 2 * 24 parameters twice, 4 * 25 * 4 of attention; patches 2 * 4 * 12 * 4;
    # the projector 2 * 5 * (40 + 100).
    assert SIZES.vision_operations == 8 * (3 * (2 * 5 * 112 + 400) + 384 + 1400)


def test_a_prompt_of_7_tokens() -> None:
    # 2 * 100 * 7, of attention half of 4 * 7 * 7 * 10 in each layer, 2 * 50 for the last token's logits.
    assert SIZES.prefill_operations(7) == 1400 + 2 * 2 * 49 * 10 + 100


def test_a_step_of_3_rows_that_hold_7_tokens() -> None:
    assert SIZES.step_operations(3, 7) == 3 * (2 * 150 + 4 * 2 * 7 * 10)
    assert SLOW_MEMORY.step_bytes(3, 7) == 200 + 100 + 3 * 7 * 40 * 2


def test_the_slower_of_computing_and_reading_is_the_limit() -> None:
    assert SLOW_COMPUTING.vision_s == 8 * (3 * 1520 + 1784) / 100
    assert SLOW_COMPUTING.prefill_s(7) == 34.6
    assert SLOW_MEMORY.prefill_s(7) == 3.0
    assert SLOW_COMPUTING.step_s(3, 7) == 25.8
    assert SLOW_MEMORY.step_s(3, 7) == 19.8


def test_rates_follow_from_seconds() -> None:
    assert SLOW_COMPUTING.first_token_s(7) == SLOW_COMPUTING.vision_s + 34.6
    # 3 rows at a length of 6 + 2 / 2.
    assert SLOW_MEMORY.decode_tokens_per_s(3, prompt_tokens=6, new_tokens=2) == 3 / 19.8
    # A clip, and its share of 1 step behind the first token.
    each_s = SLOW_MEMORY.first_token_s(6) + 19.8 / 3
    assert SLOW_MEMORY.clips_per_s(3, prompt_tokens=6, new_tokens=2) == pytest.approx(1 / each_s)


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
    plan = replace(EXACT, dtype=dtype, quantisation=quantisation)
    assert Limits.of(SIZES, plan, Speed(operations=1.0, bytes=1.0)).weight_bytes == weight_bytes


@pytest.mark.parametrize(("layers", "feature_layer"), [(4, -2), (3, -1), (5, 3), (4, [-3, -2])])
def test_sizes_come_from_a_config_trimmed_or_not(layers: int, feature_layer: int | list[int]) -> None:
    config = VideoLlavaConfig(
        text_config=LlamaConfig(
            hidden_size=10,
            intermediate_size=3,
            num_hidden_layers=2,
            num_attention_heads=5,
            num_key_value_heads=5,
            vocab_size=5,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=4,
            intermediate_size=6,
            num_hidden_layers=layers,
            num_attention_heads=2,
            image_size=4,
            patch_size=2,
        ),
        vision_feature_layer=feature_layer,
    )
    assert Sizes.of(config, language_parameters=100, cache_values_per_token=40) == SIZES
