"""Estimates how long a CPU takes to answer about a clip, for each form of the weights, from a few measured speeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllava_cli.times import roughly

if TYPE_CHECKING:
    from vllava_cli.machine import CpuSpeed
    from vllava_cli.nouns import Checkpoint, Dtype, Precision

QUESTION_TOKENS, ANSWER_TOKENS = 14, 128
"""The tokens of a question besides its clip, and of an answer."""
HASTE = 1.25
"""A more exact form is taken if an answer takes at most this many times as long as with the fastest form."""
BF16_GAIN = 1.25
"""How many times as fast large products must be in bf16 as in fp32, so that they are rounded to it."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The seconds that an answer about a clip is expected to take."""

    quantise_s: float
    """Needed once: later starts read the quantised weights that were kept."""
    first_s: float
    """From the loaded model to the first word."""
    token_s: float

    @property
    def answer_s(self) -> float:
        return self.quantise_s + self.first_s + ANSWER_TOKENS * self.token_s

    @property
    def text(self) -> str:
        """A clause: "first word in about 4 min, then 0.5 s a token"."""
        once = f", after about {roughly(self.quantise_s)} of quantising, once" if self.quantise_s >= 1 else ""
        return f"first word in about {roughly(self.first_s)}, then {tokens_text(self.token_s)}{once}"


def wide_dtype(speed: CpuSpeed) -> Dtype:
    """Returns the dtype in which a CPU multiplies many rows: bfloat16 only where that is much faster."""
    return "bfloat16" if speed.operations["bfloat16"] > BF16_GAIN * speed.operations["float32"] else "float32"


def expected(checkpoint: Checkpoint, precision: Precision, speed: CpuSpeed) -> Expected | None:
    """Estimates the time of an answer; None for a precision whose speed wasn't measured."""
    if precision not in speed.weights:
        return None
    tokens = checkpoint.tokens_per_video + QUESTION_TOKENS
    parameters = checkpoint.language_parameters
    read = 2 * (tokens * parameters + checkpoint.tokens_per_video * checkpoint.tower_parameters)
    attention = 2 * tokens * tokens * checkpoint.cache_values_per_token // 2
    cache = tokens * checkpoint.cache_values_per_token * speed.cache_bytes / 2
    return Expected(
        quantise_s=parameters / speed.quantised[precision] if precision in speed.quantised else 0.0,
        first_s=(read + attention) / speed.operations[wide_dtype(speed)],
        token_s=(parameters / speed.weights[precision]) + cache / speed.weights["fp16"],
    )


def tokens_text(token_s: float) -> str:
    """Writes the time of a token: 0.21 → "0.2 s a token", 25.8 → "26 s a token", 0.04 → "25 tokens a second"."""
    if token_s >= 10:
        return f"{token_s:.0f} s a token"
    return f"{token_s:.1f} s a token" if token_s >= 0.15 else f"{1 / token_s:.0f} tokens a second"
