"""`--gpus`: a process for each device over one queue and one journal. The devices here are CPUs."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.batch.conftest import by_id, rows_of, until, until_rows
from tests.batch.fork_server import Zygote

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
QUESTIONS = ("What happens in this video?", "What colour is it?")
WORDS = ("batch", "--model", "demo", "--batch-size", "2", "-Q", QUESTIONS[0], "-Q", QUESTIONS[1])
WORKER, DECODER = b"spawn_main", b"vllava_cli.media.decoder.server"


def children_of(pid: int, word: bytes) -> list[int]:
    """The processes that `pid` has started with such a word in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and word in words:
            found.append(int(folder.name))
    return found


def test_a_worker_that_is_killed_costs_no_job_and_doubles_none(vllava: Zygote, clips: Path) -> None:
    for number in range(80):
        os.link(clips / "three-shapes.mp4", clips / f"z-{number:03}.mp4")
    alone, together = clips.parent / "alone.jsonl", clips.parent / "together.jsonl"
    assert vllava.run(*WORDS, ".", "-o", alone, folder=clips).code == 1
    run = vllava.start(*WORDS, ".", "-o", together, "--gpus", "cpu,cpu", folder=clips)
    until(lambda: children_of(run.pid, WORKER), "a worker")
    assert children_of(run.pid, DECODER) == [], "the decoders of the headers are still there"
    until_rows(together, 7)
    first, second = children_of(run.pid, WORKER)
    os.kill(first, signal.SIGKILL)
    done = run.wait()
    assert done.code == 1
    assert "the process on cpu ended (SIGKILL): its clips are started again" in done.err
    assert by_id(rows_of(together)) == by_id(rows_of(alone))
    assert not Path(f"/proc/{second}").exists()
