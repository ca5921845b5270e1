"""The model's passes: embedding ids, prefill in chunks, a step of decoding, padded rows; and the out-of-memory error.

Embeddings go to the language model directly: that works in every version of transformers, and can be interrupted.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from vllava_cli.engine.kv_cache import KVCache
from vllava_cli.engine.llama import CacheLayer, Llama, padded_mask
from vllava_cli.engine.tokens import Tokens
from vllava_cli.engine.vision import Features
from vllava_cli.errors import MemoryShortError
from vllava_cli.hardware import free_ram_bytes
from vllava_cli.interrupt import NEVER, Cancel, CancelError
from vllava_cli.memory import free_gib, gib
from vllava_cli.nouns import LoadPlan

CHUNK_TOKENS = 4096
"""Enough for a clip and its question: a second pass for a few tokens would read, or unpack, all weights again."""
SMALL_CHUNK_TOKENS = 512
"""For weights in fp32 on the CPU, where a second pass costs little and a pass can be stopped between layers only."""


@torch.inference_mode()
def embed(llama: Llama, ids: Sequence[int], features: Features, tokens: Tokens) -> torch.Tensor:
    """Returns the embeddings [1, len(ids), hidden] of ids, with a row of features in the place of each placeholder.

    Errors: ValueError if there are more or fewer rows than placeholders; the model itself would raise no error.
    """
    row = torch.tensor([ids], device=llama.device)
    embeddings = llama.embedded(row)
    for kind, token in tokens.placeholders.items():
        count = ids.count(token)
        found = features[kind].shape[0] if kind in features else 0
        if count != found:
            raise ValueError(f"{count} {kind} tokens for {found} feature rows")
        if count:
            embeddings[row == token] = features[kind].to(embeddings.dtype)
    return embeddings


@torch.inference_mode()
def prefill(
    llama: Llama,
    embeddings: torch.Tensor,
    cache: KVCache,
    *,
    cancel: Cancel = NEVER,
    chunk_tokens: int | None = None,
) -> torch.Tensor:
    """Feeds embeddings [1, T, hidden] after the tokens in the cache, in chunks; returns the last logits [vocabulary].

    Errors: CancelError; the cache then holds the chunks that were fed before.
    """
    is_small = embeddings.device.type == "cpu" and not llama.is_held
    usual = SMALL_CHUNK_TOKENS if is_small else CHUNK_TOKENS
    for chunk in torch.split(embeddings, chunk_tokens or usual, dim=1):
        cancel.check()
        hidden = _read(llama, chunk, cache, len(cache), cancel)
    return llama.logits(hidden[0, -1])


@torch.inference_mode()
def step(llama: Llama, token: torch.Tensor, cache: KVCache, held: int, cancel: Cancel = NEVER) -> torch.Tensor:
    """Feeds one id [1] after the `held` tokens of the cache, and returns the logits [vocabulary] for the next id.

    Errors: CancelError; the cache then holds the `held` tokens.
    """
    return llama.logits(_read(llama, llama.embedded(token[None]), cache, held, cancel)[0, 0])


def feed_rows(
    llama: Llama,
    layers: Sequence[CacheLayer],
    is_used: torch.Tensor,
    inputs: torch.Tensor,
    is_real: torch.Tensor,
    cancel: Cancel = NEVER,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Feeds embeddings [B, T, hidden] after the L positions of a cache.

    `is_real` [B, T] and `is_used` [B, L] are False for padding. Returns the hidden states [B, T, hidden] and the new
    `is_used` [B, L + T]. Each row keeps its own positions: padding is masked and not counted, so a row has the logits
    that it would have alone, up to the rounding of a larger product.
    """
    positions = is_used.sum(1, keepdim=True) + (is_real.cumsum(1) - 1).clamp(min=0)
    is_used = torch.cat([is_used, is_real], dim=1)
    mask = padded_mask(is_used, inputs.shape[1])
    return llama(inputs, layers, positions=positions, mask=mask, cancel=cancel), is_used


def left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads ids, and tells which are real: [(5, 6), (7,)] → [[5, 6], [0, 7]], [[True, True], [False, True]]."""
    width = max(map(len, rows))
    ids = [[0] * (width - len(row)) + list(row) for row in rows]
    are_real = [[False] * (width - len(row)) + [True] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(are_real, device=device)


def _read(llama: Llama, inputs: torch.Tensor, cache: KVCache, held: int, cancel: Cancel) -> torch.Tensor:
    """Feeds inputs after the `held` tokens of the cache; returns their hidden states.

    Errors: CancelError; the cache then holds the `held` tokens.
    """
    try:
        return llama(inputs, cache.layers, start=held, cancel=cancel)
    except CancelError:
        cache.set_length(held)
        raise


@contextmanager
def memory_faults(device: str, plan: LoadPlan | None = None) -> Iterator[None]:
    """Turns running out of memory into a MemoryShortError, which says what the plan counted and what is free."""
    try:
        yield
    except Exception as exc:  # each library raises its own type, also for weights that can't be mapped
        text = str(exc).lower()
        signs = ("allocate memory", "out of memory", "os error 12")  # "Cannot allocate memory (os error 12)"
        if isinstance(exc, torch.OutOfMemoryError | MemoryError) or any(sign in text for sign in signs):
            raise _memory_short(device, plan) from exc
        raise


def _memory_short(device: str, plan: LoadPlan | None) -> MemoryShortError:
    """Makes an error that names the memory that the plan counted, the free memory, and what the user may try."""
    counted = ""
    if plan:
        form = f"{plan.quantisation} in {plan.dtype}" if plan.quantisation else plan.dtype
        context = f" with a context of {plan.context_tokens} tokens" if plan.context_tokens else ""
        free = free_gib(free_bytes(device))
        counted = f"; the plan counted {gib(plan.needed_bytes)} for {form}{context}, and {free} GiB are free now"
    remedies = ["close other programs"]
    if plan is None or plan.quantisation != "4bit":
        remedies.append("try --precision 4bit")
    if device != "cpu":
        remedies.append("try --device cpu")
    return MemoryShortError(
        f"The memory of {device} ran out while the model worked{counted}: {', or '.join(remedies)}."
    )


def free_bytes(device: str) -> int:
    """Returns the bytes of a GPU's memory that are free now; for the CPU, the free RAM that this process may use."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return int(torch.xpu.mem_get_info(device)[0]) if device.startswith("xpu") else free_ram_bytes()


def free(device: str) -> None:
    """Frees the memory of objects that are no longer in use, also on the GPU."""
    gc.collect()
    if device.startswith(("cuda", "xpu")):
        torch.accelerator.empty_cache()
