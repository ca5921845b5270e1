"""The loop that `vllava batch` is compared with: `python -m benchmarks.snippet_loop CHECKPOINT JOBS MAX_NEW_TOKENS`.

JOBS has an object {"path", "question"} a line. What transformers' documentation does for one question is done for each,
one after the other, with a model that is loaded once; an object {"path", "question", "answer"} a line is printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoTokenizer, VideoLlavaForConditionalGeneration

from vllava_cli import prompt
from vllava_cli.media.pixels import video_pixels
from vllava_cli.media.preprocess import read_video_recipe
from vllava_cli.media.video.full_decode import documented_eight
from vllava_cli.nouns import Clip, Frames, VideoRecipe


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A checkpoint in fp32, as from_pretrained gives it."""

    model: Any
    tokenizer: Any
    recipe: VideoRecipe
    max_new_tokens: int

    def answer(self, path: Path, question: str) -> str:
        """The text that generate gives, greedily."""
        return self.answer_about(decoded(path), question)

    def answer_about(self, frames: Frames, question: str) -> str:
        text = prompt.expand(
            prompt.turn(question, ["video"]), tokens_per_video=self.model.config.video_seq_length, tokens_per_image=0
        )
        inputs = self.tokenizer(text, return_tensors="pt")
        pixels = video_pixels(frames, self.recipe)
        made = self.model.generate(
            **inputs, pixel_values_videos=pixels, max_new_tokens=self.max_new_tokens, do_sample=False
        )
        new_ids = made[0, inputs["input_ids"].shape[1] :]
        return str(self.tokenizer.decode(new_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def loaded(checkpoint: Path, max_new_tokens: int) -> Loaded:
    return Loaded(
        model=VideoLlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval(),
        tokenizer=AutoTokenizer.from_pretrained(checkpoint),
        recipe=read_video_recipe(checkpoint),
        max_new_tokens=max_new_tokens,
    )


def decoded(path: Path) -> Frames:
    """The eight frames; only those are made into RGB, which is kinder than necessary."""
    with av.open(str(path)) as container:
        total = container.streams.video[0].frames
        pixels: npt.NDArray[np.uint8] = np.stack(
            [frame.to_ndarray(format="rgb24") for frame in documented_eight(container, total)]
        )
    height, width = pixels.shape[1:3]
    clip = Clip(path=path, kind="video", width=width, height=height, frame_count=total)
    return Frames(clip=clip, pixels=pixels, times_s=(0.0,) * len(pixels))


def answered(model: Loaded, jobs: Path) -> Iterator[dict[str, str]]:
    for line in jobs.read_text(encoding="utf-8").splitlines():
        job = json.loads(line)
        yield {**job, "answer": model.answer(Path(job["path"]), job["question"])}


def main(checkpoint: str, jobs: str, max_new_tokens: str) -> None:
    for row in answered(loaded(Path(checkpoint), int(max_new_tokens)), Path(jobs)):
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
