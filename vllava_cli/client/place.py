"""Finds this user's servers by a private folder with a lock, a socket and a file of facts for each server.

A server is taken for alive if it accepts a connection. What a dead one left is removed under its lock, so that a server
that starts at the same moment loses nothing.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from vllava_cli.errors import ServerError, VllavaError, os_reason, quoted
from vllava_cli.nouns import DEMO_MODEL, Attention, Precision, Wishes
from vllava_cli.storage.fields import Fields, parsed_object
from vllava_cli.storage.files import is_locked, locked, release

MOST_STATE_BYTES = 1 << 20
_CONNECT_S = 2.0
_MOST_SOCKET_BYTES = 103
"""The longest path that a Unix socket can have on every system."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A file of a checkpoint as it was when the checkpoint was loaded."""

    path: str
    bytes: int | None = None
    """None if there was no such file."""
    modified_ns: int | None = None

    @classmethod
    def of(cls, path: Path | str) -> ModelFile:
        """Looks at a file, which may be missing."""
        try:
            facts = Path(path).stat()
        except OSError:
            return cls(path=str(path))
        return cls(path=str(path), bytes=facts.st_size, modified_ns=facts.st_mtime_ns)


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """The facts about a running server, as its file has them."""

    pid: int
    version: str
    """The version of vllava that runs."""
    wishes: Wishes
    """How the model was asked for; a model in a folder has its absolute path."""
    device: str
    precision: Precision
    attention: Attention
    revision: str | None = None
    """The commit that was found of a model of the hub."""
    socket: str = ""
    """The path of its Unix socket; "" where there is none (Windows)."""
    url: str = ""
    """http://127.0.0.1:8000, if it listens on a port."""
    token: str = ""
    """The token of this user's own commands, where there is no Unix socket."""
    began: str = ""
    """When it was ready: 2026-11-30T11:20:00+00:00."""
    files: tuple[ModelFile, ...] = ()
    """The files of the model and of its adapter."""

    def suits(self, wishes: Wishes, version: str) -> bool:
        """True if it is of this version and has the model as wished, from files that haven't changed since.

        A wish that the user leaves open was open for the server, too. A wish that is named may be what the server
        chose or found by itself.
        """
        ours = self.wishes
        chosen = (
            (wishes.revision, ours.revision, self.revision),
            (wishes.device, ours.device, self.device),
            (wishes.precision, ours.precision, self.precision),
            (wishes.attention, ours.attention, self.attention),
        )
        return (
            self.version == version
            and (wishes.model, wishes.adapter) == (ours.model, ours.adapter)
            and all(wish == own or (wish is not None and wish == found) for wish, own, found in chosen)
            and all(ModelFile.of(file.path) == file for file in self.files)
        )

    def answers(self) -> bool:
        """True if something accepts a connection at its address."""
        try:
            connected(self).close()
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # a busy server may let a connection wait
            return True
        return True


def connected(state: ServerState) -> socket.socket:
    """Connects to a server: to its Unix socket, else to its port. Errors: OSError."""
    if state.socket:
        return connected_to(state.socket, _CONNECT_S)
    host, _, port = state.url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S)


def connected_to(path: str, timeout_s: float) -> socket.socket:
    """Connects to a Unix socket. Errors: OSError."""
    found = socket.socket(socket.AF_UNIX)
    try:
        found.settimeout(timeout_s)
        found.connect(path)
    except BaseException:
        found.close()
        raise
    return found


def runtime_folder() -> Path:
    """Returns the folder of this user's sockets; it may not exist yet."""
    named = os.environ.get("XDG_RUNTIME_DIR")
    if named and os.path.isdir(named):
        return Path(named) / "vllava"
    import tempfile

    return Path(tempfile.gettempdir()) / f"vllava-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


def made_folder() -> Path:
    """Returns the runtime folder, and makes it if it is missing. Errors: ServerError if others may use it."""
    folder = runtime_folder()
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        fault = folder_fault(folder)
    except OSError as exc:
        raise ServerError(
            f"The folder {quoted(folder)} can't be made: {os_reason(exc)}. Set XDG_RUNTIME_DIR to a folder of your own."
        ) from exc
    if fault:
        raise ServerError(
            f"The folder {quoted(folder)} is not private: {fault}. Run chmod 700, or set XDG_RUNTIME_DIR to a "
            "folder of your own."
        )
    return folder


