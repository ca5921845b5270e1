"""What passes between `Guard` and its child: a line of ASCII JSON each way, and after that of frames their raw pixels.

The guard trusts nothing that comes back: every value is checked before it is used or room is made for it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from vllava_cli.errors import MediaError, UsageError, VllavaError
from vllava_cli.nouns import FRAMES_PER_CLIP, Clip, Frames, Framing, MediaKind, Tiles, VideoRecipe, Way

READY = b'{"is": "ready"}\n'
MAX_PIXELS = 89_478_485
"""As in clip.py, which the guard doesn't import: the decoders stay out of its process."""

Call = Literal["sample", "probe", "header"]

_MAX_TEXT = 1 << 16
_MAX_LINE = 1 << 22
_MAX_COUNT = 1 << 53


class WireError(Exception):
    """The other end said something that makes no sense."""


class OutOfMemoryError(Exception):
    """The child ran into its memory limit."""


class DecoderBugError(Exception):
    """An error in the child that is no fault of the file; its message is the child's traceback."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of `sample`, `probe` or `header`; `cpu_s` are the CPU seconds that it may take."""

    call: Call
    path: Path
    folder: str
    """The current folder of the caller, in which a relative path is looked up."""
    cpu_s: int
    framing: Framing = field(default_factory=Framing)
    is_full: bool = False
    tiles: Tiles | None = None
    """Of the frames, only their tiles are to come back."""

    @property
    def max_frames(self) -> int:
        return len(self.framing.at_s) or FRAMES_PER_CLIP

    def line(self) -> bytes:
        """As JSON; file names may be any bytes: b"caf\\xe9" → "caf\\u00e9"."""
        names = {"path": _text_of_name(self.path), "folder": _text_of_name(self.folder)}
        return _line({**asdict(self), **names})

    @classmethod
    def read(cls, line: bytes) -> Request:
        facts = json.loads(line)
        framing = facts["framing"]
        names = {"path": Path(_name_of_text(facts["path"])), "folder": _name_of_text(facts["folder"])}
        tiles = facts["tiles"]
        if isinstance(tiles, dict):
            tiles = VideoRecipe(**{**tiles, "mean": tuple(tiles["mean"]), "std": tuple(tiles["std"])})
        framing = Framing(**{**framing, "at_s": tuple(framing["at_s"])})
        return cls(**{**facts, **names, "framing": framing, "tiles": tiles})


def frames_line(frames: Frames, pictures: int | None = None) -> bytes:
    """The line that goes before the pixels; of frames that are all the same, one picture may follow."""
    shape = (pictures or len(frames.times_s), *frames.pixels.shape[1:3])
    return _line({"is": "frames", "clip": _facts(frames.clip), "times_s": frames.times_s, "shape": shape})


def pictures(frames: Frames) -> npt.NDArray[np.uint8]:
    """The pixels in one piece; of frames that are all the same, those of one: [1, H, W, 3]."""
    pixels = frames.pixels
    is_one = len(set(frames.times_s)) == 1 and all(np.array_equal(pixels[0], other) for other in pixels[1:])
    return np.ascontiguousarray(pixels[:1] if is_one else pixels)


def clip_line(clip: Clip) -> bytes:
    return _line({"is": "clip", "clip": _facts(clip)})


def error_line(error: VllavaError) -> bytes:
    name = "usage error" if isinstance(error, UsageError) else "media error"
    return _line({"is": name, "sentence": str(error)})


def memory_line() -> bytes:
    return _line({"is": "memory error"})


def bug_line(traceback: str) -> bytes:
    return _line({"is": "bug", "traceback": traceback[-_MAX_TEXT:]})


def read_reply(stream: BinaryIO, request: Request, *, max_bytes: int) -> Frames | Clip:
    """The answer to `request`, its frames no larger than `max_bytes`.

    Errors: MediaError and UsageError as the child raised them; OutOfMemoryError; DecoderBugError; EOFError where the
    stream ends; WireError for anything that a sound child wouldn't say.
    """
    limit = _MAX_LINE + 32 * request.max_frames
    line = stream.readline(limit)
    if not line.endswith(b"\n"):
        raise WireError("a line without an end") if len(line) == limit else EOFError
    try:
        return _reply(json.loads(line), stream, request, max_bytes)
    except (KeyError, TypeError, ValueError, RecursionError) as exc:
        raise WireError(f"{type(exc).__name__}: {str(exc)[:200]}") from exc


