"""Parts in a folder and below a URL, in a real S3 server: where rows are, what is done, and what merge makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.batch.parts import ABOUT, MAKING, Reading, jobs, opened_output, put, rows, setup_of
from vllava_cli.batch import merge
from vllava_cli.batch import output as module
from vllava_cli.batch.executors.ray_actors import clip_jobs_in, decoded
from vllava_cli.batch.executors.ray_driver import write_manifest
from vllava_cli.batch.jobs import Job, JobRequest, group_by_clip, make_jobs, shard_number
from vllava_cli.batch.merge import mismatches
from vllava_cli.batch.output import StoreOutput, parts_for
from vllava_cli.batch.request import Destination
from vllava_cli.batch.rows import JobError
from vllava_cli.demo import CLIPS
from vllava_cli.errors import LockedError, OutputError, ShardError
from vllava_cli.media.fingerprint import fingerprint
from vllava_cli.storage.objects import Objects

pytestmark = pytest.mark.usefixtures("in_a_folder")


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> Destination:
    """A folder for four parts."""
    monkeypatch.setattr(module, "parts_for", lambda _: 4)
    return Destination(parts="out")


def merged(*shards: str) -> list[dict[str, Any]]:
    """The rows in what merge wrote."""
    request = merge.Merge(out=Path("all.jsonl"), shards=shards, is_overwriting=True)
    assert merge.run(request, Reading().screen()) == 0
    return [json.loads(line) for line in Path("all.jsonl").read_text().splitlines()]


def paths(*shards: str) -> list[str]:
    return sorted(row["path"] for row in merged(*shards))


@pytest.mark.parametrize(("count", "parts"), [(0, 1), (1, 1), (65_536, 1), (65_537, 2), (1_000_000, 16), (10**9, 256)])
def test_a_part_has_about_as_many_jobs_as_can_be_looked_at(count: int, parts: int) -> None:
    assert parts_for(count) == parts


def test_a_row_is_in_the_part_that_its_id_says(four: Destination) -> None:
    every = jobs(40)
    with opened_output(four, every) as parts:
        put(parts, rows(every))
        parts.finish(every)
        assert not mismatches(every, parts.ids(), parts.before)
    names = [f"part-{number:05}-of-00004.jsonl" for number in range(1, 5)]
    assert sorted(path.name for path in Path("out").iterdir()) == sorted([*names, *(f"{name}.jobs" for name in names)])
    for number, name in enumerate(names, 1):
        found = [json.loads(line)["id"] for line in (Path("out") / name).read_text().splitlines()]
        assert sorted(found) == sorted(job.id for job in every if shard_number(job.id, 4) == number)
    assert paths("out") == sorted(job.path for job in every)
    assert paths(*(f"out/{name}" for name in names)) == sorted(job.path for job in every)


@pytest.fixture(params=["four", "bucket"])
def place(request: pytest.FixtureRequest) -> Destination:
    """Parts in a folder, then below a URL."""
    found: Destination = request.getfixturevalue(request.param)
    return found


def test_what_has_a_row_is_done_and_errors_are_tried_again_only_if_that_is_asked(place: Destination) -> None:
    every, others = jobs(12), jobs(2, question="Who?")
    with opened_output(place, every) as parts:
        assert not any(map(parts.is_done, every))
        put(parts, rows([*every[:8], *others], failing=["1.mp4", "3.mp4"]))
    with opened_output(place, every) as parts:
        assert [parts.is_done(job) for job in every] == [True] * 8 + [False] * 4
        assert [job.path for job in every if parts.had_failed(job)] == ["1.mp4", "3.mp4"]
        assert len(parts.before) == 10
    with pytest.raises(ShardError, match="4 of 12 jobs have no row"):
        merged(str(place.parts))
    with opened_output(replace(place, is_retrying=True), every) as parts:
        left = [job for job in every if not parts.is_done(job)]
        assert [job.path for job in left] == [f"{number}.mp4" for number in (1, 3, 8, 9, 10, 11)]
        put(parts, rows(left))
        parts.finish(every)
        assert mismatches(every, parts.ids(), parts.before) == [], "errors of other questions are no foreign rows"
    assert paths(str(place.parts)) == sorted(job.path for job in every)
    with opened_output(replace(place, is_overwriting=True), every) as parts:
        assert not any(map(parts.is_done, every))
        assert list(parts.ids()) == []


def test_the_number_of_parts_stays_what_it_was(four: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    every = jobs(12)
    with opened_output(four, every[:6], ABOUT) as parts:
        put(parts, rows(every[:6]))
    monkeypatch.setattr(module, "parts_for", lambda _: 9)
    with opened_output(four, every) as parts:
        assert [parts.is_done(job) for job in every] == [True] * 6 + [False] * 6
        with pytest.raises(LockedError), opened_output(four, every):
            pass
    assert len(list(Path("out").glob("*.jsonl"))) == 4


def test_what_is_no_output_of_a_batch_is_left_alone(four: Destination) -> None:
    Path("out").mkdir()
    foreign = Path("out/part-00001-of-00001.jsonl")
    foreign.write_text('{"type": "diary"}\n')
    for place in (four, Destination(parts="out", is_overwriting=True)):
        with pytest.raises(OutputError), opened_output(place, jobs(2)):
            pass
    assert foreign.read_text() == '{"type": "diary"}\n'
    Path("out/part-00001-of-00002.jsonl").touch()
    with (
        pytest.raises(OutputError, match="'out' has parts of another run, or of another --format"),
        opened_output(four, jobs(2)),
    ):
        pass


@pytest.mark.usefixtures("four")
def test_parquet_has_the_rows_in_the_order_of_the_jobs() -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    about = replace(ABOUT, choices=("yes", "no"))
    every = [*jobs(10, split="test", number=7), *jobs(1, question="half \udcff")]
    place = Destination(parts="out", is_parquet=True)
    with opened_output(place, every, about) as parts:
        made = rows(reversed(every), failing=["4.mp4"], about=about)
        for row in made:
            row["frame_times_s"] = [0.0, 1.5]
            row["probabilities"] = {"yes": 0.75, "no": 0.25}
        old = {key: value for key, value in made.pop().items() if key not in ("stray", "seed", "made_with")}
        made[0] |= {"stray": 1, "seed": (1 << 64) - 1, "made_with": MAKING.row()}
        put(parts, [*made, old])
        parts.finish(every)
    tables = [pq.read_table(path) for path in sorted(Path("out").glob("part-*.parquet"))]
    assert len(tables) == 4
    of: dict[str, Job] = {job.id: job for job in every}
    for number, table in enumerate(tables, 1):
        found = table.to_pylist()
        assert [row["id"] for row in found] == [job.id for job in every if shard_number(job.id, 4) == number]
        for row in found:
            is_bad = row["path"] == "4.mp4"
            assert row["error"] == ({"kind": "unreadable", "message": "It can't be read."} if is_bad else None)
            assert (row["frame_times_s"], row["probabilities"]) == ([0.0, 1.5], [("yes", 0.75), ("no", 0.25)])
            assert row["question"] == of[row["id"]].question.replace("\udcff", "\\xff")
            was_made = row["id"] == made[0]["id"]
            assert row["seed"] == ((1 << 64) - 1 if was_made else None)
            assert row["made_with"] == (json.dumps(MAKING.row()) if was_made else None)
            assert (row["split"], row["number"]) == (("test", "7") if of[row["id"]].fields else (None, None))
    assert paths("out") == sorted(job.path for job in every)
    with pytest.raises(OutputError, match="another --format"), opened_output(Destination(parts="out"), every, about):
        pass


@pytest.fixture
def bucket(store: Any, request: pytest.FixtureRequest) -> Destination:
    """A place for a run in a bucket of its own."""
    name = f"b{abs(hash(request.node.name))}"
    store.create_bucket(Bucket=name)
    return Destination(parts=f"s3://{name}/run-1")


def names(store: Any, place: Destination) -> list[str]:
    found = store.list_objects_v2(Bucket=str(place.parts).split("/")[2]).get("Contents", [])
    return [entry["Key"].removeprefix("run-1/") for entry in found]


def test_rows_are_put_as_objects_and_merged_from_there(store: Any, bucket: Destination) -> None:
    every = jobs(5)
    with opened_output(bucket, every) as parts:
        assert [parts.is_done(job) for job in every] == [False] * 5
        put(parts, rows(every[:2]))
        parts.finish(every)
        put(parts, rows(every[2:]))
        parts.finish(every)
        assert not mismatches(every, parts.ids(), parts.before)
    assert [name[:11] for name in sorted(names(store, bucket))] == ["rows-000001", "rows-000002", "run.jsonl.j"]
    assert merged(str(bucket.parts)) == rows(every)


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


def test_a_put_that_breaks_off_leaves_no_object(store: Any, bucket: Destination) -> None:
    objects = Objects(str(bucket.parts))

    def broken() -> Iterator[dict[str, str]]:
        yield {"x": "x" * (6 << 20)}  # more than s3fs holds back: a part of it is with the server
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        objects.put_rows(broken(), 1)
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
    assert (fetched.fingerprint, local.fingerprint) == (fingerprint(CLIPS / "blue-star-grows.mp4"), None)
    assert (fetched.frames.pixels == local.frames.pixels).all()
    assert absent.error and (absent.error.kind, absent.is_early) == ("missing", True)
    said = f"{urls[2]} is neither a video nor an image that can be read. Check the file or convert it to mp4."
    assert bad.error == JobError(kind="unreadable", message=said)
