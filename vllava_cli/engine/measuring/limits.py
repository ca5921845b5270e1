"""What the hardware would allow: the least work that an answer needs, over what the device was measured to do. Pure.

A pass needs its operations and has to move its bytes; the slower of the two is the limit. Not counted: norms,
activations, softmax, and the table of embeddings, of which a token reads one row. A model that fits into a CPU's
caches may be faster than its memory, which is what bytes are counted against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllava_cli.fit import NF4_BYTES
from vllava_cli.nouns import FRAMES_PER_CLIP, LoadPlan, Speed


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The numbers of a model that its work follows from."""

    hidden: int
    layers: int
    language_parameters: int
    """Of the layers' matrices."""
    head_parameters: int
    """Of the matrix that makes logits."""
    attention_width: int
    """Heads * head size."""
    cache_values_per_token: int
    vision_hidden: int
    vision_inner: int
    vision_layers: int
    """Those that features depend on."""
    patches: int
    """Of a frame, without the one that stands for all of it."""
    patch_values: int
    """Numbers in a patch: 3 * side * side."""

    @classmethod
    def of(cls, config: Any, *, language_parameters: int, cache_values_per_token: int) -> Sizes:
        """From a VideoLlavaConfig, trimmed or not."""
        text, vision, layer = config.text_config, config.vision_config, config.vision_feature_layer
        return cls(
            hidden=text.hidden_size,
            layers=text.num_hidden_layers,
            language_parameters=language_parameters,
            head_parameters=text.hidden_size * text.vocab_size,
            attention_width=text.num_attention_heads * text.head_dim,
            cache_values_per_token=cache_values_per_token,
            vision_hidden=vision.hidden_size,
            vision_inner=vision.intermediate_size,
            vision_layers=_needed_layers(vision.num_hidden_layers, layer),
            patches=(vision.image_size // vision.patch_size) ** 2,
            patch_values=3 * vision.patch_size**2,
        )

    @property
    def vision_operations(self) -> int:
        """Of the trimmed tower and the projector, for the eight frames."""
        tokens, width = self.patches + 1, self.vision_hidden
        matrices = 4 * width**2 + 2 * width * self.vision_inner
        layer = 2 * tokens * matrices + 4 * tokens**2 * width
        projector = 2 * tokens * (width * self.hidden + self.hidden**2)
        patches = 2 * self.patches * self.patch_values * width
        return FRAMES_PER_CLIP * (self.vision_layers * layer + patches + projector)

    def prefill_operations(self, tokens: int) -> int:
        """Of a prompt; each token attends to those before it, which is half of all pairs. One row of logits."""
        attention = 2 * self.layers * tokens**2 * self.attention_width
        return 2 * self.language_parameters * tokens + attention + 2 * self.head_parameters

    def step_operations(self, rows: int, tokens: float) -> float:
        """Of one token more in each of `rows` that hold so many tokens."""
        attention = 4 * self.layers * tokens * self.attention_width
        return rows * (2 * (self.language_parameters + self.head_parameters) + attention)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds that a model of these sizes takes at least, held as planned, on a device of this speed."""

    sizes: Sizes
    speed: Speed
    matrix_bytes: float
    """Of a number in the language model's matrices."""
    value_bytes: int
    """Of any other number."""

    @classmethod
    def of(cls, sizes: Sizes, plan: LoadPlan, speed: Speed) -> Limits:
        value_bytes = 4 if plan.dtype == "float32" else 2
        matrix_bytes = {"4bit": NF4_BYTES, "8bit": 1.0, None: float(value_bytes)}[plan.quantisation]
        return cls(sizes=sizes, speed=speed, matrix_bytes=matrix_bytes, value_bytes=value_bytes)

    @property
    def weight_bytes(self) -> float:
        """What each pass of the language model reads, however many rows it has."""
        return self.sizes.language_parameters * self.matrix_bytes + self.sizes.head_parameters * self.value_bytes

    def step_bytes(self, rows: int, tokens: float) -> float:
        """The weights, and the cache of `rows` that hold so many tokens."""
        return self.weight_bytes + rows * tokens * self.sizes.cache_values_per_token * self.value_bytes

    @property
    def vision_s(self) -> float:
        return self.sizes.vision_operations / self.speed.operations

    def prefill_s(self, tokens: int) -> float:
        return max(self.sizes.prefill_operations(tokens) / self.speed.operations, self.weight_bytes / self.speed.bytes)

    def step_s(self, rows: int, tokens: float) -> float:
        """Of one token in each row."""
        computing_s = self.sizes.step_operations(rows, tokens) / self.speed.operations
        return max(computing_s, self.step_bytes(rows, tokens) / self.speed.bytes)

    def first_token_s(self, tokens: int) -> float:
        """The clip seen and the prompt read: the first token comes with that."""
        return self.vision_s + self.prefill_s(tokens)

    def decode_tokens_per_s(self, rows: int, *, prompt_tokens: int, new_tokens: int) -> float:
        """Of all rows together, at the length that they have on average."""
        return rows / self.step_s(rows, prompt_tokens + new_tokens / 2)

    def clips_per_s(self, clips: int, *, prompt_tokens: int, new_tokens: int) -> float:
        """Each clip seen and its prompt read by itself, all decoded side by side."""
        step_s = self.step_s(clips, prompt_tokens + new_tokens / 2)
        return 1 / (self.first_token_s(prompt_tokens) + (new_tokens - 1) * step_s / clips)


def _needed_layers(layers: int, feature_layer: int | list[int]) -> int:
    """hidden_states[-1] is the last layer's output, [-2] the one before: (24, -2) → 23; (23, -1) → 23."""
    places = [feature_layer] if isinstance(feature_layer, int) else feature_layer
    return max(place % (layers + 1) for place in places)
