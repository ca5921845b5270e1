"""Prepares the first answer: turns words into clips and a question, reads the clips, finds and loads the model.

Several commands share these functions. Faults of files, model and prompt are found before a weight is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from vllava_cli.answers import Conversation
from vllava_cli.commands.asked import AnswerForm
from vllava_cli.errors import DamagedError, MediaError, OutputError, StdoutError, UsageError
from vllava_cli.imports import MODEL_MODULES, gc_paused, import_in_background
from vllava_cli.interrupt import Cancel, CancelError, sigint_flag
from vllava_cli.media.file_check import MEDIA_SUFFIXES
from vllava_cli.nouns import (
    DEMO_MODEL,
    STDIN,
    DecodeLimits,
    Frames,
    Framing,
    Log,
    MediaKind,
    Subs,
    Wishes,
)
from vllava_cli.prompt import MAX_QUESTION_BYTES
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import json_of
from vllava_cli.times import Activity, Stopwatch

if TYPE_CHECKING:
    from vllava_cli.engine.answering import AskEngine
    from vllava_cli.engine.generate import Engine
    from vllava_cli.engine.tokens import Tokens
    from vllava_cli.media.decoder.stdin_file import Reader

USAGE = 'vllava ask CLIP... "QUESTION"'


def split_words(words: list[str], stdin: TextIO | None) -> tuple[tuple[Path, ...], str | None]:
    """Splits words into clips and a question; the question is None if it is to be read from stdin. Errors: UsageError.

    ["a.mp4", "Why?"] → (a.mp4,), "Why?" · ["a.mp4", "-"] → (a.mp4,), None · ["a.mp4"] → (a.mp4,), None ·
    ["-", "Why?"] → (-,), "Why?": the clip is on stdin
    """
    *first, last = words
    if last == STDIN:
        clips, question = first, None
    elif names_a_clip(last):
        clips, question = words, None
    else:
        clips, question = first, last
    if not clips and words == [STDIN]:
        raise UsageError(f"- alone is a clip without a question, or a question without a clip: {USAGE}.")
    if not clips:
        raise UsageError(f"No clip was given: {USAGE}.")
    if question is None and STDIN in clips:
        raise UsageError("stdin can't be the clip and the question too: give the question as the last argument.")
    return clip_paths(clips, stdin), question


def clip_paths(words: list[str], stdin: TextIO | None) -> tuple[Path, ...]:
    """Turns words into paths: ["a.mp4", "-"] → (a.mp4, -). - is stdin; "./-" is a file named "-".

    Errors: UsageError for more than one -, or if stdin is a terminal or closed.
    """
    if words.count(STDIN) > 1:
        raise UsageError("stdin, -, was named more than once: it can be read only once. Name it once.")
    if STDIN in words and (stdin is None or stdin.isatty()):
        raise UsageError(
            "- reads a clip from stdin, which is not a pipe here: cat clip.mp4 | vllava …, or name a file."
        )
    return tuple(Path(word).absolute() if word != STDIN and Path(word) == Path(STDIN) else Path(word) for word in words)


def chat_clips(words: list[str]) -> tuple[Path, ...]:
    """Turns words into the paths of a chat's clips. Errors: UsageError for -, because questions come from stdin."""
    if STDIN in words:
        raise UsageError("stdin, -, is where a chat's questions come from: save the clip to a file and name that.")
    return tuple(map(Path, words))


def names_a_clip(word: str) -> bool:
    """Returns True if a word must mean a clip: such a file exists, or it is one word that ends like a media file."""
    exists = os.path.exists(word)
    return exists or (word.lower().endswith(MEDIA_SUFFIXES) and not any(map(str.isspace, word)))


def question_of(given: str | None, stdin: TextIO | None) -> str:
    """Returns the given question, else all text of a piped stdin. Errors: UsageError if there is none, or too much."""
    if given is None and (stdin is None or stdin.isatty()):
        raise UsageError(f"No question was given: {USAGE}, or pipe it to stdin.")
    data = stdin.buffer.read(MAX_QUESTION_BYTES + 1) if given is None and stdin else b""
    if len(data) > MAX_QUESTION_BYTES:
        raise UsageError(f"The question on stdin is longer than {MAX_QUESTION_BYTES >> 20} MiB: give a shorter one.")
    text = data.decode("utf-8", "replace") if given is None else given
    if not text.strip():
        raise UsageError("The question is empty: give it as the last argument, or on stdin with -.")
    return text


