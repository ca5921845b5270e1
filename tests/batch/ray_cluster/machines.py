"""Three machines on this one, in a process of their own: Ray's threads and descriptors are no business of other tests.

Each line on stdin, lose or add, is answered by a line that begins with SAID.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PORT = 10078
"""Of the head's server for clients."""
SAID = "machines: "
PATIENCE_S = 120


@dataclass(frozen=True)
class Machines:
    """The other end of such a process. The first machine is the head of the cluster and stays."""

    process: subprocess.Popen[str]
    address: str
    """For this machine."""
    client_address: str = f"ray://127.0.0.1:{PORT}"
    """For those outside of it."""

    @classmethod
    def started(cls) -> Machines:
        root = Path(__file__).parents[3]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.batch.ray_cluster.machines"],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root), "RAY_USAGE_STATS_ENABLED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return cls(process, _heard(process))

    def add(self) -> None:
        """Another one."""
        self._tell("add")

    def lose(self) -> None:
        """One ends without a word, and with it what runs on it."""
        self._tell("lose")

    def end(self) -> None:
        self.process.communicate()

    def _tell(self, what: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        _heard(self.process)


def _heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    for line in process.stdout:
        if line.startswith(SAID):
            return line.removeprefix(SAID).strip()
    raise RuntimeError("the machines ended")


def _main() -> None:
    from ray.cluster_utils import Cluster

    head: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 200 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head | {"ray_client_server_port": PORT})
    workers = [_added(cluster), _added(cluster)]
    _await_client_server()
    print(f"{SAID}{cluster.address}", flush=True)  # noqa: T201  (the other end of a pipe reads it)
    for line in sys.stdin:
        if line.strip() == "lose":
            cluster.remove_node(workers.pop(0), allow_graceful=False)
        else:
            workers.append(_added(cluster))
        print(f"{SAID}done", flush=True)  # noqa: T201
    cluster.shutdown()


def _await_client_server() -> None:
    """It is started last, and nobody waits for it."""
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", PORT), timeout=1).close()
            return
        time.sleep(0.1)
    raise RuntimeError("the server for clients doesn't answer")


def _added(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=2, object_store_memory=100 << 20)


if __name__ == "__main__":
    _main()
