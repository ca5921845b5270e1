"""What comes before the first answer: the clips are read, the model is found, planned and loaded.

Shared by the commands that ask. All that can be refused is refused before a weight is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.importing import Importing
from vllava_cli.nouns import DEMO_MODEL, DecodeLimits, Frames, Framing, MediaKind, Wishes
from vllava_cli.screen import Screen
from vllava_cli.stopwatch import Stopwatch
from vllava_cli.unswept import unswept

if TYPE_CHECKING:
    from vllava_cli.engine.stream import Engine
    from vllava_cli.engine.tokens import Tokens
    from vllava_cli.media.spool import Reader


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Which clips are looked at, through which frames, with which model."""

    clips: tuple[tuple[Path, Framing], ...]
    wishes: Wishes
    limits: DecodeLimits = field(default_factory=DecodeLimits)


def _ignore(_: Path) -> None:
    pass


@unswept()
def prepare(
    opening: Opening, screen: Screen, watch: Stopwatch, *, on_file: Callable[[Path], object] = _ignore
) -> tuple[tuple[Frames, ...], Tokens, float]:
    """The clips' frames, the model's tokenizer, and how long the frames took in seconds. Errors: any VllavaError.

    `watch` gets the parts of all that. `on_file` is called with the file of each clip once its frames are read; that of
    stdin is gone afterwards.
    """
    from vllava_cli.media.spool import Reader

    with Reader(opening.limits) as reader:
        reader.start()
        from vllava_cli.engine.adapter import locate

        for clip, _ in opening.clips:
            reader.check(clip)
        source = locate(opening.wishes, screen.notice, is_quiet=not screen.is_moving)
        watch.lap("finding the model")
        _say_what_to_expect(opening, screen)
        importing = Importing()  # only now: what can be refused at once is refused without it
        media = sampled(reader, opening.clips, screen)
        frames_s = watch.lap("frames")
        for clip, _ in opening.clips:
            on_file(reader.file(clip))
    with screen.waiting("Reading the model's files"):
        importing.wait()
        watch.lap("imports")
        from vllava_cli.engine.checkpoint import describe
        from vllava_cli.engine.tokens import read_tokens

        tokens = read_tokens(describe(source))
        watch.lap("the model's files")
        return media, tokens, frames_s


def read_clips(clips: Sequence[tuple[Path, Framing]], limits: DecodeLimits, screen: Screen) -> tuple[Frames, ...]:
    """The eight frames of each clip, read in a decoding process of their own. Errors: MediaError, UsageError."""
    from vllava_cli.media.spool import Reader

    with Reader(limits) as reader:
        for clip, _ in clips:
            reader.check(clip)
        return sampled(reader, clips, screen)


def start(
    wishes: Wishes,
    tokens: Tokens,
    kinds: Iterable[MediaKind],
    screen: Screen,
    watch: Stopwatch,
    *,
    check: Callable[[Tokens], object],
) -> tuple[Engine, float]:
    """The loaded engine, and how long the weights took in seconds; the plan's reasons are details on the screen.

    `check` is called with the tokens again where memory gives less context than the checkpoint has. Errors: any
    VllavaError.
    """
    return loaded(
        wishes,
        tokens,
        kinds,
        tell=screen.detail,
        notice=screen.notice,
        is_quiet=not screen.is_moving,
        check=check,
        watch=watch,
    )


@unswept()
def loaded(
    wishes: Wishes,
    tokens: Tokens,
    kinds: Iterable[MediaKind],
    *,
    tell: Callable[[str], object],
    notice: Callable[[str], object],
    is_quiet: bool,
    check: Callable[[Tokens], object],
    watch: Stopwatch | None = None,
) -> tuple[Engine, float]:
    """As `start`, in a process that has no screen; `tell` is for details."""
    watch = watch or Stopwatch()
    from vllava_cli.engine import hub
    from vllava_cli.engine.keeping import Store
    from vllava_cli.engine.kept import cache_folder
    from vllava_cli.engine.load import load
    from vllava_cli.engine.yardstick import planned
    from vllava_cli.hardware import probe

    checkpoint = tokens.checkpoint
    kinds = set(kinds)
    chosen = planned(wishes, probe(), checkpoint.seeing(kinds))
    for what, choice, reason in chosen.reasons:
        tell(f"{what}: {choice}. {reason}")
    if tokens.unobeyed:
        tell(f"sampling: the checkpoint's own settings are not obeyed: {', '.join(tokens.unobeyed)}.")
    if chosen.context_tokens:
        tokens = replace(tokens, context_tokens=chosen.context_tokens)
        check(tokens)
    source = hub.Source(model=checkpoint.model, folder=checkpoint.folder, revision=checkpoint.revision)
    watch.lap("planning")
    hub.fetch_weights(source, is_quiet=is_quiet)
    watch.lap("fetching weights")
    store = Store(folder=cache_folder(), notice=notice, detail=tell)
    engine = load(chosen, tokens, kinds, is_quiet=is_quiet, store=store)
    return engine, watch.lap("loading")


def warn_of_many(count: int, screen: Screen) -> None:
    """Says that several clips at once are more than the model was trained for."""
    if count > 1:
        screen.notice(
            "vllava: warning: the model was trained on one clip at a time: about several it may answer poorly."
        )


def sampled(reader: Reader, clips: Sequence[tuple[Path, Framing]], screen: Screen) -> tuple[Frames, ...]:
    """Reads each clip and says what is wrong with it."""
    from vllava_cli.media.pick import spread

    with screen.waiting("Reading frames"):
        media = tuple(spread(reader.sample(clip, framing), framing.fit) for clip, framing in clips)
    for fault in (fault for medium in media for fault in medium.clip.faults):
        screen.notice(fault)
    return media


def _say_what_to_expect(opening: Opening, screen: Screen) -> None:
    if opening.wishes.model == DEMO_MODEL:
        screen.notice(
            "vllava: demo model: tiny, knows only moving shapes, and says nothing about Video-LLaVA's quality."
        )
    warn_of_many(len(opening.clips), screen)