def for_each(clips: Iterable[Path], do: Callable[[Path], None], screen: Screen, *, is_json: bool) -> int:
    """Calls `do` with each clip. A clip that can't be read or written is reported, and the next one follows.

    Returns 1 if a clip was reported, else 0. Errors: those of stdout; those of `do` except MediaError and OutputError.
    """
    failures = 0
    for clip in clips:
        try:
            do(clip)
        except StdoutError:
            raise
        except (MediaError, OutputError) as exc:
            failures += 1
            if is_json:
                is_damaged = isinstance(exc, DamagedError)
                screen.answer(json_of({"path": str(clip), "error": str(exc), "is_damaged": is_damaged}) + "\n")
            screen.error(str(exc))
    return 1 if failures else 0


@gc_paused()
def prepare(
    clips: Sequence[tuple[Path, Framing]],
    wishes: Wishes,
    *,
    limits: DecodeLimits,
    screen: Screen,
    watch: Stopwatch,
    on_file: Callable[[Path], object] = lambda _: None,
    shifts: Sequence[float] = (0.0,),
    subs: Subs | None = None,
    modules: Sequence[str] = MODEL_MODULES,
    copy: Path | None = None,
) -> tuple[tuple[Frames, ...], Tokens, float]:
    """Returns the clips' frames, the model's tokenizer, and how long reading the frames took in seconds.

    A clip has frames for each of the `shifts`, one after another. With `subs`, they come with what is spoken meanwhile.
    `watch` measures each part; `modules` are imported while frames are read. `on_file` is called with each clip's file
    after that; the temporary file that holds stdin is deleted before `prepare` returns; `copy` is such a file of the
    caller's.

    Errors: any VllavaError.
    """
    from vllava_cli.media.decoder.stdin_file import Reader

    with Reader(limits, copy=copy) as reader:
        reader.start()
        from vllava_cli.engine.adapter import locate

        for clip, _ in clips:
            reader.check(clip)
        source = locate(wishes, screen.log)
        watch.lap("finding the model")
        warn_of_demo(wishes.model, screen)
        warn_of_many(len(clips), screen)
        wait_for_imports = import_in_background(modules)  # a command that the checks above refuse needs none
        media = shifted(reader, clips, shifts, subs, screen)
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
    """Reads the eight frames of each clip in a new decoding process. Errors: MediaError, UsageError."""
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
    has_clip_cache: bool = False,
    conversation: Conversation | None = None,
) -> tuple[Engine, float]:
    """Returns the loaded engine, and how long loading took in seconds; the log gets the plan's reasons.

    If memory allows only a shorter context than the checkpoint's, `check` is called with tokens that have that context.
    If the clip cache has all clips of the conversation, no tower is loaded before another clip comes. Errors: any
    VllavaError.
    """
    from vllava_cli.engine import hub
    from vllava_cli.engine.clip_cache import ClipCache, limit_bytes
    from vllava_cli.engine.device_speed import planned
    from vllava_cli.engine.load import load
    from vllava_cli.engine.weight_cache import WeightCache, cache_folder
    from vllava_cli.hardware import probe

    checkpoint = tokens.checkpoint
    kinds, clips_bytes = set(kinds), limit_bytes() if has_clip_cache else 0
    with log.progress(lambda: ["looking at this machine"]):
        chosen = planned(wishes, probe(), checkpoint.seeing(kinds))
    for what, choice, reason in chosen.reasons:
        log.detail(f"{what}: {choice}. {reason}")
    if tokens.unobeyed:
        log.detail(f"sampling: these settings of the checkpoint are ignored: {', '.join(tokens.unobeyed)}.")
    if chosen.context_tokens:
        tokens = replace(tokens, context_tokens=chosen.context_tokens)
        check(tokens)
    watch.lap("planning")
    hub.fetch_weights(checkpoint, log=log)
    watch.lap("fetching weights")
    cache = WeightCache(folder=cache_folder(), log=log)
    clips = ClipCache.of(chosen, tokens, most_bytes=clips_bytes, log=log)
    if clips and conversation and clips.has_all(conversation):
        kinds = set()
    engine = load(chosen, tokens, kinds, log=log, cache=cache)
    engine.clips = clips
    return engine, watch.lap("loading")


