"""The place of a server that starts: its lock, its socket and, once it is ready, the file by which commands find it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from vllava_cli.client import place
from vllava_cli.client.place import ServerState
from vllava_cli.errors import LockedError, ServerError, os_reason, quoted
from vllava_cli.storage.files import atomic_write, is_same, locked, release

BACKLOG = 128


@dataclass(frozen=True, kw_only=True)
class OwnPlace:
    """The files of this server in the runtime folder, which nobody else uses while the lock is held."""

    folder: Path
    id: str
    lock: int | None = None
    """The descriptor of the lock; None where nobody else could take the place."""

    def socket(self) -> socket.socket:
        """Binds the Unix socket; at no moment may another user connect to it. Errors: ServerError."""
        path = place.socket_path(self.id)
        with suppress(FileNotFoundError):
            path.unlink()
        found = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            found.bind(str(path))
        except OSError as exc:
            found.close()
            raise ServerError(f"The socket {quoted(path)} can't be made: {os_reason(exc)}. Check the folder.") from exc
        finally:
            os.umask(before)
        return found

    def tell(self, state: ServerState) -> None:
        """Writes the facts about this server, so that commands find it. Errors: OutputError."""
        atomic_write(self._file, [json.dumps(asdict(state)).encode()], mode=0o600)

    def withdraw(self) -> None:
        """Removes the facts, so that no further command comes."""
        self._remove("json")

    def leave(self) -> None:
        """Removes all files of this server."""
        self._remove("json", "sock", "lock")

    def _remove(self, *endings: str) -> None:
        """Removes files, unless somebody deleted the lock: then they may be those of a later server."""
        with suppress(OSError):
            if self.lock is not None and not is_same(self.lock, self.folder / f"{self.id}.lock"):
                return
            for ending in endings:
                (self.folder / f"{self.id}.{ending}").unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.id}.json"


@contextmanager
def taken(id: str) -> Iterator[OwnPlace]:
    """Takes the place for a server until the end of the block, and removes its files then.

    Errors: LockedError if a server with the same model and settings runs; ServerError for a folder that isn't private.
    """
    folder = place.made_folder()
    try:
        lock = locked(folder / f"{id}.lock", 0o600)
    except LockedError as exc:
        pid = next((f", process {state.pid}" for found, state in place.running().items() if found == id), "")
        raise LockedError(
            f"A server with this model and these settings runs already{pid}: use it, or end it with "
            "vllava serve --stop."
        ) from exc
    own = OwnPlace(folder=folder, id=id, lock=lock)
    try:
        yield own
    finally:
        own.leave()
        release(lock)
