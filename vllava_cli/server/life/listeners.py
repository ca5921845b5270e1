"""The addresses at which a server listens: this user's Unix socket and, if it is asked for, a port."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from ipaddress import ip_address

from vllava_cli.errors import ServerError, UsageError, os_reason
from vllava_cli.server.life.own_place import BACKLOG, OwnPlace
from vllava_cli.server.serve_settings import ServeSettings

HAS_UNIX_SOCKETS = hasattr(socket, "AF_UNIX")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")
"""Hosts that stand for all addresses of a machine."""
LEAST_TOKEN = 8
MOST_TOKEN = 512


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Bound sockets, which refuse connections until `open`; a server is told apart by them."""

    sockets: tuple[socket.socket, ...]
    path: str = ""
    """The path of the Unix socket; "" where there is none."""
    url: str = ""
    """The address of the port; "" if there is none."""
    token: str = ""
    """The token for this user's own commands where there is no Unix socket."""

    def open(self) -> None:
        """Accepts connections from now on. Errors: ServerError if another process took the port in between."""
        for each in self.sockets:
            try:
                each.listen(BACKLOG)
            except OSError as exc:
                raise ServerError(f"{self.url} can't be listened at: {os_reason(exc)}. Name another port.") from exc

    def close(self) -> None:
        for each in self.sockets:
            each.close()


def check_reach(settings: ServeSettings) -> None:
    """Raises a UsageError for a server that anybody could ask, or whose token is none."""
    token, host = settings.token, settings.host
    if settings.port is None and host != ServeSettings.host:
        raise UsageError(f"--host {host} is about a port: add --port 8000, or leave it out.")
    if settings.port is None and (token or settings.names):
        raise UsageError("--token and --name are about a port: add --port 8000, or leave them out.")
    if token and not (LEAST_TOKEN <= len(token) <= MOST_TOKEN and all("!" <= each <= "~" for each in token)):
        raise UsageError(
            f"The token is not {LEAST_TOKEN} to {MOST_TOKEN} letters, digits and signs of ASCII: make one with "
            "openssl rand -hex 16."
        )
    if settings.port is not None and not token and not is_loopback(host):
        raise UsageError(
            f"--host {host} can be reached from other machines: set VLLAVA_TOKEN, or give --token-file, so that only "
            "those who have the token may ask."
        )


def is_loopback(host: str) -> bool:
    """True for an address that other machines can't reach."""
    try:
        return host in LOOPBACK or ip_address(host).is_loopback
    except ValueError:
        return False


def bound(settings: ServeSettings, own: OwnPlace) -> Listeners:
    """Binds the sockets of a server. Errors: UsageError for a host that isn't here; ServerError."""
    path, token, sockets = "", "", []
    if HAS_UNIX_SOCKETS:
        sockets.append(own.socket())
        path = str(sockets[0].getsockname())
    else:
        token = secrets.token_urlsafe(32)
    url = ""
    try:
        if settings.port is not None or not path:
            sockets.append(_port(settings.host, settings.port or 0))
            url = _url(settings.host, sockets[-1].getsockname()[1])
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return Listeners(sockets=tuple(sockets), path=path, url=url, token=token)


def _port(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as exc:
        raise UsageError(f"--host {host} is not an address of this machine: {os_reason(exc)}. Name one.") from exc
    # With no protocol, asyncio sets no TCP_NODELAY on connections, and each answer of several parts takes 40 ms more.
    found = socket.socket(family, kind, socket.IPPROTO_TCP)
    try:
        # On Windows this option would let two servers have the same port.
        if os.name != "nt":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as exc:
        found.close()
        raise ServerError(
            f"Port {port} of {host} can't be listened at: {os_reason(exc)}. Name another with --port."
        ) from exc
    return found


def _url(host: str, port: int) -> str:
    """Writes the address for clients on this machine."""
    shown = dict(zip(EVERYWHERE, ("127.0.0.1", "::1"), strict=True)).get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
