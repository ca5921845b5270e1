"""The loop that choices are compared with: `python -m benchmarks.choice_loop CHECKPOINT JOBS`.

JOBS has an object {"video", "question", "choices"} a line, the questions of a clip one after another. A clip is decoded
once; then transformers' forward runs over its pixels, the prompt and one option, for each question and each option. An
object with "path", "question", "answer" and "probabilities" a line is printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.snippet_loop import Loaded, decoded, loaded
from vllava_cli import prompt
from vllava_cli.media.pixels import video_pixels


def likelihood(model: Loaded, pixels: torch.Tensor, text: str, option: str) -> float:
    """The sum of the log-probabilities of an option's tokens after a prompt."""
    count = len(model.tokenizer(text)["input_ids"])
    inputs = model.tokenizer(f"{text} {option}", return_tensors="pt")
    with torch.inference_mode():
        logits = model.model(**inputs, pixel_values_videos=pixels).logits[0, count - 1 : -1]
    wanted = inputs["input_ids"][0, count:, None]
    return float(logits.log_softmax(-1).gather(-1, wanted).sum())


def chances(model: Loaded, pixels: torch.Tensor, question: str, choices: Sequence[str]) -> list[float]:
    written = prompt.turn(question, ["video"])
    text = prompt.expand(written, tokens_per_video=model.model.config.video_seq_length, tokens_per_image=0)
    scores = [likelihood(model, pixels, text, option) for option in choices]
    return torch.tensor(scores, dtype=torch.float64).softmax(-1).tolist()


def answered(model: Loaded, jobs: Path) -> Iterator[dict[str, object]]:
    path, pixels = "", torch.empty(0)
    for line in jobs.read_text(encoding="utf-8").splitlines():
        job = json.loads(line)
        if job["video"] != path:
            path, pixels = job["video"], video_pixels(decoded(Path(job["video"])), model.recipe)
        found = chances(model, pixels, job["question"], job["choices"])
        answer = job["choices"][found.index(max(found))]
        parts = dict(zip(job["choices"], found, strict=True))
        yield {"path": path, "question": job["question"], "answer": answer, "probabilities": parts}


def main(checkpoint: str, jobs: str) -> None:
    for row in answered(loaded(Path(checkpoint), 1), Path(jobs)):
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
