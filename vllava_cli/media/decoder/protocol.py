"""The messages between `DecoderClient` and its process: a pickled `Request`, then a line of ASCII JSON and raw pixels.

The client trusts no answer: it checks every value before it uses the value or takes memory for it.
"""

from __future__ import annotations

import json
import math
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import numpy.typing as npt

from vllava_cli.errors import DamagedError, MediaError, UsageError, VllavaError
from vllava_cli.media.file_check import MAX_PIXELS
from vllava_cli.nouns import FRAMES_PER_CLIP, Clip, Frames, Framing, PickReason, Tiles
from vllava_cli.storage.fields import Fields

READY = b'{"is": "ready"}\n'

Call = Literal["sample", "probe", "header", "documented"]

_MAX_TRACEBACK = 1 << 15
_MAX_LINE = 1 << 18
"""The length of the longest line without the frames' times: in JSON, a letter of a traceback takes up to six bytes."""


class ProtocolError(VllavaError):
    """The decoding process sent an answer that makes no sense."""


class OutOfMemoryError(Exception):
    """The decoding process ran into its memory limit."""


class DecoderBugError(Exception):
    """An error in the decoding process that isn't the file's fault; the message is that process's traceback."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A call that the process carries out, with its arguments; it may take `cpu_s` CPU seconds."""

    call: Call
    path: Path
    folder: str
    """The current folder of the caller, in which a relative path is looked up."""
    cpu_s: int
    framing: Framing = field(default_factory=Framing)
    is_full: bool = False
    tiles: Tiles | None = None
    """The tiles to which the process reduces the frames; None for whole frames."""

    @property
    def max_frames(self) -> int:
        return len(self.framing.at_s) or FRAMES_PER_CLIP


_ERRORS = {"damage": DamagedError, "media error": MediaError, "usage error": UsageError}


def result_line(result: Frames | Clip, pixels: npt.NDArray[np.uint8] | None = None) -> bytes:
    """Returns the line for a Clip or for Frames; Frames' line has the shape of `pixels`, which are sent after it."""
    if isinstance(result, Clip):
        return _line({"is": "clip", "clip": _facts(result)})
    shape = (result.pixels if pixels is None else pixels).shape[:3]
    facts = {"is": "frames", "clip": _facts(result.clip), "times_s": result.times_s, "shape": shape}
    further = {"sizes": result.sizes, "reasons": result.reasons}
    return _line(facts | {name: values for name, values in further.items() if values})


def pictures(frames: Frames) -> npt.NDArray[np.uint8]:
    """Returns the pixels to send, in one piece of memory; if all frames are the same, only one: [1, H, W, 3]."""
    pixels = frames.pixels
    is_one = len(set(frames.times_s)) == 1 and all(np.array_equal(pixels[0], other) for other in pixels[1:])
    return np.ascontiguousarray(pixels[:1] if is_one else pixels)


def error_line(error: Exception) -> bytes:
    """Returns the line for a failed call: a lack of memory, the file's fault, the user's fault, or else a bug."""
    if _is_memory_short(error):
        return _line({"is": "memory error"})
    for name, kind in _ERRORS.items():
        if isinstance(error, kind):
            return _line({"is": name, "sentence": str(error)})
    return _line({"is": "bug", "traceback": "".join(traceback.format_exception(error))[-_MAX_TRACEBACK:]})


def read_reply(stream: BinaryIO, request: Request, *, max_bytes: int) -> Frames | Clip:
    """Reads the answer to `request`; its frames may be no larger than `max_bytes`.

    Errors: MediaError and UsageError as the process raised them; OutOfMemoryError; DecoderBugError; EOFError if the
    stream ends; ProtocolError for anything that a sound process wouldn't send.
    """
    limit = _MAX_LINE + 32 * request.max_frames
    line = stream.readline(limit)
    if not line.endswith(b"\n"):
        raise ProtocolError("a line without an end") if len(line) == limit else EOFError
    try:
        return _reply(Fields(json.loads(line), "the answer", error=ProtocolError), stream, request, max_bytes)
    except (TypeError, ValueError, RecursionError) as exc:
        raise ProtocolError(f"{type(exc).__name__}: {str(exc)[:200]}") from exc


def _reply(fields: Fields, stream: BinaryIO, request: Request, max_bytes: int) -> Frames | Clip:
    match fields.text("is"):
        case "frames" if request.call == "sample":
            return _read_frames(fields, stream, request, max_bytes)
        case "clip" if request.call != "sample":
            return _clip(fields, request)
        case name if name in _ERRORS:
            raise _ERRORS[name](fields.text("sentence"))
        case "memory error":
            raise OutOfMemoryError
        case "bug":
            text = fields.text("traceback")
            raise DecoderBugError("".join(char if char.isprintable() or char == "\n" else "?" for char in text))
    raise ProtocolError("no answer to what was asked")


def _read_frames(fields: Fields, stream: BinaryIO, request: Request, max_bytes: int) -> Frames:
    clip, times_s = _clip(fields, request), fields.each("times_s", Fields.number)
    count, height, width = fields.each("shape", lambda sizes, place: sizes.whole(place, least=1))
    sizes = fields.each("sizes", _size) if fields.has("sizes") else ()
    reasons: tuple[PickReason, ...] = ()
    if fields.has("reasons"):
        reasons = fields.each("reasons", lambda texts, place: texts.one_of(place, get_args(PickReason)))
    if sizes:
        is_sized = len(sizes) == len(times_s) and tuple(map(max, zip(*sizes, strict=True))) == (width, height)
    else:
        is_sized = bool(request.tiles) or (height, width) == (clip.height, clip.width)
    is_fitting = is_sized and count in (1, len(times_s))
    shape = (len(times_s), height, width, 3)
    if not is_fitting or not 1 <= len(times_s) <= request.max_frames or math.prod(shape) > max_bytes:
        raise ProtocolError(f"frames of {shape}")
    pixels = np.empty((count, *shape[1:]), np.uint8)
    if stream.readinto(pixels.reshape(-1)) < pixels.size:  # type: ignore[attr-defined]
        raise EOFError
    if count < len(times_s):  # all frames are equal, and share the memory of one
        pixels = np.lib.stride_tricks.as_strided(pixels, shape, (0, *pixels.strides[1:]))
    return Frames(clip=clip, pixels=pixels, times_s=times_s, sizes=sizes, reasons=reasons)


def _size(sizes: Fields, place: str) -> tuple[int, int]:
    width, height = sizes.each(place, lambda sides, side: sides.whole(side, least=1))
    return width, height


def _facts(clip: Clip) -> dict[str, Any]:
    facts = asdict(clip)
    del facts["path"]
    return facts


def _clip(fields: Fields, request: Request) -> Clip:
    """Reads the facts of a clip; only the answer to `header` may leave its size open. Errors: ProtocolError."""
    clip = fields.inside("clip").build(Clip, path=request.path)
    least = 0 if request.call == "header" else 1
    is_sized = min(clip.width, clip.height) >= least and clip.width * clip.height <= MAX_PIXELS
    if not is_sized or clip.rotation not in (0, 90, 180, 270):
        raise ProtocolError(f"a picture of {clip.width}x{clip.height}, turned by {clip.rotation}")
    return clip


def _is_memory_short(error: BaseException | None) -> bool:
    """Returns True if an error began with a lack of memory: Python's, FFmpeg's (ENOMEM) or a thread's (EAGAIN)."""
    while error is not None and not isinstance(error, MemoryError | BlockingIOError):
        error = error.__cause__
    return error is not None


def _line(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts).encode("ascii") + b"\n"
