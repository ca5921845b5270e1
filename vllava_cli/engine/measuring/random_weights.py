"""Models of real shapes with random weights, made on the device, so that speed can be measured without a download.

Parameters are drawn from one seeded generator, on the device and in the dtype in which they stay; what isn't random
(positions, the frequencies of the rotary embedding) is as transformers makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vllava_cli import demo
from vllava_cli.engine.checkpoint import DEFAULT_CHECKPOINT, facts, read_config
from vllava_cli.engine.measuring.random_shapes import SHAPES
from vllava_cli.engine.tokens import Tokens, read_tokens
from vllava_cli.errors import UsageError
from vllava_cli.nouns import LoadPlan, Source

if TYPE_CHECKING:
    from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration

SEED = 0
DEVIATION = 0.02
"""Of all weights, what Llama's training began with: activations neither vanish nor overflow in 16 bits."""


def random_tokens(name: str) -> Tokens:
    """The demo's tokenizer with a checkpoint of these shapes; no weight is made. Errors: UsageError.

    Ids beyond the demo's vocabulary have no text.
    """
    config = random_config(name)
    side = SHAPES[name].image_side
    recipe = replace(DEFAULT_CHECKPOINT.video_recipe, short_side=side, crop_height=side, crop_width=side)
    return read_tokens(facts(config, Source(model=f"random {name}", folder=demo.CHECKPOINT), recipe))


def random_config(name: str) -> VideoLlavaConfig:
    """The config of a whole model, untrimmed, with the demo's placeholders. Errors: UsageError that lists the names."""
    if name not in SHAPES:
        raise UsageError(f'There are no random weights "{name}": choose {", ".join(SHAPES)}.')
    from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig

    shape, of_demo = SHAPES[name], read_config(demo.CHECKPOINT)
    text = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=DEFAULT_CHECKPOINT.context_tokens,
        pad_token_id=of_demo.text_config.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=shape.vision_hidden,
        intermediate_size=shape.vision_inner,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        image_size=shape.image_side,
        patch_size=shape.patch_side,
    )
    return VideoLlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=of_demo.image_token_id,
        video_token_index=of_demo.video_token_id,
        tie_word_embeddings=False,
    )


def skeleton(config: VideoLlavaConfig, plan: LoadPlan) -> VideoLlavaForConditionalGeneration:
    """A model whose parameters are on the meta device, and its buffers where they were computed, on the CPU."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForImageTextToText

    with init_empty_weights(include_buffers=False):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=getattr(torch, plan.dtype), attn_implementation=plan.attention
        )
    return model.eval()


def fill(model: nn.Module, plan: LoadPlan, is_kept_whole: Callable[[str], bool]) -> None:
    """Makes what is still on the meta device; of a quantised plan all linear layers but those that are kept whole."""
    generator = torch.Generator(device=plan.device).manual_seed(SEED)
    with torch.no_grad():
        for name, module in list(model.named_modules()):
            is_quantised = plan.quantisation and type(module) is nn.Linear and not is_kept_whole(name)
            if is_quantised and module.weight.is_meta:
                model.set_submodule(name, _quantised(module, plan, generator))
            else:
                _fill_own(module, plan, generator)


def _fill_own(module: nn.Module, plan: LoadPlan, generator: torch.Generator) -> None:
    """The module's own parameters, and its buffers to the device as they are."""
    is_norm = type(module).__name__.endswith("Norm")
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.is_meta:
            values = _drawn(parameter, plan, generator)
            if is_norm:
                values.fill_(name == "weight")
            module._parameters[name] = nn.Parameter(values, requires_grad=False)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else buffer.to(plan.device)


def _quantised(linear: nn.Linear, plan: LoadPlan, generator: torch.Generator) -> Any:
    """What bitsandbytes makes of a linear layer, quantised as soon as its weights are drawn."""
    import bitsandbytes

    sizes, has_bias = (linear.in_features, linear.out_features), linear.bias is not None
    values = _drawn(linear.weight, plan, generator)
    if plan.quantisation == "8bit":
        made = bitsandbytes.nn.Linear8bitLt(*sizes, has_bias, has_fp16_weights=False, threshold=6.0, device="meta")
        # It quantises on the way from the CPU alone.
        made.weight = bitsandbytes.nn.Int8Params(values.cpu(), requires_grad=False, has_fp16_weights=False)
        made.weight = made.weight.to(plan.device)
    else:
        made = bitsandbytes.nn.Linear4bit(
            *sizes, has_bias, compute_dtype=values.dtype, compress_statistics=False, quant_type="nf4", device="meta"
        )
        made.weight = bitsandbytes.nn.Params4bit(
            values, requires_grad=False, compress_statistics=False, quant_type="nf4", module=made
        ).to(plan.device)
    if linear.bias is not None:
        made.bias = nn.Parameter(_drawn(linear.bias, plan, generator), requires_grad=False)
    return made


def _drawn(parameter: torch.Tensor, plan: LoadPlan, generator: torch.Generator) -> torch.Tensor:
    values = torch.empty(parameter.shape, dtype=getattr(torch, plan.dtype), device=plan.device)
    return values.normal_(0.0, DEVIATION, generator=generator)
