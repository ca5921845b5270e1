"""`vllava frames`: the frames that the model is shown, as a contact sheet, one by one, or drawn in the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vllava_cli.commands.sheets import check_free, form_of, make_folder, name_of, sheet_path, title_of, write
from vllava_cli.errors import ClosedPipeError, MediaError, OutputError, UsageError, VllavaError
from vllava_cli.nouns import DEFAULT_MODEL, DecodeLimits, Frames, Framing, Tiles, VideoRecipe
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import json_of

STDOUT = "-"
_REMEDY = "Give --overwrite to replace it, or another name with -o."


@dataclass(frozen=True, kw_only=True)
class Sheets:
    """The request of one `vllava frames`."""

    clips: tuple[Path, ...]
    framing: Framing
    model: str = DEFAULT_MODEL
    """Whose square the frames are brought to."""
    output: str | None = None
    """A file, a folder (one that ends with / is made), "-" for stdout.

    None → NAME-frames.png in the current folder, or nothing if it is shown.
    """
    is_whole: bool = False
    """The frames uncropped."""
    is_each: bool = False
    """One file for each frame, uncropped, instead of a sheet."""
    is_shown: bool = False
    """The sheet is drawn in the terminal."""
    is_overwriting: bool = False
    """Existing files are replaced."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    is_json: bool = False


def run(sheets: Sheets, screen: Screen) -> int:
    """Goes through all clips; returns 1 if one of them could not be used or written, else 0. Errors: UsageError."""
    _check(sheets, screen)
    from vllava_cli.media.decoder.stdin_file import Reader

    tiles: Tiles | None = None if sheets.is_each else "whole" if sheets.is_whole else recipe_of(sheets.model, screen)
    if _is_folder(sheets) and sheets.output:
        make_folder(Path(sheets.output))
    failures = 0
    with Reader(sheets.limits) as reader:
        for clip in sheets.clips:
            try:
                if _is_one_file(sheets):
                    _check_free(_target(sheets, clip), sheets)
                with screen.waiting(f"Reading {clip}"):
                    frames = reader.sample(clip, sheets.framing, tiles=tiles)
                _deliver(frames, tiles, sheets, screen)
            except (UsageError, ClosedPipeError):
                raise
            except (MediaError, OutputError) as exc:
                failures += 1
                _show_failure(clip, exc, screen, is_json=sheets.is_json)
    return 1 if failures else 0


def recipe_of(model: str, screen: Screen) -> VideoRecipe:
    """Read how a model wants its frames. Errors: CheckpointError."""
    if model == DEFAULT_MODEL:
        from vllava_cli.engine.checkpoint import DEFAULT_CHECKPOINT

        return DEFAULT_CHECKPOINT.video_recipe
    from vllava_cli.engine.checkpoint import check_architecture
    from vllava_cli.engine.hub import locate
    from vllava_cli.media.preprocess import read_video_recipe

    with screen.waiting(f"Looking for {model}"):
        folder = locate(model).folder
    check_architecture(folder)
    return read_video_recipe(folder)


