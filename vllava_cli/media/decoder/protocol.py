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

from vllava_cli.errors import DamagedError, MediaError, TrimError, UsageError, VllavaError
from vllava_cli.media.file_check import MAX_PIXELS
from vllava_cli.media.timeline.parts import Cut, Cutting
from vllava_cli.media.timeline.windows import LONGEST_TITLE, MOST_WINDOWS, clean_title
from vllava_cli.nouns import (
    FRAMES_PER_CLIP,
    Clip,
    ClipWindows,
    Frames,
    Framing,
    PickReason,
    SpokenLine,
    Subtitles,
    Tiles,
    Window,
    Windowing,
)
from vllava_cli.storage.fields import Fields

READY = b'{"is": "ready"}\n'
CORES_SETTING = "VLLAVA_DECODER_CORES"
"""The environment variable that tells the process how many cores it may use for the frames of a file."""

Call = Literal["sample", "probe", "header", "documented", "cut", "subtitles", "windows", "window"]
"""The last two keep the clip open in the process: "windows" finds its windows, "window" reads the frames of one."""
Found = Frames | Clip | Cut | Subtitles | ClipWindows

_MAX_TRACEBACK = 1 << 15
_MAX_ROW = 160 + 12 * LONGEST_TITLE
"""The length of the longest window in JSON: two times, a title, and what it is."""
_MAX_PIECE = 4 << 20
MOST_CUT_BYTES = 1 << 40
"""The largest file that the process may have written for it."""
_MAX_LINE = 1 << 18
"""The length of the longest line without the frames' times: in JSON, a letter of a traceback takes up to six bytes."""
MOST_LINES = 50_000
MOST_CHARACTERS = 2 << 20
"""The characters of all lines of a clip's subtitles; a day of speech has about 1.2 million."""
_MOST_SUBTITLES = 12 * MOST_CHARACTERS + 128 * MOST_LINES
"""The length of the longest line with subtitles; outside Unicode's first plane, a letter takes twelve bytes."""
_MOST_FAULTS = 4


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
    cutting: Cutting | None = None
    more_s: float = 0.0
    """The seconds that it may take besides those that any file may take."""
    sidecar: Path | None = None
    """The file whose subtitles are read instead of the clip's own."""
    windowing: Windowing | None = None
    following: tuple[Framing, ...] = ()
    """The framings of the same clip that are likely to be asked for next."""

    @property
    def max_frames(self) -> int:
        return len(self.framing.at_s) or FRAMES_PER_CLIP


_ERRORS = {"damage": DamagedError, "trim": TrimError, "media error": MediaError, "usage error": UsageError}


