"""The contract of executors over a real cluster, in a process of its own: `python -m … ADDRESS FOLDER`.

Its processes answer the demo's clips; one file is no video. An assertion that fails ends it with 1.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

from tests.batch.parts import batch_of
from vllava_cli import demo
from vllava_cli.batch.executors import RunControl
from vllava_cli.batch.executors.ray_driver import RayExecutor
from vllava_cli.batch.jobs import ClipJobs, JobRequest, group_by_clip, make_jobs
from vllava_cli.batch.request import Destination, RayOptions
from vllava_cli.batch.rows import Result
from vllava_cli.nouns import Source

QUESTIONS = ("What happens in this video?", "What colour is it?")


def answered(clips: list[ClipJobs], address: str, folder: Path, stop_after: int = 99) -> list[Result]:
    results: list[Result] = []
    executor = RayExecutor(
        batch=batch_of(destination=Destination(parts=str(folder)), ray=RayOptions(address=address), most_rows=1),
        source=Source(model="demo", folder=demo.CHECKPOINT),
        control=RunControl(is_stopping=lambda: len(results) >= stop_after),
    )
    with closing(executor.outcomes(clips)) as outcomes:
        for result in outcomes:
            results.append(result)
    return results


def main(address: str, folder: Path) -> None:
    bad = folder / "bad.mp4"
    bad.write_bytes(b"no video")
    paths = [bad, *demo.clips()[:5]]
    requests = [JobRequest(path=str(path), question=question) for path in paths for question in QUESTIONS]
    jobs = make_jobs(requests, "contract")
    clips = list(group_by_clip(jobs))
    results = answered(clips, address, folder)
    assert sorted(result.job.id for result in results) == sorted(job.id for job in jobs)
    assert {result.job.path for result in results if result.error} == {str(bad)}
    assert all((result.answer is None) != (result.error is None) for result in results)
    stopped = answered(clips, address, folder, stop_after=1)
    assert 0 < len({result.job.id for result in stopped}) == len(stopped)
    assert answered(clips, address, folder, stop_after=0) == []


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
