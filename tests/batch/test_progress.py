"""What a run tells on stderr: where it stands, what can't be read, what there is to do, and what became of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.batch.parts import Reading, Terminal, batch_of, clip_jobs
from vllava_cli import demo
from vllava_cli.answers import Sampling
from vllava_cli.batch import progress
from vllava_cli.batch.executors import Counters
from vllava_cli.batch.preflight import Headers
from vllava_cli.batch.progress import Progress
from vllava_cli.batch.request import Destination, Inputs
from vllava_cli.batch.rows import ErrorKind, JobError
from vllava_cli.batch.run import run
from vllava_cli.nouns import Wishes


def tally(
    *,
    total: int = 10,
    skipped: int = 0,
    skipped_errors: int = 0,
    answered: int = 0,
    errors: dict[ErrorKind, int] | None = None,
    ready_s: float | None = None,
) -> Progress:
    made = Progress(total=total, skipped=skipped, skipped_errors=skipped_errors, ready_s=ready_s)
    for _ in range(answered):
        made.note(None)
    for kind, count in (errors or {}).items():
        for _ in range(count):
            made.note(kind)
    return made


LOADING, READING = "loading the model", "reading the first clips; Ctrl-C stops"


@pytest.mark.parametrize(
    ("counts", "counters", "parts"),
    [
        (tally(), Counters(), ["0/10", LOADING]),
        (tally(total=12345, skipped=1234), Counters(), ["1,234/12,345", LOADING]),
        (tally(answered=2, ready_s=90.0), Counters(clips=5), ["2/10", "2.0 s/clip", "0:40 left"]),
        (tally(answered=2, ready_s=99.0), Counters(clips=5), ["2/10", "5.0 clips/s", "0:04 left"]),
        (tally(skipped=6, answered=2, ready_s=90.0), Counters(clips=5), ["8/10", "2.0 s/clip", "0:10 left"]),
        (tally(answered=10, ready_s=90.0), Counters(clips=20), ["10/10", "2.0 clips/s"]),
        (tally(errors={"missing": 1}), Counters(), ["1/10", LOADING, "1 error"]),
        (tally(skipped=3, skipped_errors=2), Counters(), ["3/10", LOADING, "2 errors"]),
        (tally(), Counters(used_bytes=3 << 29), ["0/10", LOADING, "GPU 1.5 GiB"]),
        (tally(ready_s=100.0), Counters(clips=1), ["0/10", READING]),
    ],
)
def test_the_line_of_progress_has_what_is_known(counts: Progress, counters: Counters, parts: list[str]) -> None:
    assert counts.parts(counters, now_s=100.0) == parts


def test_the_time_left_goes_by_answers_and_not_by_headers() -> None:
    counts = tally(total=1000, errors={"unreadable": 500})
    counts.begin()
    assert counts.ready_s is not None
    start_s = counts.ready_s
    counts.note(None)
    assert counts.parts(Counters(), now_s=start_s + 2) == [
        "501/1,000",
        f"{progress.clock(998)} left",
        "500 errors",
    ]
    counts.begin()
    assert (counts.ready_s, counts.at_ready) == (start_s, 500), "a second worker that is ready begins nothing anew"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (27.9, "0:27"), (60, "1:00"), (3723, "1:02:03"), (86400, "1 d 0:00:00"), (200000, "2 d 7:33:20")],
)
def test_a_clock_shows_no_more_than_it_needs(seconds: float, shown: str) -> None:
    assert progress.clock(seconds) == shown


def faults(count: int) -> list[JobError]:
    return [JobError(kind="unreadable", message=f"'{number}.mp4' is torn.") for number in range(count)]


@pytest.mark.parametrize(
    ("bad", "total", "has_rows", "told"),
    [
        (0, 9, True, []),
        (1, 1, True, ["vllava: 1 of 1 clip can't be read:", "  '0.mp4' is torn."]),
        (
            *(1005, 2000, True),
            [
                "vllava: 1,005 of 2,000 clips can't be read:",
                *(f"  '{number}.mp4' is torn." for number in range(5)),
                "  … and 1,000 more; their rows say why.",
            ],
        ),
        (
            *(6, 6, False),
            [
                "vllava: 6 of 6 clips can't be read:",
                *(f"  '{number}.mp4' is torn." for number in range(5)),
                "  … and 1 more.",
            ],
        ),
    ],
)
def test_the_first_clips_that_cannot_be_read_are_named(bad: int, total: int, has_rows: bool, told: list[str]) -> None:
    reading = Reading()
    progress.report_unreadable(faults(bad), total, reading.screen(), has_rows=has_rows)
    assert (reading.said[0], reading.said[1].splitlines()) == ("", told)


GOOD = [clip_jobs(f"{number}.mp4") for number in range(8)]
BAD = [(clip_jobs("bad.mp4"), fault) for fault in faults(2)]


@pytest.mark.parametrize(
    ("counts", "headers", "told"),
    [
        (
            tally(total=1200, skipped=100, errors={"missing": 3}),
            Headers(good=GOOD, bad=BAD, videos=5, images=2, unopened=1, unknown=1, duration_s=75.0),
            "jobs      1,200: 1,097 to answer, 100 done before, 3 about clips that can't be read\n"
            "clips     5 videos, 2 images, 1 that took too long to open, 2 that can't be read\n"
            "duration  1:15, and 1 video of unknown length\n",
        ),
        (
            tally(total=8),
            Headers(good=GOOD, videos=7, images=1),
            "jobs      8: 8 to answer\nclips     7 videos, 1 image\nduration  0:00\n",
        ),
        (tally(total=8), None, "jobs  8: 8 to answer\n"),
        (
            tally(total=8, skipped=8),
            Headers(),
            "jobs      8: 0 to answer, 8 done before\nclips     none\nduration  0:00\n",
        ),
    ],
)
def test_a_plan_says_what_there_is_to_do(counts: Progress, headers: Headers | None, told: str) -> None:
    reading = Reading(is_quiet=True)
    progress.report_plan(counts, headers, reading.screen())
    assert reading.said == (told, "")


FAILED = tally(answered=5, errors={"missing": 1, "unreadable": 3}, skipped=1, skipped_errors=1)
FIVE = "vllava: 5 jobs of 10 failed: 3 unreadable, 1 missing, 1 in an earlier run."
LEFT = "vllava: Interrupted with 2 jobs left."
FAST = "vllava: Stopped by --fail-fast with 4 jobs left. The same command goes on with them."


@pytest.mark.parametrize(
    ("counts", "flags", "told"),
    [
        (tally(answered=10), {}, ["vllava: 10 of 10 jobs answered in 0:00."]),
        (tally(total=1, answered=1), {}, ["vllava: 1 of 1 job answered in 0:00."]),
        (tally(total=0), {}, ["vllava: there are no jobs."]),
        (tally(answered=10), {"is_quiet": True}, []),
        (
            *(FAILED, {}),
            [
                "vllava: 5 of 10 jobs answered in 0:00, 1 done before and skipped.",
                f"{FIVE} --retry-errors tries them again.",
            ],
        ),
        (FAILED, {"is_quiet": True, "can_resume": False}, [FIVE]),
        (
            *(tally(answered=9), {"is_interrupted": True, "is_quiet": True}),
            ["vllava: Interrupted with 1 job left. The same command goes on with it."],
        ),
        (
            *(tally(answered=8), {"is_interrupted": True, "can_resume": False, "is_quiet": True}),
            [f"{LEFT} Without -o FILE nothing is saved, so the run can't be resumed."],
        ),
        (
            *(tally(answered=5, errors={"missing": 1}), {"is_quiet": True}),
            ["vllava: 1 job of 10 failed: 1 missing. --retry-errors tries it again.", FAST],
        ),
    ],
)
def test_a_run_ends_with_one_line_and_what_failed_and_what_is_left(
    counts: Progress, flags: dict[str, bool], told: list[str]
) -> None:
    flags = {"is_quiet": False, "is_interrupted": False, "can_resume": True} | flags
    reading, counts.started_s = Reading(is_quiet=flags.pop("is_quiet")), time.perf_counter()
    progress.report_end(counts, reading.screen(), **flags)
    assert (reading.said[0], reading.said[1].splitlines()) == ("", told)


@pytest.mark.parametrize(
    ("names", "said"), [("", ""), ("a", "a in the jobs is"), ("abcdefg", "a, b, c, d, e and 2 more in the jobs are")]
)
def test_fields_that_are_not_used_are_named_the_first_of_many(names: str, said: str) -> None:
    reading = Reading()
    progress.report_unused(tuple(names), reading.screen())
    assert reading.said == ("", f"vllava: {said} passed through, not used.\n" if said else "")


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_terminal_is_told_what_is_waited_for_until_the_first_row(
    is_kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    batch = batch_of(
        inputs=Inputs(paths=(str(demo.clips()[0]),), questions=("What happens in this video?",)),
        wishes=Wishes(model="demo", device="cpu", precision="fp32"),
        sampling=Sampling(max_new_tokens=4),
        destination=Destination(path=tmp_path / "out.jsonl" if is_kept else None),
        decoders=1,
    )
    assert run(batch, Reading(out=terminal, err=terminal).screen()) == 0
    told = terminal.getvalue()
    waits = ["Reading headers: 0/1", "Reading the model's files", "0/1 · reading the first clips; Ctrl-C stops"]
    places = [told.find(wait) for wait in (*waits, "1 of 1 job answered" if is_kept else '{"id": ')]
    assert -1 not in places and places == sorted(places), told
