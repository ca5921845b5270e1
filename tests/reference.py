"""What transformers' documentation does, as plainly as it can be written: the yardstick for the engine's tokens.

The ids are those of the tokenizer's file, as the `tokenizers` library reads it, and not AutoTokenizer's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import VideoLlavaForConditionalGeneration, VideoLlavaImageProcessor

from vllava_cli.media.pixels import video_pixels
from vllava_cli.media.preprocess import read_video_recipe
from vllava_cli.nouns import Clip, Frames


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A checkpoint loaded by from_pretrained alone, in fp32."""

    folder: Path
    model: Any
    tokenizer: Tokenizer

    def answer(self, text: str, *, videos: list[Path], images: list[Path], max_new_tokens: int) -> list[int]:
        """The new ids of generate for a prompt in which the placeholders are already repeated.

        Placeholders, padding and rows of the head without a token are no answer.
        """
        ids = torch.tensor([self.ids(text)])
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if videos:
            inputs["pixel_values_videos"] = torch.cat([self._video(path) for path in videos])
        if images:
            processor = VideoLlavaImageProcessor.from_pretrained(self.folder)
            pictures = [Image.open(path).convert("RGB") for path in images]
            (inputs[image_word()],) = processor(images=pictures, return_tensors="pt").values()
        prompt_length = ids.shape[1]
        made = self.model.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, suppress_tokens=self.nothing_to_say()
        )
        return [int(token) for token in made[0, prompt_length:]]

    def ids(self, text: str) -> list[int]:
        """The ids of a whole prompt, <s> in front."""
        return list(self.tokenizer.encode(text).ids)

    def nothing_to_say(self) -> list[int]:
        """The ids of the head's rows that are no part of a text."""
        rows = range(self.model.config.text_config.vocab_size)
        names = {number: self.tokenizer.id_to_token(number) for number in rows}
        return [number for number, name in names.items() if name in (None, "<video>", "<image>", "<pad>")]

    def _video(self, path: Path) -> torch.Tensor:
        with av.open(str(path)) as container:
            every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        picked = torch.stack([torch.from_numpy(every[int(i * len(every) / 8)]) for i in range(8)]).numpy()
        height, width = picked.shape[1:3]
        clip = Clip(path=path, kind="video", width=width, height=height, frame_count=len(every))
        frames = Frames(clip=clip, pixels=picked, times_s=(0.0,) * 8)
        return video_pixels(frames, read_video_recipe(self.folder))


def read_reference(folder: Path) -> Reference:
    model = VideoLlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return Reference(folder=folder, model=model, tokenizer=Tokenizer.from_file(str(folder / "tokenizer.json")))


def image_word() -> str:
    """generate's name for image pixels: pixel_values_images up to transformers 5.17, pixel_values after it."""
    import inspect

    names = inspect.signature(VideoLlavaForConditionalGeneration.forward).parameters
    return "pixel_values" if "pixel_values" in names else "pixel_values_images"
