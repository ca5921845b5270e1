"""Parts the words of a command line into clips and question, and reads the question from stdin where none is given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

from vllava_cli.errors import UsageError
from vllava_cli.media.file_check import MEDIA_SUFFIXES
from vllava_cli.nouns import STDIN
from vllava_cli.prompt import MAX_QUESTION_BYTES

USAGE = 'vllava ask CLIP... "QUESTION"'


def split_words(words: list[str]) -> tuple[tuple[Path, ...], str | None]:
    """Clips and question; None → the question is to be read from stdin.

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
    return clip_paths(clips), question


def clip_paths(words: list[str]) -> tuple[Path, ...]:
    """["a.mp4", "-"] → (a.mp4, -); "./-" is a file of that name. Errors: UsageError for more than one -."""
    if words.count(STDIN) > 1:
        raise UsageError("stdin, -, was named more than once: it can be read only once. Name it once.")
    paths = (Path(word) for word in words)
    return tuple(
        path.absolute() if path == Path(STDIN) and word != STDIN else path
        for word, path in zip(words, paths, strict=True)
    )


def chat_clips(words: list[str]) -> tuple[Path, ...]:
    """The clips of a chat. Errors: UsageError for -, because questions come from stdin."""
    if STDIN in words:
        raise UsageError("stdin, -, is where a chat's questions come from: save the clip to a file and name that.")
    return tuple(map(Path, words))


def check_stdin(clips: tuple[Path, ...], stdin: TextIO | None) -> None:
    """Raises a UsageError where a clip is to come from stdin, and that is a terminal or closed."""
    if Path(STDIN) in clips and (stdin is None or stdin.isatty()):
        raise UsageError(
            "- reads a clip from stdin, which is not a pipe here: cat clip.mp4 | vllava …, or name a file."
        )


def names_a_clip(word: str) -> bool:
    """Say whether a word can only be meant as a file: it exists, or is one word that ends like a media file."""
    exists = os.path.exists(word)
    return exists or (word.lower().endswith(MEDIA_SUFFIXES) and not any(map(str.isspace, word)))


def question_of(given: str | None, stdin: TextIO | None) -> str:
    """The question as given, else all of a piped stdin. Errors: UsageError where there is none, or too much."""
    if given is None and (stdin is None or stdin.isatty()):
        raise UsageError(f"No question was given: {USAGE}, or pipe it to stdin.")
    data = stdin.buffer.read(MAX_QUESTION_BYTES + 1) if given is None and stdin else b""
    if len(data) > MAX_QUESTION_BYTES:
        raise UsageError(f"The question on stdin is longer than {MAX_QUESTION_BYTES >> 20} MiB: give a shorter one.")
    text = data.decode("utf-8", "replace") if given is None else given
    if not text.strip():
        raise UsageError("The question is empty: give it as the last argument, or on stdin with -.")
    return text
