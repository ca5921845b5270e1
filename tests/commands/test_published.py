"""Each command that asks, as a process, on the published checkpoint's layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.commands.shell import Shell
from tests.published import TOKENS_PER_VIDEO
from vllava_cli import demo

CLIPS = [path for path in demo.clips() if path.suffix == ".mp4"][:2]
Run = Callable[..., Shell]


def test_ask_answers(published: Path, shell: Run) -> None:
    done = shell("ask", "--model", published, CLIPS[0], "Why?", "--json", "--max-new-tokens", "8", "--no-guard")
    assert (done.code, done.err) == (0, "")
    row = json.loads(done.out)
    assert row["stop_reason"] == "length"
    assert row["tokens"]["prompt"] > TOKENS_PER_VIDEO


def test_a_chat_takes_a_second_turn(published: Path, shell: Run) -> None:
    words = ("chat", "--model", published, CLIPS[0], "--json", "--max-new-tokens", "8", "--no-guard")
    done = shell(*words, stdin=b"Why?\nAnd then?\n")
    assert done.code == 0
    first, second = map(json.loads, done.out.splitlines())
    assert second["tokens"]["reused"] >= first["tokens"]["prompt"]


def test_a_batch_has_a_row_for_each_clip(published: Path, shell: Run) -> None:
    done = shell("batch", "--model", published, "-Q", "Why?", *CLIPS, "--max-new-tokens", "8", "--no-guard", "--quiet")
    assert (done.code, done.err) == (0, "")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [(row["error"], row["stop_reason"]) for row in rows] == [(None, "length")] * 2


def test_the_doctor_finds_it_whole(published: Path, shell: Run) -> None:
    done = shell("doctor", "--model", published)
    assert done.code == 0
    assert "With 1.6 million parameters" in done.out
    assert f"complete, 3.1 MB, in {published}" in done.out


def test_bench_finds_generates_tokens(published: Path, shell: Run) -> None:
    done = shell("bench", "--model", published, CLIPS[0], "--check", "--repeat", "1", "--json")
    assert done.code == 0, done.err
    (trial,) = json.loads(done.out)["trials"]
    assert (trial["agreement"]["equal_tokens"], trial["agreement"]["tokens"]) == (64, 64)
