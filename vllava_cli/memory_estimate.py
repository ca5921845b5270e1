"""How many bytes a checkpoint takes in one form: weights, KV cache, activations, and the libraries themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vllava_cli.nouns import Checkpoint, Dtype, Precision, Quantisation

GIB = 2**30

NF4_BYTES = 0.5625
"""Per parameter: half a byte, and one fp32 scale for each block of 64."""

ACTIVATIONS_PER_CACHE = 0.25
"""A prefill's activations against the cache that it fills. The 7B model holds 4 * 4096 + 3 * 11008 values a token, in
one layer at a time, which is 0.19 of the cache of its 32 layers; the towers' eight frames take less."""

EAGER_ACTIVATIONS_PER_CACHE = 1.0
"""Eager attention also holds the scores of every pair of tokens, and their softmax in fp32: 2 GiB for the 7B model."""

RUNTIME_BYTES = GIB // 2
"""Kernels, workspaces, and what an allocator can't reuse."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to hold a model in memory."""

    dtype: Dtype
    quantisation: Quantisation | None = None
    context_tokens: int

    @property
    def precision(self) -> Precision:
        """As --precision spells it: float16 → fp16, float16 in 4bit → 4bit."""
        if self.quantisation:
            return self.quantisation
        names: dict[Dtype, Precision] = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
        return names[self.dtype]


def needed_bytes(checkpoint: Checkpoint, form: Form, *, is_eager: bool = False) -> int:
    """Everything that must fit into one device's memory for a conversation of `form.context_tokens`."""
    cache = checkpoint.cache_values_per_token * form.context_tokens * _value_bytes(form.dtype)
    activations = cache * (EAGER_ACTIVATIONS_PER_CACHE if is_eager else ACTIVATIONS_PER_CACHE)
    return int(weight_bytes(checkpoint, form) + cache + activations) + RUNTIME_BYTES


def weight_bytes(checkpoint: Checkpoint, form: Form) -> float:
    """Of all weights, as they lie in memory."""
    value_bytes = _value_bytes(form.dtype)
    matrix_bytes = {"4bit": NF4_BYTES, "8bit": 1.0, None: value_bytes}[form.quantisation]
    return checkpoint.language_parameters * matrix_bytes + checkpoint.other_parameters * value_bytes


def gib(size_bytes: float) -> str:
    """Rounded up, so that what is needed never looks smaller than what is free: 17_968_398_336 → "16.8 GiB"."""
    return f"{math.ceil(size_bytes / GIB * 10) / 10:.1f} GiB"


def free_gib(size_bytes: float) -> str:
    """Rounded down, without the unit: 17_968_398_336 → "16.7"."""
    return f"{math.floor(size_bytes / GIB * 10) / 10:.1f}"


def _value_bytes(dtype: Dtype) -> int:
    return 4 if dtype == "float32" else 2
