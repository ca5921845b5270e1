"""A name that the system refuses, here one that is too long, is one sentence wherever a file or a folder is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.batch.fork_server import Zygote
from vllava_cli import demo

CLIP = str(demo.CLIPS / "red-circle-moves-left.mp4")
LONG = "x" * 300
DEMO = ("--model", "demo")
BATCH = ("batch", "What?", CLIP, *DEMO)


@pytest.mark.parametrize(
    "words",
    [
        ("ask", LONG + ".mp4", "What?", *DEMO),
        ("ask", CLIP, "What?", "--model", LONG),
        ("ask", CLIP, "What?", "--model", "./" + LONG),
        ("ask", CLIP, "What?", "--model", "~nobody-of-that-name/model"),
        ("probe", LONG),
        ("frames", LONG),
        ("frames", CLIP, "-o", LONG + ".png"),
        ("frames", CLIP, "-o", LONG + "/"),
        ("frames", CLIP, CLIP, "-o", LONG),
        ("frames", CLIP, "--each", "-o", LONG),
        ("frames", CLIP, "--model", LONG),
        ("bench", LONG + ".mp4", "--random-weights", "tiny"),
        ("bench", "--save", LONG),
        ("bench", "--plot", LONG + ".png"),
        ("bench", "--compare", LONG),
        ("bench", "--model", LONG),
        (*BATCH, "-o", LONG),
        (*BATCH, "-o", LONG + ".csv"),
        (*BATCH, "-o", "x" * 250 + ".csv"),
        (*BATCH, "-o", LONG, "--dry-run"),
        (*BATCH, "-o", LONG, "--shard", "1/2"),
        ("batch", "--jobs", LONG + ".jsonl", *DEMO),
        ("batch", "--jobs", "jobs.jsonl", "--videos", LONG, *DEMO),
        ("merge", LONG + ".jsonl", "rows.jsonl"),
        ("merge", "all.jsonl", LONG),
        ("doctor", "--model", "./" + LONG),
        ("chat", LONG + ".mp4", *DEMO),
    ],
    ids=lambda words: " ".join(word.replace(LONG, "LONG").replace(CLIP, "CLIP") for word in words),
)
def test_it_is_a_fault_and_no_bug(words: tuple[str, ...], vllava: Zygote, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "jobs.jsonl").write_text('{"path": "a.mp4", "question": "What?"}\n')
    (tmp_path / "work" / "rows.jsonl").touch()
    done = vllava.run(*words, folder=tmp_path / "work")
    assert done.code in (1, 2), done.err
    assert "Traceback" not in done.err and "bug in vllava" not in done.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        *((f"/{line} {LONG}", ()) for line in ("open", "add", "save", "load", "export", "frames")),
        ("What?", ("--session", LONG)),
    ],
    ids=["open", "add", "save", "load", "export", "frames", "--session"],
)
def test_in_a_chat_as_well(line: str, words: tuple[str, ...], vllava: Zygote, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    done = vllava.run("chat", CLIP, *DEMO, *words, folder=tmp_path / "work", stdin=line.encode() + b"\n")
    assert (done.code, "ame too long" in done.err) == (0 if words else 1, True), (
        "it goes on where only its file can't be"
    )
    assert "Traceback" not in done.err and "bug in vllava" not in done.err
