"""The driver: what comes is written once, what doesn't come is asked for again, what never comes is an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.batch.parts import Reading
from tests.batch.ray_cluster.rows import ABOUT, batch_of, jobs, rows, setup_of
from vllava_cli.batch.jobs import Job
from vllava_cli.batch.progress import Tally
from vllava_cli.batch.ray_cluster import manifest
from vllava_cli.batch.ray_cluster.actors import FAILURE
from vllava_cli.batch.ray_cluster.parts import opened
from vllava_cli.batch.ray_cluster.ray_request import ClusterBatch, Place
from vllava_cli.batch.ray_cluster.ray_work import Work
from vllava_cli.batch.ray_cluster.resources import Node
from vllava_cli.batch.ray_cluster.result_queue import Taken
from vllava_cli.batch.ray_cluster.setup import Task
from vllava_cli.errors import ClusterError
from vllava_cli.storage.jsonl import line_of, read_rows

pq = pytest.importorskip("pyarrow.parquet")


@contextmanager
def machines(_address: str, _tell: Callable[[str], object]) -> Iterator[tuple[Node, ...]]:
    yield (Node(cpus=8),)


@dataclass
class Cluster:
    """Answers what the manifest asks for, but for what it loses; each pass may lose something else."""

    losses: Sequence[Sequence[str]] = ()
    doubles: int = 1
    ends_with: str | None = None
    vain_starts: int = 0
    asked: list[list[str]] = field(default_factory=list)
    clips: list[int] = field(default_factory=list)
    may_end_engines: list[bool] = field(default_factory=list)

    def feed(self, task: Task, *, is_stopping: Callable[[], bool]) -> Iterator[Taken]:
        units = [manifest.unit_of(row) for row in pq.read_table(task.manifest).to_pylist()]
        lost = self.losses[len(self.asked)] if len(self.asked) < len(self.losses) else ()
        self.asked.append([unit.jobs[0].path for unit in units])
        self.clips.append(task.sizes.clips)
        self.may_end_engines.append(task.may_end_engines)
        for unit in units:
            if unit.jobs[0].path not in lost and not is_stopping():
                answers = tuple(line_of(row) for row in rows(unit.jobs)) * self.doubles
                yield Taken(rows=answers, vain_starts=self.vain_starts)
        yield Taken(rows=(), is_over=True, fault=self.ends_with)


def worked(
    cluster: Cluster,
    folder: Path,
    todo: list[Job],
    *,
    reading: Reading | None = None,
    tally: Tally | None = None,
    connect: Any = machines,
    **more: Any,
) -> Tally:
    """All of it, into a folder."""
    batch = batch_of(**more)
    place = Place(name=str(folder))
    tally = tally or Tally()
    tally.total = tally.skipped + len(todo)
    with opened(place, todo, ABOUT) as out:
        Work(
            cluster=ClusterBatch(batch=batch, output=place),
            setup=setup_of(folder, batch),
            out=out,
            tally=tally,
            screen=(reading or Reading()).screen(),
            is_interrupted=lambda: False,
            connect=connect,
            feed=cluster.feed,
        ).do(todo)
    return tally


def written(folder: Path) -> list[dict[str, Any]]:
    return list(read_rows(folder / "part-00001-of-00001.jsonl"))


def test_a_row_that_comes_twice_is_written_once(tmp_path: Path) -> None:
    todo = jobs(5)
    tally = worked(Cluster(doubles=2), tmp_path, todo)
    assert written(tmp_path) == rows(todo)
    assert (tally.answered, tally.left, tally.failed) == (5, 0, 0)


def test_what_is_lost_is_asked_for_again_a_clip_at_a_time(tmp_path: Path) -> None:
    todo = jobs(5)
    cluster = Cluster(losses=[["1.mp4", "3.mp4"], ["3.mp4"]])
    assert worked(cluster, tmp_path, todo).answered == 5
    assert cluster.asked == [[job.path for job in todo], ["1.mp4", "3.mp4"], ["3.mp4"]]
    assert cluster.clips == [4, 1, 1]
    assert sorted(row["path"] for row in written(tmp_path)) == [job.path for job in todo]


def test_a_clip_that_ends_whoever_is_given_it_becomes_an_error(tmp_path: Path) -> None:
    todo = jobs(3)
    cluster = Cluster(losses=[["1.mp4"]] * 9)
    tally = worked(cluster, tmp_path, todo)
    assert cluster.asked == [[job.path for job in todo], *[["1.mp4"]] * 3]
    assert (tally.answered, dict(tally.errors), tally.left) == (2, {"bug": 1}, 0)
    last = written(tmp_path)[-1]
    assert (last["path"], last["answer"], last["error"]["kind"]) == ("1.mp4", None, "bug")


def test_a_cluster_that_ends_is_asked_again_only_if_it_gave_something(tmp_path: Path) -> None:
    todo = jobs(3)
    with pytest.raises(ClusterError, match=r"^It ended\.$"):
        worked(Cluster(losses=[["2.mp4"], ["2.mp4"]], ends_with="It ended."), tmp_path, todo)
    assert [row["path"] for row in written(tmp_path)] == ["0.mp4", "1.mp4"]


def test_an_engine_that_can_not_be_had_ends_the_run(tmp_path: Path) -> None:
    def feed(_task: Task, *, is_stopping: Callable[[], bool]) -> Iterator[Taken]:  # noqa: ARG001
        yield Taken(rows=(line_of({FAILURE: "The model isn't there."}),))

    cluster = Cluster()
    cluster.feed = feed  # type: ignore[method-assign]
    with pytest.raises(ClusterError, match=r"^The model isn't there\.$"):
        worked(cluster, tmp_path, jobs(3))
    assert written(tmp_path) == []


def test_nothing_is_begun_after_the_first_error_if_that_is_wanted(tmp_path: Path) -> None:
    todo = jobs(4)

    def feed(task: Task, *, is_stopping: Callable[[], bool]) -> Iterator[Taken]:  # noqa: ARG001
        for row in rows(todo, failing=["1.mp4"]):
            if is_stopping():
                return
            yield Taken(rows=(line_of(row),))

    cluster = Cluster()
    cluster.feed = feed  # type: ignore[method-assign]
    tally = worked(cluster, tmp_path, todo, is_failing_fast=True)
    assert (tally.answered, tally.failed, tally.left) == (1, 1, 2)


def test_engines_that_end_at_once_are_told_of_once(tmp_path: Path) -> None:
    reading = Reading()
    tally = worked(Cluster(vain_starts=2), tmp_path / "out", jobs(3), reading=reading)
    assert tally.now == 3
    assert reading.said[1].count("an engine's process ended before it had answered anything") == 1


@pytest.mark.parametrize(
    ("count", "skipped", "skipped_errors", "suspected"),
    [
        (3, 0, 0, [False, True]),
        (50, 9, 8, [True, True]),
        (50, 9, 9, [False, True]),
        (51, 9, 8, [False, True]),
    ],
)
def test_engines_that_end_are_blamed_on_clips_once_others_were_answered(
    count: int, skipped: int, skipped_errors: int, suspected: list[bool], tmp_path: Path
) -> None:
    cluster = Cluster(losses=[["1.mp4"]])
    tally = Tally(skipped=skipped, skipped_errors=skipped_errors)
    worked(cluster, tmp_path / "out", jobs(count), tally=tally)
    assert cluster.may_end_engines == suspected


def test_what_the_cluster_has_is_told_in_the_singular_where_it_is_one(tmp_path: Path) -> None:
    @contextmanager
    def one_gpu(_address: str, _tell: Callable[[str], object]) -> Iterator[tuple[Node, ...]]:
        yield (Node(cpus=3, gpus=1),)

    reading = Reading(is_verbose=True)
    worked(Cluster(), tmp_path, jobs(1), reading=reading, connect=one_gpu)
    assert "ray: 1 machine; 1 engine with 1 GPU and 1 CPU each, 1 decoder, 16 clips at once.\n" in reading.said[1]
