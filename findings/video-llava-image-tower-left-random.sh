#!/usr/bin/env bash
# transformers 5.6 to 5.8 load a Video-LLaVA checkpoint with the names that the published one has
# (image_tower.vision_model.*) without its image tower: each of that tower's weights stays as it was drawn at random.
# from_pretrained says so in a warning and goes on; the video tower, named alike, is loaded. 5.9 loads both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.8.1
cd "$folder"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error venv/bin/python - <<'PYTHON'
import re

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration

shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
config = VideoLlavaConfig(
    text_config=LlamaConfig(vocab_size=64, **shape),
    vision_config=CLIPVisionConfig(image_size=32, patch_size=16, **shape),
    image_token_index=4,
    video_token_index=5,
)
made = VideoLlavaForConditionalGeneration(config)
made.save_pretrained("checkpoint")
file = "checkpoint/model.safetensors"
weights = load_file(file)
named = {re.sub(r"_tower\.(?!vision_model)", "_tower.vision_model.", name): weights[name] for name in weights}
save_file(named, file, metadata={"format": "pt"})

loaded, info = VideoLlavaForConditionalGeneration.from_pretrained("checkpoint", output_loading_info=True)
print(f"transformers {transformers.__version__}, torch {torch.__version__}: {len(named)} tensors")
found = {}
for tower in ("video_tower", "image_tower"):
    missing = sum(tower in name for name in info["missing_keys"])
    ours, theirs = (dict(model.named_parameters()) for model in (made, loaded))
    name = next(name for name in ours if tower in name and name.endswith("patch_embedding.weight"))
    found[tower] = missing, torch.equal(ours[name], theirs[name])
    print(f"  {tower}: {missing} tensors missing; patch embedding as saved: {found[tower][1]}")
assert found["video_tower"] == (0, True)
assert found["image_tower"] == (23, False)
PYTHON
