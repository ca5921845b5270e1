"""Parts in a folder: which row is where, what is done, what is refused, and what merge makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.batch.parts import MAKING, Reading
from tests.batch.ray_cluster.rows import ABOUT, jobs, opened_output, put, rows
from vllava_cli.batch import merge
from vllava_cli.batch import parts as module
from vllava_cli.batch.jobs import Job, shard_number
from vllava_cli.batch.merge import mismatches
from vllava_cli.batch.parts import parts_for
from vllava_cli.batch.request import Destination
from vllava_cli.errors import LockedError, OutputError


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Destination:
    """A folder for four parts."""
    monkeypatch.setattr(module, "parts_for", lambda _: 4)
    monkeypatch.chdir(tmp_path)
    return Destination(parts="out")


def merged(*shards: str) -> list[str]:
    """The paths in what merge wrote."""
    request = merge.Merge(out=Path("all.jsonl"), shards=shards, is_overwriting=True)
    assert merge.run(request, Reading().screen()) == 0
    return [json.loads(line)["path"] for line in Path("all.jsonl").read_text().splitlines()]


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
    assert sorted(merged("out")) == sorted(job.path for job in every)
    assert sorted(merged(*(f"out/{name}" for name in names))) == sorted(job.path for job in every)


def test_what_has_a_row_is_done_in_the_next_run_and_errors_only_if_they_are_tried_again(four: Destination) -> None:
    every = jobs(12)
    with opened_output(four, every) as parts:
        assert not any(map(parts.is_done, every))
        put(parts, rows(every[:8], failing=["3.mp4"]))
    with opened_output(four, every) as parts:
        assert [parts.is_done(job) for job in every] == [True] * 8 + [False] * 4
        assert [job.path for job in every if parts.had_failed(job)] == ["3.mp4"]
        assert len(parts.before) == 8
    with opened_output(Destination(parts="out", is_retrying=True), every) as parts:
        assert [job.path for job in every if not parts.is_done(job)] == [
            f"{number}.mp4" for number in (3, 8, 9, 10, 11)
        ]
        put(parts, rows([every[3], *every[8:]]))
        assert not mismatches(every, parts.ids(), parts.before)
    with opened_output(Destination(parts="out", is_overwriting=True), every) as parts:
        assert not any(map(parts.is_done, every))
        assert list(parts.ids()) == []


def test_a_dry_run_looks_and_writes_nothing(four: Destination) -> None:
    every = jobs(4)
    with opened_output(four, every, is_dry=True) as parts:
        assert not any(map(parts.is_done, every))
    assert not Path("out").exists()
    with opened_output(four, every) as parts:
        put(parts, rows(every[:3], failing=["1.mp4"]))
    before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    for place, left in ((four, [3]), (Destination(parts="out", is_retrying=True), [1, 3])):
        with opened_output(place, every, is_dry=True) as parts:
            assert [job.path for job in every if not parts.is_done(job)] == [f"{number}.mp4" for number in left]
    assert {path: path.stat().st_mtime_ns for path in Path("out").iterdir()} == before


def test_a_torn_row_is_done_again(four: Destination) -> None:
    every = jobs(12)
    with opened_output(four, every) as parts:
        put(parts, rows(every))
    part = next(path for path in sorted(Path("out").glob("*.jsonl")) if path.stat().st_size)
    torn = json.loads(part.read_text().splitlines()[-1])["id"]
    part.write_bytes(part.read_bytes()[:-9])
    with opened_output(four, every) as parts:
        assert [job.id for job in every if not parts.is_done(job)] == [torn]


def test_the_number_of_parts_stays_what_it_was(four: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    every = jobs(12)
    with opened_output(four, every[:6], ABOUT) as parts:
        put(parts, rows(every[:6]))
    monkeypatch.setattr(module, "parts_for", lambda _: 9)
    with opened_output(four, every) as parts:
        assert [parts.is_done(job) for job in every] == [True] * 6 + [False] * 6
    assert len(list(Path("out").glob("*.jsonl"))) == 4


def test_one_driver_at_a_time(four: Destination) -> None:
    every = jobs(2)
    with opened_output(four, every), pytest.raises(LockedError), opened_output(four, every):
        pass


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
    assert sorted(merged("out")) == sorted(job.path for job in every)
    with pytest.raises(OutputError, match="another --format"), opened_output(Destination(parts="out"), every, about):
        pass


def test_a_folder_that_lacks_a_part_is_not_merged(four: Destination) -> None:
    every = jobs(12)
    with opened_output(four, every) as parts:
        put(parts, rows(every))
    Path("out/part-00002-of-00004.jsonl").unlink()
    Path("out/part-00002-of-00004.jsonl.jobs").unlink()
    with pytest.raises(Exception, match="2/4 is missing"):
        merged("out")
