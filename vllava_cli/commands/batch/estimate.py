"""How long a run would take, from what was measured and counted. Pure; every assumption is a name here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from vllava_cli.nouns import Checkpoint, Sampling, Speed

MOST_SAMPLED = 8
ANSWER_TOKENS = 32
QUESTION_TOKENS = 24
CHOICE_TOKENS = 4
PASS_S, SMALL_PASS_S = 0.025, 0.005
"""What a pass of the language model takes beside its arithmetic: 32 layers of Python and launches; of a small one."""
SMALL_PARAMETERS = 100_000_000
DISK_BYTES_PER_S = 1e9
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Amount:
    """What there is to do."""

    videos: int
    images: int
    questions: int
    """About all clips together; one that is asked twice about a clip counts once."""

    @property
    def clips(self) -> int:
        return self.videos + self.images


@dataclass(frozen=True, kw_only=True)
class Means:
    """What there is to do it with."""

    checkpoint: Checkpoint
    weight_bytes: float
    speed: Speed
    rows_at_once: int
    clip_s: float
    """Wall time for each clip while all decoders work."""
    decoders: int
    cores: int
    import_s: float
    devices: int = 1
    is_on_cpu: bool = True


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds; decoding and answering overlap as far as they don't take each other's cores."""

    start_s: float
    decode_s: float
    answer_s: float
    whole_s: float


def estimate(amount: Amount, means: Means, sampling: Sampling) -> Estimate:
    """For no clips it takes no time."""
    start_s = means.import_s + means.weight_bytes / DISK_BYTES_PER_S
    decode_s = amount.clips * means.clip_s
    answer_s = (_reading_s(amount, means, sampling) + _answering_s(amount, means, sampling)) / means.devices
    busy_s = decode_s * min(1.0, means.decoders / means.cores) + answer_s if means.is_on_cpu else answer_s
    whole_s = start_s + max(decode_s, busy_s) if amount.clips else 0.0
    return Estimate(start_s=start_s, decode_s=decode_s, answer_s=answer_s, whole_s=whole_s)


def answer_tokens(sampling: Sampling) -> int:
    """What an answer is taken to be; a choice isn't decoded."""
    return 0 if sampling.choices else min(ANSWER_TOKENS, sampling.max_new_tokens)


def evenly(items: Sequence[T], most: int = MOST_SAMPLED) -> list[T]:
    """So many, evenly spread: ([0, …, 9], 3) → [1, 5, 8]; all where there are no more."""
    count = min(most, len(items))
    return [items[(2 * number + 1) * len(items) // (2 * count)] for number in range(count)]


def _reading_s(amount: Amount, means: Means, sampling: Sampling) -> float:
    """Each clip once through a tower, half of all that isn't language; each clip and question through the model."""
    checkpoint = means.checkpoint
    seen = amount.videos * checkpoint.tokens_per_video + amount.images * checkpoint.tokens_per_image
    asked = amount.questions * (QUESTION_TOKENS + CHOICE_TOKENS * len(sampling.choices))
    operations = 2 * checkpoint.language_parameters * (seen + asked) + checkpoint.other_parameters * seen
    passes = 2 * amount.clips + _turns(amount, means)
    return operations / means.speed.operations + passes * _pass_s(checkpoint)


def _answering_s(amount: Amount, means: Means, sampling: Sampling) -> float:
    """A step reads all weights, and computes a token for each row."""
    checkpoint = means.checkpoint
    rows = max(1, min(means.rows_at_once, math.ceil(amount.questions / means.devices)))
    reading_s = means.weight_bytes / means.speed.bytes
    computing_s = 2 * checkpoint.parameters * rows / means.speed.operations
    step_s = max(reading_s, computing_s) + _pass_s(checkpoint)
    return _turns(amount, means) * answer_tokens(sampling) * step_s


def _turns(amount: Amount, means: Means) -> int:
    """How often so many rows are begun."""
    return math.ceil(amount.questions / max(1, means.rows_at_once))


def _pass_s(checkpoint: Checkpoint) -> float:
    return SMALL_PASS_S if checkpoint.parameters < SMALL_PARAMETERS else PASS_S
