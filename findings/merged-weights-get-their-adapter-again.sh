#!/usr/bin/env bash
# from_pretrained of a folder that holds merged weights gives other weights as soon as peft is installed, where the
# adapter that was merged still lies beside them: a Trainer saved the adapter there, and save_pretrained the merged model.
# The adapter is put on top of the weights that have it already, and nothing says so. Without adapter_config.json the
# same line gives what was saved.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 \
  transformers==5.23.0 peft==0.21.2 accelerate==1.15.0
cd "$folder"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error venv/bin/python -W ignore - <<'PYTHON'
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
torch.manual_seed(0)
base = LlamaForCausalLM(LlamaConfig(**sizes))
base.save_pretrained("base")
trained = get_peft_model(LlamaForCausalLM.from_pretrained("base"), LoraConfig(r=2, target_modules=["down_proj"]))
for name, value in trained.named_parameters():
    if "lora_" in name:
        torch.nn.init.normal_(value, std=0.5)
trained.save_pretrained("out")
merged = trained.merge_and_unload()
merged.save_pretrained("out")

ids = torch.tensor([[1, 2, 3]])
with torch.no_grad():
    saved = merged(ids).logits
    loaded = LlamaForCausalLM.from_pretrained("out").eval()(ids).logits
    Path("out/adapter_config.json").unlink()
    alone = LlamaForCausalLM.from_pretrained("out").eval()(ids).logits
print(f"transformers {transformers.__version__}, peft {peft.__version__}")
print(f"  largest difference of the logits, saved and loaded: {(saved - loaded).abs().max().item():.3f}")
print(f"  without adapter_config.json: {(saved - alone).abs().max().item():.3f}")
assert not torch.allclose(saved, loaded, atol=1e-3) and torch.allclose(saved, alone, atol=1e-5)
PYTHON
