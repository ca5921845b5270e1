"""`vllava frames`: shows the frames that the model sees: on a contact sheet, in single files, or in the terminal."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from vllava_cli.commands.provenance import clip_row
from vllava_cli.commands.sheets import check_free, form_of, make_folder, name_of, title_of, write, write_sheet
from vllava_cli.commands.start import for_each
from vllava_cli.errors import UsageError
from vllava_cli.nouns import (
    DEFAULT_MODEL,
    DecodeLimits,
    Frames,
    Framing,
    Tiles,
    VideoRecipe,
)
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import json_of

STDOUT = "-"


@dataclass(frozen=True, kw_only=True)
class Sheets:
    """The request of one `vllava frames`."""

    clips: tuple[Path, ...]
    framing: Framing
    model: str = DEFAULT_MODEL
    """The model for whose input the frames are made square."""
    output: str | None = None
    """A file, a folder, or "-" for stdout; a folder whose name ends with / is made.

    None → NAME-frames.png in the current folder, or no file if the sheet is drawn in the terminal.
    """
    is_whole: bool = False
    """True if the sheet shows the frames uncropped."""
    is_each: bool = False
    """True if each frame gets a file of its own, uncropped, instead of a sheet."""
    is_shown: bool = False
    """True if the sheet is drawn in the terminal."""
    is_overwriting: bool = False
    """True if existing files are replaced."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    is_json: bool = False

    @property
    def folder(self) -> Path | None:
        """The folder for files that are named after their clips; None if -o names a file or stdout."""
        if not self.output:
            return Path()
        is_folder = self.output.endswith(os.sep) or os.path.isdir(self.output)
        return Path(self.output) if is_folder else None

    @property
    def has_files(self) -> bool:
        """True if sheets or frames are written into files, not only to stdout or the terminal."""
        return self.output != STDOUT if self.output else not self.is_shown

    def target(self, clip: Path) -> Path:
        """Returns the path of a clip's sheet: the file that -o names, or NAME-frames.png in the folder."""
        return Path(self.output or "") if self.folder is None else self.folder / f"{name_of(clip)}-frames.png"

    def check_free(self, target: Path) -> None:
        """Checks that `target` may be written. Errors: OutputError if it exists and isn't to be replaced."""
        if not self.is_overwriting:
            check_free(target, "Give --overwrite to replace it, or another name with -o.")


def run(sheets: Sheets, screen: Screen) -> int:
    """Draws the frames of each clip; returns 1 if a clip couldn't be read or written, else 0.

    Errors: UsageError; those of `recipe_of` and `make_folder`.
    """
    _check(sheets, screen)
    from vllava_cli.media.decoder.stdin_file import Reader

    tiles: Tiles | None = None if sheets.is_each else "whole" if sheets.is_whole else recipe_of(sheets.model, screen)
    if sheets.output and sheets.folder:
        make_folder(sheets.folder)
    with Reader(sheets.limits) as reader:

        def draw(clip: Path) -> None:
            if sheets.has_files and not sheets.is_each:
                sheets.check_free(sheets.target(clip))
            with screen.waiting(f"Reading {clip}"):
                frames = reader.sample(clip, sheets.framing, tiles=tiles)
            written = _write_sheet(frames, tiles, sheets, screen) if tiles else _write_each(frames, sheets)
            if sheets.is_json:
                row = clip_row(frames) | {
                    **({"reasons": frames.reasons} if frames.reasons else {}),
                    "outputs": list(map(str, written)),
                    "faults": frames.clip.faults,
                    "notes": frames.clip.notes,
                }
                screen.answer(json_of(row) + "\n")
            else:
                screen.answer("".join(f"{path}\n" for path in written))
            for remark in frames.clip.remarks:
                screen.notice(remark)

        return for_each(sheets.clips, draw, screen, is_json=sheets.is_json)


def recipe_of(model: str, screen: Screen) -> VideoRecipe:
    """Finds the recipe by which a model's frames are preprocessed. Errors: CheckpointError."""
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
    """Names a frame's file; names sort in the order of the frames: ("a", 1, 8, 3.5) → "a-1-00m03.500s.png"."""
    milliseconds = round(time_s * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    digits = len(str(count))
    return f"{name}-{number:0{digits}d}-{minutes:02d}m{rest // 1000:02d}.{rest % 1000:03d}s.png"


def _check(sheets: Sheets, screen: Screen) -> None:
    """Raises a UsageError for options that exclude each other."""
    if sheets.is_each and (sheets.is_shown or sheets.is_whole):
        raise UsageError("--each writes whole frames, a file each. Leave --show and --whole out.")
    if (sheets.is_each or sheets.is_whole) and sheets.framing.fit != "crop":
        raise UsageError("--each and --whole leave frames as they are. Leave --fit out.")
    if sheets.is_shown and sheets.is_json:
        raise UsageError("--show draws on stdout, where --json prints. Leave one of them out.")
    if sheets.is_shown and not sheets.output and not screen.is_terminal:
        raise UsageError("--show draws in a terminal, and stdout isn't one here. Give -o FILE for a picture in a file.")
    is_many = len(sheets.clips) > 1
    if sheets.output == STDOUT:
        if is_many or sheets.is_each or sheets.is_json:
            raise UsageError("-o - writes one sheet: give one clip and neither --each nor --json, or name a folder.")
        if screen.is_terminal:
            raise UsageError("-o - writes PNG, which a terminal can't show. Give --show, or -o FILE.")
    elif sheets.output and not sheets.folder:
        if is_many or sheets.is_each:
            raise UsageError(
                f"-o {sheets.output} is not a folder, and several files are to be written. "
                f"-o {sheets.output}/ makes it one."
            )
        form_of(Path(sheets.output))
    names = [name_of(clip) for clip in sheets.clips]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice and (sheets.output or sheets.has_files):
        raise UsageError(f"Several of the clips would be written as {twice}. Draw them one by one, with -o.")


def _write_sheet(frames: Frames, tiles: Tiles, sheets: Sheets, screen: Screen) -> list[Path]:
    from vllava_cli.media.contact_sheet import Sheet, sheet_picture

    sheet = Sheet.of(frames, title_of(frames.clip.path), tiles, fit=sheets.framing.fit)
    if sheets.is_shown and screen.is_terminal:
        screen.picture(sheet)
    if sheets.output == STDOUT:
        screen.answer(sheet_picture(sheet))
    if not sheets.has_files:
        return []
    return [write_sheet(sheet, sheets.target(frames.clip.path), is_overwriting=sheets.is_overwriting)]


def _write_each(frames: Frames, sheets: Sheets) -> list[Path]:
    from vllava_cli.media.contact_sheet import frame_png

    name, count = name_of(frames.clip.path), len(frames.times_s)
    names = [frame_name(name, number, count, time_s) for number, time_s in enumerate(frames.times_s, 1)]
    targets = [(sheets.folder or Path()) / name for name in names]
    for target in targets:
        sheets.check_free(target)
    pairs = zip(targets, frames.pictures, strict=True)
    return [write(target, frame_png(pixels), is_overwriting=sheets.is_overwriting) for target, pixels in pairs]
