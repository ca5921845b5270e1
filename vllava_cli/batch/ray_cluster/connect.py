"""A connection to a Ray cluster, or to one of this machine alone that ends with it."""

from __future__ import annotations

import io
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from vllava_cli.batch.ray_cluster.ray_request import LOCAL
from vllava_cli.batch.ray_cluster.resources import Node
from vllava_cli.errors import ClusterError, UsageError

_PATIENCE_S = 10.0
_CLIENT = "ray://"
_AGAIN_S = (2.0, 5.0)
"""How long to wait before a server that could not begin for a client is asked once more, and then again."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@contextmanager
def connected(address: str, tell: Callable[[str], object]) -> Iterator[tuple[Node, ...]]:
    """What the cluster's machines have; `tell` hears what Ray has to say meanwhile, line by line.

    Errors: UsageError without Ray; ClusterError where no cluster answers.
    """
    # stdout is where Ray prints, from a thread, what becomes of machines and tasks.
    with redirect_stdout(_Heard(tell)), _begun(address) as ray:
        yield tuple(_node(each["Resources"]) for each in ray.nodes() if each["Alive"])


@contextmanager
def _begun(address: str) -> Iterator[Any]:
    ray = _imported()
    if address not in (LOCAL, "auto"):
        _check_reach(address)
    try:
        _init(ray, address)
    except (ConnectionError, RuntimeError, ValueError, OSError) as exc:
        remedy = "Check it with ray status; if it asks for a token, set RAY_AUTH_MODE=token"
        raise ClusterError(f"Ray can't be used at {address}: {_reason(exc)}. {remedy}.") from exc
    try:
        yield ray
    finally:
        ray.shutdown()


def _init(ray: Any, address: str) -> None:
    """A head that was only just started, or is busy, refuses clients for a while although it listens."""
    for wait_s in (*_AGAIN_S, None):
        try:
            ray.init(**_settings(address))
        except ConnectionAbortedError:
            if wait_s is None or not address.startswith(_CLIENT):
                raise
            time.sleep(wait_s)
        else:
            return


class _Heard(io.TextIOBase):
    """A stream for lines."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(None, map(str.strip, lines)):
            self._tell(_COLOUR.sub("", line))
        return len(text)


def _imported() -> Any:
    """Ray without its tips, reports of use and warnings, which are told while it is imported and begun."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as exc:
        raise UsageError("--ray needs Ray Data, which isn't installed: pip install 'vllava[ray]'.") from exc
    logging.getLogger("ray").setLevel(logging.ERROR)
    return ray


def _settings(address: str) -> dict[str, Any]:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        # Whatever RAY_ADDRESS says: "local" is a cluster of our own.
        return {**quiet, "address": LOCAL, "include_dashboard": False}
    return {**quiet, "address": address}


def _check_reach(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE_S).close()
    except ValueError as exc:
        raise UsageError(f"{address!r} is no address of a cluster: give ray://HOST:10001 or HOST:6379.") from exc
    except OSError as exc:
        reason = exc.strerror or str(exc) or type(exc).__name__
        raise ClusterError(f"No Ray cluster answers at {address}: {reason}. Check it there with ray status.") from exc


def _node(resources: dict[str, float]) -> Node:
    return Node(cpus=int(resources.get("CPU", 0)), gpus=int(resources.get("GPU", 0)))


def _reason(error: BaseException) -> str:
    """One line of it; where its server sent a traceback, the end of that as well."""
    first, *others = str(error).strip().splitlines() or [type(error).__name__]
    told = f"{first} {others[-1].strip()}" if others and first.endswith(":") else first
    return told.rstrip(".:")
