"""With the same weights, the modules give what transformers' give: features to the last bit, texts to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration

from vllava_cli.engine.adapter import plain
from vllava_cli.engine.kv_cache import KVCache
from vllava_cli.engine.llama import Llama
from vllava_cli.engine.modules.model_config import usual
from vllava_cli.engine.modules.video_llava import VideoLlava
from vllava_cli.nouns import Attention, MediaKind

TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60}
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES = {"image_size": 32, "patch_size": 8}
KINDS: dict[str, dict[str, Any]] = {
    "as published": {},
    "the last layer, its class token": {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"},
    "other functions": {"text_config": {"hidden_act": "gelu"}, "vision_config": {"hidden_act": "gelu"}},
    "shared keys": {"text_config": {"num_key_value_heads": 2}},
    "biases": {"text_config": {"attention_bias": True, "mlp_bias": True}, "multimodal_projector_bias": False},
    "wide heads, another rotation": {"text_config": {"head_dim": 16, "rope_theta": 500.0}},
}


def both(kind: str, attention: Attention, dtype: torch.dtype) -> tuple[VideoLlava, Any]:
    """Ours and transformers', with the same random weights."""
    torch.manual_seed(len(kind))
    given = KINDS[kind] | {
        "text_config": TEXT | KINDS[kind].get("text_config", {}),
        "vision_config": TOWER | SIZES | KINDS[kind].get("vision_config", {}),
    }
    theirs = VideoLlavaForConditionalGeneration(VideoLlavaConfig(**given, attn_implementation=attention)).eval()
    for name, parameter in theirs.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    theirs.to(dtype)
    config = usual(given)
    assert config
    ours = VideoLlava(config, attention)
    values = {plain(name): value for name, value in theirs.state_dict().items()}
    ours.load_state_dict({name: values[plain(name)] for name, _ in ours.named_parameters()}, assign=True)
    return ours, theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_features_have_the_same_bits(kind: str, attention: Attention, dtype: torch.dtype) -> None:
    ours, theirs = both(kind, attention, dtype)
    shapes: dict[MediaKind, tuple[int, ...]] = {"video": (2, 8, 3, 32, 32), "image": (2, 3, 32, 32)}
    for medium, shape in shapes.items():
        pixels = torch.randn(shape).to(dtype)
        found = getattr(theirs.model, f"get_{medium}_features")(pixels)
        wanted: Tensor = getattr(found, "pooler_output", found)
        assert torch.equal(ours.features(medium, pixels), wanted.view(-1, *wanted.shape[-2:]))


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_texts_are_read_alike(kind: str) -> None:
    ours, theirs = both(kind, "sdpa", torch.float32)
    ids = torch.randint(60, (2, 9))
    wanted = theirs(ids).logits
    llama = Llama(ours, "sdpa")
    torch.testing.assert_close(
        llama.logits(llama(llama.embedded(ids), KVCache(2).layers)), wanted, rtol=1e-4, atol=1e-4
    )


@torch.inference_mode()
def test_a_look_tells_its_share_before_each_layer() -> None:
    ours, _ = both("as published", "sdpa", torch.float32)
    shares: list[float] = []
    ours.features("image", torch.randn(1, 3, 32, 32), shares.append)
    assert shares == [0.0, 0.5]
