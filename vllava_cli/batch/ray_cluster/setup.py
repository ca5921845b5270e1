"""What travels from the driver to the processes of a cluster, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllava_cli.batch.request import Batch
from vllava_cli.batch.rows import About
from vllava_cli.nouns import VideoRecipe

if TYPE_CHECKING:
    from vllava_cli.batch.ray_cluster.resources import Sizes
    from vllava_cli.nouns import Source


@dataclass(frozen=True, kw_only=True)
class Setup:
    """All that is the same for all clips of a run."""

    batch: Batch
    source: Source
    about: About
    longest: int
    """Characters of the longest question."""
    folder: str
    """The driver's own: relative paths begin there on each machine that has it."""
    recipe: VideoRecipe
    """The checkpoint's: what decodes frames makes them as small as the model takes them."""
    allowed: tuple[str, ...]
    """What --allow said."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One pass over a manifest."""

    setup: Setup
    sizes: Sizes
    manifest: str
    """A path or URL that all machines can read."""
    may_end_engines: bool = False
    """Whether engines that end without a word are the clips' doing, as this cluster has answered others."""
