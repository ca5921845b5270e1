"""`vllava ask --every`: what is shown when, on a reel of which it is known; the demo model answers."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import struct
import termios
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.batch.conftest import until, until_rows
from tests.batch.fork_server import Zygote
from tests.batch.parts import ABOUT, Reading, Terminal, answer, job
from tests.batch.reel import write_reel
from tests.commands.shell import Shell
from tests.engine.engines import ask as answer_of
from tests.engine.engines import engine_of, tokens_of
from vllava_cli import demo
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.batch.cue_outputs import OrderedOutput
from vllava_cli.batch.request import Destination
from vllava_cli.batch.rows import JobError, Result, row_of
from vllava_cli.batch.summary import fitted
from vllava_cli.cues.cue import Cue
from vllava_cli.demo import CHECKPOINT
from vllava_cli.nouns import Window
from vllava_cli.screen import Screen

ASK = ("ask", "--model", "demo", "-q")
HAPPENS = "What happens in this video?"
EVERY = (HAPPENS, "--every", "2s", "--end", "11.5")
ENDINGS = ".srt, .vtt, .ffmeta, .csv, .tsv, .jsonl, .txt"
JSON = "--json prints rows on stdout. Leave it out, or leave out -o and --format."
MANY = (HAPPENS, "--every", "0.1", "--end", "11.5", "--no-merge")
"""115 windows, a line each."""
TEXTS = ("A blue star grows.", "A red circle moves left.", "A orange star moves up-right.")
LINES = "00:00:00-00:00:02  {}\n00:00:02-00:00:08  {}\n00:00:08-00:00:11.500  {}\n".format(*TEXTS)
SRT = (
    "1\n00:00:00,000 --> 00:00:02,000\n{}\n\n2\n00:00:02,000 --> 00:00:08,000\n{}\n\n"
    "3\n00:00:08,000 --> 00:00:11,500\n{}\n\n"
).format(*TEXTS)
VTT = (
    "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n{}\n\n00:00:02.000 --> 00:00:08.000\n{}\n\n"
    "00:00:08.000 --> 00:00:11.500\n{}\n\n"
).format(*TEXTS)
LATE = f"00:00:06-00:00:08  {TEXTS[1]}\n00:00:08-00:00:09  {TEXTS[2]}\n"
STILL = next(clip for clip in demo.clips() if clip.suffix == ".png")
FFMETA = (
    ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=2000\ntitle={}\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=2000\n"
    "END=8000\ntitle={}\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=8000\nEND=11500\ntitle={}\n"
).format(*TEXTS)


@pytest.fixture(scope="session")
def made_reel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 s of a variable rate, whose first frame is at 5 s: a star until 2, a circle twice until 8, another star."""
    red = "red-circle-moves-left"
    parts = (("blue-star-grows", 2), (red, 4), (red, 2), ("orange-star-moves-up-right", 4))
    return write_reel(tmp_path_factory.mktemp("reel") / "reel.mkv", *parts, start_s=5)


