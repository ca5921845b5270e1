"""The exact eight: `sample` gives the frames that decoding the whole file and picking the reference positions gives.

Two passes over a video: one counts the frames that can be decoded and notes their times, one converts the picked ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vllava_cli.errors import MediaError
from vllava_cli.media.animation import sample_animation
from vllava_cli.media.clip import DECODE_ERRORS, check_file, opened, shown, video_stream
from vllava_cli.media.pick import check_trim, in_play, pick
from vllava_cli.media.still import look, read_still
from vllava_cli.media.upright import Orientation, orientation, upright
from vllava_cli.nouns import Clip, Frames, Framing

_UNKNOWN_RATE = Fraction(25)


@dataclass(kw_only=True)
class _Tally:
    """What one pass met: `packets` were read and `refused` of them could not be decoded."""

    packets: int = 0
    refused: int = 0
    is_cut: bool = False
    """The container itself broke off with an error."""


@dataclass(frozen=True, kw_only=True)
class _Survey:
    """What the first pass learnt; times in seconds from the first frame, width and height as stored."""

    times_s: tuple[float, ...]
    duration_s: float
    fps: float
    width: int
    height: int
    codec: str
    turn: Orientation
    faults: tuple[str, ...]


def sample(path: Path, framing: Framing) -> Frames:
    """The frames of a video (eight) or an image (one), [T, H, W, 3] RGB, upright; the content decides which it is.

    A trim concerns videos only. Raises a `MediaError` for a file that can't be used, a `UsageError` for a wrong trim.
    """
    check_trim(framing)
    check_file(path)
    try:
        return _by_content(path, framing)
    except MemoryError as exc:
        raise MediaError(f"{shown(path)} needs more memory than there is. Scale it down first.") from exc


def _by_content(path: Path, framing: Framing) -> Frames:
    match look(path):
        case "still":
            return read_still(path)
        case "animation":
            return sample_animation(path, framing)
        case "video":
            return _sample_video(path, framing)


def _sample_video(path: Path, framing: Framing) -> Frames:
    with opened(path) as container:
        survey = _survey(container, path)
    playing = in_play(survey.times_s, framing, duration_s=survey.duration_s, name=shown(path))
    chosen = tuple(playing[position] for position in pick(len(playing)))
    with opened(path) as container:
        pixels = upright(_fetch(container, path, chosen, survey), survey.turn)
    times_s = tuple(survey.times_s[index] for index in chosen)
    return Frames(clip=_clip(path, survey, pixels.shape), pixels=pixels, times_s=times_s)


def _clip(path: Path, survey: _Survey, shape: tuple[int, ...]) -> Clip:
    return Clip(
        path=path,
        kind="video",
        width=shape[2],
        height=shape[1],
        frame_count=len(survey.times_s),
        duration_s=survey.duration_s,
        fps=survey.fps,
        codec=survey.codec,
        rotation=survey.turn.rotation,
        faults=survey.faults,
    )


def _survey(container: InputContainer, path: Path) -> _Survey:
    stream, tally = video_stream(container, path), _Tally()
    frames = _decoded(container, stream, tally)
    first = next(frames, None)
    if first is None:
        raise MediaError(f"No frame of {shown(path)} could be decoded: it is damaged. Copy or download it again.")
    base, matrix = first.time_base or stream.time_base or Fraction(1), _matrix(first)
    stamps, last_duration = [first.pts], first.duration
    for frame in frames:
        stamps.append(frame.pts)
        last_duration = frame.duration
    times_s, fps = _times(stamps, base, stream.average_rate or stream.guessed_rate or _UNKNOWN_RATE)
    return _Survey(
        times_s=times_s,
        duration_s=times_s[-1] + (float(last_duration * base) if last_duration else 1 / fps),
        fps=fps,
        width=first.width,
        height=first.height,
        codec=stream.codec_context.name,
        turn=orientation(matrix),
        faults=_faults(path, len(stamps), _promised(container, stream), tally),
    )


def _fetch(container: InputContainer, path: Path, chosen: Sequence[int], survey: _Survey) -> npt.NDArray[np.uint8]:
    """Decodes up to the last chosen frame → [len(chosen), H, W, 3] as stored; converts only those to RGB."""
    stream = video_stream(container, path)
    pixels = np.empty((len(chosen), survey.height, survey.width, 3), np.uint8)
    slots: Mapping[int, list[int]] = {index: [s for s, at in enumerate(chosen) if at == index] for index in chosen}
    for index, frame in enumerate(_decoded(container, stream, _Tally())):
        if index in slots:
            pixels[slots[index]] = _rgb(frame, survey)
        if index == chosen[-1]:
            return pixels
    raise MediaError(f"{shown(path)} changed while it was read. Try again.")


def _decoded(container: InputContainer, stream: VideoStream, tally: _Tally) -> Iterator[VideoFrame]:
    """Every frame that the decoder shows, in order, damaged ones included.

    The documentation's loop stops with an error at the first packet that the decoder refuses; here such packets are
    counted and passed over, as players do. Where the container itself breaks off, that is the end.
    """
    for packet in _packets(container, stream, tally):
        try:
            yield from packet.decode()
        except DECODE_ERRORS:
            tally.refused += 1


def _packets(container: InputContainer, stream: VideoStream, tally: _Tally) -> Iterator[Packet[VideoStream]]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except DECODE_ERRORS:
            tally.is_cut = True
            return
        if packet is None:
            return
        tally.packets += packet.size > 0
        yield packet


def _rgb(frame: VideoFrame, survey: _Survey) -> npt.NDArray[np.uint8]:
    """The conversion of transformers' documentation; a frame of another size than the first is scaled to the first."""
    if (frame.width, frame.height) == (survey.width, survey.height):
        return cast("npt.NDArray[np.uint8]", frame.to_ndarray(format="rgb24"))
    scaled = frame.to_ndarray(format="rgb24", width=survey.width, height=survey.height)
    return cast("npt.NDArray[np.uint8]", scaled)


def _matrix(frame: VideoFrame) -> bytes | None:
    try:
        return bytes(cast("Any", frame.side_data)["DISPLAYMATRIX"])
    except KeyError:
        return None


def _times(stamps: Sequence[int | None], base: Fraction, rate: Fraction) -> tuple[tuple[float, ...], float]:
    """Seconds from the first frame, and frames per second; the declared rate gives both if a stamp is missing."""
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < len(stamps):
        return tuple(float(index / rate) for index in range(len(stamps))), float(rate)
    times_s = tuple(float((stamp - known[0]) * base) for stamp in known)
    fps = (len(times_s) - 1) / times_s[-1] if times_s[-1] > 0 else float(rate)
    return times_s, fps


def _promised(container: InputContainer, stream: VideoStream) -> int:
    """How many packets the container says it holds, 0 for unknown. An edit list shortens a mov's index, rightly."""
    return len(stream.index_entries) if "mov" in container.format.name else stream.frames


def _faults(path: Path, decoded: int, promised: int, tally: _Tally) -> tuple[str, ...]:
    expected = max(promised, tally.packets)
    if decoded < expected and (tally.refused or tally.is_cut or tally.packets < promised):
        return (f"{decoded} of {expected} frames of {shown(path)} could be decoded: the file is truncated or damaged.",)
    if tally.is_cut:
        return (f"{shown(path)} breaks off after {decoded} frames: the file is truncated or damaged.",)
    return ()
