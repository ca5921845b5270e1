"""A bounded private cache of fetched clips, shared by all processes of this user on this machine.

Who holds a clip has a shared lock on it, and it stays; who fetches one has its KEY.part alone, and others that want the
same URL wait for that. What is found there is what was fetched: each time it is read once and its digest compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vllava_cli.media.remote.download import Download
from vllava_cli.media.remote.entry import Entry, part_path, read_entry, write_entry
from vllava_cli.media.remote.folder import make_private, told
from vllava_cli.media.remote.locks import alone, give_up, shared, sole
from vllava_cli.media.remote.room import Room, free_bytes, touch
from vllava_cli.media.remote.source import Facts, Source, passing
from vllava_cli.storage.files import is_same, release


@dataclass(frozen=True, kw_only=True)
class Held:
    """A regular file that stays as it is until `release`."""

    path: Path
    descriptor: int

    def release(self) -> None:
        release(self.descriptor)


@dataclass(frozen=True)
class Cache:
    """Of clips together at most so many bytes; what lies beside each, below 4 KiB, isn't counted."""

    folder: Path
    most_bytes: int
    patience_s: float = 60
    """How long a download that has begun waits for more room, or one for a disk that others have filled."""
    queue_s: float = 3600
    """How long one that is yet to begin waits for its turn, while clips that are in use take the room."""
    free_bytes: Callable[[Path], int] = free_bytes

    @property
    def room(self) -> Room:
        return Room(folder=self.folder, most_bytes=self.most_bytes, free_bytes=self.free_bytes)

    def held(self, url: str, source: Source) -> Held:
        """The clip as its server has it now, fetched only if it isn't here. Errors: FetchError and its kinds."""
        make_private(self.folder)
        facts = source.facts()
        found = self._found(url, facts)
        if found:
            return found
        with self._fetching(url) as part:
            return self._found(url, facts) or self._fetched(url, part, facts, source)

    def _found(self, url: str, facts: Facts) -> Held | None:
        entry = read_entry(self.folder, url)
        if entry is None or entry.remote != facts or not facts.tell_versions:
            return None
        with told(self.folder):
            path = entry.path(self.folder, url)
            descriptor = shared(path)
            return self._whole(path, descriptor, entry) if descriptor is not None else None

    def _whole(self, path: Path, descriptor: int, entry: Entry) -> Held | None:
        is_whole = False
        try:
            is_whole = entry.is_in(descriptor)
            if is_whole:
                touch(descriptor)
        finally:
            if not is_whole:
                release(descriptor)
        return Held(path=path, descriptor=descriptor) if is_whole else None

    @contextmanager
    def _fetching(self, url: str) -> Iterator[int]:
        """An open file that nobody else fetches this URL to; nothing is left of it unless it took its place."""
        path = part_path(self.folder, url)
        with told(self.folder):
            descriptor = sole(path)
        try:
            yield descriptor
        finally:
            with suppress(OSError):
                if is_same(descriptor, path):
                    path.unlink()
            release(descriptor)

    def _fetched(self, url: str, part: int, facts: Facts, source: Source) -> Held:
        """Between its old name and the lock on its new one nobody may make room."""
        download = Download(url=url, room=self.room, patience_s=self.patience_s, queue_s=self.queue_s, descriptor=part)
        entry = download.run(facts, source)
        path = entry.path(self.folder, url)
        with told(self.folder), alone(self.room.lock):
            write_entry(self.folder, url, entry)
            part_path(self.folder, url).replace(path)
            give_up(part)
            descriptor = shared(path)
        if descriptor is None:
            raise passing(url, "its file was taken away as soon as it was there")
        return Held(path=path, descriptor=descriptor)
