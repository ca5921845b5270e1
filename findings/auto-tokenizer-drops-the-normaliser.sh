#!/usr/bin/env bash
# AutoTokenizer of transformers 5 doesn't read tokenizer.json as it is where tokenizer_config.json names LlamaTokenizer:
# it rebuilds the pipeline. The file's normaliser, which puts a ▁ in front of each stretch of text between two special
# tokens, is gone, so the ids behind a special token are others than those for which the model was trained.
# PreTrainedTokenizerFast, and the tokenizers library, read the same file as it is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
cd "$folder"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error venv/bin/python - <<'PYTHON'
import json

import tokenizers
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

words = ["<unk>", "<s>", "</s>", "▁", "\n", "a", "▁a"]
made = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [("▁", "a")], unk_token="<unk>"))
made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
made.add_special_tokens(["<unk>", "<s>", "</s>", "<video>"])
made.save("tokenizer.json")
settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "bos_token": "<s>"}
settings |= {"eos_token": "</s>", "unk_token": "<unk>"}
with open("tokenizer_config.json", "w") as file:
    json.dump(settings, file)

text = "a<video>\na"
found = {
    "tokenizers": Tokenizer.from_file("tokenizer.json").encode(text).tokens,
    "PreTrainedTokenizerFast": PreTrainedTokenizerFast.from_pretrained(".")(text).tokens(),
    "AutoTokenizer": AutoTokenizer.from_pretrained(".")(text).tokens(),
}
print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}: {text!r}")
for name, tokens in found.items():
    print(f"  {name}: {tokens}")
as_it_is = ["<s>", "▁a", "<video>", "▁", "\n", "a"]
assert found["tokenizers"] == found["PreTrainedTokenizerFast"] == as_it_is
assert found["AutoTokenizer"] == ["<s>", "▁a", "<video>", "\n", "a"]
PYTHON
