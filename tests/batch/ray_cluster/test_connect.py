"""What is done about a cluster that doesn't let one in. No Ray is needed: the refusals are what is imitated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllava_cli.batch.ray_cluster import connect
from vllava_cli.batch.ray_cluster.connect import connected
from vllava_cli.errors import ClusterError

REFUSED = """Initialization failure from server:
Traceback (most recent call last):
  File "proxier.py", line 1, in Datapath
RuntimeError: Starting Ray client server failed.
"""
NODE = {"Alive": True, "Resources": {"CPU": 4.0}}


class Gate:
    """Stands for Ray: refuses so often, then lets in."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.asked: list[str] = []
        self.module = SimpleNamespace(init=self.init, nodes=lambda: [NODE], shutdown=lambda: None)

    def init(self, *, address: str, **_: Any) -> None:
        self.asked.append(address)
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    monkeypatch.setattr(connect, "_imported", lambda: gate.module)
    monkeypatch.setattr(connect, "_check_reach", lambda _: None)
    monkeypatch.setattr(connect, "_AGAIN_S", (0.0, 0.0))
    return gate


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_server_that_is_only_starting_is_asked_again(gate: Gate, count: int) -> None:
    gate.errors = [ConnectionAbortedError(REFUSED) for _ in range(count)]
    with connected("ray://head:10001", print) as nodes:
        assert [node.cpus for node in nodes] == [4]
    assert gate.asked == ["ray://head:10001"] * (count + 1)


def test_a_server_that_refuses_thrice_is_told_of_with_its_reason(gate: Gate) -> None:
    gate.errors = [ConnectionAbortedError(REFUSED) for _ in range(3)]
    with pytest.raises(ClusterError) as caught, connected("ray://head:10001", print):
        pass
    assert str(caught.value).startswith(
        "Ray can't be used at ray://head:10001: Initialization failure from server: "
        "RuntimeError: Starting Ray client server failed. Check it"
    )
    assert len(gate.asked) == 3


@pytest.mark.parametrize(
    ("address", "error", "reason"),
    [
        (
            "head:6379",
            ConnectionAbortedError(REFUSED),
            "Initialization failure from server: RuntimeError: Starting Ray",
        ),
        ("ray://head:10001", ConnectionError("ray client connection timeout\nmore"), "ray client connection timeout."),
        ("auto", RuntimeError("Version mismatch."), "Version mismatch."),
        ("auto", ValueError(), "ValueError."),
    ],
)
def test_other_refusals_are_final(gate: Gate, address: str, error: Exception, reason: str) -> None:
    gate.errors = [error]
    with pytest.raises(ClusterError) as caught, connected(address, print):
        pass
    assert str(caught.value).startswith(f"Ray can't be used at {address}: {reason}")
    assert gate.asked == [address]
