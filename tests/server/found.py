"""A server of a test in a runtime folder of its own, so that commands of the test find it."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from unittest import mock

from tests.server.serving import Served
from vllava_cli import demo
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.client.connection import Address
from vllava_cli.client.remote_engine import RemoteEngine
from vllava_cli.commands import served_ask
from vllava_cli.commands.asked import Ask
from vllava_cli.nouns import AUTO, Framing
from vllava_cli.screen import Screen
from vllava_cli.server.life.own_place import OwnPlace


def environment_for(served: Served, folder: Path, *, socket: str | None = None) -> dict[str, str]:
    """Writes the facts about a server below a folder; returns the environment in which commands find it."""
    (folder / "vllava").mkdir(mode=0o700, parents=True)
    state = replace(served.service.state, socket=socket or served.socket)
    OwnPlace(folder=folder / "vllava", id="0123456789ab").tell(state)
    return {"XDG_RUNTIME_DIR": str(folder)}


def asked_by_ask(served: Served, folder: Path, question: str) -> str:
    """Asks about the demo's first clip as `vllava ask` does; returns what is printed on stdout."""
    ask = Ask(
        clips=demo.clips()[:1], question=question, wishes=served.service.settings.wishes, framing=Framing(),
        sampling=Sampling(), server=AUTO,
    )  # fmt: skip
    said = io.StringIO()
    with mock.patch.dict(os.environ, environment_for(served, folder)):
        served_ask.run(ask, Screen(out=said, err=io.StringIO()), lambda *_: 1)
    return said.getvalue()


def asked_by_batch(served: Served, question: str) -> str:
    """Asks without a clip as batch and chat do; returns the answer."""
    engine = RemoteEngine.reached(Address(socket=served.socket), served.service.resident.tokens)
    return "".join(engine.stream(Conversation(), question, Sampling()))
