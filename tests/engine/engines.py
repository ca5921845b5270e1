"""Engines and conversations as tests need them, and the reference's likeliest tokens behind each answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.reference import Reference, image_word, read_reference
from vllava_cli import demo, prompt
from vllava_cli.answers import (
    Answer,
    Conversation,
    Sampling,
    Turn,
)
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.cpu.products import Products
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.load import load
from vllava_cli.engine.tokens import Tokens, read_tokens
from vllava_cli.interrupt import NEVER, Cancel
from vllava_cli.media.pixels import image_pixels, video_pixels
from vllava_cli.media.sample import sample
from vllava_cli.nouns import (
    Frames,
    Framing,
    LoadPlan,
    MediaKind,
    Source,
)

EXACT = LoadPlan(
    device="cpu",
    dtype="float32",
    quantisation=None,
    attention="sdpa",
    needed_bytes=0,
    device_reason="A test.",
    dtype_reason="A test.",
    quantisation_reason="A test.",
    attention_reason="A test.",
)
FREE = Sampling(max_new_tokens=24, has_guard=False)
PATHS = {path.name: path for path in demo.clips()}
PHRASES = ("Yes.", "No.", "A red circle moves left.", "a dog", "left", "日本")
"""Choices of 2, 2, 6, 3, 1 and 7 tokens of the demo model."""


def available(products: type[Products]) -> Products:
    """Makes products; skips the test where products.c wasn't compiled or this processor can't run it."""
    try:
        return products()
    except OSError as exc:
        pytest.skip(str(exc))


def tokens_of(folder: Path) -> Tokens:
    return read_tokens(describe(Source(model=str(folder), folder=folder)))


def engine_of(folder: Path) -> Engine:
    return load(EXACT, tokens_of(folder), {"video", "image"})


def engine_like(engine: Engine, **tokens: Any) -> Engine:
    """The same model with nothing in its cache, and other fields of its tokens."""
    return Engine(model=engine.model, tokens=replace(engine.tokens, **tokens), plan=engine.plan)


def their_model(engine: Engine) -> Any:
    """The engine's model as transformers loads it."""
    return _their_model(engine.tokens.checkpoint.folder)


@cache
def _their_model(folder: Path) -> Any:
    return read_reference(folder).model


def conversation_about(*paths: Path) -> Conversation:
    return Conversation(attached=tuple(sample(path, Framing()) for path in paths))


def ask(
    engine: Engine, conversation: Conversation, question: str, sampling: Sampling = FREE, *, cancel: Cancel = NEVER
) -> Answer:
    """The whole answer, which is streamed as the conversation keeps it."""
    text = "".join(engine.stream(conversation, question, sampling, cancel=cancel))
    turn = conversation.turns[-1]
    assert turn.answer == text
    return Answer(text=text, stop_reason=turn.stop_reason, stats=turn.stats, probabilities=turn.probabilities)


def new_ids(engine: Engine, conversation: Conversation, question: str, sampling: Sampling = FREE) -> list[int]:
    """The ids of the answer."""
    ask(engine, conversation, question, sampling)
    return list(conversation.turns[-1].answer_ids)


def expanded(engine: Engine, text: str) -> str:
    counts = engine.tokens.checkpoint
    return prompt.expand(text, tokens_per_video=counts.tokens_per_video, tokens_per_image=counts.tokens_per_image)


def generated(engine: Engine, reference: Reference, question: str, *paths: Path, most: int = 24) -> list[int]:
    """The ids of generate's answer to a question about these videos and pictures, without its end."""
    kinds: list[MediaKind] = ["image" if path.suffix == ".png" else "video" for path in paths]
    videos, images = (
        [path for path, kind in zip(paths, kinds, strict=True) if kind == of] for of in ("video", "image")
    )
    text = expanded(engine, prompt.turn(question, kinds))
    made = reference.answer(text, videos=videos, images=images, max_new_tokens=most)
    return [token for token in made if token not in engine.tokens.stop_ids]


def after(count: int) -> Callable[[], bool]:
    """Says no `count` times, then yes."""
    answers: Iterator[bool] = itertools.chain(itertools.repeat(False, count), itertools.repeat(True))
    return lambda: next(answers)


def whole_logits(engine: Engine, reference: Reference, media: Sequence[Frames], ids: Sequence[int]) -> torch.Tensor:
    """[ids, vocabulary]: transformers' own forward pass over all ids and pixels, no cache, no chunks."""
    inputs = {"input_ids": torch.tensor([list(ids)])}
    checkpoint = engine.tokens.checkpoint
    if videos := [video_pixels(each, checkpoint.video_recipe) for each in media if each.kind == "video"]:
        inputs["pixel_values_videos"] = torch.cat(videos)
    if images := [image_pixels(each, checkpoint.folder) for each in media if each.kind == "image"]:
        inputs[image_word()] = torch.cat(images)
    with torch.no_grad():
        logits: torch.Tensor = reference.model(**inputs).logits[0]
    return logits


def greedy_ids(engine: Engine, reference: Reference, conversation: Conversation, turn: Turn) -> list[int]:
    """For each token of the turn's answer, the likeliest one behind all that stands before it."""
    ids = engine.tokens.finished_ids(conversation)
    start = len(ids) - len(turn.answer_ids)
    logits = whole_logits(engine, reference, conversation.media, ids)[start - 1 :]
    logits[:, list(engine.tokens.banned_ids)] = -torch.inf
    likeliest: list[int] = logits.argmax(-1).tolist()
    *made, behind = likeliest
    assert (behind in engine.tokens.stop_ids) == (turn.stop_reason == "end") or turn.stop_reason == "interrupted"
    return made


@contextmanager
def saying(engine: Engine, *ids: int) -> Iterator[None]:
    """The model says these ids, one behind the other, then its end."""
    script = iter([*ids, 2])
    handle = engine.model.lm_head.register_forward_hook(lambda _module, _inputs, logits: _only(logits, next(script, 2)))
    try:
        yield
    finally:
        handle.remove()


def _only(logits: torch.Tensor, token: int) -> torch.Tensor:
    return torch.full_like(logits, -9.0).index_fill(-1, torch.tensor([token]), 9.0)
