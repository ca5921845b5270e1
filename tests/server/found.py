"""A server of a test in a runtime folder of its own, so that commands of the test find it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.server.serving import Served
from vllava_cli.server.life.own_place import OwnPlace


def environment_for(served: Served, folder: Path, *, socket: str | None = None) -> dict[str, str]:
    """Writes the facts about a server below a folder; returns the environment in which commands find it."""
    (folder / "vllava").mkdir(mode=0o700, parents=True)
    state = replace(served.service.state, socket=socket or served.socket)
    OwnPlace(folder=folder / "vllava", id="0123456789ab").tell(state)
    return {"XDG_RUNTIME_DIR": str(folder)}
