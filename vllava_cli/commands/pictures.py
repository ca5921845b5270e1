"""Contact sheets as files: what they are called, that none is overwritten, that they are there whole or not at all.

Shared by `vllava frames` and `/frames` in a chat.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

from vllava_cli.errors import OutputError, UsageError
from vllava_cli.nouns import Fit, Frames, PictureForm, VideoRecipe

_MAX_NAME_BYTES = 200


def write_sheet(frames: Frames, recipe: VideoRecipe, target: Path | None = None, *, fit: Fit = "crop") -> Path:
    """Writes the frames as the model sees them; returns where: `target`, or a free name in that or this folder.

    Errors: OutputError for a file that is there already or can't be written, UsageError as `form_of`, MediaError as
    `square.seen`.
    """
    from vllava_cli.media.sheet import Sheet, sheet_picture, tiled

    clip = frames.clip.path
    if target is None or os.path.isdir(target):
        target = free_sheet_path(clip, target or Path())
    form = form_of(target)
    sheet = Sheet.of(tiled(frames, recipe, fit=fit), title_of(clip), recipe, fit=fit)
    return write(target, sheet_picture(sheet, form))


def form_of(target: Path) -> PictureForm:
    """a.png → "PNG", a.jpg → "JPEG", a → "PNG". Errors: UsageError for any other ending."""
    suffix = target.suffix.lower()
    if suffix not in ("", ".png", ".jpg", ".jpeg"):
        raise UsageError(
            f"{_shown(target)} ends like neither a PNG nor a JPEG, which a sheet can be: name it .png or .jpg."
        )
    return "JPEG" if suffix.startswith(".j") else "PNG"


def make_folder(folder: Path) -> None:
    """Makes it, with those above it, where it isn't there. Errors: OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise OutputError(f"The folder {_shown(folder)} can't be made: {reason}. Choose another place.") from exc


def sheet_path(clip: Path, folder: Path = Path()) -> Path:
    """a/holiday.mp4 → "holiday-frames.png" """
    return folder / f"{name_of(clip)}-frames.png"


def free_sheet_path(clip: Path, folder: Path = Path()) -> Path:
    """The same, or, where that is there already, "holiday-frames-2.png" and so on."""
    first = sheet_path(clip, folder)
    others = (first.with_stem(f"{first.stem}-{number}") for number in count(2))
    return first if not os.path.lexists(first) else next(path for path in others if not os.path.lexists(path))


def name_of(clip: Path) -> str:
    """What the files of a clip are called: a/holiday.mp4 → "holiday", - → "stdin"; what can't be shown becomes "_"."""
    if str(clip) == "-":
        return "stdin"
    whole = clip if clip.name and clip.name != ".." else clip.resolve()
    stem = whole.name if os.path.isdir(whole) else whole.stem
    name = "".join(letter if letter.isprintable() else "_" for letter in stem)
    while len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = name[:-1]
    return name or "clip"


def title_of(clip: Path) -> str:
    """What stands above a clip's frames: a/holiday.mp4 → "holiday.mp4"."""
    return "stdin" if str(clip) == "-" else clip.name or str(clip.resolve())


def check_free(target: Path, remedy: str = "Name another file.") -> None:
    """Raises an OutputError where something is there already."""
    if os.path.lexists(target):
        raise OutputError(f"{_shown(target)} is already there. {remedy}")


def write(target: Path, data: bytes, *, is_overwriting: bool = False, mode: int = 0o666) -> Path:
    """Writes under a temporary name first; returns `target`. The umask is taken off the mode. Errors: OutputError."""
    part = target.parent / f".vllava-{os.getpid()}.part"
    if not is_overwriting:
        check_free(target)
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)  # a device or a named pipe stays what it is
            return target
        try:
            with open(part, "xb", opener=partial(os.open, mode=mode)) as file:
                file.write(data)
            part.replace(target)
        finally:
            with suppress(FileNotFoundError):
                part.unlink()
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise OutputError(f"{_shown(target)} can't be written: {reason}. Choose another place.") from exc
    return target


def _shown(path: Path) -> str:
    return f"'{os.fsencode(path).decode(errors='replace')}'"
