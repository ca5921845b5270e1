"""Contact sheets as files: their names and forms; none is overwritten unasked.

Shared by `vllava frames` and `/frames` in a chat.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from vllava_cli.errors import OutputError, UsageError, os_reason, quoted
from vllava_cli.nouns import Fit, Frames, PictureForm, VideoRecipe
from vllava_cli.storage.files import as_output_error, atomic_write

_MAX_NAME_BYTES = 200


def write_sheet(frames: Frames, recipe: VideoRecipe, target: Path | None = None, *, fit: Fit = "crop") -> Path:
    """Writes the frames as the model sees them; returns where: `target`, or a free name in that or this folder.

    Errors: OutputError for a file that is there already or can't be written, UsageError as `form_of`, MediaError as
    `contact_sheet.seen`.
    """
    from vllava_cli.media.contact_sheet import Sheet, sheet_picture, tiled

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
            f"{quoted(target)} ends like neither a PNG nor a JPEG, which a sheet can be: name it .png or .jpg."
        )
    return "JPEG" if suffix.startswith(".j") else "PNG"


def make_folder(folder: Path) -> None:
    """Makes it, with those above it, where it isn't there. Errors: OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(
            f"The folder {quoted(folder)} can't be made: {os_reason(exc)}. Choose another place."
        ) from exc


def sheet_path(clip: Path, folder: Path = Path()) -> Path:
    """a/holiday.mp4 → "holiday-frames.png" """
    return folder / f"{name_of(clip)}-frames.png"


def free_sheet_path(clip: Path, folder: Path = Path()) -> Path:
    """Name a sheet that isn't there yet: "holiday-frames.png", else "holiday-frames-2.png" and so on."""
    first = sheet_path(clip, folder)
    others = (first.with_stem(f"{first.stem}-{number}") for number in count(2))
    return first if not os.path.lexists(first) else next(path for path in others if not os.path.lexists(path))


def name_of(clip: Path) -> str:
    """Name the files of a clip: a/holiday.mp4 → "holiday", - → "stdin"; letters that can't be shown become "_"."""
    if str(clip) == "-":
        return "stdin"
    whole = clip if clip.name and clip.name != ".." else clip.resolve()
    stem = whole.name if os.path.isdir(whole) else whole.stem
    name = "".join(letter if letter.isprintable() else "_" for letter in stem)
    while len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = name[:-1]
    return name or "clip"


def title_of(clip: Path) -> str:
    """Name a clip above its frames: a/holiday.mp4 → "holiday.mp4"."""
    return "stdin" if str(clip) == "-" else clip.name or str(clip.resolve())


def check_free(target: Path, remedy: str = "Name another file.") -> None:
    """Raises an OutputError where something is there already."""
    if os.path.lexists(target):
        raise OutputError(f"{quoted(target)} is already there. {remedy}")


def write(target: Path, data: bytes, *, is_overwriting: bool = False, mode: int | None = None) -> Path:
    """Replaces a file in one step, and writes to a device or a named pipe; returns `target`. Errors: OutputError."""
    if not is_overwriting:
        check_free(target)
    with as_output_error(target):
        is_stream = target.exists() and not target.is_file() and not target.is_dir()
        if is_stream:
            target.write_bytes(data)
    if not is_stream:
        atomic_write(target, [data], mode=mode)
    return target
