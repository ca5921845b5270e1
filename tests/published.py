"""An imitation of LanguageBind/Video-LLaVA-7B-hf: the files as they are published, with small widths, random values.

What differs from the published files: the widths, the number of layers, a vocabulary of some hundred tokens, and a
patch of 56 pixels, so that a video has 8 * 17 tokens. transformers saves none of the files: it would write others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration

from tests.checkpoints import PREPROCESSOR

HIDDEN, INNER, LAYERS, HEADS, CONTEXT = 64, 128, 2, 4, 4096
TOWER_LAYERS, PATCH, SIDE = 3, 56, 224
WORDS = 400
"""Tokens of the language model alone; the published checkpoint has 32000."""
IMAGE, VIDEO, PAD = WORDS, WORDS + 1, WORDS + 2
ROWS = WORDS + 64
"""Of the embedding and the head: 61 behind the last token have none."""
TOKENS_PER_VIDEO = 8 * ((SIDE // PATCH) ** 2 + 1)
TOKENS_PER_IMAGE = (SIDE // PATCH) ** 2
ROLES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
CORPUS = ["USER: What is in this clip? ASSISTANT: A red circle moves left. The dog is here, the the the. Why? Yes."] * 4


def modern_name(name: str) -> str:
    """As the modules are called today: language_model.model.embed_tokens → model.language_model.embed_tokens."""
    if name.endswith("lm_head.weight"):
        return "lm_head.weight"
    name = re.sub(r"^language_model\.model\.", "language_model.", name.removeprefix("model."))
    return "model." + re.sub(r"_tower\.vision_model\.", "_tower.", name)


def published_name(name: str) -> str:
    """As the published files call it: the inverse of `modern_name`."""
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    name = re.sub(r"^language_model\.", "language_model.model.", name)
    return re.sub(r"^(video|image)_tower\.(vision_model\.)?", r"\1_tower.vision_model.", name)


def write_published(folder: Path, *, seed: int = 0) -> Path:
    """A folder with the published checkpoint's files, random bfloat16 values from `seed` in three shards."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _descriptions().items():
        (folder / name).write_bytes(json.dumps(content, indent=2).replace("\n", "\r\n").encode())
    tokenizer().save(str(folder / "tokenizer.json"))
    _write_shards(folder, seed)
    return folder


def tokenizer() -> Tokenizer:
    """Llama's pipeline: a ▁ before each stretch of text and for each space, no pre-tokenizer, bytes as a last way."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()  # while it is trained: as in Llama's, a space only begins a token
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>"]
    data = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, special_tokens=specials + data, initial_alphabet=["▁", "Ъ"], show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    known = json.loads(made.to_str())
    known["pre_tokenizer"] = None
    known["added_tokens"] = known["added_tokens"][: len(specials)]  # bytes are plain tokens
    made = Tokenizer.from_str(json.dumps(_padded(known)))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.add_special_tokens(
        [AddedToken(name, normalized=False, special=True) for name in ("<image>", "<video>", "<pad>")]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", 1)]
    )
    return made


def _padded(known: dict[str, Any]) -> dict[str, Any]:
    """With words that no text has, up to WORDS."""
    words = known["model"]["vocab"]
    for number in range(len(words), WORDS):
        words[f"⟨{number}⟩"] = number
    return known


def _write_shards(folder: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    made = {name: _values(shape, how, generator) for name, shape, how in tensors()}
    names = list(made)
    third = -(-len(names) // 3)
    places: dict[str, str] = {}
    for number in range(3):
        part = names[number * third : (number + 1) * third]
        file = f"model-{number + 1:05}-of-00003.safetensors"
        save_file({name: made[name] for name in part}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    total = sum(value.nbytes for value in made.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _values(shape: tuple[int, ...], how: str, generator: torch.Generator) -> torch.Tensor:
    if how == "normal":
        return torch.empty(shape).normal_(0, 0.15, generator=generator).bfloat16()
    return torch.full(shape, float(how == "one")).bfloat16()


def tensors() -> Iterator[tuple[str, tuple[int, ...], str]]:
    """(published name, shape, "normal", "one" or "zero") of each tensor, of a model that takes no memory."""
    with torch.device("meta"):
        model = VideoLlavaForConditionalGeneration(VideoLlavaConfig(**_config()))
    for name, value in model.state_dict().items():
        how = "zero" if name.endswith(".bias") else "one" if "norm" in name else "normal"
        yield published_name(name), tuple(value.shape), how


def _descriptions() -> dict[str, dict[str, Any]]:
    return {
        "config.json": _config(),
        "generation_config.json": {
            "_from_model_config": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": PAD,
            "transformers_version": "4.39.0.dev0",
        },
        "added_tokens.json": {"<image>": IMAGE, "<pad>": PAD, "<video>": VIDEO},
        "special_tokens_map.json": {name: _token(text) for name, text in ROLES.items()},
        "tokenizer_config.json": _tokenizer_config(),
        "preprocessor_config.json": PREPROCESSOR
        | {
            "crop_size": {"height": SIDE, "width": SIDE},
            "processor_class": "VideoLlavaProcessor",
            "size": {"shortest_edge": SIDE},
        },
    }


def _config() -> dict[str, Any]:
    """Sparse: what the published file leaves to transformers' defaults is left out here, widths excepted."""
    return {
        "architectures": ["VideoLlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": IMAGE,
        "model_type": "video_llava",
        "pad_token_id": PAD,
        "projector_hidden_act": "gelu",
        "text_config": {
            "_name_or_path": "vicuna-7b-v1.5",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "max_position_embeddings": CONTEXT,
            "model_type": "llama",
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": HEADS,
            "pad_token_id": 0,
            "rms_norm_eps": 1e-05,
            "torch_dtype": "float16",
            "vocab_size": ROWS,
        },
        "torch_dtype": "bfloat16",
        "transformers_version": "4.39.0.dev0",
        "video_token_index": VIDEO,
        "vision_config": {
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "model_type": "clip_vision_model",
            "num_attention_heads": HEADS,
            "num_hidden_layers": TOWER_LAYERS,
            "patch_size": PATCH,
            "projection_dim": HIDDEN,
            "vocab_size": 32000,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": ROWS,
    }


def _tokenizer_config() -> dict[str, Any]:
    added = {0: "<unk>", 1: "<s>", 2: "</s>", IMAGE: "<image>", VIDEO: "<video>", PAD: "<pad>"}
    return {
        **ROLES,
        "add_bos_token": True,
        "added_tokens_decoder": {str(number): {**_token(text), "special": True} for number, text in added.items()},
        "legacy": False,
        "model_max_length": CONTEXT,
        "tokenizer_class": "LlamaTokenizer",
    }


def _token(text: str) -> dict[str, Any]:
    return {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
