"""Finds the server that --server asks for, and makes the engine that answers by it."""

from __future__ import annotations

import os
from collections.abc import Callable

from vllava_cli.client.connection import Address
from vllava_cli.client.place import matching
from vllava_cli.engine.answering import AnswerEngine
from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import ServerError
from vllava_cli.nouns import AUTO, OFF, Log, Wishes

TOKEN = "VLLAVA_TOKEN"
"""The variable of the environment with the token for the server that a URL names."""
LIGHT_MODULES = ("vllava_cli.engine.tokens", "tokenizers")
"""The modules that a question to a server needs; torch isn't among them."""


def found(server: str, wishes: Wishes) -> Address | None:
    """Returns the address of the server of --server; None if the model is to be loaded here."""
    if server == OFF:
        return None
    if server != AUTO:
        return Address(url=server, token=os.environ.get(TOKEN, ""))
    state = matching(wishes)
    return Address.of(state) if state else None


def reached(
    address: Address, tokens: Tokens, log: Log, load: Callable[[], AnswerEngine], *, server: str
) -> AnswerEngine:
    """Returns the engine of a server; `server` is the user's wish. One that wasn't named is replaced by `load`.

    Errors: ServerError for a server that the user named; any that `load` raises.
    """
    from vllava_cli.client.fallback_engine import FallbackEngine
    from vllava_cli.client.remote_engine import RemoteEngine

    try:
        remote = RemoteEngine.reached(address, tokens)
    except ServerError as exc:
        if server != AUTO:
            raise
        log.detail(f"server: none. {exc}")
        return load()
    log.detail(f"server: {address.name}.")
    return FallbackEngine(engine=remote, load=load, notice=log.notice) if server == AUTO else remote
