"""The decoders that give the eight frames of a file: `python -m benchmarks.frames_decoders NAME FILE SECONDS BYTES`.

Each has a function that prepares and gives back the work that is put on the clock. What a user could know beforehand
(how many frames there are, or where they lie) isn't on it. The process prints a JSON object; it ends by SIGALRM where
preparing or decoding takes longer than SECONDS.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.eight_frames import EightFrames, Picture, open_plainly, rgb
from benchmarks.lower_bound import prepare_lower_bound
from vllava_cli.media.decoder.server import MODULES
from vllava_cli.media.pictures import matrix_of
from vllava_cli.media.sample import sample
from vllava_cli.media.select import pick
from vllava_cli.media.video.full_decode import documented_eight
from vllava_cli.nouns import Framing

Prepared = Callable[[], EightFrames]


def loop(path: Path) -> Prepared:
    """The loop of transformers' documentation decodes every frame up to the last one that it needs.

    Of fewer than eight frames it gives each once. They are repeated here, as a model needs them, which takes no time.
    """
    with open_plainly(path) as counted:
        total = counted.streams.video[0].frames or sum(packet.size > 0 for packet in counted.demux(video=0))

    def run() -> EightFrames:
        with open_plainly(path) as container:
            frames = documented_eight(container, total)
            pictures, times_s = [rgb(frame) for frame in frames], [frame.time or 0.0 for frame in frames]
        places = pick(len(frames)) if 0 < len(frames) == total < 8 else range(len(frames))
        return EightFrames(
            pictures=[pictures[place] for place in places],
            times_s=[times_s[place] for place in places],
            matrix=matrix_of(frames[0]) if frames else None,
        )

    return run


def ours(path: Path) -> Prepared:
    """The work of vllava's decoding process, with the pixels of the documentation, which the others give, too."""
    for module in MODULES:  # PyAV imports some of them when it opens its first file
        import_module(module)

    def run() -> EightFrames:
        frames = sample(path, Framing(is_as_stored=True))
        return EightFrames(pictures=list(frames.pictures), times_s=frames.times_s)

    return run


def torchcodec(path: Path) -> Prepared:
    """torchcodec's exact mode, at the same positions, on as many threads as it takes by itself."""
    decoder_of: Any = import_module("torchcodec.decoders").VideoDecoder

    def run() -> EightFrames:
        decoder = decoder_of(str(path), seek_mode="exact", dimension_order="NHWC")
        batch = decoder.get_frames_at(list(pick(len(decoder))))
        return EightFrames(pictures=list(batch.data.numpy()), times_s=batch.pts_seconds.tolist())

    return run


def ffmpeg(path: Path) -> Prepared:
    """The command, once for each frame. It is given the frame's time beforehand and reports no times itself."""
    with open_plainly(path) as container:
        stream = container.streams.video[0]
        stamps = sorted(
            float(packet.pts * packet.time_base) for packet in container.demux(stream) if packet.pts is not None
        )
        height, width = stream.height, stream.width
    half_s = (stamps[1] - stamps[0]) / 2 if len(stamps) > 1 else 0.0
    starts_s = [max(0.0, stamps[place] - stamps[0] - half_s) for place in pick(len(stamps))]

    def run() -> EightFrames:
        raw = [_ffmpeg_frame(path, start_s) for start_s in starts_s]
        return EightFrames(pictures=[_picture(data, height, width) for data in raw], times_s=())

    return run


def lower_bound(path: Path) -> Prepared:
    """Only the needed groups, with the threads that PyAV takes by itself."""
    return prepare_lower_bound(path, "SLICE")


def lower_bound_threads(path: Path) -> Prepared:
    """The same with FFmpeg's frame threads."""
    return prepare_lower_bound(path, "AUTO")


DECODERS: dict[str, Callable[[Path], Prepared]] = {
    decoder.__name__: decoder for decoder in (loop, ours, torchcodec, ffmpeg, lower_bound, lower_bound_threads)
}


def main(name: str, path: str, timeout_s: str, memory_bytes: str) -> None:
    if name == "torchcodec":
        import_module("torchcodec.decoders")
    most_bytes = int(memory_bytes) + 1024 * (_status_kib("VmSize") or 0)  # imports take more than decoding ever does
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    signal.setitimer(signal.ITIMER_REAL, float(timeout_s))
    run = DECODERS[name](Path(path))
    signal.setitimer(signal.ITIMER_REAL, float(timeout_s))
    started_s = time.perf_counter()
    eight = run()
    seconds = time.perf_counter() - started_s
    kib = None if name == "ffmpeg" else _status_kib("VmHWM")
    facts = {"seconds": seconds, "mib": kib and kib / 1024, "digest": eight.digest, "times_s": eight.offsets_s}
    sys.stdout.write(json.dumps(facts) + "\n")


def _status_kib(name: str) -> int | None:
    """Reads one size of this process alone: ru_maxrss of a child begins with its parent's peak on Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def _picture(data: bytes, height: int, width: int) -> Picture:
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _ffmpeg_frame(path: Path, start_s: float) -> bytes:
    seek = ["-ss", f"{start_s:.6f}"] if start_s else []
    source = ["-protocol_whitelist", "file", "-i", f"file:{path.absolute()}"]
    into = ["-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    command = ["ffmpeg", "-v", "error", "-nostdin", *seek, *source, *into]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
