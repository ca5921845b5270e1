"""Decodes clips by the names that a user gave: `-` means stdin, and a relative name may belong to another folder.

Messages and rows keep the names as they were given.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from vllava_cli.errors import MediaError, UsageError, quoted
from vllava_cli.interrupt import GracefulExit
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.decoder.protocol import Call, Found
from vllava_cli.media.file_check import check_file
from vllava_cli.media.stdin_copy import spooled
from vllava_cli.nouns import STDIN, Clip, ClipWindows, DecodeLimits, Frames, Subtitles


class Reader(DecoderClient):
    """A `DecoderClient` that also reads `-`, which is stdin: messages say stdin, and the clip's path stays `-`.

    `copy` is a file with the content of stdin, where somebody has read stdin already. `folder` is the one in which
    relative names are looked up; None is the current folder.
    """

    def __init__(
        self,
        limits: DecodeLimits | None = None,
        *,
        stdin: BinaryIO | None = None,
        copy: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__(limits, folder=folder)
        self._stdin = stdin
        self._spooled = copy
        self._ends = ExitStack()

    def __exit__(self, *_: object) -> None:
        with self._ends:
            self.close()

    def check(self, name: Path) -> None:
        """Raises a MediaError at once for a file that can be refused without decoding, for example a missing one."""
        file = self._found(name)
        if name != Path(STDIN) and not os.path.isdir(file):
            try:
                check_file(file)
            except MediaError as exc:
                raise type(exc)(self._as_named(str(exc), name)) from exc

    def file(self, name: Path) -> Path:
        """Returns the file for a name; the copy of stdin is there until the end of the `with`. Errors: MediaError."""
        if name != Path(STDIN):
            return self._found(name)
        if self._spooled is None:
            is_main = threading.current_thread() is threading.main_thread()
            if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # SIGTERM would leave the file behind
                self._ends.enter_context(GracefulExit.watched())
            self._spooled = self._ends.enter_context(spooled(self._stdin or sys.stdin.buffer))
        return self._spooled

    def beside(self, name: Path) -> Path | None:
        """Returns the name of the subtitle file beside a clip, in the folder that the clip's name has; None without."""
        from vllava_cli.media.timeline.sidecars import Sidecars

        found = Sidecars().beside(str(self._found(name)))
        return name.parent / Path(found).name if found else None

    def _found(self, name: Path) -> Path:
        return self.folder / name if self.folder else name

    def _ask(self, call: Call, path: Path, **details: Any) -> Found:
        try:
            file = self.file(path) if path == Path(STDIN) else path  # the process looks up relative names itself
            found = super()._ask(call, file, **details)
        except (MediaError, UsageError) as exc:
            raise type(exc)(self._as_named(str(exc), path)) from exc
        return self._named(found, path)

    def _named(self, found: Found, name: Path) -> Found:
        """Gives what was found the name of its clip instead of the file's."""
        if isinstance(found, Subtitles):
            return replace(found, faults=tuple(self._as_named(text, name) for text in found.faults))
        if not isinstance(found, Clip | Frames | ClipWindows):
            return found
        clip = found if isinstance(found, Clip) else found.clip
        faults, notes = (tuple(self._as_named(text, name) for text in texts) for texts in (clip.faults, clip.notes))
        clip = replace(clip, path=name, faults=faults, notes=notes, way_reason=self._as_named(clip.way_reason, name))
        return clip if isinstance(found, Clip) else replace(found, clip=clip)

    def _as_named(self, text: str, name: Path) -> str:
        """Writes the name of a clip, which may be a folder, into a sentence about its file."""
        if name == Path(STDIN):
            return text.replace(f"'{self._spooled}'", "stdin") if self._spooled else text
        return text.replace(quoted(self._found(name))[:-1], quoted(name)[:-1]) if self.folder else text
