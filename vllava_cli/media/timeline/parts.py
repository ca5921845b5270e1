"""A part of a clip that becomes a file of its own: what is asked for, what came of it, and its container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vllava_cli.nouns import Clip

CutForm = Literal["mp4", "mov", "matroska", "webm"]
"""FFmpeg's name of the container of a file that is cut out of a clip."""
ENDINGS: dict[CutForm, str] = {"mp4": ".mp4", "mov": ".mov", "matroska": ".mkv", "webm": ".webm"}
_FORMS: dict[str, CutForm] = {"mp4": "mp4", "mov": "mov", "webm": "webm"}


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """The part of a clip that is to become a file, in seconds of the clip, and the container of that file."""

    start_s: float
    end_s: float
    form: CutForm
    is_exact: bool = False
    """True if the file must begin at `start_s`, so that frames are coded again; else it begins at a key frame."""

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The part of a clip that became a file, from its first frame to the end of its last one, in seconds."""

    start_s: float
    end_s: float
    is_copied: bool
    """True if packets were copied; False if frames were coded again."""
    notes: tuple[str, ...] = ()
    """What is otherwise than was asked for, a sentence each."""


def form_for(clip: Clip) -> CutForm:
    """Returns the container for parts of a clip: mp4, mov and webm stay what they are, all others become Matroska.

    a.mp4 and a.m4v → "mp4", a.mov → "mov", a.mkv, a.ts and a.avi → "matroska"
    """
    if clip.container in ("mov", "m4a", "3gp", "3g2", "mj2") and clip.path.suffix.lower() not in (".mov", ".qt"):
        return "mp4"
    return _FORMS.get(clip.container, "matroska")
