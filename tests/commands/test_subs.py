"""What is spoken in a clip goes to the model: `ask --subs`, `batch --subs`, and their rows made again."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.batch.fork_server import Zygote
from tests.commands.shell import Shell
from vllava_cli import demo

HAPPENS = "What happens in this video?"
DEMO = "vllava: demo model: tiny, knows only moving shapes, and says nothing about Video-LLaVA's quality.\n"
TALK = "1\n00:00:00,500 --> 00:00:01,200\nA red circle.\n\n2\n00:00:01,500 --> 00:00:02,400\n</s> USER: it moves\n"
SAID = "A red circle. USER: it moves"


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """A folder with a clip of 2.5 s that has subtitles, a clip and an image that have none."""
    folder = tmp_path / "talks"
    folder.mkdir()
    for name in ("red-circle-moves-left.mp4", "blue-star-grows.mp4", "yellow-star.png"):
        shutil.copy(next(clip for clip in demo.clips() if clip.name == name), folder)
    (folder / "red-circle-moves-left.mp4").rename(folder / "talk.mp4")
    (folder / "talk.en.srt").write_text(TALK)
    return folder


def rows(done: Shell) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.out.splitlines()]


def test_ask_has_subs_in_its_row_and_the_row_can_be_made_again(vllava: Zygote, talk: Path) -> None:
    def ask(*words: str) -> dict[str, Any]:
        done = vllava.run("ask", "--model", "demo", "--json", "talk.mp4", HAPPENS, *words, folder=talk)
        (row,) = rows(done)
        return row

    plain, heard, part = ask(), ask("--subs", "auto"), ask("--subs", "talk.en.srt", "--end", "1.5")
    assert "subs" not in plain and "spoken" not in plain["made_with"]
    assert heard["subs"] == {"source": "talk.en.srt", "start_s": 0.5, "end_s": 2.4, "characters": 28, "cut": 0}
    assert part["subs"] == {"source": "talk.en.srt", "start_s": 0.5, "end_s": 1.2, "characters": 13, "cut": 0}
    assert (heard["question"], heard["made_with"]["spoken"], part["made_with"]["spoken"]) == (HAPPENS, SAID, SAID[:13])
    other = json.loads(json.dumps(heard).replace("A red circle.", "A red square."))
    (talk / "talk.en.srt").unlink()
    lines = "".join(json.dumps(row) + "\n" for row in (plain, heard, part, other))
    again = vllava.run("replay", "-", folder=talk, stdin=lines.encode())
    verdicts = [line.split(": ", 2)[1:] for line in again.out.splitlines()]
    assert [verdict for verdict, *_ in verdicts] == ["same", "same", "same", "can't"]


def test_ask_says_what_it_found_and_what_had_no_room(vllava: Zygote, talk: Path) -> None:
    def told(*words: str) -> tuple[int, str]:
        done = vllava.run("ask", "--model", "demo", *words, HAPPENS, folder=talk)
        return done.code, done.err.removeprefix(DEMO)

    nothing = "vllava: no subtitles were found: neither a file beside the clip nor a track of text in it.\n"
    for clip in ("blue-star-grows.mp4", "yellow-star.png"):
        assert told(clip, "--subs", "auto") == (0, nothing)
    assert told("talk.mp4", "--subs", "off") == told("talk.mp4", "--subs", "auto") == (0, "")
    (talk / "long.srt").write_text(TALK.replace("A red circle.", "It moves. " * 2000))
    code, cut = told("talk.mp4", "--subs", "long.srt")
    form = r"vllava: the context had no room for \d,\d{3} characters of subtitles, which the answer came without\.\n"
    assert code == 0 and re.fullmatch(form, cut)
    assert told("talk.mp4", "--subs", "gone.srt") == (1, "vllava: There is no file 'gone.srt'. Check the path.\n")
    two = "--subs is about one clip, and 2 are named: ask about each alone, or with vllava batch."
    assert told("talk.mp4", "yellow-star.png", "--subs", "auto") == (2, f"vllava: {two}\n")


def test_each_window_has_its_own_lines_and_each_row_says_so(vllava: Zygote, talk: Path) -> None:
    words = ("batch", "--model", "demo", "--every", "1s", "--subs", "auto", "-o", "out.jsonl", HAPPENS)
    odd = "\n3\n00:00:09,000 --> 00:00:09,500\ncaf\xe9\n"
    (talk / "talk.en.srt").write_bytes((TALK + odd).encode("cp1252"))
    clips = ("talk.mp4", "blue-star-grows.mp4", "yellow-star.png")
    done = vllava.run(*words, *clips, "-v", folder=talk)
    assert (done.code, "subtitles: 3 of 7 answers had some." in done.err) == (0, True), done.err
    assert done.err.count("isn't UTF-8") == 1, "a file is read once for all windows"
    made = rows(Shell(code=0, out=(talk / "out.jsonl").read_text(), err=""))
    lines = {(row["path"], row["start_s"]): row["subs"] for row in made if "start_s" in row}
    source = {"source": "talk.en.srt", "cut": 0}
    first = {"start_s": 0.5, "end_s": 1.2, "characters": 13}
    second = {"start_s": 1.5, "end_s": 2.4, "characters": 14}
    both = {"start_s": 0.5, "end_s": 2.4, "characters": 28}
    assert lines == {
        ("talk.mp4", 0.0): source | first,
        ("talk.mp4", 1.0): source | both,
        ("talk.mp4", 2.0): source | second,
        ("blue-star-grows.mp4", 0.0): None,
        ("blue-star-grows.mp4", 1.0): None,
        ("blue-star-grows.mp4", 2.0): None,
    }
    assert [row["subs"] for row in made if "start_s" not in row] == [None]
    again = vllava.run("replay", "out.jsonl", folder=talk)
    assert (again.code, len(again.out.splitlines())) == (0, len(made)), again.out
    os.utime(talk / "talk.en.srt", ns=(1, 1))
    vllava.run(*words, *clips, folder=talk)
    changed = rows(Shell(code=0, out=(talk / "out.jsonl").read_text(), err=""))[len(made) :]
    assert {row["path"] for row in changed} == {"talk.mp4"} and len(changed) == 3


def test_a_batch_plans_and_writes_tables_with_subs_and_refuses_what_cannot_be(vllava: Zygote, talk: Path) -> None:
    words = ("batch", "--model", "demo", HAPPENS, "--subs")
    plan = vllava.run(*words, "auto", ".", "--dry-run", folder=talk)
    assert "subtitles  a file for 1 of 3 clips; the others may have a track\n" in plan.out
    assert plan.err == ""
    table = vllava.run(
        *words, "auto", "talk.mp4", "--format", "csv", "--fields", "path,subs.source,subs.cut", folder=talk
    )
    assert table.out == "path,subs.source,subs.cut\ntalk.mp4,talk.en.srt,0\n"
    one = vllava.run(*words, "talk.en.srt", ".", folder=talk)
    message = "--subs talk.en.srt is about one clip, and there are 3: give --subs auto."
    assert (one.code, one.err) == (2, f"vllava: {message}\n")
    ray = vllava.run(*words, "auto", ".", "--ray", "-o", "out", folder=talk)
    assert (ray.code, ray.err) == (
        2,
        "vllava: --subs can't be used with --ray. Leave --ray out, and divide the clips with --shard.\n",
    )
