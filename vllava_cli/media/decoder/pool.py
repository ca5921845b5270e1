"""`Pool` reads many files in several guarded processes at a time, ahead of its caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vllava_cli.media.decoder.client import Guard
from vllava_cli.media.decoder.read_ahead import Ahead, Files, K, Read, T
from vllava_cli.media.select import spread
from vllava_cli.nouns import Clip, DecodeLimits, Frames, Framing, VideoRecipe

__all__ = ["Ahead", "Pool", "Read", "default_workers"]

_MAX_WORKERS = 8


def default_workers(cores: int) -> int:
    """One for each physical core, at least 1 and at most 8: that many keep up with any one model.

    More would take memory, and on a spinning disk or a network drive get into each other's way.
    """
    return max(1, min(cores, _MAX_WORKERS))


class Pool:
    """Guards that work side by side, each started with its first file; at the end all are killed, also busy ones.

    `files` is asked in the workers' threads, one at a time, and no further than there is room: it may be endless. It
    shouldn't wait in `sys.stdin.buffer`, which can't be left at the end of a process; `os.read` can.

    Memory: the limit of `DecodeLimits` holds for each child alone, nothing holds their sum. What was measured is
    0.07 GB for a child that reads small clips, 0.2 GB for 1080p and 0.5 GB for 4K: the four of a laptop with 8 GB take
    2 GB there, unless they meet monsters. When RAM runs out, Linux ends a child before any other process; its file is
    read once more by the next one, and only then has a fault. In this process the frames that lie ready take
    `max_bytes`, and those of one clip for each worker beside (0.05 GB of 1080p, 0.2 GB of 4K, until they are fitted).
    """

    def __init__(
        self,
        workers: int,
        limits: DecodeLimits | None = None,
        *,
        max_bytes: int = 256 << 20,
        command: Sequence[str] | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"{workers} workers")
        self._guards = [Guard(limits, command=command) for _ in range(workers)]
        self._max_bytes = max_bytes
        self._aheads: list[Ahead[Any, Any]] = []
        self._recipe: VideoRecipe | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def headers(self, files: Files[K]) -> Ahead[K, Clip]:
        """What each file's header promises, as `header.header` tells it."""
        return self._ahead(files, [guard.header for guard in self._guards])

    def frames(self, files: Files[K], framing: Framing) -> Ahead[K, Frames]:
        """As many frames of each file as the model sees."""
        return self._ahead(files, [partial(self._frames, guard, framing) for guard in self._guards])

    def fit_to(self, recipe: VideoRecipe) -> None:
        """From now on frames are no larger than a model takes them, and its own thread has that much less to do.

        For who has imported torch already: that is too much for threads that are to read ahead.
        """
        self._recipe = recipe

    def close(self) -> None:
        """Ends all processes at once; what was not ready by then never will be."""
        for ahead in self._aheads:
            ahead.stop()
        for guard in self._guards:
            guard.kill()

    def _ahead(self, files: Files[K], readers: Sequence[Callable[[Path], T]]) -> Ahead[K, T]:
        ahead = Ahead(files, readers, max_bytes=self._max_bytes)
        self._aheads.append(ahead)
        return ahead

    def _frames(self, guard: Guard, framing: Framing, path: Path) -> Frames:
        frames = spread(guard.sample(path, framing), framing.fit)
        if self._recipe is None:
            return frames
        from vllava_cli.media.pixels import fitted

        return fitted(frames, self._recipe, fit=framing.fit)
