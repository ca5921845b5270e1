"""The figures of `vllava bench`: values of this tool and of the snippet, and the limit, from a roofline model. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal

from vllava_cli.machine import Speed
from vllava_cli.memory import matrix_bytes, value_bytes
from vllava_cli.nouns import Checkpoint, LoadPlan

OVER = "More than the limit: this machine was slower when that was measured, or its caches save work that it counts."
Unit = Literal["s", "ms", "tokens/s", "clips/s", "MiB"]
"""Rates are better when they are higher, all others when they are lower."""


@dataclass(frozen=True, kw_only=True)
class BenchTask:
    """The question that each configuration answers, how often it is measured, and in which batch sizes."""

    question: str
    new_tokens: int = 64
    repeat: int = 5
    batches: tuple[int, ...] = (1, 4, 16)
    is_short: bool = False
    """True if only one answer of this tool is measured, not the snippet's."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The values of a measurement and its repeats, in one unit; there is at least one value."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A line of the table: values of this tool and of the documentation's snippet, and the limit of the hardware."""

    name: str
    unit: Unit
    ours: Measured | None = None
    snippet: Measured | None = None
    limit: float | None = None
    note: str = ""
    """A sentence that says why a value or the limit is missing."""

    @property
    def remark(self) -> str:
        """The note and, if the figure is better than the limit, an explanation."""
        return " ".join(filter(None, [self.note, OVER if (self.of_limit or 0.0) > 1 else ""]))

    @property
    def of_snippet(self) -> float | None:
        """The factor by which this tool is faster than the snippet, 40 tokens/s beside 10 → 4, or needs less memory."""
        return self._beside(self.snippet.median if self.snippet else None)

    @property
    def of_limit(self) -> float | None:
        """The share of the limit that this tool reaches: 40 tokens/s, limit 50 → 0.8; 1.2 s, limit 0.6 s → 0.5."""
        return self._beside(self.limit)

    def goodness(self, value: float) -> float:
        """Turns a value into a number of which a higher one is better: 40 tokens/s → 40, 0.5 s → 2."""
        return value if self.unit.endswith("/s") else 1 / value if value else 0.0

    def _beside(self, other: float | None) -> float | None:
        ours = self.ours.median if self.ours else 0.0
        return self.goodness(ours) / self.goodness(other) if ours and other else None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The result of --check: how far our tokens and logits agree with those of transformers."""

    tokens: int
    equal_tokens: int
    """The number of tokens before the first one that differs."""
    largest_difference: float | None
    """The largest difference of any logit after the same ids; None if it isn't a finite number."""
    tolerance: float
    """The difference that is allowed in fp32. In 16 bits sums round differently, and another token may win."""
    must_be_equal: bool
    """True if tokens must be equal and logits within the tolerance, as in fp32."""

    @property
    def is_met(self) -> bool:
        is_near = self.largest_difference is not None and self.largest_difference <= self.tolerance
        return not self.must_be_equal or (is_near and self.equal_tokens == self.tokens)


@dataclass(frozen=True, kw_only=True)
class BenchTrial:
    """One configuration, named as in --precision and --attention, its figures, and the fault that ended it early."""

    precision: str
    attention: str
    plan: LoadPlan | None = None
    speed: Speed | None = None
    lines: tuple[Figure, ...] = ()
    agreement: Agreement | None = None
    fault: str | None = None

    @property
    def name(self) -> str:
        """The name by the plan, "cuda:0, float16, 4bit, sdpa"; without a plan by the options, "fp16, flash"."""
        if plan := self.plan:
            return ", ".join(filter(None, (plan.device, plan.dtype, plan.quantisation, plan.attention)))
        return f"{self.precision}, {self.attention}"


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """The shortest time for an answer, in seconds, of a model loaded by this plan on a device of this speed.

    A pass computes its operations and moves its bytes; the slower of the two is the limit. Norms, activations, softmax,
    the attention in the vision tower, and the table of embeddings, of which a token reads one row, are not counted. A
    model that fits into a CPU's caches may be faster than the limit, as bytes are counted at the speed of the memory.
    """

    checkpoint: Checkpoint
    vision_parameters: int
    """The parameters of the vision layers that are used, and of the projector."""
    head_parameters: int
    plan: LoadPlan
    speed: Speed
    prompt_tokens: int
    new_tokens: int

    @property
    def vision_s(self) -> float:
        """The seconds for the eight frames in the tower and the projector."""
        return 2 * self.vision_parameters * self.checkpoint.tokens_per_video / self.speed.operations

    def pass_s(self, new: int, *, held: float = 0, sequences: int = 1) -> float:
        """The seconds of a pass over `new` tokens after the `held` tokens of each sequence.

        Each token attends to those before it. Only a sequence's last token has logits. However many sequences there
        are, the weights are read once.
        """
        matrices, cache_values = self.checkpoint.language_parameters, self.checkpoint.cache_values_per_token
        pairs = new * (held + new / 2)  # each token attends to half of the new ones
        operations = 2 * sequences * (matrices * new + self.head_parameters + cache_values * pairs)
        dtype = "float16" if self.plan.is_held else self.plan.dtype
        read_bytes = matrices * matrix_bytes(dtype, self.plan.quantisation)
        read_bytes += (self.head_parameters + sequences * held * cache_values) * value_bytes(dtype)
        return max(operations / self.speed.operations, read_bytes / self.speed.bytes)

    @property
    def first_token_s(self) -> float:
        """The seconds until the first token: the clip is encoded and the prompt is prefilled."""
        return self.vision_s + self.pass_s(self.prompt_tokens)

    def decode_s(self, sequences: int) -> float:
        """The seconds of all steps after the first token, each at the average length of the sequences."""
        held = self.prompt_tokens + self.new_tokens / 2
        return (self.new_tokens - 1) * self.pass_s(1, held=held, sequences=sequences)

    def clips_s(self, clips: int) -> float:
        """The seconds for a batch of clips: each is encoded and prefilled alone, and all are decoded together."""
        return clips * self.first_token_s + self.decode_s(clips)
