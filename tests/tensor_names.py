"""What a Video-LLaVA's tensors are called, by the published files and by the modules of today."""

from __future__ import annotations

import re


def modern_name(name: str) -> str:
    """As the modules are called today: language_model.model.embed_tokens → model.language_model.embed_tokens."""
    if name.endswith("lm_head.weight"):
        return "lm_head.weight"
    name = re.sub(r"^language_model\.model\.", "language_model.", name.removeprefix("model."))
    return "model." + re.sub(r"_tower\.vision_model\.", "_tower.", name)


def published_name(name: str) -> str:
    """modern_name's inverse."""
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    name = re.sub(r"^language_model\.", "language_model.model.", name)
    return re.sub(r"^(video|image)_tower\.(vision_model\.)?", r"\1_tower.vision_model.", name)
