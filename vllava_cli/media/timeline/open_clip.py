"""A clip that stays open between requests, so that windows of it are read without looking through it once for each."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from av.container import InputContainer

from vllava_cli.media.container import opened, video_faults, video_stream
from vllava_cli.media.file_check import check_file
from vllava_cli.media.images import (
    Animation,
    image_faults,
    listing_of,
    look,
    opened_image,
    read_burst,
    read_folder,
    read_still,
)
from vllava_cli.media.timeline.picks import picked
from vllava_cli.media.timeline.scenes import scene_starts
from vllava_cli.media.timeline.stillness import with_stillness
from vllava_cli.media.video.decode import KeptDecoders
from vllava_cli.media.video.full_decode import ForwardPass, FullDecode, decode_all
from vllava_cli.media.video.index import DamageError, DistrustError, PacketIndex
from vllava_cli.media.video.seek import Timeline, index_of, sampled, unseekable
from vllava_cli.nouns import Frames, Framing, Window

T = TypeVar("T")


class OpenClip(ABC):
    """An open clip. Every method may raise a MediaError; all framings must have the same background and colours."""

    path: Path
    duration_s = 0.0
    """0 for an image, which has no windows."""
    times_s: Sequence[float] = ()
    """When each frame begins, where no index tells."""

    @abstractmethod
    def frames(self, framing: Framing, following: Sequence[Framing] = ()) -> Frames:
        """Returns what `sample` returns; `following` are the framings of the clip that will be asked for next."""

    def has_frame(self, start_s: float, end_s: float) -> bool:
        """Returns True if a frame begins at `start_s` or later, and before `end_s`."""
        place = bisect_left(self.times_s, start_s)
        return place < len(self.times_s) and self.times_s[place] < end_s

    def chapters(self) -> list[Window]:
        """Returns the chapters that the file names, as it has them; they may overlap."""
        return []

    def scene_starts(self, start_s: float, end_s: float) -> tuple[float, ...]:
        """Returns the times of the first frames of the scenes in a part of the clip; the first is `start_s` itself."""
        return scene_starts(self.path, None, start_s, end_s)

    def with_stillness(self, windows: tuple[Window, ...]) -> tuple[Window, ...]:
        """Marks the windows in which nothing changes, if that can be told."""
        return windows

    def close(self) -> None:
        """Closes the file, if it is open."""
        return


def open_clip(path: Path, framing: Framing) -> OpenClip:
    """Opens a clip that is read with framings like this one. Errors: MediaError."""
    if os.path.isdir(path):
        return OpenPictures(path)
    check_file(path)
    match look(path):
        case "still":
            return OpenStill(path)
        case "animation":
            return OpenAnimation(path)
        case "burst":
            return OpenPictures(path)
        case "video":
            return OpenVideo(path, framing)


class OpenStill(OpenClip):
    """An image."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def frames(self, framing: Framing, following: Sequence[Framing] = ()) -> Frames:  # noqa: ARG002
        return read_still(self.path, framing.background)


class OpenPictures(OpenClip):
    """A folder or a burst, whose pictures are shown for a second each. Only the list of a folder's files is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listing = listing_of(path) if os.path.isdir(path) else None
        count = self.frames(Framing(at_s=(0.0,))).clip.frame_count
        self.times_s, self.duration_s = range(count), float(count)

    def frames(self, framing: Framing, following: Sequence[Framing] = ()) -> Frames:  # noqa: ARG002
        named, reasons = picked(self.path, None, framing)
        found = read_folder(self.path, named, self._listing) if self._listing else read_burst(self.path, named)
        return replace(found, reasons=reasons)


class OpenAnimation(OpenClip):
    """An animation that Pillow decodes. The picture that was decoded last is kept, and the next ones follow from it."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, ExitStack()
        with ExitStack() as file:
            self._animation = Animation(file.enter_context(opened_image(path)), path)
            self._file = file.pop_all()
        self.times_s, self.duration_s = self._animation.starts_s, self._animation.duration_s

    def frames(self, framing: Framing, following: Sequence[Framing] = ()) -> Frames:  # noqa: ARG002
        named, reasons = picked(self.path, None, framing)
        with image_faults(self.path):
            return replace(self._animation.frames(named), reasons=reasons)

    def close(self) -> None:
        self._file.close()


