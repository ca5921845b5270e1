"""From a plan to the snippet's model: what a user would write, or random weights around ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from vllava_cli.engine.adapter import merge
from vllava_cli.engine.forward import memory_faults
from vllava_cli.engine.load import without_adapter
from vllava_cli.engine.measuring.random_weights import fill, skeleton
from vllava_cli.engine.measuring.snippet import Snippet
from vllava_cli.errors import CheckpointError, MemoryShortError, reason_of
from vllava_cli.nouns import Checkpoint, LoadPlan

if TYPE_CHECKING:
    from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration


def loaded_snippet(checkpoint: Checkpoint, plan: LoadPlan) -> Snippet:
    """What a user would write for this plan, quantised by bitsandbytes' own choice of modules: the towers as well.

    Errors: CheckpointError, MemoryShortError.
    """
    from transformers import VideoLlavaForConditionalGeneration
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options: dict[str, Any] = {"dtype": getattr(torch, plan.dtype), "device_map": {"": plan.device}}
    if plan.quantisation:
        options["quantization_config"] = _quantisation(plan)
    try:
        with memory_faults(plan.device), without_adapter(checkpoint.folder) as folder:
            model = VideoLlavaForConditionalGeneration.from_pretrained(
                folder, attn_implementation=plan.attention, local_files_only=True, use_safetensors=True, **options
            )
    except (MemoryShortError, KeyboardInterrupt):
        raise
    except Exception as exc:
        raise CheckpointError(f"transformers can't load the weights in {checkpoint.folder}: {reason_of(exc)}.") from exc
    merge(model, checkpoint, plan)
    return Snippet(model=model.eval(), plan=plan)


def random_snippet(config: VideoLlavaConfig, plan: LoadPlan, ours: VideoLlavaForConditionalGeneration) -> Snippet:
    """Around the weights of ours, with random ones for the rest."""
    made = Snippet(model=skeleton(config, plan), plan=plan)
    made.share(ours)
    fill(made.model, plan, is_kept_whole=lambda name: name == "lm_head")
    return made


def _quantisation(plan: LoadPlan) -> Any:
    from transformers import BitsAndBytesConfig

    if plan.quantisation == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, plan.dtype)
    )
