"""Ways to get the eight frames of a file, each a process of its own: `python -m benchmarks.contestants WAY FILE`.

Imports come first and aren't measured. Prints one JSON object: seconds, peak MiB, a digest of the pixels, the times.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

Eight = tuple[list[npt.NDArray[np.uint8]], list[float]]


def reference(path: Path) -> Callable[[], Eight]:
    """The loop of transformers' documentation: decodes every frame up to the last one it needs."""
    with av.open(str(path)) as counted:
        stream = counted.streams.video[0]
        total = stream.frames or sum(packet.size > 0 for packet in counted.demux(stream))
    indices = np.arange(0, total, total / 8).astype(int)

    def run() -> Eight:
        container, frames = av.open(str(path)), []
        container.seek(0)
        for index, frame in enumerate(container.decode(video=0)):
            if index > indices[-1]:
                break
            if index >= indices[0] and index in indices:
                frames.append(frame)
        return [frame.to_ndarray(format="rgb24") for frame in frames], [frame.time or 0.0 for frame in frames]

    return run


def ours(path: Path) -> Callable[[], Eight]:
    """What the decoding process of vllava runs."""
    from vllava_cli.media.sample import sample
    from vllava_cli.nouns import Framing

    def run() -> Eight:
        frames = sample(path, Framing())
        return list(frames.pixels), list(frames.times_s)

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


def floor(path: Path) -> Callable[[], Eight]:
    """One decoder, the structure known beforehand: every frame from the key frame before a needed one up to it."""
    return _floor(path, "SLICE")


def floor_threads(path: Path) -> Callable[[], Eight]:
    """The same with FFmpeg's frame threads."""
    return _floor(path, "AUTO")


def _floor(path: Path, threads: str) -> Callable[[], Eight]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        stamps = sorted(packet.pts or 0 for packet in packets)
        keys = sorted((packet.pts or 0, packet.pos or 0) for packet in packets if packet.is_keyframe)
        counts_bytes = container.format.name in ("mpegts", "mpeg")
    wanted = [stamps[index * len(stamps) // 8] for index in range(8)]
    starts = [keys[bisect_right(keys, (stamp, sys.maxsize)) - 1] for stamp in wanted]
    assert all(
        bisect_left(stamps, start[0]) <= bisect_left(stamps, stamp) for start, stamp in zip(starts, wanted, strict=True)
    )

    def run() -> Eight:
        with av.open(str(path)) as container:
            stream, frames = container.streams.video[0], []
            stream.codec_context.thread_type = threads
            for stamp, (key, position) in zip(wanted, starts, strict=True):
                container.seek(position if counts_bytes else key, stream=stream, unsupported_byte_offset=counts_bytes)
                for frame in container.decode(stream):
                    if frame.pts == stamp:
                        frames.append((frame.to_ndarray(format="rgb24"), frame.time or 0.0))
                        break
        return [pixels for pixels, _ in frames], [time_s for _, time_s in frames]

    return run


WAYS = {way.__name__: way for way in (reference, ours, torchcodec, floor, floor_threads)}


def _peak_mib() -> float:
    """Of this process alone: ru_maxrss of a child begins with its parent's peak on Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main(way: str, path: str) -> None:
    run = WAYS[way](Path(path))
    started = time.perf_counter()
    pixels, times_s = run()
    seconds = time.perf_counter() - started
    mib, digest = _peak_mib(), hashlib.sha256()
    for picture in pixels:
        digest.update(np.ascontiguousarray(picture).tobytes())
    first = times_s[0]
    row = {"seconds": seconds, "mib": mib, "digest": digest.hexdigest(), "times_s": [t - first for t in times_s]}
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
