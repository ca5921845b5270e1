"""The model's passes: ids to embeddings, prefill in chunks, one step of decoding.

Embeddings go to the language model directly: that is the same in every version of transformers, and can be interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import MemoryShortError
from vllava_cli.nouns import MediaKind

if TYPE_CHECKING:
    from transformers import DynamicCache, VideoLlavaForConditionalGeneration

CPU_CHUNK_TOKENS = 512
GPU_CHUNK_TOKENS = 2048


@torch.inference_mode()
def embed(
    model: VideoLlavaForConditionalGeneration, ids: list[int], features: Features, tokens: Tokens
) -> torch.Tensor:
    """Embeddings [1, len(ids), hidden], a feature row in the place of each placeholder.

    Raises ValueError where rows and placeholders differ in number: the model itself would go on in silence.
    """
    row = torch.tensor([ids], device=model.device)
    embeddings: torch.Tensor = model.get_input_embeddings()(row)
    placeholders: tuple[tuple[MediaKind, int], ...] = (("video", tokens.video_id), ("image", tokens.image_id))
    for kind, token in placeholders:
        mask = row == token
        count = int(mask.sum())
        found = features[kind].shape[0] if kind in features else 0
        if count != found:
            raise ValueError(f"{count} {kind} tokens for {found} feature rows")
        if count:
            embeddings[mask] = features[kind].to(embeddings.dtype)
    return embeddings


@torch.inference_mode()
def prefill(
    model: VideoLlavaForConditionalGeneration,
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
        if is_interrupted():
            return fed, None
        hidden = model.model.language_model(inputs_embeds=chunk, past_key_values=cache, use_cache=True)[0]
        fed += chunk.shape[1]
    return fed, None if hidden is None else _logits(model, hidden)


@torch.inference_mode()
def step(model: VideoLlavaForConditionalGeneration, token: int, cache: DynamicCache) -> torch.Tensor:
    """Feeds one id and returns the logits [vocabulary] of the next."""
    ids = torch.tensor([[token]], device=model.device)
    hidden = model.model.language_model(input_ids=ids, past_key_values=cache, use_cache=True)[0]
    return _logits(model, hidden)


@contextmanager
def memory_faults(device: str) -> Iterator[None]:
    """Turns running out of memory into one sentence."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as exc:
        raise _memory_short(device) from exc
    except RuntimeError as exc:
        if "can't allocate memory" in str(exc) or "out of memory" in str(exc):
            raise _memory_short(device) from exc
        raise


def _memory_short(device: str) -> MemoryShortError:
    return MemoryShortError(
        f"The memory of {device} ran out while the model worked: try --precision 4bit, fewer clips, or --device cpu."
    )


def _logits(model: VideoLlavaForConditionalGeneration, hidden: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.lm_head(hidden[:, -1:])[0, 0]
    return logits


Features = dict[MediaKind, torch.Tensor]
"""Rows [tokens, hidden] of all media of a kind, in the order of the prompt."""