class SentFile:
    """A file that the process can't write itself: each piece goes to the caller, who writes it. Nothing can be read."""

    def __init__(self, replies: BinaryIO) -> None:
        self._replies = replies
        self._place = self._end = 0

    def write(self, data: bytes) -> int:
        for first in range(0, len(data), _MAX_PIECE):
            piece = data[first : first + _MAX_PIECE]
            self._replies.write(_line({"is": "piece", "at": self._place, "bytes": len(piece)}))
            self._replies.write(piece)
            self._place += len(piece)
        self._end = max(self._end, self._place)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, self._end)[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def restart(self) -> None:
        """Empties the file."""
        self._place = self._end = 0
        self._replies.write(_line({"is": "restart"}))


def result_line(result: Found, pixels: npt.NDArray[np.uint8] | None = None) -> bytes:
    """Returns the line for a result; Frames' line has the shape of `pixels`, which are sent after it."""
    if isinstance(result, Cut):
        return _line({"is": "cut", "cut": asdict(result)})
    if isinstance(result, Subtitles):
        return _line({"is": "subtitles", **asdict(result)})
    if isinstance(result, Clip):
        return _line({"is": "clip", "clip": _facts(result)})
    if isinstance(result, ClipWindows):
        rows = [
            {"start_s": each.start_s, "end_s": each.end_s, "title": each.title}
            | {"is_held": each.is_held, "is_still": each.is_still}
            for each in result.windows
        ]
        return _line({"is": "windows", "clip": _facts(result.clip), "windows": rows})
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


def read_reply(stream: BinaryIO, request: Request, *, max_bytes: int, into: BinaryIO | None = None) -> Found:
    """Reads the answer to `request`; its frames may be no larger than `max_bytes`. A part is written `into` a file.

    Errors: MediaError and UsageError as the process raised them; OutOfMemoryError; DecoderBugError; EOFError if the
    stream ends; ProtocolError for anything that a sound process wouldn't send; OSError if `into` can't be written.
    """
    fields = _next_line(stream, request)
    while into and fields.text("is") in ("piece", "restart"):
        _take(fields, stream, into)
        fields = _next_line(stream, request)
    try:
        return _reply(fields, stream, request, max_bytes)
    except (TypeError, ValueError, RecursionError) as exc:
        raise _nonsense(exc) from exc


def _next_line(stream: BinaryIO, request: Request) -> Fields:
    limit = _MAX_LINE + 32 * request.max_frames
    if request.call in ("windows", "subtitles"):
        limit = _MAX_LINE + MOST_WINDOWS * _MAX_ROW if request.call == "windows" else _MOST_SUBTITLES
    line = stream.readline(limit)
    if not line.endswith(b"\n"):
        raise ProtocolError("a line without an end") if len(line) == limit else EOFError
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise _nonsense(exc) from exc
    if not isinstance(found, dict):
        raise ProtocolError("not an object")
    return Fields(found, "the answer", error=ProtocolError)


def _nonsense(exc: Exception) -> ProtocolError:
    return ProtocolError(f"{type(exc).__name__}: {str(exc)[:200]}")


def _take(fields: Fields, stream: BinaryIO, into: BinaryIO) -> None:
    """Writes a piece of a cut file at its place, or empties the file. Errors: ProtocolError, EOFError, OSError."""
    if fields.text("is") == "restart":
        into.seek(0)
        into.truncate()
        return
    place, size = fields.whole("at"), fields.whole("bytes")
    if size > _MAX_PIECE or place + size > MOST_CUT_BYTES:
        raise ProtocolError(f"a piece of {size} bytes at {place}")
    piece = stream.read(size)
    if len(piece) < size:
        raise EOFError
    into.seek(place)
    into.write(piece)


def _reply(fields: Fields, stream: BinaryIO, request: Request, max_bytes: int) -> Found:
    match fields.text("is"):
        case "frames" if request.call in ("sample", "window"):
            return _read_frames(fields, stream, request, max_bytes)
        case "cut" if request.call == "cut":
            return fields.inside("cut").build(Cut)
        case "subtitles" if request.call == "subtitles":
            return _read_subtitles(fields)
        case "windows" if request.call == "windows":
            return _windows(fields, request)
        case "clip" if request.call in ("probe", "header", "documented"):
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


def _windows(fields: Fields, request: Request) -> ClipWindows:
    """Reads windows, which must begin one after another in the part of the clip that was asked for."""
    clip = _clip(fields, request)
    windows = fields.each("windows", lambda rows, place: rows.inside(place).build(Window), most=MOST_WINDOWS)
    start_s, end_s = request.framing.start_s or 0.0, min(request.framing.end_s or math.inf, clip.duration_s or 0.0)
    starts = [start_s, *(window.start_s for window in windows)]
    is_within = starts == sorted(starts) and all(window.start_s < window.end_s <= end_s for window in windows)
    is_clean = all(window.title == clean_title(window.title) for window in windows)
    if not (is_within and is_clean) or bool(windows) != (clip.kind == "video"):
        raise ProtocolError(f"{len(windows)} windows that can't be")
    return ClipWindows(clip=clip, windows=windows)


def _read_subtitles(fields: Fields) -> Subtitles:
    """Reads the lines of subtitles. Errors: ProtocolError if they are too many, or their times aren't in order."""
    lines = fields.each("lines", _spoken_line, most=MOST_LINES)
    starts_s = [line.start_s for line in lines]
    if sum(len(line.text) for line in lines) > MOST_CHARACTERS or starts_s != sorted(starts_s):
        raise ProtocolError("lines that are too long or out of order")
    faults = fields.each("faults", Fields.text, most=_MOST_FAULTS)
    return Subtitles(source=fields.text("source"), lines=lines, faults=faults)


def _spoken_line(lines: Fields, place: str) -> SpokenLine:
    line = lines.inside(place).build(SpokenLine)
    if line.end_s < line.start_s or not line.text:
        raise ProtocolError("a line without a text, or one that ends before it begins")
    return line


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
