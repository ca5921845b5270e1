"""Uploaded clips, on the disk until they are deleted, the server ends, or newer ones need their room."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vllava_cli.errors import BusyError, MediaError, TooLargeError
from vllava_cli.server.clips.media_shelf import ClipContent
from vllava_cli.server.clips.private_folder import PrivateFolder, as_unkept, open_new

PREFIX = "file-"
MOST_FILES = 1000
_TIMES_LARGEST = 4
"""All uploads together may take as much as this many of the largest."""
_LONGEST_NAME = 200


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A clip that was uploaded whole."""

    id: str
    name: str
    purpose: str
    bytes: int
    created_at: float
    """Seconds since 1970."""
    sha256: str
    path: Path


class Uploads:
    """The uploads of a server. The least recently used ones make room for new ones. For several threads."""

    def __init__(self, folder: PrivateFolder, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        """The size of the largest clip that is taken."""
        self._folder = folder
        self._lock = threading.RLock()
        """Guards all attributes below."""
        self._files: OrderedDict[str, Upload] = OrderedDict()
        self._readers: Counter[str] = Counter()
        self._ended = dict[str, Upload]()
        """Deleted files that are still being read."""
        self._bytes = 0

    def begin(self) -> ArrivingUpload:
        """Begins to take a clip. Errors: OutputError."""
        return ArrivingUpload(self, self._folder.new_path())

    def all(self) -> tuple[Upload, ...]:
        """Returns all uploads, the newest first."""
        with self._lock:
            return tuple(sorted(self._files.values(), key=lambda each: -each.created_at))

    def find(self, id: str) -> Upload | None:
        """Returns an upload; None if there is none of this id, or none any more."""
        with self._lock:
            if id in self._files:
                self._files.move_to_end(id)
            return self._files.get(id)

    def delete(self, id: str) -> bool:
        """Deletes an upload, once nobody reads it any more; returns False if there is none."""
        with self._lock:
            upload = self._files.pop(id, None)
            if upload is None:
                return False
            self._ended[id] = upload
            self._remove_unread(id)
            return True

    def content(self, id: str) -> tuple[ClipContent, Path]:
        """Returns the content of an upload, and its name for messages. Errors: MediaError if there is none."""
        upload = self.find(id)
        if upload is None:
            raise _unknown(id)
        return ClipContent(key=("sha256", upload.sha256), opened=lambda: self._opened(upload)), Path(upload.name)

    @contextmanager
    def _opened(self, upload: Upload) -> Iterator[Path]:
        with self._lock:
            if upload.id not in self._files:
                raise _unknown(upload.id)
            self._readers[upload.id] += 1
        try:
            yield upload.path
        finally:
            with self._lock:
                self._readers[upload.id] -= 1
                self._remove_unread(upload.id)

    def _remove_unread(self, id: str) -> None:
        if self._readers[id] == 0:
            del self._readers[id]
            if upload := self._ended.pop(id, None):
                self._bytes -= upload.bytes
                upload.path.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Counts some bytes more. Errors: BusyError if clips that are being read or sent take all the room."""
        with self._lock:
            while self._files and (self._bytes + size > self._most or len(self._files) >= MOST_FILES):
                self.delete(next(iter(self._files)))
            if self._bytes + size > self._most:
                raise BusyError(f"Uploads may take {self._most:,} bytes, which others take now. Try again in a moment.")
            self._bytes += size

    @property
    def _most(self) -> int:
        return _TIMES_LARGEST * self.most_bytes

    def _put(self, upload: Upload) -> None:
        with self._lock:
            self._files[upload.id] = upload

    def _forget(self, size: int) -> None:
        with self._lock:
            self._bytes -= size


class ArrivingUpload:
    """A clip that is being sent; it becomes an upload by `finish`, or leaves nothing by `abandon`."""

    def __init__(self, uploads: Uploads, path: Path) -> None:
        self._uploads, self._path = uploads, path
        self._size, self._digest = 0, hashlib.sha256()
        with as_unkept():
            self._file = open_new(path)

    def write(self, data: bytes) -> None:
        """Appends some bytes. Errors: TooLargeError, BusyError, OutputError."""
        if self._size + len(data) > self._uploads.most_bytes:
            raise too_large(self._uploads.most_bytes)
        self._uploads._make_room(len(data))
        self._size += len(data)
        self._digest.update(data)
        with as_unkept():
            self._file.write(data)

    def finish(self, name: str, purpose: str) -> Upload:
        """Returns the upload, which is there from now on. Errors: MediaError if it is empty; OutputError."""
        with as_unkept():
            self._file.close()
        if not self._size:
            raise MediaError("The uploaded file is empty (0 bytes). Send the content of a clip.")
        upload = Upload(
            id=f"{PREFIX}{secrets.token_hex(12)}", name=_file_name(name), purpose=purpose, bytes=self._size,
            created_at=time.time(), sha256=self._digest.hexdigest(), path=self._path,
        )  # fmt: skip
        self._uploads._put(upload)
        return upload

    def abandon(self) -> None:
        """Removes what has come so far."""
        with as_unkept():
            self._file.close()
            self._path.unlink(missing_ok=True)
        self._uploads._forget(self._size)


def too_large(most_bytes: int) -> TooLargeError:
    return TooLargeError(f"The upload has more than the {most_bytes:,} bytes that are taken. Send a shorter clip.")


def _unknown(id: str) -> MediaError:
    return MediaError(f"There is no upload {id[:100]!r}, or none any more. Send it to /v1/files again.")


def _file_name(name: str) -> str:
    """Keeps the last part of a name, without control characters: "C:\\\\clips\\\\a.mp4" → "a.mp4"."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:_LONGEST_NAME] or "clip"