@pytest.fixture
def reel(made_reel: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return Path(shutil.copy(made_reel, folder))


@pytest.fixture
def ask(vllava: Zygote, reel: Path) -> Callable[..., Shell]:
    return lambda *words: vllava.run(*ASK, reel, *words, folder=reel.parent)


@pytest.mark.parametrize(
    ("words", "out"),
    [
        ((), LINES),
        (("-f", "srt"), SRT),
        (("--format", "vtt"), VTT),
        (("-f", "ffmeta"), FFMETA),
        (
            ("--no-merge", "--start", "4s", "--end", "8s"),
            f"00:00:04-00:00:06  {TEXTS[1]}\n00:00:06-00:00:08  {TEXTS[1]}\n",
        ),
        (("--start", "6", "--end", "9", "--choices", ",".join(TEXTS[1:])), LATE),
        (
            ("--dry-run", "--summary", "Why?"),
            "jobs      6: 6 to answer\nclips     1 video\nduration  0:11\nwindows   6\n",
        ),
    ],
    ids=["lines", "srt", "vtt", "ffmeta", "apart", "choices", "dry"],
)
def test_stdout_is_whole_and_in_order(words: tuple[str, ...], out: str, ask: Callable[..., Shell]) -> None:
    assert ask(*EVERY, *words) == Shell(code=0, out=out, err="")


def test_rows_are_in_order_and_a_summary_is_about_the_texts_alone(
    ask: Callable[..., Shell], vllava: Zygote, reel: Path
) -> None:
    texts = "These texts say what was seen in the parts of a video, in the order of time:\n" + (
        f"00:00:00-00:00:02: {TEXTS[0]}\n00:00:02-00:00:08: {TEXTS[1]}\n00:00:08-00:00:11.500: {TEXTS[2]}\nWhy?"
    )
    summary = answer_of(engine_of(CHECKPOINT), Conversation(), texts, Sampling()).text
    told = f"\nSummary (of the texts above, not of the video): {summary}\n"
    assert ask(*EVERY, "--summary", "Why?").out == LINES + told
    *rows, last = map(json.loads, ask(*EVERY, "--json", "--summary", "Why?").out.splitlines())
    found = [(row["start_s"], row["end_s"], row["answer"], row["stop_reason"]) for row in rows]
    first, second, third = TEXTS
    assert found == [
        *((0, 2, first, "end"), (2, 4, second, "end"), (4, 6, second, "end"), (6, 8, second, "end")),
        *((8, 10, third, "end"), (10, 11.5, third, "end")),
    ]
    assert rows[1]["frame_times_s"] == [2.0, 2.2, 2.467, 2.733, 3.0, 3.2, 3.467, 3.733]
    assert ask(*EVERY, "-o", "out.jsonl", "--summary", "Why?").out == told[1:].replace("texts above", "texts")
    assert [json.loads(line)["answer"] for line in reel.with_name("out.jsonl").open()] == [
        *(row["answer"] for row in rows),
        summary,
    ]
    assert last.pop("seconds") >= 0
    counts = {"texts": 3, "left_out": 0, "model": "demo", "revision": None}
    assert last == {"of": "texts", "question": "Why?", "answer": summary, "stop_reason": "end"} | counts
    assert vllava.run("batch", *ASK[1:], HAPPENS, reel, *EVERY[1:], "-o", "all.srt", folder=reel.parent).code == 0
    done_before = ask(*EVERY, "-o", "all.srt", "--summary", "Why?")
    assert done_before == Shell(code=0, out=told[1:].replace("texts above", "texts"), err="")


def test_a_killed_run_goes_on_and_a_finished_file_is_left_alone(
    ask: Callable[..., Shell], vllava: Zygote, reel: Path
) -> None:
    out, journal = reel.with_name("out.srt"), reel.with_name("out.srt.journal")
    words = (*MANY, "-o", "out.srt")
    run = vllava.start(*ASK, reel, *words, folder=reel.parent)
    until_rows(journal, 4)
    run.kill()
    run.wait()
    before = journal.read_bytes().splitlines()[:4]
    assert not out.exists()
    shutil.copy(journal, reel.with_name("other.srt.journal"))
    assert ask(*EVERY, "-o", "other.srt").code == 0
    assert reel.with_name("other.srt").read_text() == SRT, "rows of other windows are in it"
    run = vllava.start(*ASK, reel, *words, folder=reel.parent)
    until_rows(journal, 40)
    run.interrupt()
    stopped = run.wait()
    left = 115 - len(journal.read_bytes().splitlines())
    assert (stopped.code, stopped.out) == (130, "")
    assert stopped.err == f"vllava: Interrupted with {left} windows left. The same command goes on with them.\n"
    assert journal.read_bytes().splitlines()[:4] == before and out.read_text().startswith("1\n00:00:00,000 --> ")
    done = ask(*words, "--summary", "Why?")
    assert (done.code, done.err) == (0, "") and done.out.startswith("Summary (of the texts, not of the video): ")
    assert not journal.exists()
    whole = ask(*MANY, "-f", "srt").out
    assert out.read_text() == whole and whole.count("-->") == 115
    refused = "'out.srt' is already there. Give --overwrite to replace it, or name another file."
    assert ask(*EVERY, "-o", "out.srt") == Shell.failed(refused)
    assert ask(*EVERY, "-o", "out.srt", "--overwrite") == Shell(code=0, out="", err="")
    assert out.read_text() == SRT


def test_ctrl_c_shows_what_was_answered(vllava: Zygote, reel: Path) -> None:
    run = vllava.start(*ASK, reel, *MANY, "--json", folder=reel.parent)
    until(lambda: (reel.parent.parent / "work.out").read_bytes().count(b"\n") > 2, "three rows")
    run.interrupt()
    done = run.wait()
    starts = [json.loads(line)["start_s"] for line in done.out.splitlines()]
    assert (done.code, done.err) == (130, f"vllava: Interrupted with {115 - len(starts)} windows left.\n")
    assert 2 < len(starts) < 115 and starts == sorted(starts)


def test_a_closed_pipe_ends_it_quietly(vllava: Zygote, reel: Path) -> None:
    pipe = reel.parent.parent / "pipe"
    os.mkfifo(pipe)
    run = vllava.start(*ASK, reel, *MANY, folder=reel.parent, stdout=str(pipe))
    with pipe.open() as reader:
        assert reader.readline().startswith("00:00:00-")
    assert os.waitstatus_to_exitcode(vllava.wait(run.pid)) == 141
    assert run.told == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("a.mp4", "b.mp4"),
            "Windows are those of one clip, and 2 are named: ask about one, or use vllava batch --every.",
        ),
        (
            ("a.mp4", "--at", "1"),
            "--at can't be combined with --every, whose windows have frames of their own. Leave one out.",
        ),
        (("-",), "A clip on stdin can't be divided into windows: save it to a file, and name that."),
        ((".",), "'.' is a folder. Name a video, or use vllava batch --every for those in it."),
        (
            ("a.mp4", "-o", "x.doc"),
            f"'x.doc' has no ending of {ENDINGS}: take one, or give --format.",
        ),
        (
            ("a.mp4", "-o", "x.srt", "--json"),
            JSON,
        ),
        (("a.mp4", "--json", "-f", "srt"), JSON),
        (("a.mp4", "--summary", " "), "The question of --summary is empty: give it a text, or leave it out."),
        (
            ("a.mp4", "--summary", "Why?", "-f", "vtt"),
            "--summary has no place in vtt: name a file with -o, and stdout gets the summary.",
        ),
        (("a.mp4", "--overwrite"), "--overwrite needs a file: name it with -o FILE."),
        ((str(STILL),), f"'{STILL}' is an image, which has no time. Leave the windows out."),
    ],
)
def test_what_has_no_windows_or_no_place_is_refused(
    words: tuple[str, ...], said: str, vllava: Zygote, tmp_path: Path
) -> None:
    assert vllava.run(*ASK, *words, HAPPENS, "--every", "2s", folder=tmp_path) == Shell.failed(said, code=2)


