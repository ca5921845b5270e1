"""Counts the bytes that a model needs on a device, and writes them."""

from __future__ import annotations

import math

from vllava_cli.nouns import Checkpoint, Dtype, Quantisation

GIB = 2**30

NF4_BYTES = 0.5625
"""Per parameter: half a byte, and one fp32 scale for each block of 64."""

ACTIVATIONS_PER_CACHE = 0.25
"""A prefill's activations, as a part of the cache that it fills. The 7B model holds 4 * 4096 + 3 * 11008 values a
token, in one layer at a time, which is 0.19 of the cache of its 32 layers; the towers' eight frames take less."""

EAGER_ACTIVATIONS_PER_CACHE = 1.0
"""Eager attention also holds the scores of every pair of tokens, and their softmax in fp32: 2 GiB for the 7B model."""

RUNTIME_BYTES = GIB // 2
"""Kernels, workspaces, and what an allocator can't reuse."""


def needed_bytes(
    checkpoint: Checkpoint,
    dtype: Dtype,
    quantisation: Quantisation | None = None,
    context_tokens: int | None = None,
    *,
    is_eager: bool = False,
) -> int:
    """Counts the bytes that a device must hold for a conversation of `context_tokens`; None is the whole context."""
    cache = checkpoint.cache_values_per_token * (context_tokens or checkpoint.context_tokens) * value_bytes(dtype)
    activations = cache * (EAGER_ACTIVATIONS_PER_CACHE if is_eager else ACTIVATIONS_PER_CACHE)
    weights = checkpoint.language_parameters * matrix_bytes(dtype, quantisation)
    return int(weights + checkpoint.other_parameters * value_bytes(dtype) + cache + activations) + RUNTIME_BYTES


def held_bytes(
    checkpoint: Checkpoint,
    quantisation: Quantisation | None,
    wide_dtype: Dtype,
    context_tokens: int,
    cache_bytes: int = 2,
    is_eager: bool = False,
) -> int:
    """Counts the bytes that a CPU needs that holds the weights in 16, 8 or 4 bits and computes in fp32.

    Embeddings and head stay in 16 bits, the towers are in the dtype of large products.
    """
    cache = checkpoint.cache_values_per_token * context_tokens
    activations = 4 * cache * (EAGER_ACTIVATIONS_PER_CACHE if is_eager else ACTIVATIONS_PER_CACHE)
    weights = checkpoint.language_parameters * matrix_bytes("float16", quantisation)
    towers = checkpoint.other_parameters - checkpoint.embedding_parameters
    held = weights + 2 * checkpoint.embedding_parameters + towers * value_bytes(wide_dtype)
    return int(held + cache_bytes * cache + activations) + RUNTIME_BYTES


def value_bytes(dtype: Dtype) -> int:
    """The bytes of one number outside the language model's matrices, for example in the KV cache."""
    return 4 if dtype == "float32" else 2


def matrix_bytes(dtype: Dtype, quantisation: Quantisation | None) -> float:
    """The bytes of one number in the language model's matrices."""
    return {"4bit": NF4_BYTES, "8bit": 1.0, None: float(value_bytes(dtype))}[quantisation]


def gib(size_bytes: float) -> str:
    """Writes needed bytes, rounded up: 17_968_398_336 → "16.8 GiB". So they never look smaller than free bytes."""
    return f"{math.ceil(size_bytes / GIB * 10) / 10:.1f} GiB"


def free_gib(size_bytes: float) -> str:
    """Writes free bytes in GiB, rounded down, without the unit: 17_968_398_336 → "16.7"."""
    return f"{math.floor(size_bytes / GIB * 10) / 10:.1f}"
