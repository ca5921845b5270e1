"""How many rows are answered at once: as many as their KV caches find room for."""

from __future__ import annotations

import torch

from vllava_cli.engine.generate import Engine
from vllava_cli.hardware import limited_ram
from vllava_cli.nouns import Checkpoint, Sampling

MOST_ON_GPU = 64
MOST_ON_CPU = 32
"""With the demo model 32 rows take a third of the time of 8, and 48 no less than 32; see docs/batch.md."""
ANSWER_TOKENS = 128
"""The length of answer that room is kept for; where longer ones don't fit, fewer rows go on."""
SHARE = 0.7
"""Of the free memory. A row that joins is in memory twice for a moment, layer by layer."""


def rows_that_fit(engine: Engine, sampling: Sampling, *, question_characters: int) -> int:
    """At least 1, by the memory that is free now; `question_characters` is the longest question's length."""
    checkpoint, device = engine.tokens.checkpoint, engine.model.device
    tokens = min(row_tokens(checkpoint, sampling, question_characters), engine.tokens.context_tokens)
    row_bytes = checkpoint.cache_values_per_token * tokens * engine.model.dtype.itemsize
    return rows_in(free_bytes(device), row_bytes, most=MOST_ON_CPU if device.type == "cpu" else MOST_ON_GPU)


def row_tokens(checkpoint: Checkpoint, sampling: Sampling, question_characters: int) -> int:
    """What a row may come to: a clip, the question with a token for each letter, and an answer."""
    media = max(checkpoint.tokens_per_video, checkpoint.tokens_per_image)
    return media + question_characters + min(sampling.max_new_tokens, ANSWER_TOKENS)


def rows_in(free: int, row_bytes: int, *, most: int) -> int:
    """rows_in(10, 2, most=64) → 3; rows_in(0, 2, most=64) → 1."""
    return max(1, min(most, int(free * SHARE) // max(1, row_bytes)))


def free_bytes(device: torch.device) -> int:
    """What is free on a device now; of RAM, what this process may use."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "xpu":
        return int(torch.xpu.mem_get_info(device)[0])
    import psutil

    ram = psutil.virtual_memory()
    return limited_ram(ram.total, ram.available)[1]


def used_bytes(device: torch.device) -> int | None:
    """What this process holds of a GPU's memory; None on the CPU."""
    return int(torch.cuda.memory_reserved(device)) if device.type == "cuda" else None
