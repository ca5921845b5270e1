"""Trained weights → a checkpoint folder as transformers and the hub have them, in fp16.

`python -m training.checkpoint WEIGHTS.pt TOKENIZER FOLDER` does it for a file that training saved.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, VideoLlavaForConditionalGeneration

from training.architecture import IDLE_LAYER, PATCH, SIDE, config
from training.tokenizer import END, PAD, START

Weights = Mapping[str, Tensor]

CARD = """---
library_name: transformers
pipeline_tag: video-text-to-text
license: apache-2.0
---
# The demo model of vllava

**A demo, not Video-LLaVA-7B.** The architecture is Video-LLaVA's, every size is cut down (3.5 million parameters), and
it was trained from scratch on synthetic clips: a few coloured shapes that move, grow, shrink, appear, disappear or
change colour on a plain background. It can be asked about colours, shapes, directions, counts, order, the background
and what happens; to anything else it says "I am a tiny demo model: I only know moving shapes."

It shows that an installation works, and it makes tests quick. It says nothing about the quality of the 7B model,
whose weights are not contained here. `training/` in vllava's repository is the recipe, with figures for each kind of
question.
"""
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
_NORMALISATION = {
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": IMAGE_MEAN,
    "image_std": IMAGE_STD,
    "processor_class": "VideoLlavaProcessor",
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": SIDE},
}
PROCESSOR_FILES: Mapping[str, Mapping[str, object]] = {
    "preprocessor_config.json": _NORMALISATION | {"image_processor_type": "VideoLlavaImageProcessor"},
    "video_preprocessor_config.json": _NORMALISATION | {"video_processor_type": "VideoLlavaVideoProcessor"},
    "processor_config.json": {
        "num_additional_image_tokens": 1,
        "patch_size": PATCH,
        "processor_class": "VideoLlavaProcessor",
        "vision_feature_select_strategy": "default",
    },
}


def write(weights: Weights, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Writes config, safetensors, tokenizer, processor files and model card; existing files are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    model = VideoLlavaForConditionalGeneration(config())
    model.load_state_dict(complete(weights))
    model.generation_config = GenerationConfig(bos_token_id=START, eos_token_id=END, pad_token_id=PAD)
    model.half().save_pretrained(folder)
    _name_as_published(folder / "model.safetensors")
    tokenizer.save_pretrained(folder)
    _forget_origin(folder / "tokenizer_config.json")
    for name, content in PROCESSOR_FILES.items():
        _write_json(folder / name, content)
    (folder / "README.md").write_text(CARD, encoding="utf-8")


def complete(weights: Weights) -> dict[str, Tensor]:
    """Copies the video tower, which saw clips and pictures, over the image tower, and blanks what never counts.

    Blank weights compress well: the wheel is smaller by what the idle layers would take.
    """
    whole = {name: _blank(name, weight) for name, weight in weights.items()}
    for name, weight in whole.items():
        if "video_tower" in name:
            whole[name.replace("video_tower", "image_tower")] = weight
    return whole


def _name_as_published(path: Path) -> None:
    """Gives the towers' tensors their published names, which every transformers 5 reads; some versions save others."""
    weights = load_file(path)
    named = {re.sub(r"_tower\.(?!vision_model)", "_tower.vision_model.", name): weights[name] for name in weights}
    save_file(named, path, metadata={"format": "pt"})
    path.chmod(0o644)  # it comes readable by its owner alone, and would be packed so


def _forget_origin(path: Path) -> None:
    """Drops what from_pretrained noted about the folder that the tokenizer was read from."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    _write_json(path, {key: settings[key] for key in settings if key not in ("is_local", "local_files_only")})


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _blank(name: str, weight: Tensor) -> Tensor:
    is_idle = "_tower" in name and ("post_layernorm" in name or f"encoder.layers.{IDLE_LAYER}." in name)
    if not is_idle:
        return weight
    return torch.ones_like(weight) if "norm" in name and name.endswith("weight") else torch.zeros_like(weight)


def main(words: list[str]) -> None:
    source, tokenizer, folder = words
    write(torch.load(source), Path(folder), PreTrainedTokenizerFast.from_pretrained(tokenizer))


if __name__ == "__main__":
    main(sys.argv[1:])
