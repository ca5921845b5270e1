"""The ways to get the eight frames of a file, as functions that prepare and give back what is put on the clock.

What a rival knows beforehand, because a user could, isn't on the clock: how many frames there are, or where they lie.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer

from vllava_cli.media.measuring import floor as groups
from vllava_cli.media.measuring.eight import Eight, Picture, bare, rgb
from vllava_cli.media.pictures import matrix_of
from vllava_cli.media.sample import sample
from vllava_cli.media.select import pick
from vllava_cli.nouns import Framing

Prepared = Callable[[], Eight]


def reference(path: Path) -> Prepared:
    """The loop of transformers' documentation: decodes every frame up to the last one it needs.

    Of fewer than eight frames it gives each once; they are repeated here, which takes no time, as a model needs them.
    """
    with bare(path) as counted:
        total = counted.streams.video[0].frames or sum(packet.size > 0 for packet in counted.demux(video=0))

    def run() -> Eight:
        with bare(path) as container:
            frames = passed(container, total)
            pictures, times_s = [rgb(frame) for frame in frames], [frame.time or 0.0 for frame in frames]
        places = pick(len(frames)) if 0 < len(frames) == total < 8 else range(len(frames))
        return Eight(
            pictures=[pictures[place] for place in places],
            times_s=[times_s[place] for place in places],
            matrix=matrix_of(frames[0]) if frames else None,
        )

    return run


def passed(container: InputContainer, total: int) -> list[av.VideoFrame]:
    """The eight of `total` frames, which the documentation's loop keeps while it decodes every one up to the last."""
    frames, indices = [], np.arange(0, total, total / 8).astype(int)
    container.seek(0)
    for index, frame in enumerate(container.decode(video=0)):
        if index > indices[-1]:
            break
        if index >= indices[0] and index in indices:
            frames.append(frame)
    return frames


def ours(path: Path) -> Prepared:
    """What the decoding process of vllava runs."""

    def run() -> Eight:
        frames = sample(path, Framing())
        return Eight(pictures=list(frames.pixels), times_s=frames.times_s)

    return run


def torchcodec(path: Path) -> Prepared:
    """torchcodec's exact mode, at the same positions, on as many threads as it takes by itself."""
    decoder_of: Any = import_module("torchcodec.decoders").VideoDecoder

    def run() -> Eight:
        decoder = decoder_of(str(path), seek_mode="exact", dimension_order="NHWC")
        batch = decoder.get_frames_at(list(pick(len(decoder))))
        return Eight(pictures=list(batch.data.numpy()), times_s=batch.pts_seconds.tolist())

    return run


def ffmpeg(path: Path) -> Prepared:
    """The command, once for each frame, told the frame's time beforehand; it reports no times itself."""
    subprocess.run(["ffmpeg", "-version"], capture_output=True, check=True)
    with bare(path) as container:
        stream = container.streams.video[0]
        stamps = sorted(
            float(packet.pts * packet.time_base) for packet in container.demux(stream) if packet.pts is not None
        )
        height, width = stream.height, stream.width
    if not stamps:
        raise ValueError("the file has no time stamps")
    half_s = (stamps[1] - stamps[0]) / 2 if len(stamps) > 1 else 0.0
    starts_s = [max(0.0, stamps[place] - stamps[0] - half_s) for place in pick(len(stamps))]

    def run() -> Eight:
        raw = [_ffmpeg_frame(path, start_s) for start_s in starts_s]
        return Eight(pictures=[_picture(data, height, width) for data in raw], times_s=())

    return run


def floor(path: Path) -> Prepared:
    """Only the needed groups, with the threads that PyAV takes by itself."""
    return groups.prepared(path, "SLICE")


def floor_threads(path: Path) -> Prepared:
    """The same with FFmpeg's frame threads."""
    return groups.prepared(path, "AUTO")


WAYS: dict[str, Callable[[Path], Prepared]] = {
    way.__name__: way for way in (reference, ours, torchcodec, ffmpeg, floor, floor_threads)
}


def _picture(data: bytes, height: int, width: int) -> Picture:
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _ffmpeg_frame(path: Path, start_s: float) -> bytes:
    seek = ["-ss", f"{start_s:.6f}"] if start_s else []
    source = ["-protocol_whitelist", "file", "-i", f"file:{path.absolute()}"]
    into = ["-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    command = ["ffmpeg", "-v", "error", "-nostdin", *seek, *source, *into]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout
