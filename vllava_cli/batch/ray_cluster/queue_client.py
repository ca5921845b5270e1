"""The driver's end of a feed: what it hands out, until it is over, stopped, or gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import vllava_cli
from vllava_cli.batch.ray_cluster.result_queue import Feed, Taken
from vllava_cli.batch.ray_cluster.setup import Task
from vllava_cli.errors import ClusterError

MOST_TAKEN = 1000
"""Rows that are fetched, written and synced at once."""
_AT_ONCE = 8
"""Calls that a feed answers while it waits for rows."""
_HEAD = {"node:__internal_head__": 0.001}
"""The one machine without which there is no cluster either."""


def batches(task: Task, *, is_stopping: Callable[[], bool]) -> Iterator[Taken]:
    """At least one a second or two, with or without rows. Errors: ClusterError where vllava isn't the same there."""
    import ray
    from ray.exceptions import RayError

    feed: Any = ray.remote(Feed).options(num_cpus=0, resources=_HEAD, max_concurrency=_AT_ONCE).remote(task)
    try:
        _check_version(ray.get(feed.version.remote()))
        while not is_stopping():
            taken: Taken = ray.get(feed.take.remote(MOST_TAKEN))
            yield taken
            if taken.is_over:
                return
    except RayError as exc:
        yield Taken(rows=(), is_over=True, fault=_told(exc))
    finally:
        ray.kill(feed)


def _check_version(there: str) -> None:
    here = vllava_cli.__version__
    if there != here:
        raise ClusterError(f"The cluster has vllava {there}, and this is {here}. Install the same one on all machines.")


def _told(error: Exception) -> str:
    """A traceback of another machine as a sentence."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    missing = next((line for line in lines if "ModuleNotFoundError" in line), None)
    if missing:
        return f"The cluster's machines lack something: {missing}. Install vllava[ray] on each of them."
    return f"The process that hands out rows ended: {lines[-1] if lines else type(error).__name__}"
