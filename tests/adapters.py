"""LoRA adapters as peft trains and saves them, with random values that change an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import VideoLlavaForConditionalGeneration


def write_adapter(folder: Path, base: Path, *, seed: int = 1, **settings: Any) -> Path:
    """An adapter for the checkpoint in `base`; `settings` are LoraConfig's."""
    from peft import LoraConfig, get_peft_model

    given = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "down_proj"], **settings}
    model = VideoLlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    trained = get_peft_model(model, LoraConfig(**given))
    generator = torch.Generator().manual_seed(seed)
    for name, value in trained.named_parameters():
        if value.requires_grad and "magnitude" not in name:
            value.data += torch.empty_like(value).normal_(0, 0.1, generator=generator)
    trained.save_pretrained(folder)
    return folder


def merged(base: Path, adapter: Path) -> Any:
    """The model that peft makes of both, in fp32."""
    from peft import PeftModel

    model = VideoLlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload().eval()
