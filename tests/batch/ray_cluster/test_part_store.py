"""Rows below a URL, in a real S3 server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.batch.parts import Reading
from tests.batch.ray_cluster.rows import ABOUT, jobs, opened_output, put, rows, setup_of
from vllava_cli.batch import merge
from vllava_cli.batch.executors.ray_actors import clip_jobs_in, decoded
from vllava_cli.batch.executors.ray_driver import write_manifest
from vllava_cli.batch.jobs import JobRequest, group_by_clip, make_jobs
from vllava_cli.batch.merge import mismatches
from vllava_cli.batch.parts import StoreOutput
from vllava_cli.batch.request import Destination
from vllava_cli.batch.rows import JobError
from vllava_cli.demo import CLIPS
from vllava_cli.errors import OutputError, ShardError
from vllava_cli.storage.objects import Objects

NOTHING_DONE = [False] * 5


@pytest.fixture
def bucket(store: Any, request: pytest.FixtureRequest) -> Destination:
    """A place for a run in a bucket of its own."""
    name = f"b{abs(hash(request.node.name))}"
    store.create_bucket(Bucket=name)
    return Destination(parts=f"s3://{name}/run-1")


def names(store: Any, place: Destination) -> list[str]:
    found = store.list_objects_v2(Bucket=str(place.parts).split("/")[2]).get("Contents", [])
    return [entry["Key"].removeprefix("run-1/") for entry in found]


def merged(place: Destination, out: Path) -> list[dict[str, Any]]:
    assert merge.run(merge.Merge(out=out, shards=(str(place.parts),), is_overwriting=True), Reading().screen()) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_rows_are_put_as_objects_and_merged_from_there(store: Any, bucket: Destination, tmp_path: Path) -> None:
    every = jobs(5)
    with opened_output(bucket, every) as parts:
        assert [parts.is_done(job) for job in every] == NOTHING_DONE
        put(parts, rows(every[:2]))
        parts.finish(every)
        put(parts, rows(every[2:]))
        parts.finish(every)
        assert not mismatches(every, parts.ids(), parts.before)
    assert [name[:11] for name in sorted(names(store, bucket))] == ["rows-000001", "rows-000002", "run.jsonl.j"]
    assert merged(bucket, tmp_path / "all.jsonl") == rows(every)


def test_rows_wait_for_others_but_not_for_long(store: Any, bucket: Destination) -> None:
    every, now_s = jobs(5), [0.0]
    parts = StoreOutput(bucket, ABOUT, Reading().screen())
    parts.clock = lambda: now_s[0]
    parts.prepare(every, every, is_dry=False)
    put(parts, rows(every[:1]))
    assert names(store, bucket) == ["run.jsonl.jobs"]
    now_s[0] = 6.0
    put(parts, ())
    assert len(names(store, bucket)) == 2
    put(parts, rows(every[1:2]))
    parts.close()
    assert len(names(store, bucket)) == 3


def test_the_next_run_goes_on_and_tries_errors_again_if_it_is_asked_to(bucket: Destination, tmp_path: Path) -> None:
    every = jobs(5)
    with opened_output(bucket, every) as parts:
        put(parts, rows(every[:4], failing=["1.mp4"]))
    with opened_output(bucket, every) as parts:
        assert [parts.is_done(job) for job in every] == [True] * 4 + [False]
        assert [parts.had_failed(job) for job in every] == [False, True, False, False, False]
    with pytest.raises(ShardError, match="1 of 5 jobs has no row"):
        merged(bucket, tmp_path / "all.jsonl")
    again = Destination(parts=bucket.parts, is_retrying=True)
    with opened_output(again, every) as parts:
        assert [parts.is_done(job) for job in every] == [True, False, True, True, False]
        put(parts, rows([every[1], every[4]]))
    assert sorted(row["path"] for row in merged(bucket, tmp_path / "all.jsonl") if not row["error"]) == [
        f"{number}.mp4" for number in range(5)
    ]
    with opened_output(Destination(parts=bucket.parts, is_overwriting=True), every) as parts:
        assert [parts.is_done(job) for job in every] == NOTHING_DONE
        assert list(parts.ids()) == []


def test_errors_of_other_questions_are_no_foreign_rows_when_errors_are_tried_again(bucket: Destination) -> None:
    others, every = jobs(2, question="Who?"), jobs(3)
    with opened_output(bucket, others) as parts:
        put(parts, rows(others, failing=["1.mp4"]))
    with opened_output(Destination(parts=bucket.parts, is_retrying=True), every) as parts:
        put(parts, rows(every))
        parts.finish(every)
        assert mismatches(every, parts.ids(), parts.before) == []


def test_a_put_that_breaks_off_leaves_no_object(store: Any, bucket: Destination) -> None:
    objects = Objects(str(bucket.parts))

    def pieces() -> Iterator[bytes]:
        yield b"x" * (6 << 20)  # more than s3fs holds back: a part of it is with the server
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        objects.put("rows-000001-00000000.jsonl", pieces())
    assert names(store, bucket) == []
    objects.put_rows(rows(jobs(2)), 1)
    assert len(names(store, bucket)) == 1


def test_parquet_and_the_manifest_are_objects_too(bucket: Destination) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    s3fs = pytest.importorskip("s3fs")
    every = jobs(5)
    place = Destination(parts=bucket.parts, is_parquet=True)
    written = write_manifest(str(place.parts), list(group_by_clip(every)))
    assert written == f"{place.parts!s}/manifest.parquet"
    with opened_output(place, every) as parts:
        put(parts, rows(reversed(every)))
        parts.finish(every)
    with s3fs.S3FileSystem(skip_instance_cache=True).open(f"{place.parts!s}/rows.parquet") as file:
        assert [row["path"] for row in pq.read_table(file).to_pylist()] == [job.path for job in every]
    with s3fs.S3FileSystem(skip_instance_cache=True).open(written) as file:
        assert [clip_jobs_in(row) for row in pq.read_table(file).to_pylist()] == list(group_by_clip(every))


def test_a_store_that_can_not_be_written_to_is_told_in_a_sentence(store: Any) -> None:  # noqa: ARG001
    place = Destination(parts="s3://there-is-no-such-bucket/run")
    with (
        pytest.raises(OutputError, match=r"^s3://there-is-no-such-bucket/run.* can't be (read|written to): "),
        opened_output(place, jobs(1)),
    ):
        pass


def test_a_clip_is_fetched_and_decoded(store: Any, bucket: Destination, tmp_path: Path) -> None:
    name = str(bucket.parts).split("/")[2]
    store.upload_file(str(CLIPS / "blue-star-grows.mp4"), name, "a b.mp4")
    store.put_object(Bucket=name, Key="bad.mp4", Body=b"no video")
    urls = [f"s3://{name}/{key}.mp4" for key in ("a b", "none", "bad")] + [str(CLIPS / "blue-star-grows.mp4")]
    setup = setup_of(tmp_path, allowed=("s3",))
    units = list(group_by_clip(make_jobs([JobRequest(path=url, question="Why?") for url in urls], "settings")))
    fetched, absent, bad, local = (decoded(unit, setup) for unit in units)
    assert fetched.frames and local.frames
    assert (fetched.frames.pixels == local.frames.pixels).all()
    assert absent.error and (absent.error.kind, absent.is_early) == ("missing", True)
    said = f"{urls[2]} is neither a video nor an image that can be read. Check the file or convert it to mp4."
    assert bad.error == JobError(kind="unreadable", message=said)
