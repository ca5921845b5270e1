"""The model's passes: ids to embeddings, prefill in chunks, one step of decoding.

Embeddings go to the language model directly: that is the same in every version of transformers, and can be interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from vllava_cli.engine.cancel import CancelError
from vllava_cli.engine.llama import Llama
from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import MemoryShortError
from vllava_cli.fit import free_gib, gib
from vllava_cli.hardware import free_ram_bytes
from vllava_cli.nouns import LoadPlan, MediaKind

if TYPE_CHECKING:
    from transformers import DynamicCache

CPU_CHUNK_TOKENS = 512
GPU_CHUNK_TOKENS = 4096
"""A clip and its question in one pass: a second one of few tokens would read all weights again."""


@torch.inference_mode()
def embed(llama: Llama, ids: list[int], features: Features, tokens: Tokens) -> torch.Tensor:
    """Embeddings [1, len(ids), hidden], a feature row in the place of each placeholder.

    Raises ValueError where rows and placeholders differ in number: the model itself would go on in silence.
    """
    row = torch.tensor([ids], device=llama.device)
    embeddings = llama.embedded(row)
    placeholders: tuple[tuple[MediaKind, int], ...] = (("video", tokens.video_id), ("image", tokens.image_id))
    for kind, token in placeholders:
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
    cache: DynamicCache,
    *,
    is_interrupted: Callable[[], bool],
    chunk_tokens: int | None = None,
) -> tuple[int, torch.Tensor | None]:
    """Feeds embeddings [1, T, hidden] behind the cache's, in chunks.

    Returns how many were fed, and the logits [vocabulary] of the last; None where it was interrupted before that.
    """
    usual = CPU_CHUNK_TOKENS if embeddings.device.type == "cpu" else GPU_CHUNK_TOKENS
    fed, hidden = 0, None
    for chunk in torch.split(embeddings, chunk_tokens or usual, dim=1):
        held = cache.get_seq_length()
        try:
            with llama.cancel.asking(is_interrupted):
                llama.cancel.check()
                hidden = llama.read(chunk, cache.layers, start=held)
        except CancelError:
            hold(cache, held)
            return fed, None
        fed += chunk.shape[1]
    return fed, None if hidden is None else llama.logits(hidden[0, -1])


@torch.inference_mode()
def step(llama: Llama, token: torch.Tensor, cache: DynamicCache, held: int) -> torch.Tensor:
    """Feeds one id [1] behind the `held` of the cache and returns the logits [vocabulary] of the next.

    Errors: CancelError; the cache then holds what it held.
    """
    try:
        hidden = llama.read(llama.embedded(token[None]), cache.layers, start=held)
    except CancelError:
        hold(cache, held)
        raise
    return llama.logits(hidden[0, 0])


def hold(cache: DynamicCache, length: int) -> None:
    """Cuts every layer back to its first positions, also where some hold more than others."""
    for layer in cache.layers:
        layer.hold(length)


@contextmanager
def memory_faults(device: str, plan: LoadPlan | None = None) -> Iterator[None]:
    """Turns running out of memory into one sentence, which says what the plan counted and what there is."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as exc:
        raise memory_short(device, plan) from exc
    except Exception as exc:  # a file of weights that can't be mapped: each library has its own type for it
        if is_memory_short(exc):
            raise memory_short(device, plan) from exc
        raise


def is_memory_short(error: BaseException) -> bool:
    """Whether an error of a library is about memory: "Cannot allocate memory (os error 12)"."""
    text = str(error).lower()
    return any(sign in text for sign in ("allocate memory", "out of memory", "os error 12"))


def memory_short(device: str, plan: LoadPlan | None) -> MemoryShortError:
    """What was needed, what there is, and what the plan doesn't do yet against it."""
    free = free_gib(_free_bytes(device))
    counted = f"; the plan counted {_planned(plan)}, and {free} GiB are free now" if plan else ""
    ways = ["close other programs"]
    if plan is None or plan.quantisation != "4bit":
        ways.append("try --precision 4bit")
    if device != "cpu":
        ways.append("try --device cpu")
    return MemoryShortError(f"The memory of {device} ran out while the model worked{counted}: {', or '.join(ways)}.")


def _planned(plan: LoadPlan) -> str:
    form = f"{plan.quantisation} in {plan.dtype}" if plan.quantisation else plan.dtype
    context = f" with a context of {plan.context_tokens} tokens" if plan.context_tokens else ""
    return f"{gib(plan.needed_bytes)} for {form}{context}"


def _free_bytes(device: str) -> int:
    """The memory of a device that is free now."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return free_ram_bytes()


Features = dict[MediaKind, torch.Tensor]
"""Rows [tokens, hidden] of all media of a kind, in the order of the prompt."""
