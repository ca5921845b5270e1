"""Which instants of a clip the model sees, in words. Pure."""

from __future__ import annotations

from vllava_cli.nouns import Frames, counted


def moments(frames: Frames) -> str:
    """ "8 frames at 0:00.00 0:01.25 …", or "one picture"."""
    if frames.kind == "image":
        return "one picture"
    from vllava_cli.media.contact_sheet import clock

    return f"{counted(len(frames.times_s), 'frame')} at {' '.join(map(clock, frames.times_s))}"
