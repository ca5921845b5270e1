"""Short requests to a server that runs, for its status and its end."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException
from typing import Any

from vllava_cli.client.place import ServerState, connected
from vllava_cli.errors import ServerError, reason_of
from vllava_cli.storage.fields import parsed_object

MOST_REPLY_BYTES = 1 << 20


class _Connection(HTTPConnection):
    def __init__(self, state: ServerState, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._state, self._timeout_s = state, timeout_s

    def connect(self) -> None:
        self.sock = connected(self._state, self._timeout_s)


def reply_of(state: ServerState, method: str, path: str, *, timeout_s: float) -> dict[str, Any]:
    """Sends a request without a body, and returns the object that is answered. Errors: ServerError."""
    connection = _Connection(state, timeout_s)
    try:
        headers = {"Authorization": f"Bearer {state.token}"} if state.token else {}
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        data = response.read(MOST_REPLY_BYTES)
        if response.status != 200:
            raise ServerError(f"The server of process {state.pid} refused {path}: status {response.status}.")
        return parsed_object(data)
    except (OSError, HTTPException, ValueError) as exc:
        raise ServerError(
            f"The server of process {state.pid} doesn't answer: {reason_of(exc)}. Wait, or end the process."
        ) from exc
    finally:
        connection.close()