class OpenVideo(OpenClip):
    """A video with its index. Frames that no index gives for certain come from one pass that decodes all in order."""

    def __init__(self, path: Path, framing: Framing) -> None:
        self.path, self._framing = path, framing
        self._file = ExitStack()
        self._forward: ForwardPass | None = None
        try:
            self._index(is_quick=True)
            if self.timeline is None:
                self._decode_all()
        except BaseException:
            self.close()
            raise

    def frames(self, framing: Framing, following: Sequence[Framing] = ()) -> Frames:
        def ask(timeline: Timeline) -> Frames:
            return sampled(self.path, self.container, timeline, framing, decoders=self._decoders)

        with video_faults(self.path):
            if found := self._asked(ask):
                return found
            named, reasons = picked(self.path, None, framing)
            return replace(self._decode_all().frames(named, following, self._reason), reasons=reasons)

    def has_frame(self, start_s: float, end_s: float) -> bool:
        with video_faults(self.path):
            found = self._asked(lambda timeline: timeline.has_between(start_s, end_s))
        if found is not None:
            return found
        self._decode_all()
        return super().has_frame(start_s, end_s)

    def scene_starts(self, start_s: float, end_s: float) -> tuple[float, ...]:
        with video_faults(self.path):
            found = self._asked(lambda timeline: scene_starts(self.path, timeline, start_s, end_s))
            return found or super().scene_starts(start_s, end_s)

    def with_stillness(self, windows: tuple[Window, ...]) -> tuple[Window, ...]:
        with video_faults(self.path):
            return self._asked(lambda timeline: with_stillness(windows, self.path, timeline)) or windows

    def chapters(self) -> list[Window]:
        found = list[Window]()
        for chapter in self.container.chapters():
            base, title = chapter["time_base"] or 0, chapter["metadata"].get("title", "")
            start_s, end_s = (float(chapter[key] * base) - self._origin_s for key in ("start", "end"))
            found.append(Window(start_s=start_s, end_s=end_s, title=title))
        return found

    def close(self) -> None:
        if self._forward:
            self._forward.close()
        self._file.close()

    def _index(self, *, is_quick: bool) -> None:
        """Opens the file and makes its index; without one, `timeline` is None and `_reason` says why."""
        self._file.close()
        self.container: InputContainer = self._file.enter_context(opened(self.path))
        stream = video_stream(self.container, self.path)
        context = stream.codec_context
        self._decoders = KeptDecoders(self.path, frame_pixels=context.width * context.height)
        self._file.callback(self._decoders.close)
        self.timeline: Timeline | None = None
        self._reason, self._is_damaged = unseekable(stream), False
        if self._reason:
            return
        index = None
        try:
            index = index_of(self.path, self.container, stream, is_quick=is_quick)
            self.timeline = Timeline(self.path, index, self.container, stream)
            self.duration_s, self._origin_s = self.timeline.duration_s, self.timeline.origin_s
        except DistrustError as exc:
            self._reason, self._is_damaged = str(exc), isinstance(exc, DamageError)
            if index and not isinstance(index, PacketIndex):
                self._index(is_quick=False)

    def _asked(self, ask: Callable[[Timeline], T]) -> T | None:
        """Asks the timeline, and that of the next index if the first one proves wrong; None if no index can tell."""
        while self.timeline:
            try:
                return ask(self.timeline)
            except DistrustError as exc:
                self._decoders.close()
                self._reason, self._is_damaged = str(exc), isinstance(exc, DamageError)
                if self._is_damaged or isinstance(self.timeline.index, PacketIndex):
                    break
                self._index(is_quick=False)
        return None

    def _decode_all(self) -> ForwardPass:
        """Returns the pass over the whole file; before the first one, decodes the file for the times of its frames."""
        if self._forward is None:
            known: FullDecode = decode_all(self.path, self._framing, is_damaged=self._is_damaged)
            self._forward = ForwardPass(known, self._framing)
            self.times_s = known.times_s
            if self.timeline is None:
                self.duration_s, self._origin_s = known.clip.duration_s or 0.0, known.origin_s
        return self._forward
