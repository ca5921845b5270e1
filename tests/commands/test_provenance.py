"""What an answer was made with, written and read again, and what else is reported of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.batch.parts import LOADED, MAKING
from tests.commands.turns import STATS, turn
from tests.engine.engines import EXACT
from vllava_cli import demo
from vllava_cli.answers import (
    Agreeing,
    Conversation,
    Sampling,
    StopReason,
)
from vllava_cli.commands.provenance import (
    AdapterFacts,
    Loaded,
    Making,
    ShownClip,
    counts,
    first_token,
    read_making,
    report,
    seeded,
)
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.cpu.products import products
from vllava_cli.engine.tokens import Tokens, read_tokens
from vllava_cli.errors import SessionError
from vllava_cli.media.fingerprint import Hashing
from vllava_cli.nouns import (
    Adapter,
    Framing,
    LoadPlan,
    Quantisation,
    Source,
)
from vllava_cli.storage.fields import Fields

SHA = "0123456789abcdef" * 4


def written_and_read(making: Making) -> Making:
    row = json.loads(json.dumps(making.row()))
    return read_making(Fields(row, "line 1", error=SessionError), model="demo", revision=None)


@pytest.mark.parametrize(
    "change",
    [
        lambda making: replace(making, sampling=Sampling(choices=("yes", "no"), is_calibrated=True)),
        lambda making: replace(making, clips=(), answer_ids=()),
        lambda making: replace(making, agreeing=Agreeing(samples=3, least_share=0.5)),
        lambda making: replace(
            making, clips=(ShownClip(framing=Framing(background="#000080", is_as_stored=True, shift=0.6)),)
        ),
        lambda making: replace(
            making,
            loaded=replace(
                LOADED, adapter=AdapterFacts("me/lora", "abc", SHA), quantisation="bitsandbytes nf4, compute bf16"
            ),
        ),
    ],
)
def test_what_is_written_is_read_again(change: Callable[[Making], Making]) -> None:
    assert written_and_read(change(MAKING)) == change(MAKING)


def test_a_plan_and_a_checkpoint_say_what_is_loaded(tmp_path: Path) -> None:
    checkpoint = describe(Source(model="demo", folder=demo.CHECKPOINT))
    plain = Loaded.of(EXACT, checkpoint)
    assert (plain.device, plain.precision, plain.quantisation, plain.adapter) == ("cpu", "fp32", None, None)
    assert [name for name, _ in plain.versions] == ["vllava", "transformers", "torch", "av"]
    adapter = Adapter(name="me/lora", folder=tmp_path, revision="abc", sha256=SHA)
    quantised = replace(EXACT, dtype="bfloat16", quantisation="4bit")
    found = Loaded.of(quantised, replace(checkpoint, adapter=adapter))
    assert (found.precision, found.quantisation) == ("4bit", "bitsandbytes nf4, compute bf16")
    assert found.adapter == ("me/lora", "abc", SHA)


@pytest.mark.parametrize(("quantisation", "kind"), [("8bit", "int8"), ("4bit", "int4"), (None, None)])
def test_weights_that_a_cpu_holds_are_not_called_those_of_bitsandbytes(
    quantisation: Quantisation | None, kind: str | None
) -> None:
    held = replace(EXACT, dtype="bfloat16", quantisation=quantisation, is_held=True, wide_dtype="bfloat16")
    found = Loaded.of(held, describe(Source(model="demo", folder=demo.CHECKPOINT)))
    assert found.quantisation == (f"vllava {kind}, {products().layout}, compute bf16" if kind else None)
    assert [name for name, _ in found.versions] == ["vllava", "transformers", "torch", "av"]


def test_a_seed_is_drawn_only_where_one_is_needed_and_none_was_given() -> None:
    warm = Sampling(temperature=0.8)
    drawn = {seeded(warm).seed for _ in range(20)}
    assert len(drawn) > 15
    assert all(seed is not None and 0 <= seed < 1 << 32 for seed in drawn)
    for settled in (Sampling(), replace(warm, seed=7), replace(warm, choices=("yes", "no"))):
        assert seeded(settled) is settled


def test_a_clip_that_is_hashed_is_what_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"one")
    with Hashing() as hashing:
        found = hashing.begin(path)
        path.unlink()
        gone = hashing.begin(path)
        clip = ShownClip(framing=Framing(), bytes=5)
        assert clip.hashed(found) == replace(clip, bytes=3, sha256=hashlib.sha256(b"one").hexdigest())
        assert clip.hashed(gone) == clip.hashed(None) == clip


@dataclass(frozen=True)
class Engine:
    """As much of an engine as a report looks at."""

    tokens: Tokens
    plan: LoadPlan = EXACT
    maker: None = None


@pytest.mark.parametrize(
    ("stop", "new_tokens", "said", "seconds"),
    [
        ("end", 0, "first token 0.12 s", 0.1235),
        ("interrupted", 1, "first token 0.12 s", 0.1235),
        ("interrupted", 0, "no token in 0.12 s", None),
    ],
)
def test_where_no_token_came_there_is_no_time_to_the_first(
    stop: StopReason, new_tokens: int, said: str, seconds: float | None
) -> None:
    engine = Engine(read_tokens(describe(Source(model="demo", folder=demo.CHECKPOINT))))
    stats = replace(STATS, new_tokens=new_tokens, first_token_s=0.123456)
    asked = turn("Why?", stop_reason=stop, stats=stats)
    assert first_token(stats, stop) == said
    assert report(Conversation(turns=[asked]), (), engine)["timings_s"]["first_token"] == seconds  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("new_tokens", "decode_s", "said"),
    [
        (12, 0.5, "12 new, 22.0 tokens/s"),
        (5, 103.4, "5 new, 25.9 s a token"),
        (1, 0.5, "1 new"),
        (12, 0.0, "12 new"),
    ],
)
def test_counts_in_words(new_tokens: int, decode_s: float, said: str) -> None:
    """The first token isn't decoded but comes of the prefill."""
    stats = replace(STATS, new_tokens=new_tokens, decode_s=decode_s)
    assert counts(stats) == f"20 prompt tokens (5 reused), {said}"
