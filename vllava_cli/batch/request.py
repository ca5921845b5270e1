"""What one `vllava batch` was told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vllava_cli.batch.jobs import Shard
from vllava_cli.batch.output import Destination
from vllava_cli.nouns import DecodeLimits, Framing, Sampling, Wishes


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Where jobs come from: paths and questions, or a file that has both."""

    paths: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    jobs: Path | None = None
    videos: Path | None = None
    """The folder of the clips that a jobs file names."""
    is_recursive: bool = False
    is_null: bool = False
    """Paths on stdin end with NUL instead of a line break."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one `vllava batch` was told."""

    inputs: Inputs
    wishes: Wishes
    framing: Framing
    sampling: Sampling
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    destination: Destination = field(default_factory=Destination)
    most_rows: int | None = None
    """How many questions are answered at once; None decides by the memory."""
    decoders: int | None = None
    devices: tuple[str, ...] = ()
    """One worker process for each; none is the plan's own device, in this process."""
    shard: Shard | None = None
    is_failing_fast: bool = False
    is_dry: bool = False
    has_stats: bool = False
    is_hashing: bool = False
    """Rows have the SHA-256 of their clips."""
