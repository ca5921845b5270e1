"""`vllava frames`: the frames that the model is shown, as a contact sheet or one by one, in PNG files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vllava_cli.errors import ClosedPipeError, MediaError, OutputError, UsageError, VllavaError
from vllava_cli.nouns import DecodeLimits, Frames, Framing
from vllava_cli.screen import Screen

STDOUT = "-"
_MAX_NAME_BYTES = 200


@dataclass(frozen=True, kw_only=True)
class Sheets:
    """What one `vllava frames` was told."""

    clips: tuple[Path, ...]
    framing: Framing
    output: str | None = None
    """A file, a folder, "-" for stdout; None → NAME-frames.png in the current folder."""
    is_each: bool = False
    """One file for each frame instead of a sheet."""
    is_forced: bool = False
    """Existing files are replaced."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    is_json: bool = False


def run(sheets: Sheets, screen: Screen) -> int:
    """Goes through all clips; returns 1 if one of them could not be used or written, else 0. Errors: UsageError."""
    from vllava_cli.media.spool import Reader

    _check(sheets)
    failures = 0
    with Reader(sheets.limits) as reader:
        for clip in sheets.clips:
            try:
                if not sheets.is_each:
                    _check_free(_target(sheets, clip), sheets)
                with screen.waiting(f"Reading {clip}"):
                    frames = reader.sample(clip, sheets.framing)
                _deliver(frames, sheets, screen)
            except (UsageError, ClosedPipeError):
                raise
            except (MediaError, OutputError) as exc:
                failures += 1
                _show_failure(clip, exc, screen, is_json=sheets.is_json)
    return 1 if failures else 0


def name_of(clip: Path) -> str:
    """What the files of a clip are called: a/holiday.mp4 → "holiday", - → "stdin"; what can't be shown becomes "_"."""
    if str(clip) == "-":
        return "stdin"
    whole = clip if clip.name and clip.name != ".." else clip.resolve()
    stem = whole.name if whole.is_dir() else whole.stem
    name = "".join(letter if letter.isprintable() else "_" for letter in stem)
    while len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = name[:-1]
    return name or "clip"


def frame_name(name: str, number: int, count: int, time_s: float) -> str:
    """Sorts in order of the frames: ("a", 1, 8, 3.5) → "a-1-00m03.500s.png"."""
    milliseconds = round(time_s * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    digits = len(str(count))
    return f"{name}-{number:0{digits}d}-{minutes:02d}m{rest // 1000:02d}.{rest % 1000:03d}s.png"


def _check(sheets: Sheets) -> None:
    """Raises a UsageError for an output that doesn't go with the rest."""
    is_many = len(sheets.clips) > 1
    if sheets.output == STDOUT:
        if is_many or sheets.is_each or sheets.is_json:
            raise UsageError("-o - writes one sheet: give one clip and neither --each nor --json, or name a folder.")
        if sys.stdout.isatty():
            raise UsageError("A picture can't be shown in a terminal: give -o FILE, or pipe it: vllava frames -o - … |")
    elif sheets.output and (is_many or sheets.is_each) and not Path(sheets.output).is_dir():
        raise UsageError(f"-o {sheets.output} is no folder, and several files are to be written. Make it one: mkdir.")
    names = [name_of(clip) for clip in sheets.clips]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"Several of the clips would be written as {twice}. Draw them one by one, with -o.")


def _deliver(frames: Frames, sheets: Sheets, screen: Screen) -> None:
    """Writes what was asked for and says what was written, a line each."""
    from vllava_cli.media.sheet import sheet_png

    clip = frames.clip.path
    if sheets.output == STDOUT:
        screen.answer_bytes(sheet_png(frames, _title(clip)))
        written = []
    elif sheets.is_each:
        written = _write_each(frames, sheets)
    else:
        written = [_write(_target(sheets, clip), sheet_png(frames, _title(clip)), sheets)]
    if sheets.is_json:
        times_s = None if frames.kind == "image" else [round(time_s, 4) for time_s in frames.times_s]
        row = {"path": str(clip), "kind": frames.kind, "frame_times_s": times_s, "outputs": [str(p) for p in written]}
        screen.answer(json.dumps(row | {"faults": list(frames.clip.faults)}) + "\n")
    else:
        screen.answer("".join(f"{path}\n" for path in written))
    for fault in frames.clip.faults:
        screen.notice(fault)


def _write_each(frames: Frames, sheets: Sheets) -> list[Path]:
    from vllava_cli.media.sheet import frame_png

    targets = [_folder(sheets) / name for name in _frame_names(frames)]
    for target in targets:
        _check_free(target, sheets)
    pairs = zip(targets, frames.pixels, strict=True)
    return [_write(target, frame_png(pixels), sheets) for target, pixels in pairs]


def _frame_names(frames: Frames) -> Iterator[str]:
    name, count = name_of(frames.clip.path), len(frames.times_s)
    return (frame_name(name, number, count, time_s) for number, time_s in enumerate(frames.times_s, 1))


def _target(sheets: Sheets, clip: Path) -> Path:
    """Where a sheet goes."""
    if sheets.output and sheets.output != STDOUT and not Path(sheets.output).is_dir():
        return Path(sheets.output)
    return _folder(sheets) / f"{name_of(clip)}-frames.png"


def _folder(sheets: Sheets) -> Path:
    return Path(sheets.output) if sheets.output and sheets.output != STDOUT else Path()


def _check_free(target: Path, sheets: Sheets) -> None:
    if sheets.output != STDOUT and not sheets.is_forced and os.path.lexists(target):
        raise OutputError(f"{_shown(target)} is already there. Give --force to replace it, or another name with -o.")


def _write(target: Path, data: bytes, sheets: Sheets) -> Path:
    """Writes under a temporary name first, so that a file is there whole or not at all."""
    part = target.parent / f".vllava-{os.getpid()}.part"
    _check_free(target, sheets)
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)  # a device or a named pipe stays what it is
            return target
        try:
            with part.open("xb") as file:
                file.write(data)
            part.replace(target)
        finally:
            with suppress(FileNotFoundError):
                part.unlink()
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise OutputError(f"{_shown(target)} can't be written: {reason}. Choose another place with -o.") from exc
    return target


def _show_failure(clip: Path, error: VllavaError, screen: Screen, *, is_json: bool) -> None:
    if is_json:
        screen.answer(json.dumps({"path": str(clip), "error": str(error)}) + "\n")
    screen.error(str(error))


def _title(clip: Path) -> str:
    return "stdin" if str(clip) == "-" else clip.name or str(clip.resolve())


def _shown(path: Path) -> str:
    return f"'{os.fsencode(path).decode(errors='replace')}'"
