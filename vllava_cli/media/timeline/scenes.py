"""Finds the scenes of a video."""

from __future__ import annotations

from pathlib import Path

from vllava_cli.errors import MediaError, quoted
from vllava_cli.media.video.seek import Timeline


def scene_starts(path: Path, timeline: Timeline | None, start_s: float, end_s: float) -> tuple[float, ...]:  # noqa: ARG001
    """Returns the times of the first frames of the scenes from `start_s` to `end_s`; the first is `start_s` itself."""
    raise MediaError(f"{quoted(path)} can't be divided into scenes yet. Use --every 30s instead.")
