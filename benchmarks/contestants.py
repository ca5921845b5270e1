"""Ways to get the eight frames of a file, each run as `python -m benchmarks.contestants WAY FILE` in a fresh process.

Imports come first and aren't measured. Prints one JSON object: seconds, peak MiB, a digest of the pixels, the times.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer

from benchmarks import floor as groups

Picture = npt.NDArray[np.uint8]
Eight = tuple[Sequence[Picture], Sequence[float]]
"""RGB and seconds."""


def reference(path: Path) -> Callable[[], Eight]:
    """The loop of transformers' documentation: decodes every frame up to the last one it needs."""
    with av.open(str(path)) as counted:
        total = counted.streams.video[0].frames or sum(packet.size > 0 for packet in counted.demux(video=0))

    def run() -> Eight:
        with av.open(str(path)) as container:
            frames = passed(container, total)
            return [_rgb(frame) for frame in frames], [frame.time or 0.0 for frame in frames]

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


def ours(path: Path) -> Callable[[], Eight]:
    """What the decoding process of vllava runs."""
    from vllava_cli.media.sample import sample
    from vllava_cli.nouns import Framing

    def run() -> Eight:
        frames = sample(path, Framing())
        return list(frames.pixels), frames.times_s

    return run


def torchcodec(path: Path) -> Callable[[], Eight]:
    """torchcodec's exact mode, at the same positions, on as many threads as it takes by itself."""
    import torch  # noqa: F401
    from torchcodec.decoders import VideoDecoder

    def run() -> Eight:
        decoder = VideoDecoder(str(path), seek_mode="exact", dimension_order="NHWC")
        total = len(decoder)
        batch = decoder.get_frames_at([index * total // 8 for index in range(8)])
        return list(batch.data.numpy()), batch.pts_seconds.tolist()

    return run


def ffmpeg(path: Path) -> Callable[[], Eight]:
    """The command, once for each frame, told the frame's time beforehand; it reports no times itself."""
    subprocess.run(["ffmpeg", "-version"], capture_output=True, check=True)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stamps = sorted(
            float(packet.pts * packet.time_base) for packet in container.demux(stream) if packet.pts is not None
        )
        height, width = stream.height, stream.width
    half_s = (stamps[1] - stamps[0]) / 2
    starts_s = [max(0.0, stamps[index * len(stamps) // 8] - stamps[0] - half_s) for index in range(8)]

    def run() -> Eight:
        raw = [_ffmpeg_frame(path, start_s) for start_s in starts_s]
        return [np.frombuffer(data, np.uint8).reshape(height, width, 3) for data in raw], ()

    return run


def floor(path: Path) -> Callable[[], Eight]:
    """Only the needed groups, with the threads that PyAV takes by itself."""
    return groups.prepared(path, "SLICE")


def floor_threads(path: Path) -> Callable[[], Eight]:
    """The same with FFmpeg's frame threads."""
    return groups.prepared(path, "AUTO")


WAYS = {way.__name__: way for way in (reference, ours, torchcodec, ffmpeg, floor, floor_threads)}


def _ffmpeg_frame(path: Path, start_s: float) -> bytes:
    seek = ["-ss", f"{start_s:.6f}"] if start_s else []
    into = ["-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    return subprocess.run(
        ["ffmpeg", "-v", "error", "-nostdin", *seek, "-i", str(path), *into], capture_output=True, check=True
    ).stdout


def _rgb(frame: av.VideoFrame) -> Picture:
    return cast("Picture", frame.to_ndarray(format="rgb24"))


def _peak_mib() -> float | None:
    """Of this process alone: ru_maxrss of a child begins with its parent's peak on Linux; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(words.split()[1]) / 1024 for words in lines if words.startswith("VmHWM"))


def main(way: str, path: str) -> None:
    run = WAYS[way](Path(path))
    started = time.perf_counter()
    pixels, times_s = run()
    seconds = time.perf_counter() - started
    mib = None if way == "ffmpeg" else _peak_mib()
    digest = hashlib.sha256()
    for picture in pixels:
        digest.update(np.ascontiguousarray(picture).tobytes())
    row = {"seconds": seconds, "mib": mib, "digest": digest.hexdigest(), "times_s": [t - times_s[0] for t in times_s]}
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