def folder_fault(folder: Path) -> str | None:
    """Returns a clause that says why other users could have written to a folder; None if they couldn't.

    Errors: OSError if there is no such folder.
    """
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        return "it is not a folder"
    if not hasattr(os, "geteuid"):
        return None
    if facts.st_uid != os.geteuid():
        return "it belongs to another user"
    return "others may use it" if facts.st_mode & 0o077 else None


def states() -> list[ServerState]:
    """Returns the facts of the servers that run, and removes what dead ones have left."""
    return list(running().values())


def running() -> dict[str, ServerState]:
    """Returns the same by the names of the servers' files."""
    return {id: state for id, state in _written().items() if _is_alive(id, state)}


def matching(wishes: Wishes) -> ServerState | None:
    """Returns a running server that has the same model and settings as these wishes; None if there is none."""
    written = _written()
    if not written:
        return None
    from vllava_cli import __version__

    wanted = as_served(wishes)
    suiting = ((id, state) for id, state in written.items() if state.suits(wanted, __version__))
    return next((state for id, state in suiting if _is_alive(id, state)), None)


def as_served(wishes: Wishes) -> Wishes:
    """Returns the wishes with the absolute paths of the folders that they name."""
    model = wishes.model if wishes.model == DEMO_MODEL else _absolute(wishes.model)
    return replace(wishes, model=model, adapter=wishes.adapter and _absolute(wishes.adapter))


def id_of(wishes: Wishes, version: str) -> str:
    """Returns the name of a server's files: two servers with the same model and settings have the same."""
    import hashlib

    text = repr((as_served(wishes), version))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def socket_path(id: str) -> Path:
    """Returns the path of a server's socket. Errors: ServerError if it is too long for a socket."""
    path = runtime_folder() / f"{id}.sock"
    if (length := len(os.fsencode(path))) > _MOST_SOCKET_BYTES:
        raise ServerError(
            f"The path of the socket, {quoted(path)}, has {length} bytes, and {_MOST_SOCKET_BYTES} are possible. Set "
            "XDG_RUNTIME_DIR to a folder with a shorter path."
        )
    return path


def is_taken(id: str, state: ServerState) -> bool:
    """True while a server that was alive still ends, or a new one has its place."""
    if state.socket:
        return is_locked(runtime_folder() / f"{id}.lock")
    return state.answers()


def remove_dead(id: str) -> None:
    """Removes the files of a server, unless it runs: then it holds its lock."""
    folder = runtime_folder()
    with suppress(VllavaError, OSError):
        lock = locked(folder / f"{id}.lock", 0o600)
        try:
            for ending in ("json", "sock", "lock"):
                with suppress(FileNotFoundError):
                    (folder / f"{id}.{ending}").unlink()
        finally:
            release(lock)


def _is_alive(id: str, state: ServerState) -> bool:
    if state.answers():
        return True
    remove_dead(id)
    return False


def _written() -> dict[str, ServerState]:
    """Returns what the files say, by the names of the servers; a file that nobody can read is left out."""
    folder = runtime_folder()
    try:
        if folder_fault(folder):
            return {}
        ids = sorted(path.stem for path in folder.iterdir() if path.suffix == ".json")
    except OSError:
        return {}
    found = {id: _read(folder / f"{id}.json") for id in ids if not id.startswith(".")}
    return {id: state for id, state in found.items() if state}


def _read(path: Path) -> ServerState | None:
    try:
        with path.open("rb") as file:
            values = parsed_object(file.read(MOST_STATE_BYTES))
        return Fields(values, path.name, error=ServerError).build(ServerState)
    except (OSError, ValueError, ServerError):
        return None


def _absolute(name: str) -> str:
    folder = os.path.expanduser(name)  # noqa: PTH111  (Path.expanduser raises for an unknown user)
    return os.path.realpath(folder) if os.path.isdir(folder) else name
