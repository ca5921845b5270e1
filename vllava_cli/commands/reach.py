"""Finds the server that --server asks for, and makes the engine that answers by it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from vllava_cli.client.connection import Address
from vllava_cli.client.place import matching
from vllava_cli.engine.answering import AnswerEngine
from vllava_cli.engine.tokens import Tokens
from vllava_cli.errors import ServerError
from vllava_cli.nouns import AUTO, OFF, Log, Wishes

if TYPE_CHECKING:
    from vllava_cli.client.remote_engine import RemoteEngine

TOKEN = "VLLAVA_TOKEN"
"""The variable of the environment with the token for the server that a URL names."""
LIGHT_MODULES = ("vllava_cli.engine.tokens", "tokenizers")
"""The modules that a question to a server needs; torch isn't among them."""


def found(server: str, wishes: Wishes) -> Address | None:
    """Returns the address of the server of --server; None if the model is to be loaded here."""
    if server != AUTO:
        return named(server)
    state = matching(wishes)
    return Address.of(state) if state else None


def named(server: str) -> Address | None:
    """Returns the address if --server names a URL, with the token of the environment; else None."""
    return None if server in (AUTO, OFF) else Address(url=server, token=os.environ.get(TOKEN, ""))


def reached(address: Address, tokens: Tokens, log: Log) -> RemoteEngine:
    """Returns the engine of a server. Errors: ServerError."""
    from vllava_cli.client.remote_engine import RemoteEngine

    remote = RemoteEngine.reached(address, tokens)
    log.detail(f"server: {address.name}.")
    return remote


def engine_by(
    server: str, address: Address | None, tokens: Tokens, log: Log, load: Callable[[], AnswerEngine]
) -> AnswerEngine:
    """Returns the engine of the server at an address, or the one that `load` returns where there is none.

    `load` also takes over from a server that has ended, unless --server named that. Errors: ServerError for a server
    that was named; any that `load` raises.
    """
    if address is None:
        return load()
    if server != AUTO:
        return reached(address, tokens, log)
    from vllava_cli.client.fallback_engine import FallbackEngine

    try:
        return FallbackEngine(engine=reached(address, tokens, log), load=load, notice=log.notice)
    except ServerError as exc:
        log.detail(f"server: none. {exc}")
        return load()
