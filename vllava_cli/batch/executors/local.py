"""An engine of this process and the line that feeds it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from vllava_cli.batch.pipeline import Line, Reads
from vllava_cli.batch.request import Batch
from vllava_cli.commands.start import start
from vllava_cli.imports import gc_paused
from vllava_cli.media.fingerprint import Hashing
from vllava_cli.nouns import Log, MediaKind, Wishes
from vllava_cli.times import Stopwatch

if TYPE_CHECKING:
    from vllava_cli.engine.generate import Engine
    from vllava_cli.engine.tokens import Tokens
    from vllava_cli.nouns import Source


@gc_paused()
def import_engine() -> None:
    """The seconds that torch and transformers take, spent where the caller has nothing else to do.

    Decoders want the same cores. Threads that spin while they wait for each other then make a pass take twenty times as
    long, so they are told to sleep, which must be said before the library is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import vllava_cli.engine.batch
    import vllava_cli.engine.load  # noqa: F401


@gc_paused()
def read_tokens(source: Source) -> Tokens:
    """Errors: CheckpointError."""
    from vllava_cli.engine import tokens
    from vllava_cli.engine.checkpoint import describe

    return tokens.read_tokens(describe(source))


def load(
    wishes: Wishes,
    tokens: Tokens,
    kinds: Iterable[MediaKind],
    *,
    tell: Callable[[str], object],
    notice: Callable[[str], object],
    is_quiet: bool,
    watch: Stopwatch | None = None,
) -> tuple[Engine, float]:
    """The engine, and how long the weights took in seconds. Errors: any VllavaError.

    That memory gives less context than the checkpoint has is no reason to refuse: what doesn't fit becomes a row.
    """

    def accept(_: Tokens) -> None:
        pass

    log = Log(notice=notice, detail=tell, has_bars=not is_quiet)
    return start(wishes, tokens, kinds, log, watch or Stopwatch(), check=accept)


def line(
    engine: Engine,
    ahead: Reads,
    batch: Batch,
    *,
    longest: int,
    is_stopping: Callable[[], bool],
    tell: Callable[[str], object],
) -> Line:
    """`longest` is the number of characters of the longest question."""
    from vllava_cli.engine.batch import rows_that_fit

    most_rows = batch.most_rows or rows_that_fit(engine, batch.sampling, question_characters=longest)
    return Line(
        engine=engine,
        ahead=ahead,
        sampling=batch.sampling,
        framing=batch.framing,
        most_rows=most_rows,
        is_stopping=is_stopping,
        tell=tell,
        hashing=Hashing() if batch.is_hashing else None,
    )
