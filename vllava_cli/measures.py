"""What `vllava bench` measures, as values: one thing several times, beside the snippet and the limit. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vllava_cli.nouns import LoadPlan, Speed

OVER = (
    "More than the limit, which is measured as well: at another moment, when this machine was slower, or without what "
    "caches spare here."
)
Expect = Callable[[Literal["at least", "about"], float], object]
"""Gets how many seconds something will take."""
Unit = Literal["s", "ms", "tokens/s", "clips/s", "MiB"]
"""Rates are better when they are higher, all others when they are lower."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The same thing measured several times, in one unit; at least one value."""

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
class Line:
    """One thing that was measured: by this tool, by the documentation's snippet, and what the hardware would allow."""

    name: str
    """ "decode, batch 4"."""
    unit: Unit
    ours: Measured | None = None
    snippet: Measured | None = None
    limit: float | None = None
    note: str = ""
    """Why one of them is missing, a sentence."""

    @property
    def remark(self) -> str:
        """The note and, where more than the limit was reached, how that can be."""
        return " ".join(filter(None, [self.note, OVER if (self.of_limit or 0.0) > 1 else ""]))

    @property
    def is_rate(self) -> bool:
        return self.unit.endswith("/s")

    @property
    def of_snippet(self) -> float | None:
        """How many times as fast as the snippet: 40 tokens/s beside 10 → 4; for memory, how many times as little."""
        return _better(self.ours, self.snippet.median if self.snippet else None, is_rate=self.is_rate)

    @property
    def of_limit(self) -> float | None:
        """Which share of the limit was reached: 40 tokens/s of 50 → 0.8; 1.2 s where 0.6 s would do → 0.5."""
        return _better(self.ours, self.limit, is_rate=self.is_rate)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What a check found: our tokens beside `generate`'s, our logits beside those of transformers' own forward pass."""

    tokens: int
    """Greedy tokens that were compared."""
    equal_tokens: int
    """Up to the first that differs."""
    largest_difference: float
    """Of any logit at any of these positions, both given the same ids."""
    tolerance: float
    """What is allowed in this dtype."""
    must_be_equal: bool
    """Whether the tokens have to be the same: in fp32."""

    @property
    def is_met(self) -> bool:
        has_tokens = self.equal_tokens == self.tokens or not self.must_be_equal
        return has_tokens and self.largest_difference <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration: what was measured before it ended, and what ended it too early."""

    precision: str
    """As --precision spells it, "auto" included."""
    attention: str
    """As --attention spells it, "auto" included."""
    plan: LoadPlan | None = None
    speed: Speed | None = None
    lines: tuple[Line, ...] = ()
    agreement: Agreement | None = None
    fault: str | None = None
    """A sentence: out of memory, a wish that can't be granted here."""


def _better(ours: Measured | None, other: float | None, *, is_rate: bool) -> float | None:
    if ours is None or not other or not ours.median:
        return None
    return ours.median / other if is_rate else other / ours.median
