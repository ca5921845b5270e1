"""What the words of a command line mean together when --ray is among them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from vllava_cli.batch.ray_cluster.ray_request import ClusterBatch, Place
from vllava_cli.batch.ray_cluster.resources import Wanted
from vllava_cli.batch.request import Batch
from vllava_cli.errors import UsageError
from vllava_cli.storage.objects import is_url


@dataclass(frozen=True, kw_only=True)
class Words:
    """Those about a cluster; None was not given."""

    ray: str | None = None
    actors: str | None = None
    gpus_per_actor: float | None = None
    allow: tuple[str, ...] = ()
    output: str | None = None
    format: str | None = None

    def check_absent(self) -> None:
        """Without --ray. Errors: UsageError."""
        given = {"--actors": self.actors, "--gpus-per-actor": self.gpus_per_actor, "--allow": self.allow}
        for flag, value in given.items():
            if value not in (None, ()):
                raise UsageError(f"{flag} is about a cluster: add --ray, or leave it out.")
        if self.output and is_url(self.output):
            raise UsageError(f"{self.output!r} is a URL: rows go there with --ray. Name a file, or add --ray.")
        if self.format == "parquet":
            raise UsageError("--format parquet is written with --ray. Give jsonl, csv or tsv, or add --ray.")


def cluster_of(batch: Batch, words: Words, *, is_listing_fields: bool) -> ClusterBatch:
    """Errors: UsageError for what contradicts --ray, and for an output that is no folder."""
    for flag, is_given, remedy in (
        ("--gpus", bool(batch.devices), "Say how many engines with --actors"),
        ("--shard", batch.shard is not None, "Ray shares the jobs out by itself: leave one of them out"),
        ("--fields", is_listing_fields, "Merge the parts and take the fields with jq"),
        ("--prune", batch.destination.is_pruning, "Merge the parts: rows of clips that have changed are left out"),
    ):
        if is_given:
            raise UsageError(f"{flag} can't be used with --ray. {remedy}.")
    if words.format not in (None, "jsonl", "parquet"):
        raise UsageError(f"--format {words.format} can't be used with --ray: give jsonl or parquet.")
    if not words.output or words.output == "-":
        raise UsageError("--ray writes parts into a folder: name it with -o, a path or a URL such as s3://BUCKET/RUN.")
    destination = batch.destination
    return ClusterBatch(
        batch=batch,
        output=Place(
            name=words.output,
            is_parquet=words.format == "parquet",
            is_retrying=destination.is_retrying,
            is_overwriting=destination.is_overwriting,
        ),
        address=words.ray or "",
        wanted=Wanted(
            actors=_actors(words.actors),
            gpus_per_actor=words.gpus_per_actor,
            decoders=batch.decoders,
            clips=batch.most_rows,
            is_cpu=batch.wishes.device == "cpu",
        ),
        allowed=words.allow,
    )


def _actors(text: str | None) -> int | None:
    if text in (None, "auto"):
        return None
    if text is not None and text.isascii() and text.isdecimal() and 0 < int(text) < 10**6:
        return int(text)
    raise UsageError(f"--actors {text!r} is no number of engines: give 1 or more, or auto.")
