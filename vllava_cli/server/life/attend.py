"""`vllava serve --status` and `--stop`: shows the servers that this user runs, and ends one of them."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from vllava_cli.client import place
from vllava_cli.client.connection import Address, send
from vllava_cli.client.place import ServerState
from vllava_cli.errors import ServerError, ServerGoneError
from vllava_cli.memory import gib
from vllava_cli.nouns import Wishes, counted
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import json_of

_REPLY_S = 5.0
_TICK_S = 0.1


def status(screen: Screen, *, is_json: bool) -> int:
    """Shows each server that this user runs; returns 0, or 1 if there is none."""
    states = place.states()
    for state in states:
        try:
            reply = _reply(state, "GET", "/vllava/status")
        except ServerError as exc:
            screen.error(str(exc))
            continue
        if is_json:
            screen.answer(json_of(reply) + "\n")
        else:
            screen.facts(_rows(reply), is_answer=True)
    if not states:
        screen.notice("vllava: no server of yours runs.")
    return 0 if states else 1


def stop(screen: Screen, wishes: Wishes, named: Collection[str]) -> int:
    """Ends the server that has these `named` wishes, and waits for its end; returns 0. Errors: ServerError."""
    wanted = place.as_served(wishes)
    found = {id: state for id, state in place.running().items() if all(_has(state, wanted, name) for name in named)}
    if len(found) != 1:
        raise ServerError(_which(list(found.values()), named))
    ((id, state),) = found.items()
    _reply(state, "POST", "/vllava/stop")
    with screen.waiting("Waiting until the running answers are finished"):
        while place.is_taken(id, state):
            time.sleep(_TICK_S)
    screen.notice(f"vllava: ended the server of {state.wishes.model}, process {state.pid}.")
    return 0


def _reply(state: ServerState, method: str, path: str) -> dict[str, Any]:
    """Sends a request to a server, and returns the object that it answers. Errors: ServerError."""
    try:
        with send(Address.of(state), method, path, patience_s=_REPLY_S) as reply:
            values = reply.checked().json()
    except ServerGoneError as exc:
        raise ServerError(f"The server of process {state.pid} doesn't answer. Wait, or end the process.") from exc
    return values if isinstance(values, dict) else {}


def _has(state: ServerState, wanted: Wishes, name: str) -> bool:
    wish = getattr(wanted, name)
    return wish in (getattr(state.wishes, name), getattr(state, name, None))


def _which(found: list[ServerState], named: Collection[str]) -> str:
    if not found:
        return f"No server of yours {'has these settings' if named else 'runs'}: vllava serve --status shows them."
    models = ", ".join(f"{state.wishes.model} (process {state.pid})" for state in found)
    return f"{counted(len(found), 'server')} of yours run: {models}. Name one with --model, or by its other settings."


def _rows(reply: dict[str, Any]) -> list[tuple[str, str]]:
    """Writes the facts of a server's reply as rows of two columns."""
    running, waiting, gpu_bytes = (reply.get(name) for name in ("running", "waiting", "gpu_bytes"))
    facts = {
        "model": reply.get("model"),
        "loaded as": f"{reply.get('precision')} on {reply.get('device')}, {reply.get('attention')}",
        "listens at": ", ".join(filter(None, map(str, (reply.get("socket") or "", reply.get("url") or "")))),
        "process": reply.get("pid"),
        "since": reply.get("began"),
        "answers": f"{reply.get('answers')} given, {running} running, {waiting} waiting",
        "memory": gib(reply.get("memory_bytes") or 0) + (f", {gib(gpu_bytes)} on the GPU" if gpu_bytes else ""),
    }
    return [(name, str(fact)) for name, fact in facts.items()]
