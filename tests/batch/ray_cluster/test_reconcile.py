"""What is read again, held against the jobs."""

from __future__ import annotations

from tests.batch.ray_cluster.rows import jobs
from vllava_cli.batch.ray_cluster.reconcile import Mismatch, mismatch


def ids(of: list[str]) -> list[bytes]:
    return [bytes.fromhex(id) for id in of]


def test_each_job_once_is_what_is_wanted_and_rows_of_earlier_runs_may_stay() -> None:
    every, earlier = jobs(5), jobs(2, question="Before?")
    there = ids([job.id for job in (*earlier, *every)])
    assert mismatch(every, there, before=ids([job.id for job in earlier])) == Mismatch()
    assert not mismatch(every, there, before=ids([job.id for job in earlier]))


def test_what_lacks_what_is_twice_and_what_is_foreign_is_told() -> None:
    every, foreign = jobs(15), jobs(1, question="Who?")
    there = ids([job.id for job in (every[0], every[0], *foreign)])
    found = mismatch(every, there, before=())
    assert found == Mismatch(missing=tuple(every[1:]), twice=(every[0].id,), foreign=(foreign[0].id,))
    missing, twice, unknown = found.told()
    assert missing.startswith(f"14 without a row: {every[1].id} '1.mp4' 'Why?', ")
    assert missing.endswith(" … and 4 more.")
    assert twice == f"1 with two rows: {every[0].id}."
    assert unknown == f"1 that nobody asked for: {foreign[0].id}."
