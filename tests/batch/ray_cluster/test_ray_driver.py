"""The driver of a cluster: what is lost is asked for again, what never comes is an error, what was seen is reported."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.batch.executors.fakes import Cluster
from tests.batch.parts import batch_of, jobs
from tests.refusals import refused
from vllava_cli.batch.executors import RunControl, ray_driver
from vllava_cli.batch.executors.ray_actors import Allocation, clip_jobs_in
from vllava_cli.batch.executors.ray_driver import Node, allocate, connected, write_manifest
from vllava_cli.batch.jobs import Job, JobRequest, group_by_clip, make_jobs
from vllava_cli.batch.request import BatchRequest, RayOptions
from vllava_cli.batch.rows import Result
from vllava_cli.errors import ClusterError, WishError
from vllava_cli.nouns import Wishes

pytest.importorskip("pyarrow")


def answered(
    cluster: Cluster, folder: Path, todo: list[Job], *, said: list[str] | None = None, has_earlier_answers: bool = False
) -> list[Result]:
    report = (said if said is not None else []).append
    executor = cluster.executor(
        folder, RunControl(notice=report, detail=report), has_earlier_answers=has_earlier_answers
    )
    return list(executor.outcomes(list(group_by_clip(todo))))


def paths(results: list[Result]) -> list[str]:
    return [result.job.path for result in results if result.answer]


def test_what_is_lost_is_asked_for_again_a_clip_at_a_time(tmp_path: Path) -> None:
    todo = jobs(5)
    cluster = Cluster(losses=[["1.mp4", "3.mp4"], ["3.mp4"]], doubles=2)  # a result that comes twice counts once
    assert sorted(paths(answered(cluster, tmp_path, todo))) == [job.path for job in todo]
    assert cluster.asked == [[job.path for job in todo], ["1.mp4", "3.mp4"], ["3.mp4"]]
    assert [each.allocation.clips for each in cluster.passes] == [4, 1, 1]


def test_a_cluster_that_ends_is_asked_again_only_if_it_gave_something(tmp_path: Path) -> None:
    cluster = Cluster(losses=[["2.mp4"], ["2.mp4"]], ends_with="It ended.")
    with pytest.raises(ClusterError, match=r"^It ended\.$"):
        answered(cluster, tmp_path, jobs(3))
    assert len(cluster.asked) == 2


def test_engines_that_end_at_once_are_reported_once(tmp_path: Path) -> None:
    said: list[str] = []
    assert len(answered(Cluster(vain_starts=2), tmp_path, jobs(3), said=said)) == 3
    assert [text for text in said if "ended before it had answered" in text] == [
        "vllava: an engine's process ended before it had answered anything; it is started again. "
        "If that goes on, its machine lacks memory."
    ]


@pytest.mark.parametrize(
    ("count", "has_earlier_answers", "suspected"),
    [(3, False, [False, True]), (50, True, [True, True]), (50, False, [False, True]), (51, True, [False, True])],
)
def test_engines_that_end_are_blamed_on_clips_once_others_were_answered(
    count: int, has_earlier_answers: bool, suspected: list[bool], tmp_path: Path
) -> None:
    cluster = Cluster(losses=[["1.mp4"]])
    answered(cluster, tmp_path, jobs(count), has_earlier_answers=has_earlier_answers)
    assert [each.may_end_engines for each in cluster.passes] == suspected


def test_what_the_cluster_has_is_told_in_the_singular_where_it_is_one(tmp_path: Path) -> None:
    said: list[str] = []
    answered(Cluster(node=Node(cpus=3, gpus=1)), tmp_path, jobs(1), said=said)
    assert said == ["ray: 1 machine; 1 engine with 1 GPU and 1 CPU each, 1 decoder, 16 clips at once."]


ODD = (
    JobRequest(path="a b\n.mp4", question="Why?\x00", fields={"n": 1, "of": [1.5, None, "é"], "half": "\udcff"}),
    JobRequest(path="caf\udce9.mp4", question="日本?"),
    JobRequest(path="s3://bucket//a?b#c.mp4", question="Why?"),
    JobRequest(path="a b\n.mp4", question="And?"),
)


def test_clips_come_back_as_they_were(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    clips = list(group_by_clip([*make_jobs(ODD, "settings"), *jobs(9000)]))
    assert len(clips) == 9003
    place = write_manifest(str(tmp_path), clips)
    assert place == str(tmp_path / "manifest.parquet")
    assert [clip_jobs_in(row) for row in pq.read_table(place).to_pylist()] == clips
    assert pq.ParquetFile(place).num_row_groups == 3
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.parquet"]


PAIR = Node(cpus=2)
WORKSTATION = Node(cpus=16, gpus=1)
SERVER = Node(cpus=64, gpus=8)


def shared(actors: int, cpus: int, gpus: float, decoders: int, clips: int) -> Allocation:
    return Allocation(actors=actors, cpus_per_actor=cpus, gpus_per_actor=gpus, decoders=decoders, clips=clips)


@pytest.mark.parametrize(
    ("nodes", "wanted", "found"),
    [
        ((Node(cpus=3),), batch_of(), shared(1, 1, 0, 1, 4)),
        ((PAIR, PAIR, PAIR), batch_of(), shared(3, 1, 0, 2, 4)),
        ((PAIR, PAIR, PAIR), batch_of(ray=RayOptions(actors=2), decoders=1, most_rows=7), shared(2, 1, 0, 1, 7)),
        ((WORKSTATION,), batch_of(), shared(1, 1, 1, 14, 16)),
        ((WORKSTATION,), batch_of(wishes=Wishes(device="cpu")), shared(1, 7, 0, 8, 4)),
        ((SERVER, SERVER), batch_of(ray=RayOptions(gpus_per_actor=0.4)), shared(32, 1, 0.4, 95, 16)),
        ((SERVER, SERVER), batch_of(ray=RayOptions(gpus_per_actor=3)), shared(4, 1, 3, 123, 16)),
        ((Node(cpus=4), SERVER), batch_of(), shared(8, 1, 1, 59, 16)),
        ((Node(cpus=64), PAIR), batch_of(wishes=Wishes(device="cpu")), shared(2, 1, 0, 63, 4)),
        ((Node(cpus=0), Node(cpus=16), Node(cpus=16)), batch_of(), shared(2, 7, 0, 17, 4)),  # a head that only leads
    ],
)
def test_shares(nodes: tuple[Node, ...], wanted: BatchRequest, found: Allocation) -> None:
    assert allocate(nodes, wanted) == found


@pytest.mark.parametrize(
    ("nodes", "wanted", "said"),
    [
        (
            (PAIR,),
            batch_of(),
            "Ray has 2 CPUs here, and 3 are needed: one for the model, one to decode, one to read the list of clips. "
            "Leave --ray out, or use a larger cluster.",
        ),
        (
            (PAIR, PAIR),
            batch_of(ray=RayOptions(actors=3)),
            "--actors 3 is more than the 2 that the cluster has room for, with 4 CPUs, of which 2 stay free.",
        ),
        (
            (SERVER,),
            batch_of(ray=RayOptions(actors=9)),
            "--actors 9 is more than the 8 that the cluster has room for, with 1 GPU each.",
        ),
        (
            (Node(cpus=8),),
            batch_of(ray=RayOptions(gpus_per_actor=1)),
            "No machine of the cluster has 1 GPU for an actor. Give fewer with --gpus-per-actor.",
        ),
    ],
)
def test_what_there_is_no_room_for_is_refused(nodes: tuple[Node, ...], wanted: BatchRequest, said: str) -> None:
    assert refused(WishError, allocate, nodes, wanted) == said


REFUSED = """Initialization failure from server:
Traceback (most recent call last):
  File "proxier.py", line 1, in Datapath
