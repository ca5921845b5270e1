"""Start-up before the first answer: clips are read, the model is found, planned and loaded.

All commands that ask share it. Faults of files, model and prompt are found before a weight is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.imports import gc_paused, import_in_background
from vllava_cli.nouns import DEMO_MODEL, DecodeLimits, Frames, Framing, Log, MediaKind, Wishes
from vllava_cli.screen import Screen
from vllava_cli.times import Stopwatch

if TYPE_CHECKING:
    from vllava_cli.engine.generate import Engine
    from vllava_cli.engine.tokens import Tokens
    from vllava_cli.media.decoder.stdin_file import Reader


@gc_paused()
def prepare(
    clips: Sequence[tuple[Path, Framing]],
    wishes: Wishes,
    *,
    limits: DecodeLimits,
    screen: Screen,
    watch: Stopwatch,
    on_file: Callable[[Path], object] = lambda _: None,
) -> tuple[tuple[Frames, ...], Tokens, float]:
    """Returns the clips' frames, the model's tokenizer, and how long the frames took in seconds.

    `watch` gets the parts of all that. `on_file` is called with the file of each clip once its frames are read; that of
    stdin is gone afterwards. Errors: any VllavaError.
    """
    from vllava_cli.media.decoder.stdin_file import Reader

    with Reader(limits) as reader:
        reader.start()
        from vllava_cli.engine.adapter import locate

        for clip, _ in clips:
            reader.check(clip)
        source = locate(wishes, screen.log)
        watch.lap("finding the model")
        warn_of_demo(wishes.model, screen)
        warn_of_many(len(clips), screen)
        wait_for_imports = import_in_background()  # only now: what can be refused at once is refused without it
        media = sampled(reader, clips, screen)
        frames_s = watch.lap("frames")
        for clip, _ in clips:
            on_file(reader.file(clip))
    with screen.waiting("Reading the model's files"):
        wait_for_imports()
        watch.lap("imports")
        from vllava_cli.engine.checkpoint import describe
        from vllava_cli.engine.tokens import read_tokens

        tokens = read_tokens(describe(source))
        watch.lap("the model's files")
        return media, tokens, frames_s


def read_clips(clips: Sequence[tuple[Path, Framing]], limits: DecodeLimits, screen: Screen) -> tuple[Frames, ...]:
    """Reads the eight frames of each clip in a decoding process of their own. Errors: MediaError, UsageError."""
    from vllava_cli.media.decoder.stdin_file import Reader

    with Reader(limits) as reader:
        for clip, _ in clips:
            reader.check(clip)
        return sampled(reader, clips, screen)


@gc_paused()
def start(
    wishes: Wishes,
    tokens: Tokens,
    kinds: Iterable[MediaKind],
    log: Log,
    watch: Stopwatch,
    *,
    check: Callable[[Tokens], object],
) -> tuple[Engine, float]:
    """Returns the loaded engine, and how long the weights took in seconds; the log gets the plan's reasons.

    `check` is called with the tokens again where memory gives less context than the checkpoint has. Errors: any
    VllavaError.
    """
    from vllava_cli.engine import hub
    from vllava_cli.engine.device_speed import planned
    from vllava_cli.engine.load import load
    from vllava_cli.engine.weight_cache import WeightCache, cache_folder
    from vllava_cli.hardware import probe

    checkpoint = tokens.checkpoint
    kinds = set(kinds)
    chosen = planned(wishes, probe(), checkpoint.seeing(kinds))
    for what, choice, reason in chosen.reasons:
        log.detail(f"{what}: {choice}. {reason}")
    if tokens.unobeyed:
        log.detail(f"sampling: the checkpoint's own settings are not obeyed: {', '.join(tokens.unobeyed)}.")
    if chosen.context_tokens:
        tokens = replace(tokens, context_tokens=chosen.context_tokens)
        check(tokens)
    watch.lap("planning")
    hub.fetch_weights(checkpoint, log=log)
    watch.lap("fetching weights")
    cache = WeightCache(folder=cache_folder(), log=log)
    engine = load(chosen, tokens, kinds, log=log, cache=cache)
    return engine, watch.lap("loading")


def warn_of_demo(model: str, screen: Screen) -> None:
    """Says that the demo model is no measure of Video-LLaVA."""
    if model == DEMO_MODEL:
        screen.notice(
            "vllava: demo model: tiny, knows only moving shapes, and says nothing about Video-LLaVA's quality."
        )


def warn_of_many(count: int, screen: Screen) -> None:
    """Says that several clips at once are more than the model was trained for."""
    if count > 1:
        screen.notice(
            "vllava: warning: the model was trained on one clip at a time: about several it may answer poorly."
        )


def sampled(reader: Reader, clips: Sequence[tuple[Path, Framing]], screen: Screen) -> tuple[Frames, ...]:
    """Reads each clip and says what is wrong with it."""
    from vllava_cli.media.select import spread

    with screen.waiting("Reading frames"):
        media = tuple(spread(reader.sample(clip, framing), framing.fit) for clip, framing in clips)
    for fault in (fault for medium in media for fault in medium.clip.faults):
        screen.notice(fault)
    return media
