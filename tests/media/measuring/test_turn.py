from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.clips import MPEG4, write_clip
from vllava_cli.media.decoder.client import isolated
from vllava_cli.media.measuring.turn import Turn, turn, turn_of
from vllava_cli.media.sample import sample
from vllava_cli.nouns import DecodeLimits, Framing

LIMITS = DecodeLimits()
ROW = {"seconds": 1.5, "mib": 80.0, "digest": "a" * 64, "times_s": [0.0, 0.5]}
BEGINNING = """
import sys, time
def say(line):
    sys.stdout.write(line + "\\n")
    sys.stdout.flush()
"""
READY = """
say('{"is": "imported"}\\n{"is": "prepared"}')
"""


def never() -> bool:
    return False


def told(script: str, limits: DecodeLimits = LIMITS, *words: str) -> Turn:
    """The turn of a process that runs `script`."""
    command = [sys.executable, "-I", "-S", "-c", BEGINNING + textwrap.dedent(script), *words]
    return turn_of(command, limits, is_interrupted=never)


def said(row: object) -> Turn:
    return told(READY + f"say({json.dumps(row)!r})")


@pytest.mark.parametrize("way", ["ours", "reference", "floor", "floor_threads"])
def test_a_turn_tells_what_it_took_and_gave(way: str, clip: Path) -> None:
    found, frames = turn(way, clip, LIMITS, is_interrupted=never), sample(clip, Framing())
    offsets_s = tuple(time_s - frames.times_s[0] for time_s in frames.times_s)
    assert found == Turn(
        seconds=found.seconds,
        mib=found.mib,
        digest=hashlib.sha256(frames.pixels.tobytes()).hexdigest(),
        times_s=pytest.approx(offsets_s),  # type: ignore[arg-type]
    )
    assert found.seconds
    assert found.mib


def test_a_file_that_is_no_video_is_a_fault_without_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no video" * 100)
    found = turn("reference", path, LIMITS, is_interrupted=never)
    assert found == Turn(fault="Invalid data found when processing input")


def test_a_playlist_is_not_followed(tmp_path: Path, clip: Path) -> None:
    path = tmp_path / "list.m3u8"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n")
    assert turn("reference", path, LIMITS, is_interrupted=never) == Turn(fault="Invalid argument")


def test_memory_is_limited(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "large.avi", 2, encoding=MPEG4, width=3840, height=2160)
    found = turn("reference", path, DecodeLimits(memory_bytes=64 << 20), is_interrupted=never)
    assert (found.seconds, bool(found.fault)) == (None, True)
    assert "memory" in found.fault.lower() or "resource" in found.fault.lower() or "crashed" in found.fault, found


def test_modules_in_the_current_folder_are_not_imported(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "av.py").write_text("raise ValueError('hostile')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f".{os.pathsep}")
    assert turn("ours", clip, LIMITS, is_interrupted=never).seconds


def test_a_rival_that_is_broken_is_a_fault(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchcodec.py").write_text("raise RuntimeError('no libavutil.so.\\nTraceback')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert turn("torchcodec", clip, LIMITS, is_interrupted=never) == Turn(fault="no libavutil.so")


def test_a_process_ends_with_the_one_that_asked(clip: Path) -> None:
    command = isolated("vllava_cli.media.measuring.contestant", "ours", str(clip), str(1 << 30), "60")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.close()
        assert (process.wait(timeout=60), process.stdout and process.stdout.read()) == (0, b"")


def test_what_a_process_says_is_taken_over() -> None:
    assert said(ROW) == Turn(seconds=1.5, mib=80.0, digest="a" * 64, times_s=(0.0, 0.5))
    assert said(ROW | {"mib": None, "times_s": []}) == Turn(seconds=1.5, digest="a" * 64)
    assert said({"fault": "it broke"}) == Turn(fault="it broke")


@pytest.mark.parametrize(
    "row",
    [
        *([], "text", 7, None, {}),
        *({"fault": ""}, {"fault": 7}, {"fault": "a\x1b[2J"}, {"fault": "a" * 201}),
        ROW | {"seconds": "1"},
        ROW | {"seconds": True},
        ROW | {"seconds": float("nan")},
        ROW | {"mib": "80"},
        ROW | {"digest": "a" * 63},
        ROW | {"digest": 7},
        ROW | {"times_s": [0.0] * 9},
        ROW | {"times_s": [None]},
        ROW | {"times_s": 7},
        ROW | {"more": "a" * 5000},
        {key: value for key, value in ROW.items() if key != "digest"},
    ],
)
def test_nonsense_is_not_taken_over(row: Any) -> None:
    assert said(row) == Turn(fault="it answers nonsense")


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("", "it doesn't start"),
        ("say('hello')", "it answers nonsense"),
        ('say(\'{"is": "imported"}\')', "it crashed or was ended by its limits"),
        (READY, "it crashed or was ended by its limits"),
    ],
)
def test_a_process_that_goes_away_is_a_fault(script: str, fault: str) -> None:
    assert told(script) == Turn(fault=fault)


def test_a_command_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    found = turn_of([str(tmp_path / "none")], LIMITS, is_interrupted=never)
    assert found == Turn(fault="it doesn't start (No such file or directory)")


def test_a_turn_is_stopped_when_it_takes_too_long() -> None:
    limits = DecodeLimits(timeout_s=0.2)
    assert told(READY + "time.sleep(600)", limits) == Turn(fault="it took longer than 0.2 s", stopped_at_s=0.2)
    preparing = told('say(\'{"is": "imported"}\')\ntime.sleep(600)', limits)
    assert preparing == Turn(fault="it took too long to begin")


def test_ctrl_c_ends_a_turn_in_the_middle_and_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = """
    import os, subprocess
    other = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
    with open(sys.argv[1] + ".new", "w") as file:
        file.write(f"{os.getpid()} {other.pid}")
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    time.sleep(600)
    """
    command = [sys.executable, "-I", "-S", "-c", BEGINNING + READY + textwrap.dedent(script), str(pids)]
    with pytest.raises(KeyboardInterrupt):
        turn_of(command, LIMITS, is_interrupted=pids.exists)
    left = [process for pid in pids.read_text().split() for process in living(int(pid))]
    assert psutil.wait_procs(left, timeout=10)[1] == []


def living(pid: int) -> Iterator[psutil.Process]:
    """What is gone, or waits for its parent to notice that it is, doesn't live."""
    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            yield process
    except psutil.NoSuchProcess:
        return
