"""What the driver makes of what it finds at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.batch.parts import Reading, opened_output, put, rows
from vllava_cli.batch.jobs import Job
from vllava_cli.batch.request import BatchRequest, Destination, Inputs, RayOptions
from vllava_cli.batch.run import run
from vllava_cli.engine.hub import locate
from vllava_cli.nouns import Framing, Sampling, Wishes

CLIPS = ("0.mp4", "1.mp4", "2.mp4")


def request(place: Destination, paths: tuple[str, ...] = CLIPS, *, is_dry: bool = False) -> BatchRequest:
    """An address that nothing answers at: these runs have nothing to ask for."""
    return BatchRequest(
        inputs=Inputs(paths=paths, questions=("Why?",)),
        wishes=Wishes(model="demo"),
        framing=Framing(),
        sampling=Sampling(),
        destination=place,
        ray=RayOptions(address="127.0.0.1:1", allowed=("s3",)),
        is_dry=is_dry,
    )


def jobs_of(place: Destination) -> list[Job]:
    """Those of the request, by way of what a run says of them."""
    from vllava_cli.batch.run import jobs_of as made
    from vllava_cli.batch.run import run_info

    batch = request(place)
    return made(batch, run_info(batch, locate("demo")), Reading().screen())[0]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Destination:
    monkeypatch.chdir(tmp_path)
    return Destination(parts="out")


def test_a_finished_run_has_nothing_to_do_and_asks_no_cluster(place: Destination) -> None:
    with opened_output(place, jobs_of(place)) as parts:
        put(parts, rows(jobs_of(place)))
    reading = Reading()
    assert run(request(place), reading.screen()) == 0
    assert "3 done before and skipped" in reading.said[1]


def test_errors_of_an_earlier_run_are_failures_still(place: Destination) -> None:
    with opened_output(place, jobs_of(place)) as parts:
        put(parts, rows(jobs_of(place), failing=["1.mp4"]))
    reading = Reading()
    assert run(request(place), reading.screen()) == 1
    assert "1 job of 3 failed: 1 in an earlier run. --retry-errors tries it again." in reading.said[1]


def test_a_row_that_is_there_twice_ends_with_the_list_and_1(place: Destination) -> None:
    every = jobs_of(place)
    with opened_output(place, every) as parts:
        put(parts, rows([*every, every[1]]))
    reading = Reading()
    assert run(request(place), reading.screen()) == 1
    assert f"The rows don't match the jobs: 1 with two rows: {every[1].id}." in reading.said[1]


def test_a_dry_run_counts(place: Destination) -> None:
    with opened_output(place, jobs_of(place)) as parts:
        put(parts, rows(jobs_of(place)[:1]))
    reading = Reading()
    assert run(request(place, is_dry=True), reading.screen()) == 0
    assert reading.said[0] == "jobs  3: 2 to answer, 1 done before\n"


def test_a_scheme_that_was_not_named_is_told_before_a_cluster_is_asked(place: Destination) -> None:
    with pytest.raises(Exception, match=r"^https://h/a\.mp4 may not be fetched: add --allow https to permit it\.$"):
        run(request(place, ("https://u:p@h/a.mp4?sig=x",)), Reading().screen())