@pytest.mark.parametrize(
    "words", [("-o", "x.srt"), ("-f", "srt"), ("--overwrite",), ("--no-merge",), ("--summary", "Why?"), ("--dry-run",)]
)
def test_options_of_windows_need_windows(words: tuple[str, ...], vllava: Zygote, tmp_path: Path) -> None:
    name = {"-o": "--output", "-f": "--format"}.get(words[0], words[0])
    said = f"{name} is about the windows of a clip: add --every 30s, or leave it out."
    assert vllava.run(*ASK, STILL, HAPPENS, *words, folder=tmp_path) == Shell.failed(said, code=2)


def test_a_clip_that_cannot_be_read_is_one_sentence(vllava: Zygote, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    said = "'broken.mp4' is neither a video nor an image that can be read. Check the file or convert it to mp4."
    assert vllava.run(*ASK, "broken.mp4", *EVERY, folder=tmp_path) == Shell.failed(said)


def test_windows_that_end_out_of_order_are_shown_in_order_and_broken_ones_told() -> None:
    jobs = [replace(job(id=f"{place:032x}"), window=Window(start_s=place, end_s=place + 1.0)) for place in range(4)]
    broken = Result(job=jobs[2], error=JobError(kind="unreadable", message="It is damaged."))
    texts = {0: "a", 1: "[31mred\x1b[0m\nlines", 3: "A"}
    rows = {place: row_of(Result(job=jobs[place], answer=answer(text)), ABOUT) for place, text in texts.items()}
    reading, shown = Reading(out=Terminal()), []
    out = OrderedOutput(Destination(format="lines", is_in_order=True), ABOUT, reading.screen())
    out.prepare(jobs, jobs, is_dry=False)
    for row in (rows[3], rows[0], rows[1], row_of(broken, ABOUT)):
        out.put(row)
        shown.append(reading.out.getvalue())
    out.finish(jobs)
    first, second = "00:00:00-00:00:01  a\n", "00:00:01-00:00:02  [31mred[0m lines\n"
    assert shown == ["", "", first, first + second]
    assert reading.said == (first + second + "00:00:03-00:00:04  A\n", "vllava: 00:00:02-00:00:03: It is damaged.\n")


def test_a_terminal_of_60_columns_has_each_text_in_a_column() -> None:
    ends = pty.openpty()
    fcntl.ioctl(ends[1], termios.TIOCSWINSZ, struct.pack("4H", 24, 60, 0, 0))
    with os.fdopen(ends[1], "w") as terminal:
        out = OrderedOutput(Destination(format="lines", is_in_order=True), ABOUT, Screen(out=terminal))
        about = replace(job(), window=Window(start_s=30, end_s=60.5))
        out.prepare([about], [about], is_dry=False)
        out.put(
            row_of(
                Result(job=about, answer=answer("A red circle\x1b[2J moves to the left, and then it stands still.")),
                ABOUT,
            )
        )
        out.finish([about])
    shown = os.read(ends[0], 4096).decode().replace("\r\n", "\n")
    os.close(ends[0])
    assert shown == (
        "00:00:30-00:01:00.500  A red circle[2J moves to the left,\n                       and then it stands still.\n"
    )


@pytest.mark.parametrize(("context", "count"), [(4096, 9), (800, 9), (500, 9), (330, 9), (500, 1), (10, 9)])
def test_a_summary_has_as_many_texts_as_leave_room_for_the_answer(context: int, count: int) -> None:
    tokens = replace(tokens_of(CHECKPOINT), context_tokens=context)
    cues = [Cue(start_s=place, end_s=place + 1, text=f"Text {place}.") for place in range(count)]
    asked, left_out = fitted("Why?", cues, tokens, Sampling(max_new_tokens=100))
    first, *lines, last = asked.splitlines()
    places = [int(line.split("Text ")[1].removesuffix(".")) for line in lines]
    assert last == "Why?" and places == sorted(set(places)) and places[0] == 0 and len(places) == count - left_out
    room = context - 100

    def length(number: int) -> int:
        some = [f"00:00:0{place}-00:00:0{place + 1}: Text {place}." for place in range(number)]
        return len(
            tokens.tokenizer.encode("USER: " + "\n".join([first, *some, "Why?"]) + " ASSISTANT:", has_start=True)
        )

    assert len(places) == max(1, max((number for number in range(count + 1) if length(number) <= room), default=1))
