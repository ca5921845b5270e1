"""Frames that commands have sent, by the digests of the messages that they came in; the oldest give way to new ones."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np

from vllava_cli.client.answer_messages import MOST_HEAD_BYTES, FramesHead
from vllava_cli.errors import UsageError
from vllava_cli.media.pixels import fitted
from vllava_cli.nouns import FRAMES_PER_CLIP, Clip, Frames, VideoRecipe
from vllava_cli.storage.fields import Fields, parsed_object

MOST_KEPT_BYTES = 512 << 20
"""Enough for 400 videos of the 7B model, which are reduced to the squares that its tower takes."""
_WHERE = "the first line of the frames"


class FrameShelf:
    """Keeps frames as the same objects, so that the engine knows them again; any thread may use it."""

    def __init__(self, recipe: VideoRecipe, *, most_bytes: int = MOST_KEPT_BYTES) -> None:
        self._recipe, self._most_bytes, self._bytes = recipe, most_bytes, 0
        self._kept: OrderedDict[str, Frames] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, digest: str) -> Frames | None:
        """Returns the frames of a digest; None if there are none."""
        with self._lock:
            found = self._kept.get(digest)
            if found:
                self._kept.move_to_end(digest)
            return found

    def put(self, message: bytearray) -> None:
        """Keeps the frames of a message under the digest of its bytes. Errors: UsageError for what is no frames."""
        digest = hashlib.sha256(message).hexdigest()
        if self.find(digest):
            return
        frames = frames_of(message, self._recipe)
        with self._lock:
            self._bytes += frames.pixels.nbytes
            if old := self._kept.pop(digest, None):
                self._bytes -= old.pixels.nbytes
            self._kept[digest] = frames
            while self._bytes > self._most_bytes and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= oldest.pixels.nbytes


def frames_of(message: bytearray, recipe: VideoRecipe) -> Frames:
    """Reads a message with frames, and reduces a video's to the model's squares. Errors: UsageError."""
    end = message.find(b"\n", 0, MOST_HEAD_BYTES)
    try:
        head = Fields(parsed_object(bytes(message[: max(0, end)])), _WHERE, error=UsageError).build(FramesHead)
    except ValueError as exc:
        raise UsageError(f"{_WHERE}: it is not a JSON object ({exc})") from exc
    count = FRAMES_PER_CLIP if head.kind == "video" else 1
    is_shape = len(head.shape) == 3 and head.shape[0] == count and min(head.shape) > 0
    if not is_shape or math.prod(head.shape) * 3 != len(message) - end - 1:
        raise UsageError(f"{_WHERE}: the shape {list(head.shape)} isn't that of the pixels behind it")
    height, width = head.shape[1:]
    sizes = tuple((each[0], each[1]) for each in head.sizes if len(each) == 2)
    if len(sizes) != len(head.sizes) or len(sizes) not in (0, count):
        raise UsageError(f"{_WHERE}: the sizes aren't those of {count} frames")
    if not all(0 < each[0] <= width and 0 < each[1] <= height for each in sizes):
        raise UsageError(f"{_WHERE}: a size is outside of {width}x{height}")
    pixels = np.frombuffer(message, np.uint8, offset=end + 1).reshape(*head.shape, 3)
    clip = Clip(path=Path("/"), kind=head.kind, width=width, height=height, frame_count=count)
    frames = Frames(clip=clip, pixels=pixels, times_s=tuple(map(float, range(count))), sizes=sizes)
    return fitted(frames, recipe, fit=head.fit)
