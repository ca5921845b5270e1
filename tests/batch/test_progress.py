"""What a run tells on stderr: where it stands, what can't be read, what there is to do, and what became of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.batch.parts import Reading, Terminal, clip_jobs
from vllava_cli import demo
from vllava_cli.batch import progress
from vllava_cli.batch.executors import Counters
from vllava_cli.batch.preflight import Headers
from vllava_cli.batch.progress import Progress
from vllava_cli.batch.request import BatchRequest, Destination, Inputs
from vllava_cli.batch.rows import ErrorKind, JobError
from vllava_cli.batch.run import run
from vllava_cli.nouns import Framing, Sampling, Wishes


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


def test_the_first_clips_that_cannot_be_read_are_named() -> None:
    reading = Reading()
    progress.report_unreadable([], 9, reading.screen())
    assert reading.said == ("", "")
    progress.report_unreadable(faults(1), 1, reading.screen())
    assert reading.said == ("", "vllava: 1 of 1 clip can't be read:\n  '0.mp4' is torn.\n")
    reading = Reading()
    progress.report_unreadable(faults(1005), 2000, reading.screen())
    assert reading.said[1].splitlines() == [
        "vllava: 1,005 of 2,000 clips can't be read:",
        *(f"  '{number}.mp4' is torn." for number in range(5)),
        "  … and 1,000 more; their rows say why.",
    ]
    reading = Reading()
    progress.report_unreadable(faults(6), 6, reading.screen(), has_rows=False)
    assert reading.said[1].splitlines()[-1] == "  … and 1 more."


def found(**counts: float) -> Headers:
    good_clips = [clip_jobs(f"{number}.mp4") for number in range(8)]
    bad_clips = [(clip_jobs("bad.mp4"), fault) for fault in faults(int(counts.pop("bad", 0)))]
    return Headers(good=good_clips, bad=bad_clips, **counts)  # type: ignore[arg-type]


def test_a_plan_says_what_there_is_to_do() -> None:
    reading = Reading()
    counts = tally(total=1200, skipped=100, errors={"missing": 3})
    progress.report_plan(counts, found(videos=5, bad=2, unopened=1, unknown=1, duration_s=75.0), reading.screen())
    assert reading.said == (
        "jobs      1,200: 1,097 to answer, 100 done before, 3 about clips that can't be read\n"
        "clips     5 videos, 2 images, 1 that took too long to open, 2 that can't be read\n"
        "duration  1:15, and 1 video of unknown length\n",
        "",
    )


def test_a_plan_says_nothing_of_what_there_is_not() -> None:
    reading = Reading(is_quiet=True)
    progress.report_plan(tally(total=8), found(videos=7), reading.screen())
    assert reading.said[0] == "jobs      8: 8 to answer\nclips     7 videos, 1 image\nduration  0:00\n"
    reading = Reading()
    progress.report_plan(tally(total=8), None, reading.screen())
    assert reading.said[0] == "jobs  8: 8 to answer\n"
    reading = Reading()
    progress.report_plan(tally(total=8, skipped=8), Headers(), reading.screen())
    assert reading.said[0] == "jobs      8: 0 to answer, 8 done before\nclips     none\nduration  0:00\n"


def ended(
    counts: Progress, *, is_quiet: bool = False, is_interrupted: bool = False, can_resume: bool = True
) -> list[str]:
    reading = Reading(is_quiet=is_quiet)
    progress.report_end(counts, reading.screen(), is_interrupted=is_interrupted, can_resume=can_resume)
    out, err = reading.said
    assert out == ""
    return err.splitlines()


def test_a_run_ends_with_one_line() -> None:
    assert ended(tally(answered=10)) == ["vllava: 10 of 10 jobs answered in 0:00."]
    assert ended(tally(total=1, answered=1)) == ["vllava: 1 of 1 job answered in 0:00."]
    assert ended(tally(skipped=7, answered=3)) == ["vllava: 3 of 10 jobs answered in 0:00, 7 done before and skipped."]
    assert ended(tally(total=0)) == ["vllava: there are no jobs."]
    assert ended(tally(answered=10), is_quiet=True) == []


def test_failures_are_counted_by_kind_the_most_frequent_first_also_with_quiet() -> None:
    counts = tally(answered=5, errors={"missing": 1, "unreadable": 3}, skipped=1, skipped_errors=1)
    failed = "vllava: 5 jobs of 10 failed: 3 unreadable, 1 missing, 1 in an earlier run."
    assert ended(counts)[1:] == [f"{failed} --retry-errors tries them again."]
    assert ended(counts, is_quiet=True, can_resume=False) == [failed]
    assert ended(tally(answered=9, errors={"bug": 1}), can_resume=False)[1:] == ["vllava: 1 job of 10 failed: 1 bug."]


def test_what_is_left_after_ctrl_c_is_told_with_how_to_go_on() -> None:
    counts = tally(answered=9)
    assert ended(counts, is_interrupted=True) == [
        "vllava: 9 of 10 jobs answered in 0:00.",
        "vllava: Interrupted with 1 job left. The same command goes on with it.",
    ]
    assert ended(tally(answered=8), is_interrupted=True, is_quiet=True) == [
        "vllava: Interrupted with 2 jobs left. The same command goes on with them."
    ]
    assert ended(tally(answered=8), is_interrupted=True, can_resume=False)[1:] == [
        "vllava: Interrupted with 2 jobs left. Without -o FILE nothing is saved, so the run can't be resumed."
    ]


def test_what_is_left_after_the_first_error_is_told() -> None:
    assert ended(tally(answered=5, errors={"missing": 1}))[1:] == [
        "vllava: 1 job of 10 failed: 1 missing. --retry-errors tries it again.",
        "vllava: Stopped by --fail-fast with 4 jobs left. The same command goes on with them.",
    ]


def test_stats_are_one_line_of_json_also_with_quiet() -> None:
    reading = Reading(is_quiet=True)
    progress.report_stats({"wall_s": 1 / 3, "clips": 7}, reading.screen())
    assert reading.said[1].startswith("vllava: stats: ")
    assert json.loads(reading.said[1].removeprefix("vllava: stats: ")) == {"wall_s": 0.3333, "clips": 7}


def test_fields_that_are_not_used_are_named_the_first_of_many() -> None:
    for names, said in (
        ((), ""),
        (("start",), "vllava: start in the jobs is passed through, not used.\n"),
        (tuple("abcdefg"), "vllava: a, b, c, d, e and 2 more in the jobs are passed through, not used.\n"),
    ):
        reading = Reading()
        progress.report_unused(names, reading.screen())
        assert reading.said == ("", said)


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_terminal_is_told_what_is_waited_for_until_the_first_row(
    is_kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    batch = BatchRequest(
        inputs=Inputs(paths=(str(demo.clips()[0]),), questions=("What happens in this video?",)),
        wishes=Wishes(model="demo", device="cpu", precision="fp32"),
        framing=Framing(),
        sampling=Sampling(max_new_tokens=4),
        destination=Destination(path=tmp_path / "out.jsonl" if is_kept else None),
        decoders=1,
    )
    assert run(batch, Reading(out=terminal, err=terminal).screen()) == 0
    told = terminal.getvalue()
    waits = ["Reading headers: 0/1", "Reading the model's files", "0/1 · reading the first clips; Ctrl-C stops"]
    places = [told.find(wait) for wait in (*waits, "1 of 1 job answered" if is_kept else '{"id": ')]
    assert -1 not in places and places == sorted(places), told
