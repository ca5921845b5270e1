"""What is told about an answer: the object of --json field by field, and the counts in words."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.engine.engines import EXACT
from vllava_cli import demo
from vllava_cli.commands.provenance import Loaded, ShownClip
from vllava_cli.commands.report import counts, first_token, report
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.tokens import Tokens, read_tokens
from vllava_cli.nouns import (
    Clip,
    Conversation,
    Frames,
    Framing,
    LoadPlan,
    MediaKind,
    Sampling,
    Source,
    Stats,
    StopReason,
    Turn,
)

STATS = Stats(
    prompt_tokens=2070,
    reused_tokens=2056,
    new_tokens=12,
    tower_calls=1,
    first_token_s=0.123456,
    decode_s=0.5,
    frames_s=1.00004,
    load_s=2.5,
    peak_bytes=1 << 30,
)


@dataclass(frozen=True)
class Engine:
    """As much of an engine as a report looks at."""

    tokens: Tokens
    plan: LoadPlan = EXACT


def frames(name: str, kind: MediaKind, *times_s: float) -> Frames:
    return Frames(
        clip=Clip(path=Path(name), kind=kind, width=1, height=1, frame_count=len(times_s)),
        pixels=np.zeros((len(times_s), 1, 1, 3), np.uint8),
        times_s=times_s,
    )


def test_the_object_has_every_field() -> None:
    media = (frames("a/clip.mp4", "video", 0.0, 1 / 3), frames("star.png", "image", 0.0))
    turn = Turn(
        question="Why?",
        answer="So.",
        answer_ids=(1, 2),
        media=media[1:],
        stop_reason="length",
        sampling=Sampling(max_new_tokens=12, temperature=0.5, seed=7),
        stats=replace(STATS, stray_tokens=1),
        prompt_sha256="fedcba9876543210" * 4,
    )
    before = replace(turn, media=media[:1])
    clips = [
        ShownClip(framing=Framing(start_s=1.5, fit="pad"), bytes=1234, sha256="0123456789abcdef" * 4),
        ShownClip(framing=Framing(fit="pad")),
    ]
    engine = Engine(read_tokens(describe(Source(model="demo", folder=demo.CHECKPOINT))))
    row = report(Conversation(turns=[before, turn], fit="pad"), clips, engine)  # type: ignore[arg-type]
    assert row == {
        "answer": "So.",
        "stop_reason": "length",
        "question": "Why?",
        "model": "demo",
        "revision": None,
        "device": "cpu",
        "dtype": "float32",
        "quantisation": None,
        "attention": "sdpa",
        "clips": [
            {"path": "a/clip.mp4", "kind": "video", "frame_times_s": [0.0, 0.3333]},
            {"path": "star.png", "kind": "image", "frame_times_s": None},
        ],
        "sampling": {"max_new_tokens": 12, "temperature": 0.5, "top_p": 1.0, "seed": 7, "has_guard": True},
        "tokens": {"prompt": 2070, "reused": 2056, "new": 12},
        "timings_s": {"frames": 1.0, "load": 2.5, "first_token": 0.1235, "decode": 0.5},
        "peak_bytes": 1 << 30,
        "stray": 1,
        "made_with": {
            "versions": dict(Loaded.of(engine.plan, engine.tokens.checkpoint).versions),
            "device": "cpu",
            "precision": "fp32",
            "dtype": "float32",
            "quantisation": None,
            "attention": "sdpa",
            "adapter": None,
            "fit": "pad",
            "clips": [
                {"bytes": 1234, "sha256": "0123456789abcdef" * 4, "start_s": 1.5, "end_s": None, "at_s": []},
                {"bytes": None, "sha256": None, "start_s": None, "end_s": None, "at_s": []},
            ],
            "sampling": {"max_new_tokens": 12, "temperature": 0.5, "top_p": 1.0, "seed": 7, "has_guard": True},
            "prompt_sha256": "fedcba9876543210" * 4,
            "answer_ids": [1, 2],
        },
    }
    assert json.loads(json.dumps(row)) == row


def test_an_answer_that_was_to_be_chosen_has_probabilities() -> None:
    engine = Engine(read_tokens(describe(Source(model="demo", folder=demo.CHECKPOINT))))
    sampling = Sampling(choices=("yes", "no"), is_calibrated=True)
    chosen = Turn(
        question="Why?",
        answer="yes",
        answer_ids=(1,),
        stop_reason="choice",
        sampling=sampling,
        stats=STATS,
        probabilities=(0.93, 0.07),
    )
    row = report(Conversation(turns=[chosen]), (), engine)  # type: ignore[arg-type]
    assert list(row)[:3] == ["answer", "probabilities", "stop_reason"]
    assert row["probabilities"] == {"yes": 0.93, "no": 0.07}
    assert row["sampling"] == {
        "max_new_tokens": 512,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": None,
        "has_guard": True,
        "choices": ["yes", "no"],
        "is_calibrated": True,
    }
    assert json.loads(json.dumps(row)) == row
    interrupted = replace(chosen, answer="", answer_ids=(), stop_reason="interrupted", probabilities=())
    row = report(Conversation(turns=[interrupted]), (), engine)  # type: ignore[arg-type]
    assert row["probabilities"] == {}


@pytest.mark.parametrize(
    ("stop", "new_tokens", "said", "seconds"),
    [
        ("end", 12, "first token 0.12 s", 0.1235),
        ("end", 0, "first token 0.12 s", 0.1235),
        ("interrupted", 1, "first token 0.12 s", 0.1235),
        ("interrupted", 0, "no token in 0.12 s", None),
    ],
)
def test_where_no_token_came_there_is_no_time_to_the_first(
    stop: StopReason, new_tokens: int, said: str, seconds: float | None
) -> None:
    engine = Engine(read_tokens(describe(Source(model="demo", folder=demo.CHECKPOINT))))
    stats = replace(STATS, new_tokens=new_tokens)
    turn = Turn(question="Why?", answer="", answer_ids=(), stop_reason=stop, sampling=Sampling(), stats=stats)
    assert first_token(stats, stop) == said
    assert report(Conversation(turns=[turn]), (), engine)["timings_s"]["first_token"] == seconds  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("new_tokens", "decode_s", "said"),
    [
        (12, 0.5, "12 new, 22.0 tokens/s"),
        (2, 0.25, "2 new, 4.0 tokens/s"),
        (2, 1.0, "2 new, 1.0 tokens/s"),
        (5, 103.4, "5 new, 25.9 s a token"),
        (1, 0.5, "1 new"),
        (0, 0.0, "0 new"),
        (12, 0.0, "12 new"),
    ],
)
def test_counts_in_words(new_tokens: int, decode_s: float, said: str) -> None:
    """The first token isn't decoded but comes of the prefill."""
    stats = Stats(prompt_tokens=2070, reused_tokens=2056, new_tokens=new_tokens, first_token_s=0.1, decode_s=decode_s)
    assert counts(stats) == f"2070 prompt tokens (2056 reused), {said}"
