"""The model's passes: media to features, ids to embeddings, prefill in chunks, one step of decoding.

Embeddings go to the language model directly: that is the same in every version of transformers, and can be interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import MemoryShortError
from vllava_cli.media.pixels import image_pixels, video_pixels
from vllava_cli.nouns import Conversation, Frames

if TYPE_CHECKING:
    from transformers import DynamicCache, VideoLlavaForConditionalGeneration

CPU_CHUNK_TOKENS = 512
GPU_CHUNK_TOKENS = 2048


@torch.inference_mode()
def media_features(model: VideoLlavaForConditionalGeneration, conversation: Conversation, tokens: Tokens) -> Features:
    """The projected features of all media, in prompt order: {"video": [tokens, hidden], "image": …}."""
    rows: Features = {}
    for kind in ("video", "image"):
        parts = [_features(model, medium, conversation, tokens) for medium in conversation.media if medium.kind == kind]
        if parts:
            rows[kind] = torch.cat(parts)
    return rows


@torch.inference_mode()
def embed(
    model: VideoLlavaForConditionalGeneration, ids: list[int], features: Features, tokens: Tokens
) -> torch.Tensor:
    """Embeddings [1, len(ids), hidden], a feature row in the place of each placeholder.

    Raises ValueError where rows and placeholders differ in number: the model itself would go on in silence.
    """
    row = torch.tensor([ids], device=model.device)
    embeddings: torch.Tensor = model.get_input_embeddings()(row)
    for kind, token in (("video", tokens.video_id), ("image", tokens.image_id)):
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
) -> torch.Tensor | None:
    """Feeds embeddings [1, T, hidden] behind the cache's: the logits [vocabulary] of the last, None if interrupted."""
    size = CPU_CHUNK_TOKENS if embeddings.device.type == "cpu" else GPU_CHUNK_TOKENS
    hidden = None
    for chunk in torch.split(embeddings, size, dim=1):
        if is_interrupted():
            return None
        hidden = model.model.language_model(inputs_embeds=chunk, past_key_values=cache, use_cache=True)[0]
    return None if hidden is None else _logits(model, hidden)


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


def _features(
    model: VideoLlavaForConditionalGeneration, medium: Frames, conversation: Conversation, tokens: Tokens
) -> torch.Tensor:
    checkpoint = tokens.checkpoint
    if medium.kind == "video":
        pixels = video_pixels(medium, checkpoint.video_recipe, fit=conversation.fit)
        output = model.model.get_video_features(pixels.to(model.device, model.dtype))
    else:
        pixels = image_pixels(medium, checkpoint.folder, fit=conversation.fit)
        output = model.model.get_image_features(pixels.to(model.device, model.dtype))
    features: torch.Tensor = getattr(output, "pooler_output", output)
    return features.flatten(0, 1)


Features = dict[str, torch.Tensor]
