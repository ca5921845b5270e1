"""`--keep TIME`: starts a server in the background, which keeps the model for later commands of this user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from vllava_cli import __version__
from vllava_cli.client import place
from vllava_cli.client.connection import Address, send
from vllava_cli.client.place import ServerState
from vllava_cli.commands.asked import Ask
from vllava_cli.errors import LockedError, ServerError, UsageError, os_reason
from vllava_cli.interrupt import GracefulExit
from vllava_cli.nouns import AUTO, Wishes
from vllava_cli.screen import Screen
from vllava_cli.storage.files import is_locked

_TICK_S = 0.1
_REPLY_S = 5.0
_MOST_LOG_BYTES = 1 << 16


def keep(ask: Ask, screen: Screen) -> None:
    """Starts a server for an ask with --keep if none with its model runs; one that runs stays for longer.

    Errors: UsageError, ServerError.
    """
    if ask.server != AUTO:
        raise UsageError(f"--keep starts a server here, and --server {ask.server} uses none here. Leave one out.")
    found = None
    while ask.keep_s is not None and found is None:
        found = place.matching(ask.wishes)
        if found:
            with suppress(ServerError):  # it ends just now, or is stuck: the question finds that out, too
                wish = json.dumps({"least_s": ask.keep_s}).encode()
                send(Address.of(found), "POST", "/vllava/keep", wish, patience_s=_REPLY_S).close()
        else:
            found = _started(ask.wishes, ask.keep_s, screen)


def _started(wishes: Wishes, keep_s: float, screen: Screen) -> ServerState | None:
    """Starts a server and waits until it, or one that was started meanwhile, is ready; returns None if none is."""
    folder, id = place.made_folder(), place.id_of(wishes, __version__)
    descriptor, name = tempfile.mkstemp(prefix=f"{id}.", suffix=".log", dir=folder)
    log = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            server = _popen(command_of(wishes, keep_s), file.fileno())
        shown = screen.progress(lambda: ["starting a server that keeps the model", _last_line(log)], is_shared=False)
        with GracefulExit.watched(), shown:
            found = _awaited(wishes, server, folder / f"{id}.lock")
        if found is None and server.returncode != LockedError.exit_code:
            raise ServerError(f"--keep can't start a server: {_last_line(log) or f'status {server.returncode}'}")
        with suppress(OSError):
            if found and found.pid == server.pid:
                log.replace(folder / f"{id}.log")
                for each in folder.glob(f"{id}.*.log"):  # those of asks that were killed
                    each.unlink()
        return found
    finally:
        log.unlink(missing_ok=True)


def command_of(wishes: Wishes, keep_s: float) -> list[str]:
    """Returns the command that serves a model as wished; with -P, Python imports no module of the current folder."""
    values = {"idle": keep_s, **vars(place.as_served(wishes))}
    if wishes.attention == "flash_attention_2":
        values["attention"] = "flash"
    options = [f"--{name}={value}" for name, value in values.items() if value is not None]
    return [sys.executable, "-P", "-m", "vllava_cli", "serve", *options]


def _popen(command: list[str], log: int) -> subprocess.Popen[bytes]:
    """Starts a process that outlives this one, its terminal and the folder that it is in. Errors: ServerError."""
    environment = dict(os.environ)
    if folders := environment.get("PYTHONPATH"):
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, folders.split(os.pathsep)))
    nothing = subprocess.DEVNULL
    try:
        return subprocess.Popen(
            command, stdin=nothing, stdout=nothing, stderr=log, cwd=os.sep, env=environment, start_new_session=True
        )
    except OSError as exc:
        raise ServerError(f"--keep can't start a server: {os_reason(exc)}. Start vllava serve yourself.") from exc


def _awaited(wishes: Wishes, server: subprocess.Popen[bytes], lock: Path) -> ServerState | None:
    """Waits for a server that is ready; None once this one has ended and no other one is being started.

    Errors: ServerError if the place is taken for good.
    """
    try:
        while (found := place.matching(wishes)) is None:
            if server.poll() is not None:
                if not is_locked(lock):
                    return place.matching(wishes)
                _check_place(lock.stem, wishes)
            time.sleep(_TICK_S)
    except BaseException:  # Ctrl-C or SIGTERM: nobody waits for the server any more
        server.terminate()
        raise
    return found


def _check_place(id: str, wishes: Wishes) -> None:
    """Raises a ServerError if the server in a place has loaded other files than those that are there now."""
    state = place.running().get(id)
    if state and not state.suits(place.as_served(wishes), __version__):
        raise ServerError(
            f"--keep can't start a server: that of process {state.pid} has the model as it was before its files "
            "changed. End it with vllava serve --stop."
        )


def _last_line(log: Path) -> str:
    """Returns the last sentence that a server has said, without the name of the program."""
    try:
        with log.open("rb") as file:
            lines = file.read(_MOST_LOG_BYTES).decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.removeprefix("vllava: ") for line in reversed(lines) if line.strip()), "")
