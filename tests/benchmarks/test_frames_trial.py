"""What the decoders' repeats say together, and the script that prints it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.frames_report import frames_notes, frames_row
from benchmarks.frames_targets import frames_targets
from benchmarks.frames_trial import (
    GUARDED,
    LOOP,
    LOWER_BOUNDS,
    OURS,
    TORCHCODEC,
    DecoderResult,
    FramesTrial,
    decode_once,
)
from tests.clips import MPEG4, write_clip
from vllava_cli.nouns import Clip, DecodeLimits

ROOT = Path(__file__).parents[2]
TIMES_S = tuple(float(index) for index in range(8))
RIGHT, WRONG = "a" * 64, "b" * 64
BOUND, BOUND_THREADS = LOWER_BOUNDS
SHORT = Clip(
    path=Path("a.mp4"),
    kind="video",
    width=640,
    height=480,
    frame_count=100,
    duration_s=10.0,
    codec="h264",
    container="mp4",
)
TEN_MINUTES, HOUR = replace(SHORT, duration_s=590.0), replace(SHORT, duration_s=3540.0)


def result(*seconds: float, digest: str = RIGHT, times_s: tuple[float, ...] = TIMES_S) -> DecoderResult:
    return DecoderResult(seconds=seconds, mib=80.0, digest=digest, times_s=times_s)


RESULTS = {OURS: result(1.0), LOOP: result(40.0), TORCHCODEC: result(2.0), BOUND: result(0.5)}
FAILED = DecoderResult(fault="it broke")
LATE = DecoderResult(fault="it took longer than 60 s", stopped_at_s=60.0)


def trial(clip: Clip = SHORT, *, is_made: bool = False, **results: DecoderResult) -> FramesTrial:
    return FramesTrial(clip=clip, results=RESULTS | results, is_made=is_made)


def test_repeats_are_joined_unless_they_fail_or_differ() -> None:
    found = DecoderResult.of([FAILED, result(3.0), replace(result(1.0), mib=90.0), replace(result(2.0), mib=None)])
    assert found == replace(result(3.0, 1.0, 2.0), mib=90.0)
    assert DecoderResult.of([FAILED]) == FAILED
    assert DecoderResult.of([result(1.0), result(1.0, digest=WRONG)]).fault == "it gives other frames each time"


@pytest.mark.parametrize(
    ("results", "is_identical", "is_certain", "bound_s"),
    [
        ({OURS: result(1.0), LOOP: result(4.0), BOUND: result(3.0), BOUND_THREADS: result(2.0)}, True, True, 2.0),
        ({OURS: result(1.0), LOOP: result(4.0), BOUND: result(3.0, digest=WRONG)}, True, True, None),
        ({OURS: result(1.0, digest=WRONG), LOOP: result(4.0), BOUND: result(3.0)}, False, True, 3.0),
        ({OURS: result(1.0, times_s=(*TIMES_S[:7], 7.5)), LOOP: result(4.0)}, False, True, None),
        ({OURS: result(1.0, times_s=(*TIMES_S[:7], 7.0015)), LOOP: result(4.0)}, True, True, None),
        ({OURS: result(1.0), LOOP: result(4.0, digest=WRONG, times_s=TIMES_S[:5])}, False, False, None),
        ({OURS: result(1.0), LOOP: LATE, BOUND: result(3.0, digest=WRONG)}, False, False, None),
        ({OURS: result(1.0), LOOP: FAILED}, None, False, None),
        ({OURS: result(1.0), GUARDED: result(1.0, digest=WRONG), LOOP: result(4.0)}, False, True, None),
    ],
)
def test_the_loop_says_what_is_right_else_a_lower_bound_that_agrees(
    results: dict[str, DecoderResult], is_identical: bool | None, is_certain: bool, bound_s: float | None
) -> None:
    found = FramesTrial(clip=SHORT, results=results)
    assert (found.is_identical, found.is_certain, found.lower_bound.median_s) == (is_identical, is_certain, bound_s)


def test_a_clip_has_the_targets_of_its_kind() -> None:
    assert list(map(str, frames_targets([trial()]))) == [
        "- identical frames: 1 of 1 files: met",
        "- at most 1.10 of the loop, short clips: 0.025 at most (a.mp4): met",
        "- at most 0.80 of torchcodec's exact mode, short clips: 0.500 at most (a.mp4): met",
        "- at most 1.30 of the lower bound, short clips: a.mp4 2.000: MISSED",
    ]


def test_a_row_has_all_figures_and_notes_have_what_is_missing() -> None:
    found = trial(guarded=result(1.25), ffmpeg=FAILED, torchcodec=result(2.0, times_s=(*TIMES_S[:7], 9.0)))
    assert frames_row(found) == (
        "| a.mp4                | 40.0 | 1.000 | 2.000 (other frames) | - | 0.500 | 0.025 | 0.500 | 2.000 | 80 | 80 "
        "| identical |"
    )
    assert list(frames_notes(found)) == [
        "a.mp4 through the bounded process: 1.250 s.",
        "a.mp4: no figure of ffmpeg: it broke",
    ]


def test_a_decoder_that_fails_is_a_fault(tmp_path: Path, clip: Path) -> None:
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n")
    large = write_clip(tmp_path / "large.avi", 2, encoding=MPEG4, width=3840, height=2160)
    assert "Invalid argument" in decode_once(LOOP, playlist, DecodeLimits()).fault
    assert decode_once(LOOP, large, DecodeLimits(memory_bytes=64 << 20)).seconds == ()
    stopped = decode_once(OURS, clip, DecodeLimits(timeout_s=1e-6))
    assert stopped == DecoderResult(fault="it took longer than 1e-06 s", stopped_at_s=1e-6)


def test_the_script_measures_a_clip_of_ones_own(clip: Path) -> None:
    command = [sys.executable, "scripts/bench-frames", "--clip", str(clip), "--repeat", "1", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    facts = json.loads(done.stdout)
    (file,) = facts["files"]
    assert (file["file"], file["is_identical"]) == (clip.name, True)
    assert {OURS, GUARDED, LOOP, *LOWER_BOUNDS} <= file["decoders"].keys()
    assert facts["targets"][0] == {"text": "identical frames: 1 of 1 files", "is_met": True}
    assert done.returncode == (0 if all(target["is_met"] for target in facts["targets"]) else 1)
