"""What an earlier build wrote is read and continued by this one, and this one writes the same.

The files in `before/` were written on 2026-11-29 by version 0.1.0, in a folder of the shipped clips and a broken file,
all with the same time of change. Only the name of that folder was replaced in them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.batch.fork_server import Zygote
from vllava_cli import demo

BEFORE = Path(__file__).parent / "before"
CHANGED_NS = 1_767_225_600_000_000_000
HAPPENS, COLOUR = "What happens in this video?", "What colour is it?"
DEMO = ("--model", "demo", "--quiet", "--seed", "7")
BATCHES: dict[str, tuple[str, ...]] = {
    "rows.jsonl": ("-Q", HAPPENS, "-Q", COLOUR, "--hash"),
    "choices.jsonl": ("-Q", COLOUR, "--choices", "red,blue,green,yellow", "--calibrate"),
    "table.csv": ("-Q", HAPPENS, "--fields", "path,question,answer"),
    "part-1.jsonl": ("-Q", HAPPENS, "--shard", "1/2"),
    "part-2.jsonl": ("-Q", HAPPENS, "--shard", "2/2"),
}
DIFFERS = {"seconds", "timings_s", "peak_bytes", "versions", "session", "stats", "ended_at", "started_at", "vllava"}
"""Names of what no two runs, machines or versions have in common."""


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for clip in demo.clips():
        shutil.copy(clip, folder)
    (folder / "broken.mp4").write_bytes(b"not a video")
    for path in folder.iterdir():
        os.utime(path, ns=(CHANGED_NS, CHANGED_NS))
    (folder / "out").mkdir()
    return folder


def brought(clips: Path, *names: str) -> list[Path]:
    """Copies of files of before, with the folder that they name here."""
    for name in names:
        text = (BEFORE / name).read_text().replace("/clips/", f"{clips}/")
        (clips / "out" / name).write_text(text)
    return [clips / "out" / name for name in names]


def same(content: Any, as_float: Callable[[float], Any]) -> Any:
    """JSON without what differs by nature."""
    if isinstance(content, dict):
        return {name: same(each, as_float) for name, each in content.items() if name not in DIFFERS}
    if isinstance(content, list):
        return [same(each, as_float) for each in content]
    return as_float(content) if isinstance(content, float) else content


def rows(path: Path, as_float: Callable[[float], Any] = float) -> list[Any]:
    """In the order of their ids, where they have any: a batch answers in the order that suits it."""
    found = [same(json.loads(line), as_float) for line in path.read_text().splitlines()]
    return sorted(found, key=lambda row: row.get("id", ""))


def expected(path: Path) -> list[Any]:
    """Rows of before. A probability may differ a little from one processor to another."""
    return rows(path, lambda value: pytest.approx(value, abs=1e-4))


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_of_before_is_done_and_stays_as_it_is(name: str, clips: Path, vllava: Zygote) -> None:
    beside = [path.name for path in BEFORE.glob(f"{name}*")]
    files = brought(clips, *beside)
    contents = [path.read_bytes() for path in files]
    done = vllava.run("batch", *DEMO, *BATCHES[name], ".", "-o", f"out/{name}", folder=clips)
    failed = 2 if name == "rows.jsonl" else 1
    jobs = "jobs" if failed > 1 else "job"
    total = {"rows.jsonl": 18, "part-1.jsonl": 7, "part-2.jsonl": 2}.get(name, 9)
    again = "tries them again" if failed > 1 else "tries it again"
    told = f"vllava: {failed} {jobs} of {total} failed: {failed} in an earlier run. --retry-errors {again}.\n"
    assert (done.code, done.err) == ((0, "") if name == "part-2.jsonl" else (1, told))
    assert [path.read_bytes() for path in files] == contents


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_makes_the_rows_of_before(name: str, clips: Path, vllava: Zygote) -> None:
    vllava.run("batch", *DEMO, *BATCHES[name], ".", "-o", f"out/{name}", folder=clips)
    made, before = clips / "out" / name, BEFORE / name
    if name.endswith(".csv"):
        assert made.read_bytes() == before.read_bytes()
        made, before = made.with_name(f"{name}.journal"), before.with_name(f"{name}.journal")
    assert rows(made) == expected(before)
    if name.startswith("part"):
        assert (clips / "out" / f"{name}.jobs").read_bytes() == (BEFORE / f"{name}.jobs").read_bytes()


def test_shards_of_before_are_merged_as_before(clips: Path, vllava: Zygote) -> None:
    brought(clips, *(path.name for path in BEFORE.glob("part-*")))
    done = vllava.run("merge", "out/new.jsonl", "out/part-1.jsonl", "out/part-2.jsonl", folder=clips)
    assert done.code == 0
    assert (clips / "out/new.jsonl").read_bytes() == (BEFORE / "merged.jsonl").read_bytes()


def test_ask_answers_as_before(clips: Path, vllava: Zygote) -> None:
    one = vllava.run("ask", *DEMO, "--json", "red-circle-moves-left.mp4", HAPPENS, folder=clips)
    two = vllava.run("ask", *DEMO, "--json", "two-shapes.png", "blue-star-grows.mp4", "What is shown?", folder=clips)
    (clips / "asked.jsonl").write_text(one.out + two.out)
    assert rows(clips / "asked.jsonl") == expected(BEFORE / "ask.jsonl")


def test_a_chat_is_kept_and_answers_as_before(clips: Path, vllava: Zygote) -> None:
    lines = "\n".join((HAPPENS, "And its colour?", "/add two-shapes.png", COLOUR)).encode()
    words = ("chat", *DEMO, "--json", "--session", "out/session.jsonl", "red-circle-moves-left.mp4")
    done = vllava.run(*words, folder=clips, stdin=lines)
    (clips / "chat.jsonl").write_text(done.out)
    assert rows(clips / "chat.jsonl") == expected(BEFORE / "chat.jsonl")
    shutil.move(clips / "out/session.jsonl", clips / "out/new.jsonl")
    (before,) = brought(clips, "session.jsonl")
    assert rows(clips / "out/new.jsonl") == expected(before)


def test_a_session_of_before_goes_on(clips: Path, vllava: Zygote) -> None:
    (session,) = brought(clips, "session.jsonl")
    before = session.read_bytes()
    words = ("chat", "--seed", "7", "--json", "--session", session)
    done = vllava.run(*words, folder=clips, stdin=b"And its colour?\n")
    row = json.loads(done.out)
    assert (done.code, row["turn"], row["answer"]) == (0, 4, "Red.")
    assert row["tokens"]["prompt"] > 192 and session.read_bytes().startswith(before)


@pytest.mark.parametrize(("name", "end"), [("ask.jsonl", "2 same."), ("choices.jsonl", "8 same, 1 that")])
def test_answers_of_before_can_be_made_again(name: str, end: str, clips: Path, vllava: Zygote) -> None:
    (file,) = brought(clips, name)
    done = vllava.run("replay", file, folder=clips)
    assert f" answers: {end}" in done.err
