"""Reels: the demo's clips one behind the other, at rates of their own, so that it is known what happens when."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av

from vllava_cli import demo

CLIPS = {clip.stem: clip for clip in demo.clips()}


def write_reel(path: Path, *parts: tuple[str, float], start_s: float = 0.0) -> Path:
    """Writes a video of the named clips, each stretched to so many seconds; the first frame is at `start_s`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "16", "g": "30"})
        stream.width, stream.height, stream.pix_fmt = 192, 192, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for name, length_s in parts:
            with av.open(str(CLIPS[name])) as source:
                frames = list(source.decode(video=0))
            for number, frame in enumerate(frames):
                shown = frame.reformat(format="yuv420p")
                shown.pts, shown.time_base = (
                    round((start_s + number * length_s / len(frames)) * 1000),
                    Fraction(1, 1000),
                )
                shown.pict_type = 0
                container.mux(stream.encode(shown))
            start_s += length_s
        container.mux(stream.encode())
    return path