def frame_name(name: str, number: int, count: int, time_s: float) -> str:
    """Sorts in order of the frames: ("a", 1, 8, 3.5) → "a-1-00m03.500s.png"."""
    milliseconds = round(time_s * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    digits = len(str(count))
    return f"{name}-{number:0{digits}d}-{minutes:02d}m{rest // 1000:02d}.{rest % 1000:03d}s.png"


def _check(sheets: Sheets, screen: Screen) -> None:
    """Raises a UsageError for what doesn't go together."""
    if sheets.is_each and (sheets.is_shown or sheets.is_whole):
        raise UsageError("--each writes whole frames, a file each. Leave --show and --whole out.")
    if (sheets.is_each or sheets.is_whole) and sheets.framing.fit != "crop":
        raise UsageError("--each and --whole leave frames as they are. Leave --fit out.")
    if sheets.is_shown and sheets.is_json:
        raise UsageError("--show draws on stdout, where --json prints. Leave one of them out.")
    if sheets.is_shown and not sheets.output and not screen.is_terminal:
        raise UsageError("--show draws in a terminal, and stdout is none here. Give -o FILE for a picture in a file.")
    _check_output(sheets, screen)


def _check_output(sheets: Sheets, screen: Screen) -> None:
    is_many = len(sheets.clips) > 1
    if sheets.output == STDOUT:
        if is_many or sheets.is_each or sheets.is_json:
            raise UsageError("-o - writes one sheet: give one clip and neither --each nor --json, or name a folder.")
        if screen.is_terminal:
            raise UsageError("-o - writes PNG, which a terminal can't show. Give --show, or -o FILE.")
    elif sheets.output and not _is_folder(sheets):
        if is_many or sheets.is_each:
            raise UsageError(
                f"-o {sheets.output} is no folder, and several files are to be written. "
                f"-o {sheets.output}/ makes it one."
            )
        form_of(Path(sheets.output))
    names = [name_of(clip) for clip in sheets.clips]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice and not _is_only_shown(sheets):
        raise UsageError(f"Several of the clips would be written as {twice}. Draw them one by one, with -o.")


def _is_only_shown(sheets: Sheets) -> bool:
    return sheets.is_shown and not sheets.output


def _is_one_file(sheets: Sheets) -> bool:
    """Say whether each clip becomes a sheet in a file."""
    return not (sheets.is_each or _is_only_shown(sheets) or sheets.output == STDOUT)


def _deliver(frames: Frames, tiles: Tiles | None, sheets: Sheets, screen: Screen) -> None:
    """Writes and draws what was asked for, and says what was written, a line each."""
    written = _write_sheet(frames, tiles, sheets, screen) if tiles else _write_each(frames, sheets)
    if sheets.is_json:
        times_s = None if frames.kind == "image" else [round(time_s, 4) for time_s in frames.times_s]
        path, outputs = str(frames.clip.path), [str(path) for path in written]
        row = {"path": path, "kind": frames.kind, "frame_times_s": times_s, "outputs": outputs}
        screen.answer(json_of(row | {"faults": list(frames.clip.faults)}) + "\n")
    else:
        screen.answer("".join(f"{path}\n" for path in written))
    for fault in frames.clip.faults:
        screen.notice(fault)


def _write_sheet(frames: Frames, tiles: Tiles, sheets: Sheets, screen: Screen) -> list[Path]:
    from vllava_cli.media.contact_sheet import Sheet, sheet_picture

    sheet = Sheet.of(frames, title_of(frames.clip.path), tiles, fit=sheets.framing.fit)
    if sheets.is_shown and screen.is_terminal:
        screen.picture(sheet)
    if sheets.output == STDOUT:
        screen.answer_bytes(sheet_picture(sheet))
    if not _is_one_file(sheets):
        return []
    target = _target(sheets, frames.clip.path)
    return [write(target, sheet_picture(sheet, form_of(target)), is_overwriting=sheets.is_overwriting)]


def _write_each(frames: Frames, sheets: Sheets) -> list[Path]:
    from vllava_cli.media.contact_sheet import frame_png

    targets = [_folder(sheets) / name for name in _frame_names(frames)]
    for target in targets:
        _check_free(target, sheets)
    pairs = zip(targets, frames.pixels, strict=True)
    return [write(target, frame_png(pixels), is_overwriting=sheets.is_overwriting) for target, pixels in pairs]


def _frame_names(frames: Frames) -> Iterator[str]:
    name, count = name_of(frames.clip.path), len(frames.times_s)
    return (frame_name(name, number, count, time_s) for number, time_s in enumerate(frames.times_s, 1))


def _target(sheets: Sheets, clip: Path) -> Path:
    """Name the file of a sheet."""
    if sheets.output and not _is_folder(sheets):
        return Path(sheets.output)
    return sheet_path(clip, _folder(sheets))


def _is_folder(sheets: Sheets) -> bool:
    """Say whether -o names a folder that is there or is to be made."""
    return bool(sheets.output) and (str(sheets.output).endswith(os.sep) or os.path.isdir(str(sheets.output)))


def _folder(sheets: Sheets) -> Path:
    return Path(sheets.output) if sheets.output else Path()


def _check_free(target: Path, sheets: Sheets) -> None:
    if not sheets.is_overwriting:
        check_free(target, _REMEDY)


def _show_failure(clip: Path, error: VllavaError, screen: Screen, *, is_json: bool) -> None:
    if is_json:
        screen.answer(json_of({"path": str(clip), "error": str(error)}) + "\n")
    screen.error(str(error))
