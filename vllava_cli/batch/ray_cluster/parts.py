"""Where the rows of a cluster's batch go: parts in a folder, or objects below a URL, and which have one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from vllava_cli.batch.jobs import Job
from vllava_cli.batch.ray_cluster.part_folder import FolderParts
from vllava_cli.batch.ray_cluster.part_store import StoredParts
from vllava_cli.batch.ray_cluster.ray_request import Place
from vllava_cli.batch.rows import About
from vllava_cli.storage.objects import is_url


class Parts(Protocol):
    """Rows of a run. Errors: OutputError, from each of them."""

    is_kept: bool

    @property
    def before(self) -> Collection[bytes]:
        """The ids that had a row when it was opened."""
        ...

    def is_done(self, job: Job, /) -> bool: ...

    def had_failed(self, job: Job, /) -> bool: ...

    def extend(self, rows: Sequence[Mapping[str, Any]], /) -> None:
        """They outlive this process when it returns; below a URL some seconds later."""
        ...

    def finish(self, jobs: Sequence[Job], /) -> None:
        """What waits is written, and the tables, if they were asked for."""
        ...

    def ids(self) -> Iterable[bytes]:
        """Those of all rows, read again from where they are."""
        ...


@contextmanager
def opened(place: Place, jobs: Sequence[Job], about: About, *, is_dry: bool = False) -> Iterator[Parts]:
    """The output, locked where that can be. Errors: LockedError; OutputError for what is no output of a batch."""
    kind = StoredParts if is_url(place.name) else FolderParts
    parts = kind(place, about)
    try:
        parts.prepare(jobs, is_dry=is_dry)
        yield parts
    finally:
        parts.close()