def warn_of_demo(model: str, screen: Screen) -> None:
    """Prints, if `model` is the demo model, that its answers say nothing about Video-LLaVA's quality."""
    if model == DEMO_MODEL:
        screen.notice(
            "vllava: demo model: tiny, knows only moving shapes, and says nothing about Video-LLaVA's quality."
        )


def warn_of_many(count: int, screen: Screen) -> None:
    """Warns, if there are several clips, that the model was trained on one clip at a time."""
    if count > 1:
        screen.notice(
            "vllava: warning: the model was trained on one clip at a time, so answers about several may be poor."
        )


def sampled(reader: Reader, clips: Sequence[tuple[Path, Framing]], screen: Screen) -> tuple[Frames, ...]:
    """Reads the frames of each clip, and prints the remarks about the clips."""
    from vllava_cli.media.select import spread

    with screen.waiting("Reading frames"):
        media = tuple(spread(reader.sample(clip, framing), framing.fit) for clip, framing in clips)
    told = {(medium.clip.path, remark): None for medium in media for remark in medium.clip.remarks}
    for _, remark in told:
        screen.notice(remark)
    for medium in media:
        if medium.reasons:
            pairs = zip(medium.times_s, medium.reasons, strict=True)
            shown = ", ".join(f"{time_s:.2f} s ({reason})" for time_s, reason in pairs)
            screen.detail(f"Frames of {medium.clip.path}: {shown}.")
    return media


def shifted(
    reader: Reader, clips: Sequence[tuple[Path, Framing]], shifts: Sequence[float], subs: Subs | None, screen: Screen
) -> tuple[Frames, ...]:
    """Reads the frames of each clip for each of the shifts; with `subs`, they come with what is spoken meanwhile."""
    samples = [(clip, replace(framing, shift=shift)) for clip, framing in clips for shift in shifts]
    media = sampled(reader, samples, screen)
    if not subs:
        return media
    return tuple(_heard(reader, frames, *clip, subs) for frames, clip in zip(media, samples, strict=True))


def _heard(reader: Reader, frames: Frames, clip: Path, framing: Framing, subs: Subs) -> Frames:
    """Adds the lines that are spoken in the part of a clip that is shown."""
    from vllava_cli.media.decoder.subtitle_shelf import SubtitleShelf
    from vllava_cli.media.timeline.spoken import Passage, span_of

    sidecar = subs if isinstance(subs, Path) else reader.beside(clip)
    start_s, end_s = span_of(framing)
    passage = Passage(sidecar=sidecar, start_s=start_s, end_s=end_s)
    return SubtitleShelf().heard(reader, frames, clip, passage)


def cut_notice(characters: int, answers: int = 1) -> str:
    """Says that subtitles were too long for the model's context."""
    whose = "the answer" if answers == 1 else f"{answers:,} answers"
    return f"vllava: the context had no room for {characters:,} characters of subtitles, which {whose} came without."


def keep_clips(engine: AskEngine, screen: Screen) -> None:
    """Lets the engine write what it read of the clips, for later processes; Ctrl-C ends that."""
    with sigint_flag() as is_interrupted, suppress(CancelError), screen.waiting("Keeping what was read of the clip"):
        engine.keep_clips(Cancel(is_interrupted))


def show(texts: Iterator[str], screen: Screen, form: AnswerForm, activity: Activity) -> None:
    """Waits for an answer to end; if `form` is "stream", prints its texts as they come."""
    with screen.progress(lambda: [activity.text, "Ctrl-C stops"], is_shared=False):
        first = next(texts, "")
    for text in chain([first], texts):
        if form == "stream":
            screen.answer(text)
