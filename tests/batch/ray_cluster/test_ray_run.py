"""What the driver makes of what it finds at the end."""

from __future__ import annotations

import pytest

from tests.batch.parts import Reading, batch_of, opened_output, put, rows
from vllava_cli.batch.request import BatchRequest, Destination, Inputs, RayOptions
from vllava_cli.batch.run import jobs_of, run, run_info
from vllava_cli.engine.hub import locate

pytestmark = pytest.mark.usefixtures("in_a_folder")
CLIPS = ("0.mp4", "1.mp4", "2.mp4")
PLACE = Destination(parts="out")


def request(paths: tuple[str, ...] = CLIPS, *, is_dry: bool = False) -> BatchRequest:
    """An address that nothing answers at: these runs have nothing to ask for."""
    return batch_of(
        inputs=Inputs(paths=paths, questions=("Why?",)),
        destination=PLACE,
        ray=RayOptions(address="127.0.0.1:1", allowed=("s3",)),
        is_dry=is_dry,
    )


@pytest.mark.parametrize(
    ("numbers", "failing", "is_dry", "code", "said"),
    [
        ((0, 1, 2), (), False, 0, "3 done before and skipped"),
        ((0, 1, 2), ("1.mp4",), False, 1, "1 job of 3 failed: 1 in an earlier run. --retry-errors tries it again."),
        ((0, 1, 2, 1), (), False, 1, "The rows don't match the jobs: 1 with two rows: {}."),
        ((0,), (), True, 0, "jobs  3: 2 to answer, 1 done before\n"),
    ],
    ids=["finished", "an error", "a row twice", "dry"],
)
def test_a_run_with_nothing_to_do_asks_no_cluster(
    numbers: tuple[int, ...], failing: tuple[str, ...], is_dry: bool, code: int, said: str
) -> None:
    batch = request(is_dry=is_dry)
    every, _ = jobs_of(batch, run_info(batch, locate("demo")), Reading().screen())
    with opened_output(PLACE, every) as parts:
        put(parts, rows([every[number] for number in numbers], failing=failing))
    reading = Reading()
    assert run(batch, reading.screen()) == code
    assert said.format(every[1].id) in "".join(reading.said)


def test_a_scheme_that_was_not_named_is_told_before_a_cluster_is_asked() -> None:
    with pytest.raises(Exception, match=r"^https://h/a\.mp4 may not be fetched: add --allow https to permit it\.$"):
        run(request(("https://u:p@h/a.mp4?sig=x",)), Reading().screen())
