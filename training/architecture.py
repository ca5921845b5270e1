"""The demo's architecture: Video-LLaVA with every size cut down; all widths are multiples of 64."""

from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig

from training.render import FRAMES
from training.tokenizer import CONTEXT, END, IMAGE, PAD, START, VIDEO, VOCABULARY

SIDE = 64
PATCH = 16
SIDE_PATCHES = SIDE // PATCH
PATCHES = SIDE_PATCHES**2
VIDEO_TOKENS = FRAMES * (PATCHES + 1)
VISION_WIDTH = 128
TEXT_WIDTH = 192
IDLE_LAYER = 3
"""The fourth vision layer: features are those of layer -2, so it exists in the file but never counts."""


def config() -> VideoLlavaConfig:
    """Two CLIP towers of 128 x (3 + 1 idle) layers, a projector, Llama of 192 x 4 layers."""
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=256,
        num_hidden_layers=IDLE_LAYER + 1,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=VISION_WIDTH,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=TEXT_WIDTH,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    return VideoLlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_seq_length=PATCHES,
        video_seq_length=VIDEO_TOKENS,
        tie_word_embeddings=False,
    )
