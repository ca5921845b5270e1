"""What one `vllava batch --ray` was told."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllava_cli.batch.ray_cluster.resources import Wanted
from vllava_cli.batch.request import Batch

LOCAL = "local"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the parts of the output go."""

    name: str
    """A folder, or a URL."""
    is_parquet: bool = False
    is_retrying: bool = False
    is_overwriting: bool = False


@dataclass(frozen=True, kw_only=True)
class ClusterBatch:
    """A batch, and where and how Ray does it."""

    batch: Batch
    output: Place
    address: str = LOCAL
    """"local", "auto", "host:port" or "ray://host:port"."""
    wanted: Wanted = field(default_factory=Wanted)
    allowed: tuple[str, ...] = ()
    """What --allow said."""
