"""A private folder of fetched media, of bounded size, for all processes of a machine.

Of each URL there are three files: the medium, what is known of it (JSON, with its SHA-256), and a lock: shared by those
that read the medium, exclusive for who fetches or removes it. The least recently used go first.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from vllava_cli.errors import FetchError, OutputError
from vllava_cli.jsonl import shown
from vllava_cli.media.remote.allow import shown_url
from vllava_cli.suffixes import MEDIA_SUFFIXES

if sys.platform != "win32":
    import fcntl

MOST_BYTES = 20 << 30
PATIENCE_S = 600.0
"""How long a file waits for room that others have taken."""
CHUNK_BYTES = 1 << 20
_SLICE_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Known:
    """What stands beside a medium."""

    url: str
    """Without its secrets."""
    version: str
    """What the remote side calls this content: an ETag, a date; "" where it says nothing."""
    bytes: int
    sha256: str


Fill = Callable[["Growing"], str]
"""Writes the medium and returns its version."""


class Growing:
    """A medium that is being fetched: room is made before it is written."""

    def __init__(self, path: Path, reserve: Callable[[Path, int], None]) -> None:
        self._path, self._reserve = path, reserve
        self._digest = hashlib.sha256()
        self._file = path.open("wb")
        self.bytes = self._room = 0

    def expect(self, size: int) -> None:
        """Errors: FetchError where there can't be so much room."""
        self._room = max(self._room, size)
        self._reserve(self._path, self._room)
        self._file.truncate(self._room)

    def write(self, piece: bytes) -> None:
        if self.bytes + len(piece) > self._room:
            self.expect(self.bytes + len(piece) + 16 * CHUNK_BYTES)
        self._file.write(piece)
        self._digest.update(piece)
        self.bytes += len(piece)

    def again(self) -> None:
        """From the start."""
        self._file.seek(0)
        self._digest, self.bytes = hashlib.sha256(), 0

    def end(self) -> str:
        """Its SHA-256."""
        self._file.truncate(self.bytes)
        self._file.close()
        return self._digest.hexdigest()

    def close(self) -> None:
        self._file.close()


class Cache:
    """Errors: OutputError where the folder can't be used."""

    def __init__(self, folder: Path, most_bytes: int | None = None, *, patience_s: float = PATIENCE_S) -> None:
        self._folder, self._patience_s = folder, patience_s
        _make_private(folder)
        free = shutil.disk_usage(folder).free + _used(folder)
        self._most_bytes = most_bytes or min(MOST_BYTES, free // 2)

    @contextmanager
    def held(self, url: str, version: Callable[[], str], fill: Fill) -> Iterator[Path]:
        """The medium as a file that stays for the block: found here, or filled by `fill`.

        What is here is used where `version` says what it said then, and its bytes are those of then.
        """
        entry = self._folder / _name(url)
        with _lock(entry.with_suffix(".lock")) as lock:
            while True:
                if not self._is_good(entry, url, version):
                    self._fill(entry, url, fill)
                os.utime(_label(entry))
                fcntl.flock(lock, fcntl.LOCK_SH)
                if entry.exists():  # it may have been removed between the two locks
                    break
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield entry

    def _is_good(self, entry: Path, url: str, version: Callable[[], str]) -> bool:
        known = _known(entry)
        if known is None or known.url != shown_url(url) or not entry.exists():
            return False
        return known.version == version() and entry.stat().st_size == known.bytes and _sha256(entry) == known.sha256

    def _fill(self, entry: Path, url: str, fill: Fill) -> None:
        """Errors: FetchError, and whatever `fill` raises."""
        part = entry.with_suffix(".part")
        _remove(entry)
        try:
            growing = Growing(part, self._reserve)
            try:
                version = fill(growing)
                known = Known(url=shown_url(url), version=version, bytes=growing.bytes, sha256=growing.end())
            finally:
                growing.close()
            _label(entry).write_text(json.dumps(asdict(known)), encoding="utf-8")
            part.replace(entry)
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise FetchError(f"{shown(self._folder)} can't be written to: {exc.strerror}. Make room there.") from exc
        finally:
            part.unlink(missing_ok=True)

    def _reserve(self, part: Path, size: int) -> None:
        """Room for `part` to be so large. Errors: FetchError."""
        if size > self._most_bytes:
            raise FetchError(
                f"It has {size:,} bytes, and the cache of clips only {self._most_bytes:,}. Copy it to a disk that all "
                "machines reach."
            )
        end_s = time.monotonic() + self._patience_s
        while not self._make_room(part, size):
            if time.monotonic() > end_s:
                raise FetchError(f"{shown(self._folder)} is full of clips that are being read. Use fewer --decoders.")
            time.sleep(_SLICE_S)

    def _make_room(self, part: Path, size: int) -> bool:
        with _lock(self._folder / "room.lock"):
            excess = _used(self._folder) - part.stat().st_size + size - self._most_bytes
            for entry in _by_use(self._folder):
                if excess <= 0:
                    break
                excess -= _evicted(entry)
            if excess <= 0:
                os.truncate(part, size)
            return excess <= 0


def default_cache() -> Cache:
    """Below VLLAVA_CACHE, else ~/.cache/vllava on Linux: 20 GiB, or half of the room that the disk has."""
    from platformdirs import user_cache_path

    wish = os.environ.get("VLLAVA_CACHE")
    return Cache((Path(wish) if wish else user_cache_path("vllava")) / "clips")


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.stat()
        if facts.st_mode & 0o022 or facts.st_uid != os.getuid():
            folder.chmod(0o700)
    except OSError as exc:
        raise OutputError(f"{shown(folder)} can't be used for clips: {exc.strerror}. Set VLLAVA_CACHE.") from exc


def _name(url: str) -> str:
    """A digest of the whole URL, its secrets included, with the ending of a medium."""
    ending = os.path.splitext(urlsplit(url).path)[1].lower()  # noqa: PTH122
    return hashlib.sha256(url.encode(errors="surrogatepass")).hexdigest()[:32] + (
        ending if ending in MEDIA_SUFFIXES else ".medium"
    )


def _label(entry: Path) -> Path:
    return entry.with_suffix(".json")


def _known(entry: Path) -> Known | None:
    try:
        return Known(**json.loads(_label(entry).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _media(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.suffix not in (".json", ".lock"):
            yield path


def _used(folder: Path) -> int:
    sizes = []
    for path in _media(folder):
        with suppress(OSError):
            sizes.append(path.stat().st_size)
    return sum(sizes)


def _by_use(folder: Path) -> list[Path]:
    """Media and what killed processes left of others, the least recently used first."""
    found: list[tuple[float, Path]] = []
    for path in _media(folder):
        with suppress(OSError):
            label = _label(path)
            found.append(((label if label.exists() else path).stat().st_mtime, path))
    return [path for _, path in sorted(found)]


def _evicted(entry: Path) -> int:
    """How many bytes were freed: 0 where someone uses it."""
    try:
        with _lock(entry.with_suffix(".lock"), is_waiting=False):
            size = entry.stat().st_size
            _remove(entry)
            return size
    except OSError:
        return 0


def _remove(entry: Path) -> None:
    """The lock stays: another process may wait for it."""
    _label(entry).unlink(missing_ok=True)
    entry.unlink(missing_ok=True)


@contextmanager
def _lock(path: Path, *, is_waiting: bool = True) -> Iterator[int]:
    """An exclusive one. Errors: BlockingIOError where another has it and it isn't waited for."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if is_waiting else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)
