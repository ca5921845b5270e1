"""The values that `vllava bench` measures: this tool's, the snippet's, and the limit, which a roofline gives. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, Literal

from vllava_cli.nouns import FRAMES_PER_CLIP, Checkpoint, LoadPlan, Speed
from vllava_cli.plan import matrix_bytes, value_bytes

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
        ours = self.ours.median if self.ours else 0.0
        return self.goodness(ours) / self.goodness(other) if ours and other else None


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
        if plan := self.plan:
            return ", ".join(filter(None, (plan.device, plan.dtype, plan.quantisation, plan.attention)))
        return f"{self.precision}, {self.attention}"


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """The seconds that one answer of a model takes at least, held as planned, on a device of this speed.

    A pass needs its operations and has to move its bytes; the slower of the two is the limit. Norms, activations,
    softmax, and the table of embeddings, of which a token reads one row, are not counted. A model that fits into a
    CPU's caches may be faster than its memory, against which the bytes are counted.
    """

    config: Any
    """A VideoLlavaConfig without the vision layers that run in vain."""
    checkpoint: Checkpoint
    plan: LoadPlan
    speed: Speed
    prompt_tokens: int
    new_tokens: int

    @property
    def weight_bytes(self) -> float:
        """The bytes that each pass of the language model reads, however many sequences it has."""
        matrices = self.checkpoint.language_parameters * matrix_bytes(self.plan.dtype, self.plan.quantisation)
        return matrices + self._head_parameters * value_bytes(self.plan.dtype)

    @property
    def vision_s(self) -> float:
        """The eight frames in the trimmed tower and the projector."""
        vision, hidden = self.config.vision_config, self.config.text_config.hidden_size
        patches, width = (vision.image_size // vision.patch_size) ** 2, vision.hidden_size
        tokens = patches + 1
        layer = 2 * tokens * (4 * width**2 + 2 * width * vision.intermediate_size) + 4 * tokens**2 * width
        projector = 2 * tokens * (width * hidden + hidden**2)
        embedding = 2 * patches * 3 * vision.patch_size**2 * width
        operations = FRAMES_PER_CLIP * (vision.num_hidden_layers * layer + embedding + projector)
        return float(operations / self.speed.operations)

    def prefill_s(self, tokens: int) -> float:
        """Each token attends to those before it, which is half of all pairs; there are logits of the last one."""
        operations = 2 * (self.checkpoint.language_parameters * tokens + self._head_parameters)
        operations += 2 * self._attention_values * tokens**2
        return max(operations / self.speed.operations, self.weight_bytes / self.speed.bytes)

    def step_s(self, sequences: int, tokens: float) -> float:
        """One more token in each of so many sequences that hold `tokens` each."""
        matrices = 2 * (self.checkpoint.language_parameters + self._head_parameters)
        operations = sequences * (matrices + 4 * self._attention_values * tokens)
        cache_bytes = sequences * tokens * self.checkpoint.cache_values_per_token * value_bytes(self.plan.dtype)
        return max(operations / self.speed.operations, (self.weight_bytes + cache_bytes) / self.speed.bytes)

    @property
    def first_token_s(self) -> float:
        """The clip is encoded and the prompt is read: the first token comes with that."""
        return self.vision_s + self.prefill_s(self.prompt_tokens)

    def decode_s(self, sequences: int) -> float:
        """All steps behind the first token, at the length that the sequences have on average."""
        return (self.new_tokens - 1) * self.step_s(sequences, self.prompt_tokens + self.new_tokens / 2)

    def clips_s(self, clips: int) -> float:
        """Each clip is encoded and its prompt read by itself, all are decoded side by side."""
        return clips * self.first_token_s + self.decode_s(clips)

    @property
    def _head_parameters(self) -> int:
        """Counts the numbers in the matrix that makes logits."""
        return int(self.config.text_config.hidden_size * self.config.text_config.vocab_size)

    @property
    def _attention_values(self) -> int:
        text = self.config.text_config
        return int(text.num_hidden_layers * text.num_attention_heads * text.head_dim)
