"""Whatever kills a batch, and whenever: run again, it ends with exactly one row for each job, and leaves no process."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests.commands.batch.conftest import by_id, ends_alone, rows_of
from tests.commands.batch.zygote import Running, Zygote

QUESTIONS = ("What happens in this video?", "Is there a red star?", "What colour is it?", "How many shapes are there?")
WORDS = (
    *("batch", "--model", "demo", "--batch-size", "3", "--decoders", "1", "-o", "../out.jsonl"),
    *(word for question in QUESTIONS for word in ("-Q", question)),
    *(".", "three-shapes.mp4", "nowhere.mp4"),
)
"""Nine files of a folder, one of them broken, one clip twice, one that isn't there: 44 jobs."""
JOBS = 44
KILLS = 50
"""At least."""
MOST_ROUNDS = 4


def test_a_batch_killed_at_50_random_instants_has_each_job_once(vllava: Zygote, clips: Path) -> None:
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
    for instant_s in instants(length_s):
        if len(runs) >= KILLS and is_varied(met):
            break
        before = lines_of(out)
        runs.append(vllava.start(*WORDS, folder=clips))
        time.sleep(instant_s)
        runs[-1].kill()
        ended = runs[-1].wait()
        assert ended.code in (-signal.SIGKILL, 1), ended.err
        after = lines_of(out)
        assert after[: len(before)] == before
        met.add(len(after))
        if ended.code == 1 or len(after) == JOBS:
            assert by_id(rows_of(out)) == wanted
            out.unlink()
    assert is_varied(met), "the kills found nothing half done"
    assert vllava.run(*WORDS, folder=clips).code == 1
    assert by_id(rows_of(out)) == wanted
    for run in runs:
        ends_alone(run)


def is_varied(met: set[int]) -> bool:
    """Whether kills found enough different numbers of rows, beside none and all."""
    return len(met - {0, JOBS}) > 5


def instants(length_s: float) -> Iterator[float]:
    """Random ones, spread over the whole of the length, in random order; more rounds for a machine that got faster."""
    dice = random.Random(5)
    for _ in range(MOST_ROUNDS):
        found = [length_s * (number + dice.random()) / KILLS for number in range(KILLS)]
        dice.shuffle(found)
        yield from found


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []
