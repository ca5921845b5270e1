"""Small random Video-LLaVA checkpoints, saved by transformers itself, for what the loader must take and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "<video>"]
CORPUS = ["USER: what is in this clip ASSISTANT: a red circle moves left . the the the"] * 4


def write_checkpoint(
    folder: Path, *, seed: int = 0, layers: int = 2, context: int = 1024, text: dict[str, Any] | None = None
) -> Path:
    """A complete checkpoint: 32-pixel frames, patch 16, so 8 * 5 video tokens; random weights from `seed`.

    `text` has more settings of the language model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    torch.manual_seed(seed)
    model = VideoLlavaForConditionalGeneration(_config(len(tokenizer), layers, context, text or {})).eval()
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Sets fields of a json file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


PREPROCESSOR = {
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "VideoLlavaImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 32},
}


def _config(vocabulary: int, layers: int, context: int, more: dict[str, Any]) -> VideoLlavaConfig:
    settings = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": context,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }
    text = LlamaConfig(**(settings | more))
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=16
    )
    return VideoLlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=4,
        video_token_index=5,
        image_seq_length=4,
        video_seq_length=40,
        tie_word_embeddings=False,
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL + byte_tokens, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=["<image>", "<video>"],
    )
