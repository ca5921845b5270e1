"""The values that `vllava bench` measures: this tool's beside the snippet's and beside the limit. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal

from vllava_cli.nouns import LoadPlan, Speed

OVER = (
    "More than the limit, which is measured as well: at another moment, when this machine was slower, or without what "
    "caches spare here."
)
Unit = Literal["s", "ms", "tokens/s", "clips/s", "MiB"]
"""Rates are better when they are higher, all others when they are lower."""


@dataclass(frozen=True, kw_only=True)
class BenchTask:
    """The question that each configuration is measured with, how often, and so many times at once."""

    question: str
    new_tokens: int = 64
    repeat: int = 5
    batches: tuple[int, ...] = (1, 4, 16)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The repeats of one measurement, in one unit; at least one."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def least(self) -> float:
        return min(self.values)

    @property
    def most(self) -> float:
        return max(self.values)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A line of the table: this tool, the documentation's snippet, and the limit that the hardware sets."""

    name: str
    unit: Unit
    ours: Measured | None = None
    snippet: Measured | None = None
    limit: float | None = None
    note: str = ""
    """A sentence that says why one of them is missing."""

    @property
    def remark(self) -> str:
        """The note and, where more than the limit was reached, how that can be."""
        return " ".join(filter(None, [self.note, OVER if (self.of_limit or 0.0) > 1 else ""]))

    @property
    def of_snippet(self) -> float | None:
        """How many times as fast as the snippet: 40 tokens/s beside 10 → 4; for memory, how many times as little."""
        return self._beside(self.snippet.median if self.snippet else None)

    @property
    def of_limit(self) -> float | None:
        """The share of the limit that was reached: 40 tokens/s of 50 → 0.8; 1.2 s where 0.6 s would do → 0.5."""
        return self._beside(self.limit)

    def goodness(self, value: float) -> float:
        """The value as a number that is better when it is higher: 40 tokens/s → 40, 0.5 s → 2."""
        return value if self.unit.endswith("/s") else 1 / value if value else 0.0

    def _beside(self, other: float | None) -> float | None:
        has_both = self.ours and self.ours.median and other
        return self.goodness(self.ours.median) / self.goodness(other) if self.ours and other and has_both else None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The result of a check: our tokens beside `generate`'s, our logits beside transformers' own forward pass."""

    tokens: int
    equal_tokens: int
    """Those up to the first that differs."""
    largest_difference: float | None
    """Of any logit at any of these positions, both given the same ids; None where it is no finite number."""
    tolerance: float
    """The difference that is allowed in fp32. In 16 bits sums round differently, and another token may win."""
    must_be_equal: bool
    """Whether it is judged: in fp32."""

    @property
    def is_met(self) -> bool:
        is_near = self.largest_difference is not None and self.largest_difference <= self.tolerance
        return not self.must_be_equal or (is_near and self.equal_tokens == self.tokens)


@dataclass(frozen=True, kw_only=True)
class BenchTrial:
    """One configuration, as --precision and --attention spell it: its figures, and the fault that ended it early."""

    precision: str
    attention: str
    plan: LoadPlan | None = None
    speed: Speed | None = None
    lines: tuple[Figure, ...] = ()
    agreement: Agreement | None = None
    fault: str | None = None

    @property
    def name(self) -> str:
        """ "cuda:0, float16, 4bit, sdpa"; of what wasn't loaded "fp16, flash"."""
        plan = self.plan
        parts = (
            (plan.device, plan.dtype, plan.quantisation, plan.attention) if plan else (self.precision, self.attention)
        )
        return ", ".join(filter(None, parts))
