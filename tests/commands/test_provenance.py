"""What an answer was made with: as a row has it, and read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.batch.parts import LOADED, MAKING
from tests.engine.engines import EXACT
from vllava_cli import demo
from vllava_cli.commands.provenance import (
    AdapterFacts,
    Loaded,
    Making,
    ShownClip,
    others,
    precision_of,
    read_making,
    seeded,
)
from vllava_cli.engine.checkpoint import describe
from vllava_cli.errors import SessionError
from vllava_cli.media.fingerprint import Hashing
from vllava_cli.nouns import Adapter, Dtype, Framing, Precision, Quantisation, Sampling, Source
from vllava_cli.storage.fields import Fields

SHA = "0123456789abcdef" * 4


def written_and_read(making: Making) -> Making:
    row = json.loads(json.dumps(making.row()))
    return read_making(Fields(row, "line 1", error=SessionError), model="demo", revision=None)


@pytest.mark.parametrize(
    "change",
    [
        lambda making: making,
        lambda making: replace(making, sampling=Sampling(choices=("yes", "no"), is_calibrated=True)),
        lambda making: replace(making, clips=(), answer_ids=()),
        lambda making: replace(making, fit="pad", clips=(ShownClip(framing=Framing(at_s=(1.5, 0.0), fit="pad")),)),
        lambda making: replace(
            making,
            clips=(ShownClip(framing=Framing(start_s=1.0, end_s=2.5), bytes=9, sha256=SHA), *making.clips),
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


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("device", ..., "line 3: device is missing"),
        ("precision", "int3", "line 3: precision is none of fp16, bf16, fp32, 8bit, 4bit"),
        ("answer_ids", [1, -2], "line 3, answer_ids: entry 2 is no whole number from 0"),
        ("clips", [7], "line 3, clips: entry 1 is no object"),
        ("clips", [MAKING.row()["clips"][0] | {"sha256": "x"}], "line 3, clips, entry 1: sha256 is no SHA-256"),
        ("versions", {"torch": 2}, "line 3, versions: torch is no text"),
    ],
)
def test_what_was_changed_is_refused_by_its_key(key: str, value: Any, said: str) -> None:
    row = MAKING.row() | {key: value}
    if value is ...:
        del row[key]
    with pytest.raises(SessionError) as caught:
        read_making(Fields(row, "line 3", error=SessionError), model="demo", revision=None)
    assert str(caught.value) == said


def test_a_plan_and_a_checkpoint_say_what_is_loaded(tmp_path: Path) -> None:
    checkpoint = describe(Source(model="demo", folder=demo.CHECKPOINT))
    plain = Loaded.of(EXACT, checkpoint)
    assert (plain.device, plain.precision, plain.dtype, plain.quantisation, plain.adapter) == (
        *("cpu", "fp32", "float32"),
        None,
        None,
    )
    assert [name for name, _ in plain.versions] == ["vllava", "transformers", "torch", "av"]
    adapter = Adapter(name="me/lora", folder=tmp_path, revision="abc", sha256=SHA)
    quantised = replace(EXACT, dtype="bfloat16", quantisation="4bit")
    found = Loaded.of(quantised, replace(checkpoint, adapter=adapter))
    assert (found.precision, found.quantisation) == ("4bit", "bitsandbytes nf4, compute bf16")
    assert found.adapter == ("me/lora", "abc", SHA)
    eight = Loaded.of(replace(quantised, dtype="float16", quantisation="8bit"), checkpoint)
    assert eight.quantisation == "bitsandbytes int8, compute fp16"


@pytest.mark.parametrize(
    ("dtype", "quantisation", "precision"),
    [
        ("float16", None, "fp16"),
        ("bfloat16", None, "bf16"),
        ("float32", None, "fp32"),
        ("float16", "4bit", "4bit"),
        ("bfloat16", "8bit", "8bit"),
    ],
)
def test_a_precision_is_spelled_as_the_option_spells_it(
    dtype: Dtype, quantisation: Quantisation | None, precision: Precision
) -> None:
    assert precision_of(replace(EXACT, dtype=dtype, quantisation=quantisation)) == precision


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


def test_releases_that_differ_are_told() -> None:
    here = Loaded.of(EXACT, describe(Source(model="demo", folder=demo.CHECKPOINT)))
    assert others(here) == ()
    then = replace(LOADED, versions=(*here.versions[:1], ("torch", "1.0"), ("no-such-library", "0.49")))
    assert others(then) == (
        f"torch was 1.0, and is {dict(here.versions)['torch']} here",
        "no-such-library was 0.49, and is missing here",
    )
