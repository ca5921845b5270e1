"""The roofline of a model on a device: the least time that its operations and its bytes take. Pure.

A pass needs its operations and has to move its bytes; the slower of the two is the limit. Norms, activations, softmax,
and the table of embeddings, of which a token reads one row, are not counted. A model that fits into a CPU's caches may
be faster than its memory, against which the bytes are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllava_cli.fit import NF4_BYTES
from vllava_cli.nouns import FRAMES_PER_CLIP, Checkpoint, LoadPlan, Speed


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """The seconds that one answer of a model takes at least, held as planned, on a device of this speed."""

    config: Any
    """A VideoLlavaConfig, trimmed or not."""
    checkpoint: Checkpoint
    plan: LoadPlan
    speed: Speed
    prompt_tokens: int
    new_tokens: int

    @property
    def value_bytes(self) -> int:
        """Bytes of a number outside of the language model's matrices."""
        return 4 if self.plan.dtype == "float32" else 2

    @property
    def weight_bytes(self) -> float:
        """The bytes that each pass of the language model reads, however many sequences it has."""
        matrix_bytes = {"4bit": NF4_BYTES, "8bit": 1.0, None: float(self.value_bytes)}[self.plan.quantisation]
        return self.checkpoint.language_parameters * matrix_bytes + self._head_parameters * self.value_bytes

    @property
    def vision_s(self) -> float:
        """The eight frames in the trimmed tower and the projector."""
        vision, hidden = self.config.vision_config, self.config.text_config.hidden_size
        patches, width = (vision.image_size // vision.patch_size) ** 2, vision.hidden_size
        tokens = patches + 1
        layer = 2 * tokens * (4 * width**2 + 2 * width * vision.intermediate_size) + 4 * tokens**2 * width
        projector = 2 * tokens * (width * hidden + hidden**2)
        embedding = 2 * patches * 3 * vision.patch_size**2 * width
        layers = _needed_layers(vision.num_hidden_layers, self.config.vision_feature_layer)
        return float(FRAMES_PER_CLIP * (layers * layer + embedding + projector)) / self.speed.operations

    def prefill_s(self, tokens: int) -> float:
        """Each token attends to those before it, which is half of all pairs; there are logits of the last one."""
        operations = 2 * (self.checkpoint.language_parameters * tokens + self._head_parameters)
        operations += 2 * self._attention_values * tokens**2
        return max(operations / self.speed.operations, self.weight_bytes / self.speed.bytes)

    def step_s(self, sequences: int, tokens: float) -> float:
        """One more token in each of so many sequences that hold `tokens` each."""
        matrices = 2 * (self.checkpoint.language_parameters + self._head_parameters)
        operations = sequences * (matrices + 4 * self._attention_values * tokens)
        cache_bytes = sequences * tokens * self.checkpoint.cache_values_per_token * self.value_bytes
        return max(operations / self.speed.operations, (self.weight_bytes + cache_bytes) / self.speed.bytes)

    @property
    def first_token_s(self) -> float:
        """The clip is encoded and the prompt is read: the first token comes with that."""
        return self.vision_s + self.prefill_s(self.prompt_tokens)

    def decode_s(self, sequences: int) -> float:
        """All steps behind the first token, at the length that the sequences have on average."""
        return (self.new_tokens - 1) * self.step_s(sequences, self.prompt_tokens + self.new_tokens / 2)

    def clips_s(self, clips: int) -> float:
        """Each clip is encoded and its prompt read by itself, all are decoded side by side."""
        return clips * self.first_token_s + self.decode_s(clips)

    @property
    def _head_parameters(self) -> int:
        """Counts the numbers in the matrix that makes logits."""
        return int(self.config.text_config.hidden_size * self.config.text_config.vocab_size)

    @property
    def _attention_values(self) -> int:
        text = self.config.text_config
        return int(text.num_hidden_layers * text.num_attention_heads * text.head_dim)


def _needed_layers(layers: int, feature_layer: int | list[int]) -> int:
    """hidden_states[-1] is the last layer's output, [-2] the one before: (24, -2) → 23; (23, -1) → 23."""
    places = [feature_layer] if isinstance(feature_layer, int) else feature_layer
    return max(place % (layers + 1) for place in places)
