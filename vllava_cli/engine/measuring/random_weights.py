"""Models of real shapes with random weights, made on the device, so that speed can be measured without a download.

Parameters are drawn on the device and in the dtype in which they stay, from a seed that their name gives: two models
have the same values. Buffers (positions, the frequencies of the rotary embedding) are computed by transformers.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vllava_cli import demo
from vllava_cli.engine.checkpoint import DEFAULT_CHECKPOINT, facts, read_config
from vllava_cli.engine.load import hush, quantisation_config
from vllava_cli.engine.tokens import Tokens, read_tokens
from vllava_cli.nouns import LoadPlan, Source

if TYPE_CHECKING:
    from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration

DEVIATION = 0.02
"""The deviation with which Llama's training began: activations neither vanish nor overflow in 16 bits."""


SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
LLAMAS = {"7b": (4096, 11008, 32, 32), "1b": (2048, 5632, 22, 16), "tiny": (256, 704, 4, 8)}
"""The names that --random-weights knows, with the SIZES of the language model."""


def random_tokens(name: str) -> Tokens:
    """Returns the demo's tokenizer with a checkpoint of these shapes; no weight is made.

    Ids beyond the demo's vocabulary have no text.
    """
    config = random_config(name)
    side = config.vision_config.image_size
    recipe = replace(DEFAULT_CHECKPOINT.video_recipe, short_side=side, crop_height=side, crop_width=side)
    return read_tokens(facts(config, Source(model=f"random {name}", folder=demo.CHECKPOINT), recipe))


def random_config(name: str) -> VideoLlavaConfig:
    """Returns the config of a whole, untrimmed model, with the ids of the demo's placeholders."""
    from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig

    is_tiny, of_demo, llama = name == "tiny", read_config(demo.CHECKPOINT), dict(zip(SIZES, LLAMAS[name], strict=True))
    text = LlamaConfig(
        **llama,
        vocab_size=1024 if is_tiny else 32064,
        max_position_embeddings=DEFAULT_CHECKPOINT.context_tokens,
        pad_token_id=of_demo.text_config.pad_token_id,
    )
    tower = CLIPVisionConfig(
        **dict(zip(SIZES, (128, 256, 4, 4) if is_tiny else (1024, 4096, 24, 16), strict=True)),
        image_size=64 if is_tiny else 224,
        patch_size=16 if is_tiny else 14,
    )
    return VideoLlavaConfig(
        text_config=text,
        vision_config=tower,
        image_token_index=of_demo.image_token_id,
        video_token_index=of_demo.video_token_id,
        tie_word_embeddings=False,
    )


def empty_model(
    config: VideoLlavaConfig, plan: LoadPlan, not_quantised: Sequence[str]
) -> VideoLlavaForConditionalGeneration:
    """Makes a model whose parameters are on the meta device, without values, and whose buffers are on the CPU."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForImageTextToText

    hush(has_bars=False)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=getattr(torch, plan.dtype), attn_implementation=plan.attention
        )
    if plan.quantisation:
        from transformers.integrations import replace_with_bnb_linear

        replace_with_bnb_linear(model, list(not_quantised), quantization_config=quantisation_config(plan))
    return model.eval()


@torch.no_grad()
def fill(model: nn.Module, plan: LoadPlan) -> None:
    """Fills the parameters on the meta device, norms with 1 and 0, others at random.

    Parameters and buffers are then on the plan's device.
    """
    generator = torch.Generator(device=plan.device)
    for path, module in model.named_modules():
        is_norm = type(module).__name__.endswith("Norm")
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                generator.manual_seed(zlib.crc32(f"{path}.{name}".encode()))
                values = torch.empty(parameter.shape, dtype=getattr(torch, plan.dtype), device=plan.device)
                values.fill_(name == "weight") if is_norm else values.normal_(0.0, DEVIATION, generator=generator)
                module._parameters[name] = _parameter_like(parameter, values)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(plan.device)


def _parameter_like(empty: nn.Parameter, values: torch.Tensor) -> Any:
    """Makes a parameter with these values, of the same class as the empty one.

    bitsandbytes quantises a parameter when it is moved to its device; for 8 bits, it must be moved from the CPU.
    """
    if type(empty) is nn.Parameter:
        return nn.Parameter(values, requires_grad=False)
    settings = {name: value for name, value in vars(empty).items() if name != "SCB"}
    is_8bit = type(empty).__name__ == "Int8Params"
    return type(empty)(values.cpu() if is_8bit else values, requires_grad=False, **settings).to(values.device)
