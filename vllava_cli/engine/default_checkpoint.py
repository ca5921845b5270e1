"""The default model's facts, from its published config, so that a plan can be shown before anything is fetched."""

from pathlib import Path

from vllava_cli.engine.checkpoint import projector_parameters, tower_parameters
from vllava_cli.nouns import DEFAULT_MODEL, FRAMES_PER_CLIP, Checkpoint, VideoRecipe

# Llama 7B: 32 layers, 4096 wide, 11008 inside, 32 heads; vocabulary 32064. CLIP ViT-L/14 twice: 24 layers, 1024 wide.
_LANGUAGE = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
_TOWER = tower_parameters(hidden=1024, inner=4096, layers=24, patch=14, side=224)
_OTHERS = projector_parameters(1024, 4096) + 2 * 32064 * 4096 + (2 * 32 + 1) * 4096

DEFAULT_CHECKPOINT = Checkpoint(
    model=DEFAULT_MODEL,
    revision=None,
    folder=Path(),
    language_parameters=_LANGUAGE,
    other_parameters=2 * _TOWER + _OTHERS,
    tower_parameters=_TOWER,
    cache_values_per_token=2 * 32 * 4096,
    context_tokens=4096,
    tokens_per_video=FRAMES_PER_CLIP * 257,
    tokens_per_image=256,
    video_recipe=VideoRecipe(
        short_side=224,
        crop_height=224,
        crop_width=224,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
)
