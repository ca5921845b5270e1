"""What --ray may stand beside."""

from pathlib import Path

import pytest

from vllava_cli.batch.jobs import Shard
from vllava_cli.batch.output import Destination
from vllava_cli.batch.ray_cluster.ray_arguments import Words, cluster_of
from vllava_cli.batch.ray_cluster.ray_request import ClusterBatch, Place
from vllava_cli.batch.ray_cluster.resources import Wanted
from vllava_cli.batch.request import Batch, Inputs
from vllava_cli.errors import UsageError
from vllava_cli.nouns import Framing, Sampling, Wishes

INPUTS = Inputs(paths=("a.mp4",), questions=("Why?",))


def batch(
    *, destination: Destination | None = None, devices: tuple[str, ...] = (), shard: Shard | None = None
) -> Batch:
    return Batch(
        inputs=INPUTS,
        wishes=Wishes(device="cpu"),
        framing=Framing(),
        sampling=Sampling(),
        destination=destination or Destination(),
        most_rows=3,
        decoders=5,
        devices=devices,
        shard=shard,
    )


def test_all_that_is_said_of_a_cluster_is_one_request() -> None:
    plain = batch(destination=Destination(path=Path("x"), is_retrying=True))
    words = Words(
        ray="head:6379",
        actors="4",
        gpus_per_actor=0.5,
        allow=("s3,https",),
        output="s3://bucket/run",
        format="parquet",
    )
    assert cluster_of(plain, words, is_listing_fields=False) == ClusterBatch(
        batch=plain,
        output=Place(name="s3://bucket/run", is_parquet=True, is_retrying=True),
        address="head:6379",
        wanted=Wanted(actors=4, gpus_per_actor=0.5, decoders=5, clips=3, is_cpu=True),
        allowed=("s3,https",),
    )


@pytest.mark.parametrize(
    ("plain", "words", "said"),
    [
        (batch(devices=("all",)), Words(), "--gpus can't be used with --ray. Say how many engines with --actors."),
        (
            batch(shard=Shard(number=1, of=2)),
            Words(),
            "--shard can't be used with --ray. Ray shares the jobs out by itself: leave one of them out.",
        ),
        (
            batch(destination=Destination(path=Path("x"), is_pruning=True)),
            Words(output="out"),
            "--prune can't be used with --ray. Merge the parts: rows of clips that have changed are left out.",
        ),
        (batch(), Words(output="out", format="csv"), "--format csv can't be used with --ray: give jsonl or parquet."),
        (
            batch(),
            Words(),
            "--ray writes parts into a folder: name it with -o, a path or a URL such as s3://BUCKET/RUN.",
        ),
        (
            batch(),
            Words(output="-"),
            "--ray writes parts into a folder: name it with -o, a path or a URL such as s3://BUCKET/RUN.",
        ),
        (batch(), Words(output="out", actors="0"), "--actors '0' is no number of engines: give 1 or more, or auto."),
        (batch(), Words(output="out", actors="x"), "--actors 'x' is no number of engines: give 1 or more, or auto."),
    ],
)
def test_what_contradicts_a_cluster_is_refused(plain: Batch, words: Words, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        cluster_of(plain, words, is_listing_fields=False)
    assert str(caught.value) == said


def test_fields_are_taken_from_the_merged_file() -> None:
    with pytest.raises(UsageError, match=r"--fields can't be used with --ray\. Merge the parts"):
        cluster_of(batch(), Words(output="out"), is_listing_fields=True)


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (Words(actors="2"), "--actors"),
        (Words(gpus_per_actor=0.0), "--gpus-per-actor"),
        (Words(allow=("s3",)), "--allow"),
        (Words(format="parquet"), "--format parquet"),
        (Words(output="s3://bucket/run"), "'s3://bucket/run' is a URL: rows go there"),
    ],
)
def test_what_is_about_a_cluster_needs_one(words: Words, flag: str) -> None:
    with pytest.raises(UsageError, match=f"^{flag} "):
        words.check_absent()
    Words(output="out", format="csv").check_absent()