RuntimeError: Starting Ray client server failed.
"""
STARTING = "Initialization failure from server: RuntimeError: Starting Ray client server failed."
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
    monkeypatch.setattr(ray_driver, "_imported", lambda: gate.module)
    monkeypatch.setattr(ray_driver, "_check_reach", lambda _: None)
    monkeypatch.setattr(ray_driver, "_AGAIN_S", (0.0, 0.0))
    return gate


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_server_that_is_only_starting_is_asked_again(gate: Gate, count: int) -> None:
    gate.errors = [ConnectionAbortedError(REFUSED) for _ in range(count)]
    with connected("ray://head:10001", print) as nodes:
        assert [node.cpus for node in nodes] == [4]
    assert gate.asked == ["ray://head:10001"] * (count + 1)


@pytest.mark.parametrize(
    ("address", "error", "tries", "reason"),
    [
        ("ray://head:10001", ConnectionAbortedError(REFUSED), 3, f"{STARTING} Check it"),
        ("head:6379", ConnectionAbortedError(REFUSED), 1, STARTING),
        (
            "ray://head:10001",
            ConnectionError("ray client connection timeout\nmore"),
            1,
            "ray client connection timeout.",
        ),
        ("auto", RuntimeError("Version mismatch."), 1, "Version mismatch."),
        ("auto", ValueError(), 1, "ValueError."),
    ],
)
def test_a_refusal_is_told_with_its_reason(gate: Gate, address: str, error: Exception, tries: int, reason: str) -> None:
    gate.errors = [error] * 3
    with pytest.raises(ClusterError) as caught, connected(address, print):
        pass
    assert str(caught.value).startswith(f"Ray can't be used at {address}: {reason}")
    assert gate.asked == [address] * tries