def _reply(facts: dict[str, Any], stream: BinaryIO, request: Request, max_bytes: int) -> Frames | Clip:
    match facts["is"]:
        case "frames" if request.call == "sample":
            return _read_frames(facts, stream, request, max_bytes)
        case "clip" if request.call == "probe":
            return _clip(facts["clip"], request.path)
        case "clip" if request.call == "header":
            return _clip(facts["clip"], request.path, least_side=0)
        case "media error":
            raise MediaError(_text(facts["sentence"]))
        case "usage error":
            raise UsageError(_text(facts["sentence"]))
        case "memory error":
            raise OutOfMemoryError
        case "bug":
            raise DecoderBugError(_printable(_text(facts["traceback"])))
    raise ValueError("no answer to what was asked")


def _read_frames(facts: dict[str, Any], stream: BinaryIO, request: Request, max_bytes: int) -> Frames:
    clip, times_s = _clip(facts["clip"], request.path), tuple(_number(time_s) for time_s in facts["times_s"])
    count, height, width = (_count(size, least=1) for size in facts["shape"])
    is_fitting = count in (1, len(times_s)) and (bool(request.tiles) or (height, width) == (clip.height, clip.width))
    shape = (len(times_s), height, width, 3)
    if not is_fitting or not 1 <= len(times_s) <= request.max_frames or math.prod(shape) > max_bytes:
        raise ValueError(f"frames of {shape}")
    pixels = np.empty((count, *shape[1:]), np.uint8)
    if stream.readinto(pixels.reshape(-1)) < pixels.size:  # type: ignore[attr-defined]
        raise EOFError
    if count < len(times_s):  # all of them are that one, in the same memory
        pixels = np.lib.stride_tricks.as_strided(pixels, shape, (0, *pixels.strides[1:]))
    return Frames(clip=clip, pixels=pixels, times_s=times_s)


def _facts(clip: Clip) -> dict[str, Any]:
    facts = asdict(clip)
    del facts["path"]
    return facts


def _clip(facts: dict[str, Any], path: Path, *, least_side: int = 1) -> Clip:
    clip = Clip(
        path=path,
        kind=cast(MediaKind, _one_of(facts["kind"], get_args(MediaKind))),
        width=_count(facts["width"], least=least_side),
        height=_count(facts["height"], least=least_side),
        frame_count=_count(facts["frame_count"]),
        duration_s=_number_or_none(facts["duration_s"]),
        fps=_number_or_none(facts["fps"]),
        codec=_text(facts["codec"]),
        container=_text(facts["container"]),
        pixel_format=_text(facts["pixel_format"]),
        is_rate_constant=cast(bool | None, _one_of(facts["is_rate_constant"], (True, False, None))),
        way=cast(Way | None, _one_of(facts["way"], (*get_args(Way), None))),
        way_reason=_text(facts["way_reason"]),
        rotation=cast(int, _one_of(facts["rotation"], (0, 90, 180, 270))),
        faults=tuple(_text(fault) for fault in facts["faults"]),
    )
    if clip.width * clip.height > MAX_PIXELS:
        raise ValueError(f"a picture of {clip.width}x{clip.height}")
    return clip


def _one_of(value: object, allowed: Sequence[object]) -> object:
    """1 is not True here."""
    if not any(value is one or (type(value) is type(one) and value == one) for one in allowed):
        raise ValueError("a value that isn't among those allowed")
    return value


def _count(value: object, *, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= _MAX_COUNT:
        raise ValueError("a count that is none")
    return value


def _number(value: object) -> float:
    if type(value) not in (int, float) or not math.isfinite(cast(float, value)):
        raise ValueError("a number that is none")
    return cast(float, value)


def _number_or_none(value: object) -> float | None:
    return None if value is None else _number(value)


def _text(value: object) -> str:
    if type(value) is not str or len(value) > _MAX_TEXT:
        raise ValueError("a text that is none, or too long")
    return value


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def _line(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts).encode("ascii") + b"\n"


def _text_of_name(name: str | Path) -> str:
    return os.fsencode(name).decode("latin-1")


def _name_of_text(text: str) -> str:
    return os.fsdecode(text.encode("latin-1"))
