"""Parts the words of a command line into clips and question, and reads the question from stdin where none is given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

from vllava_cli.errors import UsageError

MEDIA_SUFFIXES = (
    *(".3gp", ".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
    *(".apng", ".avif", ".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"),
)
USAGE = 'vllava ask CLIP... "QUESTION"'


def split_words(words: list[str]) -> tuple[tuple[Path, ...], str | None]:
    """Clips and question; None → the question is to be read from stdin.

    ["a.mp4", "Why?"] → (a.mp4,), "Why?" · ["a.mp4", "-"] → (a.mp4,), None · ["a.mp4"] → (a.mp4,), None
    """
    *first, last = words
    if last == "-":
        clips, question = first, None
    elif names_a_clip(last):
        clips, question = words, None
    else:
        clips, question = first, last
    if not clips:
        raise UsageError(f"No clip was given: {USAGE}.")
    return tuple(Path(clip) for clip in clips), question


def names_a_clip(word: str) -> bool:
    """Whether a word can only be meant as a file: it exists, or is one word that ends like a media file."""
    exists = os.path.exists(word)  # noqa: PTH110  (Path.exists raises for a question longer than a file name)
    return exists or (word.lower().endswith(MEDIA_SUFFIXES) and not any(map(str.isspace, word)))


def question_of(given: str | None, stdin: TextIO) -> str:
    """The question as given, else all of a piped stdin. Errors: UsageError where there is none."""
    if given is None and stdin.isatty():
        raise UsageError(f"No question was given: {USAGE}, or pipe it to stdin.")
    text = stdin.buffer.read().decode("utf-8", "replace") if given is None else given
    if not text.strip():
        raise UsageError("The question is empty: give it as the last argument, or on stdin with -.")
    return text
