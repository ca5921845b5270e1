"""How long a CPU takes to answer is estimated from measured speeds, decides between forms of weights, and is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.machines import DEMO, RTX_4090, SEVEN_B, SPEED, box, slower
from vllava_cli.cpu_time import expected, tokens_text, wide_dtype
from vllava_cli.machine import CpuSpeed
from vllava_cli.nouns import LoadPlan, Precision, Wishes
from vllava_cli.plan import plan


def measured(speed: CpuSpeed, wishes: Wishes | None = None, *, free: float = 26) -> LoadPlan:
    return plan(wishes or Wishes(), replace(box(ram=32, free=free), cpu_speed=speed), SEVEN_B)


@pytest.mark.parametrize(
    ("precision", "quantise_s", "token_s"), [("fp16", 0, 0.867), ("8bit", 6, 0.467), ("4bit", 30, 0.267)]
)
def test_a_first_word_takes_the_prompts_products_and_a_token_all_weights(
    precision: Precision, quantise_s: float, token_s: float
) -> None:
    """By hand, in GFLOP: 2 * 2070 * 6.48, 2 * 2056 * 0.303 and 2 * 2070 * 2070 * 0.000262 / 2."""
    found = expected(SEVEN_B, precision, SPEED)
    assert found
    assert found.quantise_s == pytest.approx(quantise_s)
    assert found.first_s == pytest.approx((26_827.2e9 + 1_245.9e9 + 1_123.3e9) / 140e9, rel=1e-3)
    assert found.token_s == pytest.approx(token_s, rel=1e-3)
    assert found.answer_s == pytest.approx(quantise_s + found.first_s + 128 * token_s, rel=1e-3)
    faster = replace(SPEED, operations={"float32": 140e9, "bfloat16": 280e9})
    assert expected(SEVEN_B, precision, faster) == replace(found, first_s=found.first_s / 2)


def test_a_precision_that_was_not_measured_has_no_time() -> None:
    assert expected(SEVEN_B, "fp32", SPEED) is None


@pytest.mark.parametrize(("gain", "dtype"), [(1.2, "float32"), (1.3, "bfloat16")])
def test_large_products_are_rounded_to_bf16_only_where_that_pays(gain: float, dtype: str) -> None:
    speed = replace(SPEED, operations={"float32": 100e9, "bfloat16": gain * 100e9})
    assert (wide_dtype(speed), measured(speed).wide_dtype) == (dtype, dtype)


@pytest.mark.parametrize(
    ("token_s", "text"),
    [
        *((25.8, "26 s a token"), (9.96, "10.0 s a token"), (0.84, "0.8 s a token"), (0.15, "0.1 s a token")),
        *((0.149, "7 tokens a second"), (0.04, "25 tokens a second")),
    ],
)
def test_the_time_of_a_token_is_told_as_people_count(token_s: float, text: str) -> None:
    assert tokens_text(token_s) == text


NEVER: dict[Precision, float] = {"8bit": 1e6, "4bit": 1e6}
CHOICES = {
    "16 bits, which take at most 1.25 times the fastest": (SPEED, 26, "fp16"),
    "8 bits where 16 take longer": (slower(fp16=3e9), 26, "8bit"),
    "4 bits where 8 take longer, too": (slower(fp16=3e9, **{"8bit": 3e9}), 26, "4bit"),
    "8 bits where 16 don't fit": (SPEED, 13, "8bit"),
    "4 bits where 8 don't fit": (SPEED, 10, "4bit"),
    "16 bits where quantising takes longer": (replace(slower(fp16=3e9), quantised=NEVER), 26, "fp16"),
}


@pytest.mark.parametrize(("speed", "free", "precision"), CHOICES.values(), ids=CHOICES)
def test_the_most_exact_form_is_taken_that_is_nearly_the_fastest(speed: CpuSpeed, free: float, precision: str) -> None:
    assert measured(speed, free=free).precision == precision


def test_a_wish_and_a_gpu_count_more_than_time() -> None:
    assert measured(slower(fp16=1e9), Wishes(precision="fp16")).precision == "fp16"
    assert measured(SPEED, Wishes(precision="4bit")).precision == "4bit"
    made = plan(Wishes(), replace(box(RTX_4090), cpu_speed=slower(fp16=1e9)), SEVEN_B)
    assert (made.device, made.dtype) == ("cuda:0", "float16")
    assert plan(Wishes(), replace(box(), cpu_speed=slower(fp16=1e9)), DEMO).precision == "fp32"


def test_the_time_is_told_with_the_reason_and_for_each_form() -> None:
    made = measured(slower(fp16=3e9), free=20)
    assert made.quantisation_reason == (
        "fp16 would take longer (first word in about 3 min, then 2.3 s a token); 8bit needs 12.4 GiB and 20.0 of 32.0 "
        "GiB of RAM are free; measured here: first word in about 3 min, then 0.6 s a token, after about 6 s of "
        "quantising, once."
    )
    assert made.forms == (
        ("fp16", "18.4 GiB, first word in about 3 min, then 2.3 s a token"),
        ("8bit", "12.4 GiB, first word in about 3 min, then 0.6 s a token, after about 6 s of quantising, once"),
        ("4bit", "9.8 GiB, first word in about 3 min, then 0.4 s a token, after about 30 s of quantising, once"),
    )
    made = measured(SPEED, free=9)
    assert (made.precision, made.context_tokens) == ("4bit", 3080)
    assert made.forms == tuple(
        (name, f"{size} GiB, more than is free") for name, size in (("fp16", 18.4), ("8bit", 12.4), ("4bit", 9.8))
    )
