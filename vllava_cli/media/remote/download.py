"""One download: chunk by chunk from a source to the disk, hashed on the way, into room that was made for it before."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass

from vllava_cli.errors import FetchError, quoted
from vllava_cli.media.remote.entry import Entry, part_path
from vllava_cli.media.remote.folder import told
from vllava_cli.media.remote.locks import alone
from vllava_cli.media.remote.room import Room
from vllava_cli.media.remote.source import Facts, Source, passing, unfetched
from vllava_cli.media.remote.urls import without_secrets
from vllava_cli.storage.files import write_all

STEP_BYTES = 16 << 20
"""How much room is asked for at a time where the server doesn't tell the size."""
_POLL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Download:
    """Into an open file that nobody else has."""

    url: str
    room: Room
    patience_s: float
    queue_s: float
    descriptor: int

    def run(self, facts: Facts, source: Source) -> Entry:
        """Errors: PassingError for fewer or more bytes than promised, FetchError where there is no room."""
        with told(self.room.folder):
            os.ftruncate(self.descriptor, 0)
        self._reserve(min(STEP_BYTES, self.room.most_bytes) if facts.bytes is None else facts.bytes)
        with closing(source.chunks(facts)) as chunks:
            size, sha256 = self._fill(chunks, facts.bytes)
        if facts.bytes not in (None, size):
            raise passing(self.url, f"it ended after {size:,} of {facts.bytes:,} bytes")
        with told(self.room.folder):
            os.ftruncate(self.descriptor, size)
        return Entry(bytes=size, sha256=sha256, remote=facts)

    def _fill(self, chunks: Iterable[bytes], promised: int | None) -> tuple[int, str]:
        """Bytes and digest."""
        size, digest, most = 0, hashlib.sha256(), self.room.most_bytes
        for chunk in chunks:
            if promised is None and size + len(chunk) > os.fstat(self.descriptor).st_size:
                self._reserve(max(size + len(chunk), min(size + STEP_BYTES, most)), written=size)
            size += len(chunk)
            if promised is not None and size > promised:
                raise passing(self.url, f"it has more than the {promised:,} bytes that it should")
            digest.update(chunk)
            with told(self.room.folder):
                write_all(self.descriptor, chunk)
        return size, digest.hexdigest()

    def _reserve(self, wanted: int, *, written: int = 0) -> None:
        """Waits where those who hold clips may give some back.

        Who has some of its own already may be waited for in turn, so it waits for a while only.
        """
        if wanted > self.room.most_bytes:
            most = f"more than the {_megabytes(self.room.most_bytes)} that the cache may hold"
            raise unfetched(self.url, f"it has {_megabytes(wanted)} or more, {most}", "Let the cache hold more")
        begun_s = time.monotonic()
        while (lacking := self._lacking(wanted, written)) > 0:
            is_queue = not written and lacking <= self.room.taken(part_path(self.room.folder, self.url))
            if time.monotonic() - begun_s >= (self.queue_s if is_queue else self.patience_s):
                raise self._full(lacking)
            time.sleep(_POLL_S)

    def _lacking(self, wanted: int, written: int) -> int:
        with told(self.room.folder), alone(self.room.lock):
            lacking = self.room.lacking(part_path(self.room.folder, self.url), wanted, written=written)
            if lacking <= 0:
                os.ftruncate(self.descriptor, wanted)
            return lacking

    def _full(self, lacking: int) -> FetchError:
        where = f"{quoted(self.room.folder)} has {_megabytes(lacking)} too little room beside the clips in use"
        return FetchError(
            f"{without_secrets(self.url)} can't be fetched: {where}. "
            "Free some of the disk, let the cache hold more, or work on fewer clips at a time."
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
