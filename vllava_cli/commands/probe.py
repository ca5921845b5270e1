"""`vllava probe`: says what each file is, how its frames will be reached and why, and what is wrong with the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from vllava_cli.commands.start import for_each
from vllava_cli.hardware import cpu_cores
from vllava_cli.nouns import STDIN, Clip, DecodeLimits, counted
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import json_of

KEYS = (
    *("path", "kind", "container", "codec", "pixel_format", "width", "height", "rotation", "sample_aspect_ratio"),
    *("sizes", "crop", "transfer", "duration_s", "fps", "is_rate_constant", "frame_count", "way", "way_reason"),
    *("is_damaged", "faults", "notes"),
)
"""The keys of an object that --json prints, in order."""


def run(
    files: Sequence[Path], screen: Screen, *, limits: DecodeLimits, is_full: bool = False, is_json: bool = False
) -> int:
    """Prints the facts about each file as soon as they are known; returns 1 if a file couldn't be used, else 0.

    With `is_full`, every frame is decoded, to find damage that the index doesn't show.
    """
    with ExitStack() as ends:
        read = _reading(files, limits, is_full, ends)

        def show(file: Path) -> None:
            with screen.waiting(f"Reading {file}"):
                clip = read(file)
            if is_json:
                screen.answer(json_of(report(clip)) + "\n")
                return
            name = "stdin" if str(clip.path) == STDIN else str(clip.path).replace("\n", "?")
            screen.answer(f"{name}\n")
            screen.facts([(f"  {row}", text) for row, text in rows(clip)], is_answer=True)

        return for_each(files, show, screen, is_json=is_json)


def _reading(files: Sequence[Path], limits: DecodeLimits, is_full: bool, ends: ExitStack) -> Callable[[Path], Clip]:
    """Returns a function that probes the files in turn; where there are several, some are read ahead side by side."""
    from vllava_cli.media.decoder.pool import Pool, default_workers, in_order
    from vllava_cli.media.decoder.stdin_file import Reader

    if len(files) < 2 or Path(STDIN) in files:
        return partial(ends.enter_context(Reader(limits)).probe, is_full=is_full)
    pool = ends.enter_context(Pool(min(len(files), default_workers(cpu_cores())), limits))
    reads = in_order(pool.probes(enumerate(files), is_full=is_full))

    def next_clip(_: Path) -> Clip:
        read = next(reads)
        if read.found is None:
            raise read.fault or KeyboardInterrupt
        return read.found

    return next_clip


def report(clip: Clip) -> dict[str, Any]:
    """Returns the object that --json prints for a file; unknown values are null."""
    found = vars(clip) | {
        "path": str(clip.path),
        "duration_s": None if clip.duration_s is None else round(clip.duration_s, 6),
        "fps": None if clip.fps is None else round(clip.fps, 6),
        "is_damaged": bool(clip.faults),
    }
    return {key: found[key] for key in KEYS}


def rows(clip: Clip) -> list[tuple[str, str]]:
    """Returns a (name, text) row for each fact about a clip; an image has no duration, rate, frame count or way."""
    found = [
        ("container", clip.container),
        ("codec", f"{clip.codec} ({clip.pixel_format})" if clip.pixel_format else clip.codec),
        *([("colours", f"HDR ({clip.transfer}), shown in SDR")] if clip.transfer else []),
        ("size", _size(clip)),
    ]
    if clip.kind == "video":
        found += [("duration", _duration(clip.duration_s)), ("rate", _rate(clip)), ("frames", str(clip.frame_count))]
    if clip.way:
        found.append(("way", f"{clip.way}: {clip.way_reason}" if clip.way_reason else clip.way))
    return found + [("fault", fault) for fault in clip.faults] + [("note", note) for note in clip.notes]


def _size(clip: Clip) -> str:
    """Writes the size as shown, and how it came about: "1024x576, pixels of 64:45, turned by 90 degrees"."""
    cropped = f", cropped to {clip.crop}" if clip.crop else ""
    stretched = f", pixels of {clip.sample_aspect_ratio}" if clip.sample_aspect_ratio else ""
    turned = f", turned by {clip.rotation} degrees" if clip.rotation else ""
    size = ", ".join(clip.sizes) or f"{clip.width}x{clip.height}"
    return f"{size}{cropped}{stretched}{turned}"


def _duration(duration_s: float | None) -> str:
    """Writes a duration: 12.5 → "12.50 s", 3723.25 → "3723.25 s (1:02:03)"."""
    if duration_s is None:
        return "not known"
    minutes, seconds = divmod(int(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f" ({hours}:{minutes:02d}:{seconds:02d})" if duration_s >= 60 else ""
    return f"{duration_s:.2f} s{clock}"


def _rate(clip: Clip) -> str:
    if clip.fps is None:
        return "not known"
    steadiness = {True: ", constant", False: ", variable", None: ""}[clip.is_rate_constant]
    return f"{counted(clip.fps, 'frame')} a second{steadiness}"
