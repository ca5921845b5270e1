"""Writes contact sheets as files: chooses names and forms, and overwrites no file unasked.

`vllava frames` and `/frames` in a chat share these functions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.errors import OutputError, UsageError, os_reason, quoted
from vllava_cli.nouns import PictureForm
from vllava_cli.storage.files import as_output_error, atomic_write

if TYPE_CHECKING:
    from vllava_cli.media.contact_sheet import Sheet

_MAX_NAME_BYTES = 200


def write_sheet(sheet: Sheet, target: Path, *, is_overwriting: bool = False) -> Path:
    """Writes a sheet as a PNG or a JPEG, and returns `target`. Errors: those of `write` and `form_of`."""
    from vllava_cli.media.contact_sheet import sheet_picture

    return write(target, sheet_picture(sheet, form_of(target)), is_overwriting=is_overwriting)


def form_of(target: Path) -> PictureForm:
    """Tells the form from a name's ending: a.png → "PNG", a.jpg → "JPEG", a → "PNG". Errors: UsageError for others."""
    suffix = target.suffix.lower()
    if suffix not in ("", ".png", ".jpg", ".jpeg"):
        raise UsageError(f"{quoted(target)} has neither the ending of a PNG nor that of a JPEG: name it .png or .jpg.")
    return "JPEG" if suffix.startswith(".j") else "PNG"


def make_folder(folder: Path) -> None:
    """Makes a folder, and the folders above it, where they are missing. Errors: OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(
            f"The folder {quoted(folder)} can't be made: {os_reason(exc)}. Choose another place."
        ) from exc


def free_sheet_path(clip: Path, folder: Path) -> Path:
    """Returns a path at which no file is yet: "holiday-frames.png", else "holiday-frames-2.png" and so on."""
    numbered = (folder / f"{name_of(clip)}-frames{suffix}.png" for suffix in chain([""], map("-{}".format, count(2))))
    return next(path for path in numbered if not os.path.lexists(path))


def name_of(clip: Path) -> str:
    """Names the files of a clip: a/holiday.mp4 → "holiday", - → "stdin"; unprintable letters become "_"."""
    if str(clip) == "-":
        return "stdin"
    whole = clip if clip.name and clip.name != ".." else clip.resolve()
    stem = whole.name if os.path.isdir(whole) else whole.stem
    name = "".join(letter if letter.isprintable() else "_" for letter in stem)
    while len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = name[:-1]
    return name or "clip"


def title_of(clip: Path) -> str:
    """Returns the title above a clip's frames: a/holiday.mp4 → "holiday.mp4"."""
    return "stdin" if str(clip) == "-" else clip.name or str(clip.resolve())


def check_free(target: Path, remedy: str = "Name another file.") -> None:
    """Raises an OutputError if `target` exists already."""
    if os.path.lexists(target):
        raise OutputError(f"{quoted(target)} is already there. {remedy}")


def check_unread(target: Path, inputs: Iterable[Path]) -> None:
    """Raises an OutputError if `target` is one of the files that are read, also by another name."""
    for each in inputs if target.exists() else ():
        with suppress(OSError, ValueError):
            if target.samefile(each):
                raise OutputError(f"{quoted(target)} is read here and can't be the output, too. Name another file.")


def write(target: Path, data: bytes, *, is_overwriting: bool = False, mode: int | None = None) -> Path:
    """Writes a file in one step, or into a device or a named pipe; returns `target`.

    Errors: OutputError, also if `target` exists and `is_overwriting` is False.
    """
    if not is_overwriting:
        check_free(target)
    with as_output_error(target):
        is_stream = target.exists() and not target.is_file() and not target.is_dir()
        if is_stream:
            target.write_bytes(data)
    if not is_stream:
        atomic_write(target, [data], mode=mode)
    return target
