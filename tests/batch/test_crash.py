"""Whatever kills a batch, and whenever: run again, it ends with exactly one row for each job, and leaves no process."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from tests.batch.conftest import by_id, ends_alone, rows_of, until
from tests.batch.fork_server import Running, Zygote

QUESTIONS = ("What happens in this video?", "Is there a red star?", "What colour is it?", "How many shapes are there?")
WORDS = (
    *("batch", "--model", "demo", "--batch-size", "3", "--decoders", "1", "-o", "../out.jsonl"),
    *(word for question in QUESTIONS for word in ("-Q", question)),
    *(".", "three-shapes.mp4", "nowhere.mp4"),
)
"""Nine files of a folder, one of them broken, one clip twice, one that isn't there: 44 jobs."""
JOBS = 44
KILLS = 50


def test_a_batch_killed_50_times_has_each_job_once(vllava: Zygote, clips: Path) -> None:
    out = clips.parent / "out.jsonl"
    vllava.run(*WORDS, folder=clips)  # the first one reads from the disk what the others find in memory
    out.unlink()
    started_s = time.monotonic()
    undisturbed = vllava.run(*WORDS, folder=clips)
    length_s = time.monotonic() - started_s
    wanted = by_id(rows_of(out))
    assert (undisturbed.code, len(wanted)) == (1, JOBS)
    out.unlink()
    met: set[int] = set()
    runs: list[Running] = []
    dice = random.Random(5)
    for _ in range(KILLS):
        before = lines_of(out)
        runs.append(vllava.start(*WORDS, folder=clips))
        wait_for_an_instant(out, len(before), dice, length_s)
        runs[-1].kill()
        ended = runs[-1].wait()
        assert ended.code in (-signal.SIGKILL, 1), ended.err
        after = lines_of(out)
        assert after[: len(before)] == before
        met.add(len(after))
        if ended.code == 1 or len(after) == JOBS:
            assert by_id(rows_of(out)) == wanted
            out.unlink()
    assert len(met - {0, JOBS}) > 5, "the kills found nothing half done"
    assert vllava.run(*WORDS, folder=clips).code == 1
    assert by_id(rows_of(out)) == wanted
    for run in runs:
        ends_alone(run)


def wait_for_an_instant(out: Path, rows: int, dice: random.Random, length_s: float) -> None:
    """Waits for one in the start of a run, wherever the machine is by then, or between some row and the next."""
    if dice.random() < 0.2:
        time.sleep(length_s * dice.random())
        return
    more = min(JOBS, rows + dice.randint(1, 9))
    until(lambda: len(lines_of(out)) >= more, f"{more} rows")
    time.sleep(dice.random() * length_s / JOBS)


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []
